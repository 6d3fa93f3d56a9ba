"""Snapshots that have lost content, written anew: what is said to be lost is lost, and the rest is there."""

import random
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pvback.ops import rewrite as rewriting
from pvback.ops.rewrite import RewriteOutcome, plan_rewrites, rewrite
from pvback.repository.session import WriterSession
from pvback.repository.successors import Successors
from tests.robust.test_lost_pages import flip, key, make_wide_tree
from tests.robust.test_repair import change_state, condemn, opened, packs_of, state_of
from tests.robust.trees import Image, age, differences, image, make_tree
from tests.robust.world import Done, World, new_key, new_world

SEGMENT_BYTES = 65_552


def packs(world: World, kind: str) -> dict[str, Path]:
    return {key: path for key, path in world.objects().items() if key.split("/")[2:3] == [kind]}


def bytes_of(world: World) -> dict[str, bytes]:
    return {key: path.read_bytes() for key, path in world.objects().items()}


@dataclass(frozen=True)
class Case:
    """Two snapshots of a source, the second with something more, and packs of its own."""

    world: World
    source: Path
    first: str
    second: str
    images: dict[str, Image]
    new: dict[str, dict[str, Path]]
    """Kind -> packs that came with the second one."""


@pytest.fixture
def case(world: World, tmp_path: Path, seed: int) -> Case:
    rng = random.Random(seed)
    source = tmp_path / "source"
    make_tree(source, rng)
    world.good("backup", source, "--host", "h", "--tag", "a=b")
    first = world.snapshots()[0]["id"]
    images = {first: image(source)}
    before = {kind: packs(world, kind) for kind in ("data", "meta")}
    (source / "dir0" / "added").write_bytes(rng.randbytes(200_000))
    (source / "late").mkdir()
    (source / "late" / "other").write_bytes(rng.randbytes(100_000))
    age(source)
    world.good("backup", source, "--host", "h", "--tag", "a=b")
    second = world.snapshots()[1]["id"]
    images[second] = image(source)
    new = {
        kind: {key: path for key, path in packs(world, kind).items() if key not in before[kind]}
        for kind in ("data", "meta")
    }
    return Case(world, source, first, second, images, new)


def restored(world: World, snapshot: str, target: Path) -> Image:
    world.good("restore", snapshot, "--target", target)
    return image(target)


def without(whole: Image, lost: Sequence[str]) -> Image:
    """An image without some paths. Names of one inode whose first is gone are named after the next."""
    return {name: facts for name, facts in whole.items() if name not in lost}


