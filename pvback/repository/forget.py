"""Forgetting snapshots and bringing them back: COMMITTED <-> FORGOTTEN, each by compare-and-swap.

What a forgotten snapshot needs is protected like a committed one's until prune, after the grace, has made it
DEAD. So bringing back never races with the removal of data: either it comes first, or it is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pvback.errors import ObjectNotFound
from pvback.repository.registers import Register, RegisterState, change_register
from pvback.repository.sealed import ScopeObjects
from pvback.runtime import Clock

__all__ = ["Moved", "forget_snapshots", "undelete_snapshots"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the registers, by name."""

    changed: tuple[str, ...]
    """They are in the wanted state now, by this call or by somebody else's."""
    refused: tuple[str, ...]
    """They have gone on to a state that does not lead there, or are gone."""


def forget_snapshots(objects: ScopeObjects, names: Iterable[str], *, clock: Clock) -> Moved:
    """Make COMMITTED registers FORGOTTEN. Safe to repeat. Raises WrongKeyError, DamagedError,
    StorageError.
    """
    return _move(objects, names, way=(RegisterState.COMMITTED, RegisterState.FORGOTTEN), clock=clock)


def undelete_snapshots(objects: ScopeObjects, names: Iterable[str], *, clock: Clock) -> Moved:
    """Make FORGOTTEN registers COMMITTED again. Safe to repeat. Raises as `forget_snapshots`."""
    return _move(objects, names, way=(RegisterState.FORGOTTEN, RegisterState.COMMITTED), clock=clock)


def _move(
    objects: ScopeObjects, names: Iterable[str], *, way: tuple[RegisterState, RegisterState], clock: Clock
) -> Moved:
    changed: list[str] = []
    refused: list[str] = []

    def change(old: Register) -> Register | None:
        return replace(old, state=way[1]) if old.state is way[0] else None

    for name in names:
        try:
            is_there = change_register(objects, name, change=change, clock=clock).register.state is way[1]
        except ObjectNotFound:
            is_there = False
        (changed if is_there else refused).append(name)
    return Moved(tuple(changed), tuple(refused))
