"""What this client opened last at an address: which key object, and which scope.

With it a remote store is asked for more at once before anything of it is known, and one key is read and tried
before all others: to try a password takes a good part of a second by design. It is kept in the cache
directory; lost, torn or wrong it costs time and requests, and nothing else.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pvback.config import Config
from pvback.repository.cache_file import locked, replace_json
from pvback.repository.layout import KEYS_PREFIX, ScopeLayout, is_key_object
from pvback.repository.snapshots import first_questions

if TYPE_CHECKING:
    from pvback.storage.ahead import Question

__all__ = ["Opened", "OpenedFile"]

_SCOPE = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Opened:
    """A key object, by key, and the scope that it opened, by id, when `asked` was asked for."""

    key: str
    scope: str
    asked: str | None = None

    def questions(self, *, with_catalog: bool) -> "list[list[Question]]":
        """What a store is asked for, beside `config`, before that shows whether anything of this is so."""
        firsts: list[Question] = [("list", KEYS_PREFIX), ("read", self.key)]
        if not with_catalog:
            return [firsts]
        state, *others = first_questions(ScopeLayout(self.scope))
        return [[*firsts, *state], *others]


class OpenedFile:
    """The memory of one address. Two processes may use it at once."""

    def __init__(self, config: Config) -> None:
        self._path = None
        if config.cache_dir is not None and config.repository is not None:
            name = hashlib.sha256(repr(config.repository).encode()).hexdigest()[:32]
            self._path = config.cache_dir / "opened" / f"{name}.json"

    def load(self) -> Opened | None:
        """What is remembered; None for nothing, and for what cannot be."""
        if self._path is None:
            return None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            raw = json.loads(self._path.read_bytes())
            opened = Opened(str(raw["key"]), str(raw["scope"]), raw["asked"])
            if is_key_object(opened.key) and _SCOPE.fullmatch(opened.scope):
                return opened
        return None

    def remember(self, opened: Opened) -> None:
        """Remember this from now on, if that is possible."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self._path):
                replace_json(self._path, asdict(opened))
