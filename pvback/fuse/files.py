"""Snapshots as the operations of a file system, without the library that calls them.

Everything is read-only. What cannot be read is an I/O error and one line to whoever asked for the mount; the
rest stays readable. Every operation may be called in several threads at a time. Paths have surrogate escapes
for bytes that are not UTF-8; numbers of errors come as OSError.
"""

import errno
import functools
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from pvback import limits
from pvback.datapath import blake3
from pvback.errors import PvbackError, WrongKeyError
from pvback.ops.browse import Browser, Entry, Listing, OpenFile
from pvback.ops.shelf import Link, Place, Shelf, Shelves, Spot
from pvback.runtime import Clock

__all__ = ["Files", "MountOptions"]

P = ParamSpec("P")
R = TypeVar("R")
Attributes = dict[str, int]

_KINDS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "chardev": stat.S_IFCHR,
    "blockdev": stat.S_IFBLK,
}
_READDIRPLUS_AUTO = 1 << 14
"""libfuse's FUSE_CAP_READDIRPLUS_AUTO: the kernel guesses whether who lists a directory wants attributes."""
_SHELF_MODE = stat.S_IFDIR | 0o555
_BLOCK_BYTES = 512
_PREFERRED_BYTES = 128 * limits.KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How a mount is made."""

    allow_other: bool = False
    """Other users may look, as far as the modes of the files let them."""
    on_ready: Callable[[], None] = field(default=lambda: None)
    """Called when the file system answers."""
    on_problem: Callable[[str], None] = field(default=lambda _what: None)
    """Called with what could not be read; from any thread."""


def _answering(function: Callable[P, R]) -> Callable[P, R]:
    """What went wrong becomes an error number, and is told."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OSError:
            raise
        except PvbackError as exc:
            _files_of(args).tell(exc)
            number = errno.EACCES if isinstance(exc, WrongKeyError) else errno.EIO
        except Exception as exc:  # noqa: BLE001 - a bug must not end the file system; it is told
            _files_of(args).tell(exc)
            number = errno.EIO
        raise OSError(number, os.strerror(number))

    return call


def _files_of(args: Sequence[object]) -> "Files":
    assert isinstance(args[0], Files), "a method of it"
    return args[0]


@dataclass(slots=True)
class _OpenDirectory:
    """A directory that somebody lists. Entries are numbered from 0, and read part by part."""

    fetch: Callable[[bytes | None], Listing]
    begins: list[tuple[int, bytes | None]] = field(default_factory=lambda: [(0, None)])
    """Where each part begins: the number of its first entry, and the name before it."""
    part: Listing | None = None
    part_number: int = -1
    lost: PvbackError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def part_at(self, number: int) -> tuple[int, Listing]:
        """The part that holds the entry `number`, or the last one, and the number of its first entry."""
        with self.lock:
            place = next(at for at in reversed(range(len(self.begins))) if self.begins[at][0] <= number)
            while True:
                begin, after = self.begins[place]
                if self.part is None or self.part_number != place:
                    self.part, self.part_number = self.fetch(after), place
                    self.lost = self.lost or self.part.lost
                part = self.part
                end = begin + len(part.entries)
                if number < end or part.is_end or not part.entries:
                    return begin, part
                place += 1
                if place == len(self.begins):
                    self.begins.append((end, part.entries[-1].name))


