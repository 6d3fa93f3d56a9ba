"""A page of a tree that is damaged costs the paths that only it names, and they are named."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.robust.trees import age, contents
from tests.robust.world import World

SEGMENT_BYTES = 65_552
"""What lies in one is lost together."""


def make_wide_tree(top: Path, rng: random.Random) -> None:
    """Names that do not compress: a tree of many pages."""
    for number in range(40):
        folder = top / f"dir{number:02}"
        folder.mkdir(parents=True)
        for file in range(80):
            (folder / f"{file:02}-{rng.randbytes(100).hex()}").write_bytes(b"")
    age(top)


def tree_pack(world: World) -> Path:
    (pack,) = [path for key, path in world.objects().items() if "/meta/" in key]
    return pack


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def key(path: str) -> bytes:
    return path.encode().replace(b"/", b"\0")


def is_lost(summary: dict[str, Any], path: str) -> bool:
    return any(
        (one["after"] is None or key(one["after"]) < key(path))
        and (one["before"] is None or key(path) < key(one["before"]))
        for one in summary["lost"]
    )


@pytest.mark.timeout(300)
def test_the_rest_is_restored_listed_and_found(world: World, tmp_path: Path, seed: int) -> None:
    source = tmp_path / "source"
    make_wide_tree(source, random.Random(seed))
    world.good("backup", source)
    names = set(contents(source))
    pack = tree_pack(world)
    segments = (pack.stat().st_size - 1) // SEGMENT_BYTES + 1
    assert segments > 5
    codes = []
    for segment in range(segments):
        flip(pack, 80 + min(segment * SEGMENT_BYTES + 1000, pack.stat().st_size - 81))
        target = tmp_path / f"target{segment}"
        done = world.run("restore", "latest", "--target", target, "--json").ended(0, 3, 20)
        codes.append(done.code)
        if done.code == 0:
            assert segment == segments - 1, "only the pack's own directory is not needed"
            assert set(contents(target)) == names
        if done.code == 3:
            summary = done.summary()
            found = set(contents(target))
            assert found <= names
            assert {name for name in names if not is_lost(summary, name)} <= found
            judge_texts(world, tmp_path / f"again{segment}", summary)
            judge_looks(world, names, summary)
        flip(pack, 80 + min(segment * SEGMENT_BYTES + 1000, pack.stat().st_size - 81))
    assert codes.count(20) <= 2, "only the root page costs everything"
    assert codes.count(3) >= segments - 3


def judge_texts(world: World, target: Path, summary: dict[str, Any]) -> None:
    """What a person reads names the range and says what to do."""
    done = world.run("restore", "latest", "--target", target).ended(3)
    for one in summary["lost"]:
        assert all(bound in done.err for bound in (one["after"], one["before"]) if bound)
    assert "paths lost" in done.err
    assert "hint: " in done.err


def judge_looks(world: World, names: set[str], summary: dict[str, Any]) -> None:
    listed = world.run("ls", "latest", "-R").ended(20)
    found = world.run("find", "*-*").ended(20)
    kept = {name for name in names if not is_lost(summary, name)}
    for done in (listed, found):
        assert kept <= {name for name in names if name in done.text}, "the rest is not shown"
        assert "cannot be read" in done.err
