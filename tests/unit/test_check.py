"""What check finds without a look into trees, and that backups beside it are no findings."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvback import limits
from pvback.errors import UsageError
from pvback.model import FindingSeverity
from pvback.ops.backup import backup
from pvback.ops.check import CheckOptions, CheckResult, check
from pvback.ops.check_listing import find_open_registers, list_objects
from pvback.ops.repair import plan_snapshot_repair
from pvback.ops.sources import Source, path_source
from pvback.repository.layout import Area, ObjectType
from pvback.repository.registers import RegisterState, change_register
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import ManualClock
from pvback.storage.memory import MemoryStore
from tests.support import fake_native


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("alpha")
    return path_source(tmp_path / "data", host="h")


def kinds(result: CheckResult) -> dict[str, FindingSeverity]:
    return {finding.kind: finding.severity for finding in result.findings}


def test_a_sound_repository(access: RepositoryAccess, source: Source) -> None:
    backup(access, source)
    result = check(access)
    assert (result.findings, result.is_sound, result.snapshot_count) == ([], True, 1)
    assert result.object_count == 6  # register, record, reference set, run, pack, gc/state


def test_what_is_missing(access: RepositoryAccess, source: Source, memory: MemoryStore) -> None:
    backup(access, source)
    for name, _ in list(access.objects.list_area(Area.REFS)):
        memory.delete(access.objects.layout.key(f"refs/{name}"))
    result = check(access)
    assert kinds(result) == {"refs-missing": FindingSeverity.REPAIRABLE}
    assert not result.is_sound
    for name, _ in list(access.objects.list_area(Area.RECORDS)):
        memory.delete(access.objects.layout.key(f"records/{name}"))
    assert kinds(check(access))["record-damaged"] is FindingSeverity.REPAIRABLE
    assert len(access.catalog().snapshots) == 1
    drop_twins(access)
    assert kinds(check(access))["snapshot-damaged"] is FindingSeverity.LOSS


@pytest.mark.parametrize("how", ["written after its record", "silent for an hour"])
def test_a_register_that_came_back(
    access: RepositoryAccess, source: Source, clock: ManualClock, memory: MemoryStore, how: str
) -> None:
    """It is OPEN beside a record; a session that is just about to commit looks like that, too."""
    backup(access, source)
    ((register, _),) = access.catalog().registers
    opened = dataclasses.replace(
        register, state=RegisterState.OPEN, record=None, refs=(), twin=b"", nonce="1" * 32
    )
    data = access.objects.seal(ObjectType.REGISTER, name=opened.object_name, data=opened.as_body())
    memory.put(access.objects.layout.key(opened.object_name), data)
    assert "register-open" not in kinds(check(access))
    clock.advance(1 if how == "written after its record" else limits.FENCE_QUIET_SECONDS + 1)
    if how == "written after its record":
        memory.put(access.objects.layout.key(opened.object_name), data)
    assert kinds(check(access))["register-open"] is FindingSeverity.REPAIRABLE
    (problem,) = plan_snapshot_repair(access)
    assert (problem.kind, problem.register) == ("register-open", register.name)


def test_a_register_that_a_prune_has_counted(access: RepositoryAccess, source: Source) -> None:
    backup(access, source)
    catalog = access.catalog()
    ((register, mtime),) = catalog.registers
    counted = dataclasses.replace(catalog.state, counted=frozenset((register.name,)))
    opened = dataclasses.replace(register, state=RegisterState.OPEN)
    change_register(access.objects, register.name, change=lambda _: opened, clock=access.clock)
    for state, kinds_expected in ((catalog.state, []), (counted, ["register-open"])):
        seen = dataclasses.replace(catalog, state=state, registers=[(opened, mtime)])
        found = find_open_registers(access, seen, listing=list_objects(access))
        assert [one.kind for one in found] == kinds_expected


def drop_twins(access: RepositoryAccess) -> None:
    """Registers as they were before they held their record."""
    for name, _ in list(access.objects.list_area(Area.SNAPSHOTS)):
        change_register(
            access.objects, name, change=lambda one: dataclasses.replace(one, twin=b""), clock=access.clock
        )


def test_what_belongs_to_nothing(access: RepositoryAccess, memory: MemoryStore) -> None:
    memory.create(access.objects.layout.key("refs/" + "a" * 32 + "-0"), b"x")
    memory.create(access.objects.layout.key("index/foreign"), b"x")
    memory.create("photo.jpg", b"x")
    result = check(access)
    assert kinds(result) == {"orphans": FindingSeverity.NOTE, "foreign": FindingSeverity.NOTE}
    assert result.is_sound


def test_a_backup_that_ends_meanwhile_is_no_finding(
    access: RepositoryAccess, source: Source, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = memory.list_objects
    busy: list[bool] = []

    def busy_list(prefix: str, *, after: str = "") -> Any:
        if not busy:
            busy.append(True)
            for _ in range(2):
                backup(access, source)
            busy.clear()
        return iter(list(listed(prefix, after=after)))

    monkeypatch.setattr(memory, "list_objects", busy_list)
    result = check(access)
    assert result.is_sound, result.findings


def test_looking_again_when_prune_has_moved_something(
    access: RepositoryAccess, source: Source, native: SimpleNamespace
) -> None:
    backup(access, source)
    runs = []

    def moved(job: fake_native.Job) -> dict[str, Any]:
        runs.append(job.options["packs"])
        job.rows([{"severity": "error", "what": f"seen-{len(runs)}", "object": None, "detail": ""}])
        if len(runs) == 1:
            job.ask("get", job.key("index/" + "0" * 16 + "-" + "a" * 32))
        return {"snapshots": 1}

    native.verbs["check"] = moved
    result = check(access)
    assert list(kinds(result)) == ["seen-2"]
    assert result.counts == {"snapshots": 1}


@pytest.mark.parametrize("share", [0, -1, 101])
def test_shares_that_make_no_sense(access: RepositoryAccess, share: float) -> None:
    with pytest.raises(UsageError):
        check(access, options=CheckOptions(read_percent=share))
