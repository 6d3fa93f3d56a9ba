"""What is asked at once where a request costs milliseconds: each of two requests waits for the other here."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from pvback.repository.layout import GC_STATE_NAME, Area
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import load_catalog
from pvback.runtime import ManualClock
from pvback.storage import ObjectInfo, ObjectStore
from pvback.storage.base import Capabilities
from pvback.storage.wrap import Request, WrappedStore
from tests.unit.conftest import Open
from tests.unit.test_sessions import SOURCE, commit, publish

T = TypeVar("T")


class Meeting(WrappedStore):
    """A remote store on which the requests for two things, once each, only go on together."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._meeting = threading.Barrier(2, timeout=30)
        self.expected: list[str] = []
        self.seen: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._inner.capabilities, is_remote=True)

    def _meet(self, what: str) -> None:
        self.seen.append(what)
        if what in self.expected:
            self.expected = [one for one in self.expected if one != what]
            self._meeting.wait()

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        self._meet(f"{kind.value} {key.split('/', 2)[-1]}")
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        self._meet(f"list {prefix.split('/', 2)[-1]}")
        return self._inner.list_objects(prefix, after=after)


@pytest.fixture
def store(open_access: Open) -> Meeting:
    return Meeting(open_access().store)


def test_records_are_listed_beside_registers(open_access: Open, store: Meeting, clock: ManualClock) -> None:
    access = open_access(store)
    commit(WriterSession(access.objects, SOURCE, clock=clock))
    store.expected = [f"list {Area.SNAPSHOTS}/", f"list {Area.RECORDS}/"]
    store.seen = []
    (register, _), *_ = load_catalog(replace(access.objects, store=store)).registers
    assert store.expected == []
    assert store.seen[0] == f"read {GC_STATE_NAME}"
    assert register.record is not None


def test_runs_are_listed_beside_the_second_look(
    open_access: Open, store: Meeting, clock: ManualClock
) -> None:
    objects = replace(open_access().objects, store=store)
    store.expected = [f"read {GC_STATE_NAME}", f"list {Area.INDEX}/"]
    state = open_access().catalog().state
    session = WriterSession(objects, SOURCE, clock=clock, state=state)
    assert store.expected == []
    assert store.seen[0] == f"create {session.register.object_name}"
    before = len(store.seen)
    session.index_view()
    assert len(store.seen) == before
    # Who asks again wants to know what has come since.
    session.index_view()
    assert store.seen[before:] == [f"list {Area.INDEX}/"]


def test_a_generation_in_between_is_another_list(
    open_access: Open, store: Meeting, clock: ManualClock
) -> None:
    """What was listed under the register of an older generation is not used."""
    access = open_access()
    objects = replace(access.objects, store=store)
    state = access.catalog().state
    publish(access, n=2)
    session = WriterSession(objects, SOURCE, clock=clock, state=state)
    assert session.register.generation == 2
    assert store.seen.count(f"list {Area.INDEX}/") == 2
    assert [one.split(" ")[0] for one in store.seen].count("create") == 2
