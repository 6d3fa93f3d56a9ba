"""Late reads are asked twice: the first answer wins, few are asked, and a buffer is never written late."""

import threading

import pytest

from pvback import limits
from pvback.errors import StorageUnavailable
from pvback.storage import StoredObject, WriteBuffer
from pvback.storage.abandon import current_ticket
from pvback.storage.hedged import HedgedStore, Latencies
from pvback.storage.memory import MemoryStore

SIZE = 1000
DATA = bytes(range(250)) * 4


class Stuck(MemoryStore):
    """The first read stands still, before its answer or in the middle of it, as on a network."""

    def __init__(self, *, where: str, then: str = "fails") -> None:
        super().__init__()
        self.put("a", DATA)
        self.where, self.then = where, then
        self.asked = 0
        self.freed = threading.Event()
        self.ended = threading.Event()
        self._lock_asked = threading.Lock()

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        with self._lock_asked:
            self.asked += 1
            is_first = self.asked == 1
        if not is_first:
            if self.then == "second fails":
                self.freed.set()
                raise StorageUnavailable("second", key=key)
            return super().read_into(key, buffer, offset=offset)
        ticket = current_ticket()
        ticket.defer()
        try:
            if self.where == "before":
                assert self.freed.wait(10)
            ticket.begin(self.freed.set, key=key)
            if self.where == "middle":
                memoryview(buffer)[:3] = b"xxx"
                assert self.freed.wait(10)
                if self.then == "fails":
                    raise StorageUnavailable("cut off", key=key)
            return super().read_into(key, buffer, offset=offset)
        finally:
            self.ended.set()


def known() -> Latencies:
    """Reads of this size take a millisecond."""
    latencies = Latencies()
    for _ in range(limits.HEDGE_SAMPLE_COUNT_MIN):
        latencies.add(SIZE, 0.001)
    return latencies


def test_a_read_that_has_not_begun_is_left_behind() -> None:
    inner = Stuck(where="before")
    store = HedgedStore(inner, latencies=known())
    buffer = bytearray(SIZE)
    assert store.read_into("a", buffer, offset=0) == SIZE
    assert bytes(buffer) == DATA
    assert (store.hedge_count, store.won_count, inner.ended.is_set()) == (1, 1, False)
    buffer[:] = bytes(SIZE)
    inner.freed.set()
    assert inner.ended.wait(10)
    assert bytes(buffer) == bytes(SIZE), "the loser wrote into a buffer that was given back"
    store.close()


def test_a_buffer_is_the_callers_again() -> None:
    """Who takes the buffer back for good finds no view of it, of a read that won or that lost."""
    inner = MemoryStore()
    inner.put("a", DATA)
    quick = HedgedStore(inner, latencies=known())
    lost = HedgedStore(Stuck(where="before"), latencies=known())
    for store in (quick, lost):
        buffer = bytearray(SIZE)
        store.read_into("a", buffer, offset=0)
        buffer.append(0)
        assert bytes(buffer[:SIZE]) == DATA


def test_whole_objects_are_asked_for_twice_too() -> None:
    latencies = Latencies()
    for _ in range(limits.HEDGE_SAMPLE_COUNT_MIN):
        latencies.add(0, 0.001)

    class StuckWhole(Stuck):
        def read(self, key: str) -> StoredObject:
            with self._lock_asked:
                self.asked += 1
                is_first = self.asked == 1
            assert not is_first or self.freed.wait(10)
            return super().read(key)

    inner = StuckWhole(where="nowhere")
    store = HedgedStore(inner, latencies=latencies)
    assert store.read("a").data == DATA
    assert (store.hedge_count, store.won_count) == (1, 1)
    inner.freed.set()
    store.close()


def test_a_read_in_the_middle_is_stopped_first() -> None:
    inner = Stuck(where="middle")
    store = HedgedStore(inner, latencies=known())
    buffer = bytearray(SIZE)
    assert store.read_into("a", buffer, offset=0) == SIZE
    assert bytes(buffer) == DATA
    assert inner.ended.is_set(), "the first was still at it"


def test_when_the_second_fails_the_first_is_waited_for() -> None:
    inner = Stuck(where="middle", then="second fails")
    store = HedgedStore(inner, latencies=known())
    buffer = bytearray(SIZE)
    assert store.read_into("a", buffer, offset=0) == SIZE
    assert bytes(buffer) == DATA
    assert (store.hedge_count, store.won_count) == (1, 0)


def test_without_experience_nothing_is_asked_twice() -> None:
    store = HedgedStore(Stuck(where="nowhere"))
    for _ in range(limits.HEDGE_SAMPLE_COUNT_MIN - 1):
        store.read_into("a", bytearray(SIZE), offset=0)
    assert (store.hedge_count, store.read_count) == (0, limits.HEDGE_SAMPLE_COUNT_MIN - 1)


def test_errors_pass_through() -> None:
    store = HedgedStore(MemoryStore(), latencies=known())
    with pytest.raises(Exception, match="not found"):
        store.read_into("b", bytearray(SIZE), offset=0)
    with pytest.raises(Exception, match="not found"):
        store.read_range("b", offset=0, length=SIZE)


class Slow(MemoryStore):
    """Every read takes longer than usual, for as long as nobody has asked twice or all have asked."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.put("a", DATA)
        self._meeting = threading.Barrier(count)

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        self._meeting.wait(10)
        return super().read_into(key, buffer, offset=offset)


def test_a_store_that_is_slow_as_a_whole_is_not_asked_twice_as_much() -> None:
    readers = 4 * limits.HEDGES_IN_FLIGHT
    # All first reads and all that may be repeated have to come together before one of them is answered.
    inner = Slow(readers + limits.HEDGES_IN_FLIGHT)
    store = HedgedStore(inner, latencies=known())
    buffers = [bytearray(SIZE) for _ in range(readers)]
    threads = [
        threading.Thread(target=store.read_into, args=("a", buffer), kwargs={"offset": 0})
        for buffer in buffers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bytes(buffer) == DATA for buffer in buffers)
    assert store.hedge_count == limits.HEDGES_IN_FLIGHT


@pytest.mark.parametrize(("won", "is_repeated"), [(0, False), (19, True)])
def test_where_repeats_were_in_vain_there_are_fewer(won: int, is_repeated: bool) -> None:
    inner = Stuck(where="before")
    store = HedgedStore(inner, latencies=known())
    store.read_count, store.hedge_count, store.won_count = 1000, 20, won
    end = threading.Timer(2.0, inner.freed.set)
    end.start()
    assert store.read_into("a", bytearray(SIZE), offset=0) == SIZE
    assert (store.hedge_count == 21) == is_repeated
    end.cancel()
    inner.freed.set()
    store.close()


def test_what_is_late_is_learned_by_size() -> None:
    latencies = Latencies()
    for number in range(limits.HEDGE_SAMPLE_COUNT):
        latencies.add(SIZE, 0.1 + number / 1000)
        latencies.add(SIZE * 64, 1.0)
    late = latencies.late_after(SIZE)
    assert late is not None
    assert 0.28 < late < 0.3
    assert latencies.late_after(SIZE * 64) == 1.0
    assert latencies.late_after(1) is None
