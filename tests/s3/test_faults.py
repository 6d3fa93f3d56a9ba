"""Every way in which requests go wrong, in front of real servers: the program goes on, or says what to do.

What passes is survived and counted; what does not ends with the exit code for storage, without a traceback
and without a secret in what is printed. Afterwards, without the fault, the repository is sound.
"""

import random
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pvback.model import S3Address
from pvback.runtime import SystemClock
from tests.s3.client import COMMAND_SECONDS_MAX, PASSWORD
from tests.s3.client import Client as DirectClient
from tests.s3.conftest import new_address
from tests.support.fault_proxy import Fault, FaultProxy, Rule, fault_proxy
from tests.support.s3_servers import BUCKET, S3Server, client_of, make_bucket, minio_admin

pytestmark = pytest.mark.timeout(600)

GET, PUT, DELETES = ("GET",), ("PUT",), ("DELETE", "POST")


@dataclass
class Client(DirectClient):
    """One whose requests go through a proxy."""

    proxy: FaultProxy = field(kw_only=True)


@pytest.fixture
def proxy(service: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(service) as made:
        yield made


@pytest.fixture
def client(proxy: FaultProxy, tmp_path: Path, service: S3Server) -> Client:
    """A client of a place where nothing is yet."""
    return Client(proxy.server, new_address(service), tmp_path, proxy=proxy)


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    """A tree of a few packs' worth of noise."""
    top = tmp_path / "data"
    top.mkdir()
    noise = random.Random(seed)
    for index in range(8):
        (top / f"{index}.bin").write_bytes(noise.randbytes(300_000))
    (top / "text").write_text("alpha")
    return top


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def commands(source: Path, target: Path) -> dict[str, tuple[str, ...]]:
    return {
        "backup": ("backup", str(source)),
        "restore": ("restore", "latest", "--target", str(target)),
        "check": ("check", "--read-data"),
        "prune": ("prune", "--max-unused", "0", "--keep-unused", "0s", "--grace", "0s", "--force"),
    }


# Of what belongs to a scope, so that it is not the repository's `config` that has it all.
TRANSIENT: dict[str, Rule] = {
    "reset-read": Rule(fault=Fault.RESET, methods=GET, path="/s/", first=2, count=2),
    "reset-write": Rule(fault=Fault.RESET, methods=PUT, count=2),
    "stalled-read": Rule(fault=Fault.STALL, methods=GET, path="/s/", first=2),
    "stalled-write": Rule(fault=Fault.STALL, methods=PUT),
    "cut": Rule(fault=Fault.CUT, methods=GET, path="/(data|meta|index|snapshots)/[^?]*$", count=2),
    "other-bytes": Rule(fault=Fault.FLIP, methods=GET, path="/gc/state$"),
    "other-bytes-sent": Rule(fault=Fault.SPOIL, methods=PUT, count=2),
    "unavailable-with-pause": Rule(
        fault=Fault.REFUSE, path="/s/", first=2, count=4, headers=(("Retry-After", "1"),)
    ),
    "unavailable": Rule(fault=Fault.REFUSE, path="/s/", first=2, count=4, code="ServiceUnavailable"),
    "unavailable-writes": Rule(fault=Fault.REFUSE, methods=PUT, count=4),
    "failing": Rule(fault=Fault.REFUSE, path="/s/", first=2, count=4, status=500, code="InternalError"),
    "lost-write": Rule(fault=Fault.LOSE, methods=PUT, count=3),
    "lost-delete": Rule(fault=Fault.LOSE, methods=DELETES, count=2),
}
MEETS = {PUT: {"backup", "prune"}, DELETES: {"prune"}}
"""The verbs that make requests of these kinds; all make others."""


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_passes_is_survived_and_counted(name: str, client: Client, source: Path, tmp_path: Path) -> None:
    client.run("init")
    # Something for prune to remove, and something that it has to leave.
    client.run("backup", str(source))
    (source / "0.bin").write_bytes(b"other")
    hit, repeated = set(), set()
    for verb, words in commands(source, tmp_path / "target").items():
        if verb == "prune":
            client.run("forget", "--keep-last", "1")
        rule = replace(TRANSIENT[name])
        client.proxy.obey(rule)
        counted = client.count(*words)
        client.proxy.obey(None)
        if rule.hit_count:
            hit.add(verb)
            if counted["retry_count"] > 0:
                repeated.add(verb)
    print(f"repeated by {repeated} of {hit}")
    # Nobody waits for what was asked ahead and is not needed: it may be that which stands still.
    assert repeated == hit or (name == "stalled-read" and repeated)
    assert hit == MEETS.get(TRANSIENT[name].methods, {"backup", "restore", "check", "prune"})
    assert same_files(source, tmp_path / "target")
    assert "sound" in client.run("check", "--read-data")


LASTING: dict[str, Rule] = {
    "full": Rule(fault=Fault.REFUSE, methods=PUT, status=507, code="InsufficientStorage"),
    "quota": Rule(fault=Fault.REFUSE, methods=PUT, status=403, code="QuotaExceeded"),
    "denied": Rule(fault=Fault.REFUSE, methods=PUT, status=403, code="AccessDenied"),
    "clock": Rule(fault=Fault.REFUSE, status=403, code="RequestTimeTooSkewed"),
    "expired": Rule(fault=Fault.REFUSE, first=4, status=403, code="ExpiredToken"),
    "unavailable": Rule(fault=Fault.REFUSE, methods=GET, first=4),
}
SAID = {
    "full": "the store is full",
    "quota": "the quota is used up",
    "denied": "access denied",
    "clock": "clock",
    "expired": "the credentials have expired",
    "unavailable": "asked too much",
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_ends_with_what_to_do(name: str, client: Client, source: Path, tmp_path: Path) -> None:
    client.run("init")
    client.run("backup", str(source))
    (source / "0.bin").write_bytes(random.Random(1).randbytes(1 << 20))
    client.variables = {"PVBACK_S3_RETRY_SECONDS": "2"}
    met = set()
    for verb, words in commands(source, tmp_path / "target").items():
        rule = replace(LASTING[name], count=1 << 30)
        client.proxy.obey(rule)
        code, output, errors = client.finish(client.start(*words))
        client.proxy.obey(None)
        if rule.hit_count == 0:
            assert code == 0, (verb, output, errors)
            continue
        met.add(verb)
        assert code == 30, (verb, output, errors)
        assert SAID[name] in errors, verb
        assert "hint:" in errors or name == "unavailable", errors
    assert "backup" in met
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


def test_a_bucket_with_a_quota(service: S3Server, client: Client, source: Path, tmp_path: Path) -> None:
    """The server's own words, not ours: packs are larger than all that may be in the bucket."""
    client.address = S3Address(f"quota-{secrets.token_hex(4)}", "r", service.endpoint)
    make_bucket(service, client.address.bucket)
    client.run("init")
    administrator = minio_admin(service)
    administrator.bucket_quota_set(client.address.bucket, 500_000)
    errors = client.run("backup", str(source), code=30)
    assert "the bucket's quota is used up" in errors
    assert "hint:" in errors
    administrator.bucket_quota_clear(client.address.bucket)
    client.run("backup", str(source))
    client.run("restore", "latest", "--target", str(tmp_path / "target"))
    assert same_files(source, tmp_path / "target")
    assert "sound" in client.run("check", "--read-data")


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_packs_that_are_put_off_for_long_are_given_up(
    client: Client, source: Path, status: int, code: str
) -> None:
    client.run("init")
    client.variables = {"PVBACK_S3_RETRY_SECONDS": "4"}
    rule = Rule(
        fault=Fault.REFUSE, methods=PUT, path="/(data|meta)/", count=1 << 30, status=status, code=code
    )
    client.proxy.obey(rule)
    began = SystemClock().monotonic()
    errors = client.run("backup", str(source), code=30)
    assert SystemClock().monotonic() - began < 60
    assert code in errors
    assert rule.hit_count > 1
    client.proxy.obey(None)
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


def test_credentials_that_expire_once_are_found_anew(client: Client, source: Path, tmp_path: Path) -> None:
    client.run("init")
    for words in commands(source, tmp_path / "target").values():
        rule = Rule(fault=Fault.REFUSE, first=5, status=403, code="ExpiredToken")
        client.proxy.obey(rule)
        client.run(*words)
        assert rule.hit_count == 1
    assert same_files(source, tmp_path / "target")


def test_parts_are_counted(client: Client, source: Path, tmp_path: Path) -> None:
    client.variables = {"PVBACK_S3_MULTIPART_BYTES": "1M", "PVBACK_S3_PART_BYTES": "5M"}
    (source / "large").write_bytes(random.Random(2).randbytes(12 << 20))
    client.run("init")
    backup = client.count("backup", str(source))
    # Beyond the one request that each object is: of 14 MB and more, a beginning and three parts at least.
    assert backup["requests"]["part"] >= 4
    assert 14_000_000 < backup["sent_bytes"] < 16_000_000
    restore = client.count("restore", "latest", "--target", str(tmp_path / "target"))
    assert "part" not in restore["requests"]
    assert restore["received_bytes"] > 14_000_000
    stats = client.count("stats")
    assert stats["requests"]["list"] > 0
    assert stats["sent_bytes"] == 0
    assert same_files(source, tmp_path / "target")


def test_an_init_that_was_killed_is_repeated(client: Client, source: Path) -> None:
    running: list[subprocess.Popen[str]] = []
    started = threading.Event()

    def kill() -> None:
        assert started.wait(COMMAND_SECONDS_MAX)
        running[0].kill()
        running[0].wait()

    rule = Rule(fault=Fault.RESET, methods=PUT, path=f"{client.address.prefix}/config$", act=kill)
    client.proxy.obey(rule)
    running.append(client.start("init"))
    started.set()
    assert client.finish(running[0])[0] == -signal.SIGKILL
    client.proxy.obey(None)
    assert client.run("snapshots", code=10)
    client.run("init")
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


@pytest.mark.parametrize("limit", [(), ("--limit-upload", "100k")])
@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_whoever_interrupts_twice_does_not_wait_for_a_store_that_is_away(
    client: Client, source: Path, tmp_path: Path, verb: str, limit: tuple[str, ...]
) -> None:
    client.run("init")
    client.run("backup", str(source))
    (source / "0.bin").write_bytes(random.Random(3).randbytes(1 << 20))
    is_away = threading.Event()
    rule = Rule(fault=Fault.RESET, path="/data/", count=1 << 30, act=is_away.set)
    client.proxy.obey(rule)
    running = client.start(*limit, *commands(source, tmp_path / "target")[verb])
    assert is_away.wait(COMMAND_SECONDS_MAX)
    rule.path = ""
    # Two kinds, for two of a kind may become one.
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGTERM)
    began = SystemClock().monotonic()
    code, _, errors = client.finish(running)
    seconds = SystemClock().monotonic() - began
    client.proxy.obey(None)
    assert code == 130, errors
    assert "interrupted" in errors
    assert seconds < 20, "an attempt of two seconds, and no pause"
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


def test_no_bucket_and_no_repository(client: Client, source: Path) -> None:
    client.run("snapshots", code=10)
    client.address = S3Address("pvback-test-none", "p", client.server.endpoint)
    for words in (("snapshots",), ("init",), ("backup", str(source))):
        errors = client.run(*words, code=30)
        assert "no such bucket" in errors
        assert "hint: make the bucket first" in errors


def test_pages_of_a_pack_that_are_other_bytes_are_not_believed(
    client: Client, source: Path, tmp_path: Path
) -> None:
    client.run("init")
    client.run("backup", str(source))
    rule = Rule(fault=Fault.FLIP, methods=GET, path="/data/", count=1 << 30)
    client.proxy.obey(rule)
    client.run("restore", "latest", "--target", str(tmp_path / "target"), code=3)
    client.run("check", "--read-data", code=20)
    client.proxy.obey(None)
    assert rule.hit_count > 0
    client.run("restore", "latest", "--target", str(tmp_path / "target"))
    assert same_files(source, tmp_path / "target")
    assert "sound" in client.run("check", "--read-data")


def remove_all(server: S3Server, address: S3Address) -> None:
    """Every object below an address."""
    client = client_of(server)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{address.prefix}/"):
        if page.get("Contents"):
            keys = [{"Key": one["Key"]} for one in page["Contents"]]
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


@pytest.mark.parametrize("area", ["snapshots", "data", "meta", "index", "refs", "records"])
def test_a_repository_that_is_deleted_under_a_backup(
    service: S3Server, client: Client, source: Path, area: str
) -> None:
    """Before the first object of any kind. Nothing notices before the commit, which looks what it was."""
    # On a busy machine removing takes longer than a read does, which would be asked for again meanwhile.
    client.variables["PVBACK_S3_READ_SECONDS"] = "60"
    client.run("init")
    rule = Rule(
        fault=Fault.PASS, methods=PUT, path=f"/{area}/", act=lambda: remove_all(service, client.address)
    )
    client.proxy.obey(rule)
    errors = client.run("backup", str(source), code=10)
    assert rule.hit_count == 1
    assert f"repository not found at `{client.address}`" in errors
    assert "prune has ended" not in errors
    client.proxy.obey(None)
    client.run("snapshots", code=10)


def stream_of(top: Path) -> tuple[str, ...]:
    return ("backup", "--command", "--stdin-name", "all", "--", "cat", *map(str, sorted(top.iterdir())))


# What runs, and the first request of which kind finds nothing any more.
REMOVED_UNDER: dict[str, tuple[tuple[str, ...], str]] = {
    "prune": (PUT, "/gc/"),
    "stream": (PUT, "/data/"),
    "rewrite": (PUT, "/records/"),
    "copy-from": (GET, "/data/"),
    "copy-to": (PUT, "/data/"),
}


@pytest.mark.parametrize("name", REMOVED_UNDER)
def test_a_repository_that_is_deleted_under_others(
    service: S3Server, client: Client, source: Path, tmp_path: Path, name: str
) -> None:
    """Whatever finds that something is missing says so when all is."""
    client.variables["PVBACK_S3_READ_SECONDS"] = "60"
    client.run("init")
    client.run("backup", str(source))
    if name == "rewrite":
        lost = next(key for key in client.objects() if "/data/" in key)
        client_of(service).delete_object(Bucket=BUCKET, Key=lost)
        client.run("repair", "packs", code=3)
    verb = {
        **commands(source, tmp_path / "target"),
        "stream": stream_of(source),
        "rewrite": ("repair", "snapshots"),
        "copy-from": ("copy", "--from-repository", str(client.address)),
        "copy-to": ("copy", "--from-repository", str(client.address)),
    }[name]
    where = client.address
    if name.startswith("copy"):
        other = new_address(service)
        client.variables |= {
            "PVBACK_REPOSITORY": str(other),
            "PVBACK_FROM_PASSWORD": PASSWORD,
            "PVBACK_FROM_S3_ENDPOINT": client.server.endpoint,
        }
        client.run("init")
        where = other if name == "copy-to" else where
    methods, area = REMOVED_UNDER[name]
    rule = Rule(fault=Fault.PASS, methods=methods, path=area, act=lambda: remove_all(service, where))
    client.proxy.obey(rule)
    assert f"repository not found at `{where}`" in client.run(*verb, code=10)
    assert rule.hit_count == 1


def test_a_state_that_is_deleted_under_a_backup(service: S3Server, client: Client, source: Path) -> None:
    """One object alone is damage, which can be mended."""
    client.run("init")
    (key,) = (key for key in client.objects() if key.endswith("/gc/state"))
    place = {"Bucket": BUCKET, "Key": key}
    rule = Rule(
        fault=Fault.PASS, methods=PUT, path="/data/", act=lambda: client_of(service).delete_object(**place)
    )
    client.proxy.obey(rule)
    assert "pvback repair state" in client.run("backup", str(source), code=20)
    client.proxy.obey(None)
    client.run("repair", "state", "--force")
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


def test_an_old_client_on_a_new_format(service: S3Server, client: Client, source: Path) -> None:
    client.run("init")
    bucket = client_of(service)
    for name in ("config", "copies/config"):
        place = {"Bucket": BUCKET, "Key": f"{client.address.prefix}/{name}"}
        config = bucket.get_object(**place)["Body"].read()
        newer = config.replace(b'"min_reader":1', b'"min_reader":99')
        assert newer != config
        bucket.put_object(**place, Body=newer)
    for words in (("snapshots",), ("backup", str(source)), ("check",), ("prune",)):
        assert "newer" in client.run(*words, code=13)


def test_one_of_two_inits_wins(client: Client, source: Path, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=COMMAND_SECONDS_MAX)
    rule = Rule(
        fault=Fault.PASS, methods=PUT, path=f"{client.address.prefix}/config$", count=2, act=both.wait
    )
    client.proxy.obey(rule)
    client.variables = {"PVBACK_S3_READ_SECONDS": str(COMMAND_SECONDS_MAX)}
    running = [client.start("init"), client.start("init")]
    codes = sorted(client.finish(one)[0] for one in running)
    client.proxy.obey(None)
    assert codes == [0, 11]
    client.run("backup", str(source))
    client.run("restore", "latest", "--target", str(tmp_path / "target"))
    assert "sound" in client.run("check", "--read-data")
