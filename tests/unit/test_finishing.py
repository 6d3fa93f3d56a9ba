"""A register that is OPEN beside its snapshot's record: whoever would end it commits it."""

from dataclasses import replace
from typing import Any, cast

import pytest

from pvback.errors import ConflictError, DamagedError, SessionFencedError
from pvback.repository.forget import forget_snapshots
from pvback.repository.gcstate import read_gc_state
from pvback.repository.index_work import RepairWork
from pvback.repository.layout import Area, ObjectType
from pvback.repository.mend_snapshots import SnapshotProblem, SnapshotTools, mend_snapshot, plan_snapshots
from pvback.repository.records import FinishedTree, RecordDetails, seal_record
from pvback.repository.registers import Register, RegisterState, change_register, read_register
from pvback.repository.session import WriterSession
from pvback.storage.wrap import Request
from tests.contracts.test_index_work import ModelBench
from tests.unit.test_prune import NOW, names, prune
from tests.unit.test_sessions import SOURCE, Losing
from tests.unit.test_sessions import details as details_of

FORCED = replace(NOW, is_forced=True, fence_seconds=0)


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


def details(snapshot: str) -> RecordDetails:
    made = details_of(snapshot)
    return replace(made, source=replace(made.source, string=SOURCE))


def commit(bench: ModelBench, *texts: str) -> str:
    session, tree = begun(bench, *texts)
    return session.commit(tree, details(session.snapshot), place=(1, None)).name


def begun(bench: ModelBench, *texts: str) -> tuple[WriterSession, FinishedTree]:
    """A session that has stored everything but its record."""
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    runs = (bench.run(bench.pack(*texts), generation=session.state.n),)
    refs = (bench.refs(*texts, snapshot=session.snapshot),)
    return session, FinishedTree(refs=refs, runs=runs, counts={"chunks": len(texts), "pages": 0})


def killed(bench: ModelBench, *texts: str) -> str:
    """The register of a session that ended between its record and its commit."""
    session, tree = begun(bench, *texts)
    name = f"records/{session.snapshot}"
    data = seal_record(
        bench.objects, name, source=SOURCE, place=(1, None), tree=tree, details=details(session.snapshot)
    )
    bench.objects.create_own(name, data=data, clock=bench.clock)
    return session.register.name


def reopen(bench: ModelBench, name: str) -> Register:
    """Lose a register, and let its create land again; what it was."""
    before = read_register(bench.objects, name).register
    first = Register(
        generation=before.generation,
        snapshot=before.snapshot,
        source=before.source,
        state=RegisterState.OPEN,
        ack=before.generation,
        started=before.started,
        nonce="1" * 32,
    )
    data = bench.objects.seal(ObjectType.REGISTER, name=first.object_name, data=first.as_body())
    bench.objects.store.put(bench.objects.layout.key(first.object_name), data)
    return before


def tools(bench: ModelBench) -> SnapshotTools:
    return SnapshotTools(bench.objects, cast("RepairWork", bench.work), bench.clock)


def mend(bench: ModelBench, **options: Any) -> str:
    (problem,) = plan_snapshots(bench.objects)
    assert problem.kind == "register-open"
    return mend_snapshot(tools(bench), problem, **options)


def state_of(bench: ModelBench, name: str) -> RegisterState:
    return read_register(bench.objects, name).register.state


def test_prune_commits_what_came_back(bench: ModelBench) -> None:
    name = commit(bench, "a", "b")
    before = reopen(bench, name)
    prune(bench, FORCED)
    after = read_register(bench.objects, name).register
    # The session's own runs are in no record: they only say what a prune leaves alone before the commit.
    assert replace(after, nonce=before.nonce, runs=before.runs) == before
    assert read_gc_state(bench.objects).roster == {name}
    assert (
        len(names(bench, Area.DATA)) == len(names(bench, Area.REFS)) == len(names(bench, Area.RECORDS)) == 1
    )
    assert prune(bench, FORCED).removed_pack_count == 0


def test_prune_commits_what_was_killed(bench: ModelBench) -> None:
    name, bare = killed(bench, "a"), begun(bench, "b")[0].register.name
    prune(bench, FORCED)
    prune(bench, FORCED)
    assert state_of(bench, name) is RegisterState.COMMITTED
    assert names(bench, Area.SNAPSHOTS) == [name] != [bare]
    assert [text for text, _ in bench.listed(tuple(names(bench, Area.INDEX)))] == ["a"]


def test_a_session_that_is_there_begins_again(bench: ModelBench) -> None:
    """It cannot tell by whom, and through which states, its register was committed."""
    store = Losing(bench.objects.store)
    session, tree = begun(bench, "a")
    session._objects = replace(bench.objects, store=store)

    def end() -> None:
        prune(bench, FORCED)

    store.before = [(Request.SWAP, end)]
    with pytest.raises(SessionFencedError):
        session.commit(tree, details(session.snapshot), place=(1, None))
    assert not store.before
    assert state_of(bench, session.register.name) is RegisterState.COMMITTED


def test_what_came_back_is_counted_once(bench: ModelBench) -> None:
    """Its reference set is not known while it is OPEN: it cannot be taken off, and is not added twice."""
    name, stays = commit(bench, "a"), commit(bench, "b")
    prune(bench, FORCED)
    assert name in read_gc_state(bench.objects).counted
    reopen(bench, name)
    prune(bench, FORCED)
    prune(bench, FORCED)
    forget_snapshots(bench.objects, [name], clock=bench.clock)
    bench.clock.advance(10)
    assert prune(bench, FORCED).removed_pack_count == 1
    assert names(bench, Area.SNAPSHOTS) == [stays]


