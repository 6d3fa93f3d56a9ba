"""`gc/state` lost: everything refuses and says what to do, and what a repair makes of it loses nothing."""

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pvback.errors import ConflictError, ObjectNotFound
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.barrier import read_registers
from pvback.repository.gcstate import GcState, Marks, list_index, load_gc_state, read_gc_state
from pvback.repository.mend_lost_state import write_lost_state
from pvback.repository.registers import RegisterState, read_register
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.runtime import Cancel, SystemClock
from pvback.storage import ObjectInfo, ObjectStore
from pvback.storage.wrap import Request, WrappedStore
from tests.robust.test_repair import damage, objects_of, opened, packs_of, state_of
from tests.robust.trees import Image, age, differences, image, make_tree
from tests.robust.world import World, new_key

T = TypeVar("T")


class Case:
    """A repository with a past: snapshots that came and went, packs that died, a forgotten one."""

    def __init__(self, world: World, top: Path, rng: random.Random) -> None:
        self.world, self.source, self.rng = world, top / "source", rng
        self.images: dict[str, Image] = {}
        make_tree(self.source, rng)
        self.gone = b""
        for number in range(4):
            (self.source / f"new{number}").write_bytes(rng.randbytes(150_000))
            if number:
                # What came with the one before is needed by that only.
                before = self.source / f"new{number - 1}"
                self.gone = self.gone or before.read_bytes()
                before.unlink()
            (self.source / "small").write_bytes(rng.randbytes(2_000))
            self.backup()
        first, second = list(self.images)[:2]
        world.good("forget", first, "--force")
        self.late = top / "late"
        shutil.copytree(world.repository, self.late)
        world.good("prune", "--grace", "0s", "--keep-unused", "0s", "--max-unused", "0", "--force")
        world.good("forget", second, "--force")
        del self.images[first]

    def backup(self) -> str:
        age(self.source)
        self.world.good("backup", self.source, "--host", "h")
        new = next(one["id"] for one in self.world.snapshots() if one["id"] not in self.images)
        self.images[new] = image(self.source)
        return str(new)

    def state(self) -> Path:
        (key,) = [key for key in self.world.objects() if key.endswith("gc/state")]
        return self.world.objects()[key]

    def undo_deletions(self) -> frozenset[str]:
        """Packs that are dead are back: requests to delete them have not landed."""
        back = set()
        for path in self.late.rglob("*"):
            place = self.world.repository / path.relative_to(self.late)
            if path.parent.parent.name in ("data", "meta") and not place.exists():
                shutil.copy2(path, place)
                back.add(path.name)
        assert back
        return frozenset(back)

    def land_deletions(self, packs: frozenset[str]) -> None:
        for name in packs:
            for path in self.world.repository.rglob(name):
                path.unlink()

    def assert_whole(self, place: Path) -> None:
        self.world.good("undelete", "--all")
        self.world.good("check", "--read-data")
        assert set(self.images) == {one["id"] for one in self.world.snapshots()}
        for snapshot, wanted in self.images.items():
            target = place / snapshot
            self.world.good("restore", snapshot, "--target", target)
            assert not differences(wanted, image(target))
            shutil.rmtree(target)


@pytest.fixture
def case(world: World, tmp_path: Path, seed: int) -> Case:
    return Case(world, tmp_path, random.Random(seed))


@pytest.mark.parametrize("how", ["delete", "flip", "empty"])
def test_all_commands_say_what_to_do(case: Case, tmp_path: Path, how: str) -> None:
    world = case.world
    damage(case.state(), how)
    was = {key: path.read_bytes() for key, path in world.objects().items()}
    snapshot = list(case.images)[-1]
    for words in (
        ("backup", str(case.source)),
        ("restore", snapshot, "--target", str(tmp_path / "no")),
        ("snapshots",),
        ("ls", snapshot),
        ("prune",),
        ("forget", snapshot, "--force"),
        ("check",),
        ("stats",),
        ("repair", "index"),
        ("repair", "packs"),
        ("repair", "snapshots"),
    ):
        assert "pvback repair state" in world.run(*words).ended(20).err, words
    assert "would be" in world.good("repair", "state", "--dry-run").text
    assert {key: path.read_bytes() for key, path in world.objects().items()} == was
    assert "made anew" in world.good("repair", "state").text
    assert "nothing wrong" in world.good("repair", "state").text
    case.assert_whole(tmp_path / "first")
    world.good("prune", "--force")
    case.backup()
    world.good("prune", "--force", "--max-unused", "0", "--keep-unused", "0s")
    case.assert_whole(tmp_path / "second")


