"""A `gc/state` that is gone or does not open, made anew. Why this is safe: docs/adr/0017.

What is lost with it: which generation it is, which runs and registers are void, and which packs are dead
while requests to delete them may be under way for days. So nothing is believed that could depend on it:

- *Generation.* Above all that any name or register tells, by more than prunes can have left no trace of. The
  floor is the same number: whatever still arrives of the time before is void.
- *Sessions* are fenced, each by compare-and-swap on its register: it commits before that, or not at all. One
  whose record is there is committed instead, as prunes do. What is committed or forgotten then, or does not
  open, is in the roster.
- *Packs.* One that alone has something that a snapshot needs was not dead: what dies is not needed, or is
  elsewhere too. Such packs stay. What others have is copied into new packs where it is needed and in none of
  the first, and then they are all given up: whether they were dead before makes no difference any more.
- *Needed* is what any reference set names that is not of an ended session: also those of snapshots whose
  register is lost, which another repair may bring back.
- *Runs* are read whole and merged into a new base; packs that none lists are listed by their directories
  before.

`gc/state` is written last, by a create or a swap that succeeds only if nobody else has written it. Killed
before, a repair leaves packs, runs and fenced sessions: the next one begins anew. If a `gc/state` turns up
after all, what it left is far above that generation, and void (`GcState.is_of_lost_repair`).
"""

import contextlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from pvback import limits
from pvback.errors import ConflictError, DamagedError, ObjectNotFound, PvbackError, StorageError
from pvback.repository.barrier import ALIVE
from pvback.repository.finishing import StoredRecord, end_session, find_record
from pvback.repository.gcstate import GcState, IndexView, Marks, found_gc_state, load_gc_state
from pvback.repository.index_work import RepairWork, Usage
from pvback.repository.layout import GC_STATE_NAME, Area, split_generation
from pvback.repository.mend_state import settle
from pvback.repository.reading_each import read_each
from pvback.repository.registers import Register, RegisterState, read_register
from pvback.repository.sealed import Named, ScopeObjects
from pvback.repository.sweep import list_packs
from pvback.runtime import Cancel, Clock

__all__ = ["StateRepair", "why_lost", "write_lost_state"]

_GENERATION_MAX = 1 << 62
"""Names above are nobody's."""
_ID_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRepair:
    """What was done, or would be."""

    why: str
    """What was wrong with `gc/state`."""
    generation: int = 0
    snapshots: tuple[str, ...] = ()
    """Registers that count."""
    fenced: tuple[str, ...] = ()
    """Sessions that were ended."""
    damaged_runs: Mapping[str, str] = field(default_factory=dict)
    """Runs that do not open -> why. What they list is found by the directories of packs."""
    unlisted: tuple[str, ...] = ()
    """Packs that no run listed whole."""
    missing: tuple[str, ...] = ()
    """Packs that runs list and the store does not have."""
    given_up: tuple[str, ...] = ()
    """Packs that may have been dead."""
    copied_bytes: int = 0
    """What was copied out of these."""
    missing_count: int = 0
    """Ids that are needed and are nowhere."""


def why_lost(objects: ScopeObjects) -> tuple[str, str | None] | None:
    """What is wrong with `gc/state`, and its etag if there is one; None: nothing.

    The etag is read first: what somebody else writes meanwhile is found good, or is not that version.
    """
    etag: str | None = None
    with contextlib.suppress(ObjectNotFound):
        etag = objects.store.read(objects.layout.key(GC_STATE_NAME)).etag
    try:
        load_gc_state(objects)
    except DamagedError as exc:
        return exc.what, etag
    return None


def write_lost_state(
    objects: ScopeObjects,
    work: RepairWork,
    *,
    is_forced: bool = False,
    clock: Clock,
    cancel: Cancel,
) -> StateRepair | None:
    """Make it anew; None when there is nothing wrong with it.

    Forced, no pack is given up: right when no prune has removed anything for as long as a request may take.
    Raises DamagedError when it is not known what a snapshot needs, unless forced; ConflictError when somebody
    else has written it meanwhile, StorageError, Interrupted.
    """
    lost = why_lost(objects)
    if lost is None:
        return None
    settle(objects, clock)
    attempt = _Repair(objects, work, is_forced=is_forced, clock=clock, cancel=cancel)
    repair, state = attempt.run(lost[0])
    if not found_gc_state(objects, state, etag=lost[1], clock=clock):
        attempt.take_back()
        raise ConflictError(
            "somebody else has written it meanwhile",
            key=objects.layout.key(GC_STATE_NAME),
            hint="run it again",
        )
    return repair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """What there is of runs and packs."""

    generation: int
    """The new one."""
    runs: Mapping[str, int]
    """Those that open, with their sizes."""
    damaged: Mapping[str, str]
    listed: frozenset[str]
    """Packs in the store."""
    missing: frozenset[str]
    unlisted: list[tuple[str, int]]


