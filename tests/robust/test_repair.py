"""Every kind of object deleted, cut and flipped, then repaired: what could be restored still can be, and what
is lost is named.
"""

import contextlib
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pvback import limits
from pvback.config import load_config
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.gcstate import GcState, list_index, load_gc_state, read_gc_state, swap_gc_state
from pvback.repository.prune import PruneSeams, run_prune
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.runtime import SystemClock
from tests.robust.trees import Image, age, contents, differences, image, make_tree
from tests.robust.world import Done, World, new_key

KINDS = ("data", "meta", "index", "refs", "records", "snapshots")
DAMAGES = ("delete", "cut", "empty", "flip", "flip-end")
WHOLE_AGAIN = ("index", "refs", "records", "snapshots")
"""Of these nothing is lost for good when one object is."""


@dataclass(frozen=True)
class Sound:
    """A repository in order: two sources, four snapshots, merged base runs and newer ones on top."""

    world: World
    images: dict[str, Image]


@pytest.fixture(scope="module")
def sound(empty_world: World, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    top = tmp_path_factory.mktemp("sound")
    rng = random.Random(2)
    world = empty_world.copy(top / "world")
    first, second = top / "first", top / "second"
    make_tree(first, rng)
    make_tree(second, rng, files=3, large_bytes=50_000)
    images: dict[str, Image] = {}
    for step, source in enumerate((first, second, first, first)):
        if step == 3:
            # From here on there is a base run, and later ones on top of it.
            world.good("prune", "--force")
        (source / "large").write_bytes(rng.randbytes(200_000))
        age(source)
        world.good("backup", source, "--host", "h")
        new = next(one["id"] for one in world.snapshots() if one["id"] not in images)
        images[new] = image(source)
    world.good("check", "--read-data")
    return Sound(world, images)


def objects_of(world: World, kind: str) -> list[str]:
    return [key for key in world.objects() if key.split("/")[2:3] == [kind]]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "cut":
        del data[len(data) * 2 // 3 :]
    elif how == "empty":
        data.clear()
    else:
        data[-1 if how == "flip-end" else len(data) // 2] ^= 4
    path.write_bytes(data)


def restorable(sound: Sound, world: World, place: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Snapshot -> exit code of its restore, and the digests of the files that came out as they should."""
    found = {}
    for snapshot, wanted in sound.images.items():
        target = place / snapshot
        done = world.run("restore", snapshot, "--target", target).ended(0, 1, 3, 20)
        good = contents(target) if target.exists() else {}
        good = {name: one for name, one in good.items() if name in wanted and wanted[name][6] == one}
        if done.code == 0:
            assert not differences(wanted, image(target))
        found[snapshot] = (done.code, good)
        shutil.rmtree(target, ignore_errors=True)
    return found


def repair(world: World) -> list[Done]:
    """Everything in the order that the documentation gives."""
    steps = (("index",), ("packs", "--read-data"), ("snapshots",))
    return [world.run("repair", *words).ended(0, 3) for words in steps]


def show(done: Done) -> str:
    return f"{' '.join(done.words)}: {done.code}\n{done.text}{done.err}"


@pytest.mark.parametrize(("kind", "how"), list(itertools.product(KINDS, DAMAGES)))
def test_one_object(sound: Sound, tmp_path: Path, seed: int, kind: str, how: str) -> None:
    keys = objects_of(sound.world, kind)
    assert keys, f"the repository has no {kind}"
    key = random.Random(f"{seed} {kind} {how}").choice(keys)
    judge_one(sound, tmp_path / "case", key, how)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "how"), list(itertools.product(KINDS, DAMAGES)))
def test_every_object(sound: Sound, tmp_path: Path, kind: str, how: str) -> None:
    for number, key in enumerate(objects_of(sound.world, kind)):
        judge_one(sound, tmp_path / str(number), key, how)


def judge_one(sound: Sound, place: Path, key: str, how: str) -> None:
    kind = key.split("/")[2]
    print(f"{how} of {key}")
    world = sound.world.copy(place / "world")
    damage(world.objects()[key], how)
    assert world.run("check", "--read-data").code == 20
    before = restorable(sound, world, place)
    dry = world.objects().items()
    was = {name: path.read_bytes() for name, path in dry}
    for words in (("index",), ("packs", "--read-data"), ("snapshots",)):
        print(show(world.run("repair", *words, "--dry-run").ended(0)))
    assert {name: path.read_bytes() for name, path in world.objects().items()} == was
    for done in repair(world):
        print(show(done))
    check = world.run("check", "--read-data").ended(0, 20)
    print(show(check))
    after = restorable(sound, world, place)
    for snapshot, (code, good) in before.items():
        assert code != 0 or after[snapshot][0] == 0, f"{snapshot} could be restored before"
        assert good.items() <= after[snapshot][1].items(), f"files of {snapshot} could be restored before"
    is_whole = check.code == 0
    if kind in WHOLE_AGAIN:
        assert is_whole
        assert all(code == 0 for code, _ in after.values())
    else:
        lost = [one for one in after.values() if one[0] != 0]
        assert is_whole == (not lost)
        assert is_whole or "loss: " in check.text
    # A second repair has nothing to do, and prune does what it should.
    for done in repair(world):
        print(show(done))
    assert world.run("check", "--read-data").ended(0, 20).code == check.code
    world.run("prune", "--force").ended(0 if is_whole else 20)
    assert {one: code for one, (code, _) in restorable(sound, world, place).items()} == {
        one: code for one, (code, _) in after.items()
    }


def test_the_whole_index(sound: Sound, tmp_path: Path) -> None:
    world = sound.world.copy(tmp_path)
    for key in objects_of(world, "index"):
        world.objects()[key].unlink()
    assert world.run("check").code == 20
    done = world.good("repair", "index", "--json").summary()
    assert done["repair"]["plan"]["missing_runs"]
    world.good("check", "--read-data")
    assert all(code == 0 for code, _ in restorable(sound, world, tmp_path).values())
    world.good("prune", "--force")
    world.good("check", "--read-data")


def test_registers_and_records(sound: Sound, tmp_path: Path) -> None:
    """All registers lost: each comes back; their order, and so the latest one, is what it was."""
    world = sound.world.copy(tmp_path)
    before = [one["id"] for one in world.snapshots()]
    shutil.rmtree(tmp_path / "cache")
    for key in objects_of(world, "snapshots"):
        world.objects()[key].unlink()
    assert world.snapshots() == []
    world.good("repair", "snapshots")
    assert [one["id"] for one in world.snapshots()] == before
    for key in objects_of(world, "records"):
        world.objects()[key].unlink()
    world.good("repair", "snapshots")
    assert [one["id"] for one in world.snapshots()] == before
    world.good("check", "--read-data")
    assert all(code == 0 for code, _ in restorable(sound, world, tmp_path).values())


def test_a_record_of_something_that_is_not_whole_stays_alone(sound: Sound, tmp_path: Path) -> None:
    """As a fenced session leaves one whose packs are gone."""
    world = sound.world.copy(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    newest = world.snapshots()[-1]["id"]
    for key in objects_of(world, "snapshots"):
        if newest in key:
            world.objects()[key].unlink()
    world.good("prune", "--force", "--keep-unused", "0s")
    done = world.run("repair", "snapshots")
    assert newest not in [one["id"] for one in world.snapshots()]
    print(show(done))
    world.good("check", "--read-data")


def test_a_maintainer_repairs_what_needs_no_trees(sound: Sound, tmp_path: Path) -> None:
    world = sound.world.copy(tmp_path)
    world.good("key", "add", "--role", "maintainer", "--recipient", new_key(tmp_path / "other"))
    other = World(world.repository, world.cache, tmp_path / "other", world.extra)
    for key in (objects_of(world, "index")[0], objects_of(world, "refs")[0]):
        world.objects()[key].unlink()
    other.good("repair", "index")
    done = other.run("repair", "snapshots").ended(3)
    assert "does not open this snapshot's tree" in done.text
    assert "record-closed" in other.run("check", "--level", "index").ended(20).text
    world.good("repair", "snapshots")
    other.good("check", "--level", "data")
    world.good("check", "--read-data")


def test_keys_that_may_not(sound: Sound, tmp_path: Path) -> None:
    world = sound.world.copy(tmp_path)
    world.good("key", "add", "--role", "writer", "--recipient", new_key(tmp_path / "other"))
    other = World(world.repository, world.cache, tmp_path / "other", world.extra)
    for what in ("index", "snapshots"):
        other.run("repair", what).ended(12)


def test_levels(sound: Sound, tmp_path: Path) -> None:
    """What each level sees."""
    seen = {
        "list": (("records", "delete"), ("refs", "flip"), ("snapshots", "flip")),
        "index": (("data", "delete"), ("data", "flip-end"), ("index", "flip"), ("meta", "cut")),
        "data": (("data", "flip"),),
    }
    unseen = {"list": ("data", "delete"), "index": None, "trees": ("data", "flip")}
    for level, cases in seen.items():
        for number, (kind, how) in enumerate(cases):
            world = sound.world.copy(tmp_path / f"{level}{number}")
            damage(world.objects()[objects_of(world, kind)[-1]], how)
            assert world.run("check", "--level", level).code == 20, (level, kind, how)
    for level, case in unseen.items():
        world = sound.world.copy(tmp_path / f"un{level}")
        if case is not None:
            damage(large_pack(world), case[1])
        assert world.run("check", "--level", level).code == 0, (level, case)


def large_pack(world: World) -> Path:
    """A data pack of which neither the first nor the last segment is in the middle."""
    path = max(
        (world.objects()[key] for key in objects_of(world, "data")), key=lambda one: one.stat().st_size
    )
    assert path.stat().st_size > 4 * 65552
    return path


def test_a_boxed_check_goes_round(sound: Sound, tmp_path: Path) -> None:
    world = sound.world.copy(tmp_path)
    packs = len(objects_of(world, "data")) + len(objects_of(world, "meta"))
    read: list[int] = []
    for _ in range(packs):
        summary = world.good("check", "--max-bytes", "1KiB", "--json").summary()
        read.append(summary["counts"]["packs_read"])
        assert summary["counts"]["packs_left"] == packs - 1
    # Each time another one, the oldest first.
    assert read == [1] * packs
    assert summary["verified"]["never_bytes"] == 0
    assert summary["verified"]["within"]["1d"] == summary["verified"]["total_bytes"]
    again = world.good("check", "--max-age", "1d", "--json").summary()
    assert again["counts"]["packs_read"] == 0
    remembered = json.loads(next(world.cache.rglob("verified-*.json")).read_text())
    assert len(remembered["packs"]) == packs
    none = world.good("check", "--max-time", "0s", "--json").summary()
    assert (none["counts"]["packs_read"], none["counts"]["packs_left"]) == (0, packs)
    # What is damaged is not remembered as good, and comes first again.
    damage(large_pack(world), "flip")
    world.run("check", "--level", "data").ended(20)


@contextlib.contextmanager
def opened(world: World) -> Iterator[RepositoryAccess]:
    """The repository for what no command does."""
    flags: dict[str, object] = {
        "repository": str(world.repository),
        "key_file": str(world.key_file),
        "cache_dir": str(world.cache),
    }
    access = open_repository_access(load_config(flags), is_writer=True)
    try:
        yield access
    finally:
        access.close()


def change_state(world: World, change: Callable[[GcState], GcState]) -> GcState:
    """What a prune would have written, broken off at that very point."""
    with opened(world) as access:
        stored = load_gc_state(access.objects)
        new = change(stored.state)
        assert swap_gc_state(access.objects, stored, new=new, clock=SystemClock()) is not None
        return new


def state_of(world: World) -> GcState:
    with opened(world) as access:
        return load_gc_state(access.objects).state


def packs_of(world: World) -> frozenset[str]:
    keys = (*objects_of(world, "data"), *objects_of(world, "meta"))
    return frozenset(key.rpartition("/")[2] for key in keys)


def condemn(packs: frozenset[str]) -> Callable[[GcState], GcState]:
    return lambda old: replace(old, n=old.n + 1, is_condemning=True, condemned=packs)


@pytest.mark.parametrize("how", ["delete", "flip"])
def test_the_index_while_a_prune_is_at_it(sound: Sound, tmp_path: Path, how: str) -> None:
    """A cycle that has condemned needed packs, as a wrong mark may, and then an index is lost."""
    world = sound.world.copy(tmp_path)
    packs = packs_of(world)
    condemned = change_state(world, condemn(packs))
    for key in objects_of(world, "index"):
        damage(world.objects()[key], how)
    world.run("prune").ended(20)
    assert packs_of(world) == packs, "a prune that sees damage removes nothing"
    world.good("repair", "index")
    state = state_of(world)
    assert (state.n, state.is_condemning, state.condemned) == (condemned.n, False, frozenset())
    world.good("check", "--read-data")
    world.good("prune", "--force")
    world.good("check", "--read-data")
    assert all(code == 0 for code, _ in restorable(sound, world, tmp_path).values())


def kill(packs: frozenset[str]) -> Callable[[GcState], GcState]:
    return lambda old: replace(old, dead=packs)


@pytest.mark.parametrize("state", [condemn, kill, None])
def test_what_is_condemned_or_dead_is_not_listed(sound: Sound, tmp_path: Path, state: Any) -> None:
    """The packs of the newest backup, whose run is gone without anybody knowing of it."""
    world = sound.world.copy(tmp_path)
    newest = max(
        (world.objects()[key] for key in objects_of(world, "index")), key=lambda one: one.stat().st_mtime
    )
    with opened(world) as access:
        work = NativeIndexWork(access)
        whole = work.survey(list_index(access.objects, read_gc_state(access.objects)))
        newest.unlink()
        rest = work.survey(list_index(access.objects, read_gc_state(access.objects)))
    unlisted = frozenset(whole.packs.keys() - rest.packs.keys())
    assert unlisted
    if state is not None:
        change_state(world, state(unlisted))
    done = world.good("repair", "index", "--json").summary()["repair"]
    assert bool(done["runs"]) == (state is None)
    assert {name.rpartition("/")[2] for name, _ in done["plan"]["unlisted"]} == (
        unlisted if state is None else set()
    )


def test_a_dead_pack_stays_dead_while_it_is_there(sound: Sound, tmp_path: Path) -> None:
    """Its deletion may be under way for days: no run may list it again."""
    world = sound.world.copy(tmp_path)
    newest = world.snapshots()[-1]["id"]
    packs = packs_of(world)
    world.good("forget", newest[:8], "--force")
    kept = tmp_path / "kept"
    shutil.copytree(world.repository, kept)
    world.good("prune", "--grace", "0s", "--keep-unused", "0s", "--force")
    dead = state_of(world).dead
    assert dead
    assert not dead & packs_of(world)
    # Deletions that have not landed.
    for path in kept.rglob("*"):
        if path.name in dead:
            shutil.copy2(path, world.repository / path.relative_to(kept))
    done = world.good("repair", "index", "--json").summary()
    assert done["repair"]["runs"] == []
    with opened(world) as access:
        # A prune that is broken off before it removes anything.
        seams = PruneSeams(work=NativeIndexWork(access), clock=SystemClock())
        stopped = _StopBeforeRemoval(seams)
        with pytest.raises(_Stopped):
            run_prune(
                access.objects,
                replace(seams, progress=stopped),
                options=PruneOptions(is_forced=True, unused_seconds=0),
            )
    assert dead <= state_of(world).dead
    assert world.good("repair", "index", "--json").summary()["repair"]["runs"] == []
    world.good("prune", "--force")
    assert not dead & packs_of(world)
    assert packs_of(world) <= packs | packs_of(world)
    world.good("check", "--read-data")


class _Stopped(Exception):
    pass


class _StopBeforeRemoval:
    """Progress that ends the process when packs are about to be removed."""

    def __init__(self, seams: PruneSeams) -> None:
        self._seams = seams

    def update(self, counters: Any) -> None:
        if counters.phase == "removing":
            raise _Stopped

    def warn(self, what: str) -> None:
        raise AssertionError(what)


def test_a_register_while_a_prune_is_at_it(sound: Sound, tmp_path: Path) -> None:
    """A cycle that does not know of the snapshot, and would remove what only that needs."""
    world = sound.world.copy(tmp_path)
    newest = world.snapshots()[-1]["id"]
    shutil.rmtree(tmp_path / "cache")
    for key in objects_of(world, "snapshots"):
        if newest in key:
            world.objects()[key].unlink()
    change_state(world, condemn(packs_of(world)))
    world.good("repair", "snapshots")
    assert not state_of(world).is_condemning
    world.good("prune", "--force", "--keep-unused", "0s")
    world.good("check", "--read-data")
    assert all(code == 0 for code, _ in restorable(sound, world, tmp_path).values())


def test_a_register_that_is_damaged_and_has_no_record(sound: Sound, tmp_path: Path) -> None:
    world = sound.world.copy(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    newest = world.snapshots()[-1]["id"]
    for key in (*objects_of(world, "snapshots"), *objects_of(world, "records")):
        if newest in key:
            damage(world.objects()[key], "delete" if "/records/" in key else "flip")
    world.run("prune", "--force").ended(20)
    assert "no record" in world.run("repair", "snapshots").ended(3).text
    world.run("prune", "--force").ended(20)
    world.good("repair", "snapshots", "--force")
    world.good("prune", "--force")
    world.good("check", "--read-data")


def test_a_base_of_several_runs(tmp_path: Path) -> None:
    """Of which each lists a part of each pack: nothing disagrees, and losing one loses nothing for good."""
    world = World(tmp_path / "repository", tmp_path / "cache")
    world.good("init", "--chunk-size", "4KiB")
    world.good("key", "add", "--self", "--recipient", new_key(tmp_path / "key"))
    world = World(world.repository, world.cache, tmp_path / "key")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(random.Random(3).randbytes(14_000_000))
    world.good("backup", tmp_path / "data")
    with opened(world) as access:
        small = replace(
            access, config=replace(access.config, memory_bytes=limits.INTERPRETER_BYTES + (1 << 20))
        )
        seams = PruneSeams(work=NativeIndexWork(small), clock=SystemClock())
        run_prune(access.objects, seams, options=PruneOptions(is_forced=True))
    runs = objects_of(world, "index")
    assert len(runs) > 1
    world.good("check", "--level", "index")
    world.good("check", "--read-data")
    world.objects()[runs[0]].unlink()
    assert world.run("check", "--level", "index").ended(20).text.count("index-incomplete")
    world.good("repair", "index")
    world.good("check", "--level", "index")
    world.good("check", "--read-data")
