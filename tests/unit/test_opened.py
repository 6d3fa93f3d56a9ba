"""What was opened last: more is asked for at once, one key is enough, and nothing else depends on it."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pvback import datapath
from pvback.config import Config, Secret
from pvback.errors import WrongKeyError
from pvback.model import LocalAddress
from pvback.repository.keys import NewWay, add_key
from pvback.repository.layout import KEYS_PREFIX, is_key_object
from pvback.repository.repository import create_repository, open_repository_access
from pvback.repository.snapshots import Catalog
from pvback.storage import Capabilities, ObjectInfo, ObjectStore
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import Request, WrappedStore

T = TypeVar("T")

MEETING_SECONDS = 30
OTHER_COUNT = 3


class Remote(WrappedStore):
    """Says that it is far away, and writes down what is read and listed; some of it only comes together."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.asked: list[str] = []
        self._together: frozenset[str] = frozenset()
        self._meeting = threading.Barrier(1)
        self._before: threading.Event | None = None

    def wait_before(self, event: threading.Event) -> None:
        """Answer nothing before this happens."""
        self._before = event

    def expect_together(self, *keys: str) -> None:
        """Answer none of these before all are asked for."""
        self._together, self._meeting = frozenset(keys), threading.Barrier(len(keys), timeout=MEETING_SECONDS)

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._inner.capabilities, is_remote=True)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if kind is Request.READ:
            self._see(key)
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self._see(prefix)
        return self._inner.list_objects(prefix, after=after)

    def read_keys(self) -> list[str]:
        """The key objects that were read since the last call."""
        found, self.asked = [one for one in self.asked if is_key_object(one)], []
        return found

    def _see(self, key: str) -> None:
        self.asked.append(key)
        if self._before is not None:
            assert self._before.wait(MEETING_SECONDS), "it does not happen before the store answers"
        if key in self._together:
            self._meeting.wait()


class World:
    """A repository with one owner, and writers who have passwords of their own."""

    def __init__(self, top: Path) -> None:
        self.store = Remote(MemoryStore())
        self.config = Config(
            repository=LocalAddress(Path("/memory")),
            password=Secret("correct horse"),
            cache_dir=top / "cache",
        )
        create_repository(self.config, store=self.store)

    def add_writers(self) -> None:
        access = open_repository_access(self.config, store=self.store)
        for number in range(OTHER_COUNT):
            way = NewWay(method="passphrase", secret=Secret(f"battery staple {number}"))
            add_key(access, role="writer", label=f"{number}", way=way)

    def open(self, password: str | None = None, *, cache: bool = True) -> tuple[str, Catalog]:
        """The key that opens, and what is seen with it."""
        config = self.config if password is None else replace(self.config, password=Secret(password))
        config = config if cache else replace(config, cache_dir=None)
        access = open_repository_access(config, store=self.store, is_used_at_once=True)
        return f"{KEYS_PREFIX}{access.keyring.principal}.json", access.catalog()

    @property
    def memory(self) -> Path:
        assert self.config.cache_dir is not None
        (path,) = (self.config.cache_dir / "opened").glob("*.json")
        return path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_all_that_is_likely_is_asked_for_at_once(world: World) -> None:
    """None of it is answered before all of it is asked for; the lists of snapshots come after `gc/state`."""
    remembered = json.loads(world.memory.read_text())
    scope = f"s/{remembered['scope']}/"
    world.store.expect_together("config", KEYS_PREFIX, remembered["key"], f"{scope}gc/state")
    world.store.asked.clear()
    assert world.open()[0] == remembered["key"]
    assert sorted(world.store.asked[4:]) == [f"{scope}records/", f"{scope}snapshots/"]


def test_one_key_object_is_read_of_many(world: World) -> None:
    world.add_writers()
    world.store.read_keys()
    (owner, _), first = world.open(), world.store.read_keys()
    assert first == [owner]
    (writer, _), second = world.open("battery staple 1"), world.store.read_keys()
    assert writer != owner
    assert len(second) == len(set(second)) == OTHER_COUNT + 1, (
        "the likely one did not open: all, and none twice"
    )
    assert (world.open("battery staple 1")[0], world.store.read_keys()) == (writer, [writer])
    assert world.open("battery staple 1", cache=False)[0] == writer
    assert len(world.store.read_keys()) == OTHER_COUNT + 1
    with pytest.raises(WrongKeyError):
        world.open("battery staple")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": f"keys/{'0' * 32}.json"},
        {"scope": "0" * 32},
        {"key": f"keys/{'0' * 32}.json", "scope": "0" * 32},
        {"key": "config"},
        {"scope": "../.."},
        {"asked": "another"},
        {"key": None},
        {"salt": None},
        {"salt": 5},
        {"salt": {"value": "%%%", "argon2": [65536, 3, 4]}},
        {"salt": {"value": "AAAA", "argon2": [65536, 3, 4]}},
        {"salt": {"value": "A" * 22 + "==", "argon2": [65536, 3, 4]}},
        {"salt": {"value": "A" * 22 + "==", "argon2": [1 << 31, 3, 4]}},
        {"salt": {"value": "A" * 22 + "==", "argon2": [-1, 3, 4]}},
    ],
)
def test_a_wrong_memory_costs_requests_only(world: World, wrong: dict[str, object]) -> None:
    right = json.loads(world.memory.read_text())
    world.memory.write_text(json.dumps(right | wrong))
    key, catalog = world.open()
    assert (key, list(catalog.damaged)) == (right["key"], [])
    assert json.loads(world.memory.read_text()) == right


def test_another_repository_at_the_same_address(world: World, tmp_path: Path) -> None:
    before = json.loads(world.memory.read_text())
    other = World(tmp_path)
    other.memory.write_text(json.dumps(before))
    key, _ = other.open()
    assert key != before["key"]
    assert json.loads(other.memory.read_text())["key"] == key


def test_the_password_is_stretched_before_the_store_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    used: list[object] = []
    stretch, unlock = datapath.stretch, datapath.unlock

    def watched_stretch(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        return stretch(*args, **kwargs)

    def watched_unlock(*args: Any, **kwargs: Any) -> Any:
        used.append(kwargs["stretched"])
        return unlock(*args, **kwargs)

    monkeypatch.setattr(datapath, "stretch", watched_stretch)
    monkeypatch.setattr(datapath, "unlock", watched_unlock)
    world.store.wait_before(begun)
    world.open()
    assert [type(one).__name__ for one in used] == ["Stretched"]


def test_a_password_from_a_pipe_is_read_once(world: World) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"correct horse\n")
    os.close(writer)
    try:
        config = replace(world.config, password=None, password_file=Path(f"/dev/fd/{reader}"))
        access = open_repository_access(config, store=world.store)
        assert access.keyring.role == "owner"
    finally:
        os.close(reader)


def test_a_password_in_a_file(world: World, tmp_path: Path) -> None:
    """It is read twice, and both readings find it."""
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    config = replace(world.config, password=None, password_file=path)
    assert open_repository_access(config, store=world.store).keyring.role == "owner"
    path.write_text("correct hors\n")
    with pytest.raises(WrongKeyError):
        open_repository_access(config, store=world.store)
