"""Snapshot registers: one per snapshot. OPEN -> COMMITTED -> FORGOTTEN -> DEAD, or OPEN -> FENCED.

FENCED -> COMMITTED is for who finds the record of the snapshot (`pvback.repository.finishing`).

Invariants: every write is a compare-and-swap with a fresh nonce, so that a writer whose answer was lost finds
out by reading whether the version that is there is its own. No other state is ever left for an earlier one,
except FORGOTTEN for COMMITTED.
"""

import base64
import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pvback import datapath, limits
from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, SessionFencedError, StorageUnavailable
from pvback.repository.body import Body, dump_body, format_time
from pvback.repository.layout import Area, ObjectType, generation_name, record_name, split_generation
from pvback.repository.sealed import Named, ScopeObjects, parse_named
from pvback.repository.timing import View, is_timed
from pvback.runtime import Clock
from pvback.storage import StoredObject

__all__ = [
    "Register",
    "RegisterState",
    "StoredRegister",
    "change_register",
    "create_register",
    "open_register",
    "parse_register",
    "read_register",
    "swap_register",
]


class RegisterState(enum.StrEnum):
    """What a register says of its snapshot."""

    OPEN = "OPEN"
    COMMITTED = "COMMITTED"
    FORGOTTEN = "FORGOTTEN"
    DEAD = "DEAD"
    FENCED = "FENCED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """The body of one register. `record` is set from COMMITTED on."""

    generation: int
    """n of `gc/state` when the session began; part of the name."""
    snapshot: str
    source: str
    state: RegisterState
    ack: int
    """The newest generation that the session has taken note of."""
    started: datetime
    sequence: int = 0
    """Place among the source's snapshots, from the first checkpoint on."""
    nonce: str = ""
    keep: tuple[str, ...] = ()
    """Packs that prune must keep although it condemned them."""
    checkpoint: Named | None = None
    record: Named | None = None
    refs: tuple[Named, ...] = ()
    runs: tuple[str, ...] = ()
    twin: bytes = field(default=b"", repr=False)
    """The record's object once more, from COMMITTED on: the loss of one of the two costs nothing."""

    @property
    def name(self) -> str:
        """`<gen>-<snapshot>`, the last part of its key."""
        return generation_name(self.generation, self.snapshot)

    @property
    def object_name(self) -> str:
        """The key below the scope's prefix."""
        return f"{Area.SNAPSHOTS}/{self.name}"

    def as_body(self) -> bytes:
        """As it is stored, before sealing."""
        raw: dict[str, Any] = {
            "v": 1,
            "nonce": self.nonce,
            "state": str(self.state),
            "snapshot": self.snapshot,
            "source": self.source,
            "seq": self.sequence,
            "ack": self.ack,
            "keep": list(self.keep),
            "started": format_time(self.started),
            "checkpoint": self.checkpoint.as_json() if self.checkpoint else None,
            "record": self.record.as_json() if self.record else None,
            "refs": [named.as_json() for named in self.refs],
            "runs": list(self.runs),
        }
        if self.twin:
            raw["twin"] = base64.b64encode(self.twin).decode()
        return dump_body(raw)


@dataclass(frozen=True, slots=True)
class StoredRegister:
    """A register as it was read or written last, with the store's name for that version."""

    register: Register
    etag: str
    doubted: float | None = None
    """When a request to write it, if one was not answered, was sent last, by the process's own clock."""


def parse_register(body: Body, name: str) -> Register:
    """The body of `snapshots/<name>`, which must be about the snapshot in its name. Raises DamagedError."""
    parts = split_generation(name)
    if parts is None or body.hex("snapshot", 16) != parts[1]:
        raise body.fail("snapshot", "is not the one in the name")
    state = body.text("state")
    if state not in RegisterState.__members__:
        raise body.fail("state", "is not known")
    record, checkpoint = body.inner_or_none("record"), body.inner_or_none("checkpoint")
    register = Register(
        generation=parts[0],
        snapshot=parts[1],
        source=body.hex("source", 16),
        state=RegisterState(state),
        ack=body.integer("ack"),
        started=body.time("started"),
        sequence=body.integer("seq"),
        nonce=body.hex("nonce", 16),
        keep=tuple(body.texts("keep")),
        checkpoint=parse_named(checkpoint, Area.RECORDS) if checkpoint else None,
        record=parse_named(record, Area.RECORDS) if record else None,
        refs=tuple(parse_named(one, Area.REFS) for one in body.inners("refs")),
        runs=tuple(body.texts("runs")),
        twin=body.base64("twin") if "twin" in body.raw else b"",
    )
    if register.state in (RegisterState.COMMITTED, RegisterState.FORGOTTEN) and (
        register.record is None or register.record.name != record_name(register.snapshot)
    ):
        raise body.fail("record", "is not the snapshot's own")
    return register


