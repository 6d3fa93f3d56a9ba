"""Looking into snapshots for as long as somebody likes: entries of directories, and ranges of files.

One native job stays open and answers. What it knows of the index is loaded when it is first needed, and anew
when something that should be there is not, for prune may have moved it; so a question that fails was asked of
the index as it is now. Nothing but bytes that were checked against their ids is ever given out.
"""

import base64
import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pvback import limits
from pvback.datapath import DataJob, Listeners
from pvback.errors import DamagedError, ObjectNotFound, PvbackError
from pvback.ops.reading import tree_options
from pvback.repository.gcstate import list_index, read_gc_state
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["Browser", "Entry", "Listing", "OpenFile"]

_RELOAD_COUNT_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a snapshot, for programs: names, targets and attributes as raw bytes."""

    name: bytes
    """Empty for the root."""
    kind: str
    """`file`, `directory`, `symlink`, `fifo`, `socket`, `chardev` or `blockdev`."""
    mode: int
    """Permission bits, 07777."""
    uid: int
    gid: int
    size: int
    """Bytes of a file or of a symlink's target; 0 otherwise."""
    allocated: int
    """Bytes that are not holes, where that is known without reading more; otherwise the size."""
    mtime_ns: int
    ctime_ns: int
    ino: int
    """The same for all names of an inode and at any time, and of nothing else in the repository."""
    links: int
    """How many names the inode has in this snapshot; 1 for a directory."""
    target: bytes | None = None
    rdev: tuple[int, int] | None = None
    """Major and minor number."""
    has_xattrs: bool = False
    xattrs: Mapping[bytes, bytes] | None = None
    """None where it was not asked for: see `Browser.stat`."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Entry":
        """From an answer of the job."""
        target, rdev, xattrs = raw.get("target_b64"), raw.get("rdev"), raw.get("xattrs_b64")
        decode = base64.b64decode
        return cls(
            name=decode(raw["name_b64"]),
            kind=raw["kind"],
            mode=raw["mode"],
            uid=raw["uid"],
            gid=raw["gid"],
            size=raw["size"],
            allocated=raw["allocated"],
            mtime_ns=raw["mtime_ns"],
            ctime_ns=raw["ctime_ns"],
            ino=raw["ino"],
            links=raw["links"],
            target=None if target is None else decode(target),
            rdev=None if rdev is None else (rdev[0], rdev[1]),
            has_xattrs=raw["has_xattrs"],
            xattrs=None if xattrs is None else {decode(name): decode(value) for name, value in xattrs},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A part of a directory, in the order of names."""

    entries: Sequence[Entry]
    is_end: bool
    """Whether there is nothing after it."""
    lost: DamagedError | None = None
    """What could not be read between these entries, or before or after them."""


