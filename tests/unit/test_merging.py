"""When a session merges index runs, and when it leaves them alone."""

from dataclasses import replace

import pytest

from pvback.repository.gcstate import load_gc_state, swap_gc_state
from pvback.repository.layout import Area
from pvback.repository.merging import merge_runs
from pvback.repository.session import WriterSession
from tests.contracts.test_index_work import ModelBench


@pytest.fixture
def bench() -> ModelBench:
    return ModelBench()


def turn(bench: ModelBench, *, is_condemning: bool, base: frozenset[str] = frozenset()) -> int:
    """Publish or end a generation as prune does; n afterwards."""
    stored = load_gc_state(bench.objects)
    new = replace(stored.state, n=stored.state.n + is_condemning, is_condemning=is_condemning, base=base)
    assert swap_gc_state(bench.objects, stored, new=new, clock=bench.clock) is not None
    return new.n


def merge(bench: ModelBench) -> int:
    session = WriterSession(bench.objects, "5" * 32, clock=bench.clock)
    return merge_runs(bench.objects, bench.work, session=session, view=session.index_view(), count_min=2)


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
