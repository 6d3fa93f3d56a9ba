"""What unlocks a repository: a password, a recovery key, or a key file.

A recovery key is a password that pvback made, 160 random bits, to be written down and locked away. It goes
wherever a password goes, and is also understood the way people copy it: see `read_recovery_key`.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pvback import datapath, limits
from pvback.config import Config, Secret, load_password
from pvback.datapath import UnlockMethod
from pvback.errors import UsageError, WrongKeyError
from pvback.repository.layout import key_object_key

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = ["new_recovery_key", "read_recovery_key", "try_secrets", "unlock"]

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


def unlock(
    config: Config, config_object: bytes, *, repository: str, key_objects: Sequence[tuple[str, bytes]]
) -> "Keyring":
    """The keyring that the configured secret opens. Raises as `try_secrets` and `datapath.unlock`.

    To try a password on a key object takes a good part of a second by design, so the one that was opened last
    time is tried first; the cache directory remembers which. Nothing else depends on it.
    """
    hint = config.cache_dir / repository / "key" if config.cache_dir is not None else None
    remembered = _read_hint(hint)
    ordered = sorted(key_objects, key=lambda one: one[0] != remembered)

    def unlock_with(method: UnlockMethod, secret: bytes) -> "Keyring":
        return datapath.unlock(config_object, ordered, method=method, secret=secret)

    try:
        keyring = try_secrets(config, unlock_with)
    except WrongKeyError as exc:
        exc.hint = exc.hint or "check the password or key file, and that it belongs to this repository"
        raise
    used = key_object_key(keyring.principal)
    if hint is not None and len(key_objects) > 1 and used != remembered:
        # Lost, or torn by somebody who writes it at the same time, it costs time and nothing else.
        with contextlib.suppress(OSError):
            hint.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            hint.write_text(used)
    return keyring


def _read_hint(hint: Path | None) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return hint.read_text() if hint is not None else None
    return None


def try_secrets(config: Config, unlock_with: Callable[[UnlockMethod, bytes], T]) -> T:
    """What `unlock_with` makes of a key file if one was named, or else of the password.

    A key file holds an X25519 private key (32 bytes) or the secret of an unlock entry (80 bytes), raw or hex.
    A password that opens nothing and looks like a copy of a recovery key is tried as that, too. Raises
    UsageError without either, and what `unlock_with` raises.
    """
    if config.key_file is not None:
        return unlock_with(*_read_key_file(config.key_file))
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
