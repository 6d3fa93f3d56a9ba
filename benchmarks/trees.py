"""Read a file tree into a manifest, and compare manifests exactly.

A manifest holds everything that a backup must bring back: names, types, content, modes, owners,
modification times in nanoseconds, link targets, hard link groups, device numbers and extended
attributes. Access times, inode numbers and the sizes of directories are not compared.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Manifest = dict[bytes, "Entry"]
"""Entries by path relative to the root; the root itself is ``b"."``."""

FIDELITY = frozenset({"owner", "mtime", "links", "xattrs", "mode", "holes"})
"""Aspects whose loss is reported as a property of a tool; all other differences are damage."""

HOLE_TOLERANCE_BYTES = 1 << 20
"""A restored file may take this much more room than its source before its holes count as lost."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One node of a tree, as far as it can be compared on another file system."""

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size_bytes: int
    allocated_bytes: int
    content: str
    """Digest of a file's bytes, target of a symbolic link, numbers of a device; else empty."""
    links: bytes
    """First path, in byte order, of the hard link group; empty when the file has one name."""
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, order=True)
class Difference:
    """One aspect of one path that is not as it was."""

    path: bytes
    aspect: str

    def __str__(self) -> str:
        return f"{os.fsdecode(self.path)}: {self.aspect}"


def read_manifest(root: Path, *, with_content: bool = True) -> Manifest:
    """Read the tree at ``root``, following no link.

    Without content, digests are left empty: enough to count and to total sizes.
    """
    groups: dict[tuple[int, int], bytes] = {}
    manifest: Manifest = {}
    for path, full in sorted(_walk(os.fsencode(root))):
        info = os.lstat(full)
        links = b""
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            links = groups.setdefault((info.st_dev, info.st_ino), path)
        manifest[path] = Entry(
            kind=_kind(info.st_mode),
            mode=stat.S_IMODE(info.st_mode),
            owner=(info.st_uid, info.st_gid),
            mtime_ns=info.st_mtime_ns,
            size_bytes=0 if stat.S_ISDIR(info.st_mode) else info.st_size,
            allocated_bytes=info.st_blocks * 512,
            content=_content(full, info, with_content=with_content),
            links=links,
            xattrs=_xattrs(full),
        )
    return manifest


def file_bytes(manifest: Manifest) -> int:
    """Total size of the regular files, each hard link group counted once."""
    return sum(
        entry.size_bytes
        for path, entry in manifest.items()
        if entry.kind == "file" and entry.links in (b"", path)
    )


def compare_manifests(source: Manifest, target: Manifest) -> list[Difference]:
    """All differences, in order of path. Empty when the target is an exact image."""
    found: list[Difference] = []
    for path in sorted(source.keys() | target.keys()):
        before, after = source.get(path), target.get(path)
        if before is None:
            found.append(Difference(path, "extra"))
        elif after is None:
            found.append(Difference(path, "missing"))
        else:
            found.extend(Difference(path, aspect) for aspect in _aspects(before, after))
    return found


def split_differences(found: list[Difference]) -> tuple[list[Difference], Counter[str]]:
    """Damage, and the counts of what a tool merely does not keep; the root's own attributes,
    which some tools have no place for, count as the latter."""
    damage = [one for one in found if one.aspect not in FIDELITY]
    lost = Counter(one.aspect for one in found if one.aspect in FIDELITY and one.path != b".")
    return damage, lost


def _aspects(before: Entry, after: Entry) -> Iterator[str]:
    if before.kind != after.kind:
        yield "type"
        return
    if before.size_bytes != after.size_bytes:
        yield "size"
    elif before.content != after.content:
        yield "content"
    if before.mode != after.mode:
        yield "mode"
    if before.owner != after.owner:
        yield "owner"
    if before.mtime_ns != after.mtime_ns:
        yield "mtime"
    if before.links != after.links:
        yield "links"
    if before.xattrs != after.xattrs:
        yield "xattrs"
    is_sparse = before.kind == "file" and before.allocated_bytes < before.size_bytes
    if is_sparse and after.allocated_bytes > before.allocated_bytes + HOLE_TOLERANCE_BYTES:
        yield "holes"


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (relative path, full path) of every entry below the root, and of the root itself."""
    yield b".", root
    pending = [(b"", root)]
    while pending:
        prefix, directory = pending.pop()
        with os.scandir(directory) as entries:
            children = list(entries)
        for entry in children:
            yield prefix + entry.name, entry.path
            if entry.is_dir(follow_symlinks=False):
                pending.append((prefix + entry.name + b"/", entry.path))


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symlink"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
    ):
        if test(mode):
            return name
    raise ValueError(f"unknown file type in mode {mode:o}")


def _content(path: bytes, info: os.stat_result, *, with_content: bool) -> str:
    if stat.S_ISLNK(info.st_mode):
        return os.fsencode(Path(os.fsdecode(path)).readlink()).hex()
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    if stat.S_ISREG(info.st_mode) and with_content:
        with Path(os.fsdecode(path)).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    return ""


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    """Extended attributes in order of name; none where the file system has none."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
            return ()
        raise
