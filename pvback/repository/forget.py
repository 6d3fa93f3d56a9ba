"""Forgetting snapshots and bringing them back: COMMITTED <-> FORGOTTEN, each by compare-and-swap.

What a forgotten snapshot needs is protected like a committed one's until prune, after the grace, has made it
DEAD. So bringing back never races with the removal of data: either it comes first, or it is refused.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pvback import limits
from pvback.errors import ConflictError, ObjectNotFound
from pvback.repository.barrier import store_time
from pvback.repository.gcstate import read_gc_state
from pvback.repository.layout import Area
from pvback.repository.registers import Register, RegisterState, change_register
from pvback.repository.sealed import ScopeObjects
from pvback.repository.timing import View, is_timed, require_undeletable
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
    """Make FORGOTTEN registers COMMITTED again. Safe to repeat. Raises as `forget_snapshots`.

    On a store without conditional writes ConflictError, before any is changed, when the grace of one is over
    or it was forgotten a moment ago.
    """
    names = list(names)
    require = _require_undeletable(objects, names, clock=clock) if is_timed(objects) else None
    way = (RegisterState.FORGOTTEN, RegisterState.COMMITTED)
    return _move(objects, names, way=way, clock=clock, require=require)


def _require_undeletable(objects: ScopeObjects, names: Iterable[str], *, clock: Clock) -> Callable[[], None]:
    """Raises ConflictError when one cannot be brought back; what is returned does when that is long ago."""
    view = View.begin(clock)
    now = store_time(objects, read_gc_state(objects).n, clock=clock)
    for name in names:
        with contextlib.suppress(ObjectNotFound):
            key = objects.layout.key(f"{Area.SNAPSHOTS}/{name}")
            require_undeletable(objects.store.head(key).mtime, now, key=key)

    def require() -> None:
        if view.age(clock) > limits.TIMED_VIEW_SECONDS:
            raise ConflictError("bringing back took too long", hint="run it again")

    return require


def _move(
    objects: ScopeObjects,
    names: Iterable[str],
    *,
    way: tuple[RegisterState, RegisterState],
    clock: Clock,
    require: Callable[[], None] | None = None,
) -> Moved:
    changed: list[str] = []
    refused: list[str] = []

    def change(old: Register) -> Register | None:
        return replace(old, state=way[1]) if old.state is way[0] else None

    for name in names:
        try:
            if require is not None:
                require()
            is_there = change_register(objects, name, change=change, clock=clock).register.state is way[1]
        except ObjectNotFound:
            is_there = False
        (changed if is_there else refused).append(name)
    return Moved(tuple(changed), tuple(refused))
