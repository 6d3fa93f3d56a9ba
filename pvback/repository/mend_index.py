"""Repairing the index: runs from what packs say of themselves, and packs that are damaged given up.

Beside backups and prune, whose rules are in section 11.3 of docs/format.md:

- *What is listed.* Packs that are in the store, that no readable run lists, or of which none lists some blobs
  (a merge spreads those of one pack over several runs), and that are neither dead nor condemned. Listing one
  that nobody needs does no harm: writers may use it like any other, and prune counts it as unused. That holds
  for packs of sessions that were fenced or are under way, too: a pack is complete and signed, or its
  directory does not open.
- *Never a pack that is being removed.* Dead packs stay in `gc/state` for as long as a list shows them, so no
  request to delete one can be under way for a pack that is listed here.
- *The new run's generation is n as it was read before packs and runs were listed.* It counts until the floor
  passes n. If a prune condemns one of the packs meanwhile, either its last look, after every session has
  taken note, sees the run (then what is needed of the pack revives it; a writer that has used the run has
  named the pack in `keep`), or the run comes later and is below the floor: void, and never believed by
  anybody. So n is read again at the end, and when it has changed all is done once more.
- *What is needed cannot have died in between*: while ids that snapshots need are in no run, prune removes
  nothing.
- *Lost runs.* One that does not open is removed only after the new run is durable and `gc/state` no longer
  names it; until then everybody leaves it out. A run that opens is never removed, even if it contradicts
  another. While a run is lost, what it listed is not known, condemned packs among it: so the cycle under way,
  which could not end anyway, is abandoned first.

Killed anywhere, this leaves a run that lists what others list, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pvback import limits
from pvback.errors import ConflictError
from pvback.repository.gcstate import GcState, StoredGcState, list_index, load_gc_state, swap_gc_state
from pvback.repository.index_work import LostBlob, RepairWork, Survey, TreeRef
from pvback.repository.layout import GC_STATE_NAME, Area
from pvback.repository.mend_state import abandoned, settle, with_dead, without_runs
from pvback.repository.sealed import ScopeObjects
from pvback.repository.sweep import list_packs
from pvback.runtime import Cancel, Clock

__all__ = ["IndexPlan", "IndexRepair", "PackRepair", "plan_index", "repair_index", "repair_packs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """What is wrong with the index."""

    damaged_runs: Mapping[str, str] = field(default_factory=dict)
    """Runs that do not open -> why."""
    missing_runs: tuple[str, ...] = ()
    """Runs that `gc/state` names."""
    contradicting_runs: Mapping[str, str] = field(default_factory=dict)
    """Runs that say other things about a pack than others do; they stay."""
    unlisted: tuple[tuple[str, int], ...] = ()
    """Packs that no readable run lists, or not whole: name below the scope, and size."""

    @property
    def lost_runs(self) -> frozenset[str]:
        """Runs that are to go."""
        return frozenset((*self.damaged_runs, *self.missing_runs))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.lost_runs or self.unlisted)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRepair:
    """What was done."""

    plan: IndexPlan
    runs: tuple[str, ...] = ()
    """The new ones."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Packs, by name below the scope, whose directory does not open -> why; no run lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRepair:
    """What was done about damaged packs."""

    packs: tuple[str, ...] = ()
    """Names of the packs that were given up."""
    saved_count: int = 0
    saved_bytes: int = 0
    lost: Sequence[LostBlob] = ()


def plan_index(objects: ScopeObjects, work: RepairWork, *, state: GcState) -> IndexPlan:
    """What is to be done under `state`. Writes nothing."""
    listed = list_packs(objects)
    # What a run lists was there before it: so runs are listed after packs.
    view = list_index(objects, state)
    survey = work.survey(view, directories=True)
    missing = state.base - {name for name, _ in view.runs} | frozenset(survey.missing) & state.base
    left = state.dead | state.condemned | (survey.packs.keys() - survey.incomplete)
    prefix = objects.layout.prefix
    return IndexPlan(
        damaged_runs=survey.damaged,
        missing_runs=tuple(sorted(missing)),
        contradicting_runs=survey.contradicting,
        unlisted=tuple(
            (pack.key.removeprefix(prefix), pack.size)
            for name, pack in sorted(listed.items())
            if name not in left
        ),
    )


