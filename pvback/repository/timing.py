"""Commit and prune on a store without conditional writes: what conditions would decide, waiting decides.

Assumed of the store, the network and the machines, with generous bounds:

- What was answered has had its effect, and has no other one later. A request without an answer lands within
  `TIMED_LATE_SECONDS` or never. A list shows it within the store's bound.
- Nobody takes longer than `TIMED_SEND_SECONDS` from a look at its clocks to the request that was decided by
  it. Anywhere else a process may stand still for as long as it likes.
- Clocks run at about the same rate, and exactly one prune is configured for the repository, and runs once at
  a time.

What follows from them:

- A session takes note of a generation within `TIMED_ACK_SECONDS` of its view of the one before, and commits
  by a view that is younger than `TIMED_VIEW_SECONDS`. It reports a snapshot as saved when it then finds its
  register valid.
- A prune lets `TIMED_WAIT_SECONDS`, longer than all these bounds together, pass after each version of
  `gc/state` and after a fence. So old views have died out, and every write that was decided from one has
  landed and is seen. It does not sleep: it ends, and a later run goes on when that time has passed by the
  store's clock.
- While a version of `gc/state` is on its way, an object in `gc/` says so: a prune that was killed there
  leaves it, and the next one waits until that version has landed or never will.
- Nobody writes over a register while an earlier write of its own without an answer may still land.
- A forgotten snapshot is brought back only when no request to forget it can be under way, and before its
  grace is over; a prune ends it a wait after that.

Where a suspended pod or a proxy outlasts the bounds, a snapshot may lose chunks. `pvback check` finds that.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pvback import datapath, limits
from pvback.errors import ConflictError
from pvback.repository.layout import GC_STATE_NAME, Area, generation_name
from pvback.repository.sealed import ScopeObjects
from pvback.runtime import Clock

__all__ = ["Announcement", "View", "announced", "is_timed", "may_go_on", "require_undeletable"]

WAIT = timedelta(seconds=limits.TIMED_WAIT_SECONDS)
_SWAP = "swap-"
"""Names of announcements, after their generation."""


def is_timed(objects: ScopeObjects) -> bool:
    """Whether the store leaves everything to time."""
    capabilities = objects.store.capabilities
    return not (capabilities.can_create and capabilities.can_swap)


@dataclass(frozen=True, slots=True)
class View:
    """The moment before something was read, by two clocks: one stands still while a machine sleeps, and the
    other one may be set.
    """

    monotonic: float
    wall: datetime

    @classmethod
    def begin(cls, clock: Clock) -> "View":
        """Now: what is read from here on is no older."""
        return cls(clock.monotonic(), clock.now())

    def age(self, clock: Clock) -> float:
        """Seconds since, by the clock that says more."""
        return max(clock.monotonic() - self.monotonic, (clock.now() - self.wall) / timedelta(seconds=1))


def may_go_on(objects: ScopeObjects, now: datetime) -> datetime | None:
    """When a prune may go on; None when it may at the store's `now`.

    Enough time has to have passed since `gc/state` was written, and since another version was about to be.
    """
    written = [objects.store.head(objects.layout.key(GC_STATE_NAME)).mtime]
    written += [info.mtime for name, info in objects.list_area(Area.GC) if _is_announcement(name)]
    until = max(written) + WAIT
    return until if now < until else None


@contextlib.contextmanager
def announced(objects: ScopeObjects, generation: int, *, clock: Clock) -> Iterator[Callable[[], None] | None]:
    """While a version of `gc/state` is being written: what to call before each request, if anything.

    What was said stays when this ends with an error, as nobody knows then what has become of that version.
    """
    ahead = Announcement(objects, generation, clock=clock) if is_timed(objects) else None
    yield None if ahead is None else ahead.renew
    if ahead is not None:
        ahead.withdraw()


class Announcement:
    """Says in `gc/` that a version of `gc/state` of this generation may be on its way.

    `renew` before each request to write it; `withdraw` when what became of it is known.
    """

    def __init__(self, objects: ScopeObjects, generation: int, *, clock: Clock) -> None:
        self._objects = objects
        self._generation = generation
        self._clock = clock
        self._view: View | None = None
        self._keys: list[str] = []

    def renew(self) -> None:
        """See that there is one that is younger than a view may be. Raises StorageError."""
        while self._view is None or self._view.age(self._clock) > limits.TIMED_VIEW_SECONDS:
            self._view = View.begin(self._clock)
            name = f"{Area.GC}/{generation_name(self._generation, _SWAP + datapath.random_id())}"
            self._keys.append(self._objects.layout.key(name))
            self._objects.create_own(name, data=b"", clock=self._clock)

    def withdraw(self) -> None:
        """Remove what was said. Raises StorageError."""
        if self._keys:
            self._objects.store.delete_many(self._keys)


def require_undeletable(forgotten: datetime, now: datetime, *, key: str) -> None:
    """Raise ConflictError unless what was forgotten then can be brought back at the store's `now`."""
    if now - forgotten > timedelta(seconds=limits.FORGET_GRACE_SECONDS):
        # A prune may be about to end it.
        raise ConflictError("the grace of a forgotten snapshot is over", key=key)
    if now - forgotten < timedelta(seconds=limits.TIMED_LATE_SECONDS):
        raise ConflictError(
            "a snapshot was forgotten only a moment ago, and this store has no conditional writes",
            key=key,
            hint="bring it back half an hour after that",
        )


def _is_announcement(name: str) -> bool:
    return name[17:].startswith(_SWAP)
