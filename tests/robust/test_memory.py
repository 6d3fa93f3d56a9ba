"""The ceiling that `--memory` sets holds for directories of any width and files of any size."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.robust.trees import differences, image
from tests.robust.world import World

MIB = 1024 * 1024
CEILING = 256
"""MiB, the interpreter and its modules included."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def peak(world: World, *words: object) -> float:
    """The most memory that a command had, in MiB."""
    with world.start(*words, plan={"do": "peak"}) as running:
        running.finish(seconds=2500).ended(0)
        return int(running.read_told()) / 1024


def many_empty_files(count: int) -> Callable[[Path, random.Random], None]:
    def make(source: Path, _: random.Random) -> None:
        for number in range(count):
            (source / f"{number:07}-of-the-many-files").touch()

    return make


def one_large_file(size: int) -> Callable[[Path, random.Random], None]:
    def make(source: Path, rng: random.Random) -> None:
        block = rng.randbytes(64 * MIB)
        with (source / "large").open("wb") as file:
            for number in range(size // len(block)):
                file.write(number.to_bytes(8, "big") + block[:-8])

    return make


@pytest.mark.parametrize(
    "make",
    [many_empty_files(200_000), many_empty_files(2_000_000), one_large_file(3 * 1024 * MIB)],
    ids=["200k-files", "2M-files", "3GiB"],
)
def test_peak_memory(
    world: World, tmp_path: Path, seed: int, make: Callable[[Path, random.Random], None]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make(source, random.Random(seed))
    found = {
        "first": peak(world, "backup", source, "--memory", f"{CEILING}M"),
        "again": peak(world, "backup", source, "--memory", f"{CEILING}M"),
        "restore": peak(
            world, "restore", "latest", "--target", tmp_path / "target", "--memory", f"{CEILING}M"
        ),
        "check": peak(world, "check", "--memory", f"{CEILING}M"),
    }
    for name, value in found.items():
        print(f"{name}: {value:.0f} MiB")
    assert max(found.values()) <= CEILING, found
    assert not differences(image(source), image(tmp_path / "target"))
