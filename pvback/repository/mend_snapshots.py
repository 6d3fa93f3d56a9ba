"""Repairing what snapshots are made of besides their content: registers, records and reference sets.

- *Registers* that do not open are replaced where they lie, from the record, by compare-and-swap on the
  damaged bytes: until then every prune refuses to go on, so nothing of theirs can have been removed
  meanwhile.
- *Registers that are gone* are made anew, COMMITTED and of the current generation, from a record for whose
  snapshot there is no register of any kind: one that is forgotten, dead, fenced or void says what became of
  the snapshot, and stays. A record alone may also be what a fenced session wrote late: so the snapshot has to
  be there whole, every id of its reference set in the index. Order: a cycle under way is abandoned, for it
  knows nothing of this snapshot; ids are looked up; the register is created; `gc/state` is read again. If it
  is still at the same n, every later cycle finds the register before anything dies. If a cycle was published
  in between, it is abandoned; if it has even ended without having seen the register, that is void, and the
  snapshot is reported as lost.
  No chunk is lost then, but a prune that listed registers before, and removes only now, takes the snapshot
  for vanished, and its reference set and record for remnants. So where the key opens the tree, the reference
  set is written once more: parts written after the register are remnants to nobody. The register holds a copy
  of the record. Then comes a second look, and only what it finds whole is reported as brought back.
- *Registers that are OPEN beside a record* are committed, as a prune that meets them does
  (`pvback.repository.finishing`): now, and not first when it would end them.
- *Records* are written again from the register's copy, which the hash in the register vouches for, and copies
  from the record.
- *Reference sets* are written anew from the tree, under numbers that were never used, and named by a swap of
  the register. What a prune has counted of the old ones is forgotten before and after, so that no count
  outlives what it counted.

Nothing here removes anything. Each step can be repeated.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pvback import datapath
from pvback.errors import (
    ConflictError,
    DamagedError,
    ObjectChanged,
    ObjectNotFound,
    UnsupportedFormatError,
    WrongKeyError,
)
from pvback.repository.finishing import find_record, find_refs, read_stored_record
from pvback.repository.gcstate import GcState, Marks, list_index, load_gc_state
from pvback.repository.index_work import RepairWork, TreeRef
from pvback.repository.layout import Area, ObjectType, record_name, split_generation
from pvback.repository.mend_state import abandoned, change_gc_state, without_marks
from pvback.repository.reading_each import read_each
from pvback.repository.records import read_record
from pvback.repository.registers import (
    Register,
    RegisterState,
    change_register,
    create_register,
    parse_register,
)
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import Clock

__all__ = ["REASONS", "SnapshotProblem", "SnapshotTools", "mend_snapshot", "plan_snapshots"]

_ALIVE = (RegisterState.COMMITTED, RegisterState.FORGOTTEN)
_ID_DIGITS = 32
_OVERTAKEN = "a prune that ran at the same time has removed what it needs"
_ENDED = "a prune, or another repair, has committed or ended it just now"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotProblem:
    """Something to mend."""

    kind: str
    """`register-missing`, `register-damaged`, `register-open`, `record-damaged`, `twin-damaged` or
    `refs-damaged`.
    """
    snapshot: str
    register: str | None
    """`<gen>-<snapshot>`; None when there is none."""
    what: str
    """Why, for people."""


@dataclass(frozen=True, slots=True)
class SnapshotTools:
    """What mending works with."""

    objects: ScopeObjects
    work: RepairWork
    clock: Clock


def plan_snapshots(objects: ScopeObjects) -> list[SnapshotProblem]:
    """Everything to mend, in the order in which to do it. Writes nothing."""
    state = load_gc_state(objects).state
    # A register is there before its record is, and goes after it: so records are listed first.
    records = {name: info.mtime for name, info in objects.list_area(Area.RECORDS) if len(name) == _ID_DIGITS}
    names = [name for name, _ in objects.list_area(Area.SNAPSHOTS)]
    found = {name[-_ID_DIGITS:] for name in names}
    problems = [
        SnapshotProblem(
            kind="register-missing", snapshot=one, register=None, what="there is a record and no register"
        )
        for one in records
        if one not in found
    ]
    valid = [name for name in names if state.is_register_valid(name)]
    for looked in read_each(objects.store, valid, work=lambda name: _look_at(objects, name, records)):
        problems += looked
    # What is written now counts as younger than what is written before: so old ones come first.
    last = max(records.values(), default=None)
    return sorted(problems, key=lambda one: (records.get(one.snapshot, last), one.snapshot))


def mend_snapshot(tools: SnapshotTools, problem: SnapshotProblem, *, is_forced: bool = False) -> str:
    """Mend one, and say what was done. Raises PvbackError with the reason why it cannot be done.

    A register that is damaged and has no record, and one that is OPEN with a damaged record, are given up
    only if forced: FENCED, so that prunes may go on.
    """
    mend = {
        "register-missing": _revive,
        "register-damaged": _replace_register,
        "register-open": _commit,
        "record-damaged": _write_record,
        "twin-damaged": _write_twin,
        "refs-damaged": _write_refs,
    }
    try:
        return mend[problem.kind](tools, problem)
    except DamagedError:
        if problem.kind == "register-damaged" and is_forced and not _has_record(tools, problem):
            return _give_up(tools, problem)
        if problem.kind == "register-open" and is_forced and _read(tools, problem).state not in _ALIVE:
            return _end_open(tools, problem)
        raise


def _look_at(objects: ScopeObjects, name: str, records: Collection[str]) -> list[SnapshotProblem]:
    snapshot = name[-_ID_DIGITS:]

    def problem(kind: str, what: str) -> SnapshotProblem:
        return SnapshotProblem(kind=kind, snapshot=snapshot, register=name, what=what)

    try:
        sealed = objects.read(ObjectType.REGISTER, f"{Area.SNAPSHOTS}/{name}")
        register = parse_register(sealed.body, name)
    except ObjectNotFound:
        return []
    except DamagedError as exc:
        return [problem("register-damaged", exc.what)]
    if register.state is RegisterState.OPEN and snapshot in records:
        return [problem("register-open", "its snapshot has a record, and it does not say so")]
    if register.state not in _ALIVE or register.record is None:
        return []
    found = []
    is_twin = datapath.blake3(register.twin) == register.record.hash
    why = _why_bad(objects, ObjectType.RECORD, register.record)
    if why is not None:
        what = why if is_twin else f"{why}, and its register has no copy"
        found.append(problem("record-damaged", what))
    elif not is_twin:
        found.append(problem("twin-damaged", "the register has no copy of the record"))
    bad = [why for part in register.refs if (why := _why_bad(objects, ObjectType.REFERENCE_SET, part))]
    if bad or not register.refs:
        found.append(problem("refs-damaged", bad[0] if bad else "the register names no reference set"))
    return found


def _why_bad(objects: ScopeObjects, kind: ObjectType, named: Named) -> str | None:
    """Why an object that is named is not there as it should be."""
    if kind is not ObjectType.REFERENCE_SET:
        try:
            objects.read_named(kind, named)
        except DamagedError as exc:
            return exc.what
        return None
    try:
        data = objects.store.read(objects.layout.key(named.name)).data
    except ObjectNotFound:
        return "a reference set is missing"
    return None if datapath.blake3(data) == named.hash else "a reference set is not the one that was recorded"


# --- registers --------------------------------------------------------------------------------------


def _revive(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    objects = tools.objects
    register = _register_of(tools, problem)
    state = change_gc_state(objects, abandoned, clock=tools.clock).state
    _require_whole(tools, register.refs, state)
    made = replace(register, generation=state.n, ack=state.n)
    if any(name[-_ID_DIGITS:] == problem.snapshot for name, _ in objects.list_area(Area.SNAPSHOTS)):
        raise ConflictError("somebody else has made its register just now")
    if create_register(objects, made, clock=tools.clock) is None:
        raise ConflictError("its register could not be created", hint="run it again")
    change_gc_state(objects, abandoned, clock=tools.clock)
    revived = replace(problem, register=made.name)
    # Without the tree what there was has to do: the look tells whether it does.
    with contextlib.suppress(DamagedError, WrongKeyError):
        _write_refs(tools, revived)
    _look_again(tools, revived)
    return f"register {made.name} made anew"


def _look_again(tools: SnapshotTools, problem: SnapshotProblem) -> None:
    """Nothing is reported as brought back that a prune has taken for gone. Raises ConflictError."""
    objects = tools.objects
    state = load_gc_state(objects).state
    if not state.is_register_valid(problem.register or ""):
        raise ConflictError(_OVERTAKEN)
    register = _read(tools, problem)
    assert register.record is not None, "a register that was made of a record"
    if _why_bad(objects, ObjectType.RECORD, register.record) is not None:
        objects.store.put(objects.layout.key(register.record.name), register.twin)
    try:
        _require_whole(tools, register.refs, state)
    except DamagedError as exc:
        hint = "run it again with an owner's key"
        raise ConflictError(f"{_OVERTAKEN}: {exc.what}", hint=hint) from exc


def _replace_register(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    objects, name = tools.objects, problem.register
    parts = split_generation(name or "")
    assert name is not None, "a register that was listed"
    assert parts is not None, "names that were listed were classified"
    key = objects.layout.key(f"{Area.SNAPSHOTS}/{name}")
    stored = objects.store.read(key)
    register = replace(_register_of(tools, problem), generation=parts[0], nonce=datapath.random_id())
    register = replace(register, ack=parts[0])
    data = objects.seal(ObjectType.REGISTER, name=register.object_name, data=register.as_body())
    objects.store.swap(key, data, etag=stored.etag)
    return f"register {name} made anew"


def _has_record(tools: SnapshotTools, problem: SnapshotProblem) -> bool:
    try:
        tools.objects.store.head(tools.objects.layout.key(record_name(problem.snapshot)))
    except ObjectNotFound:
        return False
    return True


def _give_up(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    """End what nobody can read any more. Whose it was is not known: the source is zero."""
    objects, name = tools.objects, problem.register
    parts = split_generation(name or "")
    assert parts is not None, "a register that was listed"
    key = objects.layout.key(f"{Area.SNAPSHOTS}/{name}")
    stored = objects.store.read(key)
    register = Register(
        generation=parts[0],
        snapshot=parts[1],
        source="0" * _ID_DIGITS,
        state=RegisterState.FENCED,
        ack=parts[0],
        started=tools.clock.now(),
        nonce=datapath.random_id(),
    )
    data = objects.seal(ObjectType.REGISTER, name=register.object_name, data=register.as_body())
    objects.store.swap(key, data, etag=stored.etag)
    return f"register {name} given up: there is no record of its snapshot"


def _register_of(tools: SnapshotTools, problem: SnapshotProblem) -> Register:
    """A COMMITTED register as the snapshot's record implies it."""
    objects = tools.objects
    try:
        found = read_stored_record(objects, problem.snapshot)
    except ObjectNotFound as exc:
        what = "there is no record: either it was never committed, or both copies are lost"
        raise DamagedError(what, key=exc.key) from None
    record = found.record
    empty = Register(
        generation=0,
        snapshot=problem.snapshot,
        source=record.source,
        state=RegisterState.OPEN,
        ack=0,
        started=record.details.started if record.details else tools.clock.now(),
    )
    return replace(found, refs=find_refs(objects, record)).committed(empty)


