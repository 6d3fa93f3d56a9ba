"""An interrupted backup goes on where it was, and ends with what it would have been without interruption."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from pvback.config import Config
from pvback.model import LocalAddress
from pvback.repository.repository import open_repository_access
from tests.robust.trees import age, differences, image
from tests.robust.world import World

MIB = 1024 * 1024
pytestmark = pytest.mark.timeout(600)


def root_of(world: World) -> tuple[str, str]:
    """The root page of the only snapshot, and its id."""
    config = Config(repository=LocalAddress(world.repository), key_file=world.key_file)
    access = open_repository_access(config)
    try:
        (snapshot,) = access.catalog().snapshots
        return snapshot.require_details().root.page, snapshot.id
    finally:
        access.close()


def interrupt(world: World, source: Path, *, packs: int) -> None:
    """SIGINT when so many packs are stored; there is more to read than memory holds."""
    plan = {"at": "create", "match": "/data/", "count": packs, "do": "wait", "until_asked": True}
    # The files were made just now, and only their ctime says so.
    words = ("backup", source, "--memory", "152M", "--limit-upload", "60M", "--ignore-ctime")
    with world.start(*words, plan={**plan, "pack_bytes": 4 * MIB}) as running:
        running.wait_for_gate()
        running.process.send_signal(signal.SIGINT)
        running.open_gate()
        done = running.finish().ended(130)
    assert "goes on from the last checkpoint" in done.err


def go_on(world: World, source: Path, whole: World, tmp_path: Path) -> dict[str, Any]:
    """The summary of the second run, which has the same tree as an uninterrupted one."""
    whole.good("backup", source, "--ignore-ctime")
    summary = world.good("backup", source, "--json", "--ignore-ctime").summary()
    assert summary["resumed"]
    world.good("check", "--read-data")
    world.good("restore", "latest", "--target", tmp_path / "target")
    assert not differences(image(source), image(tmp_path / "target"))
    stats: dict[str, Any] = summary["stats"]
    print(stats)
    return stats


@pytest.mark.parametrize("times", [1, 2])
def test_a_large_file(world: World, tmp_path: Path, seed: int, times: int) -> None:
    rng = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    with (source / "large").open("wb") as file:
        for _ in range(320):
            file.write(rng.randbytes(MIB))
    age(source)
    whole = world.copy(tmp_path / "whole")
    for number in range(times):
        interrupt(world, source, packs=15 if number == 0 else 8)
    stats = go_on(world, source, whole, tmp_path)
    # Nearly all that was stored: 14 packs, and 7 the second time.
    stored = (14 + 7 * (times - 1)) * 4 * MIB
    assert stats["read_bytes"] <= 320 * MIB - stored * 9 // 10
    assert root_of(world)[0] == root_of(whole)[0]


def test_many_small_files(world: World, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = tmp_path / "source"
    for number in range(12_000):
        path = source / f"dir{number // 500:02}" / f"{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(20_000))
    age(source)
    whole = world.copy(tmp_path / "whole")
    interrupt(world, source, packs=15)
    stats = go_on(world, source, whole, tmp_path)
    assert stats["read_bytes"] <= 12_000 * 20_000 - 14 * 4 * MIB * 9 // 10
