"""What unlocks a repository: a password, a recovery key, a key file, or a command.

A recovery key is a password that pvback made, 160 random bits, to be written down and locked away. It goes
wherever a password goes, and is also understood the way people copy it: see `read_recovery_key`.
"""

import base64
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pvback import datapath, limits
from pvback.config import Config, Secret, load_password
from pvback.datapath import UnlockMethod
from pvback.errors import DamagedError, UnsupportedFormatError, UsageError, WrongKeyError
from pvback.repository.copies import (
    FoundConfig,
    copies_worth_trying,
    list_key_objects,
    read_key_objects,
)
from pvback.repository.key_commands import open_with_command
from pvback.repository.key_objects import config_facts, key_facts, slot_of
from pvback.repository.layout import key_object_key
from pvback.repository.stretching import StretchingAhead
from pvback.storage import ObjectStore

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = ["Unlocked", "new_recovery_key", "read_recovery_key", "try_secrets", "unlock", "used_slot"]

T = TypeVar("T")

_RECOVERY_KEY = re.compile("[0-9a-hjkmnp-tv-z]{32}")


def new_recovery_key() -> Secret:
    """A recovery key that nobody has yet, from the operating system's random numbers."""
    return Secret(datapath.recovery_key())


def read_recovery_key(text: str) -> str | None:
    """The recovery key that `text` is a copy of, or None when it cannot be one.

    Large letters, other or no separators, and `o`, `i`, `l` for the digits `0`, `1`, `1` do not matter.
    """
    digits = re.sub(r"[\s-]+", "", text).lower().translate(str.maketrans("oil", "011"))
    if not _RECOVERY_KEY.fullmatch(digits):
        return None
    return "-".join(digits[start : start + 4] for start in range(0, 32, 4))


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A keyring, and what to tell people about where it was."""

    keyring: "Keyring"
    key_object: bytes
    """Where the keyring was, or its copy."""
    warnings: tuple[str, ...] = ()


def unlock(
    config: Config,
    found: FoundConfig,
    *,
    store: ObjectStore,
    likely: str | None = None,
    ahead: StretchingAhead | None = None,
    before_secret: Callable[[], None] = lambda: None,
) -> Unlocked:
    """The keyring that the configured secret opens. Raises as `try_secrets` and `datapath.unlock`.

    Of the key objects the `likely` one is read and tried before the others are even read. Where none opens,
    the copies of those that are missing, damaged or different are tried. What was done `ahead` is used where
    it fits. `before_secret` is called when all is read that the first attempt needs.
    """

    def attempt(key_objects: Sequence[tuple[str, bytes]]) -> Unlocked:
        keyring = _unlock(config, found.data, key_objects=key_objects, ahead=ahead)
        return Unlocked(keyring, dict(key_objects)[key_object_key(keyring.principal)])

    names = list_key_objects(store)
    if likely in names and len(names) > 1:
        firsts = read_key_objects(store, [likely])
        before_secret()
        with contextlib.suppress(DamagedError, WrongKeyError, UnsupportedFormatError):
            return attempt(firsts)
        firsts += read_key_objects(store, [name for name in names if name != likely])
    else:
        firsts = read_key_objects(store, names)
        before_secret()
    try:
        return attempt(firsts)
    except (DamagedError, WrongKeyError, UnsupportedFormatError) as exc:
        revoked = [str(one["principal"]) for one in config_facts(found.data)["revoked"]]
        copies = copies_worth_trying(store, firsts, revoked=revoked)
        try:
            if not copies:
                raise
            unlocked = attempt(copies)
        except (DamagedError, WrongKeyError, UnsupportedFormatError):
            raise exc from None
        key = key_object_key(unlocked.keyring.principal)
        warning = f"{key} does not open, but its copy does: an owner should run `pvback key repair`"
        return replace(unlocked, warnings=(warning,))


def _unlock(
    config: Config,
    config_object: bytes,
    *,
    key_objects: Sequence[tuple[str, bytes]],
    ahead: StretchingAhead | None,
) -> "Keyring":
    """The keyring that the configured secret opens among these key objects."""

    def unlock_with(method: UnlockMethod, secret: bytes) -> "Keyring":
        stretched = ahead.wait() if ahead is not None and method == "passphrase" else None
        return datapath.unlock(config_object, key_objects, method=method, secret=secret, stretched=stretched)

    try:
        return try_secrets(config, unlock_with, key_objects=key_objects)
    except WrongKeyError as exc:
        exc.hint = exc.hint or "check the password or key file, and that it belongs to this repository"
        raise


def try_secrets(
    config: Config,
    unlock_with: Callable[[UnlockMethod, bytes], T],
    *,
    key_objects: Sequence[tuple[str, bytes]] = (),
) -> T:
    """What `unlock_with` makes of a key file if one was named, or else of a key command, or of the password.

    A key file holds an X25519 private key (32 bytes) or the secret of an unlock entry (80 bytes), raw or hex.
    A command is given what commands have sealed for `key_objects`, one after the other, until one opens.
    A password that opens nothing and looks like a copy of a recovery key is tried as that, too. Raises
    UsageError without either, and what `unlock_with` raises.
    """
    if config.key_file is not None:
        return unlock_with(*_read_key_file(config.key_file))
    if config.key_command is not None:
        return _try_command(config.key_command, unlock_with, key_objects)
    password = load_password(config)
    if password is None:
        raise UsageError(
            "no password or key was given",
            hint="use `--password-file`, `--key-file`, or set the variable PVBACK_PASSWORD",
        )
    given = password.reveal()
    meant = read_recovery_key(given)
    try:
        return unlock_with("passphrase", given.encode())
    except WrongKeyError:
        if meant is None or meant == given:
            raise
    return unlock_with("passphrase", meant.encode())


def _try_command(
    command: Sequence[str],
    unlock_with: Callable[[UnlockMethod, bytes], T],
    key_objects: Sequence[tuple[str, bytes]],
) -> T:
    failure = WrongKeyError("no key of this repository was sealed with a command", key=command[0])
    for _, data in key_objects:
        for sealed in _sealed_by_commands(data):
            try:
                return unlock_with("secret", open_with_command(command, sealed))
            except WrongKeyError as exc:
                failure = exc
    raise failure


def _sealed_by_commands(key_object: bytes) -> list[bytes]:
    try:
        entries = key_facts(key_object)["unlock"]
    except (DamagedError, UnsupportedFormatError):
        return []
    return [base64.b64decode(one["sealed"]) for one in entries if one["sealed"] is not None]


def used_slot(config: Config, key_object: bytes) -> int:
    """Which way to unlock a key object the configured secret is. Raises WrongKeyError when it is none.

    The secret of an unlock entry itself is none: it opens all of them.
    """

    def find(method: UnlockMethod, secret: bytes) -> int:
        if method == "secret":
            raise WrongKeyError("the secret in use is not one of the ways to unlock the key")
        return slot_of(key_object, method=method, secret=secret)

    if config.key_file is None and config.key_command is not None:
        for position, entry in enumerate(key_facts(key_object)["unlock"]):
            if entry["sealed"] is not None:
                with contextlib.suppress(WrongKeyError):
                    open_with_command(config.key_command, base64.b64decode(entry["sealed"]))
                    return position
        raise WrongKeyError("the key command opens none of the ways to unlock the key")
    return try_secrets(config, find)


def _read_key_file(path: Path) -> tuple[UnlockMethod, bytes]:
    try:
        with path.open("rb") as file:
            raw = file.read(limits.KEY_FILE_BYTES_MAX)
    except OSError as exc:
        raise UsageError(f"key file: {exc.strerror or 'not readable'}", key=str(path)) from exc
    with contextlib.suppress(ValueError):
        text = raw.strip()
        if len(text) in (64, 160):
            raw = bytes.fromhex(text.decode("ascii"))
    methods: dict[int, UnlockMethod] = {32: "x25519", 80: "secret"}
    if len(raw) not in methods:
        raise UsageError("not a key file", key=str(path), hint="it holds 32 or 80 bytes, raw or in hex")
    return methods[len(raw)], raw
