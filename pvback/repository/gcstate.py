"""`gc/state`, the one register of prune. Section 11.3 of docs/format.md.

Invariants: n and floor only grow. What lies below the floor counts only if the state names it, so that a
write that lands long after its writer was fenced is void. Every version has a fresh nonce and is written by
compare-and-swap on the one that it was decided from.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pvback import datapath, limits
from pvback.errors import DamagedError, ObjectChanged, ObjectExists, ObjectNotFound, StorageUnavailable
from pvback.repository.body import Body, dump_body
from pvback.repository.layout import GC_STATE_NAME, Area, ObjectType, generation_name, split_generation
from pvback.repository.reading_each import beside
from pvback.repository.sealed import Named, ScopeObjects, parse_named
from pvback.runtime import Clock

__all__ = [
    "LIST_FIELDS",
    "GcState",
    "IndexView",
    "Marks",
    "StoredGcState",
    "first_gc_state",
    "found_gc_state",
    "is_all_trusted",
    "list_index",
    "list_runs",
    "load_gc_state",
    "named_lists",
    "read_gc_state",
    "read_index",
    "swap_gc_state",
]

LIST_FIELDS = ("condemned", "known", "dead", "base", "roster", "counted")
"""Fields of sets of names, each of which may lie in an object `gc/<gen>-<field>-...` of its own."""
_HINT = "`pvback repair state` makes it anew"
_NEW_LISTS = ("counted",)
"""Lists that repositories made before them lack."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How often each id is needed by the snapshots counted so far, as sorted immutable parts in `gc/`."""

    parts: tuple[Named, ...] = ()
    id_count: int = 0


@dataclass(frozen=True, slots=True)
class GcState:
    """One version, its lists loaded. Packs stand by name, runs and registers as `<gen>-<name>`."""

    n: int
    is_condemning: bool
    floor: int
    condemned: frozenset[str]
    known: frozenset[str]
    dead: frozenset[str]
    base: frozenset[str]
    roster: frozenset[str]
    marks: Marks = field(default_factory=Marks)
    """What the snapshots in `counted` need."""
    counted: frozenset[str] = frozenset()
    """Registers whose reference sets the marks count. Losing marks costs time: all is counted again."""
    gathered: Named | None = None
    """Copies of registers in one object in `gc/`: see `pvback.repository.register_copies`."""

    def is_register_valid(self, name: str) -> bool:
        """Whether a register counts."""
        return self._generation(name) >= self.floor or name in self.roster

    def is_run_valid(self, name: str) -> bool:
        """Whether a run's entries count for readers."""
        is_late = self.is_of_lost_repair(name)
        return (self._generation(name) >= self.floor and not is_late) or name in self.base

    def is_of_lost_repair(self, name: str) -> bool:
        """Whether a repair of `gc/state` made it that was killed, or too late: of a generation far above, to
        which no session gets. Nobody will name it while this version, or one that follows it, is there.
        """
        return self._generation(name) >= self.n + limits.GENERATIONS_AHEAD_MAX

    def is_run_trusted(self, name: str) -> bool:
        """Whether a writer may dedup against a run. Never true of a run that is not valid."""
        return self.is_run_valid(name) and (
            self._generation(name) >= self.n or name in self.base or name in self.known
        )

    @staticmethod
    def _generation(name: str) -> int:
        """Of a run or register, `<gen>-<name>`, or an object `<gen>-<what>` of `gc/`: callers know which."""
        return int(name.partition("-")[0], 16)


@dataclass(frozen=True, slots=True)
class StoredGcState:
    """A version of the state as it was read or written last."""

    state: GcState
    etag: str
    nonce: str
    lists: frozenset[str] = frozenset()
    """Objects in `gc/` that it names, without the folder."""


