"""A store that asks a second time for what takes unusually long, and takes the answer that comes first.

Of many reads in flight the slowest decide how long a restore takes, and most of them are slow for a reason
that a second request does not meet. What is unusual is learned: longer than 99 of 100 recent reads of about
the same size. At most `limits.HEDGE_SHARE_MAX` of all reads are asked twice, and fewer the more of these
repeats were in vain: where a link is full a repeat only takes room from what others wait for.

The first request reads into the caller's buffer, the second into one of its own, which costs memory only
while it runs. The loser is given up by its ticket (see `abandon`), and nothing touches the caller's buffer
after the call has returned.
"""

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from pvback import limits
from pvback.runtime import Clock, SystemClock
from pvback.storage.abandon import ReadTicket, reading_under
from pvback.storage.base import ObjectInfo, ObjectStore, StoredObject, WriteBuffer
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["HedgedStore", "Latencies"]

T = TypeVar("T")

_WHOLE = 0
"""The size of reads whose size is not known; no range has it."""


class Latencies:
    """How long reads took lately, by the order of their size. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[int, deque[float]] = {}
        self._late: dict[int, float] = {}
        self._added: Counter[int] = Counter()

    def add(self, size: int, seconds: float) -> None:
        """One more read of `size` bytes."""
        order = size.bit_length()
        with self._lock:
            recent = self._recent.setdefault(order, deque(maxlen=limits.HEDGE_SAMPLE_COUNT))
            recent.append(seconds)
            self._added[order] += 1
            # Sorting for each read would cost more than the figure is worth.
            is_due = order not in self._late or self._added[order] % 20 == 0
            if len(recent) >= limits.HEDGE_SAMPLE_COUNT_MIN and is_due:
                self._late[order] = sorted(recent)[len(recent) * 99 // 100]

    def late_after(self, size: int) -> float | None:
        """Seconds after which such a read is late; None while too few are known."""
        with self._lock:
            late = self._late.get(size.bit_length())
        return None if late is None else max(late, limits.HEDGE_SECONDS_MIN)


class HedgedStore(WrappedStore):
    """Repeats late reads. Goes below a `RetryingStore`, which sees one read, and above a `MeteredStore`.

    Args:
        inner: The store to ask.
        threads_count: Reads that may be in flight at once, first ones and repeats.
        clock: Times reads.
        latencies: What is known of reads already.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        threads_count: int = limits.S3_CONNECTIONS,
        clock: Clock | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        super().__init__(inner)
        self._clock = clock or SystemClock()
        self._latencies = latencies or Latencies()
        self._firsts = _Threads(threads_count, "pvback-read")
        self._seconds = _Threads(limits.HEDGES_IN_FLIGHT, "pvback-hedge")
        self._lock = threading.Lock()
        self._in_flight = 0
        self.read_count = 0
        """Reads that were wished for."""
        self.hedge_count = 0
        """Reads that were asked for a second time."""
        self.won_count = 0
        """Those of them whose second answer came first."""

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`. How large it is shows at its end: all whole objects are of one order."""

        def act() -> StoredObject:
            return self._inner.read(key)

        found, _ = self._hedge(_WHOLE, act, act, is_buffered=False)
        return found

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""

        def act() -> bytes:
            return self._inner.read_range(key, offset=offset, length=length)

        found, _ = self._hedge(length, act, act, is_buffered=False)
        return found

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        own: list[bytearray] = []
        # Released at the end: the thread of a first that lost still knows this view, and the caller's buffer
        # must be nobody's but the caller's then.
        with memoryview(buffer) as whole, whole.cast("B") as view:
            size = len(view)

            def second() -> int:
                copy = bytearray(size)
                count = self._inner.read_into(key, copy, offset=offset)
                own.append(copy)
                return count

            count, is_second = self._hedge(
                size, lambda: self._inner.read_into(key, view, offset=offset), second, is_buffered=True
            )
            if is_second:
                view[:count] = own[0][:count]
        return count

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        return self._inner.list_objects(prefix, after=after)

    def close(self) -> None:
        """Close the inner store. Reads that were given up may still be ending; they write nowhere."""
        self._firsts.close()
        self._seconds.close()
        super().close()

    def _request(self, _kind: Request, _key: str, act: Callable[[], T]) -> T:
        return act()

    def _hedge(
        self, size: int, first: Callable[[], T], second: Callable[[], T], *, is_buffered: bool
    ) -> tuple[T, bool]:
        """(the answer, whether it is the second's). Raises what the first raised, when both fail."""
        with self._lock:
            self.read_count += 1
        began = self._clock.monotonic()
        late_after = self._latencies.late_after(size)
        if late_after is None:
            answer = first(), False
        else:
            ticket = ReadTicket()
            asked = self._firsts.submit(lambda: _under(ticket, first))
            if wait([asked], late_after).done or not self._may_hedge():
                answer = asked.result(), False
            else:
                again = self._seconds.submit(lambda: self._ask_again(second))
                answer = _choose(asked, again, ticket=ticket if is_buffered else None)
        self._latencies.add(size, self._clock.monotonic() - began)
        if answer[1]:
            with self._lock:
                self.won_count += 1
        return answer

    def _may_hedge(self) -> bool:
        """Take one of the few repeats, if there is one left."""
        with self._lock:
            paid = (self.won_count + 1) / (self.hedge_count + 1)
            allowed = limits.HEDGES_IN_FLIGHT + int(self.read_count * limits.HEDGE_SHARE_MAX * paid)
            if self._in_flight >= limits.HEDGES_IN_FLIGHT or self.hedge_count >= allowed:
                return False
            self._in_flight += 1
            self.hedge_count += 1
            return True

    def _ask_again(self, second: Callable[[], T]) -> T:
        try:
            return second()
        finally:
            with self._lock:
                self._in_flight -= 1


def _under(ticket: ReadTicket, first: Callable[[], T]) -> T:
    with reading_under(ticket):
        return first()


def _choose(asked: "Future[T]", again: "Future[T]", *, ticket: ReadTicket | None) -> tuple[T, bool]:
    """The answer that comes first, and whether it is the second's; a failure waits for the other one."""
    done = wait([asked, again], return_when=FIRST_COMPLETED).done
    if asked in done:
        failure = asked.exception()
        if failure is None or again.exception() is not None:
            return asked.result(), False
        return again.result(), True
    if again.exception() is not None:
        return asked.result(), False
    if ticket is not None and not ticket.abandon():
        # The first is writing into the caller's buffer, and has been told to stop.
        wait([asked])
    return again.result(), True


class _Threads:
    """Runs calls in threads that nobody waits for: one that was given up may take long to notice."""

    def __init__(self, count_max: int, name: str) -> None:
        self._count_max = count_max
        self._name = name
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._idle_count = 0

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Run `call` soon; the future has its result."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as exc:  # noqa: BLE001 - raised where the result is taken
                future.set_exception(exc)

        with self._lock:
            if self._idle_count:
                self._idle_count -= 1
            elif self._count < self._count_max:
                self._count += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
        self._calls.put(run)
        return future

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        with self._lock:
            for _ in range(self._count):
                self._calls.put(None)

    def _work(self) -> None:
        while (run := self._calls.get()) is not None:
            run()
            del run
            with self._lock:
                self._idle_count += 1
