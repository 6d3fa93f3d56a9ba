"""A store around a store that ignores conditions: `create` and `swap` look first and then write.

Nothing makes the two requests one. What that takes for commit and prune to be safe all the same is said in
`pvback.repository.timing`; its capabilities tell them that they run on such a store.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

from pvback import limits
from pvback.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
)
from pvback.storage.base import Capabilities, ObjectInfo, ReadBuffer
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["UnconditionalStore"]

T = TypeVar("T")


class UnconditionalStore(WrappedStore):
    """Every request goes to the inner store; conditional writes become a read and a plain write."""

    @property
    def capabilities(self) -> Capabilities:
        """The inner store's, without conditions."""
        return dataclasses.replace(self._inner.capabilities, can_create=False, can_swap=False)

    def create(self, key: str, data: ReadBuffer) -> str:
        """Write an object if there seems to be none. Raises ObjectExists."""
        try:
            self._inner.head(key)
        except ObjectNotFound:
            self._inner.put(key, data)
            return self._etag(key, data)
        raise ObjectExists("object exists already", key=key)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """Write an object if it seems to be the one that `etag` names. Raises ObjectChanged."""
        try:
            found = self._inner.read(key).etag
        except ObjectNotFound:
            raise ObjectChanged("object is gone", key=key) from None
        if found != etag:
            raise ObjectChanged("object has changed", key=key)
        self._inner.put(key, data)
        return self._inner.read(key).etag

    def _etag(self, key: str, data: ReadBuffer) -> str:
        """Of what was just created. Empty where it is never asked for, and may be large or closed to us."""
        if memoryview(data).nbytes > limits.SWAPPED_BYTES_MAX:
            return ""
        try:
            return self._inner.read(key).etag
        except StorageUnavailable:
            raise
        except StorageError:
            # Who may not read it swaps it no more than what is large.
            return ""

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        return self._inner.list_objects(prefix, after=after)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()
