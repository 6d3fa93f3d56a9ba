"""What this client remembers of repositories, so that one that was rolled back is noticed.

The provider of the storage can serve old objects, but not make a client forget. Remembered are the serial
of `config`, n of each scope's `gc/state`, and the newest record of each source. Losing the memory costs only
this protection; it is kept in the cache directory and not at all without one.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pvback import limits
from pvback.errors import DamagedError, FileError
from pvback.repository.cache_file import locked, replace_json
from pvback.repository.gcstate import read_gc_state
from pvback.repository.register_copies import CopiesFile
from pvback.repository.sealed import ScopeObjects
from pvback.repository.snapshots import Catalog, load_catalog

__all__ = ["Head", "HeadsFile", "Memory", "judge", "load_judged", "merge"]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a source."""

    snapshot: str
    seq: int
    hash: str
    register: str
    """`<gen>-<snapshot>`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was seen, at one time."""

    serial: int = 0
    generation: int = 0
    heads: Mapping[str, Head] = field(default_factory=dict)


def judge(
    remembered: Memory, seen: Memory, *, present: Mapping[str, str], is_valid: Callable[[str], bool]
) -> str | None:
    """What shows that the repository is older than it was, in words; None when nothing does. Pure.

    Args:
        remembered: What this client saw last.
        seen: What it sees now.
        present: Record hash of each snapshot whose register is there and is, or has been, COMMITTED.
        is_valid: Whether a register counts under the `gc/state` that is seen.

    A remembered record may only go by a prune, which makes its register void before.
    """
    if seen.serial < remembered.serial:
        return f"`config` has serial {seen.serial}, but {remembered.serial} was seen before"
    if seen.generation < remembered.generation:
        return f"`gc/state` is at {seen.generation}, but {remembered.generation} was seen before"
    for head in remembered.heads.values():
        digest = present.get(head.snapshot)
        if digest is None and is_valid(head.register):
            return f"snapshot {head.snapshot[:8]} was there, and no prune has removed it"
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

    def compare(
        self,
        remembered: Memory,
        seen: Memory,
        *,
        present: Mapping[str, str],
        is_valid: Callable[[str], bool],
    ) -> None:
        """Judge what is seen by what was remembered, and remember it, too. DamagedError for a roll-back."""
        verdict = judge(remembered, seen, present=present, is_valid=is_valid)
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
                str(source): Head(
                    str(one["snapshot"]), int(one["seq"]), str(one["hash"]), str(one["register"])
                )
                for source, one in raw["heads"].items()
            }
            return Memory(int(raw["serial"]), int(raw["generation"]), heads)
        except FileNotFoundError:
            return Memory()
        except (ValueError, KeyError, TypeError, AttributeError):
            return Memory()

    def _save(self, memory: Memory) -> None:
        heads = {source: asdict(head) for source, head in memory.heads.items()}
        raw = {"serial": memory.serial, "generation": memory.generation, "heads": heads}
        replace_json(self._path, raw)


def load_judged(
    objects: ScopeObjects,
    *,
    serial: int,
    file: HeadsFile | None,
    remembered: Memory,
    copies_file: CopiesFile | None,
) -> Catalog:
    """A catalog that is not older than what was `remembered` before; the file has been told of it.

    Args:
        objects: The scope.
        serial: That of `config`.
        file: The memory; None: there is none.
        remembered: What it said.
        copies_file: Of registers.

    Raises DamagedError for a roll-back, and as `load_catalog`.
    """
    for attempts_left in reversed(range(limits.SESSION_START_COUNT_MAX)):
        catalog = load_catalog(objects, copies_file=copies_file)
        # A register that does not open would look like one that was taken back; it is named as damaged.
        if file is None or catalog.damaged:
            break
        state = catalog.state
        try:
            file.compare(
                remembered,
                _seen(catalog, serial),
                present=catalog.record_hashes(),
                is_valid=state.is_register_valid,
            )
            break
        except DamagedError:
            # What a prune has made void since the state was read may be gone.
            if not attempts_left or read_gc_state(objects) == state:
                raise
    return catalog


def _seen(catalog: Catalog, serial: int) -> Memory:
    heads: dict[str, Head] = {}
    for one in catalog.snapshots:
        head = heads.get(one.source)
        if head is None or one.record.seq >= head.seq:
            named = one.record.named
            heads[one.source] = Head(one.id, one.record.seq, named.hash, one.register.name)
    return Memory(serial=serial, generation=catalog.state.n, heads=heads)
