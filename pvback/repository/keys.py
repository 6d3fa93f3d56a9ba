"""Key objects: who can open the repository, and how. Section 2.2 of docs/format.md."""

import json
import re
from dataclasses import dataclass
from typing import Literal

from pvback import limits
from pvback.datapath import Argon2
from pvback.errors import ConflictError, DamagedError, PvbackError, UsageError, WrongKeyError
from pvback.repository.layout import CONFIG_KEY, KEYS_PREFIX, key_object_key
from pvback.repository.repository import RepositoryAccess, read_key_objects

__all__ = ["ROLES", "KeyInfo", "SlotMethod", "add_key", "add_way_to_unlock", "list_keys", "remove_key"]

_KEY_NAME = re.compile(r"keys/([0-9a-f]{32})\.json")
ROLES = ("owner", "restorer", "writer", "maintainer")
SlotMethod = Literal["passphrase", "x25519"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """One principal. Role and label are None when the key in use may not read them."""

    principal: str
    role: str | None
    label: str | None
    unlock: tuple[str, ...]
    """Kinds of its unlock entries: `passphrase`, `x25519`, `command`."""
    is_current: bool
    """Whether it is the key in use."""
    problem: str | None = None
    """Why nothing is known of it: its object does not parse."""


def list_keys(access: RepositoryAccess) -> list[KeyInfo]:
    """All principals, by id; one whose object does not parse has a `problem`."""
    config = access.store.read(CONFIG_KEY).data
    raw = json.loads(access.keyring.list_keys(config, read_key_objects(access.store)))
    if not isinstance(raw, list):
        raise DamagedError("the list of keys is not a list")
    found = []
    for one in raw:
        principal = one.get("principal")
        if principal is None:
            name = _KEY_NAME.fullmatch(one["name"])
            if name is None:
                continue
            principal = name[1]
        found.append(
            KeyInfo(
                principal=str(principal),
                role=one.get("role"),
                label=one.get("label"),
                unlock=tuple(one.get("unlock", ())),
                is_current=principal == access.keyring.principal,
                problem=one.get("error"),
            )
        )
    return sorted(found, key=lambda one: one.principal)


def add_key(access: RepositoryAccess, *, role: str, label: str, method: SlotMethod, secret: bytes) -> str:
    """Make a principal with access to the scope in use, and return its id. Owners only: WrongKeyError.

    The secret is the new passphrase, or the recipient's X25519 public key. Raises UsageError.
    """
    if role not in ROLES:
        raise UsageError(f"no such role: {role}", hint=f"roles are {', '.join(ROLES)}")
    _require_owner(access)
    scopes = [] if role == "owner" else [access.objects.scope]
    name, data = access.keyring.add_key(role, label, scopes, method, secret, _argon2())
    access.store.create(name, data)
    return name.removeprefix(KEYS_PREFIX).removesuffix(".json")


def add_way_to_unlock(access: RepositoryAccess, *, method: SlotMethod, secret: bytes) -> None:
    """Give the key in use one more passphrase or recipient. Raises ObjectChanged when a race was lost."""
    key = key_object_key(access.keyring.principal)
    stored = access.store.read(key)
    data = access.keyring.add_slot(stored.data, method, secret, _argon2())
    access.store.swap(key, data, etag=stored.etag)


def remove_key(access: RepositoryAccess, prefix: str) -> str:
    """Remove the principal whose id begins with `prefix`, and return the id. Owners only: WrongKeyError.

    Whoever has kept a copy of the key object can still open what was stored so far: only a new epoch of the
    keys helps against that. Raises ConflictError for the key in use, which keeps the last owner in.
    """
    _require_owner(access)
    if not re.fullmatch("[0-9a-f]{1,32}", prefix):
        raise UsageError(f"not a key id: {prefix!r}", hint="`pvback key list` shows them")
    fitting = [one for one in list_keys(access) if one.principal.startswith(prefix)]
    if len(fitting) > 1:
        raise UsageError(f"{len(fitting)} key ids begin with {prefix}", hint="give more digits")
    if not fitting:
        raise PvbackError(f"there is no key {prefix}", hint="`pvback key list` shows them")
    if fitting[0].is_current:
        raise ConflictError("this is the key in use", hint="remove it with another owner's key")
    access.store.delete(key_object_key(fitting[0].principal))
    return fitting[0].principal


def _require_owner(access: RepositoryAccess) -> None:
    if access.keyring.role != "owner":
        raise WrongKeyError(f"a {access.keyring.role}'s key may not change keys", hint="use an owner's key")


def _argon2() -> Argon2:
    return limits.ARGON2_MEMORY_KIB, limits.ARGON2_PASSES, limits.ARGON2_LANES
