"""Key objects and `config` as bytes: what is said about them, and how owners change them.

Nothing here reads or writes the store, and no secret is kept: what comes out is for the caller to store.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pvback import datapath

if TYPE_CHECKING:
    from pvback.datapath import Keyring, UnlockMethod

__all__ = [
    "add_command",
    "change_config",
    "config_facts",
    "issue_key",
    "issue_key_again",
    "key_facts",
    "remove_slot",
    "slot_of",
    "unlock_secret",
    "with_config",
]


def config_facts(config: bytes) -> dict[str, Any]:
    """`repository`, `serial`, `conditional`, `scopes`, `revoked` of a config that its owner has signed.

    Whether that is the owner who is meant, an unlocked key says. Raises DamagedError, UnsupportedFormatError.
    """
    facts: dict[str, Any] = json.loads(datapath.load_native().config_facts(config))
    return facts


def key_facts(key_object: bytes) -> dict[str, Any]:
    """`repository`, `principal`, `serial` and `unlock` of a key object. Proves nothing.

    `unlock` holds {`kind`, `sealed`, `salt`, `argon2`}: what a command has sealed, and what a passphrase is
    stretched with, bytes in base64. Raises DamagedError, UnsupportedFormatError.
    """
    facts: dict[str, Any] = json.loads(datapath.load_native().key_facts(key_object))
    return facts


def slot_of(key_object: bytes, *, method: "UnlockMethod", secret: bytes) -> int:
    """Position among the ways to unlock of the one that this opens. Raises WrongKeyError."""
    return int(datapath.load_native().slot_of(key_object, method, secret))


def issue_key(keyring: "Keyring", request: Mapping[str, object]) -> tuple[str, bytes]:
    """Key and bytes of a new principal's key object, which nothing unlocks yet. Owners only: WrongKeyError.

    The request is `{"role", "label", "scopes": [{"scope", "sources": [id] or None}]}`; owners name no scopes.
    """
    made: tuple[str, bytes] = datapath.load_native().issue_key(keyring, json.dumps(request))
    return made


def issue_key_again(keyring: "Keyring", key_object: bytes) -> bytes:
    """A key object with the keys of all epochs up to now, its ways to unlock as they were. Owners only."""
    data: bytes = datapath.load_native().issue_key_again(keyring, key_object)
    return data


def change_config(keyring: "Keyring", change: Mapping[str, object]) -> bytes:
    """The next config: `{"epoch": scope}` or `{"revoke": {"principal", "sequences"}}`. Owners only."""
    data: bytes = datapath.load_native().change_config(keyring, json.dumps(change))
    return data


def with_config(keyring: "Keyring", config: bytes) -> "Keyring":
    """The same keyring beside a later config. Raises DamagedError for an earlier one, WrongKeyError."""
    made: Keyring = datapath.load_native().with_config(keyring, config)
    return made


def unlock_secret(keyring: "Keyring", key_object: bytes) -> bytes:
    """The 80 bytes that unlock a key object: of the keyring's own, or of any for owners."""
    secret: bytes = datapath.load_native().unlock_secret(keyring, key_object)
    return secret


def add_command(keyring: "Keyring", key_object: bytes, *, name: str, sealed: bytes) -> bytes:
    """The key object with what a command made of its secret. Raises UsageError when that shows the secret."""
    data: bytes = datapath.load_native().add_command(keyring, key_object, name, sealed)
    return data


def remove_slot(key_object: bytes, position: int) -> bytes:
    """The key object without one way to unlock it. Raises UsageError for the last one."""
    data: bytes = datapath.load_native().remove_slot(key_object, position)
    return data
