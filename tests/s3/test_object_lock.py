"""Object Lock and versions on a bucket that really has them: what is locked, and what comes back."""

import itertools
import json
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pvback.config import Config, Secret
from pvback.errors import StorageError
from pvback.model import S3Address
from pvback.ops.backup import backup
from pvback.ops.prune import prune
from pvback.ops.sources import path_source
from pvback.repository.locks import Extended
from pvback.repository.repository import create_repository, open_repository_access
from pvback.s3_options import S3Options
from pvback.storage.s3_store import S3Store
from tests.s3.conftest import server_named, use_credentials
from tests.support import warm
from tests.support.s3_servers import S3Server, client_of

pytestmark = pytest.mark.timeout(300)

MONTH = 30 * 86_400
LOCKED = "AccessDenied|WORM protected"  # as AWS and most others say it, and as MinIO does


class Bucket:
    """A bucket with Object Lock, and the program on a repository in it."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.name = f"locked-{secrets.token_hex(4)}"
        self.client: Any = client_of(server)
        self.client.create_bucket(Bucket=self.name, ObjectLockEnabledForBucket=True)

    def run(self, *words: str, code: int = 0, lock: str = "30d") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PVBACK_REPOSITORY": f"s3://{self.name}/deep/prefix",
            "PVBACK_PASSWORD": "correct horse",
            "PVBACK_S3_ENDPOINT": self.server.endpoint,
            "PVBACK_S3_OBJECT_LOCK": lock,
            **self.server.environment,
        }
        done = warm.run(words, environment)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout

    def list_keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def versions(self) -> list[dict[str, Any]]:
        answer = self.client.list_object_versions(Bucket=self.name)
        return [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]

    def wait_for_another_second(self) -> datetime:
        """A moment after all that was written and before all that will be, by the server's clock."""
        last: datetime = max(one["LastModified"] for one in self.versions())
        for index in itertools.count():
            self.client.put_object(Bucket=self.name, Key=f"tick-{index}", Body=b"")
            ticked = self.client.head_object(Bucket=self.name, Key=f"tick-{index}")["LastModified"]
            if ticked > last:
                break
        return last.astimezone(UTC)


@pytest.fixture
def bucket(minio_server: S3Server, tmp_path: Path) -> Bucket:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(secrets.token_bytes(300_000))
    return Bucket(minio_server, tmp_path)


@pytest.fixture(params=["minio", "moto"])
def locked_store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[S3Store, Any, str]]:
    server = server_named(request, request.param)
    use_credentials(monkeypatch, server)
    name = f"{server.name}-{secrets.token_hex(4)}"
    client = client_of(server)
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    options = S3Options(object_lock=MONTH, multipart_bytes=6 << 20, part_bytes=5 << 20)
    store = S3Store(S3Address(name, "r", server.endpoint), options)
    yield store, client, name
    store.close()


def test_what_is_written_is_locked(locked_store: tuple[S3Store, Any, str]) -> None:
    store, client, name = locked_store
    assert store.capabilities.lock_seconds == MONTH
    now = datetime.now(UTC)
    big = bytes(7 << 20)
    store.create("s/1/data/00/small", b"x")
    store.create("s/1/data/00/parts", big)
    store.put("copies/config", b"x")
    store.create("s/1/snapshots/1-a", b"x")
    # moto forgets the lock of what goes up in parts.
    in_parts = () if name.startswith("moto") else ("s/1/data/00/parts",)
    for key in ("s/1/data/00/small", "copies/config", *in_parts):
        until = store.locked_until(key)
        assert until is not None, key
        assert abs(until - now - timedelta(seconds=MONTH)) < timedelta(minutes=5), key
        version = client.head_object(Bucket=name, Key=f"r/{key}")["VersionId"]
        with pytest.raises(ClientError, match=LOCKED):
            client.delete_object(Bucket=name, Key=f"r/{key}", VersionId=version)
    assert store.locked_until("s/1/snapshots/1-a") is None


def test_locks_are_extended_and_never_shortened(locked_store: tuple[S3Store, Any, str]) -> None:
    store, _, _ = locked_store
    store.create("s/1/index/1-a", b"x")
    later = (datetime.now(UTC) + timedelta(days=60)).replace(microsecond=0)
    store.extend_lock("s/1/index/1-a", later)
    assert store.locked_until("s/1/index/1-a") == later
    store.create("s/1/snapshots/1-a", b"x")
    store.extend_lock("s/1/snapshots/1-a", later)
    assert store.locked_until("s/1/snapshots/1-a") == later, "what had no lock got none"
    with pytest.raises(StorageError):
        store.extend_lock("s/1/index/none", later)


