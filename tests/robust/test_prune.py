"""Prune by the program as it is, packs and runs included: beside backups that run, and killed anywhere."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pvback.reference import DirectoryStore, PrivateKey, Repository
from pvback.reference.pages import DATA, FILE
from tests.robust.trees import Image, age, differences, image, make_tree, mutate
from tests.robust.world import World

PACK_BYTES = 256 * 1024
PRUNE = ("prune", "--max-unused", "0", "--keep-unused", "0s", "--grace", "0s", "--force", "--json")
FORGET = ("forget", "--keep-last", "1", "--force")
"""3 where a source has lost so much that none of its snapshots are forgotten."""
SOURCE_COUNT = 3
PRUNE_COUNT = 3
PRUNE_SECONDS_MAX = 240
"""A session that is open when prune condemns may be heard of after a minute."""
BACKUP_COUNT_MAX = 60
"""Of each source: it is backed up until so many prunes have come to their end."""


def comes_back(world: World, place: Path, expected: Image, target: Path) -> None:
    """The newest snapshot of a source, byte for byte."""
    world.good("restore", "latest", "--source", str(place), "--target", target)
    assert not differences(expected, image(target))


@pytest.mark.timeout(400)
def test_beside_backups(world: World, tmp_path: Path, seed: int) -> None:
    """Sources change and are backed up again and again while all but the newest of each is pruned away."""
    places = [tmp_path / f"source{number}" for number in range(SOURCE_COUNT)]
    running = threading.Semaphore(0)
    over = threading.Event()
    reports: list[dict[str, Any]] = []

    def run_backup(own: World, place: Path) -> None:
        # Without any grace the snapshot that it compares with may be pruned meanwhile. All is read then.
        own.process("backup", place, plan={"pack_bytes": PACK_BYTES}).ended(0)

    def back_up(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        own = World(world.repository, tmp_path / f"cache{number}", world.key_file)
        make_tree(places[number], rng)
        for _ in range(BACKUP_COUNT_MAX):
            run_backup(own, places[number])
            running.release()
            mutate(places[number], rng)
            age(places[number])
            if len(reports) >= PRUNE_COUNT:
                break
        # What the last one has, not what has changed since.
        run_backup(own, places[number])

    def prune() -> None:
        own = World(world.repository, tmp_path / "prune-cache", world.key_file)
        while not over.is_set():
            # Between two prunes somebody has committed something, or all have.
            if running.acquire(timeout=1):
                own.process(*FORGET).ended(0, 3)
                with own.start(*PRUNE, plan={"pack_bytes": PACK_BYTES}) as process:
                    reports.append(process.finish(seconds=PRUNE_SECONDS_MAX).ended(0).summary())

    with ThreadPoolExecutor(SOURCE_COUNT + 1) as pool:
        pruning = pool.submit(prune)
        try:
            list(pool.map(back_up, range(SOURCE_COUNT)))
        finally:
            over.set()
        pruning.result()
    print(f"{len(reports)} prunes removed", [one["removed_pack_count"] for one in reports])
    assert len(reports) >= PRUNE_COUNT
    assert sum(one["removed_pack_count"] for one in reports) > 0, "nothing was pruned beside them"
    for _ in range(2):
        world.good("check", "--read-data")
        for number, place in enumerate(places):
            comes_back(world, place, image(place), tmp_path / f"target{number}")
        world.run(*FORGET).ended(0, 3)
        world.good(*PRUNE)
    assert len(world.snapshots()) == SOURCE_COUNT


def chunk_places(world: World) -> list[tuple[str, int]]:
    """Where the chunks of the newest tree lie, in its order."""
    assert world.key_file is not None
    key = PrivateKey(world.key_file.read_bytes())
    repository = Repository.open(DirectoryStore(str(world.repository)), key)
    newest = max(repository.snapshots(), key=lambda one: one.head.seq)
    tree, index = repository.tree(newest), repository.scope.index()
    nodes = [node for node in repository.walk(newest) if node.kind == FILE]
    chunks = [one.chunk for node in nodes for one in tree.extents(node) if one.kind == DATA]
    return [(place.pack.hex(), place.offset) for one in chunks for place in index.lookup(one)]


def test_what_is_copied_lies_as_the_newest_tree_has_it(world: World, tmp_path: Path, seed: int) -> None:
    """What changes here and there is scattered over packs, in the order in which it was stored."""
    place, rng = tmp_path / "source", random.Random(seed)
    place.mkdir()
    changed = list(range(40))
    for _ in range(4):
        for number in changed:
            (place / f"{number:02}").write_bytes(rng.randbytes(600_000))
        world.process("backup", place, plan={"pack_bytes": 4 << 20}).ended(0)
        changed = rng.sample(range(40), 10)
    world.good(*FORGET)
    before = {pack for pack, _ in chunk_places(world)}
    assert world.process(*PRUNE, plan={"pack_bytes": 4 << 20}).ended(0).summary()["moved_count"] > 10
    found = chunk_places(world)
    made = list(dict.fromkeys(pack for pack, _ in found if pack not in before))
    assert len(made) > 2
    copied = [(made.index(pack), offset) for pack, offset in found if pack in made]
    assert copied == sorted(copied)
    world.good("check", "--read-data")


def test_a_session_that_begins_anew(world: World, tmp_path: Path, seed: int) -> None:
    """It began while a prune published its cycle. Nobody waits for the register that it gave up."""
    place = tmp_path / "source"
    make_tree(place, random.Random(seed))
    world.good("backup", place)
    other = World(world.repository, tmp_path / "prune-cache", world.key_file)
    before = len([key for key in world.objects() if "/snapshots/" in key])
    second_look = {"at": "read", "match": "gc/state", "count": 2, "do": "wait"}
    waiting = {"at": "list_objects", "match": "/snapshots/", "count": 2, "do": "wait"}
    with world.start("backup", place, plan=second_look) as writer:
        writer.wait_for_gate()
        with other.start(*PRUNE, plan=waiting) as prune:
            prune.wait_for_gate()
            writer.open_gate()
            writer.finish().ended(0)
            registers = [key for key in world.objects() if "/snapshots/" in key]
            assert len(registers) == before + 2, "it began anew"
            prune.open_gate()
            prune.finish().ended(0)
    world.good("check", "--read-data")
    comes_back(world, place, image(place), tmp_path / "target")


def test_a_backup_keeps_what_it_has_met_in_condemned_packs(world: World, tmp_path: Path, seed: int) -> None:
    """Nothing else needs them: it says so when it takes note of the prune's cycle, and prune spares them."""
    rng = random.Random(seed)
    old, place = tmp_path / "old", tmp_path / "source"
    for folder in (old, place):
        folder.mkdir()
    content = rng.randbytes(2_000_000)
    for path in (old / "file", place / "a file"):
        path.write_bytes(content)
    (place / "b new").write_bytes(rng.randbytes(3_000_000))
    world.good("backup", old)
    (kept,) = {key for key in world.objects() if "/data/" in key}
    world.good("forget", world.snapshots()[0]["id"])
    other = World(world.repository, tmp_path / "prune-cache", world.key_file)
    # It takes note, which is a change of its register, and waits before the next one, its commit.
    commit = {"at": "swap", "match": "/snapshots/", "count": 2, "until_asked": False}
    new_pack = {"at": "create", "match": "/data/", "count": 1, "do": "wait", "until_asked": True}
    waiting = {"at": "list_objects", "match": "/snapshots/", "count": 2, "do": "wait"}
    with world.start("backup", place, plan={**new_pack, "poll_seconds": 0, "then": commit}) as writer:
        writer.wait_for_gate()
        with other.start(*PRUNE, plan=waiting) as prune:
            prune.wait_for_gate()
            writer.open_gate()
            writer.wait_for_gate()
            prune.open_gate()
            assert prune.finish().ended(0).summary()["spared_count"] > 0
        writer.open_gate()
        writer.finish().ended(0)
    assert kept in world.objects()
    world.good("check", "--read-data")
    comes_back(world, place, image(place), tmp_path / "target")


