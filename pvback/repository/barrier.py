"""The barrier of prune: after a generation is published, no session may go on without having taken note.

Waits until each register that counts is terminal, or OPEN with the generation acknowledged. Who does not
answer is fenced: a compare-and-swap on the very register that a commit would have to swap, so that exactly
one of the two happens. One whose record is there is committed instead: nobody who has got so far may be ended
(`pvback.repository.finishing`). Time only decides how long to wait; see `docs/format.md` section 12.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pvback import datapath, limits
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.finishing import end_session, find_record
from pvback.repository.gcstate import GcState
from pvback.repository.layout import Area, generation_name
from pvback.repository.reading_each import read_each
from pvback.repository.registers import Register, RegisterState, read_register
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import Cancel, Clock

__all__ = ["ALIVE", "Registers", "await_sessions", "read_registers", "store_time"]

ALIVE = (RegisterState.COMMITTED, RegisterState.FORGOTTEN)
"""States of snapshots whose content has to stay."""
_TERMINAL = (RegisterState.DEAD, RegisterState.FENCED)
_POLL_SECONDS = 5.0
_HINT = "`pvback check` says more; `pvback repair snapshots` mends it"


@dataclass(slots=True)
class Registers:
    """All registers that count, each as it was read last; ones that vanish meanwhile are left out."""

    found: dict[str, Register] = field(default_factory=dict)
    mtimes: dict[str, datetime] = field(default_factory=dict)

    def alive(self) -> Mapping[str, Register]:
        """Snapshots that exist or can be brought back."""
        return {name: one for name, one in self.found.items() if one.state in ALIVE}

    def unfinished(self) -> Mapping[str, Register]:
        """Sessions under way, or dead without anybody having said so."""
        return {name: one for name, one in self.found.items() if one.state is RegisterState.OPEN}

    def terminal(self) -> Mapping[str, Register]:
        """Those that nothing will ever need again."""
        return {name: one for name, one in self.found.items() if one.state in _TERMINAL}

    def newest_fence(self) -> datetime | None:
        """When the last session was fenced that is still there."""
        times = [self.mtimes[name] for name, one in self.found.items() if one.state is RegisterState.FENCED]
        return max(times, default=None)

    def refs(self, names: frozenset[str] | None = None) -> tuple[Named, ...]:
        """Parts of the reference sets of those named, or of all."""
        chosen = [one for name, one in self.found.items() if names is None or name in names]
        return tuple(part for one in chosen for part in one.refs)

    def newest_refs(self) -> tuple[Named, ...]:
        """Parts of the reference set of the newest snapshot of each source, the newest of all first."""
        newest: dict[str, tuple[int, datetime, Register]] = {}
        for name, one in self.found.items():
            if one.state is RegisterState.COMMITTED:
                rank = (one.sequence, self.mtimes[name], one)
                newest[one.source] = max(newest.get(one.source, rank), rank, key=lambda found: found[:2])
        by_time = sorted(newest.values(), key=lambda found: found[1], reverse=True)
        return tuple(part for _, _, one in by_time for part in one.refs)

    def has_refs(self, names: frozenset[str]) -> bool:
        """Whether the reference set of each of those is known: not of one that came back without it."""
        return all(name in self.found and self.found[name].refs for name in names)


def read_registers(objects: ScopeObjects, state: GcState) -> Registers:
    """Every register that counts under `state`. Raises DamagedError when one does not open.

    What an unreadable one needs is not known, so nothing may be deleted beside it.
    """
    listed = {
        name: info.mtime for name, info in objects.list_area(Area.SNAPSHOTS) if state.is_register_valid(name)
    }
    read = read_each(objects.store, list(listed), work=lambda name: _read_or_none(objects, name))
    found = {name: one for name, one in zip(listed, read, strict=True) if one is not None}
    return Registers(found, listed)


def await_sessions(
    objects: ScopeObjects,
    state: GcState,
    *,
    now: datetime,
    fence_seconds: float,
    clock: Clock,
    cancel: Cancel,
) -> Registers:
    """The registers when no session is left that has not taken note of `state.n`; `state` is CONDEMNED.

    `now` is the store's time. Sessions that began after the state was published know it, so one list is
    enough.
    Raises DamagedError, StorageError, Interrupted.
    """
    began = clock.monotonic()
    registers = read_registers(objects, state)
    for name in [name for name, one in registers.found.items() if one.state is RegisterState.FENCED]:
        # Somebody may have been killed between the fence and a second look for the record.
        _update(registers, name, _end(objects, name, state.n, clock=clock))
    pause = _POLL_SECONDS
    while late := [name for name, one in registers.found.items() if _is_late(one, state.n)]:
        cancel.check()
        waited = clock.monotonic() - began
        for name in late:
            if waited >= _patience(registers.mtimes[name], now, fence_seconds):
                _update(registers, name, _end(objects, name, state.n, clock=clock))
                registers.mtimes[name] = now
            else:
                _update(registers, name, _read_or_none(objects, name))
        if any(_is_late(registers.found[name], state.n) for name in late if name in registers.found):
            clock.sleep(pause, cancel)
            pause = min(2 * pause, limits.GENERATION_POLL_SECONDS)
    return registers


def store_time(objects: ScopeObjects, generation: int, *, clock: Clock) -> datetime:
    """The store's time, from an object that is written for it: ages are never judged by our own clock."""
    named = objects.create_own(
        f"{Area.GC}/{generation_name(generation, f'clock-{datapath.random_id()}')}", data=b"", clock=clock
    )
    key = objects.layout.key(named.name)
    try:
        return objects.store.head(key).mtime
    finally:
        objects.store.delete(key)


def _patience(mtime: datetime, now: datetime, fence_seconds: float) -> float:
    """How long a session is waited for. One that has long been silent is most likely dead."""
    is_quiet = now - mtime > timedelta(seconds=limits.FENCE_QUIET_SECONDS)
    return min(fence_seconds, limits.FENCE_QUIET_WAIT_SECONDS) if is_quiet else fence_seconds


def _end(objects: ScopeObjects, name: str, generation: int, *, clock: Clock) -> Register | None:
    """Commit it if its record is there, and fence it if not; what it is now."""
    try:
        return end_session(
            objects,
            name,
            is_due=lambda one: _is_late(one, generation),
            find=lambda one: find_record(objects, one),
            clock=clock,
        )
    except ObjectNotFound:
        return None
    except DamagedError as exc:
        exc.hint = exc.hint or _HINT
        raise


def _update(registers: Registers, name: str, register: Register | None) -> None:
    if register is None:
        del registers.found[name]
    else:
        registers.found[name] = register


def _is_late(register: Register, generation: int) -> bool:
    return register.state is RegisterState.OPEN and register.ack < generation


def _read_or_none(objects: ScopeObjects, name: str) -> Register | None:
    try:
        return read_register(objects, name).register
    except ObjectNotFound:
        return None
    except DamagedError as exc:
        exc.hint = exc.hint or _HINT
        raise
