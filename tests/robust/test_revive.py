"""A lost register made anew beside a prune that has listed registers before, and removes only now."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pvback.ops.index_work import NativeIndexWork
from pvback.repository.mend_snapshots import REASONS, SnapshotTools, mend_snapshot, plan_snapshots
from pvback.repository.prune import PruneSeams, run_prune
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.registers import create_register
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import SystemClock
from pvback.storage import ObjectInfo, ObjectStore, ReadBuffer
from pvback.storage.wrap import Request, WrappedStore
from tests.robust.test_repair import objects_of, opened
from tests.robust.trees import Image, age, differences, image, make_tree
from tests.robust.world import World, new_key

T = TypeVar("T")


class Meeting(WrappedStore):
    """Does something once: before remnants of a snapshot are deleted, or after a register was created."""

    def __init__(
        self,
        inner: ObjectStore,
        *,
        before_delete: Callable[[Sequence[str]], object] | None = None,
        after_create: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(inner)
        self.before_delete, self.after_create = before_delete, after_create

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return act()

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        return self._inner.list_objects(prefix, after=after)

    def create(self, key: str, data: ReadBuffer) -> str:
        etag = super().create(key, data)
        if "/snapshots/" in key and self.after_create is not None:
            act, self.after_create = self.after_create, None
            act()
        return etag

    def delete_many(self, keys: Sequence[str]) -> None:
        if any("/refs/" in key for key in keys) and self.before_delete is not None:
            act, self.before_delete = self.before_delete, None
            act(keys)
        super().delete_many(keys)


class Case:
    """Two snapshots, and the register of the newer one is lost."""

    def __init__(self, world: World, top: Path, rng: random.Random) -> None:
        self.world, source = world, top / "source"
        make_tree(source, rng)
        self.images: dict[str, Image] = {}
        for number in range(2):
            (source / f"new{number}").write_bytes(rng.randbytes(100_000))
            age(source)
            world.good("backup", source, "--host", "h")
            new = next(one["id"] for one in world.snapshots() if one["id"] not in self.images)
            self.images[new] = image(source)
        self.lost = list(self.images)[-1]
        shutil.rmtree(world.cache)
        for key in objects_of(world, "snapshots"):
            if self.lost in key:
                world.objects()[key].unlink()

    def assert_whole(self, place: Path) -> None:
        self.world.good("check", "--read-data")
        for snapshot, wanted in self.images.items():
            self.world.good("restore", snapshot, "--target", place / snapshot)
            assert not differences(wanted, image(place / snapshot))


@pytest.fixture
def case(world: World, tmp_path: Path, seed: int) -> Case:
    return Case(world, tmp_path, random.Random(seed))


def revive(access: RepositoryAccess, store: ObjectStore) -> str:
    """What is said of the one problem."""
    objects = replace(access.objects, store=store)
    (problem,) = plan_snapshots(objects)
    assert problem.kind == "register-missing"
    tools = SnapshotTools(objects, NativeIndexWork(access), SystemClock())
    try:
        return mend_snapshot(tools, problem)
    except REASONS as exc:
        return f"NOT MENDED: {exc.what}"


def prune(access: RepositoryAccess, store: ObjectStore) -> None:
    seams = PruneSeams(work=NativeIndexWork(access), clock=SystemClock())
    objects = replace(access.objects, store=store)
    run_prune(objects, seams, options=PruneOptions(is_forced=True))


def test_a_removal_after_the_report(case: Case, tmp_path: Path) -> None:
    """It lands on the old parts of the reference set, and on a record of which the register has a copy."""
    said = []
    with opened(case.world) as access, opened(case.world) as other:
        store = Meeting(access.store, before_delete=lambda _: said.append(revive(other, other.objects.store)))
        prune(access, store)
    assert said[0].endswith("made anew"), said
    # Nobody has to mend anything before the next prune.
    case.world.good("prune", "--force", "--keep-unused", "0s")
    case.world.good("restore", case.lost, "--target", tmp_path / "early")
    assert not differences(case.images[case.lost], image(tmp_path / "early"))
    case.world.good("repair", "snapshots")
    case.assert_whole(tmp_path / "last")


def test_a_removal_before_the_report(case: Case, tmp_path: Path) -> None:
    """A key that opens no trees cannot write the reference set once more, and says that it is gone."""
    world = case.world
    world.good("key", "add", "--role", "maintainer", "--recipient", new_key(tmp_path / "other"))
    maintainer = World(world.repository, world.cache, tmp_path / "other", world.extra)
    said = []
    with opened(world) as access, opened(maintainer) as other:

        def meet(keys: Sequence[str]) -> None:
            land = Meeting(other.objects.store, after_create=lambda: access.store.delete_many(keys))
            said.append(revive(other, land))

        prune(access, Meeting(access.store, before_delete=meet))
    assert said[0].startswith("NOT MENDED: a prune that ran at the same time"), said
    # Until it is mended, nothing is removed.
    world.run("prune", "--force", "--keep-unused", "0s").ended(20)
    world.good("repair", "snapshots")
    case.assert_whole(tmp_path / "last")
    world.good("prune", "--force", "--keep-unused", "0s")
    case.assert_whole(tmp_path / "pruned")


def test_the_exit_code(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not whole after all is left, and said."""

    def create(*args: Any, **options: Any) -> object:
        made = create_register(*args, **options)
        for key in objects_of(case.world, "refs"):
            if case.lost in key:
                case.world.objects()[key].unlink()
        return made

    monkeypatch.setattr("pvback.repository.mend_snapshots.create_register", create)
    monkeypatch.setattr("pvback.repository.mend_snapshots._write_refs", lambda *_: None)
    assert "1 left" in case.world.run("repair", "snapshots").ended(3).text
    monkeypatch.undo()
    case.world.good("repair", "snapshots")
    case.assert_whole(tmp_path / "last")
