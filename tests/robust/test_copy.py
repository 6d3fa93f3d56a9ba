"""Copies from one repository into another: whole, cheap the second time, and sound whatever happens."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pvback import limits
from pvback.config import Config
from pvback.errors import ConflictError
from pvback.model import LocalAddress
from pvback.ops.copy import CopyResult, copy_snapshots
from pvback.ops.copy_plan import CopyOptions, plan_copy
from pvback.ops.prune import PruneOptions, prune
from pvback.reference import DirectoryStore, PrivateKey, Repository, verify
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.storage.wrap import Request, WrappedStore
from tests.robust.test_repair import change_state, condemn, packs_of
from tests.robust.trees import age, differences, image, make_tree, mutate
from tests.robust.world import World, new_key, new_world
from tests.support.torture_tree import TortureTree
from tests.support.tree_facts import TreeFacts, remove_tree
from tests.support.tree_facts import differences as fact_differences

MIB = 1024 * 1024
PACK_BYTES = 4 * MIB
"""The least that there is."""


@pytest.fixture(scope="session")
def other_empty_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed: another repository than `empty_world`, with other keys."""
    return new_world(tmp_path_factory.mktemp("other"))


@dataclass(frozen=True)
class Pair:
    """The repository that is copied from, and the one that is copied to."""

    source: World
    target: World
    top: Path
    random: random.Random

    def copy(self, *words: object, code: int = 0) -> dict[str, Any]:
        """The summary of a copy by the command line."""
        return self.target.run("copy", "--json", *words).ended(code).summary()

    def tree(self, **settings: Any) -> Path:
        place = self.top / "tree"
        make_tree(place, self.random, **settings)
        age(place)
        return place

    def backup(self, place: Path) -> str:
        """The new snapshot's id."""
        return str(self.source.good("backup", place, "--json").summary()["snapshot"])

    def restored(self, snapshot: str, *, code: int = 0) -> Path:
        place = self.top / f"restored-{snapshot[:8]}-{self.random.randrange(10**9)}"
        self.target.run("restore", snapshot, "--target", place).ended(code)
        return place


@pytest.fixture
def pair(empty_world: World, other_empty_world: World, tmp_path: Path, seed: int) -> Iterator[Pair]:
    source, target = other_empty_world.copy(tmp_path / "from"), empty_world.copy(tmp_path / "to")
    assert source.key_file is not None
    target.extra.update(from_variables(source))
    yield Pair(source, target, tmp_path, random.Random(seed))
    for name in from_variables(source):
        target.extra.pop(name, None)


def from_variables(source: World) -> dict[str, str]:
    return {
        "PVBACK_FROM_REPOSITORY": str(source.repository),
        "PVBACK_FROM_KEY_FILE": str(source.key_file),
    }


class WatchedStore(WrappedStore):
    """Tells of each request before it is made."""

    def __init__(self, inner: Any, hear: Callable[[Request, str], None]) -> None:
        super().__init__(inner)
        self._hear = hear

    def _request(self, kind: Request, key: str, act: Callable[[], Any]) -> Any:
        self._hear(kind, key)
        return act()

    def list_objects(self, *arguments: Any, **named: Any) -> Any:
        return self._inner.list_objects(*arguments, **named)


def opened(world: World, hear: Callable[[Request, str], None] | None = None) -> RepositoryAccess:
    """The requests of jobs are heard, those of the control plane are not."""
    config = Config(repository=LocalAddress(world.repository), key_file=world.key_file)
    access = open_repository_access(config)
    return replace(access, store=WatchedStore(access.store, hear)) if hear else access


def halves(pair: Pair, place: Path) -> None:
    """Files of which every second is to go: prune then has packs to write again."""
    for number in range(8):
        (place / f"{('even', 'odd')[number % 2]}-{number}").write_bytes(pair.random.randbytes(300_000))
    age(place)


def prune_all(world: World) -> None:
    """In whatever thread; nothing unused is left."""
    access = opened(world)
    try:
        options = PruneOptions(unused_share_max=0, unused_seconds=0, grace_seconds=0, is_forced=True)
        prune(access, options=options)
    finally:
        access.close()


