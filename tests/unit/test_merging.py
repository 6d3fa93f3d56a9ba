"""When a session merges index runs, and when it leaves them alone."""

from dataclasses import replace

import pytest

from pvback.repository.gcstate import list_index, load_gc_state, read_gc_state, swap_gc_state
from pvback.repository.layout import Area
from pvback.repository.merging import merge_runs
from pvback.repository.sealed import ScopeObjects
from pvback.repository.session import WriterSession
from tests.contracts.stores import LateLists
from tests.contracts.test_index_work import ModelBench

LAG_SECONDS = 60.0


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


def turn(bench: ModelBench, *, is_condemning: bool, base: frozenset[str] = frozenset()) -> int:
    """Publish or end a generation as prune does; n afterwards."""
    stored = load_gc_state(bench.objects)
    new = replace(stored.state, n=stored.state.n + is_condemning, is_condemning=is_condemning, base=base)
    assert swap_gc_state(bench.objects, stored, new=new, clock=bench.clock) is not None
    return new.n


def late(bench: ModelBench) -> ScopeObjects:
    """The same repository on a store whose lists lag."""
    store = LateLists(bench.objects.store, bench.clock, lag_seconds=LAG_SECONDS)
    return replace(bench.objects, store=store)


def merge(bench: ModelBench) -> int:
    session = WriterSession(bench.objects, "5" * 32, clock=bench.clock)
    view = session.index_view()
    return merge_runs(bench.objects, bench.work, session=session, view=view, clock=bench.clock, count_min=2)


def runs(bench: ModelBench) -> set[str]:
    return {name for name, _ in bench.objects.list_area(Area.INDEX)}


def test_runs_on_top_become_one(bench: ModelBench) -> None:
    before = {bench.run(bench.pack(text)) for text in "ab"}
    assert merge(bench) == 2
    after = runs(bench)
    assert len(after) == 1
    assert not after & before
    assert [text for text, _ in bench.listed(tuple(after))] == ["a", "b"]


def test_what_a_prune_under_way_has_merged_is_left_alone(bench: ModelBench) -> None:
    n = turn(bench, is_condemning=True)
    # Not yet named by anything: two that the prune has stored, for all that a session can see.
    merged = frozenset(bench.run(bench.pack(text), generation=n) for text in "ab")
    assert merge(bench) == 0
    assert runs(bench) == merged
    turn(bench, is_condemning=False, base=merged)
    assert merge(bench) == 0, "now they are the base"
    for text in "cd":
        bench.run(bench.pack(text), generation=n)
    assert merge(bench) == 2
    assert merged < runs(bench)


def test_what_was_merged_goes_when_lists_show_what_it_became(bench: ModelBench) -> None:
    texts = ["a", "b"]
    for text in texts:
        bench.run(bench.pack(text))
    bench.clock.sleep(2 * LAG_SECONDS)
    objects = late(bench)
    session = WriterSession(objects, "5" * 32, clock=bench.clock)
    view = session.index_view()
    assert merge_runs(objects, bench.work, session=session, view=view, clock=bench.clock, count_min=2) == 2
    listed = tuple(name for name, _ in objects.list_area(Area.INDEX))
    assert [text for text, _ in bench.listed(listed)] == texts


def test_the_base_is_seen_before_lists_show_it(bench: ModelBench) -> None:
    bench.clock.sleep(2 * LAG_SECONDS)
    made = bench.run(bench.pack("a"))
    turn(bench, is_condemning=False, base=frozenset([made, f"{1:016x}-{'ab' * 16}"]))
    objects = late(bench)
    assert not list(objects.list_area(Area.INDEX))
    view = list_index(objects, read_gc_state(objects))
    assert view.runs == tuple((name, info.size) for name, info in bench.objects.list_area(Area.INDEX))
    assert [name for name, _ in view.runs] == [made], "what is nowhere is left out"
