"""The key of a restore's mover, where the store does not do what it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pvback.cluster.claim_runs import ClaimRun
from pvback.config import Config, Secret
from pvback.errors import ClusterError, StorageUnavailable
from pvback.model import Claim, LocalAddress
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_restore import not_set
from pvback.ops.restore_mover import restorer_key
from pvback.repository.keys import list_keys
from pvback.repository.repository import RepositoryAccess, create_repository, open_repository_access
from pvback.runtime import Cancel, ManualClock, NoProgress
from pvback.storage.memory import MemoryStore
from tests.support.cluster_objects import Objects

CONFIG = Config(repository=LocalAddress(Path("/memory")), password=Secret("correct horse"), cache_dir=None)


@pytest.fixture
def memory() -> MemoryStore:
    """A store with a repository whose keys are real ones."""
    store = MemoryStore(clock=ManualClock())
    create_repository(CONFIG, store=store)
    return store


@pytest.fixture
def access(memory: MemoryStore) -> RepositoryAccess:
    return open_repository_access(CONFIG, store=memory, clock=ManualClock(), is_writer=True)


class Told(NoProgress):
    """What was said aloud."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, what: str) -> None:
        self.warnings.append(what)


@contextmanager
def key_in_use(access: RepositoryAccess) -> Iterator[Told]:
    """A mover's key, which goes at the end, and what is said then."""
    clock, told = ManualClock(), Told()
    cluster = Objects()
    work = ClaimWork(cluster=cluster, progress=told, cancel=Cancel(), clock=clock)
    run = ClaimRun.begin(cluster, Claim("ns", "data"), run="a" * 16, what="test", clock=clock)
    try:
        with restorer_key(work, run, access=access):
            yield told
    finally:
        assert run.end() == []


def keys_of_movers(access: RepositoryAccess) -> list[str]:
    return [one.principal for one in list_keys(access) if one.role == "restorer"]


def test_it_goes_with_its_run(access: RepositoryAccess) -> None:
    with key_in_use(access) as told:
        assert len(keys_of_movers(access)) == 1
    assert keys_of_movers(access) == []
    assert told.warnings == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_key_that_stays_is_named_and_hides_nothing(
    access: RepositoryAccess, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Neither that the restore is done, nor why it is not."""

    def refuse(key: str) -> None:
        raise StorageUnavailable("nobody answers", key=key)

    def use() -> Any:
        with key_in_use(access) as told:
            monkeypatch.setattr(memory, "delete", refuse)
            said.append(told)
            if fails:
                raise ClusterError("the mover was lost")

    said: list[Told] = []
    if fails:
        with pytest.raises(ClusterError, match="the mover was lost"):
            use()
    else:
        use()
    (principal,) = keys_of_movers(access)
    (warning,) = said[0].warnings
    assert f"`pvback key remove {principal}`" in warning
    assert "nobody answers" in warning


def test_what_was_not_set_is_said_by_kind() -> None:
    owner = {"category": "owner", "count": 53, "message": "not permitted", "examples": ["d/random"]}
    times = {"category": "times", "count": 1, "message": "not permitted", "examples": [""]}
    assert not_set({"denied": [owner, times, {**times, "examples": []}]}) == [
        "owner: 53 not set (not permitted); for example d/random",
        *["times: 1 not set (not permitted); for example the root of the volume"] * 2,
    ]
    assert not_set({}) == []
