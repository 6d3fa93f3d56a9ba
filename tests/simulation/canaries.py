"""Named breakages of the protocol, each of which the simulation has to find.

Every canary takes one rule out of the code under test, or out of the data path that goes with it. A rule that
can be taken out unnoticed is not tested.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from pvback import datapath, limits
from pvback.errors import ObjectNotFound, SessionFencedError
from pvback.repository import (
    barrier,
    forget,
    gcstate,
    merging,
    prune,
    registers,
    session,
    timing,
)
from pvback.repository.barrier import Registers, read_registers
from pvback.repository.gcstate import GcState, IndexView
from pvback.repository.registers import RegisterState
from pvback.repository.sealed import ScopeObjects
from pvback.repository.sweep import list_packs
from pvback.repository.timing import View
from pvback.storage.base import ObjectInfo, ReadBuffer
from pvback.storage.wrap import Request, WrappedStore
from tests.simulation import work, writer
from tests.simulation.bucket import Rates
from tests.simulation.scopes import SCOPES, Scope
from tests.simulation.simulate import simulate

__all__ = ["CANARIES", "Canary", "Patch", "canary"]

_BY_NAME = {one.name: one for one in SCOPES}
T = TypeVar("T")
Patch = pytest.MonkeyPatch
QUICK_SEEDS = 100
"""A canary that this many seeds of its scope show is a quick one."""
LOSS = "I1|S1|S5|M:|LostError"
"""Something that was saved is lost, or a state that was final is left."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A breakage, the scope in which it shows, and the number of seeds that have to be enough."""

    name: str
    apply: Callable[[Patch], None]
    scope: Scope
    seeds_max: int = QUICK_SEEDS
    shows: str = LOSS
    """What it has to be found as."""

    @property
    def is_quick(self) -> bool:
        """Whether few enough seeds show it for `make test`; `make simulate` looks for all."""
        return self.seeds_max <= QUICK_SEEDS

    def is_found(self, failure: str | None) -> bool:
        """Whether this failure is what the breakage leads to."""
        return failure is not None and re.match(self.shows, failure) is not None

    def find(self, likely: int | None = None) -> int | None:
        """The first seed that shows it, `likely` before all; None when it survives. Mended afterwards."""
        firsts: list[int] = [likely] if likely is not None and likely in range(self.seeds_max) else []
        with pytest.MonkeyPatch.context() as patch:
            self.apply(patch)
            for seed in itertools.chain(firsts, range(self.seeds_max)):
                if self.is_found(simulate(seed, self.scope).failure):
                    return seed
        return None


CANARIES: list[Canary] = []


