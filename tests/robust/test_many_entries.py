"""Very many entries with little or nothing in them."""

from pathlib import Path

import pytest

from tests.robust.trees import age
from tests.robust.world import Mount, World

COUNT = 40_000
"""More than are on their way to the tree at a time."""


def make(top: Path, content: str) -> None:
    for number in range(COUNT):
        folder = top / f"{number // 1000:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 1000:03}").write_text(content)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("content", ["", "the same"])
def test_one_small_file_before_all_others(world: World, mount: Mount, content: str) -> None:
    """It waits for others to share a chunk with, and they for their place behind it."""
    source = mount(2**29) / "source"
    make(source, content)
    (source / "00" / "!first").write_text("one of its own")
    age(source)
    world.good("backup", source)
    (source / "00" / "!first").write_text("changed, and all others the same")
    stats = world.good("backup", source, "--json").summary()["stats"]
    assert 0 < stats["new_bytes"] < 100_000
    assert world.good("dump", "latest:00/!first").out == b"changed, and all others the same"
    assert world.good("dump", f"latest:{COUNT // 1000 - 1:02}/999").text == content
