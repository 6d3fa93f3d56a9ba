"""The writer's protocol: beginning, acknowledging, committing, and every answer that can get lost."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from pvback import datapath, limits
from pvback.errors import SessionFencedError, StorageError, StorageUnavailable
from pvback.repository.body import dump_body
from pvback.repository.gcstate import GcState, IndexView, list_index, read_gc_state
from pvback.repository.layout import Area, ObjectType
from pvback.repository.records import FinishedTree, RecordDetails, Root, SourceIdentity
from pvback.repository.registers import (
    Register,
    RegisterState,
    read_register,
    swap_register,
)
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.runtime import ManualClock
from pvback.storage.base import ObjectStore
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import Request, WrappedStore
from tests.unit.conftest import Open

T = TypeVar("T")
SOURCE = "5" * 32
TREE = FinishedTree(refs=(), runs=("0000000000000001-" + "a" * 32,), counts={"chunks": 1, "pages": 2})


class Losing(WrappedStore):
    """Loses the answers of chosen requests: `plan` has (kind, applied) and is used up from the front."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.plan: list[tuple[Request, bool]] = []
        self.before: list[tuple[Request, Callable[[], None]]] = []

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if self.before and self.before[0][0] is kind:
            self.before.pop(0)[1]()
        if not self.plan or self.plan[0][0] is not kind:
            return act()
        _, is_applied = self.plan.pop(0)
        if is_applied:
            act()
        raise StorageUnavailable("no answer", key=key)

    def list_objects(self, prefix: str, *, after: str = "") -> Any:
        return self._inner.list_objects(prefix, after=after)


class Control:
    """A job that answers as it is told."""

    def __init__(self, keep: list[str] | None = None, *, has_ended: bool = False) -> None:
        self.keep, self.has_ended = keep or [], has_ended
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def command(self, name: str, options: Any) -> dict[str, Any] | None:
        self.heard.append((name, dict(options)))
        return None if self.has_ended else {"keep": self.keep}

    def cancel(self) -> None:
        raise AssertionError("nobody asked for that")


def details(snapshot: str) -> RecordDetails:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return RecordDetails(
        snapshot=snapshot,
        source=SourceIdentity(kind="directory", host="h", path="/d", string="h:/d"),
        started=now,
        finished=now,
        root=Root("0" * 64, 0, 1, 0),
    )


def publish(access: RepositoryAccess, **changes: Any) -> None:
    """What a prune does to `gc/state`."""
    objects = access.objects
    sealed = objects.read(ObjectType.GC_STATE, "gc/state")
    body = dump_body({**sealed.body.raw, "nonce": "f" * 32, **changes})
    data = objects.seal(ObjectType.GC_STATE, name="gc/state", data=body)
    objects.store.swap(objects.layout.key("gc/state"), data, etag=sealed.etag)


def register_of(access: RepositoryAccess, session: WriterSession) -> Register:
    return read_register(access.objects, session.register.name).register


def commit(session: WriterSession) -> Register:
    return session.commit(TREE, details(session.snapshot), place=(1, None))


