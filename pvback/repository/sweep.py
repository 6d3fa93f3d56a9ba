"""Removing what no version of `gc/state` from now on can need. Any order, any number of times, by anybody.

Names are never used again, void is never valid again, and terminal states are never left, so a removal that
lands days late does no harm. What cannot be told is left to the next prune.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pvback.repository.barrier import Registers
from pvback.repository.gcstate import LIST_FIELDS, StoredGcState
from pvback.repository.layout import Area, split_generation
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


def list_packs(objects: ScopeObjects) -> dict[str, ListedPack]:
    """Every pack by name."""
    return {
        name: ListedPack(info.key, info.size, info.mtime)
        for area in (Area.DATA, Area.META)
        for name, info in objects.list_area(area)
    }


def sweep(
    objects: ScopeObjects, stored: StoredGcState, *, registers: Registers, settle: Callable[[], None]
) -> Swept:
    """Remove dead packs, void runs, terminal and void registers and what only they name, unnamed lists.

    `stored` is IDLE; `registers` were read under it or under the version before it. `settle` returns when a
    list shows everything that was written before it was called. Raises StorageError after having removed
    some.
    """
    state = stored.state
    assert not state.is_condemning, "what is condemned is not yet dead"
    listed = list_packs(objects)
    packs = [listed[name] for name in state.dead if name in listed]
    runs = [f"{Area.INDEX}/{name}" for name in _names(objects, Area.INDEX) if not state.is_run_valid(name)]
    lists = [
        name for name in _names(objects, Area.GC) if name not in stored.lists and _is_over(name, state.n)
    ]
    # What belongs to a snapshot is written after its register is: so it is listed before.
    refs, records = _names(objects, Area.REFS), _names(objects, Area.RECORDS)
    settle()
    names = _names(objects, Area.SNAPSHOTS)
    terminal = {name for name in registers.terminal() if name in names}
    void = {name for name in names if not state.is_register_valid(name)}
    ended = {_snapshot(name) for name in terminal | void}
    known = {_snapshot(name) for name in names}
    committed = {one.snapshot for one in registers.alive().values()}

    def is_garbage(name: str) -> bool:
        snapshot = name[:_ID_DIGITS]
        return snapshot in ended or snapshot not in known

    dropped = [f"{Area.REFS}/{name}" for name in refs if is_garbage(name)]
    dropped += [
        f"{Area.RECORDS}/{name}"
        for name in records
        # Checkpoints are of no use once the snapshot is there.
        if is_garbage(name) or (name[:_ID_DIGITS] in committed and len(name) > _ID_DIGITS)
    ]
    _delete(objects, [pack.key for pack in packs])
    _delete(objects, _keys(objects, dropped))
    # Registers go last: what they name is found through them.
    others = [*runs, *(f"{Area.GC}/{name}" for name in lists)]
    others += [f"{Area.SNAPSHOTS}/{name}" for name in sorted(terminal | void)]
    _delete(objects, _keys(objects, others))
    return Swept(len(packs), sum(pack.size for pack in packs), len(dropped) + len(others))


def _is_over(name: str, n: int) -> bool:
    """Whether no prune that can still win is about to name this object of `gc/`, in the IDLE state n.

    Marks and clocks of generation n may be those of a prune that prepares n + 1; lists are made for the
    version that names them, and there is none of generation n any more.
    """
    generation, _, what = name.partition("-")
    if not what:
        return False
    return int(generation, 16) < n + (what.partition("-")[0] in LIST_FIELDS)


def _names(objects: ScopeObjects, area: Area) -> list[str]:
    return [name for name, _ in objects.list_area(area)]


def _snapshot(register_name: str) -> str:
    parts = split_generation(register_name)
    assert parts is not None, "listed names were classified"
    return parts[1]


def _keys(objects: ScopeObjects, names: Iterable[str]) -> list[str]:
    return [objects.layout.key(name) for name in names]


def _delete(objects: ScopeObjects, keys: Sequence[str]) -> None:
    if keys:
        objects.store.delete_many(keys)
