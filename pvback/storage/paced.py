"""A store around a store that keeps below a number of bytes per second, each way."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from pvback.retrying import Patience
from pvback.runtime import Cancel, Clock, SystemClock, current_cancel
from pvback.storage.base import ObjectInfo, ObjectStore, ReadBuffer, StoredObject, WriteBuffer
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["Pace", "PacedStore"]

T = TypeVar("T")


class Pace:
    """Bytes take their turn: each amount is booked behind the one before it."""

    def __init__(self, bytes_per_second: int | None, clock: Clock) -> None:
        assert bytes_per_second is None or bytes_per_second > 0, "a rate is positive"
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def wait(self, count: int, cancel: Cancel) -> None:
        """Return when `count` bytes may pass: at once after a pause, otherwise when those before have."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + count / self._rate
        if start > now:
            self._clock.sleep(start - now, cancel)


class PacedStore(WrappedStore):
    """Delays requests so that all threads together stay below a rate, on average over some objects.

    Goes above a `HedgedStore`, whose reads would else be late for having waited here: what that asks a second
    time is beyond the rate.

    Args:
        inner: The store to ask.
        upload_bytes_per_second: For what is written; None: no limit.
        download_bytes_per_second: For what is read; None: no limit.
        clock: Sleeps.
        patience: Says when nobody waits any more: Interrupted ends a wait then.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        upload_bytes_per_second: int | None = None,
        download_bytes_per_second: int | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        super().__init__(inner)
        used = clock or SystemClock()
        self._up = Pace(upload_bytes_per_second, used)
        self._down = Pace(download_bytes_per_second, used)
        self._patience = patience or Patience()

    def _request(self, _kind: Request, _key: str, act: Callable[[], T]) -> T:
        return act()

    def _wait(self, pace: Pace, count: int) -> None:
        self._patience.check()
        pace.wait(count, current_cancel() or self._patience.cancel)

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        self._wait(self._up, len(data))
        self._inner.put(key, data)

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        self._wait(self._up, len(data))
        return self._inner.create(key, data)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        self._wait(self._up, len(data))
        return self._inner.swap(key, data, etag=etag)

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`. How much it was is known afterwards, and delays the next one."""
        self._wait(self._down, 0)
        stored = self._inner.read(key)
        self._wait(self._down, len(stored.data))
        return stored

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        self._wait(self._down, length)
        return self._inner.read_range(key, offset=offset, length=length)

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        self._wait(self._down, len(buffer))
        return self._inner.read_into(key, buffer, offset=offset)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        return self._inner.list_objects(prefix, after=after)
