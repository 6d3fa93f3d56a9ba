"""One prune over the model of the bulk work: what is asked for, what is refused, what waits."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pvback import datapath, limits
from pvback.errors import (
    ConflictError,
    DamagedError,
    Interrupted,
    ObjectExists,
    SessionFencedError,
    UsageError,
)
from pvback.ops.prune import require_time
from pvback.repository.barrier import Registers, read_registers
from pvback.repository.forget import forget_snapshots, undelete_snapshots
from pvback.repository.gcstate import (
    GcState,
    found_gc_state,
    load_gc_state,
    read_gc_state,
    swap_gc_state,
)
from pvback.repository.index_work import Marks
from pvback.repository.layout import Area, generation_name
from pvback.repository.mend_state import change_gc_state, without_marks
from pvback.repository.prune import PruneReport, PruneSeams, _Prune, plan_only, run_prune
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.records import FinishedTree
from pvback.repository.registers import (
    Register,
    RegisterState,
    change_register,
    create_register,
    read_register,
)
from pvback.repository.sealed import Named
from pvback.repository.session import WriterSession
from pvback.repository.sweep import sweep
from pvback.runtime import Cancel
from pvback.storage.unconditional import UnconditionalStore
from tests.contracts.test_index_work import ModelBench
from tests.unit.test_sessions import SOURCE, TREE, Control, details

NOW = PruneOptions(unused_seconds=0, grace_seconds=0, unused_share_max=1)


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


def commit(bench: ModelBench, *texts: str, stored: bool = True) -> str:
    """A snapshot that needs these chunks, in a pack of their own; the name of its register."""
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    runs = (bench.run(bench.pack(*texts), generation=session.state.n),) if stored else ()
    refs = (bench.refs(*texts, snapshot=session.snapshot),)
    tree = FinishedTree(refs=refs, runs=runs, counts={"chunks": len(texts), "pages": 0})
    return session.commit(tree, details(session.snapshot), place=(1, None)).name


def prune(bench: ModelBench, options: PruneOptions = NOW, cancel: Cancel | None = None) -> PruneReport:
    return run_prune(bench.objects, seams(bench, cancel), options=options)


def seams(bench: ModelBench, cancel: Cancel | None = None) -> PruneSeams:
    return PruneSeams(work=bench.work, clock=bench.clock, cancel=cancel or Cancel())


def names(bench: ModelBench, area: Area) -> list[str]:
    return [name for name, _ in bench.objects.list_area(area)]


def test_what_was_forgotten_goes_after_its_grace(bench: ModelBench) -> None:
    old, new = commit(bench, "a", "b"), commit(bench, "c")
    forget_snapshots(bench.objects, [old], clock=bench.clock)
    options = replace(NOW, grace_seconds=3600)
    assert prune(bench, options).removed_pack_count == 0
    assert undelete_snapshots(bench.objects, [old], clock=bench.clock).changed == (old,)
    forget_snapshots(bench.objects, [old], clock=bench.clock)
    bench.clock.advance(3601)
    report = prune(bench, options)
    assert (report.ended_count, report.removed_pack_count) == (1, 1)
    assert names(bench, Area.SNAPSHOTS) == [new]
    assert undelete_snapshots(bench.objects, [old], clock=bench.clock).refused == (old,)
    assert [text for text, _ in bench.listed(tuple(names(bench, Area.INDEX)))] == ["c"]


def test_nothing_to_do_leaves_the_generation(bench: ModelBench) -> None:
    commit(bench, "a")
    prune(bench)
    before = read_gc_state(bench.objects).n
    bench.clock.advance(10)
    assert prune(bench).removed_object_count == 0
    assert read_gc_state(bench.objects).n == before
    prune(bench, replace(NOW, is_forced=True))
    assert read_gc_state(bench.objects).n == before + 1


def test_a_dry_run_writes_nothing(bench: ModelBench) -> None:
    forget_snapshots(bench.objects, [commit(bench, "a")], clock=bench.clock)
    commit(bench, "b")
    bench.clock.advance(10)
    before = {info.key: info.etag for info in bench.objects.store.list_objects("")}
    plan = plan_only(bench.objects, seams(bench), options=NOW)
    assert len(plan.unused) == 1
    assert {info.key: info.etag for info in bench.objects.store.list_objects("")} == before


def test_marks_are_carried_on(bench: ModelBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second prune counts what is new, and takes off what has ended."""
    first = commit(bench, "a", "b")
    prune(bench)
    commit(bench, "b", "c")
    forget_snapshots(bench.objects, [first], clock=bench.clock)
    bench.clock.advance(10)
    asked: list[tuple[int, int, int]] = []
    count = bench.work.count

    def note(marks: Marks, *, add: tuple[Named, ...], remove: tuple[Named, ...], generation: int) -> Marks:
        asked.append((len(marks.parts), len(add), len(remove)))
        return count(marks, add=add, remove=remove, generation=generation)

    monkeypatch.setattr(bench.work, "count", note)
    prune(bench)
    assert asked == [(1, 1, 1)]
    assert read_gc_state(bench.objects).marks.id_count == 2


