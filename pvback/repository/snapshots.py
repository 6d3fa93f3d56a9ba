"""Which snapshots there are, and which one somebody means."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pvback import limits
from pvback.errors import (
    DamagedError,
    ObjectNotFound,
    PvbackError,
    UnsupportedFormatError,
    UsageError,
    WrongKeyError,
)
from pvback.repository.gcstate import GcState, read_gc_state
from pvback.repository.layout import GC_STATE_NAME, Area, ScopeLayout
from pvback.repository.reading_each import beside, read_each
from pvback.repository.records import Record, RecordDetails, read_record
from pvback.repository.register_copies import CopiesFile, RegisterCopies, find_copies
from pvback.repository.registers import Register, RegisterState, open_register, read_register
from pvback.repository.sealed import ScopeObjects
from pvback.storage import ObjectInfo

if TYPE_CHECKING:
    from pvback.storage.ahead import Question

__all__ = [
    "Catalog",
    "CommittedSnapshot",
    "SnapshotFilter",
    "find_snapshot",
    "first_questions",
    "is_standing",
    "latest_checkpoint",
    "latest_of_source",
    "load_catalog",
    "matches_source",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedSnapshot:
    """A snapshot that exists: its register, its record, and the store's time of the record.

    A repaired one has the time of the snapshot whose place it takes.
    """

    register: Register
    record: Record
    time: datetime

    @property
    def id(self) -> str:
        """32 digits."""
        return self.register.snapshot

    @property
    def source(self) -> str:
        """The source id, in hex."""
        return self.register.source

    @property
    def details(self) -> RecordDetails | None:
        """The sealed part; None when this keyring may not read it."""
        return self.record.details

    def require_details(self) -> RecordDetails:
        """The sealed part. Raises WrongKeyError when it is closed to this keyring."""
        if self.record.details is None:
            raise WrongKeyError(
                f"the keys in use do not open snapshot {self.id[: limits.SHORT_ID_DIGITS]}",
                hint="use the key of an owner or a restorer",
            )
        return self.record.details


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All valid registers of a scope as they were at one time, and the records of the committed ones."""

    state: GcState
    registers: Sequence[tuple[Register, datetime]]
    snapshots: Sequence[CommittedSnapshot]
    """Oldest first, by the store's time of commit."""
    forgotten: Sequence[CommittedSnapshot] = ()
    """Those that can still be brought back; they continue their source's chain."""
    damaged: Sequence[PvbackError] = ()
    """Why registers and records are missing above that did not open. The others are as good as ever."""

    def record_hashes(self) -> dict[str, str]:
        """The hash of the record of each snapshot that is or was committed, and whose register is there."""
        closed = (RegisterState.COMMITTED, RegisterState.FORGOTTEN, RegisterState.DEAD)
        return {
            one.snapshot: one.record.hash for one, _ in self.registers if one.record and one.state in closed
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFilter:
    """Which snapshots somebody wants. Everything that is given has to hold."""

    source: str | None = None
    """A source string, its path, or its name."""
    host: str | None = None
    tags: Mapping[str, str | None] = field(default_factory=dict)
    """None as the value: any value."""

    def matches(self, snapshot: CommittedSnapshot) -> bool:
        """Whether a snapshot is wanted. One that cannot be read is wanted only by a filter without wishes."""
        details = snapshot.details
        if details is None:
            return self.source is None and self.host is None and not self.tags
        return (
            (self.source is None or matches_source(details, self.source))
            and (self.host is None or details.source.host == self.host)
            and all(
                key in details.tags and value in (None, details.tags[key]) for key, value in self.tags.items()
            )
        )


def matches_source(details: RecordDetails, wanted: str) -> bool:
    """Whether `wanted` is a source's string, its path (with a slash at its end or not) or its name."""
    source = details.source
    return wanted in (source.string, source.path, source.name) or (
        source.path is not None and len(wanted) > 1 and wanted.rstrip("/") == source.path
    )


def first_questions(layout: ScopeLayout) -> "list[list[Question]]":
    """What `load_catalog` begins with, for a store that is asked ahead."""
    return [
        [("read", layout.key(GC_STATE_NAME))],
        [("list", layout.area(Area.SNAPSHOTS)), ("list", layout.area(Area.RECORDS))],
    ]


def load_catalog(
    objects: ScopeObjects, *, with_records: bool = True, copies_file: CopiesFile | None = None
) -> Catalog:
    """Read `gc/state`, then all valid registers, then the records of the committed ones.

    What there are copies of is not asked for. A register that is removed meanwhile is left out; what does not
    open is named in `damaged`. Raises DamagedError only for `gc/state`.
    """
    state = read_gc_state(objects)
    listed, times = _list_names(objects, state, with_records=with_records)
    copies = find_copies(objects, state, listed=listed, file=copies_file)
    damaged: list[PvbackError] = []
    registers: list[tuple[Register, datetime]] = []
    found = _read_registers(objects, listed, copies)
    for result, info in zip(found, listed.values(), strict=True):
        if isinstance(result, PvbackError):
            damaged.append(result)
        elif result is not None:
            registers.append((result, info.mtime))
    copies.save()
    alive = (RegisterState.COMMITTED, RegisterState.FORGOTTEN)
    wanted = [one for one in registers if with_records and one[0].state in alive]
    loaded = read_each(
        objects.store,
        wanted,
        work=lambda one: _load_snapshot(objects, one[0], min(one[1], times.get(one[0].snapshot, one[1]))),
    )
    damaged += [one for one in loaded if isinstance(one, PvbackError)]
    # Some stores know the time to a second only; the sequence tells a source's snapshots apart.
    snapshots = sorted(
        (one for one in loaded if isinstance(one, CommittedSnapshot)),
        key=lambda one: (one.time, one.record.seq, one.id),
    )
    return Catalog(
        state=state,
        registers=registers,
        snapshots=[one for one in snapshots if one.register.state is RegisterState.COMMITTED],
        forgotten=[one for one in snapshots if one.register.state is RegisterState.FORGOTTEN],
        damaged=damaged,
    )


def find_snapshot(
    snapshots: Sequence[CommittedSnapshot], text: str, *, source: str | None = None
) -> CommittedSnapshot:
    """The snapshot whose id begins with `text`, or the newest one for `latest`. Pure.

    `latest` without a source needs all snapshots to be of one. Raises UsageError when several fit or `text`
    is no id, PvbackError when none fits.
    """
    wanted = [one for one in snapshots if source is None or SnapshotFilter(source=source).matches(one)]
    of_source = f" of source {source}" if source is not None else ""
    if text == "latest":
        if not wanted:
            raise PvbackError(
                f"there is no snapshot{of_source}", hint="`pvback snapshots` lists what there is"
            )
        if len({one.source for one in wanted}) > 1:
            raise UsageError(
                "there are snapshots of several sources", hint="say which one with `--source`, or give an id"
            )
        return wanted[-1]
    if not text or len(text) > 32 or set(text) - set("0123456789abcdef"):
        raise UsageError(f"not a snapshot id: {text!r}", hint="give the first digits of an id, or `latest`")
    fitting = [one for one in wanted if one.id.startswith(text)]
    if len(fitting) > 1:
        some = ", ".join(one.id[: max(limits.SHORT_ID_DIGITS, len(text) + 2)] for one in fitting[:5])
        raise UsageError(f"{len(fitting)} snapshot ids begin with {text}: {some}", hint="give more digits")
    if not fitting:
        raise PvbackError(
            f"there is no snapshot {text}{of_source}", hint="`pvback snapshots` lists what there is"
        )
    return fitting[0]


def latest_of_source(snapshots: Iterable[CommittedSnapshot], source: str) -> CommittedSnapshot | None:
    """The newest snapshot with that source id."""
    return next((one for one in reversed(list(snapshots)) if one.source == source), None)


def latest_checkpoint(catalog: Catalog, source: str) -> Register | None:
    """The unfinished session of a source whose checkpoint a new backup should go on from. Pure.

    The newest one that is younger than the source's latest snapshot: an older one knows less.
    """
    latest = latest_of_source(catalog.snapshots, source)
    unfinished = [
        (mtime, register.snapshot, register)
        for register, mtime in catalog.registers
        if register.source == source
        and register.checkpoint is not None
        and register.state in (RegisterState.OPEN, RegisterState.FENCED)
        and (latest is None or mtime > latest.time)
    ]
    return max(unfinished, key=lambda one: one[:2])[2] if unfinished else None


def is_standing(objects: ScopeObjects, name: str) -> bool:
    """Whether no prune may remove what belongs to the register `snapshots/<name>`.

    What is forgotten may be condemned as soon as its grace is over, before it is dead. Raises DamagedError,
    StorageError.
    """
    if not read_gc_state(objects).is_register_valid(name):
        return False
    try:
        state = read_register(objects, name).register.state
    except ObjectNotFound:
        return False
    return state in (RegisterState.OPEN, RegisterState.COMMITTED)


def _list_names(
    objects: ScopeObjects, state: GcState, *, with_records: bool
) -> tuple[dict[str, ObjectInfo], dict[str, datetime]]:
    """Registers that count, and when each record was written.

    A register is written again when its snapshot is forgotten and brought back, its record only by a repair:
    the earlier of the two times is that of the commit, or close to it. Of what is committed meanwhile the
    record may be missing.
    """

    def registers() -> dict[str, ObjectInfo]:
        found = objects.list_area(Area.SNAPSHOTS)
        return {name: info for name, info in found if state.is_register_valid(name)}

    def records() -> dict[str, datetime]:
        return {name: info.mtime for name, info in objects.list_area(Area.RECORDS)}

    return beside(objects.store, first=registers, second=records) if with_records else (registers(), {})


def _read_registers(
    objects: ScopeObjects, listed: Mapping[str, ObjectInfo], copies: RegisterCopies
) -> list[Register | PvbackError | None]:
    """In order; None for one that is gone, and why one does not open."""

    def read(name: str) -> Register | PvbackError | None:
        try:
            stored = objects.store.read(objects.layout.key(f"{Area.SNAPSHOTS}/{name}"))
            register = open_register(objects, name, stored=stored)
        except ObjectNotFound:
            return None
        except (DamagedError, UnsupportedFormatError, WrongKeyError) as exc:
            # Also one that somebody signed who may not: it must not hide the others.
            return exc
        copies.keep(name, stored)
        return register

    found: dict[str, Register | PvbackError | None] = {}
    for name, info in listed.items():
        stored = copies.find(name, info)
        # A copy that does not open, or no longer, is none.
        with contextlib.suppress(DamagedError, UnsupportedFormatError, WrongKeyError):
            if stored is not None:
                found[name] = open_register(objects, name, stored=stored)
                copies.keep(name, stored)
    missing = [name for name in listed if name not in found]
    found.update(zip(missing, read_each(objects.store, missing, work=read), strict=True))
    return [found[name] for name in listed]


def _load_snapshot(
    objects: ScopeObjects, register: Register, time: datetime
) -> CommittedSnapshot | PvbackError:
    assert register.record is not None, "a committed register was parsed with its record"
    try:
        record = read_record(
            objects,
            register.record,
            snapshot=register.snapshot,
            source=register.source,
            twin=register.twin,
        )
    except (DamagedError, UnsupportedFormatError, WrongKeyError) as exc:
        return exc
    # One that was written around what is lost of another has the place in time of that one.
    used = min(time, record.repaired.time) if record.repaired else time
    return CommittedSnapshot(register=register, record=record, time=used)
