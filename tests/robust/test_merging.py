"""Index runs of backups that no prune has seen: their number has a bound for who may remove them."""

from pathlib import Path

from pvback import limits
from tests.robust.team import Members
from tests.robust.world import World


def run_count(world: World) -> int:
    return sum("/index/" in key for key in world.objects())


def write_and_back_up(world: World, source: Path, count: int) -> None:
    """Each time something else, so that each has a run."""
    source.mkdir(exist_ok=True)
    for number in range(count):
        (source / "file").write_bytes(f"{source}, {number}".encode() * 100)
        world.good("backup", source)


def test_an_owners_backups_merge_what_they_wrote(world: World, tmp_path: Path) -> None:
    write_and_back_up(world, tmp_path / "source", limits.RUN_MERGE_COUNT)
    assert run_count(world) == limits.RUN_MERGE_COUNT
    write_and_back_up(world, tmp_path / "source", 2)
    # One that was merged of all, and two new ones.
    assert run_count(world) == 3
    world.good("check", "--read-data")


def test_writers_leave_them_to_prune(world: World, tmp_path: Path) -> None:
    members = Members(world, tmp_path)
    write_and_back_up(members["writer"], tmp_path / "source", limits.RUN_MERGE_COUNT + 2)
    assert run_count(world) == limits.RUN_MERGE_COUNT + 2
    members["maintainer"].good("prune", "--grace", "0s", "--force")
    assert run_count(world) == 1
    world.good("check", "--read-data")
