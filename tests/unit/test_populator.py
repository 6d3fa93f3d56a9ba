"""The loop over claims that are to be filled: what is tried again, and when."""

from collections.abc import Callable
from concurrent import futures
from itertools import pairwise
from typing import Any

import pytest

from pvback.cluster.kinds import (
    CLAIM,
    RESTORE,
    STORAGE_CLASS,
    Body,
    Kind,
)
from pvback.errors import (
    ClusterObjectMissing,
    PartlyDone,
    StorageUnavailable,
)
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_populate import Attended, _Filling
from pvback.ops.claim_populator import Populator
from pvback.runtime import Cancel, ManualClock, NoProgress
from tests.support.cluster_objects import (
    OPTIONS,
    WAITING,
    Objects,
    Unreachable,
    claim,
    restore,
    storage_class,
)


class Ticks(ManualClock):
    """Between two looks the test decides what happens."""

    def __init__(self, cancel: Cancel, *, count: int) -> None:
        super().__init__()
        self.cancel, self.left = cancel, count
        self.on_tick: Callable[[float], None] = lambda _: None

    def sleep(self, seconds: float, cancel: Cancel | None = None) -> None:
        self.advance(seconds)
        self.on_tick(self.monotonic())
        self.left -= 1
        if self.left <= 0:
            self.cancel.set()
        if cancel is not None:
            cancel.check()


def populator(cluster: Objects, clock: Ticks) -> Populator:
    return Populator(
        ClaimWork(cluster=cluster, progress=NoProgress(), cancel=clock.cancel, clock=clock),
        namespace="ns",
        options=OPTIONS,
        open_repository=Unreachable,
        progress_of=lambda _: NoProgress(),
        at_once=1,
    )


def run_settled(made: Populator, clock: Ticks) -> list[tuple[float, Attended]]:
    """What a populator that goes on has told, and when. Each try is over before the next look."""
    heard: list[tuple[float, Attended]] = []
    tick = clock.on_tick

    def wait(now: float) -> None:
        futures.wait(made._running.values())
        tick(now)

    clock.on_tick = wait
    made.watch(seconds=10, tell=lambda one: heard.append((clock.monotonic(), one)))
    return heard


def test_what_fails_is_tried_again_after_longer_and_longer() -> None:
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (STORAGE_CLASS, dict(storage_class())))
    clock = Ticks(Cancel(), count=100)
    heard = run_settled(populator(cluster, clock), clock)
    times = [when for when, _ in heard]
    pauses = [after - before for before, after in pairwise(times)]
    print(pauses)
    assert pauses[:3] == sorted(pauses[:3])
    assert pauses[0] < 60
    assert max(pauses) <= 330
    assert pauses[-1] >= 300
    assert len(cluster.events) == 1, "the same is said once"


def test_what_was_restored_in_part_is_not_tried_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (STORAGE_CLASS, dict(storage_class())))

    def fill(*_: object) -> None:
        raise PartlyDone("files could not be restored")

    monkeypatch.setattr(_Filling, "fill", fill)
    clock = Ticks(Cancel(), count=100)

    def tick(now: float) -> None:
        if now == 500:
            another = restore()
            another["metadata"]["uid"] = "r2"
            cluster.bodies[RESTORE.name, "r"] = another

    clock.on_tick = tick
    heard = run_settled(populator(cluster, clock), clock)
    assert len(heard) == 2
    assert heard[1][0] > 500


def test_another_restore_is_tried_at_once() -> None:
    cluster = Objects((CLAIM, claim()), (STORAGE_CLASS, dict(storage_class())))
    clock = Ticks(Cancel(), count=12)

    def tick(now: float) -> None:
        if now == 60:
            cluster.bodies[RESTORE.name, "r"] = restore()

    clock.on_tick = tick
    heard = run_settled(populator(cluster, clock), clock)
    errors = [(when, one.error) for when, one in heard]
    assert "no Restore r" in str(errors[0][1])
    first = next(when for when, error in errors if isinstance(error, StorageUnavailable))
    assert first <= 80


def test_an_api_server_that_is_away_ends_nothing() -> None:
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (STORAGE_CLASS, dict(storage_class())))
    cluster.failures = 3
    clock = Ticks(Cancel(), count=8)
    (heard, *_) = run_settled(populator(cluster, clock), clock)
    assert isinstance(heard[1].error, StorageUnavailable)


def test_a_bug_ends_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are under way are told to end, and the error is not lost."""
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (STORAGE_CLASS, dict(storage_class())))

    def fill(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(_Filling, "fill", fill)
    clock = Ticks(Cancel(), count=5)
    with pytest.raises(ZeroDivisionError):
        run_settled(populator(cluster, clock), clock)
    assert clock.cancel.is_set
    assert clock.left > 0


def test_one_that_waits_is_told_once() -> None:
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (STORAGE_CLASS, dict(WAITING)))
    clock = Ticks(Cancel(), count=20)
    heard = run_settled(populator(cluster, clock), clock)
    assert [one.state for _, one in heard] == ["waits"]
    assert len(cluster.events) == 1


def test_without_the_kind() -> None:
    class Bare(Objects):
        def list(self, kind: Kind, **_: Any) -> list[Body]:
            raise ClusterObjectMissing("the server could not find the requested resource")

    clock = Ticks(Cancel(), count=1)
    with pytest.raises(ClusterObjectMissing, match="does not know the kind") as caught:
        populator(Bare(), clock).once()
    assert "install --populator" in str(caught.value.hint)