class OpenFile:
    """A file of a snapshot. Safe from several threads; reads go on side by side."""

    def __init__(self, browser: "Browser", number: int, *, path: bytes, size: int) -> None:
        self._browser = browser
        self._number = number
        self.path = path
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on (16 MiB at most); fewer only at the end. Holes are zeros.

        Raises DamagedError when any of them cannot be had, StorageError. Another read may succeed.
        """
        try:
            return self._browser.read(self._number, offset=offset, length=length)
        except PvbackError as exc:
            raise _named(exc, self.path) from exc

    def seek(self, offset: int, *, is_hole: bool) -> int | None:
        """Where the next hole, or the next data, begins at or after `offset`; None where no data follows.

        The end of the file counts as a hole. Raises as `read`.
        """
        try:
            return self._browser.seek(self._number, offset=offset, is_hole=is_hole)
        except PvbackError as exc:
            raise _named(exc, self.path) from exc

    def close(self) -> None:
        """Forget it."""
        with contextlib.suppress(PvbackError):
            self._browser.close_file(self._number)


class Browser:
    """Looks into the snapshots of one scope until it is closed. Safe from several threads.

    Every method raises StorageError when the store does not answer; later ones may succeed.
    """

    def __init__(self, access: RepositoryAccess) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._index: Mapping[str, Any] | None = None
        self._index_number = 0
        self._job = DataJob("browse", access.keyring, options=access.job_options({}), store=access.store)
        self._thread = threading.Thread(target=self._serve, name="pvback-browse", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; questions that are open fail with Interrupted. Safe to repeat."""
        self._job.cancel()
        self._thread.join()

    def stat(self, snapshot: CommittedSnapshot, path: bytes) -> Entry | None:
        """The entry at `path`, relative to the source, with its attributes; None if there is none.

        A directory that cannot be read itself, but of which something is left, is shown as a plain one.
        Raises DamagedError, WrongKeyError.
        """
        try:
            node = self._ask("stat", _question(snapshot, path))["node"]
        except PvbackError as exc:
            raise _named(exc, path) from exc
        return None if node is None else Entry.from_json(node)

    def list(self, snapshot: CommittedSnapshot, path: bytes, *, after: bytes | None = None) -> Listing:
        """Up to `limits.BROWSE_ROWS` entries of the directory `path`: the first, or those after a name.

        Raises WrongKeyError.
        """
        question = {**_question(snapshot, path), "count": limits.BROWSE_ROWS}
        if after is not None:
            question["after_b64"] = base64.b64encode(after).decode()
        for _ in range(_RELOAD_COUNT_MAX):
            seen = self._require_index()
            found = self._ask("list", question)
            if found["lost"] is None or not self._renew_index(seen):
                break
        lost = found["lost"]
        return Listing(
            entries=[Entry.from_json(node) for node in found["nodes"]],
            is_end=found["is_end"],
            lost=None if lost is None else DamagedError(lost["message"], key=_shown(path)),
        )

    def open(self, snapshot: CommittedSnapshot, path: bytes) -> OpenFile:
        """Open a regular file; it has to be closed. Raises UsageError if it is none, DamagedError."""
        try:
            answer = self._ask("open", _question(snapshot, path))
        except PvbackError as exc:
            raise _named(exc, path) from exc
        return OpenFile(self, answer["file"], path=path, size=answer["size"])

    def read(self, file: int, *, offset: int, length: int) -> bytes:
        """See `OpenFile.read`."""
        for attempt in range(_RELOAD_COUNT_MAX + 1):
            seen = self._require_index()
            try:
                return self._job.read(file, offset=offset, length=length)
            except (ObjectNotFound, DamagedError) as exc:
                if attempt == _RELOAD_COUNT_MAX or not self._renew_index(seen):
                    raise _damage(exc) from exc
        raise AssertionError("the last attempt returns or raises")

    def seek(self, file: int, *, offset: int, is_hole: bool) -> int | None:
        """See `OpenFile.seek`."""
        found: int | None = self._ask("seek", {"file": file, "offset": offset, "is_hole": is_hole})["offset"]
        return found

    def close_file(self, file: int) -> None:
        """See `OpenFile.close`."""
        self._job.ask("close", {"file": file})

    def _serve(self) -> None:
        # It ends when it is cancelled; what it failed with before that, its questions have failed with, too.
        with contextlib.suppress(PvbackError):
            self._job.run(Listeners(is_idle=True))

    def _ask(self, name: str, question: Mapping[str, object]) -> dict[str, Any]:
        """The answer to a question, asked again if the index has changed since it was loaded."""
        for _ in range(_RELOAD_COUNT_MAX):
            seen = self._require_index()
            try:
                return self._job.ask(name, question)
            except (ObjectNotFound, DamagedError):
                if not self._renew_index(seen):
                    break
        try:
            return self._job.ask(name, {**question, "is_final": True})
        except (ObjectNotFound, DamagedError) as exc:
            raise _damage(exc) from exc

    def _require_index(self) -> int:
        """Load the index if that was not done yet; a number that changes when it is loaded anew."""
        if self._index is None:
            self._renew_index(0)
        return self._index_number

    def _renew_index(self, seen: int) -> bool:
        """Load the index if it is not what it was when its number was `seen`. Whether it is another now."""
        with self._lock:
            if self._index_number != seen:
                return True
            objects = self._access.objects
            for attempt in range(_RELOAD_COUNT_MAX + 1):
                index = list_index(objects, read_gc_state(objects)).as_options()
                if index == self._index:
                    return False
                try:
                    self._job.ask("refresh", {"index": index})
                except ObjectNotFound:
                    # A run was merged into another between the list and this.
                    if attempt == _RELOAD_COUNT_MAX:
                        raise
                    continue
                break
            self._index = index
            self._index_number += 1
            return True


def _question(snapshot: CommittedSnapshot, path: bytes) -> dict[str, object]:
    return {
        "snapshot": snapshot.id,
        "path_b64": base64.b64encode(path).decode(),
        **tree_options(snapshot),
    }


def _damage(exc: PvbackError) -> PvbackError:
    """What it means that something is missing although the index is what it should be."""
    if isinstance(exc, ObjectNotFound):
        return DamagedError(exc.what, key=exc.key, hint="`pvback check` says what is affected")
    return exc


def _named(exc: PvbackError, path: bytes) -> PvbackError:
    """The same error, of that path."""
    place = f" ({exc.key})" if exc.key else ""
    return type(exc)(f"{exc.what}{place}", key=_shown(path) or "/", offset=exc.offset, hint=exc.hint)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
