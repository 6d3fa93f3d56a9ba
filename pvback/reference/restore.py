"""Restore of a tree into an empty directory, and of one file into a stream.

Two passes over the tree: the first makes everything and fills files, the second sets directories'
metadata, deepest first, and inode flags, which would stand in the way of what the first one does.
What the process may not do (owners, devices, trusted xattrs) is left out and summed up; content is
exact or its file is absent and named.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pvback.reference.errors import NotFoundError, ReadError
from pvback.reference.pages import DIRECTORY, FILE, Node
from pvback.reference.repository import Piece, Repository, path_key
from pvback.reference.snapshots import Snapshot
from pvback.reference.target import (
    Position,
    allocate,
    finish_open,
    finish_special,
    make_special,
    position,
    set_flags,
    write_all,
)
from pvback.reference.tree import display, parent_key

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Refusals that concern one node; anything else (no space, an I/O error) ends the restore.
_NODE_ERRORS = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EOPNOTSUPP}
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Summary:
    """What a restore did. `notes` counts what could not be set, by kind and reason.

    `lost` names each node whose content is not there, with the reason; `warned` those that were
    restored but had changed while they were read.
    """

    nodes: int = 0
    content_bytes: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every node and all content is there."""
        return not self.lost

    def note(self, what: str, exc: OSError) -> None:
        """Count one thing that could not be set."""
        self.notes[f"{what}: {exc.strerror or exc}"] += 1

    def lose(self, node: Node, why: object) -> None:
        """Name one node that is not there."""
        self.lost.append(f"{display(node.key)}: {why}")


class _Restore:
    def __init__(self, repository: Repository, snapshot: Snapshot, top: bytes) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._top = top
        self._groups: dict[int, list[bytes]] = {}
        self._lost: set[bytes] = set()
        self.summary = Summary()

    def _names(self, node: Node) -> list[bytes]:
        below = node.key[len(self._top) :].lstrip(b"\0")
        return below.split(b"\0") if below else []

    def create(self, target: int) -> None:
        """First pass."""
        with position(target) as here:
            for node in self._repository.walk(self._snapshot, self._top.replace(b"\0", b"/")):
                names = self._names(node)
                if names:
                    self._attempt(here, names, node)

    def _attempt(self, here: Position, names: list[bytes], node: Node) -> None:
        """Make a node, or name it as lost when that is its own fault and not the target's."""
        if parent_key(node.key) in self._lost:
            self._lose(node, "its directory is not there")
            return
        here.go(names[:-1])
        try:
            self._make(here, names, node)
            self.summary.nodes += 1
        except ReadError as exc:
            self._lose(node, exc)
        except OSError as exc:
            if exc.errno not in _NODE_ERRORS:
                raise
            self._lose(node, exc.strerror)

    def _lose(self, node: Node, why: object) -> None:
        self._lost.add(node.key)
        self.summary.lose(node, why)

    def _make(self, here: Position, names: list[bytes], node: Node) -> None:
        name = names[-1]
        if node.kind == DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=here.fd)
            return
        if node.link_group is not None and self._link(here, names, node.link_group):
            return
        if node.kind == FILE:
            self.make_file(here.fd, name, node)
        else:
            make_special(here.fd, name, node)
            finish_special(here.fd, name, node, self.summary.note)
        if node.link_group is not None:
            self._groups[node.link_group] = names

    def _link(self, here: Position, names: list[bytes], group: int) -> bool:
        """Give the inode of a group another name. False when there is none to link to yet."""
        first = self._groups.get(group)
        if first is None:
            return False
        with here.copy() as there:
            there.go(first[:-1])
            os.link(
                first[-1],
                names[-1],
                src_dir_fd=there.fd,
                dst_dir_fd=here.fd,
                follow_symlinks=False,
            )
        return True

    def make_file(self, parent: int, name: bytes, node: Node) -> None:
        """One file with content and metadata; removed again when its content is not whole."""
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            self._fill(fd, node)
            finish_open(fd, node, self.summary.note)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(fd)
        if node.changed or node.partial:
            why = "changed while it was read" if node.changed else "stored in part"
            self.summary.warned.append(f"{display(node.key)}: {why}")

    def make_single(self, parent: int, name: bytes, node: Node) -> None:
        """The only node of a restore that is not a directory."""
        if node.kind == FILE:
            self.make_file(parent, name, node)
        else:
            make_special(parent, name, node)
            finish_special(parent, name, node, self.summary.note)
        self.summary.nodes += 1

    def _fill(self, fd: int, node: Node) -> None:
        end = 0
        for piece in self._repository.pieces(self._snapshot, node):
            self._write(fd, piece)
            end += piece.length
        os.ftruncate(fd, end)
        self.summary.content_bytes += end

    def _write(self, fd: int, piece: Piece) -> None:
        if piece.data is not None:
            write_all(fd, piece.data)
        elif piece.is_allocated:
            allocate(fd, piece.offset, piece.length)
        else:
            os.lseek(fd, piece.length, os.SEEK_CUR)

    def finish(self, target: int) -> None:
        """Second pass."""
        waiting: list[Node] = []

        def leave(fd: int) -> None:
            node = waiting.pop()
            finish_open(fd, node, self.summary.note)
            set_flags(fd, node, self.summary.note)

        with position(target) as here:
            for node in self._repository.walk(self._snapshot, self._top.replace(b"\0", b"/")):
                names = self._names(node)
                if node.key in self._lost:
                    continue
                if node.kind == DIRECTORY:
                    here.go(names[:-1], leave)
                    if names:
                        here.down(names[-1])
                    waiting.append(node)
                elif node.kind == FILE and node.flags and names:
                    here.go(names[:-1], leave)
                    self._set_file_flags(here.fd, names[-1], node)
            here.go([], leave)
            leave(here.fd)

    def _set_file_flags(self, parent: int, name: bytes, node: Node) -> None:
        try:
            fd = os.open(name, _OPEN, dir_fd=parent)
        except OSError as exc:
            self.summary.note("flags", exc)
            return
        try:
            set_flags(fd, node, self.summary.note)
        finally:
            os.close(fd)


