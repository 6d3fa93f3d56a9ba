"""Questions that are asked ahead: in order, each answer once, and never an answer from before a change."""

import threading
from collections.abc import Iterator

import pytest

from pvback.errors import ObjectNotFound
from pvback.storage import ObjectInfo, ObjectStore, ReadBuffer, StoredObject
from pvback.storage.ahead import AheadStore
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import WrappedStore


class Recorded(WrappedStore):
    """Writes down what reads and lists arrive, by which thread; reads wait for `gate`."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.seen: list[tuple[str, str, str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def read(self, key: str) -> StoredObject:
        self.gate.wait()
        self.seen.append(("read", key, threading.current_thread().name))
        return self._inner.read(key)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self.seen.append(("list", prefix, threading.current_thread().name))
        return self._inner.list_objects(prefix, after=after)

    def put(self, key: str, data: ReadBuffer) -> None:
        self._inner.put(key, data)


@pytest.fixture
def inner() -> Recorded:
    store = MemoryStore()
    for name in ("a/1", "a/2", "state"):
        store.put(name, name.encode())
    return Recorded(store)


def kinds(inner: Recorded) -> list[tuple[str, str]]:
    return [one[:2] for one in inner.seen]


def test_answers_come_once_and_in_order(inner: Recorded) -> None:
    store = AheadStore(inner)
    store.ask_ahead([[("read", "state")], [("list", "a/")]])
    assert store.read("state").data == b"state"
    assert [one.key for one in store.list_objects("a/")] == ["a/1", "a/2"]
    assert kinds(inner) == [("read", "state"), ("list", "a/")]
    assert {one[2] for one in inner.seen} == {"pvback-ahead"}
    assert store.read("state").data == b"state"
    assert inner.seen[-1][2] != "pvback-ahead"


def test_another_request_drops_the_answers(inner: Recorded) -> None:
    store = AheadStore(inner)
    store.ask_ahead([[("read", "state")], [("list", "a/")]])
    assert store.read("state").data == b"state"
    store.put("a/3", b"new")
    assert [one.key for one in store.list_objects("a/")] == ["a/1", "a/2", "a/3"]
    store.ask_ahead([[("list", "a/")], [("read", "state")]])
    assert store.read("a/3").data == b"new"
    store.put("a/4", b"newer")
    assert len(list(store.list_objects("a/"))) == 4


def test_what_was_not_begun_is_not_asked(inner: Recorded) -> None:
    store = AheadStore(inner)
    inner.gate.clear()
    store.ask_ahead([[("read", "state")], [("list", "a/")]])
    store.drop()
    threads = [one for one in threading.enumerate() if one.name == "pvback-ahead"]
    inner.gate.set()
    for thread in threads:
        thread.join()
    assert ("list", "a/") not in kinds(inner)


def test_a_list_from_the_middle_is_another_request(inner: Recorded) -> None:
    store = AheadStore(inner)
    store.ask_ahead([[("list", "a/")]])
    assert [one.key for one in store.list_objects("a/", after="a/1")] == ["a/2"]
    inner.put("a/3", b"new")
    assert len(list(store.list_objects("a/"))) == 3


def test_a_failure_is_for_who_asks(inner: Recorded) -> None:
    store = AheadStore(inner)
    store.ask_ahead([[("read", "none")], [("list", "a/")]])
    with pytest.raises(ObjectNotFound):
        store.read("none")
    assert len(list(store.list_objects("a/"))) == 2
    assert inner.seen[-1][2] != "pvback-ahead"


def test_a_group_is_asked_at_once(inner: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each list waits for the other one; the answers are taken in any order, what follows after both."""
    meeting, listed = threading.Barrier(2, timeout=30), inner.list_objects

    def meet(prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        meeting.wait()
        return listed(prefix, after=after)

    monkeypatch.setattr(inner, "list_objects", meet)
    store = AheadStore(inner)
    store.ask_ahead([[("list", "a/"), ("list", "b/")], [("read", "state")]])
    assert list(store.list_objects("b/")) == []
    assert len(list(store.list_objects("a/"))) == 2
    assert store.read("state").data == b"state"
    assert kinds(inner)[-1] == ("read", "state")
    assert {one[2] for one in inner.seen} == {"pvback-ahead"}