def copied(
    pair: Pair,
    options: CopyOptions | None = None,
    *,
    from_hear: Callable[[Request, str], None] | None = None,
    to_hear: Callable[[Request, str], None] | None = None,
) -> CopyResult:
    source, target = opened(pair.source, from_hear), opened(pair.target, to_hear)
    try:
        return copy_snapshots(source, target, options=options)
    finally:
        source.close()
        target.close()


def test_a_torture_tree_comes_back_whole(pair: Pair, seed: int) -> None:
    """Every attribute, link, hole and odd name; the reference reader opens every byte of the copy."""
    place = pair.top / "torture"
    TortureTree(place, seed)
    os.sync()
    facts = TreeFacts(place)
    try:
        pair.source.good("backup", place, "--tag", "a=b")
        (copy,) = pair.copy()["copied"]
        pair.target.good("check", "--read-data")
        assert pair.target.key_file is not None
        key = PrivateKey(pair.target.key_file.read_bytes())
        reference = Repository.open(DirectoryStore(str(pair.target.repository)), key)
        assert verify(reference).findings == []
        whole = pair.top / "straight"
        pair.source.good("restore", "latest", "--target", whole)
        target = pair.restored(copy["snapshot"])
        assert len(facts.facts) > 500
        assert fact_differences(TreeFacts(whole), TreeFacts(target)) == []
        (there,), (here,) = pair.source.snapshots(), pair.target.snapshots()
        kept = ("source", "kind", "host", "path", "started", "finished", "grade", "tags", "size_bytes")
        assert {name: here[name] for name in kept} == {name: there[name] for name in kept}
        assert here["origin"]["snapshot"] == there["id"]
        assert there["origin"] is None
        remove_tree(target)
        remove_tree(whole)
    finally:
        remove_tree(place)


def test_a_second_copy_stores_nothing(pair: Pair) -> None:
    place = pair.tree()
    ids = [pair.backup(place)]
    mutate(place, pair.random)
    age(place)
    ids.append(pair.backup(place))
    first = pair.copy()
    assert [one["origin"] for one in first["copied"]] == ids, "the oldest first"
    before = pair.target.objects()
    again = pair.copy()
    assert again["copied"] == []
    assert again["present"] == {one["origin"]: one["snapshot"] for one in first["copied"]}
    assert pair.target.objects() == before
    # A copy that was forgotten is not brought again, unless it is asked for by its name.
    pair.target.good("forget", first["copied"][0]["snapshot"], "--force")
    assert pair.copy()["copied"] == []
    assert [one["origin"] for one in pair.copy(ids[0])["copied"]] == ids[:1]


def test_a_later_snapshot_costs_what_changed(pair: Pair) -> None:
    place = pair.tree(large_bytes=6 * MIB)
    pair.backup(place)
    assert copied(pair).copied[0].stats.read_bytes > 6 * MIB
    # Nothing changed but one time: no content is read.
    os.utime(next(path for path in place.rglob("*") if path.is_file()), (1, 1))
    pair.backup(place)
    read: list[str] = []

    def hear(_: Request, key: str) -> None:
        read.append(key)

    (second,) = copied(pair, from_hear=hear).copied
    assert second.base is not None
    assert read, "trees are read"
    assert [key for key in read if "/data/" in key] == []
    assert second.stats.new_bytes == 0
    # One byte in the middle of a large file: of 64 KiB chunks, few are read.
    large = max(place.rglob("*"), key=lambda path: path.stat().st_size)
    with large.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"changed")
    age(place)
    snapshot = pair.backup(place)
    (third,) = copied(pair).copied
    assert 0 < third.stats.read_bytes < 512 * 1024
    assert third.origin == snapshot
    assert not differences(image(place), image(pair.restored(third.snapshot)))
    pair.target.good("check", "--read-data")