def repair_index(objects: ScopeObjects, work: RepairWork, *, clock: Clock, cancel: Cancel) -> IndexRepair:
    """Make runs for packs that no readable run lists, and drop the runs that are lost.

    Raises ConflictError when prunes were faster each time, StorageError, Interrupted.
    """
    first: IndexPlan | None = None
    for _ in range(limits.PRUNE_RESTART_COUNT_MAX):
        cancel.check()
        stored = load_gc_state(objects)
        settle(objects, clock)
        plan = plan_index(objects, work, state=stored.state)
        first = first or plan
        if plan.is_empty:
            return IndexRepair(plan=first)
        if plan.lost_runs and stored.state.is_condemning:
            swap_gc_state(objects, stored, new=abandoned(stored.state), clock=clock)
            continue
        cancel.check()
        rebuilt = work.rebuild(plan.unlisted, generation=stored.state.n)
        if _is_dropped(objects, stored, plan, clock=clock):
            return IndexRepair(plan=plan, runs=rebuilt.runs, problems=rebuilt.problems)
    raise _too_busy(objects)


def _is_dropped(objects: ScopeObjects, stored: StoredGcState, plan: IndexPlan, *, clock: Clock) -> bool:
    """Whether the generation is still the same, and lost runs are gone."""
    new = without_runs(stored.state, plan.lost_runs)
    if new == stored.state:
        if load_gc_state(objects).state.n != stored.state.n:
            return False
    elif swap_gc_state(objects, stored, new=new, clock=clock) is None:
        return False
    keys = [objects.layout.key(f"{Area.INDEX}/{name}") for name in plan.damaged_runs]
    if keys:
        objects.store.delete_many(keys)
    return True


def repair_packs(
    objects: ScopeObjects,
    work: RepairWork,
    *,
    broken: frozenset[str],
    trees: Sequence[TreeRef],
    clock: Clock,
    cancel: Cancel,
) -> PackRepair:
    """Save what opens of packs, given by name, into new ones, and make them dead.

    Order: new packs, the run that lists them, then the swap after which nobody looks into the old ones.
    Backups that run at the same time may have built on what is lost; `check` says so afterwards. Raises as
    `repair_index`.
    """
    for _ in range(limits.PRUNE_RESTART_COUNT_MAX):
        cancel.check()
        stored = load_gc_state(objects)
        if stored.state.is_condemning:
            swap_gc_state(objects, stored, new=abandoned(stored.state), clock=clock)
            continue
        view = list_index(objects, stored.state)
        packs = _sized(objects, work.survey(view), broken - stored.state.dead)
        saved = work.salvage(view, packs=packs, trees=trees, generation=stored.state.n)
        new = with_dead(stored.state, broken)
        if new == stored.state or swap_gc_state(objects, stored, new=new, clock=clock) is not None:
            return PackRepair(
                packs=tuple(sorted(broken)),
                saved_count=saved.saved_count,
                saved_bytes=saved.saved_bytes,
                lost=saved.lost,
            )
    raise _too_busy(objects)


def _sized(objects: ScopeObjects, survey: Survey, broken: frozenset[str]) -> list[tuple[str, int]]:
    """Name below the scope and size: as the index has it, else as the store does."""
    listed = {
        name: (pack.key.removeprefix(objects.layout.prefix), pack.size)
        for name, pack in list_packs(objects).items()
    }
    known = {**listed, **survey.packs}
    return [known[name] for name in sorted(broken) if name in known]


def _too_busy(objects: ScopeObjects) -> ConflictError:
    return ConflictError(
        "prunes were faster each time",
        key=objects.layout.key(GC_STATE_NAME),
        hint="run it again when they have ended",
    )
