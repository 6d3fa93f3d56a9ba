"""Making a repository: killed at any write, over a store that fails, and several at once."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvback.config import Config, Secret
from pvback.errors import ConflictError, StorageError
from pvback.model import LocalAddress
from pvback.repository.founding import find_free_place
from pvback.repository.repository import (
    UNCONDITIONAL_WARNING,
    InitOptions,
    create_repository,
    open_repository_access,
)
from pvback.repository.timing import is_timed
from pvback.runtime import ManualClock
from pvback.storage.base import ObjectStore
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.local import LocalStore
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import Request, WrappedStore

CONFIG = Config(repository=LocalAddress(Path("/memory")), password=Secret("correct horse"), cache_dir=None)


class Killed(BaseException):
    """As if the process were gone: nothing of ours handles it."""


class KillingStore(WrappedStore):
    """Ends the caller at one of its writes to a key that is not the probe's; `act` is called before."""

    def __init__(self, inner: ObjectStore, *, at: int, act: Callable[[], object] | None = None) -> None:
        super().__init__(inner)
        self.left, self.act = at, act

    def _request(self, kind: Request, key: str, act: Callable[[], Any]) -> Any:
        if kind.is_write and not key.startswith("probe-"):
            self.left -= 1
            if self.left < 0:
                if self.act is None:
                    raise Killed
                self.act()
                self.act = lambda: None
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Any:
        return self._inner.list_objects(prefix, after=after)


class CalmProbe(FaultyStore):
    """Faults, but not in the races of the probe, which say nothing when answers are missing."""

    def _request(self, kind: Request, key: str, act: Callable[[], Any]) -> Any:
        return act() if key.startswith("probe-") else super()._request(kind, key, act)


def keys_in(store: ObjectStore) -> set[str]:
    return {one.key for one in store.list_objects("")}


@pytest.mark.parametrize("at", range(4))
def test_a_killed_init_is_repeated(native: SimpleNamespace, at: int) -> None:
    store = MemoryStore()
    with pytest.raises(Killed):
        create_repository(CONFIG, store=KillingStore(store, at=at))
    before = keys_in(store)
    assert len(before) == at
    store.put("probe-0123", b"of a probe that was killed")
    create_repository(CONFIG, store=store)
    assert len(keys_in(store)) == 5
    assert not before & keys_in(store)
    open_repository_access(CONFIG, store=store).close()


def test_an_init_that_was_killed_after_its_config_is_one(native: SimpleNamespace) -> None:
    store = MemoryStore()
    with pytest.raises(Killed):
        create_repository(CONFIG, store=KillingStore(store, at=4))
    with pytest.raises(ConflictError, match="already"):
        create_repository(CONFIG, store=store)
    open_repository_access(CONFIG, store=store).close()


def test_a_store_that_fails_now_and_then(native: SimpleNamespace, seed: int) -> None:
    inner = MemoryStore()
    store = CalmProbe(inner, seed=seed, rates=FaultRates(refused=0.2, lost=0.2, torn=0.1))
    create_repository(CONFIG, store=store, clock=ManualClock())
    assert len({key for key in keys_in(inner) if not key.startswith("probe-")}) == 5
    open_repository_access(CONFIG, store=inner).close()


def test_who_is_slower_leaves_nothing(native: SimpleNamespace) -> None:
    store = MemoryStore()
    slower = KillingStore(store, at=3, act=lambda: create_repository(CONFIG, store=store))
    with pytest.raises(ConflictError, match="just now"):
        create_repository(CONFIG, store=slower)
    assert len(keys_in(store)) == 5
    open_repository_access(CONFIG, store=store).close()


@pytest.mark.parametrize("key", ["data", "s/0123/gc/state", "keys/x.json", "copies/config", "probe/x"])
def test_other_things_are_left_alone(key: str) -> None:
    store = MemoryStore()
    store.put(key, b"theirs")
    with pytest.raises(ConflictError, match="not empty"):
        find_free_place(store, "here")


def test_files_that_are_no_keys_are_left_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, is_new=True)
    left = f"keys/{'0' * 32}.json"
    store.put(left, b"of an init that was killed")
    assert find_free_place(store, "here", folder=tmp_path) == [left]
    (tmp_path / "a b").touch()
    with pytest.raises(ConflictError, match="not empty"):
        find_free_place(store, "here", folder=tmp_path)


def careless() -> FaultyStore:
    """A store that takes conditions and ignores them."""
    return FaultyStore(MemoryStore(), seed=1, rates=FaultRates(unconditional=1.0))


def test_a_store_that_ignores_conditions_is_refused_unless_it_is_asked_for() -> None:
    with pytest.raises(StorageError, match="ignores conditions") as caught:
        create_repository(CONFIG, store=careless())
    assert "--allow-unconditional" in str(caught.value.hint)


@pytest.mark.parametrize("make", [careless, MemoryStore])
def test_what_init_finds_is_written_down_and_worked_by(
    native: SimpleNamespace, make: Callable[[], ObjectStore]
) -> None:
    store = make()
    is_conditional = isinstance(store, MemoryStore)
    facts = create_repository(CONFIG, options=InitOptions(may_be_unconditional=True), store=store)
    assert facts.is_conditional == is_conditional, "a store that keeps them is used as usual"
    assert facts.features == (() if is_conditional else ("timed-commits",))
    access = open_repository_access(CONFIG, store=store, clock=ManualClock())
    assert is_timed(access.objects) != is_conditional
    assert (UNCONDITIONAL_WARNING in access.warnings) != is_conditional
    assert access.usage().request_count > 0, "what was asked before it was known counts, too"
    access.close()
