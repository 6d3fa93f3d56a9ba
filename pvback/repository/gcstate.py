"""`gc/state`, the one register of prune, as readers and writers see it. Section 11.3 of docs/format.md.

Invariants: n and floor only grow. What lies below the floor counts only if the state names it, so that a
write that lands long after its writer was fenced is void.
"""

import json
from dataclasses import dataclass
from typing import Any

from pvback import limits
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.body import Body, dump_body
from pvback.repository.layout import GC_STATE_NAME, Area, ObjectType, split_generation
from pvback.repository.sealed import ScopeObjects, parse_named

__all__ = ["GcState", "IndexView", "first_gc_state", "list_index", "read_gc_state"]

_LISTS = ("condemned", "known", "dead", "base", "roster")


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

    def is_register_valid(self, name: str) -> bool:
        """Whether a register counts."""
        return self._generation(name) >= self.floor or name in self.roster

    def is_run_valid(self, name: str) -> bool:
        """Whether a run's entries count for readers."""
        return self._generation(name) >= self.floor or name in self.base

    def is_run_trusted(self, name: str) -> bool:
        """Whether a writer may dedup against a run. Never true of a run that is not valid."""
        return self.is_run_valid(name) and (
            self._generation(name) >= self.n or name in self.base or name in self.known
        )

    @staticmethod
    def _generation(name: str) -> int:
        parts = split_generation(name)
        assert parts is not None, "callers pass names that were classified"
        return parts[0]


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

    def as_options(self) -> dict[str, Any]:
        """As jobs take it."""
        return {
            "runs": [{"name": name, "size": size, "base": name in self.base} for name, size in self.runs],
            "dead": sorted(self.dead),
            "condemned": sorted(self.condemned),
        }


def read_gc_state(objects: ScopeObjects) -> GcState:
    """The current state. Raises DamagedError when it is gone: `init` wrote one."""
    for attempt in range(3):
        try:
            sealed = objects.read(ObjectType.GC_STATE, GC_STATE_NAME)
        except ObjectNotFound:
            raise DamagedError("the object is missing", key=objects.layout.key(GC_STATE_NAME)) from None
        try:
            return _parse(objects, sealed.body)
        except DamagedError:
            # A list that it names may have gone with the version that named it: look again, thrice.
            current = objects.store.read(objects.layout.key(GC_STATE_NAME))
            if current.etag == sealed.etag or attempt == 2:
                raise
    raise AssertionError("the last attempt returns or raises")


def first_gc_state(nonce: str) -> bytes:
    """The body that `init` writes: generation 1, nothing pruned yet."""
    lists: dict[str, list[str]] = {name: [] for name in _LISTS}
    return dump_body({"v": 1, "nonce": nonce, "n": 1, "phase": "IDLE", "floor": 0, **lists})


def list_index(objects: ScopeObjects, state: GcState, *, is_writer: bool = False) -> IndexView:
    """The runs that count under `state`; for a writer only those that it may dedup against."""
    counts = state.is_run_trusted if is_writer else state.is_run_valid
    runs = tuple((name, info.size) for name, info in objects.list_area(Area.INDEX) if counts(name))
    return IndexView(runs, dead=state.dead, condemned=state.condemned, base=state.base)


def _parse(objects: ScopeObjects, body: Body) -> GcState:
    body.hex("nonce", 16)
    phase = body.text("phase")
    if phase not in ("IDLE", "CONDEMNED"):
        raise body.fail("phase", "is not known")
    n, floor = body.integer("n"), body.integer("floor")
    if n < 1 or floor > n:
        raise body.fail("floor", "is above n")
    lists = {name: _load_list(objects, body, name) for name in _LISTS}
    for name in ("known", "base", "roster"):
        if not all(map(split_generation, lists[name])):
            raise body.fail(name, "holds something that is not a name")
    return GcState(n=n, is_condemning=phase == "CONDEMNED", floor=floor, **lists)


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