def test_packs_whose_deletion_is_under_way(case: Case, tmp_path: Path) -> None:
    """They are there, and listed by runs that are not there any more, or by none; and then they vanish."""
    world = case.world
    back = case.undo_deletions()
    case.state().unlink()
    done = world.good("repair", "state", "--json").summary()["repair"]
    assert back <= set(done["given_up"])
    # What only they have is not built upon: the same content is stored once more.
    (case.source / "again").write_bytes(case.gone)
    case.backup()
    case.land_deletions(back)
    case.assert_whole(tmp_path / "first")
    world.good("prune", "--force")
    case.assert_whole(tmp_path / "second")


def store_twice(world: World) -> int:
    """Copy all that is needed into packs beside those that have it; the bytes."""
    with opened(world) as access:
        state = read_gc_state(access.objects)
        refs = read_registers(access.objects, state).refs()
        work, view = NativeIndexWork(access), list_index(access.objects, state)
        packs = sorted(work.survey(view).packs)
        condemned = replace(view, condemned=frozenset(packs))
        done = work.repack(condemned, packs=packs, marks=Marks(), refs=refs, generation=state.n)
        assert done.moved_bytes > 0
        return done.moved_bytes


@pytest.mark.parametrize("vanishing", ["old", "new"])
def test_the_same_blobs_in_two_packs(case: Case, tmp_path: Path, vanishing: str) -> None:
    """Nobody can tell which of two packs was the dead one: so what both have is copied."""
    world = case.world
    old = packs_of(world)
    moved_bytes = store_twice(world)
    back = old if vanishing == "old" else packs_of(world) - old
    case.state().unlink()
    repaired = world.good("repair", "state", "--json").summary()["repair"]
    assert back <= set(repaired["given_up"])
    assert repaired["copied_bytes"] == moved_bytes
    case.backup()
    case.land_deletions(back)
    case.assert_whole(tmp_path / "first")


def test_sessions_of_the_time_before(case: Case) -> None:
    """They end, whenever they wake up; and what they still write counts for nothing."""
    world = case.world
    with opened(world) as access:
        register = some_register(access)
        session = WriterSession(access.objects, register.source, clock=SystemClock())
        name = session.register.name
        case.state().unlink()
        done = world.good("repair", "state", "--json").summary()["repair"]
        assert done["fenced"] == [name]
        assert read_register(access.objects, name).register.state is RegisterState.FENCED
        state = load_gc_state(access.objects).state
        assert not state.is_register_valid(name)
        assert state.n > session.register.ack
        assert all(state.is_register_valid(one) for one in done["snapshots"])
    world.good("prune", "--force")
    world.good("check", "--read-data")


def some_register(access: RepositoryAccess) -> Any:
    return access.catalog().snapshots[0].register


def test_a_snapshot_whose_register_is_lost_too(case: Case, tmp_path: Path) -> None:
    """What it needs is not given up: `repair snapshots` brings it back."""
    world = case.world
    newest = list(case.images)[-1]
    shutil.rmtree(world.cache)
    for key in objects_of(world, "snapshots"):
        if newest in key:
            world.objects()[key].unlink()
    case.state().unlink()
    world.good("repair", "state")
    world.good("repair", "snapshots")
    case.assert_whole(tmp_path / "first")


