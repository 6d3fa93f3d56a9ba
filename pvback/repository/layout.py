"""Names of objects: which key holds what. Pure; see section 2 of docs/format.md."""

import enum
import re
from dataclasses import dataclass

__all__ = [
    "CONFIG_KEY",
    "COPIES_PREFIX",
    "GC_STATE_NAME",
    "KEYS_PREFIX",
    "Area",
    "ObjectType",
    "ScopeLayout",
    "copy_key",
    "generation_name",
    "is_key_object",
    "key_object_key",
    "record_name",
    "split_generation",
]

CONFIG_KEY = "config"
KEYS_PREFIX = "keys/"
COPIES_PREFIX = "copies/"
GC_STATE_NAME = "gc/state"

_HEX32 = "[0-9a-f]{32}"
_KEY_OBJECT = re.compile(f"keys/{_HEX32}\\.json")
_GENERATION_NAME = re.compile(f"([0-9a-f]{{16}})-({_HEX32})")


class ObjectType(enum.IntEnum):
    """The type byte of sealed objects (section 5.1)."""

    DATA_PACK = 1
    METADATA_PACK = 2
    INDEX_RUN = 3
    REFERENCE_SET = 4
    REGISTER = 5
    RECORD = 6
    GC_STATE = 7
    GC_LIST = 8
    MARKS = 9


class Area(enum.StrEnum):
    """The folders below a scope's prefix."""

    DATA = "data"
    META = "meta"
    INDEX = "index"
    REFS = "refs"
    RECORDS = "records"
    SNAPSHOTS = "snapshots"
    GC = "gc"


_NAMES = {
    Area.DATA: re.compile(f"[0-9a-f]{{2}}/{_HEX32}"),
    Area.META: re.compile(f"[0-9a-f]{{2}}/{_HEX32}"),
    Area.INDEX: _GENERATION_NAME,
    Area.REFS: re.compile(f"{_HEX32}-(0|[1-9][0-9]{{0,9}})"),
    Area.RECORDS: re.compile(f"{_HEX32}(-[1-9][0-9]{{0,9}})?"),
    Area.SNAPSHOTS: _GENERATION_NAME,
    Area.GC: re.compile(r"state|[0-9a-f]{16}-[a-z0-9_-]{1,64}"),
}


def generation_name(generation: int, name: str) -> str:
    """`<gen>-<name>`, as runs and registers are called; sorts by generation."""
    assert 0 <= generation < 1 << 64, "a generation is a u64"
    return f"{generation:016x}-{name}"


def split_generation(name: str) -> tuple[int, str] | None:
    """(generation, rest) of such a name; None when it is none."""
    match = _GENERATION_NAME.fullmatch(name)
    return (int(match[1], 16), match[2]) if match else None


def record_name(snapshot: str, checkpoint: int | None = None) -> str:
    """The record of a snapshot, or of one of its checkpoints, counted from 1."""
    return f"records/{snapshot}" if checkpoint is None else f"records/{snapshot}-{checkpoint}"


def key_object_key(principal: str) -> str:
    """Where the keys of a principal lie."""
    return f"{KEYS_PREFIX}{principal}.json"


def is_key_object(key: str) -> bool:
    """Whether a key is that of a principal's key object."""
    return _KEY_OBJECT.fullmatch(key) is not None


def copy_key(key: str) -> str:
    """Where the second copy of `config` or of a key object lies."""
    return f"{COPIES_PREFIX}{key}"


@dataclass(frozen=True, slots=True)
class ScopeLayout:
    """Keys below one scope's prefix. A *name* is a key without that prefix."""

    scope: str

    @property
    def prefix(self) -> str:
        """What every key of the scope begins with."""
        return f"s/{self.scope}/"

    def key(self, name: str) -> str:
        """The key of an object of this scope."""
        return self.prefix + name

    def area(self, area: Area) -> str:
        """The prefix of a folder."""
        return f"{self.prefix}{area}/"

    def classify(self, key: str) -> tuple[Area, str] | None:
        """(folder, last part) of a key that the format knows; None for a foreign one."""
        if not key.startswith(self.prefix):
            return None
        folder, _, rest = key.removeprefix(self.prefix).partition("/")
        if folder not in Area.__members__.values() or not _NAMES[Area(folder)].fullmatch(rest):
            return None
        area, last = Area(folder), rest.rpartition("/")[2]
        if area in (Area.DATA, Area.META) and rest[:2] != last[:2]:
            return None
        return area, last