def read_register(objects: ScopeObjects, name: str) -> StoredRegister:
    """The register `snapshots/<name>`. Raises ObjectNotFound, DamagedError."""
    stored = objects.store.read(objects.layout.key(f"{Area.SNAPSHOTS}/{name}"))
    return StoredRegister(open_register(objects, name, stored=stored), stored.etag)


def open_register(objects: ScopeObjects, name: str, *, stored: StoredObject) -> Register:
    """The register in an object that was read. Raises DamagedError, UnsupportedFormatError, WrongKeyError."""
    sealed = objects.open(ObjectType.REGISTER, f"{Area.SNAPSHOTS}/{name}", stored=stored)
    return parse_register(sealed.body, name)


def create_register(objects: ScopeObjects, register: Register, *, clock: Clock) -> StoredRegister | None:
    """Create a register, or return None when its name is lost: begin again with a new snapshot id.

    A create whose answer was lost is looked up, never repeated: the first one may still be under way.
    """
    mine = replace(register, nonce=datapath.random_id())
    data = objects.seal(ObjectType.REGISTER, name=mine.object_name, data=mine.as_body())
    try:
        return StoredRegister(mine, objects.store.create(objects.layout.key(mine.object_name), data))
    except (StorageUnavailable, ObjectExists):
        doubted = clock.monotonic()
        found = _read_or_none(objects, mine.name)
    return replace(found, doubted=doubted) if found is not None and found.register == mine else None


def swap_register(
    objects: ScopeObjects,
    old: StoredRegister,
    *,
    new: Register,
    clock: Clock,
    before: Callable[[], None] | None = None,
) -> StoredRegister:
    """Replace a register as this session wrote it last. `before` is called before each attempt.

    A lost answer, and a swap that failed although nobody else wrote, are settled by reading: our nonce means
    done, the old version means that it has not landed yet and is tried again. Anything else, and a register
    that is gone, raises SessionFencedError: also the same commit by somebody else, which may be one of a
    register that a prune takes for fenced. StorageUnavailable leaves open what has happened.
    """
    assert old.register.name == new.name, "a register keeps its name"
    mine = replace(new, nonce=datapath.random_id())
    key = objects.layout.key(mine.object_name)
    data = objects.seal(ObjectType.REGISTER, name=mine.object_name, data=mine.as_body())
    doubted: float | None = None
    if is_timed(objects):
        _let_land(old, clock)
    attempts = objects.patience.begin(clock)
    while True:
        if before is not None:
            before()
        try:
            return StoredRegister(mine, objects.store.swap(key, data, etag=old.etag), doubted)
        except (StorageUnavailable, ObjectChanged) as exc:
            doubted = clock.monotonic()
            found = _read_or_none(objects, mine.name)
            if found is not None and found.register.nonce == mine.nonce:
                return replace(found, doubted=doubted)
            if found is None or found.register.nonce != old.register.nonce:
                raise SessionFencedError(
                    "the session was ended by prune", key=key, hint="run the backup again"
                ) from exc
            if not attempts.wait(exc):
                raise StorageUnavailable("a compare-and-swap got no answer", key=key) from exc


def change_register(
    objects: ScopeObjects, name: str, *, change: Callable[[Register], Register | None], clock: Clock
) -> StoredRegister:
    """Bring `snapshots/<name>` to what `change` makes of it, whoever wrote it last; `change` is pure.

    None from `change` leaves it as it is. A lost race is settled by asking `change` again with what is there
    now. Returns what is there at the end. Raises ObjectNotFound, DamagedError, and StorageUnavailable, which
    leaves open what has happened.
    """
    attempts = objects.patience.begin(clock)
    for _ in range(limits.RETRY_COUNT_MAX + 1):
        view = View.begin(clock)
        old = read_register(objects, name)
        new = change(old.register)
        if new is None:
            return old
        assert new.name == name, "a register keeps its name"
        mine = replace(new, nonce=datapath.random_id())
        data = objects.seal(ObjectType.REGISTER, name=mine.object_name, data=mine.as_body())
        if is_timed(objects) and view.age(clock) > limits.TIMED_VIEW_SECONDS:
            continue
        try:
            etag = objects.store.swap(objects.layout.key(mine.object_name), data, etag=old.etag)
            return StoredRegister(mine, etag)
        except (StorageUnavailable, ObjectChanged) as exc:
            found = read_register(objects, name)
            if found.register.nonce == mine.nonce:
                return found
            # An answer that was lost may still land: until then the next attempt finds the old version, and
            # whichever comes second finds its etag gone.
            if not attempts.wait(exc):
                break
    raise StorageUnavailable("a register changed each time that it was to be changed", key=name)


def _let_land(old: StoredRegister, clock: Clock) -> None:
    """Without conditions an earlier write that was not answered could land over the next one."""
    if old.doubted is not None:
        left = old.doubted + limits.TIMED_LATE_SECONDS - clock.monotonic()
        if left > 0:
            clock.sleep(left)


def _read_or_none(objects: ScopeObjects, name: str) -> StoredRegister | None:
    try:
        return read_register(objects, name)
    except ObjectNotFound:
        return None
