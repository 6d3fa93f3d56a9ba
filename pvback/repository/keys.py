"""Key objects: who can open the repository, and how. Section 2.2 of docs/format.md."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pvback import limits
from pvback.config import Secret
from pvback.datapath import Argon2
from pvback.errors import DamagedError, PvbackError, UsageError, WrongKeyError
from pvback.repository.copies import list_key_objects, read_key_objects
from pvback.repository.key_commands import seal_with_command
from pvback.repository.key_objects import add_command, config_facts, issue_key, remove_slot, unlock_secret
from pvback.repository.layout import COPIES_PREFIX, KEYS_PREFIX, copy_key, key_object_key
from pvback.repository.repository import RepositoryAccess
from pvback.repository.unlocking import used_slot

__all__ = [
    "ROLES",
    "HeldScope",
    "KeyCheck",
    "KeyInfo",
    "NewWay",
    "add_key",
    "add_way_to_unlock",
    "check_key",
    "describe_keys",
    "find_principal",
    "list_keys",
    "replace_way_to_unlock",
    "require_owner",
]

_KEY_NAME = re.compile(r"keys/([0-9a-f]{32})\.json")
ROLES = ("owner", "restorer", "writer", "maintainer")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldScope:
    """What a key holds of a scope."""

    scope: str
    epoch: int
    """The last one that it has keys of."""
    sources: tuple[str, ...] | None = None
    """The ids of a writer's sources; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """One principal. Role, label and scopes are None where the key in use may not read them."""

    principal: str
    role: str | None
    label: str | None
    unlock: tuple[str, ...]
    """Its unlock entries: `passphrase`, `x25519`, `command NAME`, `unknown`."""
    is_current: bool
    """Whether it is the key in use."""
    problem: str | None = None
    """What is wrong with its object."""
    serial: int = 0
    scopes: tuple[HeldScope, ...] | None = None
    """Owners hold everything, which is not listed."""
    is_behind: bool = False
    """A rotation has left it behind: it reads what is older, and writes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """What a secret opens, proven by opening it."""

    principal: str
    role: str
    label: str
    way: str
    """The kind of unlock entry that it is, or `secret`."""
    writes: str
    """In the scope in use: `writes`, `reads`, `behind` or `revoked`."""
    owner_fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWay:
    """How a key will be unlocked. `secret` is the passphrase, or the recipient's X25519 public key."""

    method: Literal["passphrase", "x25519", "command"]
    secret: Secret | bytes = b""
    command: Sequence[str] = ()
    """Seals the key's secret; see `pvback.repository.key_commands`."""
    name: str = ""
    """What people call the command."""

    def __repr__(self) -> str:
        return f"NewWay({self.method})"


def list_keys(access: RepositoryAccess) -> list[KeyInfo]:
    """All principals, by id; one whose object is damaged, or gone but for its copy, has a `problem`."""
    firsts = read_key_objects(access.store, list_key_objects(access.store))
    found = describe_keys(access, firsts)
    copies = {info.key for info in access.store.list_objects(copy_key(KEYS_PREFIX))}
    for key in sorted(copies - {copy_key(one) for one, _ in firsts}):
        name = _KEY_NAME.fullmatch(key.removeprefix(COPIES_PREFIX))
        if name is not None:
            is_current = name[1] == access.keyring.principal
            gone = KeyInfo(
                principal=name[1],
                role=None,
                label=None,
                unlock=(),
                is_current=is_current,
                problem="its object is gone, and its copy is left",
            )
            found.append(gone)
    return sorted(found, key=lambda one: one.principal)


def describe_keys(access: RepositoryAccess, objects: Sequence[tuple[str, bytes]]) -> list[KeyInfo]:
    """What key objects, given by key and bytes, say of their principals; by id."""
    raw = json.loads(access.keyring.list_keys(access.config_object, list(objects)))
    if not isinstance(raw, list):
        raise DamagedError("the list of keys is not a list")
    epochs = {str(one["id"]): int(one["epoch"]) for one in config_facts(access.config_object)["scopes"]}
    found = []
    for one in raw:
        name = _KEY_NAME.fullmatch(one["name"])
        if name is None:
            continue
        held = tuple(
            HeldScope(
                scope=str(scope["scope"]),
                epoch=int(scope["epoch"]),
                sources=None if scope["sources"] is None else tuple(scope["sources"]),
            )
            for scope in one.get("scopes", ())
        )
        found.append(
            KeyInfo(
                principal=name[1],
                role=one.get("role"),
                label=one.get("label"),
                unlock=tuple(one.get("unlock", ())),
                is_current=name[1] == access.keyring.principal,
                problem=one.get("error"),
                serial=int(one.get("serial", 0)),
                scopes=held if one.get("role") is not None else None,
                is_behind=any(one.epoch < epochs.get(one.scope, 0) for one in held),
            )
        )
    return sorted(found, key=lambda one: one.principal)


