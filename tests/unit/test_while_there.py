"""What is said of a repository in which something is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pvback.config import Config, Secret
from pvback.errors import DamagedError, ObjectNotFound, PvbackError, RepositoryNotFound, SessionFencedError
from pvback.model import LocalAddress
from pvback.repository.layout import CONFIG_KEY, copy_key
from pvback.repository.repository import create_repository, open_repository_access
from pvback.storage.memory import MemoryStore

CONFIG = Config(repository=LocalAddress(Path("/memory")), password=Secret("correct horse"), cache_dir=None)
BOTH = (CONFIG_KEY, copy_key(CONFIG_KEY))


def nothing(store: MemoryStore) -> None:
    """All is there."""


def spoil(store: MemoryStore) -> None:
    for key in BOTH:
        store.delete(key)
        store.create(key, b"spoiled")


def remove(store: MemoryStore) -> None:
    for key in BOTH:
        store.delete(key)


@pytest.mark.parametrize("found", [DamagedError("this"), ObjectNotFound("this"), SessionFencedError("this")])
@pytest.mark.parametrize(("happens", "kind"), [(nothing, None), (spoil, None), (remove, RepositoryNotFound)])
def test_only_a_repository_that_is_gone_says_more(
    found: PvbackError, happens: Callable[[MemoryStore], None], kind: type[PvbackError] | None
) -> None:
    store = MemoryStore()
    create_repository(CONFIG, store=store)
    access = open_repository_access(CONFIG, store=store)

    def find() -> None:
        with access.while_there():
            happens(store)
            raise found

    with pytest.raises(PvbackError) as raised:
        find()
    assert (raised.value is found) if kind is None else isinstance(raised.value, kind)
