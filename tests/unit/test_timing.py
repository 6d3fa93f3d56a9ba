"""The session's side of the waiting mode, by a clock that is moved; the simulation has the rest."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from pvback import limits
from pvback.errors import SessionFencedError
from pvback.repository.registers import RegisterState
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.repository.timing import View
from pvback.runtime import ManualClock
from pvback.storage.memory import MemoryStore
from pvback.storage.metered import MeteredStore
from pvback.storage.unconditional import UnconditionalStore
from pvback.storage.wrap import Request
from tests.unit.conftest import Open
from tests.unit.test_sessions import SOURCE, TREE, Control, Losing, commit, details, publish, register_of

Timed = Callable[[], tuple[RepositoryAccess, Losing]]


@pytest.fixture
def timed(open_access: Open) -> Timed:
    """The repository on a store without conditions, and what loses answers below it."""

    def make() -> tuple[RepositoryAccess, Losing]:
        access = open_access()
        losing = Losing(access.store)
        store = UnconditionalStore(losing)
        return replace(access, objects=replace(access.objects, store=store)), losing

    return make


def test_a_poll_that_acknowledged_nothing_is_no_view(timed: Timed, clock: ManualClock) -> None:
    access, _ = timed()
    session = WriterSession(access.objects, SOURCE, clock=clock)
    publish(access, n=2)
    clock.advance(limits.TIMED_VIEW_SECONDS + 1)
    session.poll(Control(has_ended=True))
    with pytest.raises(SessionFencedError):
        commit(session)
    assert register_of(access, session).state is RegisterState.OPEN


def test_a_commit_by_a_young_view_needs_no_other(timed: Timed, clock: ManualClock) -> None:
    access, _ = timed()
    session = WriterSession(access.objects, SOURCE, clock=clock)
    publish(access, n=2)
    clock.advance(limits.TIMED_VIEW_SECONDS - 1)
    commit(session)
    assert register_of(access, session).state is RegisterState.COMMITTED


def test_who_was_away_for_long_takes_note_of_nothing(timed: Timed, clock: ManualClock) -> None:
    access, _ = timed()
    session = WriterSession(access.objects, SOURCE, clock=clock)
    publish(access, n=2)
    clock.advance(limits.TIMED_ACK_SECONDS + 1)
    with pytest.raises(SessionFencedError):
        session.poll(Control())
    assert register_of(access, session).ack == 1


@pytest.mark.parametrize("is_applied", [True, False])
def test_nothing_is_written_over_what_may_still_land(
    timed: Timed, clock: ManualClock, is_applied: bool
) -> None:
    access, losing = timed()
    session = WriterSession(access.objects, SOURCE, clock=clock)
    # The record of the checkpoint is one put, its register the next.
    losing.before = [
        (Request.PUT, lambda: None),
        (Request.PUT, lambda: losing.plan.append((Request.PUT, is_applied))),
    ]
    session.checkpoint(TREE, details(session.snapshot), place=(1, None))
    began = clock.monotonic()
    commit(session)
    assert clock.monotonic() - began > limits.TIMED_LATE_SECONDS - 60


def test_a_view_ages_by_either_clock(clock: ManualClock) -> None:
    class Suspended(ManualClock):
        """One whose steady clock stood still."""

        def monotonic(self) -> float:
            return 0.0

        def now(self) -> datetime:
            return clock.now()

    machine = Suspended()
    view = View.begin(machine)
    clock.advance(100)
    assert view.age(machine) == 100


def test_what_is_large_is_not_read_back() -> None:
    metered = MeteredStore(MemoryStore())
    store = UnconditionalStore(metered)
    store.create("data/a", bytes(limits.SWAPPED_BYTES_MAX + 1))
    assert Request.READ not in metered.usage().requests
    assert store.create("small", b"x") == metered.read("small").etag