def test_a_session_from_open_to_committed(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    opened = register_of(access, session)
    assert (opened.state, opened.ack, opened.generation) == (RegisterState.OPEN, 1, 1)
    session.checkpoint(TREE, details(session.snapshot), place=(1, None))
    session.checkpoint(TREE, details(session.snapshot), place=(1, None))
    name = register_of(access, session).checkpoint
    assert name is not None
    assert name.name == f"records/{session.snapshot}-2"
    commit(session)
    done = register_of(access, session)
    assert (done.state, done.runs) == (RegisterState.COMMITTED, TREE.runs)
    assert done.record is not None
    assert done.nonce != opened.nonce


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_lost_answer_to_the_commit(open_access: Open, clock: ManualClock, is_applied: bool) -> None:
    store = Losing(open_access().store)
    access = open_access(store)
    session = WriterSession(access.objects, SOURCE, clock=clock)
    store.plan = [(Request.SWAP, is_applied)]
    commit(session)
    assert not store.plan
    assert register_of(access, session).state is RegisterState.COMMITTED


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_lost_answer_to_the_beginning(open_access: Open, clock: ManualClock, is_applied: bool) -> None:
    store = Losing(open_access().store)
    access = open_access(store)
    store.plan = [(Request.CREATE, is_applied)]
    session = WriterSession(access.objects, SOURCE, clock=clock)
    assert register_of(access, session).state is RegisterState.OPEN
    # One that may still land is never taken up again under the same name.
    count = len(list(access.objects.list_area(Area.SNAPSHOTS)))
    assert count == 1


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_lost_answer_to_the_record(open_access: Open, clock: ManualClock, is_applied: bool) -> None:
    store = Losing(open_access().store)
    access = open_access(store)
    session = WriterSession(access.objects, SOURCE, clock=clock)
    store.plan = [(Request.CREATE, False)] * 3 + [(Request.CREATE, is_applied)]
    commit(session)
    (found,) = access.catalog().registers
    assert found[0].state is RegisterState.COMMITTED


def fence(access: RepositoryAccess, session: WriterSession, clock: ManualClock) -> None:
    stored = read_register(access.objects, session.register.name)
    fenced = Register(
        **{name: getattr(stored.register, name) for name in stored.register.__slots__ if name != "state"},
        state=RegisterState.FENCED,
    )
    swap_register(access.objects, stored, new=fenced, clock=clock)


def test_a_fenced_session_commits_nothing(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    fence(access, session, clock)
    with pytest.raises(SessionFencedError):
        commit(session)
    assert register_of(access, session).state is RegisterState.FENCED


def test_a_register_that_is_gone_is_fenced(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    access.store.delete(access.objects.layout.key(session.register.object_name))
    with pytest.raises(SessionFencedError):
        commit(session)


def test_a_store_that_stays_silent(open_access: Open, clock: ManualClock) -> None:
    store = Losing(open_access().store)
    access = open_access(store)
    session = WriterSession(access.objects, SOURCE, clock=clock)
    store.plan = [(Request.SWAP, False)] * 100
    with pytest.raises(StorageUnavailable):
        commit(session)


def test_a_prune_between_the_two_looks_means_a_new_beginning(open_access: Open, clock: ManualClock) -> None:
    quiet = open_access()
    store = Losing(quiet.store)
    store.before = [(Request.CREATE, lambda: publish(quiet, n=2, phase="CONDEMNED"))]
    access = open_access(store)
    session = WriterSession(access.objects, SOURCE, clock=clock)
    assert (session.register.generation, session.register.ack) == (2, 2)


def test_a_store_that_takes_no_register(open_access: Open, clock: ManualClock) -> None:
    """It is not a prune's fault, and nothing of it is left."""
    store = Losing(open_access().store)
    access = open_access(store)
    store.plan = [(Request.CREATE, False)] * 1000
    with pytest.raises(StorageUnavailable, match="no register could be created"):
        WriterSession(access.objects, SOURCE, clock=clock)
    assert not list(access.objects.list_area(Area.SNAPSHOTS))


def test_prunes_without_end(open_access: Open, clock: ManualClock) -> None:
    quiet = open_access()
    store = Losing(quiet.store)
    store.before = [
        (Request.CREATE, lambda n=n: publish(quiet, n=n))  # type: ignore[misc]
        for n in range(2, 100)
    ]
    with pytest.raises(StorageError, match="prune moved on"):
        WriterSession(open_access(store).objects, SOURCE, clock=clock)


def test_a_new_generation_is_acknowledged(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    control = Control(keep=["b" * 32, "a" * 32])
    publish(access, n=2, phase="CONDEMNED", condemned=["a" * 32, "b" * 32])
    session.poll(control)
    assert control.heard == []  # Not yet: a look a minute.
    clock.advance(60)
    session.poll(control)
    found = register_of(access, session)
    assert (found.ack, found.keep) == (2, ("a" * 32, "b" * 32))
    assert [name for name, _ in control.heard] == ["acknowledge", "acknowledged"]
    assert control.heard[0][1]["condemned"] == ["a" * 32, "b" * 32]
    assert control.heard[1][1] == {"gen": 2}
    clock.advance(60)
    session.poll(control)
    assert len(control.heard) == 2
    # A later generation does not take back what an earlier prune was told to keep.
    publish(access, n=3)
    control.keep = ["c" * 32]
    clock.advance(60)
    session.poll(control)
    assert register_of(access, session).keep == ("a" * 32, "b" * 32, "c" * 32)


def test_runs_wait_until_the_register_says_so(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    publish(access, n=2)
    fence(access, session, clock)
    control = Control()
    clock.advance(60)
    with pytest.raises(SessionFencedError):
        session.poll(control)
    assert [name for name, _ in control.heard] == ["acknowledge"]


def test_a_job_that_has_ended_needs_no_acknowledgement(access: RepositoryAccess, clock: ManualClock) -> None:
    session = WriterSession(access.objects, SOURCE, clock=clock)
    publish(access, n=2)
    clock.advance(60)
    session.poll(Control(has_ended=True))
    assert register_of(access, session).ack == 1
    commit(session)


def state(**changes: Any) -> GcState:
    empty: frozenset[str] = frozenset()
    facts = {
        "n": 5,
        "is_condemning": False,
        "floor": 3,
        **dict.fromkeys(("condemned", "known", "dead"), empty),
    }
    return GcState(**{**facts, "base": empty, "roster": empty, **changes})


def name(generation: int) -> str:
    return f"{generation:016x}-{'d' * 32}"


@pytest.mark.parametrize(
    ("generation", "changes", "is_valid", "is_trusted"),
    [
        (2, {}, False, False),
        (2, {"base": frozenset({name(2)})}, True, True),
        (2, {"known": frozenset({name(2)})}, False, False),
        (3, {}, True, False),
        (3, {"known": frozenset({name(3)})}, True, True),
        (5, {}, True, True),
        (6, {}, True, True),
    ],
)
def test_which_runs_count(generation: int, changes: dict[str, Any], is_valid: bool, is_trusted: bool) -> None:
    found = state(**changes)
    assert found.is_run_valid(name(generation)) is is_valid
    assert found.is_run_trusted(name(generation)) is is_trusted


def test_which_registers_count() -> None:
    assert state().is_register_valid(name(3))
    assert not state().is_register_valid(name(2))
    assert state(roster=frozenset({name(2)})).is_register_valid(name(2))


def test_a_late_write_of_a_fenced_writer_is_void(access: RepositoryAccess, memory: MemoryStore) -> None:
    memory.create(access.objects.layout.key(f"index/{name(1)}"), b"late")
    publish(access, n=4, floor=4)
    assert list_index(access.objects, read_gc_state(access.objects)).runs == ()
    memory.create(access.objects.layout.key(f"index/{name(4)}"), b"new")
    memory.create(access.objects.layout.key("index/foreign"), b"what")
    view = list_index(access.objects, read_gc_state(access.objects), is_writer=True)
    assert view.runs == ((name(4), 3),)


def test_long_lists_lie_in_objects_of_their_own(access: RepositoryAccess) -> None:
    objects = access.objects
    body = dump_body(["a" * 32])  # type: ignore[arg-type]
    data = objects.seal(ObjectType.GC_LIST, name="gc/0000000000000002-dead", data=body)
    objects.store.create(objects.layout.key("gc/0000000000000002-dead"), data)
    named = {"name": "gc/0000000000000002-dead", "hash": datapath.blake3(data)}
    publish(access, n=2, dead=named)
    assert read_gc_state(objects).dead == frozenset({"a" * 32})


def test_packs_grow_with_the_repository() -> None:
    def pack_bytes(chunks: int) -> int:
        runs = (("1-a", chunks * limits.RUN_BYTES_PER_CHUNK // 2),) * 2
        return IndexView(runs, dead=frozenset(), condemned=frozenset()).pack_bytes

    mebibyte = 1 << 20
    assert pack_bytes(0) == pack_bytes(1_000_000) == 32 * mebibyte
    assert 60 * mebibyte < pack_bytes(5_000_000) < 64 * mebibyte
    assert pack_bytes(100_000_000) == 128 * mebibyte
