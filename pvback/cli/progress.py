"""Progress of long jobs: a bar on a terminal, JSON lines with `--json`, nothing otherwise."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from pvback.cli.output import Output, format_bytes, printable
from pvback.errors import Interrupted
from pvback.runtime import Cancel, Clock, Counters, Progress, SystemClock

__all__ = ["JsonProgress", "stopping", "watching"]

_JSON_SECONDS = 1.0


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


class BarProgress:
    """A bar with bytes, files, rate, deduplication and the time left."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def update(self, counters: Counters) -> None:
        """See `Progress.update`."""
        parts = [f"{counters.done_count} files"]
        if counters.done_bytes and counters.new_bytes < counters.done_bytes:
            parts.append(f"{100 - 100 * counters.new_bytes // counters.done_bytes}% known")
        if counters.stored_bytes:
            parts.append(f"{format_bytes(counters.stored_bytes)} stored")
        if counters.error_count:
            parts.append(f"{counters.error_count} errors")
        self._bar.update(
            self._task,
            completed=counters.done_bytes,
            total=counters.total_bytes,
            description=counters.phase or "starting",
            facts=", ".join(parts),
        )

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._bar.console.print(f"warning: {printable(what)}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watching(output: Output) -> Iterator[Progress]:
    """The progress that suits where the output goes."""
    if output.is_json:
        yield JsonProgress(output)
    elif output.is_quiet or not sys.stderr.isatty():
        yield QuietProgress(output)
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            yield BarProgress(bar, bar.add_task("starting", total=None, facts=""))


@contextmanager
def stopping() -> Iterator[Cancel]:
    """A wish to stop that SIGINT and SIGTERM express; the second one does not wait for order.

    The handlers that were there come back on leaving.
    """
    cancel = Cancel()

    def handle(number: int, _: FrameType | None) -> None:
        if cancel.is_set:
            raise Interrupted("interrupted twice; the last checkpoint may be missing")
        cancel.set(f"interrupted by {signal.Signals(number).name}")

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