def test_marks_that_are_lost_cost_time_only(bench: ModelBench) -> None:
    first = commit(bench, "a")
    prune(bench)
    for name in names(bench, Area.GC):
        if "marks" in name:
            bench.objects.store.delete(bench.objects.layout.key(f"gc/{name}"))
    commit(bench, "b")
    forget_snapshots(bench.objects, [first], clock=bench.clock)
    bench.clock.advance(10)
    assert prune(bench).removed_pack_count == 1


def test_marks_of_what_is_gone_do_not_stop_a_prune(bench: ModelBench) -> None:
    """Another prune's marks may count a snapshot whose chunks are nowhere any more."""
    kept = commit(bench, "a")
    stored = load_gc_state(bench.objects)
    snapshot = kept.partition("-")[2]
    add = (bench.refs("a", snapshot=snapshot), bench.refs("gone", snapshot=snapshot))
    marks = bench.work.count(Marks(), add=add, remove=(), generation=1)
    ended = f"{1:016x}-{'e' * 32}"
    new = replace(stored.state, n=2, is_condemning=True, marks=marks, counted=frozenset((kept, ended)))
    assert swap_gc_state(bench.objects, stored, new=new, clock=bench.clock) is not None
    report = prune(bench)
    assert report.helped_count == 1
    assert not read_gc_state(bench.objects).is_condemning
    assert read_register(bench.objects, kept).register.state is RegisterState.COMMITTED


def test_what_is_missing_stops_everything(bench: ModelBench) -> None:
    commit(bench, "a", "b", stored=False)
    forget_snapshots(bench.objects, [commit(bench, "c")], clock=bench.clock)
    before = names(bench, Area.DATA)
    bench.clock.advance(10)
    with pytest.raises(DamagedError, match="2 chunks or pages that snapshots need are in no pack"):
        prune(bench)
    assert names(bench, Area.DATA) == before


def test_a_pack_that_is_not_there_stops_everything(bench: ModelBench) -> None:
    commit(bench, "a")
    commit(bench, "b")
    (one, other) = list(bench.objects.list_area(Area.DATA))
    bench.objects.store.delete(one[1].key)
    with pytest.raises(DamagedError, match="1 packs that are needed are not in the store"):
        prune(bench)
    assert names(bench, Area.DATA) == [other[0]]


def test_a_register_that_does_not_open_stops_everything(bench: ModelBench) -> None:
    name = commit(bench, "a")
    bench.objects.store.put(bench.objects.layout.key(f"snapshots/{name}"), b"\0" * 100)
    with pytest.raises(DamagedError):
        prune(bench)


def test_a_session_that_does_not_answer_is_fenced(bench: ModelBench) -> None:
    commit(bench, "a")
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    began = bench.clock.monotonic()
    prune(bench, replace(NOW, is_forced=True))
    assert bench.clock.monotonic() - began >= limits.FENCE_SECONDS_MIN
    with pytest.raises(ConflictError):
        session.checkpoint(TREE, details(session.snapshot), place=(1, None))
    assert session.register.name not in names(bench, Area.SNAPSHOTS)


def test_a_session_that_has_long_been_silent_is_not_waited_for_long(bench: ModelBench) -> None:
    WriterSession(bench.objects, SOURCE, clock=bench.clock)
    bench.clock.advance(limits.FENCE_QUIET_SECONDS + 1)
    began = bench.clock.monotonic()
    assert prune(bench).generation == 2, "it is reason enough for a cycle"
    waited = bench.clock.monotonic() - began
    assert limits.FENCE_QUIET_WAIT_SECONDS <= waited < limits.FENCE_SECONDS_MIN


