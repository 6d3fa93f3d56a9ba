"""What people see on a terminal."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from pvback.cli.bar import BarProgress
from pvback.cli.output import Output, format_bytes, printable, to_json
from pvback.cli.progress import JsonProgress
from pvback.cli.values import parse_percent, parse_tag_filters, parse_tags
from pvback.errors import DamagedError, UsageError
from pvback.runtime import Counters, ManualClock

COUNTERS = Counters(
    phase="reading",
    done_bytes=1 << 20,
    total_bytes=4 << 20,
    done_count=7,
    new_bytes=1 << 18,
    stored_bytes=1 << 17,
)


def test_a_bar_shows_everything() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, color_system=None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console) as bar:
        shown = BarProgress(bar, bar.add_task("", total=None, facts=""))
        shown.update(COUNTERS)
        shown.warn("[red]\x1b[2Jname\udcff: gone")
        bar.refresh()
    out = text.getvalue()
    for part in (
        "reading",
        "7 files",
        "75% known",
        "128.0 KiB stored",
        "warning: [red]\\x1b[2Jname\\xff: gone",
    ):
        assert part in out, part


def test_json_progress_says_something_each_second(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    progress = JsonProgress(Output(is_json=True), clock=clock)
    for _ in range(25):
        clock.advance(0.1)
        progress.update(COUNTERS)
    progress.warn("careful")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message_type"] for line in lines] == ["status", "status", "warning"]
    assert lines[0]["done_bytes"] == 1 << 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain äß", "plain äß"), ("a\nb\t", "a\\nb\\t"), ("\udc80", "\\x80"), ("\x9b1m", "\\x9b1m")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_sizes_for_people() -> None:
    assert [format_bytes(count) for count in (0, 1023, 1024, 1.5 * 1024**3, 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
        "1024.0 TiB",
    ]


def test_json_of_values() -> None:
    error = DamagedError("torn", key="k", hint="look")
    assert to_json([error, Path("/x"), {"a": (1, None)}]) == [error.as_dict(), "/x", {"a": [1, None]}]


def test_option_values() -> None:
    assert parse_tags(["a=b", "c"]) == {"a": "b", "c": ""}
    assert parse_tag_filters(["a=b", "c"]) == {"a": "b", "c": None}
    assert (parse_percent("10%"), parse_percent("2.5"), parse_percent(None)) == (10.0, 2.5, None)
    for bad in (["=x"], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            parse_tags(bad)
    for share in ("0", "101%", "x", "-1"):
        with pytest.raises(UsageError):
            parse_percent(share)
