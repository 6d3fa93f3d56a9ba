"""Snapshots as directories: how somebody finds them who looks at them as files.

```
snapshots/<time>-<short id>/         what the snapshot holds
snapshots/latest                     -> the newest one
ids/<short id>                       -> ../snapshots/...
hosts/<host>/<source>/<time>-<id>    -> ../../../snapshots/...; `latest` there is the source's newest
```

A snapshot of a single file or a stream is a directory with that file in it.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pvback import limits
from pvback.errors import PvbackError
from pvback.ops.browse import Browser
from pvback.ops.reading import find_in
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot, SnapshotFilter
from pvback.runtime import Clock

__all__ = ["Link", "Shelf", "Shelves", "Spot", "arrange", "single_shelf"]

_LATEST = b"latest"


@dataclass(frozen=True, slots=True)
class Spot:
    """A path in a snapshot, relative to its source."""

    snapshot: CommittedSnapshot
    path: bytes = b""

    def below(self, parts: Sequence[bytes]) -> "Spot":
        """The same with more components."""
        return Spot(self.snapshot, b"/".join((*filter(None, (self.path,)), *parts)))


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to another place here."""

    target: bytes


@dataclass(slots=True)
class Shelf:
    """A directory that is in no snapshot."""

    entries: dict[bytes, "Place"] = field(default_factory=dict)


Place: TypeAlias = Shelf | Link | Spot


def arrange(snapshots: Sequence[CommittedSnapshot]) -> Shelf:
    """The directories of these snapshots, oldest first, without those that this key does not open. Pure."""
    opened = [one for one in snapshots if one.details is not None]
    names = _snapshot_names(opened)
    shelves, ids, hosts = Shelf(), Shelf(), Shelf()
    sources = _source_names(opened)
    for one in opened:
        name = names[one.id]
        shelves.entries[name] = _whole(one)
        ids.entries[name.rpartition(b"-")[2]] = Link(b"../snapshots/" + name)
        host = hosts.entries.setdefault(_file_name(one.require_details().source.host) or b"_", Shelf())
        assert isinstance(host, Shelf), "hosts hold shelves"
        source = host.entries.setdefault(sources[one.source], Shelf())
        assert isinstance(source, Shelf), "sources hold links"
        source.entries[name] = Link(b"../../../snapshots/" + name)
        source.entries[_LATEST] = Link(name)
        shelves.entries[_LATEST] = Link(name)
    return Shelf({b"hosts": hosts, b"ids": ids, b"snapshots": shelves})


def single_shelf(browser: Browser, spot: Spot) -> Place:
    """What is shown of one snapshot or a part of it: a directory, or one with the only file in it.

    Raises PvbackError when there is no such path.
    """
    entry = browser.stat(spot.snapshot, spot.path)
    if entry is None:
        raise PvbackError(
            "there is no such path in the snapshot",
            key=spot.path.decode("utf-8", "surrogateescape"),
            hint="`pvback ls` shows what there is",
        )
    if entry.kind == "directory":
        return spot
    return Shelf({spot.path.rpartition(b"/")[2]: spot}) if spot.path else _whole(spot.snapshot)


class Shelves:
    """The directories of a repository's snapshots, as they were at most `limits.BROWSE_LIST_SECONDS` ago.

    Safe from several threads.
    """

    def __init__(
        self,
        access: RepositoryAccess,
        *,
        wanted: SnapshotFilter,
        clock: Clock,
        tell: Callable[[PvbackError], None],
    ) -> None:
        self._access = access
        self._wanted = wanted
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._shelf: Shelf | None = None
        self._until = 0.0

    def top(self, *, is_listing: bool = False) -> Shelf:
        """The directories, read again when they are too old.

        When that fails those that are known still do, unless somebody lists them: then it is raised.
        """
        with self._lock:
            began = self._clock.monotonic()
            if self._shelf is not None and began < self._until:
                return self._shelf
            try:
                catalog = self._access.catalog()
            except PvbackError as exc:
                if is_listing or self._shelf is None:
                    raise
                self._tell(exc)
                return self._shelf
            for damaged in catalog.damaged:
                self._tell(damaged)
            self._shelf = arrange([one for one in catalog.snapshots if self._wanted.matches(one)])
            ended = self._clock.monotonic()
            # Where listing takes long, it is not to be most of the work.
            self._until = ended + max(limits.BROWSE_LIST_SECONDS, 20 * (ended - began))
            return self._shelf

    def find(self, name: str, *, source: str | None) -> CommittedSnapshot:
        """The one snapshot that somebody names. Raises as `find_in`."""
        return find_in(self._access, name, source=source)


def _whole(snapshot: CommittedSnapshot) -> Place:
    source = snapshot.require_details().source
    if source.kind == "directory":
        return Spot(snapshot)
    name = source.name or (source.path or "").rstrip("/").rpartition("/")[2]
    return Shelf({_file_name(name) or b"data": Spot(snapshot)})


def _snapshot_names(snapshots: Sequence[CommittedSnapshot]) -> Mapping[str, bytes]:
    """Time and the first digits of the id, more of them where several snapshots begin alike."""
    digits = limits.SHORT_ID_DIGITS
    while len({one.id[:digits] for one in snapshots}) < len(snapshots):
        digits += 1
    return {one.id: f"{one.time:%Y-%m-%dT%H:%M:%SZ}-{one.id[:digits]}".encode() for one in snapshots}


def _source_names(snapshots: Sequence[CommittedSnapshot]) -> Mapping[str, bytes]:
    """A file name for each source id: its path with `_` for `/`; with the id where two are alike."""
    names: dict[str, bytes] = {}
    taken: set[tuple[str, bytes]] = set()
    for one in snapshots:
        if one.source in names:
            continue
        source = one.require_details().source
        name = _file_name((source.path or source.string.partition(":")[2]).strip("/")) or b"_"
        if (source.host, name) in taken:
            name += b"-" + one.source[: limits.SHORT_ID_DIGITS].encode()
        taken.add((source.host, name))
        names[one.source] = name
    return names


def _file_name(text: str) -> bytes:
    """Something that can be the name of a file; empty for what is nothing but dots."""
    name = os.fsencode(text).replace(b"/", b"_").replace(b"\0", b"_")[:200]
    return b"" if name.strip(b".") == b"" else name
