"""A store in a directory: durable, safe for many processes, and whole after a kill at any moment.

An object is a file below the root. A write goes to a temporary file beside it, is flushed to the disk, takes
its name by a rename, and returns when the directory is on the disk too. Names that begin with a dot are the
store's own: `.tmp-*` are writes under way, `.lock` serialises, in each directory, the renames and removals
of all processes. That lock is held for the moment of a rename (for `swap`: of reading what is there), not
for the write, and while the names of a directory are read, so that a list sees each of them exactly once.

A reader may see an object a moment before it is durable. File systems with one journal keep the order in
which names changed, so what was decided from such an object does not outlive it.

The root may be on NFS (version 4, or 3 with its lock manager), where `flock` holds between machines.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from blake3 import blake3

from pvback import limits
from pvback.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
)
from pvback.runtime import Random, SystemRandom
from pvback.storage.base import (
    Capabilities,
    ObjectInfo,
    ReadBuffer,
    StoredObject,
    WriteBuffer,
    check_key,
    check_prefix,
)
from pvback.storage.durable import DirectorySync

__all__ = ["LocalStore"]

_LOCK = ".lock"
_TEMPORARY = ".tmp-"

_REFUSED = {
    errno.ENOSPC: ("no space left on the device", "free some space; what was written so far is complete"),
    errno.EDQUOT: ("the disk quota is used up", "free some space; what was written so far is complete"),
    errno.EROFS: ("the file system is read-only", None),
    errno.EACCES: ("permission denied", None),
    errno.EPERM: ("operation not permitted", None),
    errno.ENOTDIR: ("the name of a folder is taken by a file", None),
    errno.EISDIR: ("the name is taken by a folder", None),
    errno.ENAMETOOLONG: ("the name is too long for this file system", None),
    errno.EOPNOTSUPP: ("the file system has no file locks", "choose a directory on another file system"),
    errno.ENOSYS: ("the file system has no file locks", "choose a directory on another file system"),
    errno.ELOOP: ("a symbolic link is in the way", None),
}


class LocalStore:
    """Objects as files below `root`, a directory that exists; etags of small ones are BLAKE3 of the content.

    With `is_new`, the root's own name is flushed too. Raises OSError if that fails.
    """

    def __init__(self, root: Path, *, random: Random | None = None, is_new: bool = False) -> None:
        self._root = str(root.absolute())
        self._random = random or SystemRandom()
        self._sync = DirectorySync(self._root)
        if is_new:
            # A parent that may be entered but not read cannot be flushed by us.
            with contextlib.suppress(PermissionError):
                self._sync.flush(os.path.dirname(self._root))

    @property
    def address(self) -> str:
        """The root's path."""
        return self._root

    @property
    def capabilities(self) -> Capabilities:
        """Conditional writes are ours, lists are immediate."""
        return Capabilities()

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        with self._written(key, data) as (temporary, path), _locked(os.path.dirname(path)):
            os.rename(temporary, path)

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        if os.path.lexists(self._path(key)):
            raise ObjectExists("object exists already", key=key)
        with self._written(key, data) as (temporary, path), _locked(os.path.dirname(path)):
            if os.path.lexists(path):
                raise ObjectExists("object exists already", key=key)
            os.rename(temporary, path)
        return _etag(data)

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        assert etag, "an object without an etag is not swapped"
        assert memoryview(data).nbytes <= limits.SWAPPED_BYTES_MAX, "too big to be swapped"
        if not os.path.isfile(self._path(key)):
            raise ObjectChanged("object is gone", key=key)
        with self._written(key, data) as (temporary, path), _locked(os.path.dirname(path)):
            try:
                with open(path, "rb") as file:
                    found = _etag(file.read())
            except FileNotFoundError:
                raise ObjectChanged("object is gone", key=key) from None
            if found != etag:
                raise ObjectChanged("object has changed", key=key)
            os.rename(temporary, path)
        return _etag(data)

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        with _reading(key), open(self._path(key), "rb") as file:
            mtime = _mtime(os.fstat(file.fileno()))
            data = file.read()
        return StoredObject(data, _etag(data), mtime)

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        assert offset >= 0, "no object begins before 0"
        assert length >= 0, "a range is not of negative length"
        with _reading(key), open(self._path(key), "rb", buffering=0) as file:
            # Asking for no more than there is keeps a generous length from costing its memory.
            left = min(length, max(0, os.fstat(file.fileno()).st_size - offset))
            parts: list[bytes] = []
            while left and (part := os.pread(file.fileno(), left, offset)):
                parts.append(part)
                left -= len(part)
                offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`."""
        assert offset >= 0, "no object begins before 0"
        view = memoryview(buffer).cast("B")
        done = 0
        with _reading(key), open(self._path(key), "rb", buffering=0) as file:
            while done < len(view):
                count = os.preadv(file.fileno(), [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        return done

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        with _reading(key):
            status = os.stat(self._path(key))
        if stat.S_ISDIR(status.st_mode):
            raise ObjectNotFound("object not found", key=key)
        return _info(key, status)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. A page is the names of one directory."""
        check_prefix(prefix)
        folder, _, _ = prefix.rpartition("/")
        yield from self._walk(f"{folder}/" if folder else "", prefix, after)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`. Not flushed: a removal that a crash undoes is repeated by prune."""
        path = self._path(key)
        with _writing(key), contextlib.suppress(FileNotFoundError):
            if os.path.lexists(path):
                with _locked(os.path.dirname(path)):
                    os.unlink(path)

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`."""
        for key in keys:
            self.delete(key)

    def sweep(self) -> int:
        """Remove what killed writers left behind, and return how many files that were.

        A write under way keeps a lock on its temporary file, so no clock is involved and nothing that is
        alive is touched.
        """
        count = 0
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.startswith(_TEMPORARY):
                    count += _remove_abandoned(os.path.join(folder, name))
        return count

    def close(self) -> None:
        """See `ObjectStore.close`. No descriptor outlives a call, so there is nothing to do."""

    def _path(self, key: str) -> str:
        return os.path.join(self._root, check_key(key))

    @contextlib.contextmanager
    def _written(self, key: str, data: ReadBuffer) -> Generator[tuple[str, str], None, None]:
        """A flushed temporary file with `data`, and the path that the body renames it to.

        Makes the rename durable when the body ends; removes the file when it does not get that far.
        """
        path = self._path(key)
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f"{_TEMPORARY}{self._random.bytes(12).hex()}")
        with _writing(key):
            try:
                self._sync.make(folder)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                self._sync.forget(folder)
                raise
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                _write_all(descriptor, memoryview(data).cast("B"))
                os.fsync(descriptor)
                yield temporary, path
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            finally:
                os.close(descriptor)
        try:
            self._sync.flush(folder)
        except OSError as exc:
            # The object is there, so nothing but "in doubt" would be true, whatever the reason.
            raise StorageUnavailable(f"object may not be durable: {exc.strerror}", key=key) from exc

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Objects below `folder` ("" or ending in a slash) in key order; directories sort as `name/`."""
        for name in self._names(folder):
            key = folder + name
            if name.endswith("/"):
                # What lies below begins with `key`: go in where prefix and `after` may still match.
                overlaps = key.startswith(prefix) or prefix.startswith(key)
                if overlaps and (key > after or after.startswith(key)):
                    yield from self._walk(key, prefix, after)
            elif key.startswith(prefix) and key > after:
                try:
                    info = self.head(key)
                except ObjectNotFound:
                    continue  # deleted since its name was read
                yield info

    def _names(self, folder: str) -> list[str]:
        """Names in `folder`, sorted, read in one piece while no writer moves one."""
        path = os.path.join(self._root, folder)
        with _writing(folder), contextlib.ExitStack() as stack:
            # Where no lock file is nobody has written, and readers may have no right to lock.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                stack.enter_context(_locked(path, fcntl.LOCK_SH))
            try:
                entries = stack.enter_context(os.scandir(path))
            except (FileNotFoundError, NotADirectoryError):
                if os.path.isdir(self._root):
                    return []
                raise
            return sorted(
                entry.name + "/" if entry.is_dir() else entry.name
                for entry in entries
                if not entry.name.startswith(".")
            )


@contextlib.contextmanager
def _locked(folder: str, mode: int = fcntl.LOCK_EX) -> Generator[None, None, None]:
    """Alone in `folder` among all processes; with LOCK_SH, alone but for others who only read."""
    flags = os.O_RDONLY if mode == fcntl.LOCK_SH else os.O_RDWR | os.O_CREAT
    descriptor = os.open(os.path.join(folder, _LOCK), flags | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, mode)
        yield
    finally:
        # Closing alone would not do while a forked child holds a copy.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]


def _etag(data: ReadBuffer) -> str:
    # Packs are never swapped, and at the speed of a backup hashing them once more would be noticed.
    if memoryview(data).nbytes > limits.SWAPPED_BYTES_MAX:
        return ""
    return blake3(data).hexdigest()


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, _mtime(status))


def _mtime(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _remove_abandoned(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def _reading(key: str) -> Generator[None, None, None]:
    """Turn the operating system's errors into ours; a name that is none means that there is no object."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
        raise ObjectNotFound("object not found", key=key) from exc
    except OSError as exc:
        raise _translate(exc, key) from exc


@contextlib.contextmanager
def _writing(key: str) -> Generator[None, None, None]:
    """Turn the operating system's errors into ours; a missing file is a directory that went away."""
    try:
        yield
    except OSError as exc:
        raise _translate(exc, key) from exc


def _translate(exc: OSError, key: str) -> StorageError:
    if exc.errno in _REFUSED:
        what, hint = _REFUSED[exc.errno]
        return StorageError(what, key=key, hint=hint)
    return StorageUnavailable(exc.strerror or "input/output error", key=key)
