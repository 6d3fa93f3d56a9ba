"""Directories that survive a power failure: made once, flushed together.

A new name is durable when its directory has been flushed after it was given. Threads that rename in the same
directory at the same time share one flush: whoever comes while one is running waits for the next, and that
one serves all who wait.
"""

import contextlib
import errno
import os
import threading

__all__ = ["DirectorySync"]


class DirectorySync:
    """Flushes directories at and below `root` on behalf of the threads of this process."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._made: set[str] = set()
        self._groups: dict[str, _Group] = {}

    def make(self, folder: str) -> None:
        """Make `folder` and what leads to it from the root, durably. The root itself has to exist.

        Even a directory that is there already may have been made by a process that has not flushed it yet,
        so the way to each is flushed once by everybody who writes there. Raises OSError.
        """
        if folder in self._made:
            return
        if folder != self._root:
            parent = os.path.dirname(folder)
            self.make(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o777)
            self.flush(parent)
        self._made.add(folder)

    def forget(self, folder: str) -> None:
        """Make `folder` again at the next occasion: somebody seems to have removed it."""
        self._made.discard(folder)

    def flush(self, folder: str) -> None:
        """Return once every name that `folder` had when this was called is durable. Raises OSError."""
        with self._lock:
            group = self._groups.setdefault(folder, _Group())
        group.flush(folder)


class _Group:
    """The flushes of one directory, counted: flush n covers all names given before it began."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._begun = 0
        self._ended = 0

    def flush(self, folder: str) -> None:
        with self._condition:
            wanted = self._begun + 1
            # `_begun` differs from `_ended` while a flush runs; that one may have begun before our rename.
            while self._begun != self._ended:
                self._condition.wait()
                if self._ended >= wanted:
                    return
            self._begun += 1
        try:
            _flush_directory(folder)
        except BaseException:
            with self._condition:
                self._begun -= 1
                self._condition.notify_all()
            raise
        with self._condition:
            self._ended = self._begun
            self._condition.notify_all()


def _flush_directory(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some network and FUSE file systems cannot flush directories: names are as durable as they get.
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
