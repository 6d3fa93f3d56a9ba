"""Object Lock as a prune sees it: what cannot go yet, and what has to stay locked for longer.

Stores that lock do so when an object is written, for a period. What is still needed when half of the period
is over is locked for a whole one again, so that whoever prunes more often than that always has everything
that is needed locked for at least as long as half a period. What is given up is not, and goes when its lock
has run out: before, removing it would win nothing.

A pack that is worth writing again is not extended either. It is written again when less than a quarter of
the period is left: its copy is locked then, and nothing that is needed is ever without a lock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar, cast

from pvback import limits
from pvback.errors import ObjectNotFound, StorageError, StorageUnavailable
from pvback.repository.barrier import Registers
from pvback.repository.gcstate import IndexView
from pvback.repository.index_work import Usage
from pvback.repository.layout import CONFIG_KEY, COPIES_PREFIX, KEYS_PREFIX, Area
from pvback.repository.prune_plan import ListedPack, PrunePlan
from pvback.repository.sealed import ScopeObjects
from pvback.runtime import Cancel
from pvback.storage.base import LockingStore, ObjectStore

__all__ = [
    "Extended",
    "Locks",
    "delete_unlocked",
    "find_locks",
    "list_needed",
    "needed_packs",
    "plan_around_locks",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extended:
    """What was locked for longer."""

    extended_count: int = 0
    asked_count: int = 0
    """Objects whose lock was looked at."""
    refused: Sequence[str] = ()
    """Keys that the store would not lock, or that are gone."""


class Locks:
    """The locks of a store that has some. Asks in parallel where requests take long."""

    def __init__(self, store: ObjectStore, *, now: datetime, cancel: Cancel) -> None:
        """`now` is the store's time. The store's capabilities say that it locks."""
        seconds = store.capabilities.lock_seconds
        assert seconds is not None, "a store without locks has none to ask for"
        self._store = cast("LockingStore", store)
        self._now, self._cancel = now, cancel
        self._period = timedelta(seconds=seconds)

    def find_held(self, keys: Mapping[str, str], *, repacked: frozenset[str]) -> frozenset[str]:
        """The names, of name -> key, that are locked for too long to be given up. Raises StorageError.

        Those in `repacked` may go earlier, when what is needed of them has been copied.
        """
        names = list(keys)
        found = self._ask([keys[name] for name in names], self._look)
        early = self._now + self._period / 4
        return frozenset(
            name
            for name, until in zip(names, found, strict=True)
            if until is not None and until > (early if name in repacked else self._now)
        )

    def extend(self, written: Mapping[str, datetime]) -> Extended:
        """Lock everything (key -> when it was written) for another period that is locked for less than half.

        What was written lately is not asked for: its lock came with it. Raises StorageUnavailable.
        """
        old = sorted(key for key, mtime in written.items() if mtime <= self._now - self._period / 2)
        done = self._ask(old, self._extend)
        return Extended(
            extended_count=done.count(True),
            asked_count=len(old),
            refused=[key for key, is_extended in zip(old, done, strict=True) if is_extended is None],
        )

    def _look(self, key: str) -> datetime | None:
        try:
            return self._store.locked_until(key)
        except ObjectNotFound:
            return None

    def _extend(self, key: str) -> bool | None:
        """Whether it was necessary; None: it was, and was refused."""
        try:
            until = self._store.locked_until(key)
            if until is not None and until >= self._now + self._period / 2:
                return False
            self._store.extend_lock(key, self._now + self._period)
        except StorageUnavailable:
            raise
        except StorageError:
            return None
        return True

    def _ask(self, keys: Sequence[str], ask: Callable[[str], T]) -> list[T]:
        def one(key: str) -> T:
            self._cancel.check()
            return ask(key)

        if not self._store.capabilities.is_remote or len(keys) < 2:
            return [one(key) for key in keys]
        with ThreadPoolExecutor(limits.READS_IN_FLIGHT, thread_name_prefix="pvback-lock") as pool:
            return list(pool.map(one, keys))


def find_locks(objects: ScopeObjects, *, now: datetime, cancel: Cancel) -> Locks | None:
    """The locks of the repository's store, if it has any."""
    if objects.store.capabilities.lock_seconds is None:
        return None
    return Locks(objects.store, now=now, cancel=cancel)


def plan_around_locks(
    locks: Locks | None,
    listed: Mapping[str, ListedPack],
    *,
    plan: Callable[[Mapping[str, ListedPack]], PrunePlan],
) -> PrunePlan:
    """What `plan` makes of the packs that are listed, given which of them are locked.

    Only packs that a plan would give up are asked for. Each round leaves out more, so it ends.
    """
    packs, made, asked = dict(listed), plan(listed), set[str]()
    while locks is not None and (new := made.condemned.intersection(listed) - asked):
        asked |= new
        found = locks.find_held({name: listed[name].key for name in new}, repacked=frozenset(made.repack))
        if not found:
            break
        packs |= {name: replace(listed[name], is_locked=True) for name in found}
        made = plan(packs)
    return made


def needed_packs(plan: PrunePlan, usage: Usage, *, listed: Mapping[str, ListedPack]) -> dict[str, datetime]:
    """Key -> when it was written, of all packs that stay because something needs them."""
    going = plan.condemned.union(plan.locked)
    return {
        listed[name].key: listed[name].mtime
        for name, use in usage.packs.items()
        if name in listed and name not in going and (use.used_count or use.is_spared)
    }


def list_needed(
    objects: ScopeObjects, view: IndexView, *, registers: Registers, packs: Mapping[str, datetime]
) -> dict[str, datetime]:
    """Key -> when it was written, of all that is needed: `packs`, and what is listed here.

    Valid runs, reference sets and records of what exists or can be brought back, `config` and keys.
    """
    runs = {name for name, _ in view.runs}
    snapshots = {one.snapshot for one in registers.alive().values()}
    unfinished = {one.snapshot for one in registers.unfinished().values()}
    found = dict(packs)
    found |= {info.key: info.mtime for name, info in objects.list_area(Area.INDEX) if name in runs}
    for area in (Area.REFS, Area.RECORDS):
        for name, info in objects.list_area(area):
            if name.partition("-")[0] in snapshots | unfinished:
                found[info.key] = info.mtime
    for prefix in (CONFIG_KEY, KEYS_PREFIX, COPIES_PREFIX):
        found |= {info.key: info.mtime for info in objects.store.list_objects(prefix)}
    return found


def delete_unlocked(store: ObjectStore, keys: Iterable[str], *, now: datetime) -> list[str]:
    """Remove objects, and return the keys of those that the store keeps because they are locked.

    Raises StorageError for any other refusal, after having removed some.
    """
    wanted = list(keys)
    if not wanted:
        return []
    try:
        store.delete_many(wanted)
    except StorageUnavailable:
        raise
    except StorageError:
        if store.capabilities.lock_seconds is None:
            raise
        return [key for key in wanted if not _delete(cast("LockingStore", store), key, now)]
    return []


def _delete(store: LockingStore, key: str, now: datetime) -> bool:
    """Whether it is removed; False: it is locked."""
    try:
        store.delete(key)
    except StorageUnavailable:
        raise
    except StorageError:
        until = store.locked_until(key)
        if until is None or until <= now:
            raise
        return False
    return True
