# ruff: noqa: PTH106, PTH208 (descriptors, and paths of raw bytes, which path objects do not hold)
"""What a tree in the file system is, in every respect that a restore has to bring back.

Paths are bytes relative to the top, components joined by zero bytes (as node keys are), and may be longer
than PATH_MAX: everything is reached through directory descriptors.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from blake3 import blake3

_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_BLOCK = 4096
# Compressed, immutable, append-only, nodump, noatime, and the like: what chattr sets. Not what the file
# system says about its own layout (extents, indexes, inline data).
FLAGS_COMPARED = 0x0000_00FB
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class Facts:
    """One entry. `names` are the keys of all names of its inode; `data` the ranges that are not holes."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    names: tuple[bytes, ...] = ()
    size: int = 0
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    flags: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    digest: str = ""
    data: tuple[tuple[int, int], ...] = ()

    @property
    def without_holes(self) -> "Facts":
        """For files whose holes are not kept, being stored as zeros."""
        return replace(self, data=())


@dataclass(frozen=True)
class Inode:
    """What a restore cannot bring back, but a snapshot has to know."""

    number: int
    ctime_ns: int


def read_flags(fd: int) -> int:
    """Inode flags, 0 where there are none."""
    buffer = bytearray(8)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, buffer)
    except OSError:
        return 0
    return int(struct.unpack_from("<I", buffer)[0])


def set_flags(fd: int, flags: int) -> bool:
    """Whether the file system has taken these flags besides those of its own."""
    kept = read_flags(fd) & ~FLAGS_COMPARED
    try:
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("<II", kept | flags, 0))
    except OSError:
        return False
    return read_flags(fd) & FLAGS_COMPARED == flags


def _data_ranges(fd: int, size: int) -> tuple[tuple[int, int], ...]:
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, at))
    return tuple(found)


def _digest(fd: int, ranges: tuple[tuple[int, int], ...]) -> str:
    """Of the blocks that are not zero, with their places: the same whether zeros are written or a hole."""
    hasher = blake3()
    for start, end in ranges:
        for at in range(start - start % _BLOCK, end, _BLOCK):
            block = os.pread(fd, _BLOCK, at)
            if any(block):
                hasher.update(struct.pack("<Q", at) + block.rstrip(b"\0"))
    return hasher.hexdigest()


def _xattrs(path: str | int) -> tuple[tuple[bytes, bytes], ...]:
    follow = isinstance(path, int)
    names = os.listxattr(path, follow_symlinks=follow)
    pairs = [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=follow)) for name in names]
    return tuple(sorted(pairs))


def _base(info: os.stat_result) -> Facts:
    return Facts(
        stat.S_IFMT(info.st_mode) | stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns
    )


def _entry(parent: int, name: bytes, info: os.stat_result) -> Facts:
    facts = _base(info)
    if stat.S_ISREG(info.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            ranges = _data_ranges(fd, info.st_size)
            flags = read_flags(fd) & FLAGS_COMPARED
            return replace(
                facts,
                size=info.st_size,
                data=ranges,
                digest=_digest(fd, ranges),
                flags=flags,
                xattrs=_xattrs(fd),
            )
        finally:
            os.close(fd)
    if stat.S_ISLNK(info.st_mode):
        facts = replace(facts, target=os.readlink(name, dir_fd=parent))
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        facts = replace(facts, device=(os.major(info.st_rdev), os.minor(info.st_rdev)))
    path = os.fsdecode(b"/proc/self/fd/%d/%s" % (parent, name))
    return replace(facts, xattrs=_xattrs(path))


Visit = Callable[[int, bytes, bytes, os.stat_result], None]


def _visit_below(fd: int, key: bytes, visit: Visit) -> None:
    for name in sorted(os.listdir(os.fsencode(f"/proc/self/fd/{fd}"))):
        below = key + b"\0" + name if key else name
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        visit(fd, name, below, info)
        if stat.S_ISDIR(info.st_mode):
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
            try:
                _visit_below(child, below, visit)
            finally:
                os.close(child)


class TreeFacts:
    """All of a tree below `top`, which is included with the empty key."""

    def __init__(self, top: str | os.PathLike[str]) -> None:
        self.facts: dict[bytes, Facts] = {}
        self.inodes: dict[bytes, Inode] = {}
        self._links: dict[tuple[int, int], list[bytes]] = {}
        self._fd = os.open(top, _OPEN_DIRECTORY)
        try:
            self._directory(self._fd, b"", os.fstat(self._fd))
            _visit_below(self._fd, b"", self._visit)
        finally:
            os.close(self._fd)
        for names in self._links.values():
            for key in names:
                self.facts[key] = replace(self.facts[key], names=tuple(sorted(names)))

    def _directory(self, fd: int, key: bytes, info: os.stat_result) -> None:
        self.inodes[key] = Inode(info.st_ino, info.st_ctime_ns)
        self.facts[key] = replace(_base(info), flags=read_flags(fd) & FLAGS_COMPARED, xattrs=_xattrs(fd))

    def _visit(self, parent: int, name: bytes, key: bytes, info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode):
            fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
            try:
                self._directory(fd, key, info)
            finally:
                os.close(fd)
            return
        self.inodes[key] = Inode(info.st_ino, info.st_ctime_ns)
        self.facts[key] = _entry(parent, name, info)
        if info.st_nlink > 1:
            self._links.setdefault((info.st_dev, info.st_ino), []).append(key)


def differences(old: TreeFacts, new: TreeFacts, *, hole_size_min: int = 0) -> list[str]:
    """What is not the same, in words. Holes count in files of at least `hole_size_min` bytes."""
    found = []
    for key in sorted(old.facts.keys() | new.facts.keys()):
        one, other = old.facts.get(key), new.facts.get(key)
        if one is not None and other is not None and one.size < hole_size_min:
            one, other = one.without_holes, other.without_holes
        if one != other:
            found.append(f"{key[:60]!r}: {one} became {other}")
    return found


def remove_tree(top: str | os.PathLike[str]) -> None:
    """Remove a tree whatever its depth and modes are, and the flags that would keep it."""
    fd = os.open(top, _OPEN_DIRECTORY)
    try:
        _remove_below(fd)
    finally:
        os.close(fd)
    os.rmdir(top)


def _remove_below(fd: int) -> None:
    set_flags(fd, 0)
    os.fchmod(fd, 0o700)
    for name in os.listdir(os.fsencode(f"/proc/self/fd/{fd}")):
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
            try:
                _remove_below(child)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
            continue
        if stat.S_ISREG(mode):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
            set_flags(file, 0)
            os.close(file)
        os.unlink(name, dir_fd=fd)
