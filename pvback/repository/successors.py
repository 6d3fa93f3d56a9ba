"""Which snapshot stands in place of one that has lost content, where several repairs have written one.

Nothing keeps two repairs from committing one each. So each looks once its own is there: who looks last sees
all of them, and whoever sees several chooses the same one and forgets the others, which can be brought back.
Those that say different things of what is lost all stay. What is left of a repair that was killed before it
looked, the next one forgets.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pvback.repository.forget import forget_snapshots
from pvback.repository.mend_state import settle
from pvback.repository.sealed import ScopeObjects
from pvback.repository.snapshots import Catalog, load_catalog
from pvback.runtime import Clock

__all__ = ["Successors", "choose_successor", "settle_successors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Successors:
    """What is there in place of one snapshot."""

    chosen: str | None
    """The one that counts; None: there is none."""
    extra: tuple[str, ...]
    """Registers of those that say the same as another one."""


def choose_successor(catalog: Catalog, damaged: str) -> Successors:
    """Of the snapshots that were written anew from `damaged`, the one with the lowest id. Pure."""
    kept: list[str] = []
    seen: list[Mapping[str, int]] = []
    extra: list[str] = []
    for one in sorted(catalog.snapshots, key=lambda one: one.id):
        repaired = one.details.repaired if one.details else None
        if repaired is None or repaired.snapshot != damaged:
            continue
        if repaired.lost in seen:
            extra.append(one.register.name)
        else:
            kept.append(one.id)
            seen.append(repaired.lost)
    return Successors(chosen=kept[0] if kept else None, extra=tuple(extra))


def settle_successors(objects: ScopeObjects, damaged: str, *, clock: Clock) -> str | None:
    """Leave one successor of each kind, and return the one that counts. Once one's own is committed.

    Safe to repeat. Raises as `forget_snapshots`.
    """
    settle(objects, clock)
    found = choose_successor(load_catalog(objects), damaged)
    if found.extra:
        forget_snapshots(objects, found.extra, clock=clock)
    return found.chosen