def test_the_index_is_lost_too(case: Case, tmp_path: Path) -> None:
    world = case.world
    for number, key in enumerate(objects_of(world, "index")):
        damage(world.objects()[key], ("delete", "flip")[number % 2])
    case.state().unlink()
    world.good("repair", "state")
    case.assert_whole(tmp_path / "first")
    world.good("prune", "--force")
    case.assert_whole(tmp_path / "second")


def test_what_is_needed_is_not_known(case: Case, tmp_path: Path) -> None:
    """Nothing is given up then, and only if somebody says that nothing is about to vanish."""
    world = case.world
    key = objects_of(world, "refs")[-1]
    world.objects()[key].unlink()
    case.state().unlink()
    packs = packs_of(world)
    was = {key: path.read_bytes() for key, path in world.objects().items()}
    assert "--force" in world.run("repair", "state").ended(20).err
    assert {key: path.read_bytes() for key, path in world.objects().items()} == was
    done = world.good("repair", "state", "--force", "--json").summary()["repair"]
    assert done["given_up"] == []
    assert packs_of(world) == packs
    world.good("repair", "snapshots")
    case.assert_whole(tmp_path / "first")


def test_two_at_once(case: Case, tmp_path: Path) -> None:
    """One of them writes it; what the other one has prepared does no harm."""
    world = case.world
    case.undo_deletions()
    case.state().unlink()
    outcomes: list[str] = []
    bases: set[str] = set()
    meet = threading.Barrier(2)

    class Meeting(NativeIndexWork):
        def merge(self, view: Any, *, drop: Any, generation: int) -> tuple[str, ...]:
            made = super().merge(view, drop=drop, generation=generation)
            bases.update(made)
            meet.wait(30)
            return made

    def repair() -> None:
        with opened(world) as access:
            try:
                done = write_lost_state(access.objects, Meeting(access), clock=SystemClock(), cancel=Cancel())
                outcomes.append("done" if done else "nothing")
            except ConflictError:
                outcomes.append("conflict")

    threads = [threading.Thread(target=repair) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "done"]
    with opened(world) as access:
        state = load_gc_state(access.objects).state
    runs = [key.rsplit("/", 1)[1] for key in world.objects() if "/index/" in key]
    # A run of the other one would be of a generation that no prune reaches, and outlive what it lists.
    assert bases & set(runs) == state.base < bases
    case.backup()
    case.assert_whole(tmp_path / "first")
    world.good("prune", "--force", "--keep-unused", "0s")
    case.assert_whole(tmp_path / "second")


class Landing(WrappedStore):
    """`gc/state` is there right after somebody has found that it is not."""

    def __init__(self, inner: ObjectStore, land: Callable[[], object]) -> None:
        super().__init__(inner)
        self.land = land

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except ObjectNotFound:
            if key.endswith("gc/state"):
                self.land()
            raise

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)


def test_a_state_that_another_repair_has_just_written_stays(case: Case) -> None:
    """Nothing of it is lost, and sessions may have begun under it."""
    path = case.state()
    was = path.read_bytes()
    path.unlink()
    with opened(case.world) as access:
        objects = replace(access.objects, store=Landing(access.store, lambda: path.write_bytes(was)))
        work = NativeIndexWork(access)
        assert write_lost_state(objects, work, clock=SystemClock(), cancel=Cancel()) is None
    assert path.read_bytes() == was


def test_who_may(case: Case, tmp_path: Path) -> None:
    world = case.world
    for role, code in (("writer", 12), ("maintainer", 0)):
        world.good("key", "add", "--role", role, "--recipient", new_key(tmp_path / role))
        other = World(world.repository, world.cache, tmp_path / role, world.extra)
        case.state().unlink(missing_ok=True) if role == "maintainer" else damage(case.state(), "empty")
        other.run("repair", "state").ended(code)
    case.assert_whole(tmp_path / "first")


def test_generations_go_on(case: Case) -> None:
    before = state_of(case.world)
    case.state().unlink()
    case.world.good("repair", "state")
    after: GcState = state_of(case.world)
    assert after.n > before.n + 1000
    assert after.floor == after.n
    assert replace(after, n=1, floor=1).is_condemning is False
