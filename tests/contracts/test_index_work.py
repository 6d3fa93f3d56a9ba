"""One suite for the bulk work of prune and merges. A new implementation is one line in FACTORIES."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from pvback import datapath
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.gcstate import IndexView, list_index, read_gc_state
from pvback.repository.index_work import IndexWork, Marks
from pvback.repository.layout import Area, ObjectType, split_generation
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import ManualClock
from pvback.storage.memory import MemoryStore
from tests.contracts.native_bench import NativeBench
from tests.simulation import parts, work

NOTHING: frozenset[str] = frozenset()


class Bench(Protocol):
    """An implementation with its repository, and how to fill that. Ids are made from short texts."""

    work: IndexWork
    objects: ScopeObjects

    def pack(self, *texts: str) -> str:
        """A data pack of these chunks, in no run; its name."""
        ...

    def run(self, *packs: str, generation: int = 1) -> str:
        """A run that lists everything in these packs; its name."""
        ...

    def refs(self, *texts: str) -> Named:
        """A part of a reference set, with places in this order."""
        ...

    def listed(self, runs: tuple[str, ...]) -> list[tuple[str, str]]:
        """(text, pack) of every entry of these runs, sorted."""
        ...

    def laid(self, pack: str) -> list[str]:
        """What is in a pack, as it lies."""
        ...


class ModelBench:
    """The Python model over a store in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        store = MemoryStore(page_count=3, clock=self.clock)
        self.objects = parts.make_objects(store, parts.ClientPatience())
        self.work: IndexWork = work.ModelIndexWork(
            self.objects, clock=self.clock, random_id=datapath.random_id
        )
        self._texts: dict[str, str] = {}
        self._packs: dict[str, list[work.Entry]] = {}
        self._parts = 0
        self.objects.store.put(self.objects.layout.key("gc/state"), parts.first_state(self.objects))

    def pack(self, *texts: str) -> str:
        pack = datapath.random_id()
        blobs = [[self._id(text), text] for text in texts]
        kind = work.pack_type("data")
        name = work.pack_key_name("data", pack)
        body = {"kind": "data", "blobs": blobs}
        data = parts.seal_part(self.objects, kind, name=name, body=body)
        self.objects.store.create(self.objects.layout.key(name), data)
        self._packs[pack] = [
            work.Entry(one, pack, "data", index, len(text), len(data))
            for index, (one, text) in enumerate(blobs)
        ]
        return pack

    def run(self, *packs: str, generation: int = 1) -> str:
        assert isinstance(self.work, work.ModelIndexWork), "this is the model's bench"
        return self.work._put_run([one for pack in packs for one in self._packs[pack]], generation, "")

    def refs(self, *texts: str, snapshot: str = "7" * 32) -> Named:
        self._parts += 1
        name = f"refs/{snapshot}-{self._parts}"
        kind = ObjectType.REFERENCE_SET
        body = {"ids": list(map(self._id, texts))}
        data = parts.seal_part(self.objects, kind, name=name, body=body)
        return self.objects.create_own(name, data=data, clock=self.clock)

    def listed(self, runs: tuple[str, ...]) -> list[tuple[str, str]]:
        entries = [one for run in runs for one in work.load_run(self.objects, run)]
        return sorted((self._texts[one.id], one.pack) for one in entries)

    def laid(self, pack: str) -> list[str]:
        return [self._texts[one] for one, _ in work.read_pack(self.objects, "data", pack)[0]]

    def _id(self, text: str) -> str:
        one = parts.chunk_id(text)
        self._texts[one] = text
        return one


