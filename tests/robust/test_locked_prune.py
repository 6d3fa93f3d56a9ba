"""A whole life under Object Lock, by a clock that can be moved: what is needed is never without a lock."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pvback.config import Config, Secret
from pvback.model import LocalAddress
from pvback.ops.backup import backup
from pvback.ops.check import check
from pvback.ops.forget import apply_forget, plan_forget_named
from pvback.ops.prune import PruneOptions, PruneReport, prune
from pvback.ops.sources import path_source
from pvback.repository.gcstate import list_index, read_gc_state
from pvback.repository.repository import RepositoryAccess, create_repository, open_repository_access
from pvback.runtime import ManualClock
from pvback.s3_options import is_written_once
from pvback.storage.memory import MemoryStore

DAY = 86_400.0
PERIOD = 32 * DAY
OPTIONS = PruneOptions(grace_seconds=0, unused_seconds=0)


class World:
    def __init__(self, top: Path) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock, lock_seconds=PERIOD)
        self.source = top / "source"
        self.source.mkdir()
        config = Config(repository=LocalAddress(Path("/memory")), password=Secret("correct horse"))
        create_repository(config, store=self.store)
        self.access: RepositoryAccess = open_repository_access(
            config, store=self.store, clock=self.clock, is_writer=True
        )

    def back_up(self) -> str:
        made = backup(self.access, path_source(self.source)).snapshot
        assert made is not None
        return made

    def prune(self) -> PruneReport:
        return prune(self.access, options=OPTIONS)

    def list_keys(self) -> set[str]:
        return {info.key for info in self.store.list_objects("")}

    def days_left(self) -> float:
        """Of the lock that runs out first, of all that is needed and written once."""
        state = read_gc_state(self.access.objects)
        runs = {name for name, _ in list_index(self.access.objects, state).runs}
        needed = [
            key
            for key in self.list_keys()
            # Runs that were merged into others stay for as long as they are locked.
            if is_written_once(key) and ("/index/" not in key or key.rpartition("/")[2] in runs)
        ]
        assert len(needed) > len(runs)
        untils = [self.store.locked_until(key) for key in needed]
        assert None not in untils
        left = min(until for until in untils if until is not None) - self.clock.now()
        return left / timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.access.close()


def test_what_is_needed_stays_locked_for_a_year(world: World) -> None:
    (world.source / "file").write_bytes(bytes(range(256)) * 1000)
    world.back_up()
    for _ in range(75):
        world.clock.advance(5 * DAY)
        world.prune()
        assert world.days_left() >= 15.9
    assert not check(world.access).findings


def test_what_was_forgotten_goes_when_its_lock_has_run_out(world: World) -> None:
    (world.source / "file").write_bytes(bytes(range(256)) * 1000)
    snapshot = world.back_up()
    packs = {key for key in world.list_keys() if "/data/" in key or "/meta/" in key}
    assert packs
    apply_forget(world.access, plan_forget_named(world.access, [snapshot]), is_forced=True)
    world.clock.advance(DAY)
    report = world.prune()
    assert len(report.plan.locked) == len(packs)
    assert packs <= world.list_keys()
    assert report.removed_pack_count == 0
    # The record and the reference set are locked as well, and the store refuses to remove them.
    assert report.locked_count > 0
    world.clock.advance(PERIOD)
    report = world.prune()
    assert report.removed_pack_count == len(packs)
    assert not packs & world.list_keys()
    assert not {key for key in world.list_keys() if "/refs/" in key or "/records/" in key}