class _Repair:
    def __init__(
        self, objects: ScopeObjects, work: RepairWork, *, is_forced: bool, clock: Clock, cancel: Cancel
    ) -> None:
        self._objects, self._work, self._is_forced = objects, work, is_forced
        self._clock, self._cancel = clock, cancel
        self._made: set[str] = set()
        """Runs that were written."""

    def take_back(self) -> None:
        """Remove the runs that were written, once it is known that no `gc/state` will name them.

        They are of a generation far above the one which counts: void, and the next prune would remove them.
        """
        with contextlib.suppress(StorageError):
            self._objects.store.delete_many(
                [self._objects.layout.key(f"{Area.INDEX}/{name}") for name in sorted(self._made)]
            )

    def run(self, why: str) -> tuple[StateRepair, GcState]:
        """Everything but the write of `gc/state`."""
        work = self._work
        registers, closed, fenced = self._end_sessions()
        refs = self._needed(registers, closed)
        found = self._read_index(registers, closed)
        generation, listed = found.generation, found.listed
        rebuilt = work.rebuild(found.unlisted, generation=generation)
        self._made |= set(rebuilt.runs)
        runs = {**found.runs, **self._sizes(rebuilt.runs)}
        view = _view(runs, dead=found.missing)
        usage = work.usage(view, marks=Marks(), refs=refs)
        doubtful = self._doubtful(usage, listed)
        self._cancel.check()
        packs = [name for name in sorted(doubtful) if usage.packs[name].used_count]
        given_up = replace(view, condemned=doubtful)
        repacked = work.repack(given_up, packs=packs, marks=Marks(), refs=refs, generation=generation)
        self._made |= set(repacked.runs)
        runs |= self._sizes(repacked.runs)
        self._cancel.check()
        base = work.merge(_view(runs, dead=found.missing), drop=doubtful, generation=generation)
        self._made |= set(base)
        names = frozenset(registers) | closed
        repair = StateRepair(
            why=why,
            generation=generation,
            snapshots=tuple(sorted(names)),
            fenced=fenced,
            damaged_runs=found.damaged,
            unlisted=tuple(name for name, _ in found.unlisted),
            missing=tuple(sorted(found.missing)),
            given_up=tuple(sorted(doubtful)),
            copied_bytes=repacked.moved_bytes,
            missing_count=usage.missing_count,
        )
        return repair, _state(generation, dead=doubtful, base=frozenset(base), roster=names)

    def _read_index(self, registers: Mapping[str, Register], closed: frozenset[str]) -> _Index:
        objects = self._objects
        listed = list_packs(objects)
        # What a run lists was there before it: so runs are listed after packs.
        runs = {name: info.size for name, info in objects.list_area(Area.INDEX)}
        survey = self._work.survey(_view(runs), directories=True)
        for name in (*survey.damaged, *survey.missing):
            runs.pop(name, None)
        prefix = objects.layout.prefix
        self._cancel.check()
        return _Index(
            generation=self._generation(registers, closed, frozenset(runs)),
            runs=runs,
            damaged=survey.damaged,
            listed=frozenset(listed),
            missing=self._missing(survey.packs, listed.keys()),
            unlisted=[
                (pack.key.removeprefix(prefix), pack.size)
                for name, pack in sorted(listed.items())
                if name not in survey.packs or name in survey.incomplete
            ],
        )

    def _end_sessions(self) -> tuple[dict[str, Register], frozenset[str], tuple[str, ...]]:
        """Snapshots by register, registers that do not open, and sessions that were fenced here."""
        objects = self._objects
        names = [name for name, _ in objects.list_area(Area.SNAPSHOTS)]
        read = read_each(objects.store, names, work=self._end_session)
        alive: dict[str, Register] = {}
        closed: list[str] = []
        fenced: list[str] = []
        for name, found in zip(names, read, strict=True):
            if isinstance(found, PvbackError):
                closed.append(name)
            elif found is not None:
                register, was_open = found
                if register.state in ALIVE:
                    alive[name] = register
                elif was_open:
                    fenced.append(name)
        return alive, frozenset(closed), tuple(sorted(fenced))

    def _end_session(self, name: str) -> tuple[Register, bool] | PvbackError | None:
        def find(register: Register) -> StoredRecord | None:
            # Whose record does not open has nothing else that says what it is.
            with contextlib.suppress(DamagedError):
                return find_record(self._objects, register)
            return None

        def is_open(register: Register) -> bool:
            return register.state is RegisterState.OPEN

        try:
            was_open = is_open(read_register(self._objects, name).register)
            ended = end_session(self._objects, name, is_due=is_open, find=find, clock=self._clock)
        except ObjectNotFound:
            return None
        except DamagedError as exc:
            return exc
        return ended, was_open

    def _needed(self, registers: Mapping[str, Register], closed: frozenset[str]) -> tuple[Named, ...]:
        """Parts of reference sets: those that registers name, and all of snapshots without a readable one."""
        objects = self._objects
        known = {name[-_ID_DIGITS:] for name, _ in objects.list_area(Area.SNAPSHOTS)}
        lost = {name[-_ID_DIGITS:] for name in closed}
        stored = {f"{Area.REFS}/{name}": info.key for name, info in objects.list_area(Area.REFS)}
        named = {part.name: part for register in registers.values() for part in register.refs}
        unnamed = [
            name
            for name in stored
            if name not in named and ((one := _snapshot(name)) in lost or one not in known)
        ]
        for name in unnamed:
            named[name] = Named(name, objects.hash_of(name))
        problem = self._unknown(
            registers, lost - {_snapshot(name) for name in unnamed}, tuple(named.values())
        )
        if problem is not None and not self._is_forced:
            raise problem
        return () if problem is not None else tuple(named.values())

    def _unknown(
        self, registers: Mapping[str, Register], without: set[str], parts: tuple[Named, ...]
    ) -> DamagedError | None:
        """Why it is not known what all snapshots need."""
        hint = "`--force` gives up no pack: use it a day after the last prune"
        for snapshot in (*without, *(one.snapshot for one in registers.values() if not one.refs)):
            return DamagedError(f"it is not known what snapshot {snapshot} needs", hint=hint)
        found = read_each(self._objects.store, parts, work=self._is_good)
        for part, is_good in zip(parts, found, strict=True):
            if not is_good:
                key = self._objects.layout.key(part.name)
                return DamagedError("a reference set is damaged or missing", key=key, hint=hint)
        return None

    def _is_good(self, part: Named) -> bool:
        try:
            return self._objects.hash_of(part.name) == part.hash
        except ObjectNotFound:
            return False

    def _generation(
        self, registers: Mapping[str, Register], closed: frozenset[str], runs: frozenset[str]
    ) -> int:
        objects = self._objects
        told = [name for name, _ in objects.list_area(Area.GC) if "-" in name]
        seen = [int(name.partition("-")[0], 16) for name in (*told, *closed)]
        for name in (*registers, *runs):
            parts = split_generation(name)
            assert parts is not None, "names that were listed were classified"
            seen.append(parts[0])
        seen += [one.ack for one in registers.values()]
        return (
            max((one for one in seen if one < _GENERATION_MAX), default=0) + limits.GENERATIONS_WITHOUT_TRACE
        )

    def _missing(self, packs: Mapping[str, tuple[str, int]], listed: AbstractSet[str]) -> frozenset[str]:
        """Packs of the index that the store does not have, each asked for by its name."""
        absent = [name for name in packs if name not in listed]

        def is_there(name: str) -> bool:
            try:
                self._objects.store.head(self._objects.layout.key(packs[name][0]))
            except ObjectNotFound:
                return False
            return True

        found = read_each(self._objects.store, absent, work=is_there)
        return frozenset(name for name, one in zip(absent, found, strict=True) if not one)

    def _doubtful(self, usage: Usage, listed: AbstractSet[str]) -> frozenset[str]:
        """Packs of which every needed blob is elsewhere, too."""
        if self._is_forced:
            return frozenset()
        return frozenset(name for name, use in usage.packs.items() if not use.sole_count and name in listed)

    def _sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        layout, store = self._objects.layout, self._objects.store
        return {name: store.head(layout.key(f"{Area.INDEX}/{name}")).size for name in names}


def _state(generation: int, *, dead: frozenset[str], base: frozenset[str], roster: frozenset[str]) -> GcState:
    return GcState(
        n=generation,
        is_condemning=False,
        floor=generation,
        condemned=frozenset(),
        known=frozenset(),
        dead=dead,
        base=base,
        roster=roster,
    )


def _view(runs: Mapping[str, int], *, dead: frozenset[str] = frozenset()) -> IndexView:
    return IndexView(tuple(sorted(runs.items())), dead=dead, condemned=frozenset())


def _snapshot(part: str) -> str:
    return part.rpartition("/")[2].partition("-")[0]
