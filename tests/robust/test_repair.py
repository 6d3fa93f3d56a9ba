"""Every kind of object deleted, cut and flipped, then repaired: what could be restored still can be, and what
is lost is named.
"""

import itertools
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

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
