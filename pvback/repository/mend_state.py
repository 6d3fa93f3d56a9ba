"""What repairs do to `gc/state`. Each is one compare-and-swap that leaves n and the floor as they are.

- A cycle is *abandoned*: CONDEMNED n becomes IDLE n without anything dead. Nothing was removed and nothing
  will be: whoever was about to finish the cycle loses its swap, and begins again. Sessions that have taken
  note of n go on; those that have not are waited for by the next cycle. Needed where a prune cannot get on
  because of damage, and where something that it does not know of must not die.
- Runs that are lost leave `base` and `known`.
- Packs that are lost become dead: nobody looks into them from then on, the next merge drops their entries,
  and what is left of them is removed. That is what dead means, whoever has said it; and no prune takes a dead
  pack out of the list for as long as it is in the store.
- Marks are forgotten when a reference set was written anew: the next prune counts everything again.
"""

from collections.abc import Callable
from dataclasses import replace

from pvback import limits
from pvback.errors import ConflictError, UsageError
from pvback.repository.gcstate import GcState, Marks, StoredGcState, load_gc_state, swap_gc_state
from pvback.repository.layout import GC_STATE_NAME
from pvback.repository.sealed import ScopeObjects
from pvback.repository.timing import is_timed
from pvback.runtime import Clock

__all__ = [
    "abandoned",
    "change_gc_state",
    "require_conditions",
    "settle",
    "with_dead",
    "without_marks",
    "without_runs",
]


def abandoned(state: GcState) -> GcState:
    """IDLE, with nothing condemned."""
    return replace(state, is_condemning=False, condemned=frozenset())


def with_dead(state: GcState, packs: frozenset[str]) -> GcState:
    """With more dead packs, of an IDLE state."""
    assert not state.is_condemning, "the end of a cycle names what is dead"
    return replace(state, dead=state.dead | packs)


def without_runs(state: GcState, runs: frozenset[str]) -> GcState:
    """Without runs that are lost."""
    return replace(state, base=state.base - runs, known=state.known - runs)


def without_marks(state: GcState) -> GcState:
    """Nothing is counted."""
    return replace(state, marks=Marks(), counted=frozenset())


def change_gc_state(
    objects: ScopeObjects, change: Callable[[GcState], GcState], *, clock: Clock
) -> StoredGcState:
    """Bring `gc/state` to what `change` makes of it, whoever else writes; `change` is pure.

    Raises ConflictError when others were faster each time.
    """
    for _ in range(limits.PRUNE_RESTART_COUNT_MAX):
        stored = load_gc_state(objects)
        new = change(stored.state)
        if new == stored.state:
            return stored
        swapped = swap_gc_state(objects, stored, new=new, clock=clock)
        if swapped is not None:
            return swapped
    raise ConflictError("others changed it each time", key=objects.layout.key(GC_STATE_NAME))


def settle(objects: ScopeObjects, clock: Clock) -> None:
    """Return when a list shows everything that was written before."""
    lag = objects.store.capabilities.list_lag_seconds
    if lag:
        clock.sleep(lag)


def require_conditions(objects: ScopeObjects) -> None:
    """Refuse a store on which a swap may undo somebody else's. Raises UsageError."""
    if is_timed(objects):
        raise UsageError(
            "this store has no conditional writes, without which a repair is not safe",
            hint="copy the repository to a store that has them, and repair it there",
        )
