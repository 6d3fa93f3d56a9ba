"""A whole life on a server that takes conditions on writes and ignores them: `rclone serve s3`."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from pvback import limits
from pvback.config import Config, Secret
from pvback.errors import ConflictError, ObjectNotFound
from pvback.model import LocalAddress
from pvback.ops.backup import backup
from pvback.ops.check import CheckOptions, check
from pvback.ops.forget import apply_forget, plan_forget_named, undelete
from pvback.ops.prune import PruneOptions, prune
from pvback.ops.restore import restore
from pvback.ops.sources import path_source
from pvback.repository.repository import InitOptions, create_repository, open_repository_access
from pvback.repository.snapshots import find_snapshot
from pvback.repository.timing import is_timed
from pvback.runtime import ManualClock
from pvback.storage.base import ObjectInfo, ObjectStore, StoredObject
from pvback.storage.probe import PROBE_PREFIX
from pvback.storage.wrap import Request, WrappedStore
from tests.s3.conftest import new_address, store_on, use_credentials
from tests.support import warm
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it

T = TypeVar("T")
CONFIG = Config(repository=LocalAddress(Path("/memory")), password=Secret("correct horse"), cache_dir=None)
OPTIONS = PruneOptions(unused_seconds=0, is_alone=True)


class ClockedStore(WrappedStore):
    """A store whose objects are as old as a clock says that can be moved."""

    def __init__(self, inner: ObjectStore, clock: ManualClock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._written: dict[str, datetime] = {}

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if kind.is_write:
            self._written[key] = self._clock.now()
        return act()

    def read(self, key: str) -> StoredObject:
        found = self._inner.read(key)
        return replace(found, mtime=self._written[key])

    def head(self, key: str) -> ObjectInfo:
        return replace(self._inner.head(key), mtime=self._written[key])

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        for info in self._inner.list_objects(prefix, after=after):
            yield replace(info, mtime=self._written[info.key])


@pytest.fixture
def server(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    use_credentials(monkeypatch, rclone_server)
    return rclone_server


def test_from_init_to_prune(server: S3Server, tmp_path: Path) -> None:
    clock = ManualClock()
    store = ClockedStore(store_on(server), clock)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    create_repository(CONFIG, options=InitOptions(may_be_unconditional=True), store=store, clock=clock)
    access = open_repository_access(CONFIG, store=store, clock=clock, is_writer=True)
    assert is_timed(access.objects)
    (source / "file").write_bytes(os.urandom(300_000))
    old = backup(access, path_source(source)).snapshot
    assert old is not None
    (source / "file").write_bytes(os.urandom(300_000))
    new = backup(access, path_source(source)).snapshot
    assert new is not None
    apply_forget(access, plan_forget_named(access, [old]), is_forced=True)
    with pytest.raises(ConflictError, match="a moment ago"):
        undelete(access, [old])
    clock.advance(limits.TIMED_LATE_SECONDS + 1)
    assert undelete(access, [old])
    apply_forget(access, plan_forget_named(access, [old]), is_forced=True)
    clock.advance(limits.FORGET_GRACE_SECONDS + limits.TIMED_WAIT_SECONDS + 1)
    with pytest.raises(ConflictError, match="grace"):
        undelete(access, [old])
    with pytest.raises(ConflictError, match="two prunes"):
        prune(access, options=replace(OPTIONS, is_alone=False))
    removed, runs = 0, 0
    while not removed:
        report = prune(access, options=OPTIONS)
        removed, runs = report.removed_pack_count, runs + 1
        if not removed:
            assert report.waits_until is not None
            early = prune(access, options=OPTIONS)
            assert early.waits_until == report.waits_until, "too early, nothing is done"
            clock.advance((report.waits_until - clock.now()) / timedelta(seconds=1) + 1)
    assert runs == 3, "published, the dead named, and then removed"
    found = check(access, options=CheckOptions(level="data")).findings
    # rclone goes on listing what was removed right after racing writes; nobody can read it.
    ghosts = [one for one in found if (one.key or "").startswith(PROBE_PREFIX)]
    for ghost in ghosts:
        with pytest.raises(ObjectNotFound):
            store.read(str(ghost.key))
    assert ghosts == found
    restore(access, find_snapshot(access.catalog().snapshots, new), target=target)
    assert (target / "file").read_bytes() == (source / "file").read_bytes()
    access.close()


def test_what_the_program_says(server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("alpha")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PVBACK_REPOSITORY": str(new_address(server)),
        "PVBACK_PASSWORD": "correct horse",
        "PVBACK_S3_ENDPOINT": server.endpoint,
        **server.environment,
    }

    def run(*words: str, code: int = 0) -> str:
        done = warm.run(words, environment)
        assert done.returncode == code, done.stderr
        return done.stderr

    refused = run("init", code=30)
    assert "the store ignores conditions on writes (" in refused
    assert "`--allow-unconditional`" in refused
    run("snapshots", code=10)
    assert "ignores conditions" in run("init", "--allow-unconditional")
    assert "ignores conditions" in run("backup", str(tmp_path / "data"))
    assert "`pvback prune --alone`" in run("prune", code=11)
    run("prune", "--alone")
    run("check", "--read-data")
    run("repair", "index", code=2)
