"""Copies of registers spare requests, and are never taken for what the store does not show."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from pvback.repository.forget import forget_snapshots
from pvback.repository.gcstate import read_gc_state
from pvback.repository.layout import Area
from pvback.repository.prune import PruneSeams, run_prune
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.register_copies import CopiesFile
from pvback.repository.registers import RegisterState
from pvback.repository.snapshots import Catalog, load_catalog
from pvback.storage import ObjectInfo
from pvback.storage.wrap import Request, WrappedStore
from tests.contracts.stores import LateLists
from tests.contracts.test_index_work import ModelBench
from tests.unit.test_prune import NOW, commit

T = TypeVar("T")
COUNT = 6


class Watched(WrappedStore):
    """Notes which objects are read."""

    def __init__(self, bench: ModelBench) -> None:
        super().__init__(bench.objects.store)
        self.read_keys: list[str] = []

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if kind is Request.READ:
            self.read_keys.append(key)
        return act()


@pytest.fixture
def bench() -> ModelBench:
    made = ModelBench()
    for number in range(COUNT):
        commit(made, f"text {number}")
        made.clock.advance(1)
    return made


@pytest.fixture
def file(tmp_path: Path) -> CopiesFile:
    return CopiesFile(tmp_path, repository="r", scope="5" * 32)


def prune(bench: ModelBench, options: PruneOptions = NOW) -> None:
    run_prune(bench.objects, PruneSeams(work=bench.work, clock=bench.clock), options=options)


def load(bench: ModelBench, file: CopiesFile | None = None) -> tuple[Catalog, int]:
    """The catalog, and how many registers were asked for."""
    store = Watched(bench)
    catalog = load_catalog(replace(bench.objects, store=store), with_records=False, copies_file=file)
    assert not catalog.damaged, catalog.damaged
    area = bench.objects.layout.area(Area.SNAPSHOTS)
    return catalog, sum(key.startswith(area) for key in store.read_keys)


def test_a_client_that_has_nothing_reads_what_prune_gathered(bench: ModelBench) -> None:
    before, asked = load(bench)
    assert asked == COUNT
    prune(bench)
    after, asked = load(bench)
    assert asked == 0
    assert after.registers == before.registers
    commit(bench, "one more")
    later, asked = load(bench)
    assert (asked, len(later.registers)) == (1, COUNT + 1)
    prune(bench)
    assert load(bench)[1] == 0


def test_a_prune_reads_only_what_was_not_gathered(bench: ModelBench) -> None:
    prune(bench)
    named = read_gc_state(bench.objects).gathered
    assert named is not None
    prune(bench, replace(NOW, is_forced=True))
    again = read_gc_state(bench.objects).gathered
    assert again is not None
    assert again.name != named.name
    present = [name for name, _ in bench.objects.list_area(Area.GC) if "gathered" in name]
    assert [f"gc/{name}" for name in present] == [again.name], "the old one is swept"


def test_what_was_read_once_is_in_the_cache(bench: ModelBench, file: CopiesFile) -> None:
    assert load(bench, file)[1] == COUNT
    catalog, asked = load(bench, file)
    assert (asked, len(catalog.registers)) == (0, COUNT)


def test_a_change_is_seen_at_once(bench: ModelBench, file: CopiesFile) -> None:
    prune(bench)
    catalog, _ = load(bench, file)
    name = catalog.registers[0][0].name
    forget_snapshots(bench.objects, [name], clock=bench.clock)
    for copies in (file, None):
        catalog, asked = load(bench, copies)
        assert asked == 1
        forgotten = [one.name for one, _ in catalog.registers if one.state is RegisterState.FORGOTTEN]
        assert forgotten == [name]


@pytest.mark.parametrize("content", ["", "[]", "{}", '[["a"]]', '[["a", "b", "?"]]', "\0"])
def test_a_cache_that_makes_no_sense_is_none(
    bench: ModelBench, file: CopiesFile, tmp_path: Path, content: str
) -> None:
    load(bench, file)
    (path,) = tmp_path.glob("r/*.json")
    path.write_text(content)
    assert load(bench, file)[1] == COUNT
    assert load(bench, file)[1] == 0


def test_a_copy_that_does_not_open_is_none(bench: ModelBench, file: CopiesFile, tmp_path: Path) -> None:
    load(bench, file)
    (path,) = tmp_path.glob("r/*.json")
    raw = json.loads(path.read_text())
    # Under the right name and etag, but what another one holds.
    raw[0][2] = raw[1][2]
    path.write_text(json.dumps(raw))
    assert load(bench, file)[1] == 1


def test_a_gathered_object_that_is_lost_costs_requests(bench: ModelBench) -> None:
    prune(bench)
    named = read_gc_state(bench.objects).gathered
    assert named is not None
    bench.objects.store.delete(bench.objects.layout.key(named.name))
    assert load(bench)[1] == COUNT
    prune(bench, replace(NOW, is_forced=True))
    assert load(bench)[1] == 0


def test_lists_that_lag_are_not_held_against_copies(bench: ModelBench, file: CopiesFile) -> None:
    load(bench, file)
    bench.clock.advance(120)
    watched = Watched(bench)
    late = replace(bench.objects, store=LateLists(watched, bench.clock, lag_seconds=60.0))
    load_catalog(late, with_records=False, copies_file=file)
    assert len([key for key in watched.read_keys if "/snapshots/" in key]) == COUNT
