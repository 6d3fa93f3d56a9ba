"""Prune without locks: one cycle through `gc/state`, which any prune may finish for another.

IDLE n -> mark, repack, choose what to condemn -> CONDEMNED n+1 -> barrier -> mark again -> merge -> IDLE
with the dead packs named -> remove them. Invariants:

- Nothing is removed before a version of `gc/state` is durable whose valid runs do not list it.
- What is condemned was chosen by a mark that may be wrong; what dies was looked at again after every session
  had ended, been fenced, or named what it keeps.
- Whatever goes wrong before the second swap removes nothing; whatever goes wrong after it, the next prune
  removes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from pvback import limits
from pvback.errors import ConflictError, DamagedError, ObjectNotFound
from pvback.repository.barrier import Registers, await_sessions, read_registers, store_time
from pvback.repository.gcstate import (
    GcState,
    IndexView,
    Marks,
    StoredGcState,
    list_index,
    load_gc_state,
    swap_gc_state,
)
from pvback.repository.index_work import IndexWork, Repacked
from pvback.repository.layout import Area
from pvback.repository.locks import Extended, find_locks, list_needed, needed_packs, plan_around_locks
from pvback.repository.prune_plan import PruneOptions, PrunePlan, plan_prune, require_all
from pvback.repository.register_copies import gather
from pvback.repository.registers import Register, RegisterState, change_register
from pvback.repository.sealed import Named, ScopeObjects
from pvback.repository.sweep import list_packs, sweep
from pvback.repository.timing import WAIT, announced, is_timed, may_go_on
from pvback.runtime import Cancel, Clock, Counters, NoProgress, Progress

__all__ = ["PruneReport", "PruneSeams", "plan_only", "run_prune"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSeams:
    """What a prune works with besides the repository."""

    work: IndexWork
    clock: Clock
    cancel: Cancel = field(default_factory=Cancel)
    progress: Progress = field(default_factory=NoProgress)


@dataclass(slots=True, kw_only=True)
class PruneReport:
    """What one prune did."""

    plan: PrunePlan = field(default_factory=PrunePlan)
    generation: int = 0
    ended_count: int = 0
    """Forgotten snapshots whose grace had ended."""
    moved_count: int = 0
    moved_bytes: int = 0
    removed_pack_count: int = 0
    removed_bytes: int = 0
    removed_object_count: int = 0
    locked_count: int = 0
    """Objects that the store did not remove as they are locked: a later prune does."""
    locks: Extended = field(default_factory=Extended)
    """What is locked for longer now."""
    spared_count: int = 0
    """Condemned packs that turned out to be needed."""
    run_count: int = 0
    """Index runs that are left."""
    helped_count: int = 0
    """Cycles of other prunes that were finished."""
    waits_until: datetime | None = None
    """On a store without conditional writes: a later run goes on, by the store's clock not before this."""


def run_prune(objects: ScopeObjects, seams: PruneSeams, *, options: PruneOptions) -> PruneReport:
    """Go through one whole cycle, after finishing one that another prune has left.

    A cancel between two steps leaves a cycle that the next prune goes on with. Raises DamagedError when
    something that is needed is missing or does not open (nothing is removed then), ConflictError when other
    prunes were faster each time, StorageError, Interrupted.
    """
    return _Prune(objects, seams, options).run()


def plan_only(objects: ScopeObjects, seams: PruneSeams, *, options: PruneOptions) -> PrunePlan:
    """What a prune would do now, by our own clock. Writes nothing. Raises as `run_prune`."""
    prune = _Prune(objects, seams, options)
    stored = load_gc_state(objects)
    return prune.plan(stored, seams.clock.now(), is_dry=True)[0]


