"""`config` and each key object lie in the store twice: a repository must not be lost with one small object.

The first object decides. It is created or compared-and-swapped; only then its copy below `copies/` follows,
and whoever finds the copy behind brings it forward. Of two that differ the one with the higher serial counts,
of equal serials the first: a copy that is behind is mended, and not believed while the first can be read.
Readers look at a copy only when the first is missing or does not open, so it costs no request as long as all
is well.

Removing goes the other way, copy before first: a key that was removed halfway is still listed, and none comes
back from a copy that was forgotten.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvback import limits
from pvback.errors import (
    ConflictError,
    DamagedError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    PvbackError,
    RepositoryNotFound,
    StorageError,
    StorageUnavailable,
    UnsupportedFormatError,
    WrongKeyError,
)
from pvback.repository.config_object import RepositoryConfig, parse_config
from pvback.repository.key_objects import config_facts, key_facts
from pvback.repository.layout import CONFIG_KEY, COPIES_PREFIX, KEYS_PREFIX, copy_key, is_key_object
from pvback.repository.reading_each import read_each
from pvback.retrying import Patience
from pvback.runtime import Clock
from pvback.storage import ObjectStore, StoredObject

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = [
    "CopyProblem",
    "FoundConfig",
    "Twins",
    "copies_worth_trying",
    "list_key_objects",
    "read_config",
    "read_key_objects",
    "swap_settled",
]


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """A config that its owner has signed, and what to tell people about where it was."""

    data: bytes
    facts: RepositoryConfig
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyProblem:
    """One of a pair that is not as it should be."""

    key: str
    what: str
    is_lost: bool = False
    """Neither of the two can be read."""


def read_config(store: ObjectStore) -> FoundConfig:
    """`config`, or its copy where the first is missing or damaged.

    Raises RepositoryNotFound without either, UnsupportedFormatError, and the first one's DamagedError.
    """
    try:
        return _open_config(store.read(CONFIG_KEY).data)
    except ObjectNotFound:
        problem: PvbackError = RepositoryNotFound(
            f"repository not found at `{store.address}`", hint="run `pvback init` first"
        )
        why = "is missing"
    except DamagedError as exc:
        problem, why = exc, "is damaged"
    try:
        found = _open_config(store.read(copy_key(CONFIG_KEY)).data)
    except (ObjectNotFound, DamagedError):
        raise problem from None
    warning = f"{CONFIG_KEY} {why}; its copy is used: an owner should run `pvback key repair`"
    return FoundConfig(found.data, found.facts, (warning,))


def _open_config(data: bytes) -> FoundConfig:
    facts = parse_config(data)
    config_facts(data)
    return FoundConfig(data, facts)


def list_key_objects(store: ObjectStore, prefix: str = KEYS_PREFIX) -> list[str]:
    """The keys of all key objects; of their copies, the keys of what they are copies of."""
    keys = (info.key.removeprefix(COPIES_PREFIX) for info in store.list_objects(prefix))
    return [key for key in keys if is_key_object(key)]


def read_key_objects(
    store: ObjectStore, keys: Sequence[str], *, are_copies: bool = False
) -> list[tuple[str, bytes]]:
    """(key, bytes) of these key objects, or of their copies; what is removed meanwhile is left out."""

    def read(key: str) -> tuple[str, bytes] | None:
        try:
            return key, store.read(copy_key(key) if are_copies else key).data
        except ObjectNotFound:
            return None

    return [one for one in read_each(store, keys, work=read) if one is not None]


def copies_worth_trying(
    store: ObjectStore, firsts: Sequence[tuple[str, bytes]], *, revoked: Sequence[str]
) -> list[tuple[str, bytes]]:
    """Copies that might open where no first one did: of those that are missing, damaged, or differ.

    Not one that is behind a first that can be read, and none of a principal who was revoked.
    """
    known = dict(firsts)
    found = []
    for key, data in read_key_objects(store, list_key_objects(store, copy_key(KEYS_PREFIX)), are_copies=True):
        first = known.get(key)
        principal = key.removeprefix(KEYS_PREFIX).removesuffix(".json")
        if data == first or principal in revoked:
            continue
        if first is None or (_key_serial(first) or 0) <= (_key_serial(data) or 0):
            found.append((key, data))
    return found


def _key_serial(data: bytes) -> int | None:
    try:
        return int(key_facts(data)["serial"])
    except (DamagedError, UnsupportedFormatError):
        return None


def swap_settled(
    store: ObjectStore,
    old: StoredObject,
    *,
    key: str,
    data: bytes,
    clock: Clock,
    patience: Patience,
) -> None:
    """Replace the object that was read as `old`. Lost answers are settled by looking.

    A store without conditional writes is looked at right before. Raises ConflictError when somebody else has
    changed it, StorageUnavailable when no answer comes.
    """
    attempts = patience.begin(clock)
    while True:
        lost: StorageError = StorageUnavailable("it is not what was written", key=key)
        try:
            if store.capabilities.can_swap:
                store.swap(key, data, etag=old.etag)
                return
            if store.read(key).etag == old.etag:
                store.put(key, data)
                return
        except (StorageUnavailable, ObjectChanged, ObjectNotFound) as exc:
            lost = exc
        found = _read_or_none(store, key)
        if found is not None and found.data == data:
            return
        if found is None or found.etag != old.etag:
            raise ConflictError("somebody else has changed it just now", key=key, hint="run it again")
        if not attempts.wait(lost):
            raise StorageUnavailable("a compare-and-swap got no answer", key=key) from lost


def _read_or_none(store: ObjectStore, key: str) -> StoredObject | None:
    try:
        return store.read(key)
    except ObjectNotFound:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """The pairs of one repository, as the holder of a keyring may change and mend them."""

    store: ObjectStore
    keyring: "Keyring"
    config: bytes
    """The config that the keyring goes with."""
    clock: Clock
    patience: Patience = field(default_factory=Patience, compare=False)

    def create(self, key: str, data: bytes) -> None:
        """Create a key object under a name that nobody else uses, then its copy. Raises ObjectExists."""
        attempts = self.patience.begin(self.clock)
        while True:
            try:
                self.store.create(key, data)
                break
            except (StorageUnavailable, ObjectExists) as exc:
                found = _read_or_none(self.store, key)
                if found is not None and found.data == data:
                    break
                if found is not None or not attempts.wait(exc):
                    raise
        self.follow(key)

    def replace(self, key: str, change: Callable[[bytes], bytes]) -> bytes:
        """Change a key object, and then its copy; returns its new bytes.

        `change` is called again with what is there when somebody else was faster. A first one that is missing
        or damaged is mended before. Raises ObjectNotFound, ConflictError, StorageUnavailable.
        """
        for attempt in range(limits.SWAP_COUNT_MAX):
            stored = _read_or_none(self.store, key)
            if stored is None or self.serial_of(key, stored.data) is None:
                self.mend(key)
                stored = self.store.read(key)
            data = change(stored.data)
            try:
                self._swap(key, data, over=stored)
            except ConflictError:
                if attempt == limits.SWAP_COUNT_MAX - 1:
                    raise
                continue
            self.follow(key)
            return data
        raise AssertionError("the last attempt returns or raises")

    def remove(self, key: str) -> None:
        """Remove the copy, then the first."""
        self.store.delete(copy_key(key))
        self.store.delete(key)

    def serial_of(self, key: str, data: bytes) -> int | None:
        """The serial of a config or key object, or None for what is damaged or of somebody else.

        An owner's keyring proves key objects; another believes what parses, but for its own.
        """
        try:
            if key == CONFIG_KEY:
                self.keyring.list_keys(data, [])
                return int(config_facts(data)["serial"])
            (found,) = json.loads(self.keyring.list_keys(self.config, [(key, data)]))
        except (DamagedError, WrongKeyError):
            return None
        if found.get("error") is not None or key != f"{KEYS_PREFIX}{found['principal']}.json":
            return None
        return int(found["serial"])

    def follow(self, key: str) -> None:
        """Make the copy what the first is, unless it is ahead. Raises StorageError when the store fails."""
        for _ in range(limits.SWAP_COUNT_MAX):
            first, copy = _read_or_none(self.store, key), _read_or_none(self.store, copy_key(key))
            if first is None or (copy is not None and copy.data == first.data):
                return
            serial = self.serial_of(key, first.data)
            behind = self.serial_of(key, copy.data) if copy is not None else None
            if serial is None or (behind is not None and behind > serial):
                return
            with contextlib.suppress(ConflictError, ObjectExists):
                self._write(copy_key(key), first.data, over=copy)

    def mend(self, key: str) -> str | None:
        """Make both of a pair what the better one is; says what was done, None for nothing.

        Raises DamagedError when neither can be read, ConflictError when others change them all the time.
        """
        first, copy, problem = self._look(key)
        if problem is None:
            return None
        if problem.is_lost:
            raise DamagedError(problem.what, key=key)
        if problem.key == key:
            assert copy is not None, "the copy is the better one"
            self._write(key, copy.data, over=first)
        else:
            self.follow(key)
        return f"{problem.key}: {problem.what}; mended"

    def problems(self) -> list[CopyProblem]:
        """What is wrong with the pairs."""
        looked = (self._look(key)[2] for key in self.names())
        return [problem for problem in looked if problem is not None]

    def _look(self, key: str) -> tuple[StoredObject | None, StoredObject | None, CopyProblem | None]:
        first, copy = _read_or_none(self.store, key), _read_or_none(self.store, copy_key(key))
        serials = (
            None if first is None else self.serial_of(key, first.data),
            None if copy is None else self.serial_of(key, copy.data),
        )
        return first, copy, judge_pair(key, (first, copy), serials=serials)

    def names(self) -> list[str]:
        """`config`, and every key object of which one of the two is there, of principals in office."""
        revoked = {one["principal"] for one in config_facts(self.config)["revoked"]}
        found = {
            info.key.removeprefix(COPIES_PREFIX)
            for prefix in (KEYS_PREFIX, copy_key(KEYS_PREFIX))
            for info in self.store.list_objects(prefix)
        }
        names = sorted(key for key in found if is_key_object(key))
        gone = {f"{KEYS_PREFIX}{principal}.json" for principal in revoked}
        return [CONFIG_KEY, *(key for key in names if key not in gone)]

    def _write(self, key: str, data: bytes, *, over: StoredObject | None) -> None:
        if over is None:
            try:
                self.store.create(key, data)
            except StorageUnavailable:
                found = _read_or_none(self.store, key)
                if found is None or found.data != data:
                    raise
            return
        self._swap(key, data, over=over)

    def _swap(self, key: str, data: bytes, *, over: StoredObject) -> None:
        swap_settled(self.store, over, key=key, data=data, clock=self.clock, patience=self.patience)


def judge_pair(
    key: str,
    pair: tuple[StoredObject | None, StoredObject | None],
    *,
    serials: tuple[int | None, int | None],
) -> CopyProblem | None:
    """What is wrong with a first object and its copy; `serials` are None for those that prove false. Pure.

    The problem names the one that has to be written anew.
    """
    first, copy = pair
    if serials[0] is None and serials[1] is None:
        what = "it and its copy are missing" if first is copy is None else "it and its copy are damaged"
        return CopyProblem(key, what, is_lost=True)
    if serials[0] is None:
        return CopyProblem(key, "it is missing" if first is None else "it is damaged")
    if serials[1] is None:
        return CopyProblem(copy_key(key), "the copy is missing" if copy is None else "the copy is damaged")
    if serials[1] > serials[0]:
        return CopyProblem(key, f"it has serial {serials[0]}, its copy {serials[1]}: it was rolled back")
    if first is not None and copy is not None and first.data != copy.data:
        return CopyProblem(copy_key(key), "the copy is behind")
    return None