def bare(facts: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is compared of an entry: everything but by which name an inode is known."""
    return (*facts[:7], facts[-1]) if stat.S_ISREG(facts[0]) else facts


def assert_same(wanted: Image, found: Image) -> None:
    assert not differences(
        {name: bare(one) for name, one in wanted.items()}, {name: bare(one) for name, one in found.items()}
    )


def repair(world: World, *words: str) -> Done:
    world.run("repair", "index").ended(0)
    world.run("repair", "packs", "--read-data").ended(0, 3)
    return world.good("repair", "snapshots", *words)


def lost_files(loss: dict[str, Any]) -> list[str]:
    return [one["path"] for one in loss["entries"] if one["kind"] == "file"]


def by_id(world: World) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in world.snapshots()}


def settle(world: World) -> None:
    """Prune until nothing is left of what was forgotten; all is well then."""
    world.good("prune", "--grace", "0s", "--force")
    world.good("check", "--read-data")


def test_a_lost_data_pack(case: Case, tmp_path: Path) -> None:
    world = case.world
    for path in case.new["data"].values():
        path.unlink()
    # What would be lost is said before packs are given up, but nothing is written.
    was = bytes_of(world)
    early = world.good("repair", "snapshots", "--dry-run", "--json").summary()
    assert [one["snapshot"] for one in early["contents"]["losses"]] == [case.second]
    assert "repair packs" in early["contents"]["refusal"]
    assert "repair packs" in world.run("repair", "snapshots").ended(3).text
    assert bytes_of(world) == was
    world.run("repair", "packs").ended(3)
    was = bytes_of(world)
    dry = world.good("repair", "snapshots", "--dry-run", "--json").summary()
    text = world.good("repair", "snapshots", "--dry-run").text
    assert bytes_of(world) == was
    (loss,) = dry["contents"]["losses"]
    lost = ["dir0/added", "late/other"]
    assert lost_files(loss) == lost
    assert all(name in text for name in lost)
    assert [one["ranges"] for one in loss["entries"]] == [[[0, 200_000]], [[0, 100_000]]]
    assert (loss["lost"]["files"], loss["lost"]["bytes"], loss["lost"]["gaps"]) == (2, 300_000, 0)

    done = world.good("repair", "snapshots", "--json").summary()
    (written,) = done["written"]
    assert (written["loss"]["snapshot"], written["is_forgotten"]) == (case.second, False)
    there = by_id(world)
    assert set(there) == {case.first, case.second, written["replacement"]}
    new, old = there[written["replacement"]], there[case.second]
    assert all(new[name] == old[name] for name in ("source", "started", "time", "tags", "host", "finished"))
    assert new["repaired"]["snapshot"] == case.second
    assert [one["path"] for one in new["repaired"]["examples"]] == lost
    found = restored(world, new["id"], tmp_path / "new")
    assert_same(without(case.images[case.second], lost), found)
    assert_same(case.images[case.first], restored(world, case.first, tmp_path / "first"))
    # The damaged one is what is still wrong, and is told of the new one.
    assert case.second[:8] in world.run("repair", "snapshots", "--dry-run").text
    was = bytes_of(world)
    world.good("repair", "snapshots")
    assert bytes_of(world) == was, "there is nothing more to do"
    assert "forgotten" in world.good("repair", "snapshots", "--forget").text
    assert set(by_id(world)) == {case.first, new["id"]}
    assert case.second in [one["id"] for one in world.good("snapshots", "--forgotten", "--json").json()]
    settle(world)
    assert_same(found, restored(world, new["id"], tmp_path / "again"))


def test_what_was_lost_is_not_removed_from_a_target(case: Case, tmp_path: Path) -> None:
    """The target may have the only copy of what a repair had to leave out."""
    world = case.world
    world.good("restore", case.second, "--target", tmp_path / "target")
    for path in case.new["data"].values():
        path.unlink()
    done = repair(world, "--json").summary()
    (tmp_path / "target" / "dir1" / "stray").write_bytes(b"not in the snapshot")
    new = done["written"][0]["replacement"]
    world.good("restore", new, "--target", tmp_path / "target", "--delete")
    found = image(tmp_path / "target")
    assert {"dir0/added", "late/other"} <= found.keys()
    assert "dir1/stray" not in found


def test_an_old_one_does_not_become_the_latest(case: Case, tmp_path: Path) -> None:
    world = case.world
    (case.source / "dir0" / "added").unlink()
    (case.source / "late" / "other").unlink()
    age(case.source)
    world.good("backup", case.source, "--host", "h")
    third = world.snapshots()[-1]["id"]
    for path in case.new["data"].values():
        path.unlink()
    done = repair(world, "--json").summary()
    new = done["written"][0]["replacement"]
    assert [one["id"] for one in world.snapshots()] == [case.first, case.second, new, third]
    assert_same(image(case.source), restored(world, "latest", tmp_path / "latest"))
    # Nor does the next backup compare with it, or make anything of its place in the chain.
    summary = world.good("backup", case.source, "--host", "h", "--json").summary()
    assert summary["parent"] == third
    world.good("forget", case.second, "--force")
    settle(world)


def test_the_root_of_the_tree(case: Case, tmp_path: Path) -> None:
    """Nothing of the second snapshot is left; a small tree is one page."""
    world = case.world
    for path in case.new["meta"].values():
        path.unlink()
    world.run("repair", "packs").ended(3)
    dry = world.good("repair", "snapshots", "--dry-run", "--json").summary()
    (loss,) = dry["contents"]["losses"]
    assert (loss["snapshot"], loss["lost"]["left"], loss["lost"]["gaps"]) == (case.second, 0, 1)
    assert loss["entries"][0]["after"] is None
    assert "nothing of it" in world.run("repair", "snapshots").ended(3).text
    assert set(by_id(world)) == {case.first, case.second}
    world.good("repair", "snapshots", "--forget")
    assert set(by_id(world)) == {case.first}
    settle(world)
    assert_same(case.images[case.first], restored(world, case.first, tmp_path / "first"))


def is_in(entry: dict[str, Any], path: str) -> bool:
    """Whether a path is where entries are said to be lost."""
    return (
        entry["kind"] == "entries"
        and (entry["after"] is None or key(entry["after"]) < key(path))
        and (entry["before"] is None or key(path) < key(entry["before"]))
    )


@pytest.mark.parametrize("when", ["before", "meanwhile", "both"])
def test_two_repairs_write_one(case: Case, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The second begins when the first has ended, or ends while the first is about to commit, or to look."""
    world = case.world
    for path in case.new["data"].values():
        path.unlink()
    world.run("repair", "packs").ended(3)
    with opened(world) as one, opened(world) as other:
        plans = [plan_rewrites(access) for access in (one, other)]
        ends: list[Sequence[RewriteOutcome]] = []

        def run_other() -> None:
            monkeypatch.undo()
            ends.append(rewrite(other, plans[1]))

        if when == "before":
            run_other()
        else:
            # Up to the last call before it: `commit`, or the look after it.
            owner, name = (
                (WriterSession, "commit") if when == "meanwhile" else (rewriting, "settle_successors")
            )
            real = getattr(owner, name)

            def at_that_point(*args: Any, **options: Any) -> Any:
                run_other()
                return real(*args, **options)

            monkeypatch.setattr(owner, name, at_that_point)
        ends.append(rewrite(one, plans[0]))
    (listed,) = set(by_id(world)) - {case.first, case.second}
    assert [outcome.reason for (outcome,) in ends] == [None, None]
    assert ends[-1][0].replacement == listed
    forgotten = world.good("snapshots", "--forgotten", "--json").json()
    assert len(forgotten) == (when == "meanwhile")
    world.good("repair", "snapshots", "--forget")
    settle(world)


def test_what_a_killed_repair_has_left_twice(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    world = case.world
    for path in case.new["data"].values():
        path.unlink()
    world.run("repair", "packs").ended(3)
    with opened(world) as access:
        plan = plan_rewrites(access)
        with monkeypatch.context() as patch:
            patch.setattr(rewriting, "choose_successor", lambda *_: Successors(chosen=None, extra=()))
            patch.setattr(rewriting, "settle_successors", lambda *_, **__: None)
            for _ in range(2):
                rewrite(access, plan)
    assert len(by_id(world)) == 4
    world.good("repair", "snapshots")
    assert len(by_id(world)) == 3


@pytest.mark.timeout(600)
def test_lost_pages_of_directories(world: World, tmp_path: Path, seed: int) -> None:
    """Whatever part of a pack of pages is lost: what is left is what is not said to be lost."""
    rng = random.Random(seed)
    source = tmp_path / "source"
    make_wide_tree(source, rng)
    (source / "dir03" / "content").write_bytes(rng.randbytes(100_000))
    age(source)
    world.good("backup", source)
    snapshot = world.snapshots()[0]["id"]
    whole = image(source)
    (name,) = packs(world, "meta")
    size = world.objects()[name].stat().st_size
    segments = (size - 1) // SEGMENT_BYTES + 1
    assert segments > 5
    outcomes = set()
    for segment in range(segments):
        one = world.copy(tmp_path / f"case{segment}")
        flip(one.objects()[name], 80 + min(segment * SEGMENT_BYTES + 1000, size - 81))
        done = repair(one, "--forget", "--json").summary()
        losses = done["contents"]["losses"]
        if not losses:
            # Padding, or what the index knows as well.
            one.good("check", "--read-data")
            outcomes.add("whole")
            continue
        (written,) = done["written"]
        assert written["is_forgotten"]
        if written["replacement"] is None:
            assert losses[0]["lost"]["left"] == 0
            outcomes.add("nothing")
            continue
        outcomes.add("part")
        target = tmp_path / f"target{segment}"
        found = restored(one, written["replacement"], target)
        lost = losses[0]
        stands_in = {entry["path"] or "." for entry in lost["entries"] if entry["kind"] == "directory"}
        gone = {path for path in whole if any(is_in(entry, path) for entry in lost["entries"])} - {"."}
        gone |= {"."} & stands_in
        assert gone
        assert set(found) | gone == set(whole)
        assert not (set(found) & gone) - stands_in
        assert_same(
            {path: facts for path, facts in whole.items() if path not in gone},
            {path: facts for path, facts in found.items() if path not in stands_in},
        )
        assert lost["lost"]["entries"] == len(gone)
        settle(one)
        assert by_id(one).keys() == {written["replacement"]}
        assert snapshot not in by_id(one)
    print(outcomes)
    assert "part" in outcomes


def test_only_owners_write_snapshots_anew(case: Case, tmp_path: Path) -> None:
    world = case.world
    world.good("key", "add", "--role", "maintainer", "--recipient", new_key(tmp_path / "other"))
    other = World(world.repository, world.cache, tmp_path / "other", world.extra)
    for path in case.new["data"].values():
        path.unlink()
    other.run("repair", "packs").ended(0, 3)
    done = other.good("repair", "snapshots", "--json").summary()
    assert done["written"] == []
    done = world.good("repair", "snapshots", "--json").summary()
    new = done["written"][0]["replacement"]
    # Who does not open records sees its place in time all the same.
    times = {one["id"]: datetime.fromisoformat(one["time"]) for one in other.snapshots()}
    assert times[new] == times[case.second]


@pytest.mark.parametrize("is_condemning", [True, False])
def test_while_a_prune_is_at_it(case: Case, tmp_path: Path, *, is_condemning: bool) -> None:
    """What is condemned may be read. What a writer may not build upon is stored once more."""
    world = case.world
    for path in case.new["data"].values():
        path.unlink()
    world.run("repair", "packs").ended(3)
    old = packs_of(world)
    # A cycle under way, and one that has ended: no run that is there is trusted in the new generation.
    change_state(world, condemn(old) if is_condemning else lambda state: replace(state, n=state.n + 1))
    done = world.good("repair", "snapshots", "--forget", "--json").summary()
    new = done["written"][0]["replacement"]
    assert not state_of(world).is_condemning
    stored = [path.stat().st_size for key, path in packs(world, "data").items() if Path(key).name not in old]
    assert sum(stored) > 300_000
    world.good("forget", case.first, "--force")
    settle(world)
    wanted = without(case.images[case.second], ["dir0/added", "late/other"])
    assert_same(wanted, restored(world, new, tmp_path / "new"))


@pytest.mark.timeout(600)
def test_content_in_pages(tmp_path: Path, seed: int) -> None:
    """Files of so many chunks that their extents have pages of their own: only some lose any.

    The pages of one file take 50 KiB and more, so a segment of 64 KiB never reaches all of four.
    """
    world = World(tmp_path / "repository", tmp_path / "cache")
    world.good("init", "--chunk-size", "4KiB")
    world.good("key", "add", "--self", "--recipient", new_key(tmp_path / "key"))
    world = World(world.repository, world.cache, tmp_path / "key")
    rng = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b", "c", "d"):
        (source / name).write_bytes(rng.randbytes(6_000_000))
    (source / "b").chmod(0o640)
    age(source)
    world.good("backup", source)
    whole = image(source)
    kinds = set()
    for kind in ("data", "meta"):
        (name, *_) = packs(world, kind)
        size = world.objects()[name].stat().st_size
        segments = (size - 1) // SEGMENT_BYTES + 1
        for segment in sorted({0, segments // 2, segments - 2} & set(range(segments))):
            one = world.copy(tmp_path / f"{kind}{segment}")
            flip(one.objects()[name], 80 + min(segment * SEGMENT_BYTES + 1000, size - 81))
            done = repair(one, "--forget", "--json").summary()
            if not done["written"]:
                # Padding.
                one.good("check", "--read-data")
                continue
            (written,) = done["written"]
            if written["replacement"] is None:
                assert written["loss"]["lost"]["left"] == 0
                continue
            lost = lost_files(written["loss"])
            assert 0 < len(lost) < 4
            kinds.add(kind)
            for entry in written["loss"]["entries"]:
                assert entry["range_count"] >= 1
                assert all(0 <= at < at + length <= 6_000_000 for at, length in entry["ranges"])
            found = restored(one, written["replacement"], tmp_path / f"{kind}{segment}-target")
            assert_same(without(whole, lost), found)
            settle(one)
    assert "data" in kinds


def test_a_stream_has_nothing_left(world: World, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(300_000)
    (tmp_path / "content").write_bytes(content)
    with (tmp_path / "content").open("rb") as file:
        world.process("backup", "-", "--stdin-name", "dump", stdin=file).ended(0)
    snapshot = world.snapshots()[0]["id"]
    for path in packs(world, "data").values():
        path.unlink()
    world.run("repair", "packs").ended(3)
    assert "nothing of it" in world.run("repair", "snapshots").ended(3).text
    assert by_id(world).keys() == {snapshot}
    world.good("repair", "snapshots", "--forget")
    assert not by_id(world)
    world.good("undelete", snapshot)
    assert by_id(world).keys() == {snapshot}


def test_a_copy_of_what_was_repaired(case: Case, tmp_path: Path) -> None:
    """It says of what it is a copy, and stands in nobody's place."""
    world = case.world
    for path in case.new["data"].values():
        path.unlink()
    done = repair(world, "--forget", "--json").summary()
    new = done["written"][0]["replacement"]
    (tmp_path / "other").mkdir()
    other = new_world(tmp_path / "other")
    other.good("copy", "--from-repository", world.repository, "--from-key-file", world.key_file, new)
    (copy,) = other.snapshots()
    assert copy["origin"]["snapshot"] == new
    assert copy["time"] > by_id(world)[new]["time"]
    found = restored(other, copy["id"], tmp_path / "copy")
    assert_same(without(case.images[case.second], ["dir0/added", "late/other"]), found)
