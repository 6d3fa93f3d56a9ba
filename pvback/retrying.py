"""When to ask a store again, and creating objects of our own although answers may be lost.

Below stores and the data path, which both need it: nothing here knows what is stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pvback import limits
from pvback.errors import ObjectExists, ObjectNotFound, StorageError, StorageUnavailable
from pvback.runtime import Cancel, Clock, Random, SystemRandom, current_cancel

__all__ = [
    "Attempts",
    "CreatingStore",
    "ListedObject",
    "Patience",
    "WholeObject",
    "create_own",
    "plan_pause",
]


class WholeObject(Protocol):
    """An object that was read whole."""

    @property
    def data(self) -> bytes:
        """Its bytes."""
        ...


class ListedObject(Protocol):
    """What a list says of an object."""

    @property
    def key(self) -> str:
        """Its name."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...


class CreatingStore(Protocol):
    """What it takes to create an object; see `pvback.storage.ObjectStore` for what each promises."""

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        """Write an object that does not exist yet. Raises ObjectExists, StorageUnavailable, StorageError."""
        ...

    def read(self, key: str) -> WholeObject:
        """Read an object whole. Raises ObjectNotFound."""
        ...

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """Objects below `prefix` that come after `after`, in the order of their keys."""
        ...


def plan_pause(attempt: int, fraction: float, *, least: float | None = None) -> float:
    """Seconds to wait after the failed attempt number `attempt`, counted from 0.

    Doubles from `RETRY_SECONDS_MIN` to `RETRY_SECONDS_MAX`; `fraction` in [0, 1) places it in the upper half
    of that, so that clients which failed together do not come back together. With `least`, which a store
    that is asked too much may give, it doubles from there, and is never less.
    """
    first = limits.RETRY_SECONDS_MIN if least is None else least
    ceiling = max(min(limits.RETRY_SECONDS_MAX, first * 2.0 ** min(attempt, 30)), first)
    pause = ceiling * (1.0 + fraction) / 2
    return pause if least is None else max(pause, least * (1.0 + fraction / 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How an attempt that had no answer is made again; one for all that speak to one store.

    What comes of an attempt is never decided here, only when there is another one.
    """

    random: Random = field(default_factory=SystemRandom)
    """Spreads the pauses, so that writers who failed together do not come back together."""
    deadline_seconds: float = limits.RETRY_DEADLINE_SECONDS
    """No attempt begins later than that after the first one."""
    cancel: Cancel = field(default_factory=Cancel)
    """Ends every wait with Interrupted: nobody waits for the outcome any more. Not a wish to stop in order,
    which may take writes, and their repetition."""

    def begin(self, clock: Clock) -> "Attempts":
        """Before the first attempt."""
        return Attempts(self, clock)

    def check(self) -> None:
        """Raise Interrupted when nobody waits any more."""
        self.cancel.check()
        if (waits := current_cancel()) is not None:
            waits.check()


class Attempts:
    """Those of one request, by one thread."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        self._patience, self._clock = patience, clock
        self._began = clock.monotonic()
        self._failed_count = 0

    def plan(self, exc: StorageError, *, count_max: int = limits.RETRY_COUNT_MAX) -> float | None:
        """Seconds until the next attempt, after one more has failed; None when there is to be none.

        There are at most `count_max` after the first. A store that asks for a pause is given it.
        """
        least = exc.pause_seconds if isinstance(exc, StorageUnavailable) else None
        pause = plan_pause(self._failed_count, self._patience.random.fraction(), least=least)
        left = self._began + self._patience.deadline_seconds - self._clock.monotonic()
        if self._failed_count >= count_max or pause >= left:
            return None
        self._failed_count += 1
        return pause

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`, or raise Interrupted as soon as nobody waits any more."""
        self._patience.check()
        self._clock.sleep(seconds, current_cancel() or self._patience.cancel)

    def wait(self, exc: StorageError, *, count_max: int = limits.RETRY_COUNT_MAX) -> bool:
        """Wait until the next attempt; False, at once, when there is to be none."""
        pause = self.plan(exc, count_max=count_max)
        if pause is None:
            return False
        self.sleep(pause)
        return True


def create_own(
    store: CreatingStore,
    key: str,
    *,
    data: bytes | bytearray | memoryview,
    clock: Clock,
    patience: Patience | None = None,
    is_random: bool = False,
) -> None:
    """Create an object under a name that nobody else uses. Lost answers are settled by looking.

    With `is_random` the name is 128 bits by chance: where its object may not be read (writers read no packs)
    a list that shows it with as many bytes settles it, too.

    Raises ObjectExists when something else has that name; StorageUnavailable when `patience` is at its end,
    and Interrupted when nobody waits any more: both leave open whether it is there, or will be.
    """
    attempts = (patience or Patience()).begin(clock)
    while True:
        try:
            store.create(key, data)
            return
        except ObjectExists:
            if _is_ours(store, key, data, is_random=is_random):
                return
            raise
        except StorageUnavailable as exc:
            if not attempts.wait(exc):
                raise


def _is_ours(
    store: CreatingStore, key: str, data: bytes | bytearray | memoryview, *, is_random: bool
) -> bool:
    """Whether what has this name is what we wrote and heard nothing of."""
    try:
        return bool(store.read(key).data == data)
    except ObjectNotFound:
        # It was there, and ours as the name is. Who removed it has ended this session or merged the run: the
        # next compare-and-swap tells.
        return True
    except StorageUnavailable:
        raise
    except StorageError:
        if not is_random:
            raise
    # Few names begin like this one.
    for found in store.list_objects(key[: key.rfind("/") + 1], after=key[:-1]):
        if found.key == key:
            return found.size == memoryview(data).nbytes
        if found.key > key:
            break
    # Not there any more: as above.
    return True