@pytest.mark.parametrize("how", ["damaged", "another source's"])
def test_prune_ends_nothing_that_it_cannot_read(bench: ModelBench, how: str) -> None:
    name = commit(bench, "a")
    before = reopen(bench, name)
    key = bench.objects.layout.key(f"records/{before.snapshot}")
    if how == "damaged":
        bench.objects.store.put(key, b"broken")
    else:
        other = replace(read_register(bench.objects, name).register, source="6" * 32, nonce="3" * 32)
        data = bench.objects.seal(ObjectType.REGISTER, name=other.object_name, data=other.as_body())
        bench.objects.store.put(bench.objects.layout.key(other.object_name), data)
    with pytest.raises(DamagedError) as caught:
        prune(bench, FORCED)
    assert "repair snapshots" in str(caught.value.hint)
    assert state_of(bench, name) is RegisterState.OPEN
    assert len(names(bench, Area.DATA)) == 1
    # What nobody can read is given up by somebody's word alone.
    with pytest.raises(DamagedError):
        mend(bench)
    assert "given up" in mend(bench, is_forced=True)
    assert state_of(bench, name) is RegisterState.FENCED
    prune(bench, FORCED)


def test_a_record_that_names_no_parts(bench: ModelBench) -> None:
    """Older ones do not: all that are there are taken, and without any it is not known what is needed."""
    session, tree = begun(bench, "a", "b")
    bench.refs("b", snapshot=session.snapshot)
    name = f"records/{session.snapshot}"
    bare = replace(tree, refs=())
    data = seal_record(
        bench.objects, name, source=SOURCE, place=(1, None), tree=bare, details=details(session.snapshot)
    )
    bench.objects.create_own(name, data=data, clock=bench.clock)
    refs = names(bench, Area.REFS)
    prune(bench, FORCED)
    register = read_register(bench.objects, session.register.name).register
    assert [one.name for one in register.refs] == [f"refs/{part}" for part in refs]
    reopen(bench, register.name)
    for part in refs:
        bench.objects.store.delete(bench.objects.layout.key(f"refs/{part}"))
    with pytest.raises(DamagedError):
        prune(bench, FORCED)


def test_a_repair_commits_it(bench: ModelBench) -> None:
    name = commit(bench, "a")
    before = reopen(bench, name)
    assert "committed" in mend(bench)
    after = read_register(bench.objects, name).register
    assert replace(after, nonce=before.nonce, runs=before.runs) == before
    assert plan_snapshots(bench.objects) == []


def test_a_repair_reports_nothing_that_has_become_void(bench: ModelBench) -> None:
    """A prune ends the session, and its create comes back, between the plan and the repair."""
    session, tree = begun(bench, "a")
    name = session.register.name
    data = bench.objects.store.read(bench.objects.layout.key(session.register.object_name)).data
    prune(bench, FORCED)
    prune(bench, FORCED)
    assert names(bench, Area.SNAPSHOTS) == []
    record = f"records/{session.snapshot}"
    sealed = seal_record(
        bench.objects, record, source=SOURCE, place=(1, None), tree=tree, details=details(session.snapshot)
    )
    bench.objects.create_own(record, data=sealed, clock=bench.clock)
    bench.objects.store.put(bench.objects.layout.key(session.register.object_name), data)
    assert plan_snapshots(bench.objects) == []
    problem = SnapshotProblem(
        kind="register-open", snapshot=session.snapshot, register=name, what="seen before"
    )
    with pytest.raises(ConflictError, match="ended"):
        mend_snapshot(tools(bench), problem)


def test_a_fence_that_comes_too_late(bench: ModelBench) -> None:
    """After the look for its record a session commits, and its register is lost and back as it was."""
    session, tree = begun(bench, "a")
    name, key = session.register.name, bench.objects.layout.key(session.register.object_name)
    first = bench.objects.store.read(key).data

    def overtake() -> None:
        session.commit(tree, details(session.snapshot), place=(1, None))
        bench.objects.store.put(key, first)

    store = Losing(bench.objects.store)
    # The first swap publishes the generation, the second one is the fence.
    store.before = [(Request.SWAP, lambda: None), (Request.SWAP, overtake)]
    whole, bench.objects = bench.objects, replace(bench.objects, store=store)
    prune(bench, FORCED)
    bench.objects = whole
    assert not store.before
    assert state_of(bench, name) is RegisterState.COMMITTED
    assert names(bench, Area.RECORDS) == [session.snapshot]


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_killed_prune_has_fenced(bench: ModelBench, is_whole: bool) -> None:
    """The next one looks for the record, while the register counts; one that is damaged keeps nobody."""
    name = commit(bench, "a")
    change_register(
        bench.objects,
        name,
        change=lambda old: replace(old, state=RegisterState.FENCED, record=None, refs=(), twin=b""),
        clock=bench.clock,
    )
    if not is_whole:
        bench.objects.store.put(bench.objects.layout.key(f"records/{name[-32:]}"), b"broken")
    prune(bench, FORCED)
    assert names(bench, Area.SNAPSHOTS) == ([name] if is_whole else [])
    assert len(names(bench, Area.DATA)) == is_whole