@pytest.mark.parametrize("point", ["/snapshots/", "/records/"])
def test_a_snapshot_that_was_seen_goes_while_somebody_looks(
    world: World, tmp_path: Path, seed: int, point: str
) -> None:
    """That is no roll-back: a prune removed it."""
    place = tmp_path / "source"
    make_tree(place, random.Random(seed))
    for _ in range(2):
        world.good("backup", place)
    seen, other = world.snapshots(), World(world.repository, tmp_path / "prune-cache", world.key_file)
    gate = {"at": "list_objects", "match": point, "count": 1, "do": "wait"}
    with world.start("snapshots", "--json", plan=gate) as looking:
        looking.wait_for_gate()
        # The one that is remembered is the newest of its source.
        other.good("forget", seen[-1]["id"], "--force")
        other.good(*PRUNE)
        looking.open_gate()
        found = looking.finish().ended(0).json()
    assert [one["id"] for one in found] == [seen[0]["id"]]


@pytest.mark.parametrize("is_pruned", [True, False])
def test_what_a_backup_compares_with_goes(world: World, tmp_path: Path, seed: int, is_pruned: bool) -> None:
    """By a prune, which is as it should be; or its tree is lost, which the user has to hear of."""
    place = tmp_path / "source"
    make_tree(place, random.Random(seed))
    world.good("backup", place)
    (parent,) = world.snapshots()
    age(place)
    # It has chosen what to compare with, and has a register.
    gate = {"at": "create", "match": "/snapshots/", "count": 1, "do": "wait"}
    with world.start("backup", place, "--json", plan=gate) as writer:
        writer.wait_for_gate()
        if is_pruned:
            other = World(world.repository, tmp_path / "prune-cache", world.key_file)
            other.good("forget", parent["id"], "--force")
            other.good(*PRUNE)
        else:
            for key, path in world.objects().items():
                if "/meta/" in key:
                    path.unlink()
        writer.open_gate()
        done = writer.finish().ended(0 if is_pruned else 3)
    assert "the tree of an earlier backup is not usable" in done.text, done.text
    assert done.summary()["is_damage_found"] is not is_pruned
    assert done.summary()["error_count"] == 0
    assert is_pruned or "`pvback check`" in done.err
    if is_pruned:
        world.good("check", "--read-data")
    comes_back(world, place, image(place), tmp_path / "target")