def test_an_interrupted_prune_is_gone_on_with(bench: ModelBench, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_snapshots(bench.objects, [commit(bench, "a")], clock=bench.clock)
    commit(bench, "b")
    bench.clock.advance(10)
    WriterSession(bench.objects, SOURCE, clock=bench.clock)
    cancel = Cancel()
    sleep = bench.clock.sleep

    def interrupt(seconds: float, token: Cancel | None = None) -> None:
        cancel.set("enough")
        sleep(seconds, token)

    with monkeypatch.context() as patch:
        patch.setattr(bench.clock, "sleep", interrupt)
        with pytest.raises(Interrupted):
            prune(bench, cancel=cancel)
    assert read_gc_state(bench.objects).is_condemning
    assert len(names(bench, Area.DATA)) == 2
    report = prune(bench)
    assert (report.helped_count, report.removed_pack_count) == (1, 1)


def test_without_conditional_writes_each_step_waits(bench: ModelBench) -> None:
    old = commit(bench, "a")
    commit(bench, "b")
    forget_snapshots(bench.objects, [old], clock=bench.clock)
    objects = replace(bench.objects, store=UnconditionalStore(bench.objects.store))
    options = replace(NOW, grace_seconds=limits.FORGET_GRACE_SECONDS)
    bench.clock.advance(limits.FORGET_GRACE_SECONDS + limits.TIMED_WAIT_SECONDS + 1)
    late = WriterSession(objects, SOURCE, clock=bench.clock)
    steps: list[tuple[bool, int, bool]] = []
    while not steps or steps[-1][1] == 2:
        report = run_prune(objects, seams(bench), options=options)
        state = read_gc_state(objects)
        is_open = late.register.name in names(bench, Area.SNAPSHOTS) and (
            read_register(objects, late.register.name).register.state is RegisterState.OPEN
        )
        steps.append((state.is_condemning, len(names(bench, Area.DATA)), is_open))
        if report.waits_until is not None:
            again = run_prune(objects, seams(bench), options=options)
            assert again.waits_until == report.waits_until, "too early, nothing is done"
            bench.clock.advance((report.waits_until - bench.clock.now()) / timedelta(seconds=1) + 1)
    # Published; the session fenced; the dead named; and then removed.
    assert steps == [(True, 2, True), (True, 2, False), (False, 2, False), (False, 1, False)]
    assert [text for text, _ in bench.listed(tuple(read_gc_state(objects).base))] == ["b"]


def test_without_conditional_writes_the_operator_has_to_vouch() -> None:
    with pytest.raises(ConflictError, match="two prunes"):
        require_time(PruneOptions())
    with pytest.raises(UsageError, match="grace"):
        require_time(PruneOptions(is_alone=True, grace_seconds=1))
    require_time(PruneOptions(is_alone=True))


def test_names_are_drawn_anew(bench: ModelBench) -> None:
    """A list that is too long becomes an object, and goes with the version that named it."""
    stored = load_gc_state(bench.objects)
    many = frozenset(datapath.random_id() for _ in range(limits.GC_LIST_COUNT_MAX + 1))
    new = replace(stored.state, n=2, is_condemning=True, condemned=many)
    assert swap_gc_state(bench.objects, stored, new=new, clock=bench.clock) is not None
    assert load_gc_state(bench.objects).state.condemned == many
    assert len(names(bench, Area.GC)) == 2
    prune(bench)
    bench.clock.advance(10)
    prune(bench, replace(NOW, is_forced=True))
    assert all("condemned" not in name for name in names(bench, Area.GC))


def test_lists_of_a_version_that_a_prune_has_not_seen(bench: ModelBench) -> None:
    """A repair or a key change replaces an IDLE version by another of the same generation, with new lists."""
    stored = load_gc_state(bench.objects)
    many = frozenset(datapath.random_id() for _ in range(limits.GC_LIST_COUNT_MAX + 1))
    seen = swap_gc_state(bench.objects, stored, new=replace(stored.state, dead=many), clock=bench.clock)
    assert seen is not None
    registers = read_registers(bench.objects, seen.state)
    changed = replace(seen.state, dead=many | {datapath.random_id()})
    assert swap_gc_state(bench.objects, seen, new=changed, clock=bench.clock) is not None
    sweep(bench.objects, seen, registers=registers, settle=lambda: None, now=bench.clock.now())
    assert load_gc_state(bench.objects).state.dead == changed.dead


def test_what_a_repair_has_left_that_did_not_end(bench: ModelBench) -> None:
    """It never counts, and goes, but not while the repair may yet come to its end."""
    commit(bench, "a")
    stored = load_gc_state(bench.objects)
    above = generation_name(stored.state.n + limits.GENERATIONS_AHEAD_MAX, datapath.random_id())
    last = generation_name(stored.state.n + limits.GENERATIONS_AHEAD_MAX - 1, datapath.random_id())
    left = [bench.objects.layout.key(f"{area}/{above}") for area in (Area.INDEX, Area.GC)]
    for key in left:
        bench.objects.store.put(key, b"")
    assert stored.state.is_run_valid(last)
    assert not stored.state.is_run_valid(above)
    assert not stored.state.is_run_trusted(above)
    registers = read_registers(bench.objects, stored.state)
    key = bench.objects.layout.key("gc/state")
    good = bench.objects.store.read(key)

    def there() -> list[str]:
        sweep(bench.objects, stored, registers=registers, settle=lambda: None, now=bench.clock.now())
        return [key for key in left if key in {one.key for one in bench.objects.store.list_objects("s/")}]

    bench.objects.store.delete(key)
    with pytest.raises(DamagedError, match="missing"):
        there()
    made = replace(stored.state, n=int(above[:16], 16), floor=int(above[:16], 16), base=frozenset({above}))
    assert found_gc_state(bench.objects, made, etag=None, clock=bench.clock)
    assert there() == left
    bench.objects.store.put(key, good.data)
    assert there() == []


def test_a_snapshot_of_two_registers(bench: ModelBench) -> None:
    """What was lost and made anew stays whole when its first register comes back, and is void."""
    name = commit(bench, "a")
    prune(bench)
    bench.clock.advance(10)
    prune(bench, replace(NOW, is_forced=True))
    register = read_register(bench.objects, name).register
    state = load_gc_state(bench.objects)
    made = create_register(bench.objects, replace(register, generation=state.state.n), clock=bench.clock)
    assert made is not None
    roster = frozenset({made.register.name})
    new = replace(state.state, floor=state.state.n, roster=roster)
    stored = swap_gc_state(bench.objects, state, new=new, clock=bench.clock)
    assert stored is not None
    registers = read_registers(bench.objects, stored.state)
    sweep(bench.objects, stored, registers=registers, settle=lambda: None, now=bench.clock.now())
    assert names(bench, Area.SNAPSHOTS) == [made.register.name]
    assert names(bench, Area.REFS)
    assert names(bench, Area.RECORDS)


def test_what_has_ended_stays_until_it_is_void(bench: ModelBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The create of a session that another prune has fenced lands twice while a prune sweeps."""
    commit(bench, "a")
    prune(bench)
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    key = bench.objects.layout.key(session.register.object_name)
    created = bench.objects.store.read(key).data
    pack = bench.pack("s")
    bench.clock.advance(10)
    seen_first = load_gc_state(bench.objects)
    decide = _Prune._decide

    def pause(self: _Prune, state: GcState, registers: Registers) -> GcState:
        """This prune has fenced the session; another one, which began before it, finds nothing to do."""
        monkeypatch.setattr(_Prune, "_decide", decide)
        sweep(bench.objects, seen_first, registers=registers, settle=lambda: None, now=bench.clock.now())
        new = decide(self, state, registers)
        with pytest.raises(ObjectExists):
            bench.objects.store.create(key, created)
        return new

    monkeypatch.setattr(_Prune, "_decide", pause)
    prune(bench, replace(NOW, fence_seconds=0, is_forced=True))
    refs = (bench.refs("s", snapshot=session.snapshot),)
    tree = FinishedTree(refs=refs, runs=(bench.run(pack),), counts={"chunks": 1, "pages": 0})
    with pytest.raises(SessionFencedError):
        session.commit(tree, details(session.snapshot), place=(1, None))


def test_a_session_whose_register_came_back_acknowledges_nothing(bench: ModelBench) -> None:
    """Its packs may be gone, and nobody knows any more that they died: a run would list them."""
    commit(bench, "a")
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    key = bench.objects.layout.key(session.register.object_name)
    created = bench.objects.store.read(key).data
    for _ in range(2):
        bench.clock.advance(10)
        prune(bench, replace(NOW, fence_seconds=0, is_forced=True))
    bench.objects.store.create(key, created)
    bench.clock.advance(limits.GENERATION_POLL_SECONDS)
    with pytest.raises(SessionFencedError):
        session.poll(Control())


def test_what_ended_by_itself_goes_with_the_next_cycle(bench: ModelBench) -> None:
    kept = commit(bench, "a")
    prune(bench)
    session = WriterSession(bench.objects, SOURCE, clock=bench.clock)
    change_register(bench.objects, session.register.name, change=_fence, clock=bench.clock)
    bench.clock.advance(10)
    prune(bench)
    assert names(bench, Area.SNAPSHOTS) == [kept]


def _fence(old: Register) -> Register:
    return replace(old, state=RegisterState.FENCED)


def test_a_part_that_was_written_anew_meanwhile(bench: ModelBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair names other parts of a reference set after a prune has read the register."""
    name = commit(bench, "a")
    (part,) = read_register(bench.objects, name).register.refs
    count = bench.work.count

    def overtaken(marks: Marks, **options: Any) -> Marks:
        if part in options["add"]:
            new = bench.refs("a", snapshot=name[-32:])
            change_register(
                bench.objects, name, change=lambda old: replace(old, refs=(new,)), clock=bench.clock
            )
            bench.objects.store.delete(bench.objects.layout.key(part.name))
        return count(marks, **options)

    monkeypatch.setattr(bench.work, "count", overtaken)
    prune(bench, replace(NOW, is_forced=True))
    (new,) = read_register(bench.objects, name).register.refs
    # One that is lost is not waited for.
    bench.objects.store.delete(bench.objects.layout.key(new.name))
    commit(bench, "b")
    change_gc_state(bench.objects, without_marks, clock=bench.clock)
    with pytest.raises(DamagedError, match=new.name):
        prune(bench, replace(NOW, is_forced=True))
