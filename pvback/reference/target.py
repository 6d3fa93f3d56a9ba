"""Making files below a target directory, relative to directory descriptors.

Nothing here follows a symlink below the target, and no path is longer than one name, so that trees
deeper than PATH_MAX restore. `/proc` is needed for xattrs of what cannot be opened.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pvback.reference.pages import BLOCK_DEVICE, CHAR_DEVICE, FIFO, SOCKET, SYMLINK, Node

_SET_FLAGS = 0x40086602  # FS_IOC_SETFLAGS
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
# What chattr may set: secure delete, undelete, sync, immutable, append, nodump, noatime, journal,
# notail, dirsync, topdir, no copy-on-write, project inheritance; compression is tried, too.
_SETTABLE_FLAGS = 0x2000_0000 | 0x0080_0000 | 0x0002_0000 | 0x0001_0000 | 0xC000 | 0xFF
_NO_ID = 0xFFFF_FFFF
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_TYPES = {FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK}
_DEVICE_TYPES = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}

Note = Callable[[str, OSError], None]


class Position:
    """A directory below the target, held by one descriptor however deep it lies.

    Going up reopens `..` and checks that it is the directory that was left.
    """

    def __init__(self, target: int) -> None:
        """`target` is a descriptor of the target directory; it is duplicated."""
        self.fd = os.dup(target)
        self.names: list[bytes] = []
        self._above: list[tuple[int, int]] = []

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    @contextmanager
    def copy(self) -> Iterator["Position"]:
        """Another one that stands here, closed at the end."""
        with position(self.fd) as other:
            other.names = list(self.names)
            other._above = list(self._above)  # noqa: SLF001 (of its own class)
            yield other

    def _replace(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def down(self, name: bytes) -> None:
        """Enter a directory that lies here."""
        here = os.fstat(self.fd)
        self._replace(os.open(name, _OPEN_DIRECTORY, dir_fd=self.fd))
        self.names.append(name)
        self._above.append((here.st_dev, here.st_ino))

    def up(self, finish: Callable[[int], None] | None = None) -> None:
        """Leave to the directory above; `finish` gets the descriptor of the one that is left.

        It runs when the way up is open already, since it may take away the right to go it.
        """
        fd = os.open("..", _OPEN_DIRECTORY, dir_fd=self.fd)
        above = os.fstat(fd)
        if (above.st_dev, above.st_ino) != self._above[-1]:
            os.close(fd)
            raise OSError(errno.ESTALE, "a directory of the target was moved during the restore")
        if finish is not None:
            finish(self.fd)
        self._replace(fd)
        self._above.pop()
        self.names.pop()

    def go(self, names: list[bytes], finish: Callable[[int], None] | None = None) -> None:
        """Go to the directory with these names below the target, over the common part."""
        common = 0
        for mine, wanted in zip(self.names, names, strict=False):
            if mine != wanted:
                break
            common += 1
        while len(self.names) > common:
            self.up(finish)
        for name in names[common:]:
            self.down(name)


@contextmanager
def position(target: int) -> Iterator[Position]:
    """A `Position` at the target, closed at the end."""
    here = Position(target)
    try:
        yield here
    finally:
        here.close()


def make_special(parent: int, name: bytes, node: Node) -> None:
    """Make anything but a regular file or directory. Raises `OSError`."""
    if node.kind == SYMLINK:
        os.symlink(node.target, name, dir_fd=parent)
    elif node.kind in _FILE_TYPES:
        os.mknod(name, _FILE_TYPES[node.kind] | 0o600, dir_fd=parent)
    else:
        try:
            device = os.makedev(*node.device)
        except (OverflowError, ValueError) as exc:
            raise OSError(errno.EINVAL, "device number not possible here") from exc
        os.mknod(name, _DEVICE_TYPES[node.kind] | 0o600, device, dir_fd=parent)


def _attempt(note: Note, what: str, act: Callable[[], None]) -> bool:
    """Whether `act` did it; why not goes to `note`."""
    try:
        act()
    except OSError as exc:
        note(what, exc)
        return False
    except (OverflowError, ValueError) as exc:
        note(what, OSError(errno.EINVAL, str(exc)))
        return False
    return True


def _set_owner(path: int | bytes, node: Node) -> None:
    if _NO_ID in (node.uid, node.gid):
        raise OSError(errno.EINVAL, "the id 4294967295 cannot be set")
    os.chown(path, node.uid, node.gid, follow_symlinks=isinstance(path, int))


def _set_xattrs(path: int | bytes, node: Node, note: Note) -> None:
    for name, value in node.xattrs:

        def act(name: bytes = name, value: bytes = value) -> None:
            os.setxattr(path, name, value, follow_symlinks=isinstance(path, int))

        _attempt(note, f"xattr {ascii(os.fsdecode(name.partition(b'.')[0]))[1:-1]}.*", act)


def _set_mtime(path: int | bytes, node: Node) -> None:
    """Set the modification time, and the access time, which is not stored, to the same."""
    time = node.mtime[0] * 1_000_000_000 + node.mtime[1]
    follow = isinstance(path, int)
    os.utime(path, ns=(time, time), follow_symlinks=follow)
    if os.stat(path, follow_symlinks=follow).st_mtime_ns != time:
        raise OSError(errno.ERANGE, "not exact on this file system")


def _finish(path: int | bytes, node: Node, note: Note) -> None:
    """Owner, xattrs, mode, times, in the order that keeps them.

    A change of owner clears set-id bits and capabilities, xattrs need the right to write. Without
    the owner that they are for, set-id bits are left out.
    """
    mode = node.mode
    if not _attempt(note, "owner", lambda: _set_owner(path, node)) and mode & 0o6000:
        mode &= ~0o6000
        note("mode", OSError(errno.EPERM, "set-id bits left out, since the owner is another"))
    _set_xattrs(path, node, note)
    if node.kind != SYMLINK:
        _attempt(note, "mode", lambda: os.chmod(path, mode))
    _attempt(note, "times", lambda: _set_mtime(path, node))


def finish_open(fd: int, node: Node, note: Note) -> None:
    """Set the metadata of an open file or directory, flags excepted."""
    _finish(fd, node, note)


def finish_special(parent: int, name: bytes, node: Node, note: Note) -> None:
    """The same for what cannot be opened without effects; a symlink is not followed."""
    _finish(b"/proc/self/fd/%d/%s" % (parent, name), node, note)


def set_flags(fd: int, node: Node, note: Note) -> None:
    """Set inode flags as far as the file system lets them be set."""

    def act() -> None:
        old = bytearray(8)
        fcntl.ioctl(fd, _GET_FLAGS, old)
        current = struct.unpack_from("<I", old)[0]
        wanted = (current & ~_SETTABLE_FLAGS) | (node.flags & _SETTABLE_FLAGS)
        if wanted != current:
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("<II", wanted, 0))

    if node.flags & _SETTABLE_FLAGS:
        _attempt(note, "flags", act)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` where the descriptor stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def allocate(fd: int, offset: int, length: int) -> None:
    """Allocate zeros; written out where the file system cannot do it at once."""
    try:
        os.posix_fallocate(fd, offset, length)
        os.lseek(fd, offset + length, os.SEEK_SET)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.lseek(fd, offset, os.SEEK_SET)
        block = bytes(1 << 20)
        while length:
            write_all(fd, block[: min(length, len(block))])
            length -= min(length, len(block))
