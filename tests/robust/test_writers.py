"""Several backups into one repository at once: all commit, and the repository is sound."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.robust.trees import differences, image, make_tree
from tests.robust.world import World


@pytest.mark.parametrize(
    ("at", "match"), [("create", "/snapshots/"), ("create", "/data/"), ("create", "/records/"), ("swap", "")]
)
@pytest.mark.timeout(180)
def test_four_writers(world: World, tmp_path: Path, seed: int, at: str, match: str) -> None:
    """They stand at the same step, then go on together; two of them have the same source."""
    rng = random.Random(seed)
    names = ["a", "b", "c", "c"]
    for name in set(names):
        make_tree(tmp_path / name, rng)
    # Somebody else's data, too: what one stores first is found or stored again, and both are right.
    (tmp_path / "b" / "same").write_bytes((tmp_path / "a" / "large").read_bytes())
    plan = {"at": at, "match": match, "count": 1, "do": "wait"}
    with ExitStack() as stack:
        running = []
        for number, name in enumerate(names):
            one = World(world.repository, tmp_path / f"cache{number}", world.key_file)
            running.append(stack.enter_context(one.start("backup", tmp_path / name, plan=plan)))
        for process in running:
            process.wait_for_gate()
        rng.shuffle(running)
        for process in running:
            process.open_gate()
        for process in running:
            process.finish().ended(0)
    found = world.snapshots()
    assert sorted(Path(one["path"]).name for one in found) == names
    world.good("check", "--read-data")
    for number, snapshot in enumerate(found):
        target = tmp_path / f"target{number}"
        world.good("restore", snapshot["id"], "--target", target)
        assert not differences(image(Path(snapshot["path"])), image(target))
    # And the next one has a parent, and nothing to store but its own records.
    for name in set(names):
        world.good("backup", tmp_path / name)
    world.good("check")
