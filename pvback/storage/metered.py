"""A store that counts requests and bytes, as the provider's bill does."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from pvback import limits
from pvback.storage.base import ObjectInfo, ObjectStore, ReadBuffer, StoredObject, WriteBuffer
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["MeteredStore", "Usage"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked of a store so far. Failed requests count, their bytes do not."""

    requests: Mapping[Request, int]
    sent_bytes: int
    received_bytes: int

    @property
    def request_count(self) -> int:
        """All requests together."""
        return sum(self.requests.values())


class MeteredStore(WrappedStore):
    """Counts. Goes below a `RetryingStore` to count each attempt, above it to count each wish."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._requests: Counter[Request] = Counter()
        self._sent_bytes = 0
        self._received_bytes = 0

    def usage(self) -> Usage:
        """The counts of this moment; the object does not change any more."""
        with self._lock:
            return Usage(MappingProxyType(dict(self._requests)), self._sent_bytes, self._received_bytes)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        self._count(kind)
        return act()

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        self._count_parts(data)
        super().put(key, data)
        self._move(sent=memoryview(data).nbytes)

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        self._count_parts(data)
        etag = super().create(key, data)
        self._move(sent=memoryview(data).nbytes)
        return etag

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        new = super().swap(key, data, etag=etag)
        self._move(sent=memoryview(data).nbytes)
        return new

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        found = super().read(key)
        self._move(received=len(found.data))
        return found

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        data = super().read_range(key, offset=offset, length=length)
        self._move(received=len(data))
        return data

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        count = super().read_into(key, buffer, offset=offset)
        self._move(received=count)
        return count

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Counts one request for each page of S3's size."""
        self._count(Request.LIST)
        for index, info in enumerate(self._inner.list_objects(prefix, after=after)):
            if index and index % limits.LIST_PAGE_COUNT == 0:
                self._count(Request.LIST)
            yield info

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`. Counts one request for each batch of S3's size."""
        for _ in range(limits.DELETE_BATCH_COUNT, len(keys), limits.DELETE_BATCH_COUNT):
            self._count(Request.DELETE)
        super().delete_many(keys)

    def _count_parts(self, data: ReadBuffer) -> None:
        """An object in parts is one request of its kind, and one for each part and for their beginning."""
        more = self.capabilities.count_writes(memoryview(data).nbytes) - 1
        if more:
            self._count(Request.PART, more)

    def _count(self, kind: Request, count: int = 1) -> None:
        with self._lock:
            self._requests[kind] += count

    def _move(self, *, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self._sent_bytes += sent
            self._received_bytes += received
