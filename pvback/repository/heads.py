"""What this client remembers of repositories, so that one that was rolled back is noticed.

The provider of the storage can serve old objects, but not make a client forget. Remembered are the serial
of `config`, n of each scope's `gc/state`, and the newest record of each source. Losing the memory costs only
this protection; it is kept in the cache directory and not at all without one.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pvback.errors import DamagedError, FileError
from pvback.repository.cache_file import locked, replace_json

__all__ = ["Head", "HeadsFile", "Memory", "judge", "merge"]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a source."""

    snapshot: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What was seen, at one time."""

    serial: int = 0
    generation: int = 0
    heads: Mapping[str, Head] = field(default_factory=dict)


def judge(remembered: Memory, seen: Memory, *, present: Mapping[str, str]) -> str | None:
    """What shows that the repository is older than it was, in words; None when nothing does. Pure.

    Args:
        remembered: What this client saw last.
        seen: What it sees now.
        present: Record hash of each snapshot whose register is there and is COMMITTED or FORGOTTEN.

    A remembered record may only go by a prune, and a prune raises the generation.
    """
    if seen.serial < remembered.serial:
        return f"`config` has serial {seen.serial}, but {remembered.serial} was seen before"
    if seen.generation < remembered.generation:
        return f"`gc/state` is at {seen.generation}, but {remembered.generation} was seen before"
    for head in remembered.heads.values():
        digest = present.get(head.snapshot)
        if digest is None and seen.generation == remembered.generation:
            return f"snapshot {head.snapshot[:8]} was there, and no prune has run since"
        if digest is not None and digest != head.hash:
            return f"snapshot {head.snapshot[:8]} has another record than before"
    return None


def merge(remembered: Memory, seen: Memory) -> Memory:
    """What to remember after `seen` was judged to be good: the newest of everything. Pure.

    Another process may have remembered something newer than what was seen here.
    """
    serial, generation = max(remembered.serial, seen.serial), max(remembered.generation, seen.generation)
    if seen.generation != remembered.generation:
        # Heads may go with a prune: those of the later view are all there are.
        return Memory(serial, generation, seen.heads if generation == seen.generation else remembered.heads)
    heads = dict(remembered.heads)
    for source, head in seen.heads.items():
        if source not in heads or head.seq >= heads[source].seq:
            heads[source] = head
    return Memory(serial, generation, heads)


class HeadsFile:
    """The memory of one scope of one repository, in a file that several processes may use at once."""

    def __init__(self, folder: Path, *, repository: str, scope: str) -> None:
        self._path = folder / repository / f"heads-{scope}.json"

    def load(self) -> Memory:
        """What is remembered. Read it before what it is compared with: others may learn of newer things."""
        with self._usable():
            return self._load()

    def compare(self, remembered: Memory, seen: Memory, *, present: Mapping[str, str]) -> None:
        """Judge what is seen by what was remembered, and remember it, too. DamagedError for a roll-back."""
        verdict = judge(remembered, seen, present=present)
        if verdict is not None:
            raise DamagedError(
                f"the repository was rolled back: {verdict}",
                hint=f"if you brought back an older copy yourself, remove {self._path}",
            )
        with self._usable(), locked(self._path):
            self._save(merge(self._load(), seen))

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            yield
        except OSError as exc:
            raise FileError(
                f"the cache is not usable: {exc.strerror}", key=str(self._path), hint="use `--no-cache`"
            ) from exc

    def _load(self) -> Memory:
        """What the file says; a file that is no memory says nothing."""
        try:
            raw = json.loads(self._path.read_bytes())
            heads = {
                str(source): Head(str(one["snapshot"]), int(one["seq"]), str(one["hash"]))
                for source, one in raw["heads"].items()
            }
            return Memory(int(raw["serial"]), int(raw["generation"]), heads)
        except FileNotFoundError:
            return Memory()
        except (ValueError, KeyError, TypeError, AttributeError):
            return Memory()

    def _save(self, memory: Memory) -> None:
        heads = {
            source: {"snapshot": head.snapshot, "seq": head.seq, "hash": head.hash}
            for source, head in memory.heads.items()
        }
        raw = {"serial": memory.serial, "generation": memory.generation, "heads": heads}
        replace_json(self._path, raw)