class _Prune:
    def __init__(self, objects: ScopeObjects, seams: PruneSeams, options: PruneOptions) -> None:
        self._objects, self._seams, self._options = objects, seams, options
        self._report, self._missing = PruneReport(), set[str]()
        self._is_timed = is_timed(objects)
        self._now = seams.clock.now()

    def run(self) -> PruneReport:
        """The cycle, begun again as often as somebody else was faster."""
        for _ in range(limits.PRUNE_RESTART_COUNT_MAX):
            stored = load_gc_state(self._objects)
            try:
                if self._go_on(stored):
                    return self._report
            except (DamagedError, ObjectNotFound) as exc:
                # What is missing may have been another prune's to remove: then there is a newer state. A run
                # that was listed a moment ago may also have been merged into another one by a session.
                is_unchanged = load_gc_state(self._objects).nonce in (stored.nonce, self._nonce)
                if is_unchanged and not self._is_passing(exc):
                    if isinstance(exc, DamagedError):
                        raise
                    hint = "`pvback check` says what is affected"
                    raise DamagedError("an object is missing", key=exc.key, hint=hint) from None
        raise ConflictError(
            "other prunes were faster each time",
            key=self._objects.layout.key("gc/state"),
            hint="run it again when they have ended",
        )

    def _is_passing(self, exc: DamagedError | ObjectNotFound) -> bool:
        """A run that is gone; and a part of a reference set, once: its register may name others by now."""
        key, area = exc.key or "", self._objects.layout.area
        is_first = key.startswith(area(Area.REFS)) and key not in self._missing
        self._missing.add(key)
        return is_first or (isinstance(exc, ObjectNotFound) and key.startswith(area(Area.INDEX)))

    _nonce = ""
    """Of the version that this prune wrote last."""

    def _go_on(self, stored: StoredGcState) -> bool:
        """Whether this prune's own cycle has ended; False: look at `gc/state` again."""
        is_own = not stored.state.is_condemning
        now = self._now = store_time(self._objects, stored.state.n, clock=self._seams.clock)
        if self._is_timed:
            self._wait_for_lists()
            self._report.waits_until = may_go_on(self._objects, now)
            if self._report.waits_until is not None:
                return True
        if is_own:
            published = self._publish(stored, now)
            if published is None:
                return False
            if self._is_timed and published.state.is_condemning:
                self._report.waits_until = now + WAIT
            if self._is_timed or not published.state.is_condemning:
                return True
            stored = published
        doomed = self._finish(stored, now)
        if doomed is None:
            return self._report.waits_until is not None
        self._report.helped_count += not is_own
        return is_own

    # --- mark and publish ---------------------------------------------------------------------------

    def _publish(self, stored: StoredGcState, now: datetime) -> StoredGcState | None:
        """The CONDEMNED version; the given one when there is nothing to do; None when the swap was lost."""
        plan, facts = self.plan(stored, now)
        state, view = stored.state, facts.view
        self._report.plan = plan
        if plan.lost:
            raise DamagedError(
                f"{len(plan.lost)} packs that are needed are not in the store: {plan.lost[0]}",
                hint="`pvback check` says what is affected; `pvback repair` mends what can be mended",
            )
        if self._is_timed and state.dead:
            # Enough time has passed since they were named.
            self._sweep(stored, facts.registers)
        is_merged = {name for name, _ in view.runs} == state.base
        # What has ended goes when it is void, which the end of a cycle makes it.
        has_ended = bool(facts.registers.terminal())
        if not (plan.condemned or not is_merged or facts.has_quiet or has_ended or self._options.is_forced):
            self._sweep(stored, facts.registers)
            return stored
        moved = self._repack(plan, facts, generation=state.n)
        known = frozenset((*(name for name, _ in view.runs), *moved.runs)) - state.base
        new = replace(
            state,
            n=state.n + 1,
            is_condemning=True,
            condemned=plan.condemned,
            known=known,
            marks=facts.marks,
            counted=frozenset(facts.registers.alive()),
        )
        return self._swap(stored, new)

    def plan(
        self, stored: StoredGcState, now: datetime, *, is_dry: bool = False
    ) -> tuple[PrunePlan, "_Facts"]:
        """The plan and what it rests on. Ends the grace of forgotten snapshots, unless it is dry."""
        state = stored.state
        self._step("snapshots")
        registers = read_registers(self._objects, state)
        self._end_grace(registers, now, is_dry=is_dry)
        self._step("references")
        marks, refs = self._need(state, registers) if is_dry else (self._count(state, registers), ())
        self._step("index")
        # Runs and packs of what was just seen committed have to be in these lists.
        self._wait_for_lists()
        view = list_index(self._objects, state)
        spared = [run for one in registers.unfinished().values() for run in one.runs]
        usage = self._seams.work.usage(view, marks=marks, refs=refs, spare_runs=spared)
        require_all(usage)
        self._step("packs")
        # A pack is older than the run that lists it.
        self._wait_for_lists()
        listed = list_packs(self._objects)
        locks = find_locks(self._objects, now=now, cancel=self._seams.cancel)
        plan = plan_around_locks(
            locks,
            listed,
            plan=lambda packs: plan_prune(
                usage, packs, dead=state.dead, now=now, options=self._options, pack_bytes=view.pack_bytes
            ),
        )
        if locks is not None and not is_dry and not plan.lost:
            packs = needed_packs(plan, usage, listed=listed)
            self._step("locks")
            self._report.locks = locks.extend(
                list_needed(self._objects, view, registers=registers, packs=packs)
            )
        quiet = now - timedelta(seconds=limits.FENCE_QUIET_SECONDS)
        has_quiet = any(registers.mtimes[name] < quiet for name in registers.unfinished())
        return plan, _Facts(registers, view, marks, has_quiet)

    def _end_grace(self, registers: Registers, now: datetime, *, is_dry: bool) -> None:
        """Make snapshots DEAD that were forgotten long enough ago."""
        # With time alone, nobody may still be about to bring back what ends here.
        until = now - timedelta(seconds=self._options.grace_seconds) - WAIT * self._is_timed
        for name, one in registers.alive().items():
            if one.state is not RegisterState.FORGOTTEN or registers.mtimes[name] > until:
                continue
            try:
                # After it was listed it may have been brought back and forgotten anew, before it was read.
                if self._objects.store.head(self._objects.layout.key(one.object_name)).mtime > until:
                    continue
                self._report.ended_count += 1
                if is_dry:
                    registers.found[name] = replace(one, state=RegisterState.DEAD)
                    continue
                changed = change_register(self._objects, name, change=_end(one), clock=self._seams.clock)
                registers.found[name] = changed.register
            except ObjectNotFound:
                del registers.found[name]

    def _need(self, state: GcState, registers: Registers) -> tuple[Marks, tuple[Named, ...]]:
        """What is alive, without writing: marks, and reference sets that they do not count."""
        alive = frozenset(registers.alive())
        if state.counted and state.counted <= alive:
            return state.marks, registers.refs(alive - state.counted)
        return Marks(), registers.refs(alive)

    def _count(self, state: GcState, registers: Registers) -> Marks:
        """The marks of all that is alive: those of the state with what has changed, or all anew."""
        alive = frozenset(registers.alive())
        gone = state.counted - alive
        generation, work = state.n, self._seams.work
        if state.counted and registers.has_refs(gone):
            add, remove = registers.refs(alive - state.counted), registers.refs(gone)
            if not add and not remove:
                return state.marks
            try:
                return work.count(state.marks, add=add, remove=remove, generation=generation)
            except DamagedError:
                # Lost marks, or reference sets that were removed with their snapshot: they only save time.
                self._seams.progress.warn("the marks of the last prune do not serve; counting anew")
        return work.count(Marks(), add=registers.refs(alive), remove=(), generation=generation)

    def _repack(self, plan: PrunePlan, facts: "_Facts", *, generation: int) -> Repacked:
        if not plan.repack:
            return Repacked(packs=(), runs=(), moved_count=0, moved_bytes=0)
        self._step("repacking")
        work, order = self._seams.work, facts.registers.newest_refs()
        moved = work.repack(
            facts.view, packs=plan.repack, marks=facts.marks, refs=(), generation=generation, order=order
        )
        self._report.moved_count, self._report.moved_bytes = moved.moved_count, moved.moved_bytes
        return moved

    # --- barrier and doom ---------------------------------------------------------------------------

    def _finish(self, stored: StoredGcState, now: datetime) -> StoredGcState | None:
        """From CONDEMNED to IDLE and removed; None when somebody else has done it, or it is too early."""
        state = stored.state
        self._step("sessions")
        self._wait_for_lists()
        registers = await_sessions(
            self._objects,
            state,
            now=now,
            # With time alone, it has been waited for long before this.
            fence_seconds=0.0 if self._is_timed else self._options.fence_seconds,
            clock=self._seams.clock,
            cancel=self._seams.cancel,
        )
        fenced = registers.newest_fence()
        if self._is_timed and fenced is not None and now < fenced + WAIT:
            self._report.waits_until = fenced + WAIT
            return None
        doomed = self._swap(stored, self._decide(state, registers))
        if doomed is not None and self._is_timed:
            self._report.waits_until = now + WAIT
        elif doomed is not None:
            self._step("removing")
            self._sweep(doomed, registers)
        return doomed

    def _decide(self, state: GcState, registers: Registers) -> GcState:
        """The version that names what is dead: everything is looked at again, after the barrier."""
        self._step("index")
        self._wait_for_lists()
        view = list_index(self._objects, state)
        keep = frozenset(pack for one in registers.unfinished().values() for pack in one.keep)
        # Committed since the marks were made; what was counted and has ended since only keeps too much.
        refs = registers.refs(frozenset(registers.alive()) - state.counted)
        usage = self._seams.work.usage(view, marks=state.marks, refs=refs, keep=keep)
        if usage.missing_count and state.counted:
            # Marks may count a snapshot that was pruned since: what is lost shows in a count in full.
            every = registers.refs(frozenset(registers.alive()))
            usage = self._seams.work.usage(view, marks=Marks(), refs=every, keep=keep)
        require_all(usage)
        dead = (state.condemned - keep - usage.revived) | self._undeleted(state)
        self._report.spared_count = len(state.condemned - dead)
        self._step("merging")
        base = self._seams.work.merge(view, drop=dead, generation=state.n)
        self._report.run_count = len(base)
        return replace(
            state,
            is_condemning=False,
            floor=state.n,
            condemned=frozenset(),
            known=frozenset(),
            dead=dead,
            base=frozenset(base),
            gathered=self._gather(state, registers),
            roster=frozenset((*registers.alive(), *registers.unfinished())),
        )

    def _undeleted(self, state: GcState) -> frozenset[str]:
        """Dead packs of earlier cycles that are still there.

        They stay dead for as long as anybody can see them: a request to delete one may be on its way, and
        `repair index` takes a pack that no run lists for one whose run was lost.
        """
        return state.dead & list_packs(self._objects).keys() if state.dead else frozenset()

    def _gather(self, state: GcState, registers: Registers) -> Named | None:
        names, clock = registers.alive(), self._seams.clock
        return gather(self._objects, names, before=state.gathered, generation=state.n, clock=clock)

    def _swap(self, stored: StoredGcState, new: GcState) -> StoredGcState | None:
        clock = self._seams.clock
        with announced(self._objects, new.n, clock=clock) as renew:
            swapped = swap_gc_state(self._objects, stored, new=new, clock=clock, before=renew)
        if swapped is not None:
            self._nonce = swapped.nonce
            self._report.generation = new.n
        return swapped

    def _wait_for_lists(self) -> None:
        """A list shows everything that was written before this began."""
        lag = self._objects.store.capabilities.list_lag_seconds
        if lag:
            self._seams.clock.sleep(lag, self._seams.cancel)

    def _sweep(self, stored: StoredGcState, registers: Registers) -> None:
        swept = sweep(self._objects, stored, registers=registers, settle=self._wait_for_lists, now=self._now)
        self._report.removed_pack_count += swept.pack_count
        self._report.removed_bytes += swept.pack_bytes
        self._report.removed_object_count += swept.object_count
        self._report.locked_count += swept.locked_count

    def _step(self, phase: str) -> None:
        self._seams.cancel.check()
        self._seams.progress.update(Counters(phase=phase))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a plan rests on."""

    registers: Registers
    view: IndexView
    marks: Marks
    has_quiet: bool
    """A session has been silent for so long that it should be fenced."""


def _end(seen: Register) -> Callable[[Register], Register | None]:
    """FORGOTTEN -> DEAD, if it still is the version that was seen: not one brought back and forgotten
    again.
    """
    return lambda old: replace(old, state=RegisterState.DEAD) if old.nonce == seen.nonce else None
