"""A repository that is made once a worker and copied for each test, and small disks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robust.world import Mount, World, new_world


@pytest.fixture(scope="session")
def empty_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed: `world` is a copy."""
    return new_world(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def world(empty_world: World, tmp_path: Path) -> World:
    return empty_world.copy(tmp_path / "world")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts small disks in memory; skips where that is not allowed."""
    made: list[Path] = []

    def mount_it(size: int) -> Path:
        place = tmp_path / f"disk{len(made)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("file systems cannot be mounted here")
        made.append(place)
        return place

    yield mount_it
    for place in made:
        subprocess.run(["umount", "-l", place], check=True)
