# ruff: noqa: PTH101, PTH102, PTH103, PTH118, PTH123, PTH211 (descriptors, and paths of raw bytes, which path objects do not hold)
"""A tree in the file system with everything that a backup may meet."""

import os
import random
import socket
import stat
import struct
from contextlib import chdir
from pathlib import Path

from tests.support.tree_facts import set_flags

DEPTH = 24
BEFORE_1970_NS = -31_536_000 * 10**9 - 1
AFTER_2106_NS = (2**32 + 1_000_000) * 10**9 + 1
LAST_ID = 2**32 - 2


def _acl(entries: list[tuple[int, int, int]]) -> bytes:
    """As the kernel keeps it: version 2, then tag, permissions, id of each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NAMED_USER_ACL = _acl(
    [(1, 6, 2**32 - 1), (2, 7, 4242), (4, 4, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1)]
)
CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0)


class TortureTree:
    """Builds below `top`; what this user or file system cannot do is left out and named in `left_out`."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = os.fsencode(top)
        self.random = random.Random(seed)
        self.left_out: list[str] = []
        os.mkdir(self.top)
        for part in (
            self._names, self._kinds, self._holes, self._links, self._attributes, self._xattrs,
            self._times, self._directories, self._deep, self._many, self._flags,
        ):  # fmt: skip
            part()
        os.utime(self.top, ns=(999, 999))

    def _path(self, name: str | bytes) -> bytes:
        return os.path.join(self.top, os.fsencode(name))

    def _file(self, name: str | bytes, data: bytes = b"content") -> bytes:
        path = self._path(name)
        with open(path, "xb") as file:
            file.write(data)
        return path

    def _try(self, what: str, act: object, *arguments: object, **options: object) -> None:
        try:
            act(*arguments, **options)  # type: ignore[operator]
        except OSError as exc:
            self.left_out.append(f"{what}: {exc.strerror}")

    def _names(self) -> None:
        every = bytes(byte for byte in range(1, 256) if byte != ord("/"))
        names = [every[:127], every[127:], b"n" * 255, b"\xfe" * 255, b"...", b" both ends ", b"-rf",
                 b"new\nline", b"caf\xe9", "日本".encode(), b"\\x41", b"a:b*?\"<>|"]  # fmt: skip
        names += [bytes([byte]) for byte in every if byte != ord(".")]
        for name in names:
            self._file(name, name)

    def _kinds(self) -> None:
        self._file("empty", b"")
        os.symlink(b"nowhere/\xff\n", self._path("dangling"))
        os.symlink(b"l" * 4095, self._path("long link"))
        os.symlink("/", self._path("absolute"))
        os.mkfifo(self._path("fifo"), 0o622)
        with socket.socket(socket.AF_UNIX) as listener, chdir(self.top):
            listener.bind("socket")
        device = (1, 3), (4095, 0xF_FFFF)
        self._try("device", os.mknod, self._path("null"), stat.S_IFCHR | 0o666, os.makedev(*device[0]))
        self._try("device", os.mknod, self._path("disk"), stat.S_IFBLK | 0o600, os.makedev(*device[1]))

    def _sparse(self, name: str, size: int, pieces: dict[int, bytes]) -> bytes:
        path = self._file(name, b"")
        fd = os.open(path, os.O_WRONLY)
        os.ftruncate(fd, size)
        for offset, data in pieces.items():
            os.pwrite(fd, data, offset)
        os.close(fd)
        return path

    def _holes(self) -> None:
        noise = self.random.randbytes
        self._sparse("all hole", 1 << 20, {})
        self._sparse("hole of a TiB", 1 << 40, {(1 << 40) - 8192: noise(8192)})
        self._sparse("hole first", 1 << 20, {(1 << 20) - 4096: noise(4096)})
        self._sparse("hole last", (1 << 20) + 17, {0: noise(70_001)})
        self._sparse("swiss", 1 << 20, {start << 16: noise(4096) for start in (1, 3, 9)})
        self._file("zeros written", noise(5000) + bytes(300_000) + noise(5000))

    def _links(self) -> None:
        os.mkdir(self._path("links"))
        for name in (b"null", b"fifo", b"dangling", b"empty", b"swiss", b"n" * 255):
            if os.path.lexists(self._path(name)):
                for other in (b"links/" + name, b"z again " + name[:200]):
                    os.link(self._path(name), self._path(other), follow_symlinks=False)

    def _attributes(self) -> None:
        for mode in (0, 0o111, 0o4755, 0o2755, 0o6711, 0o7777, 0o400):
            path = self._file(f"mode {mode:o}")
            self._try("owner", os.chown, path, 1000, 1001)
            os.chmod(path, mode)
        for name, uid, gid in (("last", LAST_ID, LAST_ID), ("half", 2**31, 2**31 - 1), ("root", 0, 0)):
            self._try("owner", os.chown, self._file(f"owner {name}"), uid, gid)
        self._try("owner", os.chown, self._path("absolute"), 12, 34, follow_symlinks=False)
        self._try("owner", os.chown, self._path("socket"), 56, 78)

    def _xattrs(self) -> None:
        path = self._file("xattrs")
        values = {b"user.empty": b"", b"user.\xe9\xff": bytes([0, 255, 10]), b"user.large": b"v" * 2000,
                  b"user." + b"n" * 250: b"long name", b"trusted.secret": b"t", b"security.custom": b"s",
                  b"system.posix_acl_access": NAMED_USER_ACL}  # fmt: skip
        for attribute, value in values.items():
            self._try(f"xattr {attribute[:12]!r}", os.setxattr, path, attribute, value)
        capable = self._file("capable")
        self._try("owner", os.chown, capable, 1000, 1000)
        self._try("capability", os.setxattr, capable, b"security.capability", CAPABILITY)
        os.chmod(capable, 0o4755)
        for name in ("dangling", "fifo"):
            self._try(
                "xattr", os.setxattr, self._path(name), b"trusted.x", name.encode(), follow_symlinks=False
            )

    def _times(self) -> None:
        for name, ns in (("before 1970", BEFORE_1970_NS), ("after 2106", AFTER_2106_NS), ("ns", 999_999_999)):
            os.utime(self._file(name), ns=(ns, ns))
        for name in ("dangling", "fifo"):
            os.utime(self._path(name), ns=(BEFORE_1970_NS, BEFORE_1970_NS), follow_symlinks=False)

    def _directories(self) -> None:
        os.mkdir(self._path("default acl"))
        self._file("default acl/made before")
        self._try("acl", os.setxattr, self._path("default acl"), b"system.posix_acl_default", NAMED_USER_ACL)
        self._file("default acl/inherits")
        os.chmod(self._path("default acl"), 0o3775)
        os.makedirs(self._path("closed/inside/deeper"))
        self._file("closed/inside/file")
        if os.geteuid() == 0:
            os.utime(self._path("closed/inside"), ns=(1, 1))
            os.chmod(self._path("closed/inside"), 0)
            os.chmod(self._path("closed"), 0)
        os.mkdir(self._path("empty directory"), 0o700)
        # Beside a directory, names that sort around its separator.
        for name in ("dir", "dir\x01", "dir!", "dir0"):
            os.mkdir(self._path(name))
            self._file(name + "/x", name.encode())

    def _deep(self) -> None:
        fd = os.open(self.top, os.O_RDONLY)
        for level in range(DEPTH):
            name = b"%02d" % level + b"d" * 240
            os.mkdir(name, dir_fd=fd)
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = child
        bottom = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=fd)
        os.write(bottom, self.random.randbytes(9000))
        os.close(bottom)
        os.close(fd)

    def _many(self) -> None:
        """Sizes around the borders of chunks, blocks and what counts as small; some contents twice."""
        os.mkdir(self._path("sizes"))
        for size in (
            1,
            2047,
            2048,
            2049,
            4095,
            4096,
            4097,
            6143,
            6144,
            6145,
            65_535,
            65_536,
            65_537,
            300_001,
        ):
            # A byte that is zero would be a block of zeros at the end of one size, and come back as a hole.
            data = self.random.randbytes(size - 1) + b"\1"
            self._file(f"sizes/{size}", data)
            self._file(f"sizes/{size} twice", data)
        for number in range(300):
            self._file(f"sizes/tiny {number}", self.random.randbytes(number % 50))

    def _flags(self) -> None:
        os.mkdir(self._path("flags"))
        for name, flags in (("immutable", 0x10), ("append", 0x20), ("nodump noatime", 0xC0)):
            path = self._file(f"flags/{name}")
            os.link(path, path + b" linked")
            self._flag(path, flags)
        os.mkdir(self._path("flags/sub"))
        self._flag(self._path("flags"), 0x10 | 0x40)

    def _flag(self, path: bytes, flags: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        if not set_flags(fd, flags):
            self.left_out.append(f"flags {flags:#x}")
        os.close(fd)
