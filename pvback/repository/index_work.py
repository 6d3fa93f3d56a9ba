"""The seam to the work on index runs, reference sets and packs that prune and merges need done in bulk.

The protocol is Python and knows names and counts; what goes through millions of entries is native and is
reached through `IndexWork`. Every method reads and writes through the same store as its caller, puts only
objects under fresh names, and changes no register: done twice, or broken off, it leaves at most objects that
nothing names, which the next prune removes.

Ids are counted, never seen here: a maintainer's key suffices, and no content is opened.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pvback.repository.gcstate import IndexView, Marks
from pvback.repository.sealed import Named

__all__ = [
    "IndexWork",
    "LostBlob",
    "Marks",
    "PackUse",
    "Rebuilt",
    "Repacked",
    "RepairWork",
    "Salvaged",
    "Survey",
    "TreeRef",
    "Usage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackUse:
    """What the index and the marks say about one pack."""

    name: str
    kind: Literal["data", "meta"]
    object_bytes: int
    """Of the sealed object in the store."""
    entry_count: int
    entry_bytes: int
    """Sealed lengths of all its blobs."""
    used_count: int
    used_bytes: int
    """Of those that are needed and that no other pack was chosen for."""
    is_spared: bool = False
    """One of the runs to be spared lists it."""
    sole_count: int = 0
    """Needed blobs that no other pack of the view has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The index joined with everything that is needed."""

    packs: Mapping[str, PackUse] = field(default_factory=dict)
    needed_count: int = 0
    """Distinct ids."""
    missing_count: int = 0
    """Needed ids without any usable entry: prune must delete nothing."""
    missing_examples: tuple[str, ...] = ()
    """Short ids in hex, a few."""
    revived: frozenset[str] = frozenset()
    """Condemned packs that hold the only copy of something that is needed: they must live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repacked:
    """What a repack wrote."""

    packs: tuple[str, ...]
    runs: tuple[str, ...]
    moved_count: int
    moved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What reading pack directories gave."""

    runs: tuple[str, ...]
    problems: Mapping[str, str]
    """Pack name -> why its directory cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What can be read of the index."""

    packs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Pack name -> (name below the scope, object bytes), as the readable runs list it."""
    incomplete: frozenset[str] = frozenset()
    """Packs with blobs that no readable run lists, if directories were read."""
    damaged: Mapping[str, str] = field(default_factory=dict)
    """Runs that do not open -> why."""
    contradicting: Mapping[str, str] = field(default_factory=dict)
    """Runs that open and say other things about a pack than those before them -> what."""
    missing: tuple[str, ...] = ()
    """Runs that were listed a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostBlob:
    """A chunk or page of a damaged pack that cannot be saved."""

    pack: str
    id: str
    """Short id, in hex."""
    bytes: int
    """Sealed length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What a salvage wrote, and what it could not."""

    packs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    saved_count: int = 0
    saved_bytes: int = 0
    lost: tuple[LostBlob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRef:
    """A snapshot's tree, for a key that opens it."""

    snapshot: str
    source: str
    root: Mapping[str, object]


class IndexWork(Protocol):
    """Raises StorageError; DamagedError for an object that is missing or is not what was named.

    ObjectNotFound with the key of a run: another prune has replaced it, begin again with `gc/state`.
    """

    def count(self, marks: Marks, *, add: Sequence[Named], remove: Sequence[Named], generation: int) -> Marks:
        """New marks: those given, plus one for each id of each part in `add`, less one for `remove`.

        Ids whose count falls to zero are left out; one that would fall below means damage. `add` and `remove`
        are parts of reference sets; what several parts list counts as often.
        """
        ...

    def usage(
        self,
        view: IndexView,
        *,
        marks: Marks,
        refs: Sequence[Named],
        keep: AbstractSet[str] = frozenset(),
        spare_runs: Sequence[str] = (),
    ) -> Usage:
        """Join the usable entries of `view` with what `marks` and the parts `refs` need.

        An id that lies in several packs is used in one of them only: one that is not condemned before one
        that is, then the one that is used most. Packs in `view.condemned` but not in `keep` are given up:
        an id that only they hold revives one of them, preferably one that is revived anyway. Packs in `keep`
        count as not condemned. Dead packs do not count at all.
        """
        ...

    def merge(self, view: IndexView, *, drop: AbstractSet[str], generation: int) -> tuple[str, ...]:
        """Write the entries of all runs of `view` as new runs of `generation`, and return their names.

        Left out are entries of packs in `drop` or `view.dead`; those of condemned ones stay. Each new run
        covers a range of ids, so that no single one grows without bound; none when nothing is left. Its name
        sorts after those of all runs of `view` of the same generation: who lists runs in pages while the old
        ones are removed meets either them or it.
        """
        ...

    def repack(
        self,
        view: IndexView,
        *,
        packs: Sequence[str],
        marks: Marks,
        refs: Sequence[Named],
        generation: int,
        order: Sequence[Named] = (),
    ) -> Repacked:
        """Copy what is needed out of `packs` into new packs, byte for byte, and list those in new runs.

        Needed ids that a usable pack outside `packs` also holds are not copied; one in `view.condemned` does
        not count as such, for it may be gone before the copy would be missed. They come to lie as trees want
        them whose parts of reference sets are in `order`: those of the first part first, in the order of
        their places, and behind those of the last part what is in none, as it lay, packs in the order given.
        A part of `order` that is lost tells no order, and is no error.
        """
        ...

    def rebuild(self, packs: Sequence[tuple[str, int]], *, generation: int) -> Rebuilt:
        """Runs made from the directories of packs, given by name below the scope and size in bytes."""
        ...


class RepairWork(IndexWork, Protocol):
    """What repairs need besides. Raises as `IndexWork`; what is damaged is an answer here."""

    def survey(self, view: IndexView, *, directories: bool = False) -> Survey:
        """Read all runs to their end; what they say of packs, and which cannot be read.

        With `directories` also the end of each pack, for what no run lists of it.
        """
        ...

    def salvage(
        self, view: IndexView, *, packs: Sequence[tuple[str, int]], trees: Sequence[TreeRef], generation: int
    ) -> Salvaged:
        """Copy what opens of `packs`, name below the scope and the size that it should have, into new packs.

        Where a pack's own directory is lost, places come from `view` and whole ids from `trees`.
        """
        ...

    def references(self, view: IndexView, *, tree: TreeRef, first: int) -> tuple[tuple[Named, ...], int]:
        """Write what a tree reaches as parts of a reference set, numbered from `first`, and return them.

        With the number of pages that could not be read: nothing is written if there are any. WrongKeyError
        when the key does not open the tree.
        """
        ...
