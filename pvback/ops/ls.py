"""Listing what is in a snapshot."""

from collections.abc import Iterator

from pvback.ops.reading import stream_reading, tree_options
from pvback.ops.rows import Node, encode_path, parse_lines
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot
from pvback.runtime import Cancel

__all__ = ["list_nodes"]


def list_nodes(
    access: RepositoryAccess,
    snapshot: CommittedSnapshot,
    *,
    path: str = "",
    recursive: bool = False,
    cancel: Cancel | None = None,
) -> Iterator[Node]:
    """The node at `path` and, if it is a directory, its entries in byte order; all below it with `recursive`.

    Nodes come as they are read. Raises PvbackError when there is no such path, StorageError, and DamagedError
    after all that could be read.
    """
    options = {**tree_options(snapshot), "subtree_b64": encode_path(path), "recursive": recursive}
    for kind, data in stream_reading(access, "list", options=options, cancel=cancel):
        if kind == "rows":
            yield from map(Node.from_json, parse_lines(data))