@pytest.mark.parametrize(
    "rounds", [8, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
@pytest.mark.timeout(400)
def test_killed_at_any_moment(world: World, tmp_path: Path, seed: int, rounds: int) -> None:
    """Nothing that is needed is gone then, and the next prune removes what the killed one would have."""
    rng = random.Random(seed)
    place = tmp_path / "source"
    place.mkdir()
    make_tree(place / "tree", rng)
    (place / "pieces").write_bytes(rng.randbytes(4_000_000))
    for _ in range(3):
        world.process("backup", place, plan={"pack_bytes": PACK_BYTES}).ended(0)
        mutate(place / "tree", rng)
        with (place / "pieces").open("r+b") as file:
            for _ in range(4):
                # Each makes a hole in a pack, and leaves some of what is in it.
                file.seek(rng.randrange(3_900_000))
                file.write(rng.randbytes(1_000))
        age(place)
    world.process("backup", place, plan={"pack_bytes": PACK_BYTES}).ended(0)
    expected = image(place)
    world.run(*FORGET).ended(0, 3)
    whole = world.copy(tmp_path / "whole")
    with whole.start(*PRUNE, plan={"at": "system", "do": "count", "pack_bytes": PACK_BYTES}) as running:
        report = running.finish().ended(0).summary()
        among = int(running.read_told())
    print(f"{among} calls; {report['moved_count']} blobs moved, {report['removed_pack_count']} packs removed")
    assert among > 30, "there are moments to be killed at"
    assert min(report["moved_count"], report["removed_pack_count"]) > 0
    bounded = world.copy(tmp_path / "bounded")
    less = bounded.process(*PRUNE, "--max-repack", "0", plan={"pack_bytes": PACK_BYTES}).ended(0).summary()
    assert less["moved_count"] == 0 < report["moved_count"]
    comes_back(bounded, place, expected, tmp_path / "from-bounded")
    left = len([key for key in whole.objects() if "/data/" in key or "/meta/" in key])
    for number in range(rounds):
        one = world.copy(tmp_path / f"killed{number}")
        point = rng.randrange(1, among)
        plan = {"at": "system", "do": "kill", "count": point, "pack_bytes": PACK_BYTES}
        done = one.process(*PRUNE, plan=plan)
        print(f"killed at {point}: {done.code}")
        done.ended(0, -9)
        one.good("check", *(["--read-data"] if number % 2 else []))
        comes_back(one, place, expected, tmp_path / f"target{number}")
        if number % 2:
            # Somebody backs up before anybody prunes again.
            one.good("backup", place)
        one.process(*PRUNE, plan={"pack_bytes": PACK_BYTES}).ended(0)
        one.process(*PRUNE, plan={"pack_bytes": PACK_BYTES}).ended(0)
        one.good("check", "--read-data")
        comes_back(one, place, expected, tmp_path / f"again{number}")
        packs = [key for key in one.objects() if "/data/" in key or "/meta/" in key]
        assert number % 2 or len(packs) <= left + 1, "what the killed one has written is gone, too"
