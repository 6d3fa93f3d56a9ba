"""Results on standard output: tables or JSON. Everything else goes to standard error."""

import base64
import dataclasses
import enum
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pvback.errors import PvbackError
from pvback.model import StoreUsage

__all__ = [
    "Output",
    "format_bytes",
    "format_count",
    "format_moment",
    "format_usage",
    "is_terminal",
    "print_error",
    "printable",
    "to_json",
]


def printable(text: str) -> str:
    """Text that does no harm to a terminal: controls and undecodable bytes become escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(one: str) -> str:
    if "\udc80" <= one <= "\udcff":
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode("ascii")


def is_terminal() -> bool:
    """Whether results are read by a person, now."""
    return sys.stdout.isatty()


def format_bytes(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def format_usage(usage: StoreUsage) -> str:
    """What was asked of a store, in one line; what did not happen is not mentioned."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(usage.requests.items()))
    facts = [f"{format_count(usage.request_count, 'request')} ({kinds})" if kinds else "no requests"]
    if usage.retry_count:
        facts.append(f"{usage.retry_count} repeated")
    if usage.hedge_count:
        facts.append(f"{usage.hedge_count} late and asked twice")
    facts.append(f"{format_bytes(usage.sent_bytes)} sent, {format_bytes(usage.received_bytes)} received")
    return "; ".join(facts)


def format_moment(time: datetime) -> str:
    """A time for people, in the machine's zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def to_json(value: object) -> Any:  # noqa: ANN401 - JSON has no type
    """Values of the API as JSON: fields by name, times as RFC 3339."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, PvbackError):
        return value.as_dict()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): to_json(one) for name, one in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Path):
        return os.fspath(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(one) for one in value]
    return value


class Output:
    """One command's results."""

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet

    @staticmethod
    def can_ask() -> bool:
        """Whether there is somebody to ask."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def document(self, value: object) -> None:
        """The one JSON document that answers a question."""
        click.echo(json.dumps(to_json(value), indent=2 if sys.stdout.isatty() else None))

    def message(self, kind: str, value: object) -> None:
        """One JSON line of a long job."""
        click.echo(json.dumps({"message_type": kind, **to_json(value)}))

    def summary(self, value: object, usage: StoreUsage) -> None:
        """The last JSON line of a long job, with what it asked of the store under `store`."""
        self.message("summary", {**to_json(value), "store": usage})

    def stream(self, values: Iterable[object], show: Callable[[Any], str]) -> int:
        """Many results as they come: a line each, or a JSON array that grows. Returns how many."""
        count = 0
        for value in values:
            if self.is_json:
                click.echo(("[" if count == 0 else ",\n") + json.dumps(to_json(value)), nl=False)
            else:
                click.echo(printable(show(value)))
            count += 1
        if self.is_json:
            click.echo("]" if count else "[]")
        return count

    def line(self, text: str) -> None:
        """A result for people."""
        if not self.is_json:
            click.echo(printable(text))

    def remark(self, text: str) -> None:
        """Something beside the result, for people."""
        if not self.is_json and not self.is_quiet:
            click.echo(printable(text), err=True)

    def warn(self, what: str) -> None:
        """Something that went wrong while the command goes on."""
        if self.is_json:
            click.echo(json.dumps({"message_type": "warning", "what": what}), err=True)
        else:
            click.echo(f"warning: {printable(what)}", err=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under a header; cut to the width of a terminal, whole elsewhere."""
        cells = [[printable(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
            for row in (header, *cells):
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                click.echo(line.rstrip())
            return
        # Loaded here: most commands print no table.
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in header:
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)


def print_error(error: PvbackError, *, is_json: bool) -> None:
    """What went wrong, to standard error: the same facts for people and for programs."""
    if is_json:
        click.echo(json.dumps({"message_type": "error", **error.as_dict()}), err=True)
        return
    click.echo(f"error: {printable(str(error))}", err=True)
    if error.hint:
        click.echo(f"\nhint: {printable(error.hint)}", err=True)
