"""Rates are kept, on average and by all threads together."""

from pvback.runtime import ManualClock
from pvback.storage.memory import MemoryStore
from pvback.storage.paced import PacedStore


def test_uploads_keep_below_the_rate() -> None:
    clock = ManualClock()
    store = PacedStore(MemoryStore(clock=clock), upload_bytes_per_second=100, clock=clock)
    for number in range(11):
        store.create(f"k{number}", b"x" * 50)
    assert clock.monotonic() == 5.0
    clock.advance(1000)
    store.create("after-a-pause", b"x")
    assert clock.monotonic() == 1005.0
    assert len(store.read("k0").data) == 50


def test_downloads_keep_below_the_rate() -> None:
    clock = ManualClock()
    inner = MemoryStore(clock=clock)
    inner.create("k", b"x" * 100)
    store = PacedStore(inner, download_bytes_per_second=100, clock=clock)
    for _ in range(3):
        store.read("k")
        store.read_range("k", offset=0, length=100)
    assert 5.0 <= clock.monotonic() <= 6.0
