"""A password made into a key while the store is still waited for.

To stretch a password takes a good part of a second by design, about as long as the first answers take from
far away. (Not while the store's client loads: that computes, too, and where two processors are one core's the
two take each other's time.) Salt and cost are in the key object, which is not there yet; they are remembered.
They are no secrets: whoever reads the repository reads them. Remembered wrongly they cost the time that was
spent, and nothing else, for what was made of them fits nothing.
"""

import base64
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.config import Config, load_password
from pvback.errors import PvbackError
from pvback.repository.key_objects import key_facts

if TYPE_CHECKING:
    from pvback.datapath import Argon2, Stretched

__all__ = ["Salt", "StretchingAhead", "first_salt"]


@dataclass(frozen=True, slots=True)
class Salt:
    """What a password is stretched with; `value` is base64."""

    value: str
    argon2: "Argon2"


def first_salt(key_object: bytes) -> Salt | None:
    """What every password that is tried on a key object is stretched with first, if any is."""
    for entry in key_facts(key_object)["unlock"]:
        if entry["salt"] is not None:
            memory, passes, lanes = entry["argon2"]
            return Salt(entry["salt"], (memory, passes, lanes))
    return None


class StretchingAhead:
    """Stretches the configured password in a thread, if there is one that may be read twice."""

    def __init__(self, config: Config, salt: Salt | None) -> None:
        self._made: Stretched | None = None
        self._thread: threading.Thread | None = None
        if salt is not None and _may_be_read_twice(config):
            self._thread = threading.Thread(
                target=self._stretch, args=(config, salt), name="pvback-password", daemon=True
            )
            self._thread.start()

    def wait(self) -> "Stretched | None":
        """What was made, when it is; None when nothing could be, of which somebody else will say why."""
        if self._thread is not None:
            self._thread.join()
        return self._made

    def _stretch(self, config: Config, salt: Salt) -> None:
        with contextlib.suppress(PvbackError, ValueError):
            password = load_password(config)
            if password is not None:
                self._made = datapath.stretch(
                    password.reveal().encode(), salt=base64.b64decode(salt.value), argon2=salt.argon2
                )


def _may_be_read_twice(config: Config) -> bool:
    """Whether a password is what unlocks, and nobody misses it who reads it after us."""
    if config.key_file is not None or config.key_command is not None:
        return False
    if config.password is not None:
        return True
    # A pipe would be empty, and a command would ask somebody again.
    with contextlib.suppress(OSError):
        return config.password_file is not None and config.password_file.is_file()
    return False
