"""Taking a principal's signatures out of force: sections 2.1 and 5.5 of docs/format.md, ADR 3.

Order, each step durable before the next: what is in force and was signed by the principal is signed anew
by the owner (`gc/state`, its lists, registers that are no snapshots), and its open sessions are fenced, or
committed where their record is there (`pvback.repository.finishing`); then
`config` names it with the last sequences that count; then its key object goes, copy first. Done twice, or
broken off, it is done again from the beginning; sequences that were once stated are never raised.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pvback import datapath, limits
from pvback.errors import ConflictError, DamagedError, ObjectNotFound, WrongKeyError
from pvback.repository.body import dump_body
from pvback.repository.copies import swap_settled
from pvback.repository.finishing import StoredRecord, end_session, fenced, find_record
from pvback.repository.key_objects import change_config, config_facts, with_config
from pvback.repository.keys import find_principal, require_owner
from pvback.repository.layout import (
    CONFIG_KEY,
    GC_STATE_NAME,
    Area,
    ObjectType,
    generation_name,
    key_object_key,
)
from pvback.repository.registers import Register, RegisterState
from pvback.repository.repository import RepositoryAccess
from pvback.repository.sealed import ScopeObjects
from pvback.storage import StoredObject

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = ["Revoked", "remove_key", "replace_config"]

_TYPE_OFFSET = 9
"""Of the type byte in a sealed object's header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A principal whose signatures count no longer."""

    principal: str
    snapshot_count: int
    """Snapshots that it signed and that still count."""
    resigned_count: int
    """Objects that the owner signed anew in its place."""


@dataclass(slots=True)
class _Sweep:
    """What was found of a principal in all scopes."""

    sequences: dict[str, int]
    snapshot_count: int = 0
    resigned_count: int = 0


def remove_key(access: RepositoryAccess, prefix: str, *, not_after: datetime | None = None) -> Revoked:
    """Revoke the principal whose id begins with `prefix`, and remove its key object. Owners only.

    Its snapshots still count, or only those committed until `not_after`, by the store's clock. Whoever has
    kept the keys can still open what was stored so far; nothing here takes away credentials of the store. An
    owner knows the master key, and can sign as any owner: that is not to be revoked.

    Raises WrongKeyError; ConflictError for the key in use, which keeps the last owner in, and when others
    change the same objects all the time.
    """
    require_owner(access)
    principal = find_principal(access, prefix)
    if principal == access.keyring.principal:
        raise ConflictError("this is the key in use", hint="remove it with another owner's key")
    sweep = _Sweep({})
    scopes = [access.objects_of(scope) for scope, _ in access.keyring.scopes()]
    for objects in scopes:
        _sweep_scope(access, objects, principal, sweep=sweep, not_after=not_after)
    before = [_open(objects, ObjectType.GC_STATE, GC_STATE_NAME) for objects in scopes]

    def plan(facts: Mapping[str, Any]) -> Mapping[str, object]:
        return {"revoke": {"principal": principal, "sequences": _stated(facts, principal, sweep.sequences)}}

    replace_config(access, plan)
    for objects, state in zip(scopes, before, strict=True):
        # It may have written between the two: without a `gc/state` that counts, nobody gets in.
        if state is not None:
            _restore_state(access, objects, principal, before=state.body)
    access.twins.remove(key_object_key(principal))
    return Revoked(
        principal=principal, snapshot_count=sweep.snapshot_count, resigned_count=sweep.resigned_count
    )


def replace_config(
    access: RepositoryAccess, plan: Callable[[Mapping[str, Any]], Mapping[str, object]]
) -> tuple["Keyring", bytes]:
    """Change `config`, then its copy; returns the keyring beside the new one, and its bytes. Owners only.

    `plan` makes the change from what is there, again when somebody else was faster.
    """
    for attempt in range(limits.SWAP_COUNT_MAX):
        access.twins.mend(CONFIG_KEY)
        stored = access.store.read(CONFIG_KEY)
        keyring = with_config(access.keyring, stored.data)
        data = change_config(keyring, plan(config_facts(stored.data)))
        try:
            swap_settled(
                access.store,
                stored,
                key=CONFIG_KEY,
                data=data,
                clock=access.clock,
                patience=access.patience,
            )
        except ConflictError:
            if attempt == limits.SWAP_COUNT_MAX - 1:
                raise
            continue
        access.twins.follow(CONFIG_KEY)
        return with_config(keyring, data), data
    raise AssertionError("the last attempt returns or raises")


