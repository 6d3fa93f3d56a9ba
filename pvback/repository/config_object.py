"""The object `config`: what a client has to know before it has any key. Section 2.1 of docs/format.md.

Nothing here is believed until the keyring has checked the owner's signature; these checks only decide which
error a person sees.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pvback import limits
from pvback.errors import DamagedError, UnsupportedFormatError
from pvback.repository.layout import CONFIG_KEY

__all__ = [
    "FORMAT_VERSION",
    "KNOWN_FEATURES",
    "RepositoryConfig",
    "check_readable",
    "check_writable",
    "parse_config",
]

FORMAT_VERSION = 1
KNOWN_FEATURES = frozenset(("timed-commits",))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryConfig:
    """What `config` says."""

    repository: str
    serial: int
    format: int
    min_reader: int
    min_writer: int
    features: tuple[str, ...]
    chunker: dict[str, Any]
    scopes: tuple[str, ...]
    """Scope ids, in hex."""
    is_conditional: bool = True
    """Whether the store keeps conditions on writes, as `init` found out."""


def parse_config(data: bytes) -> RepositoryConfig:
    """The first line of the object; the second is the owner's signature, which `unlock` checks.

    Raises DamagedError for anything that is not a config, and UnsupportedFormatError as `check_readable`.
    """
    if len(data) > limits.CONFIG_OBJECT_BYTES_MAX:
        raise DamagedError("too large", key=CONFIG_KEY)
    try:
        raw = json.loads(data.split(b"\n", 1)[0])
    except (ValueError, RecursionError) as exc:
        raise DamagedError("not a repository's configuration", key=CONFIG_KEY) from exc
    if not isinstance(raw, dict) or raw.get("pvback") != "config":
        raise DamagedError("not a repository's configuration", key=CONFIG_KEY)
    versions = {name: raw.get(name) for name in ("format", "min_reader", "min_writer", "serial")}
    features, scopes, chunker = raw.get("features"), raw.get("scopes"), raw.get("chunker")
    if not all(isinstance(one, int) and one >= 1 for one in versions.values()):
        raise DamagedError("the versions are not numbers", key=CONFIG_KEY)
    check_readable(int(raw["min_reader"]), features if isinstance(features, list) else [])
    store = raw.get("store", {})
    is_conditional = store.get("conditional", True) if isinstance(store, dict) else None
    if not isinstance(is_conditional, bool):
        raise DamagedError("what is said of the store makes no sense", key=CONFIG_KEY)
    repository = raw.get("repository")
    listed = scopes if isinstance(scopes, list) else []
    ids = [one.get("id") if isinstance(one, dict) else None for one in listed]
    if not all(isinstance(one, str) and re.fullmatch("[0-9a-f]{32}", one) for one in (repository, *ids)):
        raise DamagedError("an id is not 16 bytes in hex", key=CONFIG_KEY)
    if not isinstance(features, list) or not isinstance(chunker, dict):
        raise DamagedError("features or chunker are missing", key=CONFIG_KEY)
    return RepositoryConfig(
        repository=str(repository),
        serial=int(raw["serial"]),
        format=int(raw["format"]),
        min_reader=int(raw["min_reader"]),
        min_writer=int(raw["min_writer"]),
        features=tuple(str(one) for one in features),
        chunker=chunker,
        scopes=tuple(str(one) for one in ids),
        is_conditional=is_conditional,
    )


def check_readable(min_reader: int, features: list[Any]) -> None:
    """Raise UnsupportedFormatError when this program would misread the repository."""
    if min_reader > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"the repository needs a reader of format {min_reader}; this program knows {FORMAT_VERSION}",
            key=CONFIG_KEY,
            hint="use a newer pvback",
        )
    unknown = sorted(str(one) for one in features if one not in KNOWN_FEATURES)
    if unknown:
        raise UnsupportedFormatError(
            f"the repository uses features that this program does not know: {', '.join(unknown)}",
            key=CONFIG_KEY,
            hint="use a newer pvback",
        )


def check_writable(config: RepositoryConfig) -> None:
    """Raise UnsupportedFormatError when this program may read the repository, but not write to it."""
    if config.min_writer > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"the repository needs a writer of format {config.min_writer}; this one writes {FORMAT_VERSION}",
            key=CONFIG_KEY,
            hint="use a newer pvback; this one can still restore",
        )
