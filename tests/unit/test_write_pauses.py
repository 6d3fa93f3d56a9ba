"""Every write that its caller repeats: spread, as long as it is configured, and as the store asks for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from pvback.errors import Interrupted, StorageUnavailable
from pvback.repository.copies import swap_settled
from pvback.repository.gcstate import load_gc_state, swap_gc_state
from pvback.repository.registers import StoredRegister, change_register, read_register, swap_register
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.retrying import Patience, create_own
from pvback.runtime import Cancel, ManualClock, SeededRandom, waiting_under
from pvback.storage.base import ObjectInfo
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import Request, WrappedStore

T = TypeVar("T")


class Busy(WrappedStore):
    """Answers questions, and refuses what is written under a condition."""

    def __init__(self, inner: MemoryStore, clock: ManualClock, pause_seconds: float | None) -> None:
        super().__init__(inner)
        self._clock, self._pause_seconds = clock, pause_seconds
        self.asked: list[float] = []
        self.act: Callable[[], None] = lambda: None

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if kind.is_repeatable:
            return act()
        self.asked.append(self._clock.monotonic())
        self.act()
        raise StorageUnavailable("asked too much", key=key, pause_seconds=self._pause_seconds)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)

    @property
    def pauses(self) -> list[float]:
        """Seconds between attempts."""
        return [after - before for before, after in zip(self.asked, self.asked[1:], strict=False)]


class Writer:
    """A client of a repository whose store is busy."""

    def __init__(
        self, access: RepositoryAccess, memory: MemoryStore, patience: Patience, *, pause: float | None = None
    ) -> None:
        self.clock = ManualClock()
        register = WriterSession(access.objects, "a0" * 16, clock=self.clock).register
        self.register: StoredRegister = read_register(access.objects, register.name)
        self.patience = patience
        self.store = Busy(memory, self.clock, pause)
        self.objects = replace(access.objects, store=self.store, patience=patience)
        self.twins = replace(access.twins, store=self.store, patience=patience, clock=self.clock)

    def swap_state(self) -> None:
        old = load_gc_state(self.objects)
        swap_gc_state(self.objects, old, new=replace(old.state, n=old.state.n + 1), clock=self.clock)

    def swap_register(self) -> None:
        swap_register(self.objects, self.register, new=self.register.register, clock=self.clock)

    def change_register(self) -> None:
        name = self.register.register.name
        change_register(self.objects, name, change=lambda old: old, clock=self.clock)

    def swap_config(self) -> None:
        old = self.store.read("config")
        swap_settled(self.store, old, key="config", data=b"x", clock=self.clock, patience=self.patience)

    def create_key(self) -> None:
        self.twins.create("keys/a.json", b"x")

    def create_own(self) -> None:
        create_own(self.store, "own", data=b"x", clock=self.clock, patience=self.patience)


WRITES = ("swap_state", "swap_register", "change_register", "swap_config", "create_key", "create_own")
writes = pytest.mark.parametrize("write", WRITES)


@writes
def test_a_store_that_is_asked_too_much_is_left_alone(
    write: str, access: RepositoryAccess, memory: MemoryStore
) -> None:
    writer = Writer(access, memory, Patience(random=SeededRandom(1)), pause=3.0)
    with pytest.raises(StorageUnavailable):
        getattr(writer, write)()
    assert len(writer.store.asked) > 3
    assert min(writer.store.pauses) >= 3.0


@writes
def test_writers_that_failed_together_do_not_come_back_together(
    write: str, access: RepositoryAccess, memory: MemoryStore
) -> None:
    found = []
    for seed in range(20):
        writer = Writer(access, memory, Patience(random=SeededRandom(seed), deadline_seconds=1.0))
        with pytest.raises(StorageUnavailable):
            getattr(writer, write)()
        found.append(writer.store.pauses[0])
    assert len(set(found)) == len(found)
    assert max(found) - min(found) > min(found) / 2


@writes
def test_a_write_is_repeated_as_long_as_configured(
    write: str, access: RepositoryAccess, memory: MemoryStore
) -> None:
    writer = Writer(access, memory, Patience(deadline_seconds=2.0))
    with pytest.raises(StorageUnavailable):
        getattr(writer, write)()
    assert len(writer.store.asked) > 1
    assert writer.clock.monotonic() < 2.0


@writes
def test_a_wait_ends_when_nobody_waits_any_more(
    write: str, access: RepositoryAccess, memory: MemoryStore
) -> None:
    given_up, ended = Cancel(), Cancel()
    for cancel in (given_up, ended):
        writer = Writer(access, memory, Patience(cancel=ended))
        writer.store.act = cancel.set
        with waiting_under(given_up), pytest.raises(Interrupted):
            getattr(writer, write)()
        assert len(writer.store.asked) == 1
        given_up = Cancel()
