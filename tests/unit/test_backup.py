"""Backups over a data path that does what a test wants: checkpoints, interruptions, fences, errors."""

import dataclasses
import functools
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvback import limits
from pvback.datapath import blake3
from pvback.errors import ConflictError, DamagedError, Interrupted, PvbackError, StorageError
from pvback.model import Consistency
from pvback.ops.backup import BackupOptions, backup
from pvback.ops.sources import Source, command_source, path_source, stdin_source
from pvback.repository.body import dump_body
from pvback.repository.layout import Area, ObjectType
from pvback.repository.records import read_record
from pvback.repository.registers import Register, RegisterState, change_register, read_register, swap_register
from pvback.repository.repository import RepositoryAccess
from pvback.repository.sealed import Named
from pvback.runtime import Cancel, Counters, ManualClock, SeededRandom
from pvback.storage.memory import MemoryStore
from tests.support import fake_native
from tests.unit.conftest import Open

ROOT = {"page": "e" * 64, "level": 0, "nodes": 1, "bytes": 7}


class Listener:
    """Progress that calls back."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.counters: list[Counters] = []

    def update(self, counters: Counters) -> None:
        self.counters.append(counters)

    def warn(self, what: str) -> None:
        self.warnings.append(what)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("alpha")
    return path_source(tmp_path / "data", host="h")


def say_checkpoint(job: fake_native.Job) -> None:
    job.ask("output", "checkpoint", json.dumps({"root": ROOT, "runs": [], "stats": {"files": 1}}).encode())


def registers(access: RepositoryAccess) -> list[Register]:
    return [register for register, _ in access.catalog().registers]


def test_snapshots_continue_each_other(access: RepositoryAccess, source: Source) -> None:
    first = backup(access, source, options=BackupOptions(tags={"a": "b"}))
    second = backup(access, source)
    assert (first.parent, second.parent) == (None, first.snapshot)
    one, two = access.catalog().snapshots
    assert (one.record.seq, one.record.prev) == (1, None)
    assert (two.record.seq, two.record.prev) == (2, one.record.named.hash)
    assert one.require_details().tags == {"a": "b"}
    assert one.require_details().grade is Consistency.CRASH
    assert two.require_details().parent == first.snapshot
    assert two.register.refs
    assert two.register.runs


def test_an_interrupted_backup_leaves_a_checkpoint_and_the_next_goes_on(
    access: RepositoryAccess, source: Source, native: SimpleNamespace
) -> None:
    cancel, seen = Cancel(), []

    def interrupted(job: fake_native.Job) -> dict[str, Any]:
        cancel.set("test")
        assert job.commands.get(timeout=30) == ("checkpoint", {})
        say_checkpoint(job)
        assert job.is_cancelled.wait(30)
        raise Interrupted("cancelled")

    def resumed(job: fake_native.Job) -> dict[str, Any]:
        seen.append(job.options["resume"])
        return fake_native.finish(job, {})

    native.verbs["backup"] = interrupted
    with pytest.raises(Interrupted):
        backup(access, source, cancel=cancel)
    (left,) = registers(access)
    assert left.state is RegisterState.OPEN
    assert left.checkpoint is not None
    native.verbs["backup"] = resumed
    result = backup(access, source)
    assert result.resumed == left.snapshot
    assert seen[0]["root"] == ROOT
    assert seen[0]["started_ns"] == 1767225600 * 10**9
    # Once there is a newer snapshot, the checkpoint knows less than that.
    backup(access, source)
    assert seen[1] is None


def test_a_checkpoint_that_does_not_come_is_not_waited_for(
    access: RepositoryAccess, source: Source, native: SimpleNamespace, clock: ManualClock
) -> None:
    cancel = Cancel()

    def stuck(job: fake_native.Job) -> dict[str, Any]:
        cancel.set("test")
        job.commands.get(timeout=30)
        clock.advance(limits.STOP_SECONDS_MAX + 1)
        assert job.is_cancelled.wait(30)
        raise Interrupted("cancelled")

    native.verbs["backup"] = stuck
    with pytest.raises(Interrupted):
        backup(access, source, cancel=cancel)


def test_checkpoints_come_in_time(
    access: RepositoryAccess, source: Source, native: SimpleNamespace, clock: ManualClock
) -> None:
    def long(job: fake_native.Job) -> dict[str, Any]:
        for number in (1, 2):
            clock.advance(300)
            assert job.commands.get(timeout=30) == ("checkpoint", {})
            say_checkpoint(job)
            named = registers(access)[0].checkpoint
            assert named is not None
            assert named.name.endswith(f"-{number}")
        return fake_native.finish(job, {})

    native.verbs["backup"] = long
    assert backup(access, source).snapshot


def fence_all(access: RepositoryAccess, clock: ManualClock) -> None:
    for name, _ in access.objects.list_area(Area.SNAPSHOTS):
        stored = read_register(access.objects, name)
        if stored.register.state is RegisterState.OPEN:
            fields = {
                one: getattr(stored.register, one) for one in stored.register.__slots__ if one != "state"
            }
            swap_register(
                access.objects, stored, new=Register(**fields, state=RegisterState.FENCED), clock=clock
            )


def test_a_fenced_backup_starts_over(
    access: RepositoryAccess, source: Source, native: SimpleNamespace, clock: ManualClock
) -> None:
    listener, runs = Listener(), []

    def fenced_once(job: fake_native.Job) -> dict[str, Any]:
        runs.append(job.options["snapshot"])
        if len(runs) == 1:
            fence_all(access, clock)
        return fake_native.finish(job, {})

    native.verbs["backup"] = fenced_once
    result = backup(access, source, progress=listener)
    assert result.snapshot == runs[1]
    assert [one.id for one in access.catalog().snapshots] == [runs[1]]
    assert any("starting over" in one for one in listener.warnings)


def test_a_fenced_stream_cannot_start_over(
    access: RepositoryAccess, native: SimpleNamespace, clock: ManualClock
) -> None:
    runs = []

    def fenced(job: fake_native.Job) -> dict[str, Any]:
        runs.append(job)
        fence_all(access, clock)
        return fake_native.finish(job, {})

    native.verbs["backup"] = fenced
    with pytest.raises(ConflictError):
        backup(access, command_source(["true"], host="h"))
    assert len(runs) == 1
    assert not access.catalog().snapshots


def test_which_unchanged_files_are_read_is_drawn_once_a_backup(
    access: RepositoryAccess, source: Source, native: SimpleNamespace
) -> None:
    asked: list[dict[str, Any]] = []

    def note(job: fake_native.Job) -> dict[str, Any]:
        asked.append(job.options)
        return {**fake_native.back_up(job), "clone": {"compared": 20}}

    native.verbs["backup"] = note
    result = backup(access, source, random=SeededRandom(4))
    assert result.is_clone
    assert backup(access, source, options=BackupOptions(clones="never", recheck_percent=0)).is_clone
    drawn = {"percent": 1.0, "bytes_max": 4 << 30, "seed": SeededRandom(4).below(1 << 53)}
    assert (asked[0]["recheck"], asked[0]["detect_clones"]) == (drawn, True)
    assert asked[1]["recheck"] == {"percent": 0, "bytes_max": None, "seed": asked[1]["recheck"]["seed"]}
    assert (asked[1]["recheck"]["seed"] != drawn["seed"], asked[1]["detect_clones"]) == (True, False)


def test_a_note_is_said_and_is_no_problem(
    access: RepositoryAccess, source: Source, native: SimpleNamespace
) -> None:
    def note(job: fake_native.Job) -> dict[str, Any]:
        for what in ({"what": "by the way", "is_note": True}, {"what": "broken", "path": "a"}):
            job.ask("output", "problem", json.dumps(what).encode())
        return fake_native.back_up(job)

    native.verbs["backup"] = note
    listener = Listener()
    result = backup(access, source, progress=listener)
    assert listener.warnings == ["by the way", "a: broken"]
    assert [str(problem) for problem in result.problems] == ["a: broken"]


def test_a_command_is_ended_when_the_job_fails(access: RepositoryAccess, native: SimpleNamespace) -> None:
    def fail(job: fake_native.Job) -> dict[str, Any]:
        raise StorageError("full")

    native.verbs["backup"] = fail
    before = threading.active_count()
    with pytest.raises(StorageError, match="full"):
        backup(access, command_source(["sleep", "600"], host="h"))
    assert threading.active_count() <= before


def test_a_command_that_is_killed(access: RepositoryAccess) -> None:
    with pytest.raises(PvbackError, match="signal 9"):
        backup(access, command_source(["sh", "-c", "kill -9 $$"], host="h"))
    assert not access.catalog().snapshots


def test_what_a_pipe_says(access: RepositoryAccess, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("piped")
    with (tmp_path / "in").open("rb") as file:
        result = backup(access, stdin_source("x.sql", descriptor=file.fileno(), host="h"))
    assert result.source == "h:stdin/x.sql"
    assert result.stats.source_bytes == 5


def test_forgotten_snapshots_still_continue_the_chain(
    access: RepositoryAccess, source: Source, clock: ManualClock
) -> None:
    backup(access, source)
    (one,) = access.catalog().snapshots
    stored = read_register(access.objects, one.register.name)
    fields = {name: getattr(stored.register, name) for name in stored.register.__slots__ if name != "state"}
    forgotten = Register(**fields, state=RegisterState.FORGOTTEN)
    swap_register(access.objects, stored, new=forgotten, clock=clock)
    result = backup(access, source)
    assert result.parent is None
    (two,) = access.catalog().snapshots
    assert (two.record.seq, two.record.prev) == (2, one.record.named.hash)


def replace_record(access: RepositoryAccess, memory: MemoryStore, *, changes: dict[str, Any]) -> Register:
    """Another record under the name of the only one, sealed as it should be; returns the register."""
    (one,) = access.catalog().snapshots
    key = access.objects.layout.key(one.record.named.name)
    body = access.objects.read(ObjectType.RECORD, one.record.named.name).body
    data = access.objects.seal(
        ObjectType.RECORD, name=one.record.named.name, data=dump_body({**body.raw, **changes})
    )
    memory.put(key, data)
    return dataclasses.replace(one.register, record=Named(one.record.named.name, blake3(data)))


def test_a_record_that_was_exchanged(access: RepositoryAccess, source: Source, memory: MemoryStore) -> None:
    backup(access, source)
    replace_record(access, memory, changes={"seq": 9})
    (kept,) = access.catalog().snapshots
    assert kept.record.seq == 1, "the register has the record, too"
    drop = functools.partial(dataclasses.replace, twin=b"")
    change_register(access.objects, kept.register.name, change=drop, clock=access.clock)
    catalog = access.catalog()
    assert not catalog.snapshots
    assert "not the one that was recorded" in str(catalog.damaged[0])


def test_a_record_about_something_else(access: RepositoryAccess, source: Source, memory: MemoryStore) -> None:
    backup(access, source)
    other = "9" * 32
    keyring, scope = access.keyring, access.objects.scope
    details = access.catalog().snapshots[0].require_details()
    _, _, sealed = keyring.seal_record(scope, other, details.snapshot, details.as_body())
    changes: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"source": other, "sealed": sealed}, other, "names another source"),
        ({"snapshot": other}, "", "`snapshot` is another one"),
        ({"seq": 0}, "", "`seq` is below 1"),
    )
    for change, source_id, message in changes:
        memory_before = {info.key: memory.read(info.key).data for info in memory.list_objects("")}
        register = replace_record(access, memory, changes=change)
        assert register.record is not None
        with pytest.raises(DamagedError, match=message):
            read_record(
                access.objects,
                register.record,
                snapshot=register.snapshot,
                source=source_id or register.source,
            )
        for key, data in memory_before.items():
            memory.put(key, data)


def test_a_roll_back_is_noticed(open_access: Open, source: Source, memory: MemoryStore) -> None:
    access = open_access(cache=True)
    backup(access, source)
    access.catalog()
    old = {info.key: memory.read(info.key).data for info in memory.list_objects("")}
    backup(access, source)
    access.catalog()
    for info in list(memory.list_objects("")):
        memory.delete(info.key)
    for key, data in old.items():
        memory.put(key, data)
    with pytest.raises(DamagedError, match="rolled back"):
        open_access(cache=True).catalog()
    assert len(open_access(cache=False).catalog().snapshots) == 1


def test_one_backup_in_eight_looks_for_unused_chunks(
    access: RepositoryAccess, source: Source, native: SimpleNamespace
) -> None:
    asked: list[bool] = []

    def note(job: fake_native.Job) -> dict[str, Any]:
        asked.append(job.options["repack"])
        return fake_native.back_up(job)

    native.verbs["backup"] = note
    random = SeededRandom(1)
    for _ in range(64):
        backup(access, source, options=BackupOptions(dry_run=True), random=random)
    assert 3 <= sum(asked) <= 14
