"""Connecting a namespace: what its movers are told, what stays when it is connected anew, what fails."""

import base64
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pvback.cluster.kinds import SECRET, Body, Kind
from pvback.config import load_config
from pvback.errors import ClusterRefusal, ConflictError
from pvback.model import S3Address
from pvback.ops.claim_connect import ConnectOptions, connect_namespace
from pvback.repository.keys import list_keys
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import add_scope
from pvback.s3_options import S3Options
from tests.support.cluster_objects import Objects

NAME = "pvback-repository"
OPTIONS = ConnectOptions(secret=NAME, cluster="prod", scope="team", image="i:1", credentials=b"[default]\n")
EVERYTHING = S3Options(
    region="eu-1",
    profile="mine",
    addressing="path",
    ca_bundle=Path("/here/ca.pem"),
    storage_class=(("data", "STANDARD_IA"), ("meta", "STANDARD")),
    sse="aws:kms",
    sse_kms_key_id="key-1",
    object_lock=30 * 86400,
    object_lock_mode="compliance",
    multipart_bytes=200 << 20,
    part_bytes=20 << 20,
    part_parallel=3,
    connections=7,
    connect_seconds=4.5,
    read_seconds=11.0,
    retry_seconds=70.0,
    list_lag_seconds=2.5,
)


class Refusing(Objects):
    """A cluster that takes no secrets."""

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        raise ClusterRefusal("secrets are forbidden")


@pytest.fixture
def owner(local_owner: RepositoryAccess) -> RepositoryAccess:
    # Pods reach no folder; the objects of this one lie there all the same.
    return in_service(add_scope(local_owner, "team"))


def in_service(access: RepositoryAccess, **more: Any) -> RepositoryAccess:
    config = replace(access.config, repository=S3Address("bucket", "prefix", "https://s3.example"), **more)
    return replace(access, config=config)


def files(cluster: Objects, namespace: str = "shop") -> dict[str, bytes]:
    data = cluster.get(SECRET, NAME, namespace=namespace)["data"]
    return {name: base64.b64decode(value) for name, value in data.items()}


def settings(cluster: Objects) -> dict[str, Any]:
    return tomllib.loads(files(cluster)["config.toml"].decode())


def test_movers_get_every_option_of_the_store(owner: RepositoryAccess, tmp_path: Path) -> None:
    for one in fields(S3Options):
        assert one.name == "checksums" or getattr(EVERYTHING, one.name) != one.default, one.name
    cluster = Objects()
    connect_namespace(
        cluster, in_service(owner, s3=EVERYTHING), namespace="shop", options=replace(OPTIONS, ca=b"pem")
    )
    path = tmp_path / "config.toml"
    path.write_bytes(files(cluster)["config.toml"])
    told = load_config(environment={"PVBACK_CONFIG": str(path), "HOME": str(tmp_path)})
    ours = replace(EVERYTHING, profile=None, ca_bundle=Path("/run/pvback/repository/ca.crt"))
    assert told.s3 == ours
    assert told.repository == S3Address("bucket", "prefix", "https://s3.example")


def test_a_service_that_takes_no_checksums(owner: RepositoryAccess) -> None:
    cluster = Objects()
    connect_namespace(
        cluster, in_service(owner, s3=S3Options(checksums=False)), namespace="shop", options=OPTIONS
    )
    assert settings(cluster)["s3"] == {"checksums": "False"}


def test_a_second_connection_is_refused(owner: RepositoryAccess) -> None:
    cluster = Objects()
    made = connect_namespace(cluster, owner, namespace="shop", options=OPTIONS)
    assert made.scope == "team"
    before = len(list_keys(owner))
    with pytest.raises(ConflictError, match="connected already"):
        connect_namespace(cluster, owner, namespace="shop", options=OPTIONS)
    assert len(list_keys(owner)) == before


def test_what_is_not_said_anew_stays(owner: RepositoryAccess) -> None:
    cluster = Objects()
    first = replace(OPTIONS, endpoint="https://inside.example", ca=b"pem")
    made = connect_namespace(cluster, owner, namespace="shop", options=first)
    before = files(cluster)
    again = connect_namespace(
        cluster, owner, namespace="shop", options=ConnectOptions(secret=NAME, replace=True)
    )
    after = files(cluster)
    assert again.principal != made.principal
    assert before.pop("key") != after.pop("key")
    assert before == after
    changed = ConnectOptions(secret=NAME, replace=True, image="i:2", endpoint="https://other.example")
    connect_namespace(cluster, owner, namespace="shop", options=changed)
    assert files(cluster)["image"] == b"i:2"
    assert files(cluster)["credentials"] == OPTIONS.credentials
    assert settings(cluster)["s3_endpoint"] == "https://other.example"


def test_an_endpoint_is_kept_for_the_same_repository_only(owner: RepositoryAccess) -> None:
    cluster = Objects()
    connect_namespace(
        cluster, owner, namespace="shop", options=replace(OPTIONS, endpoint="https://inside.example")
    )
    elsewhere = replace(
        owner, config=replace(owner.config, repository=S3Address("other", "", "https://b.example"))
    )
    connect_namespace(cluster, elsewhere, namespace="shop", options=ConnectOptions(secret=NAME, replace=True))
    assert settings(cluster)["s3_endpoint"] == "https://b.example"


def test_a_key_whose_secret_is_not_stored_is_removed(owner: RepositoryAccess) -> None:
    before = {one.principal for one in list_keys(owner)}
    with pytest.raises(ClusterRefusal):
        connect_namespace(Refusing(), owner, namespace="shop", options=OPTIONS)
    assert {one.principal for one in list_keys(owner)} == before