def _stated(facts: Mapping[str, Any], principal: str, found: Mapping[str, int]) -> dict[str, int]:
    """The sequences to state: what was stated before, or else what was found. Pure."""
    before = [one["sequences"] for one in facts["revoked"] if one["principal"] == principal]
    return {source: int(number) for source, number in (before[0] if before else found).items()}


def _sweep_scope(
    access: RepositoryAccess,
    objects: ScopeObjects,
    principal: str,
    *,
    sweep: _Sweep,
    not_after: datetime | None,
) -> None:
    sweep.resigned_count += _resign_state(access, objects, principal)
    for name, info in objects.list_area(Area.SNAPSHOTS):
        key = f"{Area.SNAPSHOTS}/{name}"
        found = _open(objects, ObjectType.REGISTER, key)
        if found is None:
            continue
        was_open = found.signer == principal and found.body.get("state") == "OPEN"
        if was_open:
            with contextlib.suppress(ObjectNotFound):
                _end_session(access, objects, name, not_after=not_after)
            found = _open(objects, ObjectType.REGISTER, key)
            if found is None:
                continue
            sweep.resigned_count += found.signer != principal
        body, state = found.body, found.body.get("state")
        is_snapshot = state in ("COMMITTED", "FORGOTTEN")
        is_in_time = not_after is None or was_open or info.mtime <= not_after
        if is_snapshot and is_in_time and principal in (_record_signer(objects, body), found.signer):
            source, number = str(body["source"]), int(body["seq"])
            sweep.sequences[source] = max(sweep.sequences.get(source, 0), number)
            sweep.snapshot_count += 1
        if found.signer == principal and state != "COMMITTED":
            _resign(access, objects, found)
            sweep.resigned_count += 1


@dataclass(frozen=True, slots=True)
class _Opened:
    kind: ObjectType
    name: str
    stored: StoredObject
    body: dict[str, Any]
    signer: str


def _open(objects: ScopeObjects, kind: ObjectType, name: str) -> _Opened | None:
    """A JSON object with who signed it; None for one that is gone, or does not count anyway."""
    try:
        stored = objects.store.read(objects.layout.key(name))
        data, signer = objects.keyring.open_signed(objects.scope, kind, name, stored.data)
        body = json.loads(data)
    except (ObjectNotFound, DamagedError, WrongKeyError, ValueError):
        return None
    return _Opened(kind, name, stored, body, signer) if isinstance(body, dict) else None


def _record_signer(objects: ScopeObjects, register: Mapping[str, Any]) -> str | None:
    named = register.get("record")
    found = _open(objects, ObjectType.RECORD, str(named["name"])) if isinstance(named, dict) else None
    return found.signer if found is not None else None


def _end_session(
    access: RepositoryAccess, objects: ScopeObjects, name: str, *, not_after: datetime | None
) -> Register:
    """An OPEN register, committed where its snapshot's record is there in time, or fenced."""

    def find(register: Register) -> StoredRecord | None:
        with contextlib.suppress(DamagedError):
            record = find_record(objects, register)
            return record if record and (not_after is None or record.time <= not_after) else None
        return None

    def fence(old: Register) -> Register:
        # Nobody goes on from its checkpoint.
        return replace(fenced(old), checkpoint=None)

    def is_open(register: Register) -> bool:
        return register.state is RegisterState.OPEN

    return end_session(objects, name, is_due=is_open, find=find, clock=access.clock, fence=fence)


