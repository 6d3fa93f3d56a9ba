"""Real S3 servers, one of each kind for a whole run, and stores on them that share no key."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvback.model import S3Address
from pvback.s3_options import S3Options
from pvback.storage import ObjectStore, open_store
from tests.support.s3_servers import BUCKET, S3Server, minio, moto, rclone

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.s3)


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


def server_named(request: pytest.FixtureRequest, name: str) -> S3Server:
    """The running server; started by the first who asks."""
    server = request.getfixturevalue(f"{name}_server")
    assert isinstance(server, S3Server)
    return server


def use_credentials(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    """The environment of a client of this server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def new_address(server: S3Server) -> S3Address:
    """A prefix that nobody else uses."""
    return S3Address(BUCKET, f"t/{secrets.token_hex(8)}", server.endpoint)


def store_on(server: S3Server, **options: object) -> ObjectStore:
    """A store under a prefix of its own."""
    made = S3Options(ca_bundle=server.ca_bundle, **options)  # type: ignore[arg-type] # fields by name
    return open_store(new_address(server), s3=made)


@pytest.fixture
def service(minio_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The most complete server, with its credentials in the environment."""
    use_credentials(monkeypatch, minio_server)
    return minio_server
