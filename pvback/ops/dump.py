"""Writing one file of a snapshot to a stream."""

from typing import BinaryIO

from pvback.ops.reading import stream_reading, tree_options
from pvback.ops.rows import encode_path
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot
from pvback.runtime import Cancel

__all__ = ["dump_file"]


def dump_file(
    access: RepositoryAccess,
    snapshot: CommittedSnapshot,
    *,
    path: str,
    output: BinaryIO,
    cancel: Cancel | None = None,
) -> int:
    """Write a file's content to `output`, every chunk checked before, and return how many bytes.

    For a snapshot of a single file, the path is empty. Holes are written as zeros. After an error `output`
    has got a correct beginning of the file. Raises PvbackError when `path` is no file, DamagedError,
    StorageError, and what `output` raises.
    """
    count = 0
    options = {**tree_options(snapshot), "path_b64": encode_path(path)}
    for kind, data in stream_reading(access, "dump", options=options, cancel=cancel):
        if kind == "bytes":
            output.write(data)
            count += len(data)
    return count
