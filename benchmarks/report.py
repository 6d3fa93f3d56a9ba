"""Turn results into a markdown table and an SVG chart.

Both show medians over the rounds. *x best peer* is the median time of the fastest program other
than pvback divided by this program's: above 1 is faster than every peer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OWN = "pvback"
MB = 1e6
MIB = 1 << 20

HEADER = "| step | tool | s | MB/s | x best peer | CPU s | sync s | peak MiB | repo MiB | objects + | notes |"

COLORS = {
    "pvback": "#d9480f",
    "restic": "#4c78a8",
    "rustic": "#72b7b2",
    "kopia": "#8e9aaf",
    "kopia+zstd": "#5c6b8a",
    "borg": "#b5a267",
}
FALLBACK_COLOR = "#999999"

BAR_HEIGHT = 15
LABEL_WIDTH = 90
PANEL_WIDTH = 210
PANEL_GAP = 24
TITLE_HEIGHT = 16

Panels = tuple[str, "list[tuple[str, list[tuple[str, float]]]]"]
"""A heading, and under it panels: a title, and named values as bars."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians of one tool in one step on one corpus."""

    corpus: str
    step: str
    tool: str
    wall_seconds: float
    throughput: float
    """Source bytes a second, in MB/s; for an unchanged source as if it had been read."""
    cpu_seconds: float
    sync_seconds: float
    memory_mib: float
    repository_mib: float
    objects_written: float
    ratio: float
    """Time of the fastest peer by this tool's time; 0 when there is no peer."""
    notes: str


