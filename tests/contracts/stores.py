"""Stores for the contract suites: what is around them, and how doubts are settled."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, StorageUnavailable
from pvback.retrying import Patience
from pvback.runtime import ManualClock, SeededRandom
from pvback.storage import ObjectStore, ReadBuffer
from pvback.storage.base import Capabilities, ObjectInfo
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.retry import RetryingStore
from pvback.storage.wrap import Request, WrappedStore

T = TypeVar("T")
FAULTS = FaultRates(refused=0.1, lost=0.1, torn=0.1)


class SettlingStore(RetryingStore):
    """Settles conditional writes in doubt as every caller has to: by reading who won.

    Bytes written in this suite differ from call to call, so finding one's own means having won. Finding
    others' means having lost or having been replaced since: the caller has to be able to tell.
    """

    def create(self, key: str, data: ReadBuffer) -> str:
        while True:
            try:
                return super().create(key, data)
            except StorageUnavailable:
                try:
                    found = self.read(key)
                except ObjectNotFound:
                    continue
                if found.data == data:
                    return found.etag
                raise ObjectExists("somebody else's", key=key) from None

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        while True:
            try:
                return super().swap(key, data, etag=etag)
            except StorageUnavailable:
                try:
                    found = self.read(key)
                except ObjectNotFound:
                    raise ObjectChanged("gone", key=key) from None
                if found.data == data:
                    return found.etag
                if found.etag != etag:
                    raise ObjectChanged("somebody else's", key=key) from None


class LateLists(WrappedStore):
    """Shows in no list what was written within the lag."""

    def __init__(self, inner: ObjectStore, clock: ManualClock, *, lag_seconds: float) -> None:
        super().__init__(inner)
        self._clock, self._lag_seconds = clock, lag_seconds

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(self._inner.capabilities, list_lag_seconds=self._lag_seconds)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        shown = self._clock.now() - timedelta(seconds=self._lag_seconds)
        return (info for info in self._inner.list_objects(prefix, after=after) if info.mtime <= shown)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()


def settling(inner: ObjectStore, seed: int) -> ObjectStore:
    return SettlingStore(
        FaultyStore(inner, seed=seed, rates=FAULTS),
        clock=ManualClock(),
        patience=Patience(random=SeededRandom(seed)),
    )