@dataclass(frozen=True, slots=True)
class IndexView:
    """The runs that a job loads, and the packs in which it must not believe."""

    runs: tuple[tuple[str, int], ...]
    """(`<gen>-<name>`, size in bytes)."""
    dead: frozenset[str]
    condemned: frozenset[str]
    base: frozenset[str] = frozenset()
    """Runs that stand in place of others: only a maintainer or owner may have signed them."""

    @property
    def pack_bytes(self) -> int:
        """Size of new packs: grows with the repository, which is taken to hold chunks compressed to half.

        From 640 GB on above the least, at 2.7 TB the greatest.
        """
        chunks = sum(size for _, size in self.runs) // limits.RUN_BYTES_PER_CHUNK
        aim = chunks * (limits.CHUNK_BYTES_AVERAGE // 2) // limits.PACK_COUNT_AIM
        return min(max(limits.PACK_BYTES_DEFAULT, aim), limits.PACK_BYTES_MAX)

    def readable(self) -> "IndexView":
        """As a reader sees it: what is condemned is still there, and may stay."""
        return replace(self, condemned=frozenset())

    def as_options(self) -> dict[str, Any]:
        """As jobs take it."""
        return {
            "runs": [{"name": name, "size": size, "base": name in self.base} for name, size in self.runs],
            "dead": sorted(self.dead),
            "condemned": sorted(self.condemned),
        }


def read_gc_state(objects: ScopeObjects) -> GcState:
    """The current state. Raises DamagedError when it is gone, for `init` wrote one, or does not open."""
    return load_gc_state(objects).state


def load_gc_state(objects: ScopeObjects) -> StoredGcState:
    """The current state, for whoever wants to replace it. Raises as `read_gc_state`."""
    for attempt in range(3):
        try:
            sealed = objects.read(ObjectType.GC_STATE, GC_STATE_NAME)
        except ObjectNotFound:
            raise DamagedError(
                "the object is missing", key=objects.layout.key(GC_STATE_NAME), hint=_HINT
            ) from None
        except DamagedError as exc:
            exc.hint = exc.hint or _HINT
            raise
        try:
            state = _parse(objects, sealed.body)
        except DamagedError as exc:
            # A list that it names may have gone with the version that named it: look again, thrice.
            current = objects.store.read(objects.layout.key(GC_STATE_NAME))
            if current.etag == sealed.etag or attempt == 2:
                exc.hint = exc.hint or _HINT
                raise
        else:
            lists = frozenset(one.name.removeprefix(f"{Area.GC}/") for one in named_lists(sealed.body))
            return StoredGcState(state, sealed.etag, sealed.body.text("nonce"), lists)
    raise AssertionError("the last attempt returns or raises")


def first_gc_state(nonce: str) -> bytes:
    """The body that `init` writes: generation 1, nothing pruned yet."""
    lists: dict[str, list[str]] = {name: [] for name in LIST_FIELDS}
    return dump_body({"v": 1, "nonce": nonce, "n": 1, "phase": "IDLE", "floor": 0, **lists, "marks": None})


def found_gc_state(objects: ScopeObjects, new: GcState, *, etag: str | None, clock: Clock) -> bool:
    """Write the state where none is, or in place of one that does not open; whether nobody else has.

    A lost answer is settled by reading. Raises StorageUnavailable, which leaves open what has happened.
    """
    nonce, key = datapath.random_id(), objects.layout.key(GC_STATE_NAME)
    body, _ = _dump(objects, new, nonce, clock=clock)
    data = objects.seal(ObjectType.GC_STATE, name=GC_STATE_NAME, data=body)
    assert len(data) <= limits.SWAPPED_BYTES_MAX, "long lists are objects of their own"
    try:
        if etag is None:
            objects.store.create(key, data)
        else:
            objects.store.swap(key, data, etag=etag)
    except (ObjectExists, ObjectChanged, ObjectNotFound, StorageUnavailable) as exc:
        try:
            found = objects.read(ObjectType.GC_STATE, GC_STATE_NAME).body
        except (DamagedError, ObjectNotFound):
            found = None
        if found is not None:
            return found.text("nonce") == nonce
        if isinstance(exc, StorageUnavailable):
            raise
        return False
    return True


def swap_gc_state(
    objects: ScopeObjects,
    old: StoredGcState,
    *,
    new: GcState,
    clock: Clock,
    before: Callable[[], None] | None = None,
) -> StoredGcState | None:
    """Replace the version that `new` was decided from; None when somebody else has replaced it.

    `before` is called before each attempt.

    Long lists become objects first. A lost answer is settled by reading: our nonce means done, the old one
    that it has not landed and is tried again. Raises StorageUnavailable, which leaves open what has happened.
    """
    assert new.n >= old.state.n, "n only grows"
    assert new.floor >= old.state.floor, "the floor only grows"
    nonce, key = datapath.random_id(), objects.layout.key(GC_STATE_NAME)
    body, lists = _dump(objects, new, nonce, clock=clock)
    data = objects.seal(ObjectType.GC_STATE, name=GC_STATE_NAME, data=body)
    assert len(data) <= limits.SWAPPED_BYTES_MAX, "long lists are objects of their own"
    attempts = objects.patience.begin(clock)
    while True:
        if before is not None:
            before()
        try:
            return StoredGcState(new, objects.store.swap(key, data, etag=old.etag), nonce, lists)
        except (StorageUnavailable, ObjectChanged) as exc:
            found = objects.read(ObjectType.GC_STATE, GC_STATE_NAME)
            if found.body.text("nonce") == nonce:
                return StoredGcState(new, found.etag, nonce, lists)
            if found.body.text("nonce") != old.nonce:
                return None
            if not attempts.wait(exc, count_max=limits.RETRY_COUNT_MAX):
                raise StorageUnavailable("a compare-and-swap got no answer", key=key) from exc


def named_lists(body: Body) -> list[Named]:
    """The objects in `gc/` that a body names. Raises DamagedError."""
    found = [
        parse_named(body.inner(name), Area.GC) for name in LIST_FIELDS if isinstance(body.raw.get(name), dict)
    ]
    marks = body.inner_or_none("marks") if "marks" in body.raw else None
    if "gathered" in body.raw:
        found.append(parse_named(body.inner("gathered"), Area.GC))
    return found + ([parse_named(one, Area.GC) for one in marks.inners("parts")] if marks else [])


def list_index(
    objects: ScopeObjects,
    state: GcState,
    *,
    is_writer: bool = False,
    listed: Mapping[str, int] | None = None,
) -> IndexView:
    """The runs that count under `state`; for a writer only those that it may dedup against.

    Who has `listed` them before the state was read (name -> size) misses what has come since: a writer dedup,
    a reader nothing where the registers that it goes by had been read before the list.

    A list may lag, so what the state names and a list does not show is asked for by name. What is not there
    either was lost, or removed under a newer state: whoever misses its entries says so.
    """
    counts = state.is_run_trusted if is_writer else state.is_run_valid
    found = list_runs(objects) if listed is None else listed
    runs = {name: size for name, size in found.items() if counts(name)}
    for name in state.base - runs.keys():
        with contextlib.suppress(ObjectNotFound):
            runs[name] = objects.store.head(objects.layout.key(f"{Area.INDEX}/{name}")).size
    return IndexView(tuple(sorted(runs.items())), dead=state.dead, condemned=state.condemned, base=state.base)


def read_index(objects: ScopeObjects) -> IndexView:
    """The index for who has read the registers of all snapshots that it is read for.

    State and list are asked for at once. What these snapshots need was listed, unless it was merged: into
    runs that the state names, or that are found when the inputs turn out to be gone, and all is read again.
    """
    state, listed = beside(
        objects.store, first=lambda: read_gc_state(objects), second=lambda: list_runs(objects)
    )
    return list_index(objects, state, listed=listed)


def is_all_trusted(objects: ScopeObjects, state: GcState) -> bool:
    """Whether a writer that has gone by `state` until now may dedup against all that a reader finds.

    Not beside a prune, nor against runs that the last one has not met.
    """
    now = read_gc_state(objects)
    is_alone = now.n == state.n and not state.condemned and not now.condemned
    return is_alone and all(
        state.is_run_trusted(name) or not now.is_run_valid(name) for name in list_runs(objects)
    )


def list_runs(objects: ScopeObjects) -> dict[str, int]:
    """Every run with its size."""
    return {name: info.size for name, info in objects.list_area(Area.INDEX)}


def _parse(objects: ScopeObjects, body: Body) -> GcState:
    body.hex("nonce", 16)
    phase = body.text("phase")
    if phase not in ("IDLE", "CONDEMNED"):
        raise body.fail("phase", "is not known")
    n, floor = body.integer("n"), body.integer("floor")
    if n < 1 or floor > n:
        raise body.fail("floor", "is above n")
    lists = {
        name: _load_list(objects, body, name)
        for name in LIST_FIELDS
        if name in body.raw or name not in _NEW_LISTS
    }
    for name in ("known", "base", "roster"):
        if not all(map(split_generation, lists[name])):
            raise body.fail(name, "holds something that is not a name")
    marks = body.inner_or_none("marks") if "marks" in body.raw else None
    counted = Marks()
    if marks is not None:
        parts = tuple(parse_named(one, Area.GC) for one in marks.inners("parts"))
        counted = Marks(parts, marks.integer("ids"))
    gathered = parse_named(body.inner("gathered"), Area.GC) if "gathered" in body.raw else None
    is_condemning = phase == "CONDEMNED"
    return GcState(n=n, is_condemning=is_condemning, floor=floor, marks=counted, gathered=gathered, **lists)


def _dump(objects: ScopeObjects, state: GcState, nonce: str, *, clock: Clock) -> tuple[bytes, frozenset[str]]:
    """The body, and the objects in `gc/` that it names."""
    lists: dict[str, object] = {}
    named = [one.name for one in (*state.marks.parts, *([state.gathered] if state.gathered else []))]
    if state.gathered:
        lists["gathered"] = state.gathered.as_json()
    for name in LIST_FIELDS:
        values = sorted(getattr(state, name))
        lists[name] = values
        if len(values) > limits.GC_LIST_COUNT_MAX:
            made = f"{Area.GC}/{generation_name(state.n, f'{name}-{nonce}')}"
            body = json.dumps(values, separators=(",", ":")).encode()
            data = objects.seal(ObjectType.GC_LIST, name=made, data=body)
            lists[name] = objects.create_own(made, data=data, clock=clock).as_json()
            named.append(made)
    marks = {"parts": [one.as_json() for one in state.marks.parts], "ids": state.marks.id_count}
    phase = "CONDEMNED" if state.is_condemning else "IDLE"
    head = {"v": 1, "nonce": nonce, "n": state.n, "phase": phase, "floor": state.floor}
    return dump_body({**head, **lists, "marks": marks if state.counted else None}), frozenset(
        name.removeprefix(f"{Area.GC}/") for name in named
    )


def _load_list(objects: ScopeObjects, body: Body, field: str) -> frozenset[str]:
    if isinstance(body.raw.get(field), list):
        return frozenset(body.texts(field))
    named = parse_named(body.inner(field), Area.GC)
    key = objects.layout.key(named.name)
    try:
        values = json.loads(objects.read_named(ObjectType.GC_LIST, named))
    except ValueError as exc:
        raise DamagedError("not JSON", key=key) from exc
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DamagedError("not a list of names", key=key)
    return frozenset(values)