def _open_target(target: bytes) -> int:
    with suppress(FileExistsError):
        os.mkdir(target, 0o700)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.listdir(fd):
        os.close(fd)
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), target)
    return fd


def restore(repository: Repository, snapshot: Snapshot, target: str | bytes, path: bytes = b"") -> Summary:
    """Make `target` the image of the node at `path`: a directory (new or empty), or a new file.

    Raises `ReadError` when the tree itself is damaged; a damaged file costs that file only and is
    named in the summary. Raises `OSError` when the target cannot take what comes.
    """
    raw_target = os.fsencode(target)
    job = _Restore(repository, snapshot, path_key(path))
    node = repository.find(snapshot, path)
    if node.kind != DIRECTORY:
        folder, name = os.path.split(raw_target)
        fd = os.open(folder or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            job.make_single(fd, name, node)
        finally:
            os.close(fd)
        return job.summary
    fd = _open_target(raw_target)
    try:
        job.create(fd)
        job.finish(fd)
    finally:
        os.close(fd)
    return job.summary


def dump(repository: Repository, snapshot: Snapshot, path: bytes, write: Callable[[bytes], object]) -> int:
    """Give one file's content to `write`, holes as zeros; returns its length in bytes."""
    node = repository.find(snapshot, path)
    if node.kind != FILE:
        raise NotFoundError(f"not a file: {display(node.key)}")
    length = 0
    for piece in repository.pieces(snapshot, node):
        if piece.data is not None:
            write(piece.data)
        else:
            for start in range(0, piece.length, 1 << 20):
                write(bytes(min(1 << 20, piece.length - start)))
        length += piece.length
    return length