def test_what_is_there_is_not_stored_again(pair: Pair) -> None:
    """Another source with the same files is read, for its chunks have no known names, and not stored."""
    place = pair.tree(large_bytes=2 * MIB)
    pair.backup(place)
    pair.copy()
    moved = place.rename(pair.top / "elsewhere")
    pair.backup(moved)
    (copy,) = pair.copy()["copied"]
    assert copy["stats"]["read_bytes"] > 2 * MIB
    assert copy["stats"]["new_bytes"] == 0
    assert not differences(image(moved), image(pair.restored(copy["snapshot"])))


def test_only_those_that_are_asked_for(pair: Pair) -> None:
    place = pair.tree()
    for tag in ("x=1", "x=2"):
        pair.source.good("backup", place, "--tag", tag)
    lone = pair.top / "lone"
    lone.write_bytes(b"one file")
    pair.source.good("backup", lone)
    origins = [one["id"] for one in pair.source.snapshots()]
    planned = pair.target.good("copy", "--json", "--dry-run").json()
    assert [one["origin"] for one in planned["missing"]] == origins
    assert not pair.target.snapshots()
    assert [one["origin"] for one in pair.copy("--tag", "x=1")["copied"]] == origins[:1]
    assert [one["origin"] for one in pair.copy("--latest", "--source", str(place))["copied"]] == origins[1:2]
    assert [one["origin"] for one in pair.copy(origins[2][:12])["copied"]] == origins[2:]
    assert pair.target.run("copy", origins[0], "--latest").code == 2


