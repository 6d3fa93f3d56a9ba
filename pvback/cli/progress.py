"""Progress of long jobs: a bar on a terminal, JSON lines with `--json`, nothing otherwise."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pvback.cli.output import Output
from pvback.errors import Interrupted
from pvback.runtime import Cancel, Clock, Counters, Progress, SystemClock

__all__ = ["JsonProgress", "ending_at_once", "stopping", "watching"]

_JSON_SECONDS = 1.0
_WAITS: list[Cancel] = []
"""What a second signal ends: the waits for stores that are open at that moment."""


class JsonProgress:
    """A line a second with `message_type` status, and one for each warning."""

    def __init__(self, output: Output, *, clock: Clock | None = None) -> None:
        self._output = output
        self._clock = clock or SystemClock()
        self._next = self._clock.monotonic() + _JSON_SECONDS
        self._lock = threading.Lock()

    def update(self, counters: Counters) -> None:
        """See `Progress.update`."""
        now = self._clock.monotonic()
        if now >= self._next:
            self._next = now + _JSON_SECONDS
            with self._lock:
                self._output.message("status", counters)

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        with self._lock:
            self._output.message("warning", {"what": what})


class QuietProgress:
    """Warnings only."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def update(self, counters: Counters) -> None:
        """Nothing."""

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._output.warn(what)


@contextmanager
def watching(output: Output) -> Iterator[Progress]:
    """The progress that suits where the output goes."""
    if output.is_json:
        yield JsonProgress(output)
    elif output.is_quiet or not sys.stderr.isatty():
        yield QuietProgress(output)
    else:
        # Drawing takes a tenth of a second to load, which only a terminal is worth.
        from pvback.cli.bar import drawing  # noqa: PLC0415

        with drawing() as bar:
            yield bar


@contextmanager
def ending_at_once(waits: Cancel) -> Iterator[None]:
    """Until the end of this, `waits` is set by whatever ends the program without order: see `stopping`."""
    _WAITS.append(waits)
    try:
        yield
    finally:
        _WAITS.remove(waits)


@contextmanager
def stopping() -> Iterator[Cancel]:
    """A wish to stop that SIGINT and SIGTERM express; the second one does not wait for order.

    The handlers that were there come back on leaving.
    """
    cancel = Cancel()

    def handle(number: int, _: FrameType | None) -> None:
        if cancel.is_set:
            # The threads that this one waits for at its end must not wait for a store themselves.
            for waits in _WAITS:
                waits.set("interrupted twice")
            raise Interrupted("interrupted twice; what was being written may be there or not")
        cancel.set(f"interrupted by {signal.Signals(number).name}")

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
