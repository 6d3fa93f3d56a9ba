"""Clock, randomness, cancellation and progress: the effects that tests and the simulator replace.

Nothing else in pvback reads a clock, sleeps or draws a random number. Wall time is for people and for
labels; decisions that must not go wrong never rest on it.
"""

import json
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pvback.errors import Interrupted

__all__ = [
    "Cancel",
    "Clock",
    "Counters",
    "ManualClock",
    "NoProgress",
    "Progress",
    "Random",
    "SeededRandom",
    "SystemClock",
    "SystemRandom",
    "current_cancel",
    "parse_counters",
    "waiting_under",
]


class Clock(Protocol):
    """Time as the process sees it. Safe to use from several threads."""

    def now(self) -> datetime:
        """The wall clock, in UTC. May jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def sleep(self, seconds: float, cancel: "Cancel | None" = None) -> None:
        """Return after `seconds`, or raise Interrupted as soon as `cancel` is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float, cancel: "Cancel | None" = None) -> None:
        """Return after `seconds`, or raise Interrupted as soon as `cancel` is set."""
        if cancel is None:
            time.sleep(seconds)
        else:
            cancel.wait(seconds)


class ManualClock:
    """A clock that moves only when told to, or when somebody sleeps on it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The start plus what has passed."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Seconds that have passed."""
        with self._lock:
            return self._seconds

    def sleep(self, seconds: float, cancel: "Cancel | None" = None) -> None:
        """Let `seconds` pass at once."""
        if cancel is not None:
            cancel.check()
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass; not negative."""
        assert seconds >= 0, "time does not go back"
        with self._lock:
            self._seconds += seconds


class Random(Protocol):
    """Where random numbers come from. Keys and nonces are drawn in the native module, never here."""

    def bytes(self, count: int) -> bytes:
        """`count` bytes, for names that must not collide."""
        ...

    def below(self, bound: int) -> int:
        """A whole number in [0, bound), each as likely as the next; bound is positive."""
        ...

    def fraction(self) -> float:
        """A number in [0, 1)."""
        ...


class SystemRandom:
    """The operating system's generator. Safe to use from several threads and after a fork."""

    def bytes(self, count: int) -> bytes:
        """`count` bytes that nobody can guess."""
        return os.urandom(count)

    def below(self, bound: int) -> int:
        """A whole number in [0, bound)."""
        # Not by the library's `secrets`: it brings OpenSSL, which takes longer to load than all else here.
        bits = (bound - 1).bit_length()
        while (number := self._bits(bits)) >= bound:
            pass
        return number

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._bits(53) / (1 << 53)

    @staticmethod
    def _bits(count: int) -> int:
        """A whole number of so many random bits."""
        byte_count = (count + 7) // 8
        return int.from_bytes(os.urandom(byte_count)) >> (8 * byte_count - count)


class SeededRandom:
    """The same numbers from the same seed, for tests and simulations. One user at a time keeps the order."""

    def __init__(self, seed: int) -> None:
        # Loaded here: only tests and simulations come by.
        import random  # noqa: PLC0415

        self.seed = seed
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose, never used for secrets

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._random.randbytes(count)

    def below(self, bound: int) -> int:
        """The next whole number in [0, bound)."""
        return self._random.randrange(bound)

    def fraction(self) -> float:
        """The next number in [0, 1)."""
        return self._random.random()


class Cancel:
    """A request to stop that is made once and never taken back. Safe from threads and signal handlers."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason = "interrupted"

    def set(self, reason: str = "interrupted") -> None:
        """Ask everybody who holds this token to stop; the first reason is kept."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether stopping was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise Interrupted if stopping was asked for."""
        if self._event.is_set():
            raise Interrupted(self._reason)

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or raise Interrupted as soon as stopping is asked for."""
        if self._event.wait(seconds):
            raise Interrupted(self._reason)


_WAITS: ContextVar[Cancel | None] = ContextVar("pvback_waits", default=None)


@contextmanager
def waiting_under(cancel: Cancel) -> Generator[None, None, None]:
    """What this thread waits for meanwhile, deep in a store perhaps, it waits for until `cancel` is set.

    For threads that serve somebody who may give up: stores are opened long before it is known who.
    """
    token = _WAITS.set(cancel)
    try:
        yield
    finally:
        _WAITS.reset(token)


def current_cancel() -> Cancel | None:
    """What ends the waits of this thread, if there is anything."""
    return _WAITS.get()


@dataclass(frozen=True, slots=True)
class Counters:
    """How far a long job is. Totals are None until they are known."""

    phase: str
    done_bytes: int = 0
    total_bytes: int | None = None
    done_count: int = 0
    total_count: int | None = None
    new_bytes: int = 0
    stored_bytes: int = 0
    error_count: int = 0
    current: str | None = None


def parse_counters(text: str) -> Counters:
    """A job's counters. What it does not count is as if nothing had been done."""
    raw: dict[str, Any] = json.loads(text)

    def total(*names: str) -> int:
        return sum(int(raw.get(name) or 0) for name in names)

    return Counters(
        phase=str(raw.get("phase") or ""),
        # A large file counts in `bytes` when it is done, and in the others while it is read.
        done_bytes=max(total("bytes"), total("bytes_read", "bytes_sparse"), total("bytes_done")),
        total_bytes=raw.get("bytes_total"),
        done_count=total("files", "directories", "others", "items_done"),
        total_count=raw.get("items_total"),
        new_bytes=total("bytes_new"),
        stored_bytes=total("bytes_stored"),
        error_count=total("errors"),
        current=raw.get("current"),
    )


class Progress(Protocol):
    """Who hears how far a long job is. Called from one thread, at most every `limits.PROGRESS_SECONDS`."""

    def update(self, counters: Counters) -> None:
        """Show `counters`; they replace the last ones. Quick, and raises nothing."""
        ...

    def warn(self, what: str) -> None:
        """Tell the user something that the job goes on in spite of."""
        ...


class NoProgress:
    """Nobody is listening."""

    def update(self, counters: Counters) -> None:
        """Nothing."""

    def warn(self, what: str) -> None:
        """Nothing."""
