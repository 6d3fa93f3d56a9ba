"""A store in this process's memory: for tests, the simulator, and trying things out."""

import hashlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pvback import limits
from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, StorageError
from pvback.runtime import Clock, SystemClock
from pvback.s3_options import is_written_once
from pvback.storage.base import (
    Capabilities,
    ObjectInfo,
    ReadBuffer,
    StoredObject,
    WriteBuffer,
    check_key,
    check_prefix,
)

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Entry:
    data: bytes
    etag: str
    mtime: datetime
    locked_until: datetime | None = None


class MemoryStore:
    """Keeps every promise of `ObjectStore` but durability beyond the process."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        page_count: int = limits.LIST_PAGE_COUNT,
        lock_seconds: float | None = None,
    ) -> None:
        assert page_count > 0, "a page holds something"
        self._clock = clock or SystemClock()
        self._page_count = page_count
        self._lock_seconds = lock_seconds
        self._lock = threading.Lock()
        self._objects: dict[str, _Entry] = {}

    @property
    def address(self) -> str:
        """Names no place: two memory stores are never the same."""
        return "memory:"

    @property
    def capabilities(self) -> Capabilities:
        """Everything, at once; locks where asked for."""
        return Capabilities(lock_seconds=self._lock_seconds)

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        entry = self._entry(key, data)
        with self._lock:
            self._objects[key] = entry

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        entry = self._entry(key, data)
        with self._lock:
            if self._objects.setdefault(key, entry) is not entry:
                raise ObjectExists("object exists already", key=key)
        return entry.etag

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        assert etag, "an object without an etag is not swapped"
        assert memoryview(data).nbytes <= limits.SWAPPED_BYTES_MAX, "too big to be swapped"
        entry = self._entry(key, data)
        with self._lock:
            old = self._objects.get(key)
            if old is None or old.etag != etag:
                raise ObjectChanged("object has changed", key=key)
            self._objects[key] = entry
        return entry.etag

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        entry = self._find(key)
        return StoredObject(entry.data, entry.etag, entry.mtime)

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        assert offset >= 0, "no object begins before 0"
        assert length >= 0, "a range is not of negative length"
        return self._find(key).data[offset : offset + length]

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        view = memoryview(buffer).cast("B")
        data = self.read_range(key, offset=offset, length=len(view))
        view[: len(data)] = data
        return len(data)

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        return _info(key, self._find(key))

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        check_prefix(prefix)
        while page := self._page(prefix, after):
            yield from page
            after = page[-1].key

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        check_key(key)
        with self._lock:
            entry = self._objects.get(key)
            until = entry.locked_until if entry else None
            if until is not None and until > self._clock.now():
                raise StorageError("the object is locked", key=key)
            self._objects.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`."""
        for key in keys:
            self.delete(key)

    def locked_until(self, key: str) -> datetime | None:
        """See `LockingStore.locked_until`. A locked object can be replaced here, but not removed."""
        return self._find(key).locked_until

    def extend_lock(self, key: str, until: datetime) -> None:
        """See `LockingStore.extend_lock`."""
        entry = self._find(key)
        if entry.locked_until is None or entry.locked_until < until:
            with self._lock:
                self._objects[key] = replace(entry, locked_until=until)

    def close(self) -> None:
        """Nothing to give back; the objects stay."""

    def _entry(self, key: str, data: ReadBuffer) -> _Entry:
        check_key(key)
        raw = bytes(memoryview(data))
        now = self._clock.now()
        until = None
        if self._lock_seconds is not None and is_written_once(key):
            until = now + timedelta(seconds=self._lock_seconds)
        return _Entry(raw, hashlib.blake2b(raw, digest_size=16).hexdigest(), now, until)

    def _find(self, key: str) -> _Entry:
        check_key(key)
        with self._lock:
            entry = self._objects.get(key)
        if entry is None:
            raise ObjectNotFound("object not found", key=key)
        return entry

    def _page(self, prefix: str, after: str) -> list[ObjectInfo]:
        with self._lock:
            keys = sorted(self._objects)
            first = max(bisect_left(keys, prefix), bisect_right(keys, after))
            page = [key for key in keys[first : first + self._page_count] if key.startswith(prefix)]
            return [_info(key, self._objects[key]) for key in page]


def _info(key: str, entry: _Entry) -> ObjectInfo:
    return ObjectInfo(key, len(entry.data), entry.mtime, entry.etag)
