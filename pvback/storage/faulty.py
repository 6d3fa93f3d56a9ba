"""A store that fails as real ones do, from a seed; and, if asked to, one that lies.

The first group of faults stays within the contract of `ObjectStore`, and everything above has to survive
it. The second group breaks the contract: it is there for canary tests, which have to fail under it.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from pvback.errors import StorageError, StorageUnavailable
from pvback.runtime import SeededRandom
from pvback.storage.base import ObjectInfo, ObjectStore, ReadBuffer, StoredObject, WriteBuffer
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["FaultRates", "FaultyStore"]

T = TypeVar("T")

RECENT_COUNT = 4
"""Writes that a stale list has not heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """How likely each fault is for one request, in [0, 1]. A request has one fault at most."""

    refused: float = 0.0
    """Nothing happens, and the caller is told that a retry may help."""
    lost: float = 0.0
    """It happens, the answer does not arrive."""
    late: float = 0.0
    """The caller is told to retry; a write happens then or at any later request, or in `land`."""
    doubled: float = 0.0
    """It happens at once, and a write happens again at any later request, or in `land`."""
    torn: float = 0.0
    """A read or list breaks off in the middle."""

    stale: float = 0.0
    """Lie: a list leaves out what was written last."""
    damaged: float = 0.0
    """Lie: one bit of what is read is another."""
    unconditional: float = 0.0
    """Lie: a create or swap looks at no condition."""

    def __post_init__(self) -> None:
        assert self.refused + self.lost + self.late + self.doubled <= 1, "one fault at most"


class FaultyStore(WrappedStore):
    """The inner store behind a bad network. The same seed and calls from one thread give the same faults."""

    def __init__(self, inner: ObjectStore, *, seed: int, rates: FaultRates) -> None:
        super().__init__(inner)
        self.seed = seed
        self.rates = rates
        self.injected: Counter[str] = Counter()
        """How often each fault was injected, by its name in FaultRates."""
        self._random = SeededRandom(seed)
        self._lock = threading.RLock()
        self._pending: list[Callable[[], object]] = []
        self._recent: deque[str] = deque(maxlen=RECENT_COUNT)

    @property
    def pending_count(self) -> int:
        """Writes that have yet to land."""
        return len(self._pending)

    def land(self) -> None:
        """Let all writes under way land, in an order of the seed's choosing."""
        while self._pending:
            self._land_one()

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        super().put(key, bytes(data))  # a late write outlives the caller's buffer

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        if self._hits("unconditional"):
            self._inner.put(key, data)
            return self._inner.read(key).etag
        return super().create(key, bytes(data))

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        if self._hits("unconditional"):
            self._inner.put(key, data)
            return self._inner.read(key).etag
        return super().swap(key, bytes(data), etag=etag)

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        self._break_off(key)
        found = super().read(key)
        return replace(found, data=self._damage(found.data))

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        self._break_off(key)
        return self._damage(super().read_range(key, offset=offset, length=length))

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`. Torn, it leaves the first part in the buffer."""
        view = memoryview(buffer).cast("B")
        if self._hits("torn"):
            part = self._below(len(view) + 1)
            self._inner.read_into(key, view[:part], offset=offset)
            raise StorageUnavailable("connection lost in the middle of a read", key=key)
        count = super().read_into(key, buffer, offset=offset)
        view[:count] = self._damage(bytes(view[:count]))
        return count

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        self._request(Request.LIST, prefix, lambda: None)
        unheard = set(self._recent) if self._hits("stale") else set()
        left = self._below(10) if self._hits("torn") else None
        for index, info in enumerate(self._inner.list_objects(prefix, after=after)):
            if index == left:
                raise StorageUnavailable("connection lost in the middle of a list", key=prefix)
            if info.key not in unheard:
                yield info

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        while self._pending and self._fraction() < 0.5:
            self._land_one()
        if kind.is_write:
            self._recent.append(key)
        fault = self._draw()
        if fault is None:
            return act()
        self.injected[fault] += 1
        if kind.is_write and fault in ("late", "doubled"):
            with self._lock:
                self._pending.append(act)
        if fault == "doubled":
            return act()
        if fault == "lost":
            try:
                act()
            except StorageError as exc:
                raise StorageUnavailable("answer lost", key=key) from exc
        raise StorageUnavailable(f"no answer ({fault})", key=key)

    def _draw(self) -> str | None:
        """The fault of this request, or None."""
        point = self._fraction()
        for name in ("refused", "lost", "late", "doubled"):
            point -= float(getattr(self.rates, name))
            if point < 0:
                return name
        return None

    def _hits(self, name: str) -> bool:
        rate = float(getattr(self.rates, name))
        if rate == 0.0 or self._fraction() >= rate:
            return False
        self.injected[name] += 1
        return True

    def _break_off(self, key: str) -> None:
        if self._hits("torn"):
            raise StorageUnavailable("connection lost in the middle of a read", key=key)

    def _damage(self, data: bytes) -> bytes:
        if not data or not self._hits("damaged"):
            return data
        place = self._below(8 * len(data))
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        return bytes(changed)

    def _land_one(self) -> None:
        with self._lock:
            if not self._pending:
                return
            act = self._pending.pop(self._random.below(len(self._pending)))
        try:
            act()
        except StorageError:
            self.injected["landed in vain"] += 1

    def _fraction(self) -> float:
        with self._lock:
            return self._random.fraction()

    def _below(self, bound: int) -> int:
        with self._lock:
            return self._random.below(bound)
