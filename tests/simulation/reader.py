"""A restore: finds a committed snapshot, and gives back what it holds, or says that something is missing."""

import json

from pvback.errors import ObjectNotFound
from pvback.repository.gcstate import list_index, read_gc_state
from pvback.repository.registers import RegisterState, read_register
from pvback.repository.sealed import ScopeObjects
from pvback.repository.snapshots import CommittedSnapshot
from tests.simulation.parts import chunk_id
from tests.simulation.work import Entry, is_doubted, load_run, read_pack
from tests.simulation.world import Process

__all__ = ["LostError", "MissingError", "restore"]

_RELOAD_COUNT_MAX = 3


class MissingError(Exception):
    """A complete index does not have what the snapshot needs."""


class LostError(Exception):
    """That, while the snapshot is there: data was lost."""


def restore(
    process: Process, objects: ScopeObjects, snapshot: CommittedSnapshot, *, lag_seconds: float = 0.0
) -> tuple[str, ...] | None:
    """The content; None when the snapshot went meanwhile, or the index moved on each time.

    As `ops/reading.py`: whatever is gone means to load the index anew. Raises LostError.
    """
    until: float | None = None
    attempt = 0
    while attempt <= _RELOAD_COUNT_MAX:
        began = process.monotonic()
        try:
            return _restore(objects, snapshot)
        except ObjectNotFound:
            attempt += 1
        except MissingError as exc:
            until = process.monotonic() + lag_seconds if until is None else until
            if began >= until or not lag_seconds:
                if _is_alive(objects, snapshot):
                    raise LostError(f"snapshot {snapshot.id}: {exc}") from exc
                return None
            process.sleep(lag_seconds / 2)
    return None


def _restore(objects: ScopeObjects, snapshot: CommittedSnapshot) -> tuple[str, ...]:
    view = list_index(objects, read_gc_state(objects))
    index: dict[str, list[Entry]] = {}
    for run, _ in view.runs:
        for one in load_run(objects, run):
            if one.pack not in view.dead:
                index.setdefault(one.id, []).append(one)
    root = _read(objects, index, snapshot.require_details().root.page)
    return tuple(_read(objects, index, one) for one in json.loads(root))


def _read(objects: ScopeObjects, index: dict[str, list[Entry]], wanted: str) -> str:
    """Wherever it lies, until what is found is what is wanted."""
    entries = sorted(index.get(wanted, ()), key=lambda one: not is_doubted(one))
    if not entries:
        raise MissingError(f"{wanted[:8]} is in no run")
    for entry in entries:
        one, text = read_pack(objects, entry.kind, entry.pack)[0][entry.index]
        if one == wanted and chunk_id(text) == wanted:
            return text
    raise MissingError(f"{wanted[:8]} is not what pack {entries[-1].pack} holds")


def _is_alive(objects: ScopeObjects, snapshot: CommittedSnapshot) -> bool:
    """Whether the snapshot still counts."""
    state = read_gc_state(objects)
    if not state.is_register_valid(snapshot.register.name):
        return False
    try:
        register = read_register(objects, snapshot.register.name).register
    except ObjectNotFound:
        return False
    return register.state in (RegisterState.COMMITTED, RegisterState.FORGOTTEN)
