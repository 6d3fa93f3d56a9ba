"""Finding out whether a store keeps its promises about conditional writes, by racing real requests.

Some servers accept a condition and ignore it, some look at it before the write instead of with it, and some
refuse it. None of them says so: the first kind shows when an object is written twice, the second only when
several requests run at once. What is found is what happened here and now: a store that passes may still be
a cluster of which two halves do not agree.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pvback import limits
from pvback.errors import ObjectChanged, ObjectExists, StorageError, StorageUnavailable
from pvback.runtime import Random, SystemRandom
from pvback.storage.base import ObjectStore

__all__ = ["PROBE_PREFIX", "Conditions", "probe_conditions"]

PROBE_PREFIX = "probe-"
"""Keys of the probe begin so; a killed probe leaves them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a store was found to keep."""

    creates: bool
    """`create` is atomic: one of several racing calls wins, and none over an object that is there."""
    swaps: bool
    """`swap` is atomic: one of several racing calls wins, and none with an old etag or over nothing."""
    broken: tuple[str, ...] = ()
    """What was seen to be otherwise, one sentence each."""

    @property
    def hold(self) -> bool:
        """Whether both are kept."""
        return self.creates and self.swaps


def probe_conditions(
    store: ObjectStore,
    *,
    random: Random | None = None,
    thread_count: int = limits.PROBE_THREAD_COUNT,
    round_count: int = limits.PROBE_ROUND_COUNT,
) -> Conditions:
    """Race creates and swaps on keys of the probe's own, and remove them.

    Answers in doubt are settled by reading; a round with one can show that a promise is broken, but not that
    it is kept. Raises StorageUnavailable when no round was without doubt, and StorageError when the store
    refuses plain writes, too.
    """
    prefix = PROBE_PREFIX + (random or SystemRandom()).bytes(12).hex()
    keys = [f"{prefix}-{number}" for number in range(round_count)]
    try:
        store.put(keys[0], b"plain")
        store.delete(keys[0])
        with ThreadPoolExecutor(thread_count) as pool:
            probe = _Probe(store, pool, thread_count)
            creates = probe.judge("create", [partial(probe.race_creates, key) for key in keys])
            swaps = probe.judge("swap", [partial(probe.race_swaps, key) for key in keys])
    finally:
        # What made the probe fail is worth more than that its keys could not be removed.
        with contextlib.suppress(StorageError):
            store.delete_many(keys)
    broken = (*creates, *swaps)
    return Conditions(creates=not creates, swaps=not swaps, broken=broken)


class _Probe:
    def __init__(self, store: ObjectStore, pool: ThreadPoolExecutor, thread_count: int) -> None:
        self._store = store
        self._pool = pool
        self._thread_count = thread_count

    def judge(self, kind: str, rounds: Sequence[Callable[[], list[str]]]) -> list[str]:
        """What was broken in any round, each thing once."""
        found: list[str] = []
        doubt: StorageUnavailable | None = None
        clear_count = 0
        for go in rounds:
            try:
                found += go()
                clear_count += 1
            except StorageUnavailable as exc:
                doubt = exc
            except StorageError as exc:
                found.append(f"{kind}: refused: {exc.what}")
        if doubt is not None and not clear_count and not found:
            raise doubt
        return list(dict.fromkeys(found))

    def race_creates(self, key: str) -> list[str]:
        """One round. Leaves no object."""
        store = self._store
        store.delete(key)
        found = self._race(
            "create", key, act=lambda data: store.create(key, data), lost=ObjectExists, first=b"create"
        )
        if _wins(lambda: store.create(key, b"later"), ObjectExists):
            found.append("create: wrote over an object")
        store.delete(key)
        return found

    def race_swaps(self, key: str) -> list[str]:
        """One round. Leaves no object."""
        store = self._store
        store.delete(key)
        store.put(key, b"swapped")
        old = store.read(key).etag
        if not old:
            return ["swap: objects have no etag"]
        found = self._race(
            "swap", key, act=lambda data: store.swap(key, data, etag=old), lost=ObjectChanged, first=b"swap"
        )
        if _wins(lambda: store.swap(key, b"later", etag=old), ObjectChanged):
            found.append("swap: took an etag that was no longer true")
        now = store.read(key).etag
        store.delete(key)
        if _wins(lambda: store.swap(key, b"nothing", etag=now), ObjectChanged):
            found.append("swap: wrote where there was no object")
        store.delete(key)
        return found

    def _race(
        self,
        kind: str,
        key: str,
        *,
        act: Callable[[bytes], str],
        lost: type[StorageError],
        first: bytes,
    ) -> list[str]:
        """Let all threads act at once; what was broken. Raises the doubt when an answer is missing."""
        barrier = threading.Barrier(self._thread_count)

        def attempt(number: int) -> str | StorageError:
            barrier.wait()
            try:
                return act(first + b"-%d" % number)
            except StorageError as exc:
                return exc

        answers = list(self._pool.map(attempt, range(self._thread_count)))
        won = {number: answer for number, answer in enumerate(answers) if isinstance(answer, str)}
        if len(won) > 1:
            return [f"{kind}: {len(won)} of {self._thread_count} calls at once were told that they won"]
        for answer in answers:
            if isinstance(answer, StorageError) and not isinstance(answer, lost):
                raise answer
        if not won:
            return [f"{kind}: nobody won"]
        winner, etag = next(iter(won.items()))
        stored = self._store.read(key)
        if stored.data != first + b"-%d" % winner:
            return [f"{kind}: what is stored is not what the winner wrote"]
        if stored.etag != etag:
            return [f"{kind}: a write and a read name the same content by different etags"]
        return []


def _wins(act: Callable[[], object], lost: type[StorageError]) -> bool:
    try:
        act()
    except lost:
        return False
    return True
