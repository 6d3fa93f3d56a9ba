"""Damage to any object, met by any command: found, or survived with the right result; never a bug.

A small repository with two sources, three snapshots and two keys; every object x every damage x every
command. The fast run takes object and commands from the seed, the slow one takes all and flips every byte.
"""

import itertools
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.robust.trees import Image, age, contents, differences, image, make_tree
from tests.robust.world import Done, World, documented_codes, new_key

COMMANDS = (
    "snapshots",
    "ls",
    "find",
    "diff",
    "stats",
    "restore",
    "restore-latest",
    "reference",
    "dump",
    "check",
    "check-data",
    "backup",
    "key",
)
DAMAGES = (
    *(f"flip {place}" for place in ("first", "suite", "salt", "commitment", "body", "middle", "last")),
    *(f"cut {left}" for left in ("empty", "one", "half", "last")),
    "zero",
    "longer",
    "delete",
    "swap",
)
KINDS = ("config", "own key", "other key", "data", "meta", "index", "refs", "records", "snapshots", "gc")
PLACES = {"first": 0, "suite": 8, "salt": 20, "commitment": 60, "body": 100}


@dataclass(frozen=True)
class Sound:
    """A repository that is in order, and what it says."""

    world: World
    sources: tuple[Path, Path]
    snapshots: tuple[str, str, str]
    """Two of the first source, one of the second."""
    images: dict[str, Image]
    own_key: str
    said: dict[str, Done]


@pytest.fixture(scope="module")
def sound(empty_world: World, tmp_path_factory: pytest.TempPathFactory) -> Sound:
    top = tmp_path_factory.mktemp("sound")
    rng = random.Random(1)
    world = empty_world.copy(top / "world")
    first, second = top / "first", top / "second"
    make_tree(first, rng)
    make_tree(second, rng, files=3, large_bytes=50_000)
    world.good("key", "add", "--role", "writer", "--recipient", new_key(top / "other"))
    images = {}
    ids = []
    for source in (first, first, second):
        world.good("backup", source, "--host", "h")
        ids.append(next(one["id"] for one in world.snapshots() if one["id"] not in ids))
        images[ids[-1]] = image(source)
        if len(ids) == 1:
            (first / "large").write_bytes(rng.randbytes(200_000))
            age(first)
    listed = world.good("key", "list").text
    own = re.search(r"^\* ([0-9a-f]{32})", listed, re.MULTILINE)
    assert own
    unsaid = Sound(world, (first, second), (ids[0], ids[1], ids[2]), images, own[1], {})
    said = {}
    for command in COMMANDS:
        if command not in ("restore", "restore-latest", "reference", "backup"):
            said[command] = run(unsaid, world, command, top).ended(0)
    return Sound(world, (first, second), (ids[0], ids[1], ids[2]), images, own[1], said)


def run(sound: Sound, world: World, command: str, place: Path) -> Done:
    first, second, third = sound.snapshots
    words: dict[str, tuple[object, ...]] = {
        "snapshots": ("snapshots", "--json"),
        "ls": ("ls", third, "-R", "--json"),
        "find": ("find", "file0*", "--json"),
        "diff": ("diff", first, second),
        "stats": ("stats", "--mode", "raw-data", "--json"),
        "restore": ("restore", second, "--target", place / "target"),
        "restore-latest": ("restore", "latest", "--source", sound.sources[0], "--target", place / "target"),
        "reference": ("restore", second, "--target", place / "target", "--reference"),
        "dump": ("dump", f"{second}:large"),
        "check": ("check",),
        "check-data": ("check", "--read-data"),
        "backup": ("backup", sound.sources[0], "--host", "h"),
        "key": ("key", "list"),
    }
    return world.run(*words[command])


def kind_of(sound: Sound, key: str) -> str:
    parts = key.split("/")
    if parts[0] == "keys":
        return "own key" if sound.own_key in key else "other key"
    return parts[2] if parts[0] == "s" else key