def _resign(
    access: RepositoryAccess,
    objects: ScopeObjects,
    found: _Opened,
    *,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Write the same body, or a changed one, with the owner's signature. Raises ConflictError."""
    body = {**(change(found.body) if change else found.body), "nonce": datapath.random_id()}
    data = objects.seal(found.kind, name=found.name, data=dump_body(body))
    key = objects.layout.key(found.name)
    swap_settled(
        objects.store, found.stored, key=key, data=data, clock=access.clock, patience=access.patience
    )


def _resign_state(access: RepositoryAccess, objects: ScopeObjects, principal: str) -> int:
    """Make `gc/state` and the lists that it names the owner's where they are the principal's; how many."""
    for attempt in range(limits.SWAP_COUNT_MAX):
        found = _open(objects, ObjectType.GC_STATE, GC_STATE_NAME)
        if found is None:
            raise DamagedError("prune's state does not open", key=objects.layout.key(GC_STATE_NAME))
        count, n = 0, int(found.body["n"])

        def take_over(value: Any) -> Any:  # noqa: ANN401 - JSON has no type
            nonlocal count
            if isinstance(value, dict) and str(value.get("name", "")).startswith(f"{Area.GC}/"):
                name = str(value["name"])
                named = _resign_list(access, objects, name, principal=principal, generation=n)  # noqa: B023 -- called in this round
                count += named is not None
                return {**value, **named} if named is not None else value
            if isinstance(value, dict):
                return {name: take_over(one) for name, one in value.items()}
            return [take_over(one) for one in value] if isinstance(value, list) else value

        body = take_over(found.body)
        if not count and found.signer != principal:
            return 0
        if body.get("marks") is not None:
            # Counts that it may have signed: the next prune counts all again, which costs time only.
            body |= {"marks": None, "counted": []}
        try:
            _resign(access, objects, found, change=lambda _, body=body: body)  # type: ignore[misc]
        except ConflictError:
            if attempt == limits.SWAP_COUNT_MAX - 1:
                raise
            continue
        return count + 1
    raise AssertionError("the last attempt returns or raises")


def _resign_list(
    access: RepositoryAccess, objects: ScopeObjects, name: str, *, principal: str, generation: int
) -> dict[str, str] | None:
    """The owner's own copy of a list that the principal signed; None for one that may stay as it is.

    It is called after the generation that is current: a prune takes what it does not know of older ones for
    forgotten.
    """
    try:
        stored = objects.store.read(objects.layout.key(name))
    except ObjectNotFound:
        raise DamagedError("the object is missing", key=objects.layout.key(name)) from None
    if stored.data[_TYPE_OFFSET : _TYPE_OFFSET + 1] != bytes([ObjectType.GC_LIST]):
        return None
    data, signer = objects.keyring.open_signed(objects.scope, ObjectType.GC_LIST, name, stored.data)
    if signer != principal:
        return None
    new = f"{Area.GC}/{generation_name(generation, f'signed-{datapath.random_id()}')}"
    sealed = objects.seal(ObjectType.GC_LIST, name=new, data=data)
    return objects.create_own(new, data=sealed, clock=access.clock).as_json()


def _restore_state(
    access: RepositoryAccess, objects: ScopeObjects, principal: str, *, before: Mapping[str, Any]
) -> None:
    """Put the owner's `gc/state` back where the principal has replaced it meanwhile.

    Of what it wrote only the generation is believed, which must not fall. What it condemned or deleted is not
    undone by that: `check` says what is missing.
    """
    for attempt in range(limits.SWAP_COUNT_MAX):
        # The keyring beside the old config: the principal still counts for it.
        found = _open(objects, ObjectType.GC_STATE, GC_STATE_NAME)
        if found is None or found.signer != principal:
            return
        generation = max(int(before["n"]), int(found.body["n"]))
        try:
            _resign(access, objects, found, change=lambda _, n=generation: {**before, "n": n})  # type: ignore[misc]
        except ConflictError:
            if attempt == limits.SWAP_COUNT_MAX - 1:
                raise
            continue
        return