FACTORIES: Mapping[str, Callable[[Path], Bench]] = {
    "model": lambda _root: ModelBench(),
    "native": NativeBench,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A bench whose view of the index is everything that lies there."""

    bench: Bench

    def view(self, *, dead: frozenset[str] = NOTHING, condemned: frozenset[str] = NOTHING) -> IndexView:
        """All runs."""
        found = list_index(self.bench.objects, read_gc_state(self.bench.objects))
        return IndexView(found.runs, dead=dead, condemned=condemned)


@pytest.fixture(params=sorted(FACTORIES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return FACTORIES[request.param](tmp_path)


@pytest.fixture
def setting(bench: Bench) -> Setting:
    return Setting(bench)


def test_marks_count_parts_and_forget_what_falls_to_zero(bench: Bench) -> None:
    first, second, third = bench.refs("a", "b"), bench.refs("b", "c"), bench.refs("c")
    marks = bench.work.count(Marks(), add=[first, second, third], remove=[], generation=1)
    assert marks.id_count == 3
    marks = bench.work.count(marks, add=[], remove=[first, third], generation=2)
    assert marks.id_count == 2  # b and c are needed by the second part
    marks = bench.work.count(marks, add=[first], remove=[second], generation=2)
    assert marks.id_count == 2  # a and b
    assert bench.work.count(marks, add=[], remove=[first], generation=3).id_count == 0


def test_marks_below_zero_and_lost_marks_are_damage(bench: Bench) -> None:
    first, second = bench.refs("a"), bench.refs("b")
    marks = bench.work.count(Marks(), add=[first], remove=[], generation=1)
    with pytest.raises(DamagedError):
        bench.work.count(marks, add=[], remove=[second], generation=1)
    for part in marks.parts:
        bench.objects.store.delete(bench.objects.layout.key(part.name))
    with pytest.raises(DamagedError):
        bench.work.count(marks, add=[second], remove=[], generation=1)


def test_a_lost_reference_set_is_damage(bench: Bench, setting: Setting) -> None:
    part = bench.refs("a")
    bench.objects.store.delete(bench.objects.layout.key(part.name))
    with pytest.raises(DamagedError):
        bench.work.usage(setting.view(), marks=Marks(), refs=[part])


def test_use_of_packs(bench: Bench, setting: Setting) -> None:
    used, idle, spared = bench.pack("a", "b"), bench.pack("c"), bench.pack("d")
    bench.run(used, idle)
    run = bench.run(spared)
    marks = bench.work.count(Marks(), add=[bench.refs("a")], remove=[], generation=1)
    usage = bench.work.usage(setting.view(), marks=marks, refs=[bench.refs("z")], spare_runs=[run])
    assert {name: one.used_count for name, one in usage.packs.items()} == {used: 1, idle: 0, spared: 0}
    assert usage.packs[used].entry_count == 2
    assert 0 < usage.packs[used].used_bytes < usage.packs[used].entry_bytes
    assert [name for name, one in usage.packs.items() if one.is_spared] == [spared]
    assert (usage.needed_count, usage.missing_count, len(usage.missing_examples)) == (2, 1, 1)


def test_of_several_copies_one_is_used(bench: Bench, setting: Setting) -> None:
    small, large = bench.pack("a"), bench.pack("a", "b", "c")
    bench.run(small, large)
    refs = [bench.refs("a", "b", "c")]
    usage = bench.work.usage(setting.view(), marks=Marks(), refs=refs)
    assert (usage.packs[small].used_count, usage.packs[large].used_count) == (0, 3)
    condemned = frozenset({large})
    usage = bench.work.usage(setting.view(condemned=condemned), marks=Marks(), refs=refs)
    assert (usage.packs[small].used_count, usage.packs[large].used_count) == (1, 2)
    assert usage.revived == {large}
    usage = bench.work.usage(setting.view(condemned=condemned), marks=Marks(), refs=refs, keep=condemned)
    assert usage.packs[large].used_count == 3
    assert not usage.revived


def test_only_condemned_copies_revive_one_of_them(bench: Bench, setting: Setting) -> None:
    first, second = bench.pack("a"), bench.pack("a")
    bench.run(first, second)
    view = setting.view(condemned=frozenset({first, second}))
    usage = bench.work.usage(view, marks=Marks(), refs=[bench.refs("a")])
    assert len(usage.revived) == 1
    assert usage.missing_count == 0


def test_dead_packs_do_not_count(bench: Bench, setting: Setting) -> None:
    dead = bench.pack("a")
    bench.run(dead)
    view = setting.view(dead=frozenset({dead}))
    usage = bench.work.usage(view, marks=Marks(), refs=[bench.refs("a")])
    assert (usage.missing_count, dead in usage.packs) == (1, False)
    assert bench.work.merge(view, drop=NOTHING, generation=1) == ()


def test_merging_keeps_entries_and_drops_what_is_dropped(bench: Bench, setting: Setting) -> None:
    packs = [bench.pack(f"a{number}", f"b{number}") for number in range(5)]
    for pack in packs:
        bench.run(pack)
    bench.run(packs[0])  # listed twice
    view = setting.view(dead=frozenset({packs[1]}), condemned=frozenset({packs[2]}))
    runs = bench.work.merge(view, drop=frozenset({packs[3]}), generation=1)
    kept = (0, 2, 4)
    expected = [(f"{kind}{number}", packs[number]) for number in kept for kind in "ab"]
    assert bench.listed(runs) == sorted(expected)
    # Whoever reads a list in pages meets the inputs first.
    assert min(runs) > max(name for name, _ in view.runs)
    assert all(split_generation(name) is not None for name in runs)


def test_a_vanished_run_is_not_damage(bench: Bench, setting: Setting) -> None:
    run = bench.run(bench.pack("a"))
    view = setting.view()
    key = bench.objects.layout.key(f"{Area.INDEX}/{run}")
    bench.objects.store.delete(key)
    with pytest.raises(ObjectNotFound) as caught:
        bench.work.usage(view, marks=Marks(), refs=[])
    assert caught.value.key == key
    with pytest.raises(ObjectNotFound):
        bench.work.merge(view, drop=NOTHING, generation=1)


def test_repacking_moves_what_is_needed_and_nowhere_else(bench: Bench, setting: Setting) -> None:
    old, other = bench.pack("a", "b", "c"), bench.pack("b")
    bench.run(old, other)
    marks = bench.work.count(Marks(), add=[bench.refs("a")], remove=[], generation=1)
    refs = [bench.refs("b", "a")]
    moved = bench.work.repack(setting.view(), packs=[old], marks=marks, refs=refs, generation=1)
    assert moved.moved_count == 1
    assert moved.moved_bytes > 0
    assert bench.listed(moved.runs) == [("a", moved.packs[0])]
    # The copy is as good as what it was made of.
    gone = frozenset({old})
    usage = bench.work.usage(setting.view(dead=gone), marks=marks, refs=refs)
    assert (usage.missing_count, usage.packs[moved.packs[0]].used_count) == (0, 1)
    nothing = bench.work.repack(setting.view(), packs=[other], marks=Marks(), refs=[], generation=1)
    assert (nothing.packs, nothing.runs, nothing.moved_count) == ((), (), 0)


def test_a_condemned_copy_does_not_stay(bench: Bench, setting: Setting) -> None:
    """What only a condemned pack holds besides is copied: that one may be gone before it is looked for."""
    old, other = bench.pack("a", "b"), bench.pack("a")
    bench.run(old, other)
    refs = [bench.refs("a", "b")]
    view = setting.view(condemned=frozenset({other}))
    moved = bench.work.repack(view, packs=[old], marks=Marks(), refs=refs, generation=1)
    assert [text for text, _ in bench.listed(moved.runs)] == ["a", "b"]
    moved = bench.work.repack(setting.view(), packs=[old], marks=Marks(), refs=refs, generation=1)
    # The first copies are listed by now.
    assert (moved.packs, moved.runs, moved.moved_count) == ((), (), 0)


def test_of_two_packs_that_go_one_is_copied_from(bench: Bench, setting: Setting) -> None:
    first, second = bench.pack("a", "b"), bench.pack("b", "c")
    bench.run(first, second)
    refs = [bench.refs("a", "b", "c", "nowhere")]
    packs = [second, "f" * 32, first]
    moved = bench.work.repack(setting.view(), packs=packs, marks=Marks(), refs=refs, generation=3)
    assert (moved.moved_count, [text for text, _ in bench.listed(moved.runs)]) == (3, ["a", "b", "c"])
    assert {split[0] for name in moved.runs if (split := split_generation(name))} == {3}


def test_what_is_copied_lies_as_trees_want_it(bench: Bench, setting: Setting) -> None:
    """The first part's first, then what only the second has, and then what is in none, as it lay."""
    packs = [bench.pack("f", "a", "e"), bench.pack("d", "h", "b"), bench.pack("g", "c")]
    bench.run(*packs)
    needed = [bench.refs(*"abcdefgh")]
    lost = bench.refs(*"hgfedcba")
    bench.objects.store.delete(bench.objects.layout.key(lost.name))
    order = [lost, bench.refs("c", "a", "nowhere", "b"), bench.refs("b", "e", "d", "c")]
    moved = bench.work.repack(
        setting.view(), packs=packs, marks=Marks(), refs=needed, generation=1, order=order
    )
    assert "".join(text for pack in moved.packs for text in bench.laid(pack)) == "cabedfhg"


def test_an_order_needs_nothing(bench: Bench, setting: Setting) -> None:
    pack = bench.pack("a", "b")
    bench.run(pack)
    order = [bench.refs("b", "a")]
    moved = bench.work.repack(
        setting.view(), packs=[pack], marks=Marks(), refs=[bench.refs("a")], generation=1, order=order
    )
    assert [text for text, _ in bench.listed(moved.runs)] == ["a"]


def test_what_a_run_does_not_list_is_not_copied(bench: Bench, setting: Setting) -> None:
    listed, unlisted = bench.pack("a"), bench.pack("b")
    bench.run(listed)
    dead = setting.view(dead=frozenset({listed}))
    refs = [bench.refs("a", "b")]
    for view, packs in ((setting.view(), [unlisted]), (dead, [listed])):
        moved = bench.work.repack(view, packs=packs, marks=Marks(), refs=refs, generation=1)
        assert (moved.packs, moved.runs, moved.moved_count, moved.moved_bytes) == ((), (), 0, 0)


def test_a_lost_pack_is_damage_to_a_repack(bench: Bench, setting: Setting) -> None:
    pack = bench.pack("a")
    bench.run(pack)
    key = bench.objects.layout.key(f"data/{pack[:2]}/{pack}")
    bench.objects.store.delete(key)
    with pytest.raises(DamagedError) as caught:
        bench.work.repack(setting.view(), packs=[pack], marks=Marks(), refs=[bench.refs("a")], generation=1)
    assert caught.value.key == key


def test_what_is_kept_counts_as_not_condemned(bench: Bench, setting: Setting) -> None:
    kept, condemned = bench.pack("a"), bench.pack("a", "b")
    bench.run(kept, condemned)
    view = setting.view(condemned=frozenset({kept, condemned}))
    keep = frozenset({kept})
    usage = bench.work.usage(view, marks=Marks(), refs=[bench.refs("a")], keep=keep)
    assert (usage.packs[kept].used_count, usage.packs[condemned].used_count) == (1, 0)
    assert usage.revived == NOTHING
    # What is revived anyway does not take what a living pack holds.
    usage = bench.work.usage(view, marks=Marks(), refs=[bench.refs("a", "b")], keep=keep)
    assert (usage.packs[kept].used_count, usage.packs[condemned].used_count) == (1, 1)
    assert usage.revived == {condemned}


def test_what_is_revived_anyway_is_used(bench: Bench, setting: Setting) -> None:
    narrow, wide = bench.pack("a"), bench.pack("a", "b")
    bench.run(narrow, wide)
    view = setting.view(condemned=frozenset({narrow, wide}))
    usage = bench.work.usage(view, marks=Marks(), refs=[bench.refs("a", "b")])
    assert usage.revived == {wide}
    assert (usage.packs[narrow].used_count, usage.packs[wide].used_count) == (0, 2)


def test_marks_and_parts_are_needed_alike(bench: Bench, setting: Setting) -> None:
    pack = bench.pack("a", "b", "c")
    bench.run(pack)
    bench.run(pack)  # an entry that is listed twice is one
    marks = bench.work.count(Marks(), add=[bench.refs("a", "b")], remove=[], generation=1)
    usage = bench.work.usage(setting.view(), marks=marks, refs=[bench.refs("b"), bench.refs("b", "c")])
    assert (usage.needed_count, usage.missing_count) == (3, 0)
    assert (usage.packs[pack].used_count, usage.packs[pack].entry_count) == (3, 3)
    assert usage.packs[pack].used_bytes == usage.packs[pack].entry_bytes


def test_merged_names_sort_after_inputs_of_their_generation(bench: Bench, setting: Setting) -> None:
    for generation in (1, 2, 2, 3):
        bench.run(bench.pack(f"{generation}"), generation=generation)
    inputs = tuple(one for one in setting.view().runs if int(one[0][:16], 16) <= 2)
    view = IndexView(inputs, dead=NOTHING, condemned=NOTHING)
    for _ in range(3):
        (run,) = bench.work.merge(view, drop=NOTHING, generation=2)
        assert run[:16] == f"{2:016x}"
        assert run > max(name for name, _ in inputs)
        view = IndexView(((run, len(_read(bench, run))),), dead=NOTHING, condemned=NOTHING)
        inputs = view.runs


def _read(bench: Bench, run: str) -> bytes:
    return bench.objects.store.read(bench.objects.layout.key(f"{Area.INDEX}/{run}")).data


def test_rebuilding_from_packs(bench: Bench) -> None:
    packs = [bench.pack("a", "b"), bench.pack("c")]
    listed = [
        (info.key.removeprefix(bench.objects.layout.prefix), info.size)
        for info in bench.objects.store.list_objects(bench.objects.layout.area(Area.DATA))
    ]
    lost = "data/00/" + "0" * 32
    rebuilt = bench.work.rebuild([*listed, (lost, 100)], generation=2)
    assert bench.listed(rebuilt.runs) == [("a", packs[0]), ("b", packs[0]), ("c", packs[1])]
    assert len(rebuilt.problems) == 1
