"""Object Lock: what a prune leaves alone, what it locks for longer, and what the store refuses to remove."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from pvback.errors import StorageError, StorageUnavailable
from pvback.repository.index_work import PackUse, Usage
from pvback.repository.locks import Locks, delete_unlocked, needed_packs, plan_around_locks
from pvback.repository.prune_plan import ListedPack, PruneOptions, PrunePlan, plan_prune
from pvback.runtime import Cancel, ManualClock
from pvback.storage.memory import MemoryStore
from pvback.storage.metered import MeteredStore
from pvback.storage.wrap import Request

DAY = 86_400.0
PERIOD = 32 * DAY
MIB = 1 << 20


class World:
    """Packs in a store that locks them for 32 days."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryStore(clock=self.clock, lock_seconds=PERIOD)
        self.store = MeteredStore(self.memory)
        self.uses: dict[str, PackUse] = {}

    def pack(self, name: str, *, used: int) -> None:
        """A pack of 32 MiB of which so many percent are needed; 0: nothing."""
        self.memory.create(f"data/{name}", b"pack")
        self.uses[name] = PackUse(
            name=name, kind="data", object_bytes=32 * MIB, entry_count=100, entry_bytes=32 * MIB,
            used_count=used, used_bytes=32 * MIB * used // 100,
        )  # fmt: skip

    def listed(self) -> dict[str, ListedPack]:
        return {
            info.key.removeprefix("data/"): ListedPack(info.key, 32 * MIB, info.mtime)
            for info in self.memory.list_objects("data/")
        }

    def locks(self) -> Locks:
        return Locks(self.store, now=self.clock.now(), cancel=Cancel())

    def plan(self, **options: float) -> PrunePlan:
        settings = PruneOptions(**options)  # type: ignore[arg-type] # numbers by name
        return plan_around_locks(
            self.locks(),
            self.listed(),
            plan=lambda packs: plan_prune(
                Usage(packs=self.uses), packs, dead=frozenset(), now=self.clock.now(),
                options=settings, pack_bytes=32 * MIB,
            ),
        )  # fmt: skip

    def prune(self) -> PrunePlan:
        """Plan, lock for longer, and remove what goes; what is copied gets a pack of its own."""
        plan = self.plan()
        self.locks().extend(needed_packs(plan, Usage(packs=self.uses), listed=self.listed()))
        for name in plan.repack:
            self.pack(f"{name}-copy", used=100)
        keys = [f"data/{name}" for name in plan.condemned]
        kept = delete_unlocked(self.store, keys, now=self.clock.now())
        assert set(kept) <= {f"data/{name}" for name in plan.repack}
        for name in plan.condemned:
            del self.uses[name]
        return plan

    def until(self, name: str) -> datetime:
        until = self.memory.locked_until(f"data/{name}")
        assert until is not None
        return until


@pytest.fixture
def world() -> World:
    return World()


def head_count(world: World) -> int:
    return world.store.usage().requests.get(Request.HEAD, 0)


def test_a_locked_pack_is_not_given_up_before_its_lock_has_run_out(world: World) -> None:
    world.pack("unused", used=0)
    world.pack("used", used=100)
    world.clock.advance(PERIOD - 1)
    plan = world.plan()
    assert (plan.condemned, plan.locked, plan.locked_bytes) == (frozenset(), ["unused"], 32 * MIB)
    world.clock.advance(2)
    plan = world.plan()
    assert plan.condemned == {"unused"}
    assert plan.locked == []


def test_orphans_are_locked_too(world: World) -> None:
    world.pack("orphan", used=0)
    del world.uses["orphan"]
    world.clock.advance(3 * DAY)
    assert world.plan().locked == ["orphan"]
    world.clock.advance(PERIOD)
    assert world.plan().orphans == ["orphan"]


def test_what_is_needed_is_locked_at_least_half_a_period_after_each_prune(world: World) -> None:
    world.pack("used", used=100)
    for _ in range(100):
        world.clock.advance(DAY)
        world.prune()
        left = world.until("used") - world.clock.now()
        assert timedelta(seconds=PERIOD / 2) <= left <= timedelta(seconds=PERIOD)


def test_locks_are_asked_for_only_where_it_may_be_time(world: World) -> None:
    for index in range(20):
        world.pack(f"used-{index}", used=100)
    world.clock.advance(PERIOD / 2 - 1)
    world.prune()
    assert head_count(world) == 0
    assert world.store.usage().requests.get(Request.PUT, 0) == 0
    world.clock.advance(2)
    world.prune()
    assert head_count(world) == 20
    assert world.store.usage().requests[Request.PUT] == 20
    world.clock.advance(DAY)
    world.prune()
    assert head_count(world) == 40
    assert world.store.usage().requests[Request.PUT] == 20, "extended again a day later"


