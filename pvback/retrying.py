"""When to ask a store again, and creating objects of our own although answers may be lost.

Below stores and the data path, which both need it: nothing here knows what is stored.
"""

from typing import Protocol

from pvback import limits
from pvback.errors import ObjectExists, ObjectNotFound, StorageUnavailable
from pvback.runtime import Clock

__all__ = ["CreatingStore", "WholeObject", "create_own", "plan_pause"]


class WholeObject(Protocol):
    """An object that was read whole."""

    @property
    def data(self) -> bytes:
        """Its bytes."""
        ...


class CreatingStore(Protocol):
    """What it takes to create an object; see `pvback.storage.ObjectStore` for what each promises."""

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        """Write an object that does not exist yet. Raises ObjectExists, StorageUnavailable, StorageError."""
        ...

    def read(self, key: str) -> WholeObject:
        """Read an object whole. Raises ObjectNotFound."""
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


def create_own(store: CreatingStore, key: str, *, data: bytes | bytearray | memoryview, clock: Clock) -> None:
    """Create an object under a name that nobody else uses. Lost answers are settled by looking.

    Raises ObjectExists when something else has that name; StorageUnavailable when no answer comes within
    `limits.RETRY_DEADLINE_SECONDS`.
    """
    attempt, began = 0, clock.monotonic()
    while True:
        try:
            store.create(key, data)
            return
        except ObjectExists:
            try:
                found = store.read(key).data
            except ObjectNotFound:
                # It was there, and ours as the name is. Who removed it has ended this session or merged
                # the run: the next compare-and-swap tells.
                return
            if found == data:
                return
            raise
        except StorageUnavailable as exc:
            pause = plan_pause(attempt, 0.5, least=exc.pause_seconds)
            left = began + limits.RETRY_DEADLINE_SECONDS - clock.monotonic()
            if attempt >= limits.RETRY_COUNT_MAX or pause >= left:
                raise
            clock.sleep(pause)
        attempt += 1
