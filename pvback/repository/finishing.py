"""What a snapshot's record says of its register: for one that is lost, and for one that is OPEN beside it.

A session stores its record when everything else of the snapshot is durable, right before it swaps its
register to COMMITTED. So a register that counts and is OPEN, beside its snapshot's record, is one of two:

- *The session ended between the two*, or is there now. To commit in its place is what it would have done
  next, and nothing of it can be missing.
- *The snapshot was committed, its register was lost, and the create came a second time*, doubled on its way.
  It counts, as nothing has made it void: so no cycle of prune has ended without having seen the snapshot.

Nobody needs to know which: whoever would end such a session commits it. A session that is there now finds
itself ended, and begins again. See docs/adr/0027.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from pvback import datapath, limits
from pvback.errors import DamagedError, ObjectNotFound, StorageUnavailable, WrongKeyError
from pvback.repository.layout import Area, ObjectType, record_name
from pvback.repository.records import Record, read_record
from pvback.repository.registers import Register, RegisterState, change_register, read_register
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import Clock

__all__ = ["StoredRecord", "end_session", "fenced", "find_record", "find_refs", "read_stored_record"]


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """The record of a whole snapshot, as it was found without a register that names it."""

    record: Record
    data: bytes
    time: datetime
    """When the store says that it was written."""
    refs: tuple[Named, ...]
    """The parts of its reference set: those that the record names, whether they are there or not."""

    def committed(self, old: Register) -> Register:
        """The register as the session would have committed it, or had. Pure."""
        return replace(
            old,
            state=RegisterState.COMMITTED,
            sequence=self.record.seq,
            record=self.record.named,
            refs=self.refs,
            twin=self.data,
        )


def fenced(old: Register) -> Register:
    """The register of a session that will not commit any more. Pure."""
    return replace(old, state=RegisterState.FENCED)


def end_session(
    objects: ScopeObjects,
    name: str,
    *,
    is_due: Callable[[Register], bool],
    find: Callable[[Register], StoredRecord | None],
    clock: Clock,
    fence: Callable[[Register], Register] = fenced,
) -> Register:
    """Commit the register `snapshots/<name>` if it is FENCED, or OPEN and `is_due`, and its record is found.

    Without one it is fenced. Returns what it is at the end. What was fenced is looked at again: its session
    may have stored the record after the first look, committed, and lost its register, which came back as the
    version that was fenced. Once it is FENCED no session commits. Raises ObjectNotFound, StorageUnavailable,
    and what `find` raises.
    """
    register = read_register(objects, name).register
    for _ in range(limits.RETRY_COUNT_MAX + 1):
        if register.state is not RegisterState.FENCED and not is_due(register):
            return register
        record, was_fenced = find(register), register.state is RegisterState.FENCED
        if was_fenced and record is None:
            return register

        def end(old: Register, record: StoredRecord | None = record) -> Register | None:
            if old.state is not RegisterState.FENCED and not is_due(old):
                return None
            if record is not None:
                return record.committed(old)
            return fence(old) if old.state is RegisterState.OPEN else None

        register = change_register(objects, name, change=end, clock=clock).register
    raise StorageUnavailable("others wrote a register each time that its session was to be ended", key=name)


def find_record(objects: ScopeObjects, register: Register) -> StoredRecord | None:
    """The record of the snapshot of a register that is OPEN or FENCED; None when there is none that counts.

    Raises DamagedError when it is there and does not open, is another source's, or when it is not known what
    the snapshot needs: then the snapshot may be lost, and nobody may end it unseen. For one that was fenced
    such a record is none.
    """
    try:
        return _find_record(objects, register)
    except (ObjectNotFound, WrongKeyError):
        return None
    except DamagedError:
        if register.state is RegisterState.FENCED:
            return None
        raise


def _find_record(objects: ScopeObjects, register: Register) -> StoredRecord:
    found = read_stored_record(objects, register.snapshot)
    if found.record.source != register.source:
        raise DamagedError("the record is another source's", key=objects.layout.key(found.record.named.name))
    return found if found.refs else replace(found, refs=find_refs(objects, found.record))


def read_stored_record(objects: ScopeObjects, snapshot: str) -> StoredRecord:
    """The record of a whole snapshot. Raises ObjectNotFound, DamagedError, WrongKeyError."""
    name = record_name(snapshot)
    stored = objects.store.read(objects.layout.key(name))
    source = objects.open(ObjectType.RECORD, name, stored=stored).body.hex("source", 16)
    named = Named(name, datapath.blake3(stored.data))
    record = read_record(objects, named, snapshot=snapshot, source=source, twin=stored.data)
    return StoredRecord(record, stored.data, stored.mtime, record.refs)


def find_refs(objects: ScopeObjects, record: Record) -> tuple[Named, ...]:
    """The parts that the record names if they are there, or else all that are there for its snapshot.

    Raises DamagedError when some are lost, and what the snapshot needs is not known.
    """
    if record.refs and all(_is_as_named(objects, part) for part in record.refs):
        return record.refs
    parts = []
    for name, info in objects.list_area(Area.REFS):
        if name.startswith(record.snapshot):
            stored = objects.store.read(info.key)
            parts.append(Named(f"{Area.REFS}/{name}", datapath.blake3(stored.data)))
    if len(parts) < max(1, len(record.refs)):
        raise DamagedError("parts of its reference set are lost, too", key=record.named.name)
    return tuple(parts)


def _is_as_named(objects: ScopeObjects, part: Named) -> bool:
    try:
        return objects.hash_of(part.name) == part.hash
    except ObjectNotFound:
        return False