def test_other_chunk_sizes_are_refused_unless_chunks_are_kept(
    pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = pair.tree(large_bytes=2 * MIB)
    pair.backup(place)
    top = tmp_path_factory.mktemp("coarse")
    coarse = World(top / "repository", top / "cache", extra=from_variables(pair.source))
    coarse.good("init", "--chunk-size", "1MiB")
    refused = coarse.run("copy").ended(11)
    assert "--keep-chunks" in refused.err
    assert not coarse.snapshots()
    coarse.good("copy", "--keep-chunks")
    coarse.good("check", "--read-data")
    coarse.good("restore", "latest", "--target", top / "target")
    assert not differences(image(place), image(top / "target"))
    # A backup of the same source builds on the copy. The files were made just now, as only their ctime says.
    again = coarse.good("backup", place, "--json", "--ignore-ctime").summary()["stats"]
    assert again["new_bytes"] == 0


def test_a_repository_is_not_copied_into_itself(pair: Pair) -> None:
    pair.backup(pair.tree())
    access = opened(pair.source)
    try:
        with pytest.raises(ConflictError):
            plan_copy(access, access, options=CopyOptions())
    finally:
        access.close()


def test_a_damaged_chunk_costs_its_files_and_is_told(pair: Pair) -> None:
    place = pair.tree(large_bytes=2 * MIB)
    pair.backup(place)
    (pack,) = [path for key, path in pair.source.objects().items() if "/data/" in key]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    done = pair.target.run("copy").ended(3)
    assert "marked so" in done.err
    assert pack.name in done.err
    (snapshot,) = pair.target.snapshots()
    assert snapshot["error_count"] >= 1
    pair.target.good("check", "--read-data")
    target = pair.restored(snapshot["id"], code=3)
    files = {path.relative_to(place) for path in place.rglob("*") if path.is_file() and not path.is_symlink()}
    there = {name for name in files if (target / name).exists()}
    assert there < files, "files that need the chunk are not there at all"
    assert all((target / name).read_bytes() == (place / name).read_bytes() for name in there)
    # Once the chunk is back, a new copy is whole.
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    pair.target.good("forget", snapshot["id"], "--force")
    (again,) = pair.copy(snapshot["origin"]["snapshot"])["copied"]
    assert not differences(image(place), image(pair.restored(again["snapshot"])))


def test_a_pack_that_is_gone_costs_its_files(pair: Pair) -> None:
    """Prune has moved nothing, so what was in it is lost."""
    place = pair.tree()
    pair.backup(place)
    for key, path in pair.source.objects().items():
        if "/data/" in key:
            path.unlink()
    summary = pair.copy(code=3)
    (copy,) = summary["copied"]
    assert summary["failures"] == []
    assert copy["error_count"] == len(copy["problems"]) > 0
    assert all("marked so" in one["what"] for one in copy["problems"])
    pair.target.good("check", "--read-data")
    restored = pair.restored(copy["snapshot"], code=3)
    there = [path for path in restored.rglob("*") if path.is_file() and not path.is_symlink()]
    # Holes and zeros need no chunk.
    assert all(path.read_bytes() == (place / path.relative_to(restored)).read_bytes() for path in there)
    assert not any(any(path.read_bytes()) for path in there)


def test_a_writer_of_the_target_may_copy(pair: Pair, tmp_path: Path) -> None:
    place = pair.tree()
    first = pair.backup(place)
    key = tmp_path / "writer.key"
    pair.target.good("key", "add", "--role", "writer", "--label", "w", "--recipient", new_key(key))
    writer = World(pair.target.repository, tmp_path / "writer-cache", key, dict(pair.target.extra))
    writer.good("copy")
    mutate(place, pair.random)
    age(place)
    second = pair.backup(place)
    summary = writer.good("copy", "--json").summary()
    assert [one["origin"] for one in summary["copied"]] == [second]
    assert list(summary["present"]) == [first]
    pair.target.good("check", "--read-data")
    assert not differences(image(place), image(pair.restored("latest")))


def test_keys_that_open_no_content_cannot_be_copied_with(pair: Pair, tmp_path: Path) -> None:
    pair.backup(pair.tree())
    key = tmp_path / "writer.key"
    pair.source.good("key", "add", "--role", "writer", "--label", "w", "--recipient", new_key(key))
    assert "owner or a restorer" in pair.target.run("copy", "--from-key-file", key).ended(12).err
    restorer = tmp_path / "restorer.key"
    pair.source.good("key", "add", "--role", "restorer", "--label", "r", "--recipient", new_key(restorer))
    pair.target.good("copy", "--from-key-file", restorer)
    assert len(pair.target.snapshots()) == 1


def test_a_copy_that_is_killed_is_gone_on_with(pair: Pair) -> None:
    place = pair.tree(large_bytes=80 * MIB)
    pair.backup(place)
    # The last one dies at its second checkpoint, or at the commit if that comes first.
    moments = [("create", "/data/", 1), ("create", "/data/", 4), ("create", "/data/", 18)]
    for at, match, count in [*moments, ("swap", "/snapshots/", 2)]:
        plan = {"at": at, "match": match, "do": "kill", "count": count, "pack_bytes": PACK_BYTES}
        words = ("copy", "--limit-upload", "40M")
        pair.target.process(*words, plan={**plan, "checkpoint_seconds": 0}).ended(-9)
        assert not pair.target.snapshots()
        pair.target.good("check", "--read-data")
    (copy,) = pair.copy()["copied"]
    assert copy["resumed"]
    assert copy["stats"]["new_bytes"] < 78 * MIB, "what checkpoints list is not stored again"
    pair.target.good("check", "--read-data")
    assert not differences(image(place), image(pair.restored(copy["snapshot"])))


def test_an_interrupted_copy_goes_on_inside_a_large_file(pair: Pair) -> None:
    place = pair.top / "image"
    place.write_bytes(pair.random.randbytes(100 * MIB))
    os.utime(place, (1, 1))
    pair.backup(place)
    plan = {"at": "create", "match": "/data/", "count": 4, "do": "wait", "until_asked": True}
    words = ("copy", "--memory", "152M", "--limit-upload", "40M")
    with pair.target.start(*words, plan={**plan, "pack_bytes": PACK_BYTES}) as running:
        running.wait_for_gate()
        running.process.send_signal(signal.SIGINT)
        running.open_gate()
        done = running.finish().ended(130)
    assert "run the same copy again" in done.err
    (copy,) = pair.copy()["copied"]
    assert copy["resumed"]
    print(copy["stats"])
    assert copy["stats"]["read_bytes"] < 98 * MIB
    pair.target.good("check", "--read-data")
    restored = pair.top / "restored"
    pair.target.good("restore", copy["snapshot"], "--target", restored)
    assert restored.read_bytes() == place.read_bytes()


def test_a_copy_that_is_interrupted_before_it_has_anything(pair: Pair) -> None:
    """It has read no page of the source, so it keeps in mind that it was asked."""
    place = pair.tree(large_bytes=80 * MIB)
    pair.backup(place)
    plan = {"at": "read_into", "match": "/meta/", "count": 1, "do": "wait", "until_asked": True}
    words = ("copy", "--memory", "152M", "--limit-upload", "20M")
    with pair.target.start(*words, plan={**plan, "pack_bytes": PACK_BYTES}) as running:
        running.wait_for_gate()
        running.process.send_signal(signal.SIGINT)
        running.open_gate()
        done = running.finish().ended(130)
    assert "run the same copy again" in done.err
    (copy,) = pair.copy()["copied"]
    assert copy["resumed"]
    assert not differences(image(place), image(pair.restored(copy["snapshot"])))


def test_packs_of_the_source_that_are_condemned_are_read(pair: Pair) -> None:
    """They are there until somebody has looked whether they are needed."""
    place = pair.tree()
    pair.backup(place)
    packs = packs_of(pair.source)
    change_state(pair.source, condemn(packs))
    copied = pair.copy()["copied"][0]
    assert copied["error_count"] == 0
    assert not differences(image(place), image(pair.restored(copied["snapshot"])))


def test_prune_of_the_source_moves_packs_under_a_copy(pair: Pair) -> None:
    place = pair.tree()
    halves(pair, place)
    pair.backup(place)
    for path in place.glob("odd-*"):
        path.unlink()
    age(place)
    kept = pair.backup(place)
    first = pair.source.snapshots()[0]["id"]
    pair.source.good("forget", first, "--force")
    packs = {key for key in pair.source.objects() if "/data/" in key}
    pruned: list[str] = []

    def hear(_: Request, key: str) -> None:
        if "/data/" in key and not pruned:
            pruned.append(key)
            prune_all(pair.source)

    result = copied(pair, from_hear=hear)
    assert packs - set(pair.source.objects()), "prune has moved what the copy was reading"
    assert [one.origin for one in result.copied] == [kept]
    assert not result.failures
    assert not result.copied[0].problems
    assert not differences(image(place), image(pair.restored(result.copied[0].snapshot)))


def test_prune_of_the_target_waits_for_a_copy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the copy relies on is not removed: prune hears which packs that are, or does not condemn them."""
    place = pair.tree()
    halves(pair, place)
    pair.backup(place)
    (first,) = pair.copy()["copied"]
    for path in place.glob("odd-*"):
        path.unlink()
    (place / "added").write_bytes(pair.random.randbytes(2 * MIB))
    age(place)
    pair.backup(place)
    pair.target.good("forget", first["snapshot"], "--force")
    monkeypatch.setattr(limits, "GENERATION_POLL_SECONDS", 0.0)
    pruned: list[str] = []

    def hear(kind: Request, key: str) -> None:
        if kind is Request.CREATE and "/data/" in key and not pruned:
            pruned.append(key)
            prune_all(pair.target)

    (second,) = copied(pair, to_hear=hear).copied
    assert pruned
    pair.target.good("check", "--read-data")
    assert not differences(image(place), image(pair.restored(second.snapshot)))


def test_a_snapshot_without_its_tree_does_not_keep_others_from_being_copied(pair: Pair) -> None:
    place = pair.tree()
    broken = pair.backup(place)
    packs = {key: path for key, path in pair.source.objects().items() if "/meta/" in key}
    lone = pair.top / "lone"
    lone.write_bytes(b"one file")
    good = pair.backup(lone)
    for path in packs.values():
        path.unlink()
    done = pair.target.run("copy", "--json").ended(3)
    lines = done.text.splitlines()
    assert any(broken[:8] in line for line in lines)
    (there,) = pair.target.snapshots()
    assert there["origin"]["snapshot"] == good
    pair.target.good("check", "--read-data")
