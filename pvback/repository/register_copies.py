"""Registers as somebody has read them: one object or one file in place of a request for each.

A copy stands in for a register only while a list shows the very version that was copied, by its etag, and is
opened as the register itself is: under its name, by its signature. Prune gathers those of snapshots that are
alive in an object that `gc/state` names, for clients that begin with nothing; others keep what they have read
in their cache. Losing either costs requests and nothing else.
"""

import base64
import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pvback import datapath, limits
from pvback.errors import DamagedError, ObjectNotFound, UnsupportedFormatError, WrongKeyError
from pvback.repository.cache_file import locked, replace_json
from pvback.repository.gcstate import GcState
from pvback.repository.layout import Area, ObjectType, generation_name
from pvback.repository.reading_each import read_each
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import Clock
from pvback.storage import ObjectInfo, StoredObject

__all__ = ["CopiesFile", "RegisterCopies", "find_copies", "gather"]

_Copies = dict[str, tuple[str, bytes]]
"""Name of the register -> (etag, the object)."""


class CopiesFile:
    """What one client has read of one scope, in a file that several processes may use at once."""

    def __init__(self, folder: Path, *, repository: str, scope: str) -> None:
        self._path = folder / repository / f"registers-{scope}.json"

    def load(self) -> _Copies:
        """Nothing when there is no such file, or one that makes no sense."""
        try:
            return _parse(json.loads(self._path.read_bytes()))
        except (OSError, ValueError):
            return {}

    def save(self, copies: Mapping[str, tuple[str, bytes]]) -> None:
        """Replace all. A cache that cannot be written is none."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self._path):
                replace_json(self._path, _as_json(copies))


class RegisterCopies:
    """The copies at hand while a catalog is loaded. Safe to use from several threads."""

    def __init__(self, known: _Copies, file: CopiesFile | None) -> None:
        self._known, self._file = known, file
        self._used: _Copies = {}

    def find(self, name: str, info: ObjectInfo) -> StoredObject | None:
        """The version that a list shows, if there is a copy of it."""
        copy = self._known.get(name)
        if copy is None or copy[0] != info.etag:
            return None
        return StoredObject(copy[1], copy[0], info.mtime)

    def keep(self, name: str, stored: StoredObject) -> None:
        """This is how it was read, and it opens."""
        self._used[name] = (stored.etag, stored.data)

    def save(self) -> None:
        """Into the file, if there is one and it has something else."""
        if self._file is not None and self._used != self._known:
            self._file.save(_newest(self._used))


def find_copies(
    objects: ScopeObjects, state: GcState, *, listed: Mapping[str, ObjectInfo], file: CopiesFile | None
) -> RegisterCopies:
    """Copies from the cache; and those of prune, if that is less than to read what is missing one by one."""
    if objects.store.capabilities.list_lag_seconds:
        # What a list shows may not be what is there.
        return RegisterCopies({}, None)
    known = file.load() if file is not None else {}
    missing = [name for name, info in listed.items() if known.get(name, ("",))[0] != info.etag]
    if state.gathered is not None and len(missing) > limits.GATHERED_COUNT_MIN:
        # Lost or damaged, it is as if there were none.
        with contextlib.suppress(DamagedError, UnsupportedFormatError, WrongKeyError, ValueError):
            raw = json.loads(objects.read_named(ObjectType.GC_LIST, state.gathered))
            known = {**_parse(raw), **known}
    return RegisterCopies(known, file)


def gather(
    objects: ScopeObjects, names: Iterable[str], *, before: Named | None, generation: int, clock: Clock
) -> Named | None:
    """Store the registers of `names`, the newest that fit, in one object; None if they are not worth it.

    What `before` has of them is not read again while a list shows the same version. Raises StorageError.
    """
    wanted = frozenset(names)
    listed = {name: info for name, info in objects.list_area(Area.SNAPSHOTS) if name in wanted}
    if len(listed) <= limits.GATHERED_COUNT_MIN or not all(info.etag for info in listed.values()):
        return None
    copies: _Copies = {}
    if before is not None:
        with contextlib.suppress(DamagedError, UnsupportedFormatError, WrongKeyError, ValueError):
            copies = _parse(json.loads(objects.read_named(ObjectType.GC_LIST, before)))
    kept = {name: copies[name] for name in copies.keys() & listed.keys()}
    kept = {name: one for name, one in kept.items() if one[0] == listed[name].etag}

    def read(name: str) -> tuple[str, StoredObject] | None:
        try:
            return name, objects.store.read(objects.layout.key(f"{Area.SNAPSHOTS}/{name}"))
        except ObjectNotFound:
            return None

    fresh = read_each(objects.store, sorted(listed.keys() - kept.keys()), work=read)
    kept |= {one[0]: (one[1].etag, one[1].data) for one in fresh if one is not None}
    name = f"{Area.GC}/{generation_name(generation, f'gathered-{datapath.random_id()}')}"
    body = json.dumps(_as_json(_newest(kept)), separators=(",", ":")).encode()
    data = objects.seal(ObjectType.GC_LIST, name=name, data=body)
    return objects.create_own(name, data=data, clock=clock)


def _newest(copies: Mapping[str, tuple[str, bytes]]) -> _Copies:
    """Those that fit, by the generation in their names."""
    left, found = limits.GATHERED_BYTES_MAX, {}
    for name in sorted(copies, reverse=True):
        left -= len(copies[name][1])
        if left < 0:
            break
        found[name] = copies[name]
    return found


def _as_json(copies: Mapping[str, tuple[str, bytes]]) -> list[list[str]]:
    return [[name, etag, base64.b64encode(data).decode()] for name, (etag, data) in sorted(copies.items())]


def _parse(raw: object) -> _Copies:
    """Raises ValueError."""
    if not isinstance(raw, list):
        raise ValueError("not a list")  # noqa: TRY004 - one error for whatever is wrong
    found: _Copies = {}
    for one in raw:
        if not isinstance(one, list) or len(one) != 3 or not all(isinstance(part, str) for part in one):
            raise ValueError("not a name, an etag and an object")
        found[one[0]] = (one[1], base64.b64decode(one[2], validate=True))
    return found