def summarize(results: Sequence[dict[str, Any]]) -> list[Row]:
    """One row per corpus, step and tool, in the order in which they first appear.

    A step that failed in any round yields a row of zeros whose notes say why.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        key = (result["corpus"], result["step"], result["tool"])
        groups.setdefault(key, []).append(result)
    best: dict[tuple[str, str], float] = {}
    for (corpus, step, tool), group in groups.items():
        if tool != OWN and not any(_failed(one) for one in group):
            wall = median(one["wall_seconds"] for one in group)
            best[corpus, step] = min(wall, best.get((corpus, step), wall))
    rows = [_row(key, group, best.get(key[:2])) for key, group in groups.items()]
    corpora = list(dict.fromkeys(row.corpus for row in rows))
    steps = list(dict.fromkeys(row.step for row in rows))
    order = list(COLORS)
    return sorted(
        rows,
        key=lambda row: (
            corpora.index(row.corpus),
            steps.index(row.step),
            order.index(row.tool) if row.tool in order else len(order),
        ),
    )


def write_reports(document: dict[str, Any], out: Path) -> str:
    """Write ``results.md`` and ``results.svg`` into ``out``; return the markdown."""
    rows = summarize(document["results"])
    text = render_markdown(document, rows)
    (out / "results.md").write_text(text)
    (out / "results.svg").write_text(render_svg(rows))
    return text


def render_markdown(document: dict[str, Any], rows: Sequence[Row]) -> str:
    """Machine, versions, and one table per corpus."""
    machine = document["machine"]
    rounds = 1 + max((one["round"] for one in document["results"]), default=0)
    conditions = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['file_system']}, "
        f"Linux {machine['kernel']}; load before: {machine['load_before']}; scale {document['scale']:g}, "
        f"seed {document['seed']}, medians of {rounds} round(s)."
    )
    lines = [conditions, ""]
    lines += [f"- {name}: {version}" for name, version in machine["versions"].items()]
    for corpus in dict.fromkeys(row.corpus for row in rows):
        first = next(one for one in document["results"] if one["corpus"] == corpus)
        size = first["source_bytes"] / MIB
        lines += ["", f"## {corpus}: {size:,.0f} MiB, {first['source_entries']:,} entries", ""]
        lines += [HEADER, "|---|---|" + "--:|" * (HEADER.count("|") - 4) + "---|"]
        lines += [_markdown_row(row) for row in rows if row.corpus == corpus]
    return "\n".join(lines) + "\n"


def render_svg(rows: Sequence[Row]) -> str:
    """A chart of results: per corpus and step four panels."""
    panels = (
        ("throughput, MB/s", "throughput"),
        ("CPU, s", "cpu_seconds"),
        ("peak memory, MiB", "memory_mib"),
        ("repository, MiB", "repository_mib"),
    )
    groups: list[Panels] = []
    for corpus, step in dict.fromkeys((row.corpus, row.step) for row in rows):
        group = [row for row in rows if (row.corpus, row.step) == (corpus, step)]
        values = [
            (title, [(row.tool, float(getattr(row, attribute))) for row in group])
            for title, attribute in panels
        ]
        groups.append((f"{corpus}: {step}", values))
    return render_panels(groups)


def render_panels(groups: Sequence[Panels]) -> str:
    """A chart without dependencies: per group panels of horizontal bars side by side."""
    parts: list[str] = []
    top = 24
    for heading, panels in groups:
        parts.append(_svg_text(8, top, heading, weight="bold"))
        for number, (title, values) in enumerate(panels):
            left = LABEL_WIDTH + number * (PANEL_WIDTH + PANEL_GAP)
            parts.append(_svg_text(left, top + TITLE_HEIGHT, title, fill="#666"))
            parts += _svg_bars(values, left, top + TITLE_HEIGHT + 8, with_labels=number == 0)
        bars = max((len(values) for _, values in panels), default=0)
        top += TITLE_HEIGHT + 8 + bars * BAR_HEIGHT + 34
    width = LABEL_WIDTH + max((len(panels) for _, panels in groups), default=0) * (PANEL_WIDTH + PANEL_GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" '
        f'viewBox="0 0 {width} {top}" font-family="sans-serif" font-size="11">'
    )
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


def _failed(result: dict[str, Any]) -> bool:
    return bool(result["error"] or result["damage"])


def _row(key: tuple[str, str, str], group: list[dict[str, Any]], best: float | None) -> Row:
    corpus, step, tool = key
    failed = [one for one in group if _failed(one)]
    if failed:
        reason = failed[0]["error"] or "wrong: " + ", ".join(failed[0]["damage"][:2])
        notes = "FAILED: " + " ".join(reason.split())[:160]
    else:
        notes = _lost_text([one["lost"] for one in group])

    def middle(name: str) -> float:
        return 0.0 if failed else float(median(one[name] for one in group))

    wall = middle("wall_seconds")
    size = median(one["source_bytes"] for one in group)
    return Row(
        corpus=corpus,
        step=step,
        tool=tool,
        wall_seconds=wall,
        throughput=size / MB / wall if wall else 0.0,
        cpu_seconds=middle("cpu_seconds"),
        sync_seconds=middle("sync_seconds"),
        memory_mib=middle("memory_bytes_peak") / MIB,
        repository_mib=middle("repository_bytes") / MIB,
        objects_written=middle("objects_written"),
        ratio=best / wall if best and wall else 0.0,
        notes=notes,
    )


def _lost_text(rounds: list[dict[str, int]]) -> str:
    """What a tool did not bring back, as ``not kept: 101 mtime``; the worst round counts."""
    worst: Counter[str] = Counter()
    for lost in rounds:
        worst |= Counter(lost)
    said = ", ".join(f"{count:,} {aspect}" for aspect, count in sorted(worst.items()))
    return f"not kept: {said}" if said else ""


def _markdown_row(row: Row) -> str:
    notes = row.notes.replace("|", "\\|")
    if not row.wall_seconds:
        return f"| {row.step} | {row.tool} | - | - | - | - | - | - | - | - | {notes} |"
    ratio = f"{row.ratio:.2f}" if row.ratio else "-"
    return (
        f"| {row.step} | {row.tool} | {row.wall_seconds:.2f} | {row.throughput:,.0f} | {ratio} "
        f"| {row.cpu_seconds:.2f} | {row.sync_seconds:.2f} | {row.memory_mib:,.0f} "
        f"| {row.repository_mib:,.1f} | {row.objects_written:,.0f} | {notes} |"
    )


def _svg_bars(values: list[tuple[str, float]], left: int, top: int, *, with_labels: bool) -> list[str]:
    """Bars scaled to the largest value, which takes three quarters of the panel."""
    largest = max((value for _, value in values), default=0.0) or 1.0
    parts = []
    for number, (tool, value) in enumerate(values):
        y = top + number * BAR_HEIGHT
        width = 0.75 * PANEL_WIDTH * value / largest
        color = COLORS.get(tool, FALLBACK_COLOR)
        if with_labels:
            parts.append(_svg_text(8, y + 11, tool))
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="{BAR_HEIGHT - 4}" fill="{color}"/>'
        )
        said = f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
        parts.append(_svg_text(left + width + 4, y + 11, said if value else "-", fill="#333"))
    return parts


def _svg_text(x: float, y: float, text: str, *, fill: str = "#000", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="{fill}" font-weight="{weight}">{escape(text)}</text>'