def test_prune_leaves_what_is_locked(bucket: Bucket) -> None:
    bucket.run("init")
    bucket.run("backup", str(bucket.folder / "source"))
    packs = [key for key in bucket.list_keys() if "/data/" in key or "/meta/" in key]
    assert len(packs) >= 2
    snapshot = json.loads(bucket.run("snapshots", "--json"))[0]["id"]
    bucket.run("forget", snapshot, "--force")
    words = ("prune", "--grace", "0s", "--keep-unused", "0s")
    said = bucket.run(*words)
    assert f"locked, so that they cost as before: {len(packs)} packs" in said, said
    assert set(packs) <= set(bucket.list_keys())
    bucket.run("check")
    said = bucket.run(*words, "--force")
    assert set(packs) <= set(bucket.list_keys()), said


def test_a_prune_locks_what_is_needed_for_longer(
    minio_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half a period later. Periods are of seconds here, which settings do not allow."""
    use_credentials(monkeypatch, minio_server)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(secrets.token_bytes(300_000))
    client, period = client_of(minio_server), timedelta(seconds=8)
    name = f"locked-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    address = S3Address(name, "r", minio_server.endpoint)
    store = S3Store(address, S3Options(object_lock=int(period.total_seconds())))
    config = Config(repository=address, password=Secret("correct horse"), cache_dir=None)
    create_repository(config, store=store)
    access = open_repository_access(config, store=store, is_writer=True)
    backup(access, path_source(tmp_path / "source"))

    def store_time() -> datetime:
        client.put_object(Bucket=name, Key="tick", Body=b"")
        found: datetime = client.head_object(Bucket=name, Key="tick")["LastModified"]
        return found

    def pruned() -> tuple[Extended, dict[str, datetime]]:
        locks = prune(access).locks
        areas = ("s/", "config", "keys/")
        found = [one for prefix in areas for one in store.list_objects(prefix)]
        untils = {one.key: store.locked_until(one.key) for one in found}
        return locks, {key: until for key, until in untils.items() if until is not None}

    written = store_time()
    early, before = pruned()
    assert early.extended_count == 0
    packs = {key for key in before if "/data/" in key or "/meta/" in key}
    assert len(packs) >= 2
    while store_time() < written + period / 2 + timedelta(seconds=1):
        pass
    began = store_time()
    late, after = pruned()
    assert late.refused == []
    # What the prune has merged is new.
    assert late.extended_count >= len(packs) + 2
    for key in {*packs, "config"}:
        assert after[key] >= began + period - timedelta(seconds=1), (key, before[key], after[key])
        assert after[key] > before[key]
    access.close()


def test_a_bucket_whose_objects_were_deleted_and_overwritten_comes_back(bucket: Bucket) -> None:
    """Everything that stolen credentials of an owner can do, but for what the locks and rights forbid."""
    source = bucket.folder / "source"
    bucket.run("init")
    bucket.run("backup", str(source))
    (source / "second").write_bytes(secrets.token_bytes(100_000))
    bucket.run("backup", str(source))
    expected = json.loads(bucket.run("snapshots", "--json"))
    before = bucket.wait_for_another_second()
    good = [key for key in bucket.list_keys() if not key.startswith("tick-")]
    # The thief overwrites some, and deletes all.
    for key in good[::2]:
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"ransom")
    bucket.client.put_object(Bucket=bucket.name, Key="deep/prefix/README", Body=b"ransom")
    doomed = {"Objects": [{"Key": key} for key in good[1::3]]}
    bucket.client.delete_objects(Bucket=bucket.name, Delete=doomed)
    for one in bucket.versions():
        locked = not any(f"/{area}/" in one["Key"] for area in ("snapshots", "gc"))
        if one["Key"] in good and one["LastModified"] <= before and locked:
            with pytest.raises(ClientError, match=LOCKED):
                bucket.client.delete_object(Bucket=bucket.name, Key=one["Key"], VersionId=one["VersionId"])
    for key in [key for key in bucket.list_keys() if key in good]:
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    bucket.run("snapshots", code=10)

    # As docs/security.md says: the time of the first delete marker or foreign version.
    times = [one["LastModified"] for one in bucket.versions() if one["Key"] in good]
    moment = min(one for one in times if one > before).astimezone(UTC).isoformat()
    said = bucket.run("repair", "versions", "--before", moment, "--dry-run")
    assert f"{len(good)} objects would be brought back" in said, said
    bucket.run("snapshots", code=10)
    said = bucket.run("repair", "versions", "--before", moment)
    assert f"{len(good)} objects were brought back" in said, said
    assert "1 newer ones were hidden" in said, said
    assert sorted(key for key in bucket.list_keys() if not key.startswith("tick-")) == good
    assert "0 objects were brought back" in bucket.run("repair", "versions", "--before", moment)
    bucket.run("check", "--read-data")
    found = json.loads(bucket.run("snapshots", "--json"))
    # What was overwritten has been written again, so its time by the store is another.
    assert {one["id"]: one["sequence"] for one in found} == {one["id"]: one["sequence"] for one in expected}
    target = bucket.folder / "target"
    bucket.run("restore", expected[-1]["id"], "--target", str(target))
    for name in ("file", "second"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    bucket.run("backup", str(source))