class Files:
    """The operations, with the names and arguments that the binding calls them by."""

    use_ns = True

    def __init__(
        self, browser: Browser, *, top: Shelves | Place, clock: Clock, options: MountOptions
    ) -> None:
        self.was_ready = False
        self._browser = browser
        self._top = top
        self._clock = clock
        self._options = options
        self._owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        self._began_ns = int(clock.now().timestamp()) * 10**9
        self._lock = threading.Lock()
        self._next = 0
        self._open: dict[int, OpenFile | _OpenDirectory] = {}
        self._recent: OrderedDict[tuple[str, bytes], Entry] = OrderedDict()
        self._told: OrderedDict[str, float] = OrderedDict()

    def tell(self, problem: BaseException) -> None:
        """Say what went wrong, unless that was said a moment ago: the kernel asks again page by page."""
        text = str(problem) if isinstance(problem, PvbackError) else f"{type(problem).__name__}: {problem}"
        now = self._clock.monotonic()
        with self._lock:
            if now - self._told.get(text, -limits.MOUNT_REPEAT_SECONDS) < limits.MOUNT_REPEAT_SECONDS:
                return
            self._told[text] = now
            self._told.move_to_end(text)
            if len(self._told) > limits.MOUNT_ENTRIES_KEPT:
                self._told.popitem(last=False)
        self._options.on_problem(text)

    # What libfuse calls once.

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:  # noqa: ANN401 - C structures
        """The file system answers from now on."""
        # Always with attributes: the kernel would ask for them by name, which takes far longer.
        conn_info.want &= ~_READDIRPLUS_AUTO
        self.was_ready = True
        self._options.on_ready()

    # What is looked at.

    @_answering
    def getattr(self, path: str, fh: int | None = None) -> Attributes:
        """Attributes of a path."""
        place = self._place(path)
        if isinstance(place, Spot):
            return _attributes(self._entry(place))
        return self._shelf_attributes(path, place)

    @_answering
    def readlink(self, path: str) -> str:
        """Where a link points."""
        place = self._place(path)
        target = place.target if isinstance(place, Link) else None
        if isinstance(place, Spot):
            target = self._entry(place).target
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return target.decode("utf-8", "surrogateescape")

    @_answering
    def listxattr(self, path: str) -> list[str]:
        """Names of extended attributes."""
        return [name.decode("utf-8", "surrogateescape") for name in self._xattrs(path)]

    @_answering
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """The value of an extended attribute."""
        value = self._xattrs(path).get(name.encode("utf-8", "surrogateescape"))
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    @_answering
    def statfs(self, path: str) -> dict[str, int]:
        """Nothing is free."""
        return {"f_bsize": _PREFERRED_BYTES, "f_frsize": _BLOCK_BYTES, "f_namemax": 255}

    # Files.

    @_answering
    def open(self, path: str, flags: int) -> int:
        """Open a file for reading; the kernel lets nobody write."""
        place = self._place(path)
        if not isinstance(place, Spot):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return self._keep(self._browser.open(place.snapshot, place.path))

    @_answering
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A range of an open file; all of it, or an error: the kernel takes what is missing for the end."""
        file = self._open[fh]
        assert isinstance(file, OpenFile), "the kernel reads from what it has opened"
        return file.read(offset, size)

    @_answering
    def lseek(self, offset: int, whence: int, fh: int) -> int:
        """The next hole or the next data: programs that copy leave holes out."""
        file = self._open[fh]
        assert isinstance(file, OpenFile), "the kernel seeks in what it has opened"
        found = file.seek(offset, is_hole=whence == os.SEEK_HOLE)
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found

    @_answering
    def release(self, path: str, fh: int) -> int:
        """Nobody has the file open any more."""
        file = self._open.pop(fh)
        assert isinstance(file, OpenFile), "the kernel closes what it has opened"
        file.close()
        return 0

    # Directories.

    @_answering
    def opendir(self, path: str) -> int:
        """Begin to list a directory."""
        place = self._place(path, is_listing=True)
        if isinstance(place, Spot):
            spot = place
            return self._keep(_OpenDirectory(lambda after: self._list(spot, after)))
        assert isinstance(place, Shelf), "the kernel lists directories"
        entries = [self._shelf_entry(path, name, inner) for name, inner in sorted(place.entries.items())]
        return self._keep(_OpenDirectory(lambda _after: Listing(entries=entries, is_end=True)))

    def readdir(self, path: str, fh: int) -> Iterator[Any]:
        """There for the binding to see that directories can be listed; see `entries_from`."""
        raise NotImplementedError

    def entries_from(self, fh: int, offset: int) -> Iterator[tuple[bytes, Attributes, int]]:
        """(name, attributes, offset of the next) from an offset on; an I/O error at the end of what was lost.

        Offsets are 0 and 1 for the directory and the one above, and go on with its entries.
        """
        directory = self._open[fh]
        assert isinstance(directory, _OpenDirectory), "the kernel lists what it has opened"
        for number, name in enumerate((b".", b"..")):
            if offset <= number:
                yield name, {"st_mode": stat.S_IFDIR}, number + 1
        number = max(offset - 2, 0)
        while True:
            begin, part = self._part(directory, number)
            for entry in part.entries[number - begin :]:
                number += 1
                yield entry.name, _attributes(entry), number + 2
            if part.is_end:
                break
        # Entries of an answer that fails are not shown, so it fails when it would have none.
        if directory.lost is not None and number + 2 == max(offset, 2):
            self.tell(directory.lost)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    @_answering
    def releasedir(self, path: str, fh: int) -> int:
        """Nobody lists the directory any more."""
        del self._open[fh]
        return 0

    @_answering
    def _part(self, directory: _OpenDirectory, number: int) -> tuple[int, Listing]:
        return directory.part_at(number)

    def _list(self, spot: Spot, after: bytes | None) -> Listing:
        """A part of a directory. Who lists it mostly looks at its entries next."""
        part = self._browser.list(spot.snapshot, spot.path, after=after)
        with self._lock:
            for entry in part.entries:
                self._recent[spot.snapshot.id, spot.below([entry.name]).path] = entry
            while len(self._recent) > limits.MOUNT_ENTRIES_KEPT:
                self._recent.popitem(last=False)
        return part

    # Places.

    def _keep(self, opened: OpenFile | _OpenDirectory) -> int:
        with self._lock:
            self._next += 1
            self._open[self._next] = opened
            return self._next

    def _place(self, path: str, *, is_listing: bool = False) -> Place:
        """What is at a path; of a path in a snapshot only that it is one. Raises OSError when nothing is."""
        parts = [part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part]
        place: Place = self._top.top(is_listing=is_listing) if isinstance(self._top, Shelves) else self._top
        for number, part in enumerate(parts):
            if isinstance(place, Spot):
                return place.below(parts[number:])
            if not isinstance(place, Shelf) or part not in place.entries:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            place = place.entries[part]
        return place

    def _entry(self, spot: Spot, *, has_xattrs: bool = False) -> Entry:
        """The entry of a path in a snapshot, complete if asked for. Raises OSError when there is none."""
        key = (spot.snapshot.id, spot.path)
        entry = self._recent.get(key)
        if entry is None or (has_xattrs and entry.has_xattrs and entry.xattrs is None):
            entry = self._browser.stat(spot.snapshot, spot.path)
            if entry is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            with self._lock:
                self._recent[key] = entry
                if len(self._recent) > limits.MOUNT_ENTRIES_KEPT:
                    self._recent.popitem(last=False)
        return entry

    def _xattrs(self, path: str) -> dict[bytes, bytes]:
        place = self._place(path)
        return dict(self._entry(place, has_xattrs=True).xattrs or {}) if isinstance(place, Spot) else {}

    def _shelf_entry(self, path: str, name: bytes, place: Place) -> Entry:
        """A shelf's entry as listings have them: what is in a snapshot is asked for when it is looked at."""
        if isinstance(place, Spot):
            return self._named(name, self._entry(place))
        inner = os.fsencode(path).rstrip(b"/") + b"/" + name
        facts = self._shelf_attributes(os.fsdecode(inner), place)
        return Entry(
            name=name,
            kind="symlink" if isinstance(place, Link) else "directory",
            mode=stat.S_IMODE(facts["st_mode"]),
            uid=facts["st_uid"],
            gid=facts["st_gid"],
            size=facts["st_size"],
            allocated=0,
            mtime_ns=facts["st_mtime"],
            ctime_ns=facts["st_ctime"],
            ino=facts["st_ino"],
            links=1,
        )

    @staticmethod
    def _named(name: bytes, entry: Entry) -> Entry:
        facts = {slot: getattr(entry, slot) for slot in Entry.__slots__}
        return Entry(**{**facts, "name": name})

    def _shelf_attributes(self, path: str, place: Shelf | Link) -> Attributes:
        is_link = isinstance(place, Link)
        return {
            "st_mode": stat.S_IFLNK | 0o777 if is_link else _SHELF_MODE,
            "st_ino": int(blake3(os.fsencode(path))[:13], 16) + 2,
            "st_nlink": 1,
            "st_size": len(place.target) if isinstance(place, Link) else 0,
            "st_atime": self._began_ns,
            "st_mtime": self._began_ns,
            "st_ctime": self._began_ns,
            **self._owner,
        }


def _attributes(entry: Entry) -> Attributes:
    return {
        "st_mode": _KINDS[entry.kind] | entry.mode,
        "st_ino": entry.ino,
        "st_nlink": entry.links,
        "st_uid": entry.uid,
        "st_gid": entry.gid,
        "st_rdev": 0 if entry.rdev is None else os.makedev(*entry.rdev),
        "st_size": entry.size,
        "st_blksize": _PREFERRED_BYTES,
        "st_blocks": -(-entry.allocated // _BLOCK_BYTES),
        # When it was read last is not stored.
        "st_atime": entry.mtime_ns,
        "st_mtime": entry.mtime_ns,
        "st_ctime": entry.ctime_ns,
    }