def test_a_wasteful_pack_is_copied_before_what_is_needed_in_it_is_without_a_lock(world: World) -> None:
    world.pack("half", used=50)
    began = world.clock.now()
    while not (plan := world.prune()).repack:
        assert plan.locked == ["half"]
        world.clock.advance(DAY)
        assert world.clock.now() < began + timedelta(seconds=PERIOD), "the lock ran out first"
    assert world.clock.now() >= began + timedelta(seconds=PERIOD * 3 / 4), "paid for twice too long"
    assert world.until("half-copy") == world.clock.now() + timedelta(seconds=PERIOD)


def test_a_locked_pack_is_no_reason_to_copy_others(world: World) -> None:
    """The share that may stay unused is that of what can be written again."""
    world.pack("locked", used=10)
    world.pack("full", used=99)
    plan = world.plan(unused_share_max=0.05)
    assert (plan.repack, plan.locked) == ([], ["locked"])


def test_what_was_written_without_a_lock_gets_one(world: World) -> None:
    world.memory._lock_seconds = None
    world.pack("used", used=100)
    world.memory._lock_seconds = PERIOD
    world.clock.advance(PERIOD / 2)
    done = world.locks().extend({"data/used": world.listed()["used"].mtime})
    assert (done.extended_count, done.asked_count, done.refused) == (1, 1, [])
    assert world.until("used") == world.clock.now() + timedelta(seconds=PERIOD)


def test_what_cannot_be_locked_is_said(world: World) -> None:
    world.clock.advance(PERIOD)
    done = world.locks().extend({"data/none": world.clock.now() - timedelta(seconds=PERIOD)})
    assert done.refused == ["data/none"]


def test_a_locked_object_stays_and_the_others_go(world: World) -> None:
    world.pack("old", used=0)
    world.clock.advance(PERIOD + 1)
    world.pack("young", used=0)
    kept = delete_unlocked(world.store, ["data/young", "data/old", "data/none"], now=world.clock.now())
    assert kept == ["data/young"]
    assert list(world.listed()) == ["young"]


class Refusing(MemoryStore):
    """Refuses deletes for another reason, or does not answer."""

    error: StorageError = StorageError("access denied")

    def delete(self, key: str) -> None:
        raise self.error

    def locked_until(self, key: str) -> datetime | None:
        return dict[str, datetime | None]().get(key)


@pytest.mark.parametrize("lock_seconds", [None, PERIOD])
@pytest.mark.parametrize("error", [StorageError("access denied"), StorageUnavailable("no answer")])
def test_other_refusals_are_failures(error: StorageError, lock_seconds: float | None) -> None:
    clock = ManualClock()
    store = Refusing(clock=clock, lock_seconds=lock_seconds)
    store.error = error
    store.create("data/a", b"")
    with pytest.raises(type(error), match=str(error)):
        delete_unlocked(store, ["data/a"], now=clock.now())


def test_only_what_is_written_once_is_locked() -> None:
    store = MemoryStore(clock=ManualClock(), lock_seconds=PERIOD)
    scope = f"s/{'5c' * 16}"
    expected: Mapping[str, bool] = {
        "config": True, "keys/a.json": True, "copies/config": True, f"{scope}/data/00/a": True,
        f"{scope}/meta/00/a": True, f"{scope}/index/1-a": True, f"{scope}/refs/a-0": True,
        f"{scope}/records/a": True, f"{scope}/snapshots/1-a": False, f"{scope}/gc/state": False,
    }  # fmt: skip
    for key in expected:
        store.put(key, b"")
    assert {key: store.locked_until(key) is not None for key in expected} == expected


def test_every_round_remembers_what_is_locked(world: World) -> None:
    """Room for one copy: with the emptiest pack left alone, the next one is chosen, and is locked as well."""
    for name, used in (("a", 10), ("b", 20), ("c", 30)):
        world.pack(name, used=used)
    plan = world.plan(repack_bytes_max=10 * MIB)
    assert (plan.repack, plan.locked) == ([], ["a", "b", "c"])


def test_a_lock_that_has_run_out_excuses_nothing() -> None:
    clock = ManualClock()

    class Expired(Refusing):
        def locked_until(self, key: str) -> datetime | None:
            assert key == "data/a"
            return clock.now()

    store = Expired(clock=clock, lock_seconds=PERIOD)
    store.create("data/a", b"")
    with pytest.raises(StorageError, match="access denied"):
        delete_unlocked(store, ["data/a"], now=clock.now())
