"""What stores around stores share: every request passes through one method."""

import enum
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar, cast

from pvback.storage.base import (
    Capabilities,
    LockingStore,
    ObjectInfo,
    ObjectStore,
    ReadBuffer,
    StoredObject,
    WriteBuffer,
)

__all__ = ["Request", "WrappedStore"]

T = TypeVar("T")


class Request(enum.Enum):
    """The kinds of request that a store gets."""

    PUT = "put"
    CREATE = "create"
    SWAP = "swap"
    READ = "read"
    HEAD = "head"
    LIST = "list"
    DELETE = "delete"
    PART = "part"
    """Of an object that is written in parts; comes through no wrapper, and is only counted."""

    @property
    def is_write(self) -> bool:
        """Whether the request may change what is stored."""
        return self not in (Request.READ, Request.HEAD, Request.LIST)

    @property
    def is_repeatable(self) -> bool:
        """Whether asking again after no answer is as good as having asked once."""
        return self not in (Request.CREATE, Request.SWAP)


class WrappedStore:
    """Hands every request but lists to `_request`, which calls the inner store or does not.

    A list is many requests, and what happens between its pages differs: each wrapper has its own.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        """Do the one request that `act` makes, and return what it returns."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The inner store's."""
        return self._inner.address

    @property
    def capabilities(self) -> Capabilities:
        """The inner store's."""
        return self._inner.capabilities

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        self._request(Request.PUT, key, lambda: self._inner.put(key, data))

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        return self._request(Request.CREATE, key, lambda: self._inner.create(key, data))

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        return self._request(Request.SWAP, key, lambda: self._inner.swap(key, data, etag=etag))

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        return self._request(Request.READ, key, lambda: self._inner.read(key))

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        return self._request(
            Request.READ, key, lambda: self._inner.read_range(key, offset=offset, length=length)
        )

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        return self._request(Request.READ, key, lambda: self._inner.read_into(key, buffer, offset=offset))

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        return self._request(Request.HEAD, key, lambda: self._inner.head(key))

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._request(Request.DELETE, key, lambda: self._inner.delete(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`."""
        if keys:
            copy = list(keys)
            self._request(Request.DELETE, copy[0], lambda: self._inner.delete_many(copy))

    def locked_until(self, key: str) -> datetime | None:
        """See `LockingStore.locked_until`; only for a store whose capabilities say that it locks."""
        inner = cast("LockingStore", self._inner)
        return self._request(Request.HEAD, key, lambda: inner.locked_until(key))

    def extend_lock(self, key: str, until: datetime) -> None:
        """See `LockingStore.extend_lock`; likewise."""
        inner = cast("LockingStore", self._inner)
        self._request(Request.PUT, key, lambda: inner.extend_lock(key, until))

    def close(self) -> None:
        """Close the inner store."""
        self._inner.close()
