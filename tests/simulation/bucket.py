"""The simulated store: what is in it, and a client's way to it: requests are lost, late and doubled."""

import hashlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, StorageError, StorageUnavailable
from pvback.storage.base import Capabilities, ObjectInfo, ReadBuffer, StoredObject, WriteBuffer
from tests.simulation.world import START, Process, World

__all__ = ["Bucket", "ClientStore", "Rates"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How likely each fault is for one request, in [0, 1]; and what else this store is like."""

    refused: float = 0.02
    """503: nothing happens."""
    conflict: float = 0.01
    """409: a conditional write does not happen, although its condition may hold."""
    lost: float = 0.02
    """It happens, the answer does not arrive."""
    late: float = 0.02
    """No answer; it happens at any later time, or never."""
    doubled: float = 0.02
    """It happens, and happens again at any later time. Without conditions no answer comes then to what is
    written over something: what was answered has had its effect.
    """
    list_lag_seconds: float = 0.0
    """How long a list may miss a write or a delete, or still show the old."""
    can_condition: bool = True
    """False: `create` and `swap` write without looking."""
    page_count: int = 4
    """Objects in one answer to a list request."""

    def quiet(self) -> "Rates":
        """The same store on a good day."""
        return Rates(
            refused=0,
            conflict=0,
            lost=0,
            late=0,
            doubled=0,
            list_lag_seconds=self.list_lag_seconds,
            can_condition=self.can_condition,
            page_count=self.page_count,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One object."""

    data: bytes
    etag: str
    seconds: float

    @property
    def mtime(self) -> datetime:
        """As stores tell it."""
        return START + timedelta(seconds=self.seconds)


class Bucket:
    """What has been applied. `on_change` hears of every object that came, changed or went."""

    def __init__(self, world: World, rates: Rates) -> None:
        self.world = world
        self.rates = rates
        self.objects: dict[str, Entry] = {}
        self.first: dict[str, bytes] = {}
        """What each object was when it came to be."""
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.on_change: Callable[[str], None] = lambda _key: None
        self._keys: list[str] = []
        self._recent: dict[str, tuple[float, Entry | None]] = {}

    def write(self, key: str, data: bytes) -> str:
        """Unconditionally; the etag names the content, as of stores that hash it."""
        old = self.objects.get(key)
        self._remember(key, old)
        entry = Entry(data, hashlib.blake2b(data, digest_size=8).hexdigest(), self.world.now)
        place = bisect_left(self._keys, key)
        if place == len(self._keys) or self._keys[place] != key:
            self._keys.insert(place, key)
        self.objects[key] = entry
        self.first.setdefault(key, data)
        self.on_change(key)
        return entry.etag

    def create(self, key: str, data: bytes) -> str:
        """If there is none."""
        if self.rates.can_condition and key in self.objects:
            raise ObjectExists("object exists already", key=key)
        return self.write(key, data)

    def swap(self, key: str, data: bytes, etag: str) -> str:
        """If it is that version."""
        old = self.objects.get(key)
        if self.rates.can_condition and (old is None or old.etag != etag):
            raise ObjectChanged("object has changed", key=key)
        return self.write(key, data)

    def remove(self, key: str) -> None:
        """Whether or not it is there."""
        if key not in self.objects:
            return
        self._remember(key, self.objects.pop(key))
        if not self.rates.list_lag_seconds:
            del self._keys[bisect_left(self._keys, key)]
        self.on_change(key)

    def find(self, key: str) -> Entry:
        """Raises ObjectNotFound."""
        entry = self.objects.get(key)
        if entry is None:
            raise ObjectNotFound("object not found", key=key)
        return entry

    def keys(self, prefix: str) -> list[str]:
        """What is really there."""
        first = bisect_left(self._keys, prefix)
        found = []
        for key in self._keys[first:]:
            if not key.startswith(prefix):
                break
            if key in self.objects:
                found.append(key)
        return found

    def page(self, prefix: str, after: str) -> list[ObjectInfo]:
        """One answer to a list request: with a lag, each change is in it or not yet."""
        first = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        found: list[ObjectInfo] = []
        for key in self._keys[first:]:
            if not key.startswith(prefix) or len(found) == self.rates.page_count:
                break
            entry = self._listed(key)
            if entry is not None:
                found.append(ObjectInfo(key, len(entry.data), entry.mtime, entry.etag))
        return found

    def _listed(self, key: str) -> Entry | None:
        recent = self._recent.get(key)
        if recent is not None:
            seconds, before = recent
            if seconds + self.rates.list_lag_seconds <= self.world.now:
                del self._recent[key]
            elif self.world.random.random() < 0.5:
                self.injected["stale"] += 1
                return before
        return self.objects.get(key)

    def _remember(self, key: str, old: Entry | None) -> None:
        if self.rates.list_lag_seconds:
            self._recent[key] = (self.world.now, old)


class ClientStore:
    """One process's way to a bucket: an `ObjectStore` whose every request is a step of the simulation."""

    def __init__(self, bucket: Bucket, process: Process) -> None:
        self._bucket = bucket
        self._process = process
        self._world = bucket.world

    @property
    def address(self) -> str:
        """Nowhere."""
        return "simulated:"

    @property
    def capabilities(self) -> Capabilities:
        """What the scope says."""
        rates = self._bucket.rates
        return Capabilities(
            can_create=rates.can_condition,
            can_swap=rates.can_condition,
            list_lag_seconds=rates.list_lag_seconds,
        )

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        raw = bytes(data)
        self._write("put", key, lambda: self._bucket.write(key, raw))

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        raw = bytes(data)
        return self._write("create", key, lambda: self._bucket.create(key, raw))

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        raw = bytes(data)
        return self._write("swap", key, lambda: self._bucket.swap(key, raw, etag))

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        entry = self._read("read", key, lambda: self._bucket.find(key))
        return StoredObject(entry.data, entry.etag, entry.mtime)

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        return self._read("read", key, lambda: self._bucket.find(key)).data[offset : offset + length]

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        view = memoryview(buffer).cast("B")
        data = self.read_range(key, offset=offset, length=len(view))
        view[: len(data)] = data
        return len(data)

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        entry = self._read("head", key, lambda: self._bucket.find(key))
        return ObjectInfo(key, len(entry.data), entry.mtime, entry.etag)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Each page is a request, the last and empty one too."""
        while page := self._page(prefix, after):
            yield from page
            if len(page) < self._bucket.rates.page_count:
                return
            after = page[-1].key

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._write("delete", key, lambda: self._bucket.remove(key))

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`. In any order, and others come between."""
        order = list(keys)
        self._world.random.shuffle(order)
        for first in range(0, len(order), 3):
            self._delete_batch(order[first : first + 3])

    def close(self) -> None:
        """Nothing to give back."""

    def _delete_batch(self, keys: list[str]) -> None:
        def act() -> None:
            for key in keys:
                self._bucket.remove(key)

        self._write("delete", " ".join(keys), act)

    def _page(self, prefix: str, after: str) -> list[ObjectInfo]:
        return self._read("list", prefix, lambda: self._bucket.page(prefix, after))

    def _read(self, kind: str, key: str, act: Callable[[], T]) -> T:
        self._world.pause()
        self._bucket.requests[kind] += 1
        if self._world.random.random() < self._bucket.rates.refused:
            self._fail("refused", kind, key)
        try:
            answer = act()
        except StorageError:
            self._world.note(f"{kind} {key} -> not there")
            raise
        self._world.note(f"{kind} {key}")
        return answer

    def _write(self, kind: str, key: str, act: Callable[[], T]) -> T:
        def arrive() -> None:
            try:
                act()
                what = "lands"
            except StorageError:
                what = "lands in vain"
            self._world.note(f"  late {kind} {key} of {self._process.name} {what}")

        self._world.pause(in_flight=arrive)
        if self._world.current is not None:
            self._world.current.looked = None
        self._bucket.requests[kind] += 1
        rates, point = self._bucket.rates, self._world.random.random()
        if point < rates.refused:
            self._fail("refused", kind, key)
        point -= rates.refused
        if point < rates.late:
            self._world.defer(arrive)
            self._fail("late", kind, key)
        point -= rates.late
        if point < rates.conflict and kind in ("create", "swap"):
            self._bucket.injected["conflict"] += 1
            self._world.note(f"{kind} {key} -> conflict")
            error = StorageUnavailable if kind == "create" else ObjectChanged
            raise error("conflict", key=key)
        point -= rates.conflict
        again = arrive if point < rates.doubled else None
        is_lost = rates.doubled <= point < rates.doubled + rates.lost
        if again is not None and not rates.can_condition:
            is_lost = "/snapshots/" in key or key.endswith("/gc/state")
        return self._apply(kind, key, act, again, is_lost=is_lost)

    def _apply(
        self, kind: str, key: str, act: Callable[[], T], again: Callable[[], None] | None, *, is_lost: bool
    ) -> T:
        if again is not None:
            self._bucket.injected["doubled"] += 1
            self._world.defer(again)
        try:
            answer = act()
        except StorageError as exc:
            if is_lost:
                self._fail("lost", kind, key)
            self._world.note(f"{kind} {key} -> {type(exc).__name__}")
            raise
        if is_lost:
            self._fail("lost", kind, key)
        self._world.note(f"{kind} {key}{' (and again later)' if again else ''}")
        return answer

    def _fail(self, fault: str, kind: str, key: str) -> None:
        self._bucket.injected[fault] += 1
        self._world.note(f"{kind} {key} -> no answer ({fault})")
        raise StorageUnavailable(f"no answer ({fault})", key=key)
