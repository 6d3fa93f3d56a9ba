"""Commands that look: `snapshots`, `ls`, `find`, `diff`, `stats`."""

import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count, format_moment, format_usage, to_json
from pvback.cli.values import parse_tag_filters
from pvback.errors import PvbackError
from pvback.ops.diff import diff_snapshots
from pvback.ops.find import Match, find_nodes
from pvback.ops.ls import list_nodes
from pvback.ops.reading import find_in, split_snapshot_path
from pvback.ops.rows import Change, Node
from pvback.ops.snapshots import SnapshotFilter, SnapshotInfo, list_snapshots
from pvback.ops.stats import repository_stats
from pvback.repository.snapshots import CommittedSnapshot, find_snapshot

__all__ = ["diff", "find", "ls", "snapshots", "stats"]

_KIND_BITS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "chardev": stat.S_IFCHR,
    "blockdev": stat.S_IFBLK,
}
_CHANGE_MARKS = {"added": "+", "removed": "-", "content": "M", "attributes": "U", "kind": "T"}


@click.command(epilog=exit_codes())
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--source", metavar="SOURCE", help="Only of this source: its string, path or name.")
@click.option("--host", metavar="NAME", help="Only of this machine.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only with this tag.")
@click.option("--latest", type=click.IntRange(1), metavar="N", help="Only the newest N of each source.")
@click.option("--forgotten", "is_forgotten", is_flag=True, help="Those that can still be brought back.")
@global_options()
@pass_invocation
def snapshots(
    invocation: Invocation,
    ids: tuple[str, ...],
    *,
    source: str | None,
    host: str | None,
    tags: tuple[str, ...],
    latest: int | None,
    is_forgotten: bool,
) -> int:
    """List snapshots, oldest first."""
    output = invocation.output
    wanted = SnapshotFilter(source=source, host=host, tags=parse_tag_filters(tags))
    with invocation.repository() as access:
        found = list_snapshots(access, wanted=wanted, latest=latest, is_forgotten=is_forgotten)
        shown = list(found.snapshots)
        if ids:
            catalog = access.catalog()
            searched = catalog.forgotten if is_forgotten else catalog.snapshots
            named = {find_snapshot(searched, one, source=source).id for one in ids}
            shown = [one for one in shown if one.id in named]
    if output.is_json:
        output.document(shown)
    elif shown:
        header = ("ID", "TIME", "SOURCE", "FILES", "SIZE", "TAGS")
        output.table(header, [_snapshot_row(one) for one in shown])
    else:
        output.remark("there are no snapshots")
    return _tell_damaged(output, found.damaged)


def _tell_damaged(output: Output, damaged: Sequence[PvbackError]) -> int:
    """Name the snapshots that do not open and are missing from a result; returns the exit code."""
    for problem in damaged:
        output.warn(str(problem))
    return damaged[0].exit_code if damaged else 0


def _snapshot_row(one: SnapshotInfo) -> tuple[str, ...]:
    tags = ",".join(f"{key}={value}" if value else key for key, value in (one.tags or {}).items())
    return (
        one.id[:8],
        format_moment(one.time),
        one.source or "(not readable with this key)",
        str(one.stats.file_count) if one.stats else "",
        "" if one.size_bytes is None else format_bytes(one.size_bytes),
        tags,
    )


@click.command(epilog=exit_codes())
@click.argument("snapshot", metavar="SNAP[:PATH]")
@click.option("--source", metavar="SOURCE", help="Whose `latest`.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Mode, owner, size and time, too.")
@click.option("-R", "--recursive", is_flag=True, help="All below PATH; without a PATH that is so anyway.")
@global_options()
@pass_invocation
def ls(invocation: Invocation, snapshot: str, *, source: str | None, is_long: bool, recursive: bool) -> int:
    """List what is in a snapshot. SNAP is the beginning of an id, or `latest`."""
    name, path = split_snapshot_path(snapshot)
    with invocation.repository() as access:
        found = find_in(access, name, source=source)
        nodes = list_nodes(access, found, path=path, recursive=recursive or not path)
        invocation.output.stream(nodes, _show_long if is_long else _show_path)
    return 0


def _show_path(node: Node) -> str:
    return f"/{node.path}"


