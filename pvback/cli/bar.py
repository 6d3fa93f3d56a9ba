"""The progress bar of a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from pvback.cli.output import format_bytes, printable
from pvback.runtime import Counters, Progress

__all__ = ["BarProgress", "drawing", "drawing_many"]


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
def drawing() -> Iterator[Progress]:
    """A bar on standard error, gone when it is done."""
    with Bar(*_columns(), console=Console(stderr=True), transient=True) as bar:
        yield BarProgress(bar, bar.add_task("starting", total=None, facts=""))


@contextmanager
def drawing_many(names: Sequence[str]) -> Iterator[Mapping[str, Progress]]:
    """A bar for each name, likewise."""
    columns = (TextColumn("{task.fields[name]}", markup=False), *_columns())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield {
            name: BarProgress(bar, bar.add_task("waiting", total=None, facts="", name=printable(name)))
            for name in names
        }


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeRemainingColumn(),
    )
