"""A repository as a state machine: any order of backups, interruptions, restores and keys, against a model.

Everything happens through the Python API on a store in memory; each restore is done twice, by the data path
and by the reference reader, which shares no code with it.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pvback import reference
from pvback.config import Config
from pvback.errors import Interrupted, PvbackError, StorageError
from pvback.model import LocalAddress
from pvback.ops import keys
from pvback.ops.backup import BackupOptions
from pvback.ops.facade import Repository
from pvback.ops.restore import RestoreOptions
from pvback.repository.repository import open_repository_access
from pvback.runtime import Cancel
from pvback.storage.base import ObjectInfo, ObjectStore
from pvback.storage.memory import MemoryStore
from pvback.storage.wrap import Request, WrappedStore
from tests.robust.trees import Image, age, differences, image, make_tree, mutate
from tests.robust.world import World

T = TypeVar("T")
PACK_BYTES = 64 * 1024


class BreakingStore(WrappedStore):
    """Does something at the n-th write from now."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.left = 0
        self.act: Callable[[], None] = lambda: None

    def at_write(self, count: int, act: Callable[[], None]) -> None:
        self.left, self.act = count, act

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        yield from self._inner.list_objects(prefix, after=after)

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        if kind.is_write and self.left:
            self.left -= 1
            if not self.left:
                self.act()
        return act()


class ReferenceStore:
    """What the reference reader needs of a store."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    def get(self, key: str) -> bytes:
        return self._inner.read(key).data

    def list(self, prefix: str) -> list[str]:
        return [info.key for info in self._inner.list_objects(prefix)]


class Machine(RuleBasedStateMachine):
    """The model is an image of the source for each snapshot."""

    template: World
    sources = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="pvback-machine-"))
        self.store = MemoryStore()
        for key, path in self.template.objects().items():
            self.store.put(key, path.read_bytes())
        self.breaking = BreakingStore(self.store)
        assert self.template.key_file is not None
        config = Config(
            repository=LocalAddress(Path("/memory")),
            key_file=self.template.key_file,
            cache_dir=self.top / "cache",
        )
        access = open_repository_access(config, store=self.breaking, is_writer=True)
        self.repository = Repository(access)
        self.known: dict[str, Image] = {}
        self.keys = 1
        self.restored = 0

    def teardown(self) -> None:
        self.repository.close()
        shutil.rmtree(self.top)

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        for name in self.sources:
            make_tree(self.top / name, self.random, files=5, large_bytes=200_000)

    @rule(name=st.sampled_from(sources), is_old=st.booleans())
    def change(self, name: str, is_old: bool) -> None:
        mutate(self.top / name, self.random)
        if is_old:
            age(self.top / name)

    @rule(name=st.sampled_from(sources), force=st.booleans())
    def back_up(self, name: str, force: bool) -> None:
        options = BackupOptions(force=force, pack_bytes=PACK_BYTES)
        result = self.repository.backup(self.top / name, options=options)
        assert result.snapshot is not None
        assert not result.problems
        self.known[result.snapshot] = image(self.top / name)

    @rule(name=st.sampled_from(sources), count=st.integers(1, 12))
    def back_up_and_stop(self, name: str, count: int) -> None:
        """Somebody presses Ctrl-C at some write."""
        cancel = Cancel()
        self.breaking.at_write(count, cancel.set)
        before = image(self.top / name)
        try:
            options = BackupOptions(pack_bytes=PACK_BYTES)
            result = self.repository.backup(self.top / name, options=options, cancel=cancel)
        except Interrupted:
            return
        finally:
            self.breaking.at_write(0, lambda: None)
        assert result.snapshot is not None
        self.known[result.snapshot] = before

    @rule(name=st.sampled_from(sources), count=st.integers(1, 12))
    def back_up_and_fail(self, name: str, count: int) -> None:
        """The store refuses one write."""

        def refuse() -> None:
            raise StorageError("no space left")

        self.breaking.at_write(count, refuse)
        before = image(self.top / name)
        try:
            result = self.repository.backup(self.top / name, options=BackupOptions(pack_bytes=PACK_BYTES))
        except StorageError:
            return
        finally:
            self.breaking.at_write(0, lambda: None)
        assert result.snapshot is not None
        self.known[result.snapshot] = before

    @precondition(lambda self: self.known)
    @rule(data=st.data(), is_full=st.booleans())
    def restore(self, data: st.DataObject, is_full: bool) -> None:
        """Into an empty place, or over what an earlier restore has left there."""
        chosen = data.draw(st.sampled_from(sorted(self.known)))
        target = self.top / "target"
        if not is_full:
            shutil.rmtree(target, ignore_errors=True)
        options = RestoreOptions(delete=True) if target.exists() else None
        result = self.repository.restore(chosen, target, options=options)
        assert result.error_count == 0
        assert not differences(self.known[chosen], image(target))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def restore_by_reference(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.known)))
        assert self.template.key_file is not None
        key = reference.PrivateKey(self.template.key_file.read_bytes())
        reader = reference.Repository.open(ReferenceStore(self.store), key)
        self.restored += 1
        target = self.top / f"reference{self.restored}"
        summary = reference.restore(reader, reader.snapshot(chosen), os.fspath(target), b"")
        assert summary.is_complete, summary.lost
        assert not differences(self.known[chosen], image(target))
        shutil.rmtree(target)

    @rule(is_full=st.booleans())
    def check(self, is_full: bool) -> None:
        result = self.repository.check(read_percent=100 if is_full else None)
        assert result.is_sound, result.findings
        assert result.snapshot_count == len(self.known)

    @precondition(lambda self: self.keys < 4)
    @rule(role=st.sampled_from(["owner", "writer", "restorer", "maintainer"]))
    def add_key(self, role: str) -> None:
        public = "5f" * 31 + f"{self.keys:02x}"
        access = self.repository._access
        way = keys.NewWay(method="x25519", secret=bytes.fromhex(public))
        keys.add_key(access, role=role, label="x", way=way)
        self.keys += 1

    @precondition(lambda self: self.keys > 1)
    @rule()
    def remove_key(self) -> None:
        others = [one.principal for one in self.repository.list_keys() if not one.is_current]
        self.repository.remove_key(others[0])
        self.keys -= 1

    @invariant()
    def nothing_is_lost(self) -> None:
        assert {one.id for one in self.repository.snapshots()} == self.known.keys()
        assert len(self.repository.list_keys()) == self.keys

    @precondition(lambda self: self.known)
    @rule()
    def unknown_things_are_refused(self) -> None:
        with pytest.raises(PvbackError):
            self.repository.restore("0123456789abcdef" * 2, self.top / "nowhere")


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(5, 12), pytest.param(100, 30, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
@pytest.mark.timeout(300)
def test_repository(empty_world: World, examples: int, steps: int) -> None:
    class Bound(Machine):
        template = empty_world

    wanted = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(Bound, settings=wanted)
