"""Real S3 servers that nobody here wrote, each started for the tests on loopback with credentials of its own.

`minio` is built from its Go module by `make servers`; `rclone` and `moto` are Python packages. A server that
cannot be had fails the tests that want it: `make test-s3` says so before.

Run as a program, builds what has to be built and prints where it is.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from tests.support.go import BUILD, go

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
BUCKET = "pvback-test"
_MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
MINIO_MODULE = "github.com/minio/minio"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A server that answers, and how to speak to it."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    ca_bundle: Path | None = None
    region: str = "us-east-1"
    others: Mapping[str, "S3Server"] = field(default_factory=dict, repr=False)
    """The same server with the credentials of others, by name."""

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds its credentials by; nothing of the machine's own settings."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }


def tools_dir() -> Path:
    """Where built servers are kept, outside the tree."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pvback" / "tools"


def find_minio() -> Path:
    """The built server. Raises FileNotFoundError that says how to get it."""
    program = tools_dir() / f"minio-{MINIO_VERSION}" / "minio"
    if not os.access(program, os.X_OK):
        raise FileNotFoundError(f"{program} is missing; run `make servers`")
    return program


def build_minio() -> Path:
    """The server, built unless it is there; beside its place, and renamed: it is whole or missing.

    Who comes meanwhile waits.
    """
    home = tools_dir() / f"minio-{MINIO_VERSION}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            return find_minio()
        if shutil.which("go") is None:
            raise FileNotFoundError("go is missing; install Go 1.26 or newer")
        module = f"{MINIO_MODULE}@{MINIO_VERSION}"
        answer = json.loads(go("mod", "download", "-json", module, folder=home))
        part = home / f"minio.part-{os.getpid()}"
        go(*BUILD, "-ldflags=-s -w", "-o", str(part), folder=Path(answer["Dir"]))
        part.rename(home / "minio")
        return find_minio()


@contextlib.contextmanager
def minio(
    folder: Path,
    *,
    policies: Mapping[str, dict[str, Any]] | None = None,
    address: str = "127.0.0.1",
    region: str | None = None,
) -> Generator[S3Server, None, None]:
    """MinIO on one directory: conditional writes, versions, Object Lock, policies of users, quotas.

    With `policies` (name -> document) each name is a user who may do what its document allows and nothing
    else: see `S3Server.others`. What is in `folder` from an earlier run is there again. `address` is one of
    this machine that nobody else reaches. Signatures for another `region` are refused, if one is given.
    """
    port = free_ports(1)[0]
    others = {name: _identity("minio", port, address=address) for name in policies or {}}
    server = replace(_identity("minio", port, address=address), others=others)
    (folder / "data").mkdir(exist_ok=True)
    argv = [str(find_minio()), "server", "--address", f"{address}:{port}"]
    variables = {
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        # It wants a disk of its own otherwise.
        "MINIO_CI_CD": "on",
    }
    if region is not None:
        server = replace(server, region=region)
        variables["MINIO_SITE_REGION"] = region
    with _running([*argv, str(folder / "data")], folder=folder, server=server, variables=variables):
        administrator = minio_admin(server)
        for name, other in others.items():
            administrator.policy_add(name, policy=(policies or {})[name])
            administrator.user_add(other.access_key, other.secret_key)
            administrator.policy_set(name, user=other.access_key)
        yield server


def minio_admin(server: S3Server) -> MinioAdmin:
    """MinIO's client for what is not S3: users, policies, quotas."""
    provider = StaticProvider(server.access_key, server.secret_key)
    return MinioAdmin(endpoint=server.endpoint.partition("://")[2], credentials=provider, secure=False)


@contextlib.contextmanager
def rclone(folder: Path, *, certificate: tuple[Path, Path] | None = None) -> Generator[S3Server, None, None]:
    """`rclone serve s3` over a directory; with (certificate, key) over TLS."""
    server = _identity("rclone", free_ports(1)[0], certificate=certificate)
    data = folder / "data"
    data.mkdir()
    argv = [_script("rclone"), "serve", "s3", "--addr", server.endpoint.partition("://")[2]]
    argv += ["--config", "", "--vfs-cache-mode", "off"]
    if certificate:
        argv += ["--cert", str(certificate[0]), "--key", str(certificate[1])]
    variables = {"RCLONE_AUTH_KEY": f'"{server.access_key},{server.secret_key}"'}
    with _running([*argv, str(data)], folder=folder, server=server, variables=variables):
        yield server


@contextlib.contextmanager
def moto(folder: Path) -> Generator[S3Server, None, None]:
    """The moto server: everything in memory, no signature looked at, one request after the other.

    Its own program answers in threads that nothing keeps apart: two swaps win, and a race ends with 500.
    """
    server = _identity("moto", free_ports(1)[0])
    argv = [sys.executable, "-c", _MOTO, server.endpoint.rpartition(":")[2]]
    with _running(argv, folder=folder, server=server):
        yield server


def make_bucket(server: S3Server, name: str = BUCKET, **settings: object) -> None:
    """A new bucket, over the client library itself."""
    client_of(server).create_bucket(Bucket=name, **settings)


def client_of(server: S3Server):  # type: ignore[no-untyped-def] # noqa: ANN201 - the library's client, for tests
    """The client library's own client for a server, to do what the store does not."""
    import boto3  # noqa: PLC0415 - only these tests need it

    return boto3.session.Session(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    ).client("s3", endpoint_url=server.endpoint, verify=str(server.ca_bundle) if server.ca_bundle else None)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _identity(
    name: str, port: int, *, certificate: tuple[Path, Path] | None = None, address: str = "127.0.0.1"
) -> S3Server:
    scheme = "https" if certificate else "http"
    return S3Server(
        name=name,
        endpoint=f"{scheme}://{address}:{port}",
        access_key="AK" + secrets.token_hex(8).upper(),
        secret_key=secrets.token_urlsafe(24),
        ca_bundle=certificate[0] if certificate else None,
    )


def _script(name: str) -> str:
    """A program of this environment. Raises FileNotFoundError."""
    program = Path(sys.executable).parent / name
    if not program.exists():
        raise FileNotFoundError(f"{name} is missing; run `make build`")
    return str(program)


@contextlib.contextmanager
def _running(
    argv: list[str],
    *,
    folder: Path,
    server: S3Server,
    variables: Mapping[str, str] | None = None,
) -> Generator[None, None, None]:
    """The process, from the moment it answers S3 requests until the body ends."""
    log = folder / "log"
    home = {"HOME": str(folder), "PATH": os.environ.get("PATH", "")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=home | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_for_answer(process, server, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_answer(process: "subprocess.Popen[bytes]", server: S3Server, log: Path) -> None:
    """Return when a bucket could be made, which needs every part of a server."""
    deadline = time.monotonic() + START_SECONDS_MAX
    gone = threading.Event()
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(server.endpoint, timeout=5).close()
            client = client_of(server)
            if BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="started", Body=b"")
            client.delete_object(Bucket=BUCKET, Key="started")
            return
        except Exception:  # noqa: BLE001 - whatever a server says while it starts
            gone.wait(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"{server.name} does not answer:\n{tail}")


if __name__ == "__main__":
    print(build_minio())
