"""Rates are kept, on average and by all threads together."""

from dataclasses import replace

import pytest

from pvback import limits
from pvback.errors import Interrupted
from pvback.retrying import Patience
from pvback.runtime import Cancel, ManualClock, SystemClock, waiting_under
from pvback.storage.base import Capabilities
from pvback.storage.chain import chain_stores
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


def test_a_wait_for_ones_turn_ends_when_nobody_waits_any_more() -> None:
    clock, cancel = SystemClock(), Cancel()
    store = PacedStore(
        MemoryStore(), upload_bytes_per_second=1, clock=clock, patience=Patience(cancel=cancel)
    )
    store.put("first", b"x" * 1000)  # a quarter of an hour
    cancel.set()
    with pytest.raises(Interrupted):
        store.put("second", b"x")
    given_up = Cancel()
    given_up.set()
    store = PacedStore(MemoryStore(), upload_bytes_per_second=1, clock=clock)
    store.put("first", b"x" * 1000)
    with waiting_under(given_up), pytest.raises(Interrupted):
        store.put("second", b"x")


class Remote(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, is_remote=True)


def test_a_read_that_waits_for_its_turn_is_not_late() -> None:
    inner = Remote()
    inner.put("a", b"x" * 100)
    chain = chain_stores(inner, download_bytes_per_second=10_000)
    for _ in range(3 * limits.HEDGE_SAMPLE_COUNT_MIN // 2):
        chain.store.read_range("a", offset=0, length=1)  # learns how quick reads are
    for _ in range(5):
        chain.store.read_range("a", offset=0, length=1000)
    for _ in range(30):
        chain.store.read_range("a", offset=0, length=1)
    assert chain.usage().hedge_count == 0
    chain.store.close()