def damage(objects: dict[str, Path], key: str, how: str, other: str | None) -> bool:
    """Do it; False when that cannot be done to this object, or changes nothing. Times stay."""
    path = objects[key]
    times = {one: one.stat() for one in {path, objects[other] if other else path}}
    is_done = change(objects, path, how, other)
    for one, status in times.items():
        if one.exists():
            os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    return is_done


def change(objects: dict[str, Path], path: Path, how: str, other: str | None) -> bool:
    data = path.read_bytes()
    what, _, where = how.partition(" ")
    if what == "flip":
        at = {"middle": len(data) // 2, "last": len(data) - 1}.get(where)
        changed = bytearray(data)
        changed[PLACES[where] if at is None else at] ^= 1 << (len(data) % 8)
        path.write_bytes(changed)
    elif what == "cut":
        path.write_bytes(data[: {"empty": 0, "one": 1, "half": len(data) // 2, "last": len(data) - 1}[where]])
    elif what == "zero":
        path.write_bytes(bytes(len(data)))
    elif what == "longer":
        path.write_bytes(data + data[:17])
    elif what == "delete":
        path.unlink()
    elif what == "swap":
        if other is None:
            return False
        path.write_bytes(objects[other].read_bytes())
        objects[other].write_bytes(data)
    return True


def judge(sound: Sound, world: World, command: str, done: Done, place: Path, case: str) -> None:
    """What has to hold whatever was damaged."""
    codes = documented_codes()[
        "restore" if command == "reference" else command.partition("-")[0] if command != "key" else "key list"
    ]
    done.ended(*codes - {2})
    if done.code:
        assert done.err or command.startswith("check"), "a failure without a word"
    if command in ("restore", "restore-latest", "reference"):
        target = place / "target"
        wanted = sound.images[sound.snapshots[1]]
        if done.code == 0:
            assert not differences(wanted, image(target))
        elif target.exists():
            check_part(wanted, target)
    elif command == "backup":
        if done.code == 0:
            check_new_snapshot(sound, world, place)
    elif is_unseen(case, command):
        pass
    elif done.code == 0 and command == "stats":
        # How much is stored is a fact about the objects, damaged or not.
        names = ("snapshot_count", "source_bytes", "trees")
        assert [done.json()[name] for name in names] == [sound.said[command].json()[name] for name in names]
    elif done.code == 0 and not command.startswith("check"):
        said = sound.said[command].out
        if case == "records delete":
            # The time of a snapshot whose record is gone is that of its register, a moment later.
            assert _TIME.sub(b"", done.out) == _TIME.sub(b"", said)
        elif command == "key" and case.startswith("own key"):
            # The ways to unlock a key are its holder's own affair: nothing vouches for what they are called.
            assert [line.split()[:2] for line in done.out.splitlines()] == [
                line.split()[:2] for line in said.splitlines()
            ]
        else:
            assert done.out == said


_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z?")


def is_unseen(case: str, command: str) -> bool:
    """What a command cannot know is missing.

    A snapshot that is not its source's newest may have been forgotten; check follows the chain of records.
    """
    if case.startswith("other key"):
        return command == "key"
    return case == "snapshots delete" and command in ("snapshots", "find", "stats")


def check_part(wanted: Image, target: Path) -> None:
    """Files of a restore that failed are not there, or have the size they should, or the right content."""
    for name, digest in contents(target).items():
        assert name in wanted or name.startswith(".pvback"), f"{name} was never in the source"
        if name in wanted and wanted[name][6] != digest:
            assert stat.S_ISREG(wanted[name][0])
            print(f"{name} is not whole, as was reported")


def check_new_snapshot(sound: Sound, world: World, place: Path) -> None:
    """A backup that reports success can be restored, or check says what is in the way."""
    if world.run("check", "--read-data").ended(0, 20).code == 20:
        return
    world.good("restore", "latest", "--source", sound.sources[0], "--target", place / "new")
    assert not differences(image(sound.sources[0]), image(place / "new"))


def is_seen_by_check(kind: str, how: str) -> bool:
    """Whether `check --read-data` has to notice. The keys of others cannot be judged by anybody else."""
    if kind == "config" and how.endswith("last"):
        return False  # only the newline at its end
    return kind != "other key" and not (kind == "own key" and how != "delete")


def cases(sound: Sound, kind: str, how: str) -> Iterator[tuple[str, str | None]]:
    """The objects of a kind, each with another one of its kind to be exchanged with."""
    objects = list(sound.world.objects())
    fitting = [key for key in objects if kind_of(sound, key) == kind]
    assert fitting, f"the repository has no {kind}"
    near = [key for key in objects if key.startswith("keys/")] if "key" in kind else fitting
    for key in fitting:
        yield key, next((one for one in near if one != key), None)


def try_one(sound: Sound, place: Path, case: tuple[str, str | None, str], commands: list[str]) -> None:
    key, other, how = case
    kind = kind_of(sound, key)
    for command in commands:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        world = sound.world.copy(place / "world")
        if not damage(world.objects(), key, how, other):
            return
        before = {path: path.read_bytes() for path in world.objects().values()}
        done = run(sound, world, command, place)
        print(f"{how} of {key}, {command}: {done.code}")
        judge(sound, world, command, done, place, f"{kind} {how}")
        if command != "backup":
            assert {path: path.read_bytes() for path in world.objects().values()} == before
        if command == "check-data" and is_seen_by_check(kind, how):
            # A register that is gone looks like one that prune removed, but for what it leaves behind.
            is_told = how == "delete" and kind == "snapshots" and "orphans" in done.text
            assert done.code != 0 or is_told, "check did not see it"


@pytest.mark.parametrize(
    ("kind", "how"), list(itertools.product(KINDS, DAMAGES)), ids=lambda one: str(one).replace(" ", "-")
)
def test_damage(sound: Sound, tmp_path: Path, seed: int, kind: str, how: str) -> None:
    rng = random.Random(seed)
    for key, other in rng.sample(list(cases(sound, kind, how)), 1):
        commands = ["check-data", *rng.sample([one for one in COMMANDS if one != "check-data"], 3)]
        try_one(sound, tmp_path / "case", (key, other, how), commands)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "how"), list(itertools.product(KINDS, DAMAGES)), ids=lambda one: str(one).replace(" ", "-")
)
def test_damage_for_every_object_and_command(sound: Sound, tmp_path: Path, kind: str, how: str) -> None:
    for key, other in cases(sound, kind, how):
        try_one(sound, tmp_path / "case", (key, other, how), list(COMMANDS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte(sound: Sound, tmp_path: Path, kind: str, seed: int) -> None:
    """Every byte of one object of each kind, small ones whole and packs in steps; check must see each."""
    rng = random.Random(seed)
    key, _ = next(cases(sound, kind, "flip"))
    world = sound.world.copy(tmp_path / "world")
    path = world.objects()[key]
    data = path.read_bytes()
    step = max(1, len(data) // 5000)
    for at in range(0, len(data), step):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        done = world.run("check", "--read-data")
        done.ended(*documented_codes()["check"] - {2})
        assert done.code != 0 or not is_seen_by_check(kind, "flip"), f"byte {at} of {key}"
    path.write_bytes(data)
    world.good("check", "--read-data")


@pytest.mark.parametrize(("at", "area"), [("read_into", "data"), ("read_into", "meta"), ("read", "refs")])
def test_one_wrong_answer_is_no_damage(world: World, tmp_path: Path, seed: int, at: str, area: str) -> None:
    """A check reads again what seems to be damaged: the bytes may have been, on their way."""
    place = tmp_path / "source"
    make_tree(place, random.Random(seed))
    world.good("backup", place)
    words = ("check", "--read-data")
    reading = {"at": at, "match": f"/{area}/"}
    with world.start(*words, plan={**reading, "do": "count"}) as running:
        count = int(running.read_told())
        running.finish().ended(0)
    assert count > 0
    for number in range(1, count + 1):
        done = world.process(*words, plan={**reading, "do": "flip", "count": number})
        assert done.code == 0, (number, count, done.text, done.err)
