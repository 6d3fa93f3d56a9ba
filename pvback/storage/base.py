"""The seam to object storage: what every store promises, and what callers have to do for themselves.

Invariants that hold for every store and every wrapper around one:

- Objects change whole. A reader sees the old object, the new one, or none; never a mixture.
- A call that returns has happened, is durable, and is seen by every later call of everybody. A call that
  raises `StorageUnavailable` may have happened, or may happen at any later time, even after its process has
  died. Any other error means that it did not happen and never will.
- Keys order by their bytes. No key is a folder of another: `a` and `a/b` are never both used.
- Stores are safe to use from several threads and know nothing of what the bytes mean.

Calls block: the request in flight is the unit of concurrency, and callers run as many threads as they want
requests. Buffers handed in are only used until the call returns.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pvback import limits
from pvback.errors import StorageError

__all__ = [
    "Capabilities",
    "LockingStore",
    "ObjectInfo",
    "ObjectStore",
    "ObjectVersion",
    "ReadBuffer",
    "StoredObject",
    "VersionedStore",
    "WriteBuffer",
    "check_key",
    "check_prefix",
]

ReadBuffer = bytes | bytearray | memoryview
"""C-contiguous bytes; other objects with a buffer are wrapped in a memoryview by the caller."""
WriteBuffer = bytearray | memoryview

_SEGMENT = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond the least that everybody can. What it says may be a lie: see `init`."""

    can_create: bool = True
    """`create` is atomic: of several racing calls exactly one wins."""
    can_swap: bool = True
    """`swap` is atomic, likewise."""
    list_lag_seconds: float = 0.0
    """How long after a write or delete a list may still miss it."""
    is_remote: bool = False
    """A request costs milliseconds: worth having many in flight."""
    multipart_bytes: int | None = None
    """Larger objects are written in parts; None: never."""
    part_bytes: int | None = None
    lock_seconds: float | None = None
    """What is written once is locked for so long, and the store is a `LockingStore`; None: nothing is."""

    def count_writes(self, size: int) -> int:
        """Requests that an object of `size` bytes takes to write: begin, parts and end, or one."""
        if self.multipart_bytes is None or self.part_bytes is None or size <= self.multipart_bytes:
            return 1
        return 2 + -(-size // self.part_bytes)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says about an object without reading it."""

    key: str
    size: int
    """Bytes."""
    mtime: datetime
    """When it was last written, by the store's clock, in UTC."""
    etag: str | None = None
    """As `read` returns it; None from stores that would have to read the object for it."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that was read whole."""

    data: bytes
    etag: str
    """Names this content to `swap`. Equal bytes may have equal tags: put a nonce into what is swapped.

    May be empty for an object of more than `limits.SWAPPED_BYTES_MAX`, which is never swapped.
    """
    mtime: datetime
    """When it was last written, as `head` says it: by the store's clock, in UTC."""


class ObjectStore(Protocol):
    """Bytes under keys. All methods raise StorageError for refusals and StorageUnavailable for doubts."""

    @property
    def address(self) -> str:
        """Where this is, for messages; holds no secret."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        ...

    def put(self, key: str, data: ReadBuffer) -> None:
        """Write an object, over an old one if there is one. Safe to repeat with equal bytes."""
        ...

    def create(self, key: str, data: ReadBuffer) -> str:
        """Write an object that must not exist yet, and return its etag as `read` would.

        Raises ObjectExists, and then leaves what is there. After StorageUnavailable read the key to learn
        who won: never just call again, the first call may be what the second one meets.
        """
        ...

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """Replace the object if it still is the one that `etag` names, and return the new etag.

        Raises ObjectChanged when it is another one or gone. After StorageUnavailable read the key, as with
        `create`; finding somebody else's may mean that one's own was there in between. Both the old and
        the new object have at most `limits.SWAPPED_BYTES_MAX`, and the etag is not empty.
        """
        ...

    def read(self, key: str) -> StoredObject:
        """Read an object whole. Raises ObjectNotFound."""
        ...

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """Read up to `length` bytes from `offset`: fewer only where the object ends, none past its end.

        Raises ObjectNotFound. Offset and length are not negative.
        """
        ...

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """Like `read_range` for the length of a writable, contiguous `buffer`; returns the bytes read.

        What the buffer holds behind them, and all of it after an error, is undefined.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size and time of an object. Raises ObjectNotFound."""
        ...

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """All objects whose keys begin with `prefix` and come after `after`, in key order.

        Read in pages as the iterator moves. An object that exists from the first step to the last is
        listed once, no matter how often it is replaced meanwhile; one that comes or goes may be missing.
        To go on after an error, list again after the last key seen.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none. A crash of the store's machine may bring it back."""
        ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove objects as `delete` does, in as few requests as the store allows, in any order.

        On an error some are removed and some are not; safe to repeat.
        """
        ...

    def close(self) -> None:
        """Give back connections and descriptors. No call may follow or be under way; repeats do nothing."""
        ...


class LockingStore(ObjectStore, Protocol):
    """A store that locks what it writes: for `Capabilities.lock_seconds`, by its own rule of which keys.

    A locked object can neither be removed nor replaced for good before its lock runs out; what `delete` does
    with it is the store's: refuse it with StorageError, or hide it and keep what it was.
    """

    def locked_until(self, key: str) -> datetime | None:
        """When the lock of an object runs out, in UTC; None: it has none. Raises ObjectNotFound."""
        ...

    def extend_lock(self, key: str, until: datetime) -> None:
        """Lock an object until then at least. Never shortens a lock. Safe to repeat.

        Raises ObjectNotFound; StorageError when the store does not allow it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """What was written under a key at one time, or that it was deleted then."""

    key: str
    version: str
    mtime: datetime
    """By the store's clock, in UTC."""
    size: int
    is_latest: bool
    is_marker: bool
    """It says that the object was deleted, and holds nothing."""
    etag: str = ""
    """Equal where the bytes are; of markers empty."""


class VersionedStore(Protocol):
    """A store that keeps what was overwritten and deleted. Raises as `ObjectStore`."""

    def list_versions(self) -> Iterator[ObjectVersion]:
        """Every version of everything, in any order."""
        ...

    def bring_back(self, version: ObjectVersion) -> None:
        """Write the object as this version has it, over what is there. Safe to repeat."""
        ...

    def hide(self, version: ObjectVersion) -> None:
        """Delete the object as `ObjectStore.delete` does: its versions stay."""
        ...

    def remove_marker(self, version: ObjectVersion) -> None:
        """Take back a deletion. No error if it is gone."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def check_key(key: str) -> str:
    """Return `key` if every store takes it: letters, digits and `._=-` between single slashes.

    No segment begins with a dot, so that `..` is none and stores can keep files of their own. Raises
    StorageError: keys may come from stored bytes.
    """
    if len(key) > limits.KEY_BYTES_MAX or not all(map(_SEGMENT.fullmatch, key.split("/"))):
        raise StorageError("not a valid object key", key=key[: limits.KEY_BYTES_MAX])
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if it is empty or begins a valid key. Raises StorageError."""
    if prefix:
        check_key(prefix + "x" if prefix.endswith("/") else prefix)
    return prefix
