"""Every field of a long job's summary is in the manual."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.robust.world import ROOT, World, new_world

INNER = ("stats", "counts", "plan", "store")


def fields(found: dict[str, Any]) -> Iterator[str]:
    """Names, those in the parts that count among them; not what stands in lists, nor kinds of requests."""
    for name, value in found.items():
        yield name
        if name in INNER:
            yield from value
        if name == "copied":
            yield from fields(value[0])


@pytest.mark.parametrize("command", ["backup", "copy", "restore", "check", "forget", "prune", "stats"])
def test_every_field_is_in_the_manual(world: World, tmp_path: Path, command: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("alpha")
    world.good("backup", source)
    other = World(world.repository, world.cache, world.key_file)
    if command == "copy":
        (tmp_path / "other").mkdir()
        world = new_world(tmp_path / "other")
    words: dict[str, tuple[object, ...]] = {
        "backup": (source,),
        "copy": ("--from-repository", other.repository, "--from-key-file", other.key_file),
        "restore": ("latest", "--target", tmp_path / "target"),
        "forget": ("latest", "--dry-run"),
    }
    done = world.good(command, *words.get(command, ()), "--json")
    found = done.json() if command == "stats" else done.summary()
    section = (ROOT / "docs/operations.md").read_text().split("## JSON")[1].split("## Exit codes")[0]
    rows = section.splitlines()
    row = "".join(line for line in rows if line.startswith(f"| `{command}` |"))
    if command == "copy":
        row += next(line for line in rows if line.startswith("| `backup` |")).partition("`stats`:")[2]
    told = set(re.findall(r"`([a-z_]+)`", row + section.split("###")[0]))
    assert not set(fields(found)) - told - {"plan", *INNER}
