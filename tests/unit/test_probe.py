"""The probe: stores that keep their word pass; each way of breaking it is seen and named."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, StorageError, StorageUnavailable
from pvback.runtime import ManualClock
from pvback.storage import ObjectStore, ReadBuffer, StoredObject
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.local import LocalStore
from pvback.storage.memory import MemoryStore
from pvback.storage.probe import Conditions, probe_conditions
from pvback.storage.retry import RetryingStore

MEETING_SECONDS = 10


class Late(MemoryStore):
    """Looks at conditions before the write, not with it: all who race have looked before one writes."""

    def __init__(self, racer_count: int) -> None:
        super().__init__()
        self._meeting = threading.Barrier(racer_count)

    def _meet(self) -> None:
        # Alone, as outside a race, nobody else comes: then the condition is looked at in peace.
        try:
            self._meeting.wait(MEETING_SECONDS if self._is_race() else 0)
        except threading.BrokenBarrierError:
            self._meeting.reset()

    @staticmethod
    def _is_race() -> bool:
        return threading.current_thread() is not threading.main_thread()

    def create(self, key: str, data: ReadBuffer) -> str:
        there = self._objects.get(key)
        self._meet()
        if there is not None:
            raise ObjectExists("there", key=key)
        self.put(key, data)
        return self._objects[key].etag

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        there = self._objects.get(key)
        self._meet()
        if there is None or there.etag != etag:
            raise ObjectChanged("changed", key=key)
        self.put(key, data)
        return self._objects[key].etag


class SwapsOverNothing(MemoryStore):
    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        try:
            self.head(key)
        except ObjectNotFound:
            self.put(key, data)
            return self.read(key).etag
        return super().swap(key, data, etag=etag)


class TwoKindsOfEtag(MemoryStore):
    def create(self, key: str, data: ReadBuffer) -> str:
        return super().create(key, data) + "-weak"


class Refuses(MemoryStore):
    def create(self, key: str, data: ReadBuffer) -> str:
        raise StorageError("a header implies what is not implemented", key=key)


class WithoutEtags(MemoryStore):
    def read(self, key: str) -> StoredObject:
        found = super().read(key)
        return StoredObject(found.data, "", found.mtime)


@pytest.mark.parametrize("make", [lambda _: MemoryStore(), LocalStore])
def test_honest_stores_pass(make: Callable[[Path], ObjectStore], tmp_path: Path) -> None:
    store = make(tmp_path)
    assert probe_conditions(store) == Conditions(creates=True, swaps=True)
    assert list(store.list_objects("")) == []


@pytest.mark.parametrize(
    ("store", "creates", "swaps", "says"),
    [
        (FaultyStore(MemoryStore(), seed=1, rates=FaultRates(unconditional=1.0)), False, False, "at once"),
        (Late(4), False, False, "create: 4 of 4 calls at once"),
        (SwapsOverNothing(), True, False, "where there was no object"),
        (TwoKindsOfEtag(), False, True, "different etags"),
        (Refuses(), False, True, "refused: a header"),
        (WithoutEtags(), False, False, "no etag"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_lie_is_seen(store: ObjectStore, creates: bool, swaps: bool, says: str) -> None:
    found = probe_conditions(store, thread_count=4)
    assert (found.creates, found.swaps, found.hold) == (creates, swaps, False), found.broken
    assert says in " ".join(found.broken)
    assert list(store.list_objects("")) == []


def test_doubt_is_not_taken_for_a_lie(seed: int) -> None:
    faulty = FaultyStore(MemoryStore(), seed=seed, rates=FaultRates(lost=0.02, refused=0.02))
    found = probe_conditions(RetryingStore(faulty, clock=ManualClock()), round_count=20)
    assert found.hold, found.broken


def test_no_answer_at_all_is_an_error() -> None:
    with pytest.raises(StorageUnavailable):
        probe_conditions(FaultyStore(MemoryStore(), seed=1, rates=FaultRates(refused=1.0)))