def add_key(
    access: RepositoryAccess, *, role: str, label: str, way: NewWay, sources: Sequence[str] = ()
) -> str:
    """Make a principal with access to the scope in use, and return its id. Owners only: WrongKeyError.

    A writer can be limited to sources, named by their strings: it reads and writes the metadata of no others.
    Raises UsageError.
    """
    if role not in ROLES:
        raise UsageError(f"no such role: {role}", hint=f"roles are {', '.join(ROLES)}")
    if sources and role != "writer":
        raise UsageError("only a writer can be limited to sources")
    require_owner(access)
    scope = access.objects.scope
    ids = sorted({access.keyring.source_id(scope, source) for source in sources})
    scopes = [] if role == "owner" else [{"scope": scope, "sources": ids or None}]
    name, data = issue_key(access.keyring, {"role": role, "label": label, "scopes": scopes})
    access.twins.create(name, _with_way(access, data, way))
    return name.removeprefix(KEYS_PREFIX).removesuffix(".json")


def add_way_to_unlock(access: RepositoryAccess, *, way: NewWay) -> None:
    """Give the key in use one more way to unlock it. Raises ConflictError, UsageError."""
    key = key_object_key(access.keyring.principal)
    access.twins.replace(key, lambda data: _with_way(access, data, way))


def replace_way_to_unlock(access: RepositoryAccess, *, way: NewWay) -> None:
    """Unlock the key in use by `way` in place of the password, key or command that is in use now.

    Revokes nothing for who has kept the old object and the old secret. Raises WrongKeyError when the secret
    in use is no unlock entry, ConflictError, UsageError.
    """

    def change(data: bytes) -> bytes:
        position = used_slot(access.config, data)
        return remove_slot(_with_way(access, data, way), position)

    access.twins.replace(key_object_key(access.keyring.principal), change)


def check_key(access: RepositoryAccess) -> KeyCheck:
    """What the configured secret opens. That it does was proven when `access` was opened."""
    keyring = access.keyring
    key = key_object_key(keyring.principal)
    found = next((one for one in list_keys(access) if one.is_current), None)
    way = "secret"
    if found is not None and found.problem is None:
        try:
            way = found.unlock[used_slot(access.config, access.store.read(key).data)]
        except WrongKeyError:
            way = "secret"
    return KeyCheck(
        principal=keyring.principal,
        role=keyring.role,
        label=(found.label if found is not None else None) or "",
        way=way,
        writes=keyring.write_state(access.objects.scope),
        owner_fingerprint=keyring.owner_fingerprint,
    )


def find_principal(access: RepositoryAccess, prefix: str) -> str:
    """The principal whose id begins with `prefix`; a whole id need not have an object any more.

    Raises UsageError when several fit, PvbackError when none does.
    """
    if not re.fullmatch("[0-9a-f]{1,32}", prefix):
        raise UsageError(f"not a key id: {prefix!r}", hint="`pvback key list` shows them")
    fitting = [one.principal for one in list_keys(access) if one.principal.startswith(prefix)]
    if len(fitting) > 1:
        raise UsageError(f"{len(fitting)} key ids begin with {prefix}", hint="give more digits")
    if not fitting and len(prefix) == 32:
        return prefix
    if not fitting:
        raise PvbackError(f"there is no key {prefix}", hint="`pvback key list` shows them")
    return fitting[0]


def require_owner(access: RepositoryAccess) -> None:
    """Raise WrongKeyError unless the key in use is an owner's."""
    if access.keyring.role != "owner":
        raise WrongKeyError(f"a {access.keyring.role}'s key may not change keys", hint="use an owner's key")


def _with_way(access: RepositoryAccess, data: bytes, way: NewWay) -> bytes:
    if way.method == "command":
        sealed = seal_with_command(way.command, unlock_secret(access.keyring, data))
        return add_command(access.keyring, data, name=way.name, sealed=sealed)
    secret = way.secret.reveal().encode() if isinstance(way.secret, Secret) else way.secret
    return access.keyring.add_slot(data, way.method, secret, _argon2())


def _argon2() -> Argon2:
    return limits.ARGON2_MEMORY_KIB, limits.ARGON2_PASSES, limits.ARGON2_LANES
