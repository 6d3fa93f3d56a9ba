"""Objects of our own, created once although answers are lost."""

import pytest

from pvback import limits
from pvback.errors import ObjectExists, StorageError, StorageUnavailable
from pvback.retrying import create_own
from pvback.runtime import ManualClock
from pvback.storage.base import StoredObject
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.memory import MemoryStore


def test_a_lost_answer_is_looked_up(seed: int) -> None:
    for number in range(50):
        inner = MemoryStore()
        store = FaultyStore(inner, seed=seed + number, rates=FaultRates(lost=0.4, refused=0.3))
        while True:
            try:
                create_own(store, "own", data=memoryview(b"ours"), clock=ManualClock())
                break
            except StorageUnavailable:
                continue  # the read that settles it had no answer
        assert inner.read("own").data == b"ours"


def test_what_is_somebody_elses_stays() -> None:
    store = MemoryStore()
    store.put("own", b"theirs")
    with pytest.raises(ObjectExists):
        create_own(store, "own", data=b"ours", clock=ManualClock())
    assert store.read("own").data == b"theirs"


class Closed(MemoryStore):
    """Its objects may be written and listed, but not read; the answer to the first write is lost."""

    lost_count = 0

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        made = super().create(key, data)
        self.lost_count += 1
        raise StorageUnavailable(f"no answer after {made}", key=key)

    def read(self, key: str) -> StoredObject:
        raise StorageError("access denied", key=key)


def test_what_may_not_be_read_is_known_by_its_size() -> None:
    store = Closed()
    for beside in ("data/a0", "data/a2", "data/a10"):
        store.put(beside, b"others")
    create_own(store, "data/a1", data=memoryview(b"ours"), clock=ManualClock(), is_random=True)
    assert store.lost_count == 1
    with pytest.raises(ObjectExists):
        create_own(store, "data/a1", data=b"longer", clock=ManualClock(), is_random=True)
    with pytest.raises(StorageError, match="access denied"):
        create_own(store, "data/a1", data=b"ours", clock=ManualClock())


class Silent(MemoryStore):
    """Gives no answer, and may ask not to be asked for a while."""

    pause_seconds: float | None = None
    asked_count = 0

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        self.asked_count += 1
        raise StorageUnavailable("no answer", key=key, pause_seconds=self.pause_seconds)


@pytest.mark.parametrize("pause_seconds", [None, 0.5, 45.0, 1000.0])
def test_it_ends_by_the_deadline(pause_seconds: float | None) -> None:
    store, clock = Silent(), ManualClock()
    store.pause_seconds = pause_seconds
    with pytest.raises(StorageUnavailable):
        create_own(store, "own", data=b"ours", clock=clock)
    assert clock.monotonic() < limits.RETRY_DEADLINE_SECONDS
    assert 1 <= store.asked_count <= limits.RETRY_COUNT_MAX + 1
    if pause_seconds is None:
        assert store.asked_count == limits.RETRY_COUNT_MAX + 1
