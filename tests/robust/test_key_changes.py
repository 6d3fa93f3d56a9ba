"""Rotation and revocation: what they take away and leave, and what is left when they are broken off."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pvback.errors import ConflictError, DamagedError, PvbackError, StorageError, WrongKeyError
from pvback.repository import keys, revoking, rotation
from pvback.repository.body import dump_body
from pvback.repository.gcstate import read_gc_state
from pvback.repository.layout import ObjectType
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import add_scope
from pvback.storage import ObjectInfo, ObjectStore, ReadBuffer, open_store
from pvback.storage.wrap import Request, WrappedStore
from tests.robust.team import Members
from tests.robust.trees import differences, image
from tests.robust.world import World, new_key

T = TypeVar("T")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "first").write_bytes(b"of the first day " * 9000)
    return folder


@pytest.fixture
def members(world: World, tmp_path: Path) -> Members:
    return Members(world, tmp_path)


def epochs_of(world: World, before: set[str]) -> set[int]:
    """Epochs of the sealed objects that are new since `before`."""
    found = set()
    for key, path in world.objects().items():
        if key.startswith("s/") and key not in before:
            found.add(int.from_bytes(path.read_bytes()[12:16], "little"))
    return found


def test_a_rotation_is_for_what_comes_after(members: Members, source: Path, tmp_path: Path) -> None:
    world, writer, restorer = members.world, members["writer"], members["restorer"]
    writer.good("backup", source)
    (old,) = [one["id"] for one in world.snapshots()]
    kept = {role: members.key_object(role) for role in ("writer", "restorer")}
    before = {role: path.read_bytes() for role, path in kept.items()}
    done = world.good("key", "rotate", "--json").json()
    assert list(done["epochs"].values()) == [2]
    assert len(done["reissued"]) == 3, "owners hold the master key and need nothing"
    objects = set(world.objects())
    (source / "second").write_bytes(b"of the second day " * 9000)
    writer.good("backup", source)
    assert epochs_of(world, objects) == {2}
    for number, name in enumerate((old, "latest")):
        restorer.good("restore", name, "--target", tmp_path / f"target{number}")
    assert not differences(image(source), image(tmp_path / "target1"))
    world.good("check", "--read-data")
    members["maintainer"].good("check")

    # Who was left behind: the object that was kept opens what is old, and writes nothing.
    for role, path in kept.items():
        path.write_bytes(before[role])
        (world.repository / "copies/keys" / path.name).write_bytes(before[role])
    refused = writer.run("backup", source).ended(12)
    assert "--level bundles" in refused.err
    # A part of the index is closed to it, which is said.
    restorer.run("restore", old, "--target", tmp_path / "old").ended(0, 3)
    assert (tmp_path / "old/first").read_bytes() == (source / "first").read_bytes()
    assert restorer.run("restore", "latest", "--target", tmp_path / "new").code in (12, 20)
    assert not (tmp_path / "new/second").exists()
    assert "older than the last rotation" in world.good("key", "list").err
    assert "nothing that counts" in writer.good("key", "check").err
    # That is put right without anybody's password.
    assert len(world.good("key", "rotate", "--level", "bundles", "--json").json()["reissued"]) == 2
    writer.good("backup", source)


def test_an_old_config_beside_new_bundles_is_a_roll_back(members: Members, source: Path) -> None:
    config = members.world.repository / "config"
    old = config.read_bytes()
    members.world.good("key", "rotate")
    config.write_bytes(old)
    done = members["writer"].run("backup", source).ended(20)
    assert "rolled back" in done.err


def test_a_removed_writer_is_revoked(members: Members, source: Path, tmp_path: Path) -> None:
    world, writer = members.world, members["writer"]
    writer.good("backup", source)
    key, key_object = members.key_object("writer"), members.key_object("writer").read_bytes()
    thief = members.access("writer")
    principal = thief.keyring.principal
    (source / "more").write_bytes(b"by the owner")
    world.good("backup", source)
    done = world.good("key", "remove", principal[:8], "--json").json()
    assert done["snapshot_count"] == 1
    assert not key.exists()
    assert not (world.repository / f"copies/keys/{principal}.json").exists()
    assert len(world.snapshots()) == 2
    world.good("restore", "latest", "--target", tmp_path / "target")
    world.good("check", "--read-data")

    # The store brings the object back: it opens, and writes nothing.
    key.write_bytes(key_object)
    done2 = writer.run("backup", source).ended(12)
    assert "revoked" in done2.err
    # The keys that were in memory sign on; it does not count, and hides nothing.
    (register, *_) = [one for one, _ in thief.catalog().registers if one.source]
    body = json.loads(register.as_body())
    body |= {"seq": 7, "nonce": "00" * 16, "state": "COMMITTED"}
    data = thief.objects.seal(ObjectType.REGISTER, name=register.object_name, data=dump_body(body))
    (world.repository / thief.objects.layout.key(register.object_name)).write_bytes(data)
    listed = world.run("snapshots", "--json").ended(20)
    assert len(listed.json()) == 1


def packs_of(world: World) -> set[str]:
    return {key for key in world.objects() if key.split("/")[2:3] in (["data"], ["meta"])}


@pytest.mark.parametrize("pruned", ["before", "after"])
def test_prune_does_not_vouch_for_a_revoked_writer(
    members: Members, source: Path, tmp_path: Path, pruned: str
) -> None:
    world, prune = members.world, ("prune", "--force", "--keep-unused", "0s")
    (source / "large").write_bytes(random.Random(7).randbytes(3_000_000))
    members["writer"].good("backup", source)
    if pruned == "before":
        members["maintainer"].good(*prune)
    world.good("key", "remove", members.principal("writer"))
    if pruned == "after":
        members["maintainer"].good(*prune)
    packs = packs_of(world)
    again = world.good("backup", source, "--json").summary()
    assert again["stats"]["new_bytes"] >= 3_000_000
    assert world.good("backup", source, "--json").summary()["stats"]["new_bytes"] == 0
    # Of two copies the owner's stays, and serves the writer's snapshot as well.
    members["maintainer"].good(*prune)
    assert not packs & packs_of(world)
    world.good("check", "--read-data")
    for number, one in enumerate(world.snapshots()):
        world.good("restore", one["id"], "--target", tmp_path / f"target-{number}")


def test_not_after(members: Members, source: Path) -> None:
    members["writer"].good("backup", source)
    early = members.world.run("key", "remove", members.principal("writer"), "--not-after", "2001-01-01")
    assert early.code == 0
    listed = members.world.run("snapshots", "--json").ended(20)
    assert listed.json() == []


def forget_and_prune_as(access: RepositoryAccess) -> None:
    """What a maintainer leaves behind: registers, a list, and `gc/state`, all signed with its key."""
    objects = access.objects
    for register, _ in access.catalog().registers:
        found = objects.read(ObjectType.REGISTER, register.object_name)
        body = {**found.body.raw, "state": "FORGOTTEN", "nonce": "11" * 16}
        data = objects.seal(ObjectType.REGISTER, name=register.object_name, data=dump_body(body))
        access.store.swap(objects.layout.key(register.object_name), data, etag=found.etag)
    state = objects.read(ObjectType.GC_STATE, "gc/state")
    name = f"gc/{1:016x}-roster"
    roster = [f"{1:016x}-{'ab' * 16}"]
    sealed = objects.seal(ObjectType.GC_LIST, name=name, data=json.dumps(roster).encode())
    named = objects.create_own(name, data=sealed, clock=access.clock)
    body = {**state.body.raw, "n": 2, "nonce": "22" * 16, "roster": named.as_json(), "later": {"x": [1]}}
    body |= {"marks": {"parts": [], "ids": 0}, "counted": ["ab" * 16]}
    data = objects.seal(ObjectType.GC_STATE, name="gc/state", data=dump_body(body))
    access.store.swap(objects.layout.key("gc/state"), data, etag=state.etag)


def test_a_removed_maintainer_leaves_its_work_in_force(members: Members, source: Path) -> None:
    members["writer"].good("backup", source)
    maintainer = members.access("maintainer")
    forget_and_prune_as(maintainer)
    before = members.access().catalog()
    assert (len(before.snapshots), len(before.forgotten)) == (0, 1)
    done = revoking.remove_key(members.access(), maintainer.keyring.principal)
    assert done.resigned_count == 3
    owner = members.access()
    catalog = owner.catalog()
    assert (len(catalog.snapshots), len(catalog.forgotten), list(catalog.damaged)) == (0, 1, [])
    without = dataclasses.replace(before.state, counted=frozenset())
    assert catalog.state == without, "counts that it may have signed are not believed"
    state = owner.objects.read(ObjectType.GC_STATE, "gc/state").body.raw
    assert state["later"] == {"x": [1]}, "what this program does not know is kept"
    # A prune that has read the version before removes what is called after an older generation.
    assert state["roster"]["name"].startswith(f"gc/{2:016x}-signed-")
    # What the maintainer signs from now on is refused.
    read_gc_state(members.access().objects)
    objects = maintainer.objects
    found = objects.read(ObjectType.GC_STATE, "gc/state")
    data = objects.seal(ObjectType.GC_STATE, name="gc/state", data=dump_body({**found.body.raw, "n": 9}))
    maintainer.store.swap(objects.layout.key("gc/state"), data, etag=found.etag)
    with pytest.raises(DamagedError, match="revoked"):
        read_gc_state(members.access().objects)


class Broken(WrappedStore):
    """Fails every write from the n-th on: as if the process had died there."""

    def __init__(self, inner: ObjectStore, writes: int) -> None:
        super().__init__(inner)
        self.left = writes

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StorageError("the process died here")

    def put(self, key: str, data: ReadBuffer) -> None:
        self._count()
        super().put(key, data)

    def create(self, key: str, data: ReadBuffer) -> str:
        self._count()
        return super().create(key, data)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        self._count()
        return super().swap(key, data, etag=etag)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


def add(access: RepositoryAccess) -> object:
    return keys.add_key(
        access, role="writer", label="new", way=keys.NewWay(method="x25519", secret=b"\5" * 32)
    )


def rotate(access: RepositoryAccess) -> object:
    return rotation.rotate_epoch(access, scopes=[access.objects.scope])


def remove(access: RepositoryAccess) -> object:
    found = [one.principal for one in keys.list_keys(access) if one.label == "maintainer"]
    return [revoking.remove_key(access, principal) for principal in found]


@pytest.mark.parametrize("act", [add, rotate, remove])
def test_broken_off_anywhere(
    members: Members, source: Path, tmp_path: Path, act: Callable[[RepositoryAccess], object]
) -> None:
    members["writer"].good("backup", source)
    forget_and_prune_as(members.access("maintainer"))
    members["writer"].good("backup", source)
    for writes in range(40):
        world = members.world.copy(tmp_path / f"broken{writes}")
        there = Members.__new__(Members)
        there.world = world
        there.by_role = {
            role: World(world.repository, tmp_path / f"{role}{writes}", one.key_file)
            for role, one in members.by_role.items()
        }
        store = Broken(open_store(there.access().config.require_repository()), writes)
        broken = there.access(store=store)
        try:
            act(broken)
        except StorageError:
            # Everybody who was in can read; everything is completed by doing it again and mending.
            assert len(there.access("restorer").catalog().snapshots) == 1
            assert len(there.access().catalog().forgotten) == 1
            act(there.access())
            rotation.reissue_bundles(there.access())
            world.good("key", "repair")
        else:
            assert writes > 1, "nothing was broken off"
            break
        there["writer"].good("backup", source)
        found = world.run("check", "--json").ended(0)
        assert found.summary()["is_sound"], found.text
        assert there["restorer"].good("snapshots", "--json").json()
    else:
        pytest.fail("it took more than 40 writes")


class Meddled(WrappedStore):
    """Does something once, right before a write to a key."""

    def __init__(self, inner: ObjectStore, key: str, meddle: Callable[[], object]) -> None:
        super().__init__(inner)
        self.key, self.meddle = key, meddle
        self.has_meddled = False

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        if key == self.key and not self.has_meddled:
            self.has_meddled = True
            self.meddle()
        return super().swap(key, data, etag=etag)


@pytest.mark.parametrize("key", ["config", "copies/config", "keys"])
def test_two_owners_at_once(members: Members, source: Path, key: str) -> None:
    members["writer"].good("backup", source)
    other = members.access("owner")
    principal = members.principal("maintainer")
    used = f"keys/{members.principal('writer')}.json" if key == "keys" else key
    inner = open_store(members.access().config.require_repository())
    store = Meddled(inner, used, lambda: revoking.remove_key(other, principal))
    if key == "keys":
        # Another owner rotates at the same time, and issues the same bundle again.
        store = Meddled(inner, used, lambda: rotate(other))
    rotate(members.access(store=store))
    assert store.has_meddled
    repository = members.world.repository
    assert (repository / "config").read_bytes() == (repository / "copies/config").read_bytes()
    facts = json.loads((repository / "config").read_bytes().split(b"\n")[0])
    assert facts["scopes"][0]["epoch"] == (3 if key == "keys" else 2)
    assert [one["principal"] for one in facts["revoked"]] == ([] if key == "keys" else [principal])
    rotation.reissue_bundles(members.access())
    members["writer"].good("backup", source)
    members.world.good("check")


def test_levels_that_are_not_ours(world: World) -> None:
    for level in ("reseal", "scope", "repository"):
        done = world.run("key", "rotate", "--level", level).ended(2)
        assert "hint: " in done.err
    world.run("key", "rotate", "--level", "epoch", "--recipient", "00" * 32).ended(2)


def test_another_password_in_place_of_the_one_in_use(world: World, tmp_path: Path) -> None:
    first, second = tmp_path / "first.key", tmp_path / "second.key"
    world.good("key", "add", "--self", "--recipient", new_key(first))
    holder = World(world.repository, tmp_path / "cache", first)
    holder.good("key", "rotate", "--level", "password", "--recipient", new_key(second))
    holder.run("key", "check").ended(12)
    assert "opened by x25519" in World(world.repository, tmp_path / "cache", second).good("key", "check").text
    world.good("key", "check")


def test_the_list_tells_keys_that_are_exchanged_or_gone(world: World, tmp_path: Path) -> None:
    world.good("key", "add", "--role", "writer", "--recipient", new_key(tmp_path / "writer"))
    first, second = sorted(key for key in world.objects() if key.startswith("keys/"))
    paths = world.objects()
    before = {key: paths[key].read_bytes() for key in (first, second)}
    paths[first].write_bytes(before[second])
    paths[second].write_bytes(before[first])
    done = world.run("key", "list").ended(20)
    assert f"holds {second}" in done.err
    assert f"holds {first}" in done.err
    paths[first].write_bytes(before[first])
    paths[second].unlink()
    done = world.run("key", "list").ended(20)
    name = second.removeprefix("keys/").removesuffix(".json")
    assert f"{name}: its object is gone, and its copy is left" in done.err
    assert name in done.text


def test_who_may_change_keys(members: Members) -> None:
    for role in ("writer", "restorer", "maintainer"):
        for words in (("rotate",), ("repair",), ("remove", members.principal("owner"))):
            members[role].run("key", *words).ended(12)
        access = members.access(role)
        for act in (rotate, rotation.reissue_bundles, lambda one: revoking.remove_key(one, "00" * 16)):
            with pytest.raises(WrongKeyError):
                act(access)
    with pytest.raises(ConflictError):
        revoking.remove_key(members.access(), members.access().keyring.principal)


def test_a_writer_of_one_source(members: Members, source: Path, tmp_path: Path) -> None:
    world = members.world
    world.good("backup", source, "--host", "h")
    key = tmp_path / "one.key"
    world.run("key", "add", "--role", "restorer", "--source", "h:/x", "--recipient", "01" * 32).ended(2)
    public = new_key(key)
    world.good("key", "add", "--role", "writer", "--source", f"h:{source}", "--recipient", public)
    one = World(world.repository, tmp_path / "one-cache", key)
    done = one.good("backup", source, "--host", "h", "--json").summary()
    assert done["parent"]
    with pytest.raises(AssertionError, match="12"):
        one.good("backup", source, "--host", "other")
    world.good("check", "--read-data")
    assert issubclass(WrongKeyError, PvbackError)


def test_two_owners_who_add_a_scope_at_once(members: Members) -> None:
    """Labels are sealed, so the second one cannot see that the new scope is the one that it wants."""
    first, second = members.access(), members.access()
    made = add_scope(first, "shop")
    with pytest.raises(ConflictError, match="somebody else has added a scope"):
        add_scope(second, "shop")
    again = add_scope(members.access(), "shop")
    assert again.objects.scope == made.objects.scope
    assert [label for _, label in again.keyring.scopes()].count("shop") == 1
    for one in (first, second, again):
        one.close()
