"""Removing what no version of `gc/state` from now on can need. Any order, any number of times, by anybody.

Names are never used again, void is never valid again, and terminal states are never left, so a removal that
lands days late does no harm. What cannot be told is left to the next prune.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pvback.repository.barrier import Registers
from pvback.repository.gcstate import GcState, StoredGcState, load_gc_state
from pvback.repository.layout import Area, split_generation
from pvback.repository.locks import delete_unlocked
from pvback.repository.prune_plan import ListedPack
from pvback.repository.sealed import ScopeObjects

__all__ = ["Swept", "list_packs", "sweep"]

_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    pack_count: int = 0
    pack_bytes: int = 0
    object_count: int = 0
    """Of other kinds."""
    locked_count: int = 0
    """Objects that the store keeps as they are locked; they are counted in no other."""


def list_packs(objects: ScopeObjects) -> dict[str, ListedPack]:
    """Every pack by name."""
    return {
        name: ListedPack(info.key, info.size, info.mtime)
        for area in (Area.DATA, Area.META)
        for name, info in objects.list_area(area)
    }


def sweep(
    objects: ScopeObjects,
    stored: StoredGcState,
    *,
    registers: Registers,
    settle: Callable[[], None],
    now: datetime,
) -> Swept:
    """Remove dead packs, void runs and registers, what only void registers name, unnamed lists.

    A register that has ended stays until it is void: its create may land a second time, with the same etag,
    and a session that somebody else has fenced would go on (docs/adr/0011).

    `stored` is IDLE; `registers` were read under it or under the version before it. `settle` returns when a
    list shows everything that was written before it was called; `now` is the store's time. What the store
    keeps as it is locked is left to a later prune. Raises StorageError after having removed some.
    """
    state = stored.state
    assert not state.is_condemning, "what is condemned is not yet dead"
    listed = list_packs(objects)
    packs = [listed[name] for name in state.dead if name in listed]
    runs = [name for name in _names(objects, Area.INDEX) if not state.is_run_valid(name)]
    lists = [name for name in _names(objects, Area.GC) if name not in stored.lists and "-" in name]
    runs, lists = _without_repairs(objects, state, names=runs), _without_repairs(objects, state, names=lists)
    lists = [name for name in lists if _is_over(name, state.n) or state.is_of_lost_repair(name)]
    # What belongs to a snapshot is written after its register is: so it is listed before.
    refs, records = _names(objects, Area.REFS), _names(objects, Area.RECORDS)
    settle()
    names = _names(objects, Area.SNAPSHOTS)
    void = {name for name in names if not state.is_register_valid(name)}
    # Of one that was lost and made anew the first register may come back, and be void. One that has ended is
    # void after the cycle that saw it ended, without a record; until then it may be committed yet.
    needed = {_snapshot(name) for name in names if name not in void}
    committed = {one.snapshot for one in registers.alive().values()}

    def is_garbage(name: str) -> bool:
        return name[:_ID_DIGITS] not in needed

    dropped = [f"{Area.REFS}/{name}" for name in refs if is_garbage(name)]
    dropped += [
        f"{Area.RECORDS}/{name}"
        for name in records
        # Checkpoints are of no use once the snapshot is there.
        if is_garbage(name) or (name[:_ID_DIGITS] in committed and len(name) > _ID_DIGITS)
    ]
    kept = set(delete_unlocked(objects.store, [pack.key for pack in packs], now=now))
    gone = [pack for pack in packs if pack.key not in kept]
    kept.update(delete_unlocked(objects.store, _keys(objects, dropped), now=now))
    # Registers go last: what they name is found through them.
    others = [*(f"{Area.INDEX}/{name}" for name in runs), *(f"{Area.GC}/{name}" for name in lists)]
    others += [f"{Area.SNAPSHOTS}/{name}" for name in sorted(void)]
    kept.update(delete_unlocked(objects.store, _keys(objects, others), now=now))
    count = len(packs) + len(dropped) + len(others) - len(kept)
    return Swept(len(gone), sum(pack.size for pack in gone), count - len(gone), len(kept))


def _is_over(name: str, n: int) -> bool:
    """Whether nobody who can still win is about to name this object of `gc/`, in the IDLE state n.

    Marks and clocks of generation n may be those of a prune that prepares n + 1. Its lists may be those of a
    repair or a key change, which puts another IDLE n in place of the one that was read here.
    """
    generation, _, what = name.partition("-")
    return bool(what) and int(generation, 16) < n


def _without_repairs(objects: ScopeObjects, state: GcState, *, names: list[str]) -> list[str]:
    """Without what a repair may be about to name that has found `gc/state` lost.

    `names` were listed before. A `gc/state` that is there after that keeps every repair that had begun then
    from writing its own: so only now it is known that theirs are void.
    """
    if not any(map(state.is_of_lost_repair, names)):
        return names
    now = load_gc_state(objects).state
    return [name for name in names if not state.is_of_lost_repair(name) or now.is_of_lost_repair(name)]


def _names(objects: ScopeObjects, area: Area) -> list[str]:
    return [name for name, _ in objects.list_area(area)]


def _snapshot(register_name: str) -> str:
    parts = split_generation(register_name)
    assert parts is not None, "listed names were classified"
    return parts[1]


def _keys(objects: ScopeObjects, names: Iterable[str]) -> list[str]:
    return [objects.layout.key(name) for name in names]