def _show_long(node: Node) -> str:
    mode = stat.filemode(_KIND_BITS.get(node.kind, 0) | node.mode)
    arrow = f" -> {node.target}" if node.target is not None else ""
    time = _show_time(node.mtime_ns)
    return f"{mode} {node.uid:>6} {node.gid:>6} {node.size:>12} {time} /{node.path}{arrow}"


def _show_time(nanoseconds: int) -> str:
    """Nanoseconds since 1970; years that a calendar does not have are shown as seconds."""
    try:
        return format_moment(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000))
    except (OverflowError, ValueError, OSError):
        return f"@{nanoseconds // 10**9}"


@click.command(epilog=exit_codes())
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option("--snapshot", "ids", multiple=True, metavar="ID", help="Only in this snapshot.")
@click.option("--source", metavar="SOURCE", help="Only in snapshots of this source.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only in snapshots with this tag.")
@global_options()
@pass_invocation
def find(
    invocation: Invocation,
    patterns: tuple[str, ...],
    *,
    ids: tuple[str, ...],
    source: str | None,
    tags: tuple[str, ...],
) -> int:
    """Find files by name. A PATTERN with `/` is held against paths, one without against names."""
    with invocation.repository() as access:
        catalog = access.catalog()
        wanted = SnapshotFilter(source=source, tags=parse_tag_filters(tags))
        chosen: list[CommittedSnapshot] = [
            one for one in catalog.snapshots if one.details is not None and wanted.matches(one)
        ]
        if ids:
            named = {find_snapshot(catalog.snapshots, one, source=source).id for one in ids}
            chosen = [one for one in chosen if one.id in named]
        invocation.output.stream(find_nodes(access, chosen, patterns=patterns), _show_match)
    return _tell_damaged(invocation.output, () if ids else catalog.damaged)


def _show_match(match: Match) -> str:
    return f"{match.snapshot.id[:8]}  {format_moment(match.snapshot.time)}  /{match.node.path}"


@click.command(epilog=exit_codes())
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--source", metavar="SOURCE", help="Whose `latest`.")
@global_options()
@pass_invocation
def diff(invocation: Invocation, old: str, *, new: str, source: str | None) -> int:
    """Show what changed from one snapshot to another.

    The first column: + added, - removed, M content, U attributes only, T another kind of file.
    """
    with invocation.repository() as access:
        before, after = find_in(access, old, source=source), find_in(access, new, source=source)
        count = invocation.output.stream(diff_snapshots(access, old=before, new=after), _show_change)
    invocation.output.remark(format_count(count, "difference"))
    return 0


def _show_change(change: Change) -> str:
    return f"{_CHANGE_MARKS.get(change.change, '?')} /{change.node.path}"


@click.command(epilog=exit_codes())
@click.option(
    "--mode",
    type=click.Choice(["restore-size", "raw-data", "index"]),
    help="Also read the trees and count in them.",
)
@click.option("--source", metavar="SOURCE", help="Only snapshots of this source.")
@global_options()
@pass_invocation
def stats(invocation: Invocation, *, mode: str | None, source: str | None) -> int:
    """Show how large snapshots and repository are."""
    output = invocation.output
    with invocation.repository() as access:
        wanted = SnapshotFilter(source=source)
        catalog = access.catalog()
        chosen = [one for one in catalog.snapshots if wanted.matches(one)]
        found = repository_stats(access, chosen, mode=mode)
        usage = access.usage()
    if output.is_json:
        output.document({**to_json(found), "store": usage})
        return _tell_damaged(output, catalog.damaged)
    rows = [
        (name, str(area.object_count), format_bytes(area.stored_bytes)) for name, area in found.areas.items()
    ]
    total = sum(area.object_count for area in found.areas.values())
    output.table(("AREA", "OBJECTS", "SIZE"), [*rows, ("all", str(total), format_bytes(found.stored_bytes))])
    output.line(f"{format_count(found.snapshot_count, 'snapshot')} of {format_bytes(found.source_bytes)}")
    for name, value in found.trees.items():
        output.line(f"{name}: {format_bytes(value) if name.endswith('bytes') else value}")
    output.remark(f"this took {format_usage(usage)}")
    return _tell_damaged(output, catalog.damaged)
