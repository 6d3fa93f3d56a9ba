"""Small files in the cache directory that several processes read and replace."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locked", "replace_json"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from replacing `path`. Its folder has to be there. Raises OSError."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_json(path: Path, raw: object) -> None:
    """Replace `path` whole, under its lock; only its owner may read it. Raises OSError."""
    # The lock is held: whoever left a file of this name is no longer writing it.
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(raw, file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
