"""What changed between two snapshots."""

from collections.abc import Iterator

from pvback.ops.reading import stream_reading, tree_options
from pvback.ops.rows import Change, parse_changes, parse_lines
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot
from pvback.runtime import Cancel

__all__ = ["diff_snapshots"]


def diff_snapshots(
    access: RepositoryAccess, *, old: CommittedSnapshot, new: CommittedSnapshot, cancel: Cancel | None = None
) -> Iterator[Change]:
    """Differences in path order; trees that are the same are not read. Raises DamagedError, StorageError."""
    options = {"old": tree_options(old), "new": tree_options(new)}
    for kind, data in stream_reading(access, "diff", options=options, cancel=cancel):
        if kind == "rows":
            yield from parse_changes(parse_lines(data))