def canary(
    scope: str = "all", *, seeds_max: int = QUICK_SEEDS, shows: str = LOSS, **changes: Any
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Make a canary of a function that breaks something."""

    def enter(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        there = replace(_BY_NAME[scope], **changes)
        CANARIES.append(Canary(apply.__name__, apply, there, seeds_max, shows))
        return apply

    return enter


# --- prune


@canary("prunes")
def no_remark(patch: Patch) -> None:
    """What was condemned is doomed, whatever has been committed since."""

    def decide(self: prune._Prune, state: GcState, registers: Registers) -> GcState:
        kept = {pack for one in registers.unfinished().values() for pack in one.keep}
        return replace(real(self, state, registers), dead=state.condemned - kept)

    real = prune._Prune._decide
    patch.setattr(prune._Prune, "_decide", decide)


@canary()
def delete_before_the_doom(patch: Patch) -> None:
    """Packs go before `gc/state` says that they are dead."""

    def decide(self: prune._Prune, state: GcState, registers: Registers) -> GcState:
        new = real(self, state, registers)
        listed = list_packs(self._objects)
        self._objects.store.delete_many([listed[name].key for name in sorted(new.dead) if name in listed])
        return new

    real = prune._Prune._decide
    patch.setattr(prune._Prune, "_decide", decide)


@canary()
def no_barrier(patch: Patch) -> None:
    """Open sessions are not waited for."""
    patch.setattr(prune, "await_sessions", lambda objects, state, **_options: read_registers(objects, state))


@canary()
def no_roster(patch: Patch) -> None:
    """Registers below the floor are void, although they were alive."""
    real = prune._Prune._decide
    patch.setattr(
        prune._Prune, "_decide", lambda self, *facts: replace(real(self, *facts), roster=frozenset())
    )


@canary("prunes")
def state_without_swap(patch: Patch) -> None:
    """`gc/state` is overwritten without a look at what is there."""
    real = gcstate.swap_gc_state
    patch.setattr(
        prune, "swap_gc_state", lambda objects, old, **options: real(_blind(objects), old, **options)
    )


@canary("forget", seeds_max=6000)
def forgotten_without_dead(patch: Patch) -> None:
    """A register is deleted while it can still be brought back."""

    def change_register(objects: ScopeObjects, name: str, **options: Any) -> Any:
        objects.store.delete(objects.layout.key(f"snapshots/{name}"))
        raise ObjectNotFound("gone", key=name)

    patch.setattr(prune, "change_register", change_register)


@canary("lag")
def lag_ignored(patch: Patch) -> None:
    """Lists are believed at once."""
    patch.setattr(prune._Prune, "_wait_for_lists", lambda _self: None)


@canary("prunes", merge_share=1.0, seeds_max=1500)
def missing_run_ignored(patch: Patch) -> None:
    """A run that is gone is passed over by prune."""
    real = work.load_run

    def load_run(objects: ScopeObjects, run: str) -> Any:
        try:
            return real(objects, run)
        except ObjectNotFound:
            return []

    patch.setattr(work, "load_run", load_run)
    patch.setattr(prune, "require_all", lambda _usage: None)


@canary()
def keep_ignored(patch: Patch) -> None:
    """What open sessions keep is doomed all the same."""
    real = barrier.await_sessions

    def await_sessions(*args: Any, **options: Any) -> Registers:
        registers = real(*args, **options)
        registers.found = {name: replace(one, keep=()) for name, one in registers.found.items()}
        return registers

    patch.setattr(prune, "await_sessions", await_sessions)


@canary("prunes")
def merge_loses_a_run(patch: Patch) -> None:
    """Of several merged runs the last one is not written."""
    real = work.ModelIndexWork._put_run

    def put_run(self: Any, entries: Any, generation: int, after: str) -> str:
        if after and len(entries) < work.ENTRIES_PER_RUN:
            return after
        return real(self, entries, generation, after)

    patch.setattr(work.ModelIndexWork, "_put_run", put_run)


@canary("prunes", repack_share_max=1.0)
def repack_lists_the_wrong_place(patch: Patch) -> None:
    """Copies are listed as if they lay where they were."""
    real = work.ModelIndexWork._put_packs

    def put_packs(self: Any, kind: str, blobs: Any, by: str) -> Any:
        return [replace(one, index=one.index + 1) for one in real(self, kind, blobs, by)]

    patch.setattr(work.ModelIndexWork, "_put_packs", put_packs)


@canary("prunes")
def marks_of_the_last_prune(patch: Patch) -> None:
    """Marks are carried on without what has been committed since."""
    real = prune._Prune._count
    patch.setattr(
        prune._Prune,
        "_count",
        lambda self, state, registers: state.marks if state.counted else real(self, state, registers),
    )


@canary("forget")
def marks_forget_who_else_needs_it(patch: Patch) -> None:
    """What an ended snapshot needed is not needed any more, though another one needs it too."""

    class Once(Counter[str]):
        def subtract(self, *args: Any, **_counts: Any) -> None:
            for one in args[0]:
                self[one] = 0

    patch.setattr(work, "Counter", Once)


@canary("prunes")
def remark_by_the_marks_alone(patch: Patch) -> None:
    """What was committed after the marks were made is not looked at."""
    real = work.ModelIndexWork.usage
    patch.setattr(
        work.ModelIndexWork,
        "usage",
        lambda self, view, **options: real(self, view, **{**options, "refs": ()}),
    )


@canary("prunes")
def given_up_copies_count(patch: Patch) -> None:
    """Of a chunk that is stored twice each copy relies on the other, and both are given up."""
    real = work._choose

    def choose(entries: Any, needed: Any, given_up: Any) -> Any:
        chosen, revived = real(entries, needed, given_up)
        copies: dict[str, set[str]] = {}
        for one in entries:
            copies.setdefault(one.id, set()).add(one.pack)
        twice = {pack for one, pack in chosen.items() if len(copies[one]) > 1}
        return chosen, revived - twice

    patch.setattr(work, "_choose", choose)


@canary("revoked")
def merge_vouches_for_all(patch: Patch) -> None:
    """What a merge lists counts as the maintainer's, whoever sealed it."""
    real = work.ModelIndexWork.merge

    def merge(self: Any, view: IndexView, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(work, "run_body", lambda entries: run_body(replace(one, by="") for one in entries))
            return real(self, view, **options)

    run_body = work.run_body
    patch.setattr(work.ModelIndexWork, "merge", merge)


@canary("revoked", repack_share_max=1.0, pruners=3)
def copies_vouch_for_what_they_copy(patch: Patch) -> None:
    """What prune copies counts as the maintainer's, whoever sealed it."""
    real = work.ModelIndexWork._put_packs
    patch.setattr(
        work.ModelIndexWork, "_put_packs", lambda self, kind, blobs, _by: real(self, kind, blobs, "")
    )


@canary("revoked")
def any_copy_will_do(patch: Patch) -> None:
    """Of two copies the one of a revoked principal may be the one that stays."""
    patch.setattr(work, "_reliable", list)


# --- writers


@canary("revoked")
def built_upon_a_revoked_writer(patch: Patch) -> None:
    """A chunk that a revoked writer says it has stored is taken for stored."""
    patch.setattr(writer, "is_doubted", lambda _entry: False)


@canary()
def dedup_against_condemned(patch: Patch) -> None:
    """A chunk in a condemned pack is taken for stored."""
    patch.setattr(
        writer.Job,
        "candidates",
        lambda _self, packs, view: sorted(pack for pack in set(packs) if pack not in view.dead),
    )


@canary()
def commit_without_swap(patch: Patch) -> None:
    """The register is looked at, and then overwritten."""
    real = session.WriterSession.commit

    def commit(self: Any, *args: Any, **options: Any) -> Any:
        found = registers.read_register(self._objects, self.register.name).register
        if found.state is not RegisterState.OPEN:
            raise SessionFencedError("fenced")
        self._objects = _blind(self._objects)
        return real(self, *args, **options)

    patch.setattr(session.WriterSession, "commit", commit)


@canary(seeds_max=600)
def no_second_look(patch: Patch) -> None:
    """A session begins under the generation that was before its register."""

    def start(objects: Any, source: str, *, clock: Any, known: Any = None) -> Any:
        state = known or gcstate.read_gc_state(objects)
        register = registers.Register(
            generation=state.n,
            snapshot=datapath.random_id(),
            source=source,
            state=RegisterState.OPEN,
            ack=state.n,
            started=clock.now(),
        )
        stored = registers.create_register(objects, register, clock=clock)
        if stored is None:
            return start(objects, source, clock=clock)
        return state, stored, View.begin(clock), None

    patch.setattr(session, "_start", start)


@canary()
def acknowledged_without_keep(patch: Patch) -> None:
    """The register says that the session knows, and not what it needs."""
    real = writer.Job._acknowledge
    patch.setattr(writer.Job, "_acknowledge", lambda self, options: {**real(self, options), "keep": []})


@canary("storm")
def doubtful_pack_not_kept(patch: Patch) -> None:
    """Packs whose upload is not answered yet are not named."""

    def own_to_keep(self: writer.Job, condemned: frozenset[str]) -> set[str]:
        return {one.pack for one in self._unlisted} & condemned

    patch.setattr(writer.Job, "own_to_keep", own_to_keep)


@canary(seeds_max=400)
def run_across_an_acknowledgement(patch: Patch) -> None:
    """Runs of the old generation go up while the new one is acknowledged."""
    patch.setattr(writer.Job, "drain", lambda _self: None)
    patch.setattr(writer.Job, "wait_for_gate", lambda _self: None)


@canary(
    "all", writers=4, pruners=2, readers=0, forgetters=0, chunk_universe=3, fence_seconds=0.0, seeds_max=1500
)
def all_runs_trusted(patch: Patch) -> None:
    """Writers dedup against every run that is valid."""
    patch.setattr(GcState, "is_run_trusted", GcState.is_run_valid)


@canary("kills", seeds_max=1500)
def no_run_floor(patch: Patch) -> None:
    """What lies below the floor counts for ever."""
    patch.setattr(GcState, "is_run_valid", lambda _self, _name: True)


# --- forget, undelete, merge


@canary("forget", seeds_max=6000)
def undelete_without_swap(patch: Patch) -> None:
    """A forgotten snapshot is brought back by overwriting its register."""
    real = forget.undelete_snapshots
    patch.setattr(
        forget,
        "undelete_snapshots",
        lambda objects, names, *, clock: real(_blind(objects), names, clock=clock),
    )


@canary("all", merge_share=1.0, pruners=2, seeds_max=1500)
def merge_of_newer_runs(patch: Patch) -> None:
    """A session merges runs of generations that it has not acknowledged."""
    _change_merge(patch, is_newer_merged=True)


@canary("all", merge_share=1.0)
def merge_deletes_first(patch: Patch) -> None:
    """The inputs go before the output is there."""
    _change_merge(patch, is_deleting_first=True)


@canary("all", merge_share=1.0)
def merge_drops_condemned(patch: Patch) -> None:
    """A merge by a session leaves out packs that may yet be needed."""
    _change_merge(patch, is_dropping=True)


@canary(
    merge_share=1.0,
    writers=4,
    readers=4,
    restores=8,
    pruners=0,
    forgetters=0,
    seeds_max=1500,
    rates=replace(Rates(), page_count=1),
)
def merged_name_sorts_anywhere(patch: Patch) -> None:
    """The output may come before its inputs in a list that is read in pages."""
    patch.setattr(work.ModelIndexWork, "_suffix", lambda self, _generation, _after: self._random_id())


# --- without conditions


_HARSH = Rates(can_condition=False, late=0.08, lost=0.04, doubled=0.06)
_BUSY: dict[str, Any] = {"forgetters": 0, "readers": 0, "pauses": (0.0, 0.0, 3600.0)}
_SESSIONS: dict[str, Any] = {"writers": 3, "prunes": 14, "forgetters": 0, "readers": 0}


@canary("timed", seeds_max=600)
def timed_prune_without_waits(patch: Patch) -> None:
    """A prune goes on at once, whatever has been written just now."""
    patch.setattr(prune, "may_go_on", lambda _objects, _now: None)
    patch.setattr(prune, "WAIT", timedelta(0))


@canary("timed", shows="DamagedError")
def timed_lists_believed_at_once(patch: Patch) -> None:
    """Lists are believed at once: prune takes what was committed just now for lost, and stops.

    More than that it does not cost: what dies is looked for again hours later.
    """
    lag_ignored(patch)


@canary("timed", rates=replace(_HARSH, late=0.3, lost=0.1), writers=3, seeds_max=600)
def condemned_without_a_wait(patch: Patch) -> None:
    """Sessions are fenced as soon as a generation is published, and nobody looks for what they have recorded.

    With such a look a fence that overwrites a commit is rarer than a canary may be, and mended by the next.
    """
    patch.setattr(prune, "may_go_on", _waiting_when(is_condemning=False))
    patch.setattr(barrier, "find_record", lambda _objects, _register: None)


@canary("timed", seeds_max=600, rates=Rates(can_condition=False, doubled=0.25), **_BUSY)
def next_cycle_without_a_wait(patch: Patch) -> None:
    """A cycle begins while the end of the last one may still land."""
    patch.setattr(prune, "may_go_on", _waiting_when(is_condemning=True))


@canary("timed", seeds_max=800, **_SESSIONS)
def fenced_without_a_wait(patch: Patch) -> None:
    """The dead are named as soon as sessions are fenced, and sessions take note however late."""
    patch.setattr(Registers, "newest_fence", lambda _self: None)
    patch.setattr(session.WriterSession, "_require_close_view", lambda _self: None)


@canary("timed", seeds_max=2000, rates=_HARSH, **_BUSY)
def swap_without_an_announcement(patch: Patch) -> None:
    """A prune that was given no answer leaves no word of what it has asked for."""
    patch.setattr(timing.Announcement, "renew", lambda _self: None)
    _swap_once(patch)


@canary("timed", seeds_max=1500, **_SESSIONS)
def saved_by_an_old_view(patch: Patch) -> None:
    """A snapshot is committed by a view of any age, and reported without a second look."""
    patch.setattr(session.WriterSession, "_require_recent_view", lambda _self: None)
    patch.setattr(session.WriterSession, "_require_validity", lambda _self: None)


@canary("timed", seeds_max=1200, rates=Rates(can_condition=False).quiet(), **_SESSIONS)
def commit_by_an_old_view(patch: Patch) -> None:
    """A snapshot is committed by a view of any age."""
    patch.setattr(session.WriterSession, "_require_recent_view", lambda _self: None)


@canary("timed", rates=_HARSH, forgetters=0, readers=0)
def written_over_what_may_land(patch: Patch) -> None:
    """A register is written while an earlier request to write it has had no answer."""
    patch.setattr(registers, "_let_land", lambda _old, _clock: None)


@canary("timed", seeds_max=400, pruners=2)
def two_prunes_without_conditions(_patch: Patch) -> None:
    """What `--alone` vouches for is not true."""


@canary("timed", seeds_max=200, rates=_HARSH, forgetters=4, forgets=5, prunes=14, readers=0)
def undelete_at_any_time(patch: Patch) -> None:
    """A snapshot is brought back after its grace, or while a request to forget it is under way."""
    patch.setattr(forget, "_require_undeletable", lambda *_args, **_options: lambda: None)


def _waiting_when(*, is_condemning: bool) -> Callable[..., Any]:
    real = timing.may_go_on

    def may_go_on(objects: ScopeObjects, now: Any) -> Any:
        is_so = gcstate.read_gc_state(objects).is_condemning == is_condemning
        return real(objects, now) if is_so else None

    return may_go_on


def _swap_once(patch: Patch) -> None:
    """A swap of `gc/state` is given up at its first missing answer."""
    known = {name: value for name, value in vars(limits).items() if name.isupper()}
    once = SimpleNamespace(**{**known, "RETRY_COUNT_MAX": 0, "GC_LIST_COUNT_MAX": 6})
    patch.setattr(gcstate, "limits", once)


def _change_merge(
    patch: Patch,
    *,
    is_newer_merged: bool = False,
    is_deleting_first: bool = False,
    is_dropping: bool = False,
) -> None:
    def merge_runs(
        objects: Any, work: Any, *, session: Any, view: IndexView, clock: Any, count_min: int
    ) -> int:
        state, ack = session.state, session.register.ack
        if is_newer_merged:
            state = gcstate.read_gc_state(objects)
            view = gcstate.list_index(objects, state, is_writer=True)
        if state.is_condemning and not is_dropping:
            return 0
        inputs = tuple(
            (name, size)
            for name, size in view.runs
            if name not in state.base | state.known and (is_newer_merged or int(name[:16], 16) <= ack)
        )
        if len(inputs) < count_min:
            return 0
        keys = [objects.layout.key(f"index/{name}") for name, _ in inputs]
        drop = state.condemned if is_dropping else frozenset()
        try:
            if is_deleting_first:
                objects.store.delete_many(keys)
            work.merge(replace(view, runs=inputs), drop=drop, generation=ack)
        except ObjectNotFound:
            return 0
        objects.store.delete_many(keys)
        return len(inputs)

    patch.setattr(merging, "merge_runs", merge_runs)


class _Blind(WrappedStore):
    """A store that swaps without a look at what is there."""

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        return self._inner.list_objects(prefix, after=after)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        self._inner.put(key, data)
        return self._inner.read(key).etag


def _blind(objects: ScopeObjects) -> ScopeObjects:
    store = objects.store
    return replace(objects, store=store if isinstance(store, _Blind) else _Blind(store))
