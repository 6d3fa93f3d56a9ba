"""A repository in memory over the fake data path."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pvback import datapath
from pvback.config import Config, Secret
from pvback.model import LocalAddress
from pvback.repository.repository import RepositoryAccess, create_repository, open_repository_access
from pvback.runtime import ManualClock
from pvback.storage.base import ObjectStore
from pvback.storage.memory import MemoryStore
from tests.support import fake_native
from tests.support.scripted_s3 import Answer, ScriptedS3, scripted_s3

Open = Callable[..., RepositoryAccess]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The fake data path; `verbs` may be changed."""
    monkeypatch.setattr(datapath, "load_native", lambda: fake_native)
    verbs = dict(fake_native.VERBS)
    monkeypatch.setattr(fake_native, "VERBS", verbs)
    return SimpleNamespace(verbs=verbs)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(native: SimpleNamespace, clock: ManualClock) -> MemoryStore:
    """A store with a new repository in it."""
    store = MemoryStore(clock=clock)
    create_repository(_config(None), store=store)
    return store


@pytest.fixture
def open_access(memory: MemoryStore, clock: ManualClock, tmp_path: Path) -> Open:
    """Opens that repository, through another store around it if one is given."""

    def open_it(store: ObjectStore | None = None, *, cache: bool = False) -> RepositoryAccess:
        config = _config(tmp_path / "cache" if cache else None)
        return open_repository_access(config, store=store or memory, clock=clock, is_writer=True)

    return open_it


@pytest.fixture
def access(open_access: Open) -> RepositoryAccess:
    return open_access()


@pytest.fixture
def s3_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    """A service that does all it is asked, in name."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with scripted_s3(lambda _: Answer()) as made:
        yield made


def _config(cache_dir: Path | None) -> Config:
    return Config(
        repository=LocalAddress(Path("/memory")), password=Secret("correct horse"), cache_dir=cache_dir
    )


@pytest.fixture
def local_owner(tmp_path: Path) -> Iterator[RepositoryAccess]:
    """An owner's access to a new repository in a folder, over the real data path."""
    address = LocalAddress(tmp_path / "repository")
    config = Config(repository=address, password=Secret("correct horse"), cache_dir=tmp_path / "cache")
    create_repository(config)
    access = open_repository_access(config, is_writer=True)
    yield access
    access.close()
