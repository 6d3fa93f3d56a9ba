"""Stores around stores: faults are the ones asked for, retries never do harm, the meter counts."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pvback import limits
from pvback.errors import Interrupted, ObjectChanged, ObjectExists, ObjectNotFound, StorageUnavailable
from pvback.retrying import Patience, plan_pause
from pvback.runtime import Cancel, ManualClock, SeededRandom
from pvback.storage import ObjectStore, StoredObject
from pvback.storage.chain import chain_stores
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.memory import MemoryStore
from pvback.storage.metered import MeteredStore
from pvback.storage.retry import RetryingStore
from pvback.storage.wrap import Request, WrappedStore


def faulty(**rates: float) -> tuple[FaultyStore, MemoryStore]:
    inner = MemoryStore()
    return FaultyStore(inner, seed=1, rates=FaultRates(**rates)), inner


WRITES: list[Callable[[ObjectStore], object]] = [
    lambda store: store.put("a", b"new"),
    lambda store: store.create("b", b"new"),
    lambda store: store.swap("a", b"new", etag=store.read("a").etag),
    lambda store: store.delete("a"),
    lambda store: store.delete_many(["a"]),
]


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.read(info.key).data for info in store.list_objects("")}


def prepared(
    write: Callable[[ObjectStore], object],
) -> tuple[MemoryStore, dict[str, bytes], dict[str, bytes]]:
    """A store, what it holds now, and what it holds after `write`."""
    other = MemoryStore()
    other.put("a", b"old")
    write(other)
    inner = MemoryStore()
    inner.put("a", b"old")
    return inner, {"a": b"old"}, contents(other)


class WritesFail(FaultyStore):
    """Has one kind of fault at every write, and none at reads."""

    def __init__(self, inner: ObjectStore, fault: str) -> None:
        super().__init__(inner, seed=1, rates=FaultRates(**{fault: 1.0}))
        self.base = inner

    def read(self, key: str) -> StoredObject:
        return self.base.read(key)


@pytest.mark.parametrize("write", WRITES)
def test_refused_does_nothing(write: Callable[[ObjectStore], object]) -> None:
    inner, before, _ = prepared(write)
    with pytest.raises(StorageUnavailable):
        write(WritesFail(inner, "refused"))
    assert contents(inner) == before


@pytest.mark.parametrize("write", WRITES)
def test_lost_does_it(write: Callable[[ObjectStore], object]) -> None:
    inner, _, after = prepared(write)
    with pytest.raises(StorageUnavailable):
        write(WritesFail(inner, "lost"))
    assert contents(inner) == after


@pytest.mark.parametrize("write", WRITES)
def test_late_does_it_later(write: Callable[[ObjectStore], object]) -> None:
    inner, before, after = prepared(write)
    store = WritesFail(inner, "late")
    with pytest.raises(StorageUnavailable):
        write(store)
    assert contents(inner) == before
    assert store.pending_count == 1
    store.land()
    assert contents(inner) == after


@pytest.mark.parametrize("write", WRITES)
def test_doubled_is_harmless_to_conditional_writes(write: Callable[[ObjectStore], object]) -> None:
    inner, _, after = prepared(write)
    store = WritesFail(inner, "doubled")
    write(store)
    assert contents(inner) == after
    store.land()
    assert contents(inner) == after


def test_a_late_put_holds_the_bytes_of_its_time() -> None:
    store, inner = faulty(late=1.0)
    buffer = bytearray(b"then")
    with pytest.raises(StorageUnavailable):
        store.put("a", buffer)
    buffer[:] = b"now!"
    store.land()
    assert inner.read("a").data == b"then"


def test_a_late_swap_loses_to_a_newer_one() -> None:
    store, inner = faulty(late=1.0)
    etag = inner.create("a", b"1")
    with pytest.raises(StorageUnavailable):
        store.swap("a", b"late", etag=etag)
    inner.swap("a", b"2", etag=etag)
    store.land()
    assert inner.read("a").data == b"2"
    assert store.injected["landed in vain"] == 1


def test_pending_writes_land_by_themselves(seed: int) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, seed=seed, rates=FaultRates(late=0.5))
    for index in range(200):
        try:
            store.create(f"k/{index}", b"")
        except StorageUnavailable:
            continue
    assert store.pending_count < 20
    assert store.injected["late"] > 50


def test_torn_reads_are_told(seed: int) -> None:
    inner = MemoryStore()
    inner.put("a", bytes(range(1, 101)))
    store = FaultyStore(inner, seed=seed, rates=FaultRates(torn=1.0))
    buffer = bytearray(100)
    with pytest.raises(StorageUnavailable):
        store.read_into("a", buffer, offset=0)
    read = buffer.rstrip(b"\0")
    assert bytes(read) == bytes(range(1, len(read) + 1))
    for call in (lambda: store.read("a"), lambda: store.read_range("a", offset=0, length=9)):
        with pytest.raises(StorageUnavailable):
            call()


def test_a_store_that_lies() -> None:
    store, inner = faulty(damaged=1.0, stale=1.0, unconditional=1.0)
    store.create("a", b"one")
    store.create("a", b"two")
    assert inner.read("a").data == b"two"
    store.swap("b", b"three", etag="none")
    assert inner.read("b").data == b"three"
    assert store.read("a").data != b"two"
    assert store.read_range("b", offset=0, length=5) != b"three"
    store.put("c", b"")
    assert [info.key for info in store.list_objects("")] == ["a", "b"]


def test_the_same_seed_gives_the_same_faults(seed: int) -> None:
    def run() -> tuple[Counter[str], dict[str, bytes]]:
        inner = MemoryStore()
        rates = FaultRates(refused=0.1, lost=0.1, late=0.1, doubled=0.1, torn=0.1)
        store = FaultyStore(inner, seed=seed, rates=rates)
        for index in range(300):
            try:
                store.put(f"{index % 7}", b"%d" % index)
                store.read(f"{index % 5}")
            except (StorageUnavailable, ObjectNotFound):
                continue
        return store.injected, contents(inner)

    assert run() == run()


class Failing(MemoryStore):
    """Answers no request before the last of `fail_count` failures."""

    def __init__(self, fail_count: int) -> None:
        super().__init__()
        self.left = fail_count
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise StorageUnavailable("busy", key="a")

    def put(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self.ask()
        super().put(key, data)

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        self.ask()
        return super().create(key, data)


def answered(store: RetryingStore) -> RetryingStore:
    """The store, after its first answer."""
    with pytest.raises(ObjectNotFound):
        store.read("none")
    return store


def test_retries_until_it_works() -> None:
    clock, told = ManualClock(), list[float]()
    inner = Failing(limits.RETRY_COUNT_MAX)
    store = answered(
        RetryingStore(
            inner,
            clock=clock,
            patience=Patience(random=SeededRandom(1)),
            on_retry=lambda _, seconds: told.append(seconds),
        )
    )
    store.put("a", b"1")
    assert inner.asked == limits.RETRY_COUNT_MAX + 1 == store.retry_count + 1
    assert clock.monotonic() == pytest.approx(sum(told))
    growing = [pause for pause in told if pause < limits.RETRY_SECONDS_MAX / 2]
    assert growing == sorted(growing) == told[: len(growing)]


def test_gives_up_in_the_end() -> None:
    inner = Failing(limits.RETRY_COUNT_MAX + 1)
    with pytest.raises(StorageUnavailable):
        answered(RetryingStore(inner, clock=ManualClock())).put("a", b"1")
    assert inner.asked == limits.RETRY_COUNT_MAX + 1


def test_a_store_that_never_answered_is_given_up_sooner() -> None:
    inner = Failing(1000)
    with pytest.raises(StorageUnavailable):
        RetryingStore(inner, clock=ManualClock()).put("a", b"1")
    assert inner.asked == limits.RETRY_COUNT_FIRST_MAX + 1


def test_no_attempt_begins_after_the_deadline() -> None:
    clock, inner = ManualClock(), Failing(1000)
    store = answered(
        RetryingStore(inner, clock=clock, patience=Patience(random=SeededRandom(1), deadline_seconds=3))
    )
    with pytest.raises(StorageUnavailable):
        store.put("a", b"1")
    assert clock.monotonic() < 3
    assert 1 < inner.asked < limits.RETRY_COUNT_MAX


class Throttled(Failing):
    pause_seconds = limits.RETRY_THROTTLED_SECONDS_MIN

    def ask(self) -> None:
        try:
            super().ask()
        except StorageUnavailable as exc:
            exc.pause_seconds = self.pause_seconds
            raise


def test_a_store_that_is_asked_too_much_is_left_alone_longer() -> None:
    told = list[float]()
    inner = Throttled(3)
    store = RetryingStore(inner, clock=ManualClock(), on_retry=lambda _, seconds: told.append(seconds))
    store.put("a", b"1")
    assert all(pause >= limits.RETRY_THROTTLED_SECONDS_MIN for pause in told)
    assert told[2] > 2 * limits.RETRY_THROTTLED_SECONDS_MIN


def test_what_a_store_asks_for_is_given_even_if_it_is_long() -> None:
    told = list[float]()
    inner = Throttled(1)
    inner.pause_seconds = 2 * limits.RETRY_SECONDS_MAX
    RetryingStore(inner, clock=ManualClock(), on_retry=lambda _, pause: told.append(pause)).put("a", b"1")
    assert told[0] >= inner.pause_seconds
    inner = Throttled(1)
    inner.pause_seconds = limits.RETRY_DEADLINE_SECONDS
    with pytest.raises(StorageUnavailable):
        RetryingStore(inner, clock=ManualClock()).put("a", b"1")


def test_conditional_writes_are_never_repeated() -> None:
    inner = Failing(1)
    with pytest.raises(StorageUnavailable):
        RetryingStore(inner, clock=ManualClock()).create("a", b"1")
    assert inner.asked == 1


def test_refusals_are_not_retried() -> None:
    clock = ManualClock()
    store = RetryingStore(MemoryStore(), clock=clock)
    etag = store.create("a", b"1")
    for error, call in (
        (ObjectExists, lambda: store.create("a", b"2")),
        (ObjectChanged, lambda: store.swap("a", b"2", etag=etag + "x")),
        (ObjectNotFound, lambda: store.read("b")),
    ):
        with pytest.raises(error):
            call()
    assert clock.monotonic() == 0


def test_a_cancelled_retry_stops() -> None:
    cancel = Cancel()
    store = RetryingStore(
        Failing(3), clock=ManualClock(), patience=Patience(cancel=cancel), on_retry=lambda _, __: cancel.set()
    )
    with pytest.raises(Interrupted):
        store.put("a", b"1")


def test_pauses_grow_and_are_bounded() -> None:
    lowest = [plan_pause(attempt, 0.0) for attempt in range(60)]
    highest = [plan_pause(attempt, 0.999) for attempt in range(60)]
    assert lowest == sorted(lowest)
    assert lowest[0] == limits.RETRY_SECONDS_MIN / 2
    assert max(highest) <= limits.RETRY_SECONDS_MAX


def test_a_list_goes_on_where_it_broke(seed: int) -> None:
    inner = MemoryStore()
    keys = [f"{index:03}" for index in range(100)]
    for key in keys:
        inner.put(key, b"")
    store = RetryingStore(
        FaultyStore(inner, seed=seed, rates=FaultRates(torn=0.6)),
        clock=ManualClock(),
        patience=Patience(random=SeededRandom(1)),
    )
    assert [info.key for info in store.list_objects("")] == keys


def test_the_meter() -> None:
    store = MeteredStore(MemoryStore())
    etag = store.create("a", b"12345")
    store.swap("a", b"1234567", etag=etag)
    store.put("b", memoryview(b"123"))
    store.read("a")
    store.read_range("a", offset=5, length=5)
    store.read_into("b", bytearray(2), offset=0)
    with pytest.raises(ObjectExists):
        store.create("a", b"not counted")
    list(store.list_objects(""))
    store.delete_many([f"x/{index}" for index in range(limits.DELETE_BATCH_COUNT + 1)])
    usage = store.usage()
    assert (usage.sent_bytes, usage.received_bytes) == (15, 7 + 2 + 2)
    wanted = {"create": 2, "swap": 1, "put": 1, "read": 3, "list": 1, "delete": 2}
    assert {kind.value: count for kind, count in usage.requests.items()} == wanted
    assert usage.request_count == 10


def test_the_chain_counts_each_attempt() -> None:
    inner = MemoryStore()
    calls = iter((StorageUnavailable("lost"), None, StorageUnavailable("lost")))

    class Failing(WrappedStore):
        def _request(self, _kind: Request, _key: str, act: Callable[[], Any]) -> Any:
            if (failure := next(calls, None)) is not None:
                raise failure
            return act()

    chain = chain_stores(Failing(inner), upload_bytes_per_second=1 << 40, clock=ManualClock())
    chain.store.put("a", b"12345")
    before = chain.usage()
    with pytest.raises(StorageUnavailable):
        chain.store.create("b", b"1")
    assert (before.requests, before.retry_count, before.sent_bytes) == ({"put": 2}, 1, 5)
    added = chain.usage().since(before)
    assert (added.requests, added.request_count, added.retry_count) == ({"create": 1}, 1, 1)
    assert added.sent_bytes == 0
