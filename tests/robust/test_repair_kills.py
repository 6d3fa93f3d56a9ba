"""Repairs broken off before each of their writes: what could be read still can be, and a second run ends."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pvback.config import load_config
from pvback.errors import StorageError
from pvback.ops import repair, rewrite
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.prune import PruneSeams, run_prune
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.repository.session import WriterSession
from pvback.runtime import SystemClock
from pvback.storage import open_store
from tests.robust.test_key_changes import Broken
from tests.robust.test_lost_state import Case as PastCase
from tests.robust.test_lost_state import store_twice
from tests.robust.test_repair import objects_of, opened, packs_of
from tests.robust.test_rewrite import Case, assert_same, by_id, case, restored, without
from tests.robust.trees import differences, image
from tests.robust.world import World

__all__ = ["case"]

WRITES_MAX = 80


def is_broken_off(world: World, act: Callable[[RepositoryAccess], object], *, writes: int) -> bool:
    """Whether `act` was broken off after so many writes; False: it needed no more."""
    flags: dict[str, object] = {
        "repository": str(world.repository),
        "key_file": str(world.key_file),
        "cache_dir": str(world.cache),
    }
    config = load_config(flags)
    store = Broken(open_store(config.require_repository()), writes)
    access = open_repository_access(config, is_writer=True, store=store)
    try:
        act(access)
    except StorageError:
        assert store.left < 0, "something else failed"
        return True
    finally:
        access.close()
    return False


def settle(world: World) -> None:
    """Prune until nothing is left of what was forgotten; a session that was broken off is not waited for."""
    with opened(world) as access:
        seams = PruneSeams(work=NativeIndexWork(access), clock=SystemClock())
        options = PruneOptions(is_forced=True, grace_seconds=0, fence_seconds=0, unused_seconds=0)
        run_prune(access.objects, seams, options=options)
    world.good("check", "--read-data")


def mend_snapshots(access: RepositoryAccess) -> None:
    """As the command does it."""
    outcomes = repair.repair_snapshots(access, repair.plan_snapshot_repair(access))
    assert all(one.done for one in outcomes), outcomes
    written = rewrite.rewrite(access, rewrite.plan_rewrites(access), is_forgetting=True)
    assert all(one.replacement for one in written), written


@pytest.mark.timeout(200)
def test_snapshots_written_anew(case: Case, tmp_path: Path) -> None:
    for path in case.new["data"].values():
        path.unlink()
    case.world.run("repair", "packs").ended(3)
    lost = ["dir0/added", "late/other"]
    seen = set()
    for writes in range(WRITES_MAX):
        world = case.world.copy(tmp_path / f"broken{writes}")
        is_broken = is_broken_off(world, mend_snapshots, writes=writes)
        there = by_id(world)
        seen.add(len(there))
        assert case.first in there
        assert_same(case.images[case.first], restored(world, case.first, tmp_path / f"first{writes}"))
        if case.second in there:
            world.run("restore", case.second, "--target", tmp_path / f"second{writes}").ended(3)
        if not is_broken:
            break
        world.good("repair", "snapshots", "--forget")
        assert by_id(world).keys() >= {case.first}
        (new,) = by_id(world).keys() - {case.first}
        settle(world)
        found = restored(world, new, tmp_path / f"new{writes}")
        assert_same(without(case.images[case.second], lost), found)
    else:
        pytest.fail(f"it took more than {WRITES_MAX} writes")
    print(f"{writes} writes")
    assert seen == {2, 3}, "broken off before and after there was a new one"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["snapshots", "records", "refs"])
def test_parts_of_snapshots(case: Case, tmp_path: Path, kind: str) -> None:
    """One object of its own of each snapshot is lost."""
    for key in objects_of(case.world, kind):
        case.world.objects()[key].unlink()
    for writes in range(WRITES_MAX):
        world = case.world.copy(tmp_path / f"broken{writes}")
        is_broken = is_broken_off(world, mend_snapshots, writes=writes)
        if kind != "snapshots":
            assert set(by_id(world)) == {case.first, case.second}
        # Whoever prunes before it is mended has to leave everything where it is.
        if kind == "refs" and writes % 2 and is_broken:
            world.run("prune", "--force", "--keep-unused", "0s").ended(0, 20)
        if is_broken:
            world.good("repair", "snapshots")
        assert set(by_id(world)) == {case.first, case.second}
        settle(world)
        assert_same(case.images[case.second], restored(world, case.second, tmp_path / f"second{writes}"))
        if not is_broken:
            break
    else:
        pytest.fail(f"it took more than {WRITES_MAX} writes")
    print(f"{writes} writes")
    assert writes > 1, "nothing was broken off"


@pytest.mark.timeout(200)
def test_a_lost_state(world: World, tmp_path: Path, seed: int) -> None:
    """With a session under way, packs whose deletion is under way, and blobs that lie in two packs."""
    past = PastCase(world, tmp_path, random.Random(seed))
    back = past.undo_deletions()
    old = packs_of(world) - back
    store_twice(world)
    with opened(world) as access:
        source = access.catalog().snapshots[0].source
        WriterSession(access.objects, source, clock=SystemClock())
    past.state().unlink()
    ids = sorted(past.images)
    for writes in range(WRITES_MAX):
        here = copy.copy(past)
        here.world = past.world.copy(tmp_path / f"broken{writes}")
        is_broken = is_broken_off(here.world, repair.repair_state, writes=writes)
        if is_broken:
            assert "pvback repair state" in here.world.run("snapshots").ended(20).err
            assert "made anew" in here.world.good("repair", "state").text
        # Requests of the time before that land only now.
        here.land_deletions(back | (old if writes % 2 else frozenset()))
        here.world.good("check", "--read-data")
        here.world.good("undelete", "--all")
        here.world.good("prune", "--force", "--keep-unused", "0s")
        here.world.good("check", "--read-data")
        assert sorted(one["id"] for one in here.world.snapshots()) == ids
        chosen = ids[writes % len(ids)]
        target = tmp_path / f"target{writes}"
        here.world.good("restore", chosen, "--target", target)
        assert not differences(past.images[chosen], image(target))
        if not is_broken:
            break
    else:
        pytest.fail(f"it took more than {WRITES_MAX} writes")
    print(f"{writes} writes")
    assert writes > 5, "there are moments to be broken off at"
