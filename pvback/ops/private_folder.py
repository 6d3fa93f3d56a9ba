"""A folder for what nobody else may see: in memory where there is room for it, and gone at the end.

It is removed on every way out that a program can take. What a killed one has left is removed by the next.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pvback import limits
from pvback.errors import FileError
from pvback.runtime import Clock

__all__ = ["private_files"]

_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of its own is made in it
_PREFIX = "pvback-private-"
_MOUNTS = Path("/proc/self/mounts")


@contextlib.contextmanager
def private_files(files: Mapping[str, bytes], *, clock: Clock) -> Iterator[Path]:
    """A folder with these files, for the owner alone, and with times that say nothing. Raises FileError."""
    parent = _choose_parent(files)
    _remove_leftovers(parent, now=clock.now().timestamp())
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as exc:
        raise FileError(f"no private folder: {exc.strerror}", key=str(parent)) from exc
    try:
        with _held(folder):
            try:
                _write(folder / "files", files)
            except OSError as exc:
                raise FileError(f"a private folder: {exc.strerror}", key=str(folder)) from exc
            yield folder / "files"
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            # Somebody is impatient.
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _choose_parent(files: Mapping[str, bytes]) -> Path:
    """Memory, if it has twice the room that is needed."""
    count = len(files) + len({Path(path).parent for path in files})
    pages = sum(-(-len(data) // limits.FILE_PAGE_BYTES) for data in files.values())
    needed = 2 * (pages + count) * limits.FILE_PAGE_BYTES
    with contextlib.suppress(OSError):
        if _is_in_memory() and os.access(_MEMORY, os.W_OK | os.X_OK):
            room = os.statvfs(_MEMORY)
            if room.f_bavail * room.f_frsize >= needed:
                return _MEMORY
    return Path(tempfile.gettempdir())


def _is_in_memory() -> bool:
    lines = _MOUNTS.read_text().splitlines()
    return any(line.split()[1:3] == [str(_MEMORY), "tmpfs"] for line in lines)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Say that somebody uses it, for as long as this process lives."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path, *, now: float) -> None:
    """Remove folders of ours that nobody uses, unless they are so young that somebody may be about to."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.geteuid() or now - found.st_mtime < limits.PRIVATE_FOLDER_SECONDS:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)


def _write(root: Path, files: Mapping[str, bytes]) -> None:
    root.mkdir(mode=0o700)
    for path, data in files.items():
        target = root / path
        for parent in reversed(target.relative_to(root).parents[:-1]):
            (root / parent).mkdir(mode=0o700, exist_ok=True)
        target.touch(0o600, exist_ok=False)
        target.write_bytes(data)
    for one in sorted(root.rglob("*"), reverse=True):
        os.utime(one, (0, 0))
    os.utime(root, (0, 0))
