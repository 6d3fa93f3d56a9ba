"""Finding files by name in many snapshots."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pvback.errors import DamagedError, UsageError
from pvback.ops.reading import stream_reading, tree_options
from pvback.ops.rows import Node, parse_lines
from pvback.ops.snapshots import SnapshotInfo, snapshot_info
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot
from pvback.runtime import Cancel

__all__ = ["Match", "find_nodes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A file that fits, and the snapshot that it is in."""

    snapshot: SnapshotInfo
    node: Node


def find_nodes(
    access: RepositoryAccess,
    snapshots: Sequence[CommittedSnapshot],
    *,
    patterns: Sequence[str],
    cancel: Cancel | None = None,
) -> Iterator[Match]:
    """Nodes that fit any of the glob patterns, snapshot by snapshot in the given order, in path order each.

    A pattern without `/` is held against names, one with `/` against paths. Raises UsageError without
    patterns, StorageError, and DamagedError after all that could be read.
    """
    if not patterns:
        raise UsageError("there is no pattern to look for")
    damaged: DamagedError | None = None
    for snapshot in snapshots:
        info = snapshot_info(snapshot)
        options = {**tree_options(snapshot), "patterns": list(patterns), "snapshot": snapshot.id}
        try:
            for kind, data in stream_reading(access, "find", options=options, cancel=cancel):
                if kind == "rows":
                    for row in parse_lines(data):
                        yield Match(snapshot=info, node=Node.from_json(row))
        except DamagedError as exc:
            damaged = damaged or exc
    if damaged is not None:
        raise damaged