def _commit(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    """What a prune would do with it, before it is one's turn. Nothing is reported that has become void."""
    objects, register, is_own = tools.objects, _read(tools, problem), False
    record = find_record(objects, register)

    def change(old: Register) -> Register | None:
        nonlocal is_own
        is_own = old.state is RegisterState.OPEN
        return record.committed(old) if record and is_own else None

    done = change_register(objects, register.name, change=change, clock=tools.clock).register
    state = load_gc_state(objects).state
    # What somebody else has committed may have been fenced before: a prune that has seen that ends it yet.
    if not record or not is_own or not state.is_register_valid(register.name):
        raise ConflictError(_ENDED)
    _require_whole(tools, done.refs, state)
    return f"register {register.name} committed"


def _end_open(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    """Give up a session whose record nobody can read."""

    def change(old: Register) -> Register | None:
        return replace(old, state=RegisterState.FENCED) if old.state is RegisterState.OPEN else None

    assert problem.register is not None, "a register that was listed"
    change_register(tools.objects, problem.register, change=change, clock=tools.clock)
    return f"register {problem.register} given up: the record of its snapshot is damaged"


def _require_whole(tools: SnapshotTools, refs: Sequence[Named], state: GcState) -> None:
    if not refs:
        raise DamagedError("its reference set is lost, too")
    view = list_index(tools.objects, state)
    usage = tools.work.usage(view, marks=Marks(), refs=refs)
    if usage.missing_count:
        raise DamagedError(
            f"{usage.missing_count} of the chunks and pages that it needs are in no pack of the index",
            hint="if the index is damaged, run `pvback repair index` first",
        )


# --- records and reference sets -----------------------------------------------------------------------


def _write_record(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    objects, register = tools.objects, _read(tools, problem)
    named, twin = register.record, register.twin
    if named is None or datapath.blake3(twin) != named.hash:
        raise DamagedError("the register has no copy of it", key=named.name if named else None)
    objects.store.put(objects.layout.key(named.name), twin)
    return f"{named.name} written from its register"


def _write_twin(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    objects, register = tools.objects, _read(tools, problem)
    assert register.record is not None, "a register that was looked at"
    objects.read_named(ObjectType.RECORD, register.record)
    data, named = objects.store.read(objects.layout.key(register.record.name)).data, register.record

    def change(old: Register) -> Register | None:
        return replace(old, twin=data) if old.state in _ALIVE and old.record == named else None

    change_register(objects, register.name, change=change, clock=tools.clock)
    return f"register {register.name} has the record once more"


def _write_refs(tools: SnapshotTools, problem: SnapshotProblem) -> str:
    objects, register = tools.objects, _read(tools, problem)
    assert register.record is not None, "a register that was looked at"
    record = read_record(
        objects, register.record, snapshot=register.snapshot, source=register.source, twin=register.twin
    )
    if record.details is None:
        raise WrongKeyError(
            "the key in use does not open this snapshot's tree, from which its reference set would be made",
            hint="use an owner's key",
        )
    tree = TreeRef(snapshot=register.snapshot, source=register.source, root=record.details.root.as_json())
    used = [int(name.rpartition("-")[2]) for name in _parts(objects, register)]
    view = list_index(objects, load_gc_state(objects).state)
    parts, lost_pages = tools.work.references(view, tree=tree, first=max(used, default=-1) + 1)
    if lost_pages:
        raise DamagedError(f"{lost_pages} pages of its tree are lost: what it needs below them is not known")

    def change(old: Register) -> Register | None:
        return replace(old, refs=parts) if old.state in _ALIVE and old.refs == register.refs else None

    change_gc_state(objects, without_marks, clock=tools.clock)
    change_register(objects, register.name, change=change, clock=tools.clock)
    change_gc_state(objects, without_marks, clock=tools.clock)
    return f"reference set of {len(parts)} parts written from the tree"


def _parts(objects: ScopeObjects, register: Register) -> list[str]:
    """All parts of a snapshot, of which some may be lost."""
    there = [name for name, _ in objects.list_area(Area.REFS) if name.startswith(register.snapshot)]
    return there + [part.name for part in register.refs]


def _read(tools: SnapshotTools, problem: SnapshotProblem) -> Register:
    assert problem.register is not None, "a problem of a register"
    sealed = tools.objects.read(ObjectType.REGISTER, f"{Area.SNAPSHOTS}/{problem.register}")
    return parse_register(sealed.body, problem.register)


REASONS = (
    ConflictError,
    DamagedError,
    ObjectChanged,
    ObjectNotFound,
    UnsupportedFormatError,
    WrongKeyError,
)
"""What keeps one snapshot from being mended, and does not concern the others."""
