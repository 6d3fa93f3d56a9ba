"""Killed at any moment, a backup leaves a repository that is sound, and from which the next one goes on."""

import random
from pathlib import Path

import pytest

from tests.robust.trees import Image, age, differences, image, make_tree, mutate
from tests.robust.world import World

PACK_BYTES = 256 * 1024


def plan_kill(world: World, source: Path, tmp_path: Path, rng: random.Random) -> int:
    """How many calls that change files a first backup makes."""
    trial = world.copy(tmp_path / f"trial{rng.randrange(10**9)}")
    plan = {"at": "system", "do": "count", "pack_bytes": PACK_BYTES, "checkpoint_seconds": 0}
    with trial.start("backup", source, plan=plan) as running:
        running.finish().ended(0)
        return int(running.read_told())


def one_round(world: World, source: Path, rng: random.Random, *, among: int) -> tuple[int, int]:
    """One backup that is killed somewhere, or not, as chance has it."""
    point = rng.randrange(1, among + among // 8)
    plan = {
        "at": "system",
        "do": "kill",
        "count": point,
        "pack_bytes": PACK_BYTES,
        "checkpoint_seconds": rng.choice([0, 0, 240]),
    }
    done = world.process("backup", source, plan=plan)
    print(f"killed at {point} of {among}: {done.code}")
    done.ended(0, -9)
    return point, done.code


@pytest.mark.parametrize(
    "rounds", [10, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
@pytest.mark.timeout(400)
def test_killed_at_any_moment(world: World, tmp_path: Path, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    source = tmp_path / "source"
    make_tree(source, rng, large_bytes=2_000_000)
    among = plan_kill(world, source, tmp_path, rng)
    assert among > 30, "there are moments to be killed at"
    known: dict[str, Image] = {}
    killed = 0
    for number in range(rounds):
        _, code = one_round(world, source, rng, among=among)
        killed += code != 0
        ids = {one["id"] for one in world.snapshots()}
        assert known.keys() <= ids, "a snapshot that was there is gone"
        assert len(ids - known.keys()) <= 1
        if code == 0:
            assert ids - known.keys(), "a backup that reported success left no snapshot"
        known.update(dict.fromkeys(ids - known.keys(), image(source)))
        check = world.run("check", *(["--read-data"] if number % 3 == 0 else []))
        check.ended(0)
        if known:
            chosen = rng.choice(sorted(known))
            target = tmp_path / f"target{number}"
            world.good("restore", chosen, "--target", target)
            assert not differences(known[chosen], image(target))
        if rng.random() < 0.5:
            print(mutate(source, rng))
            age(source)
    assert killed, "no round was killed: nothing was tested"
    finish(world, source, tmp_path)


def finish(world: World, source: Path, tmp_path: Path) -> None:
    """The next backup succeeds, the one after it finds no large file new, and the source comes back."""
    world.good("backup", source)
    again = world.good("backup", source, "--json").summary()["stats"]
    # Small files that changed just now are read again, and cut in other company.
    small = sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and is_small(path))
    assert again["new_bytes"] <= small
    world.good("check", "--read-data")
    world.good("restore", "latest", "--target", tmp_path / "last")
    assert not differences(image(source), image(tmp_path / "last"))


def is_small(path: Path) -> bool:
    return path.stat().st_size < 32 * 1024


def test_what_a_killed_backup_stored_is_used(world: World, tmp_path: Path, seed: int) -> None:
    """Killed after its last checkpoint but before its commit, it leaves nothing to be stored again."""
    rng = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}").write_bytes(rng.randbytes(100_000))
    age(source)
    plan = {"at": "create", "match": "/records/", "do": "kill", "count": 1, "pack_bytes": PACK_BYTES}
    world.process("backup", source, plan=plan).ended(-9)
    assert not world.snapshots()
    stats = world.good("backup", source, "--json").summary()["stats"]
    assert stats["source_bytes"] == 4_000_000
    assert stats["new_bytes"] < 100_000, "what lies in packs that runs name was stored again"
    finish(world, source, tmp_path)
