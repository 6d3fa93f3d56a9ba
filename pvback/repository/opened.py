"""What this client opened last at an address: which key object, with which salt, and which scope.

With it a remote store is asked for more at once before anything of it is known, and one key is read and tried
before all others: to try a password takes a good part of a second by design, and begins before the key object
is read. It is kept in the cache directory; lost, torn or wrong it costs time and requests, and nothing else.
"""

import binascii
import contextlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pvback.config import Config
from pvback.repository.cache_file import locked, replace_json
from pvback.repository.layout import KEYS_PREFIX, ScopeLayout, is_key_object, key_object_key
from pvback.repository.snapshots import first_questions
from pvback.repository.stretching import Salt, first_salt

if TYPE_CHECKING:
    from pvback.datapath import Keyring
    from pvback.storage.ahead import Question

__all__ = ["OpenedFile"]

_SCOPE = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A key object, by key, its first salt, and the scope that it opened, by id; `asked` was asked for."""

    key: str
    scope: str
    asked: str | None = None
    salt: Salt | None = None


class OpenedFile:
    """The memory of one address. Two processes may use it at once.

    Attributes:
        last: What was opened last; None when nothing is remembered.
    """

    def __init__(self, config: Config) -> None:
        self._path = None
        if config.cache_dir is not None and config.repository is not None:
            # Two addresses of one name cost each other what a wrong memory costs.
            name = f"{binascii.crc32(repr(config.repository).encode()):08x}"
            self._path = config.cache_dir / "opened" / f"{name}.json"
        self.last = self._load()

    def questions(self, asked: str | None, *, with_catalog: bool) -> "list[list[Question]]":
        """What a store is asked for, beside `config`, before that shows whether anything of this is so.

        `asked` is the scope that is asked for now.
        """
        if self.last is None:
            return [[("list", KEYS_PREFIX)]]
        firsts: list[Question] = [("list", KEYS_PREFIX), ("read", self.last.key)]
        if not with_catalog or self.last.asked != asked:
            return [firsts]
        state, *others = first_questions(ScopeLayout(self.last.scope))
        return [[*firsts, *state], *others]

    def _load(self) -> Opened | None:
        if self._path is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            raw = json.loads(self._path.read_bytes())
            opened = Opened(str(raw["key"]), str(raw["scope"]), raw["asked"], _parse_salt(raw.get("salt")))
            if is_key_object(opened.key) and _SCOPE.fullmatch(opened.scope):
                return opened
        return None

    def remember(
        self, keyring: "Keyring", scope: str, *, key_object: bytes, asked: str | None = None
    ) -> None:
        """Remember from now on what was opened, if that is possible."""
        opened = Opened(key_object_key(keyring.principal), scope, asked, first_salt(key_object))
        if self._path is None or opened == self.last:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self._path):
                replace_json(self._path, asdict(opened))


def _parse_salt(raw: Any) -> Salt | None:  # noqa: ANN401 -- anything that JSON can say
    if raw is None:
        return None
    memory, passes, lanes = (int(one) for one in raw["argon2"])
    if not all(0 <= one < 1 << 32 for one in (memory, passes, lanes)):
        raise ValueError("no cost of Argon2")
    return Salt(str(raw["value"]), (memory, passes, lanes))
