"""Which snapshots a copy from one repository into another has to bring, and what there is to build upon.

A copy says in its record which snapshot of which repository it is of (`origin`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pvback.errors import ConflictError, PvbackError, WrongKeyError
from pvback.repository.records import Root
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import Catalog, CommittedSnapshot, SnapshotFilter, find_snapshot

__all__ = ["CopyOptions", "CopyPair", "CopyPlan", "CopyWork", "plan_copy"]

_CUTTING = ("id", "min", "average", "max", "fixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """What to copy, and how.

    Attributes:
        snapshots: Beginnings of ids; without any, all snapshots that `wanted` fits.
        wanted: Which ones.
        is_latest: Only the newest of each source.
        keep_chunks: Also into a repository that cuts chunks of other sizes: they stay as they are, and what
            is backed up there shares nothing with them.
        pack_bytes: Size of packs; None: what suits the target's size. Less where memory is short.
        level: zstd level; None adapts to the slower of processor and store.
    """

    snapshots: Sequence[str] = ()
    wanted: SnapshotFilter = field(default_factory=SnapshotFilter)
    is_latest: bool = False
    keep_chunks: bool = False
    pack_bytes: int | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What is to be copied, and what need not be."""

    missing: Sequence[CommittedSnapshot]
    """Source by source, the oldest first."""
    present: Mapping[str, str]
    """The source's snapshot id -> the id of the copy that there is."""
    failures: Sequence[PvbackError] = ()
    """Why snapshots of the source are in neither of the two."""


def plan_copy(source: RepositoryAccess, target: RepositoryAccess, *, options: CopyOptions) -> CopyPlan:
    """What a copy from `source` into `target` would do. Reads catalogs only.

    A copy that was forgotten counts as present as long as it can be brought back, unless its snapshot is
    named. Raises ConflictError when the two are one repository or cut chunks differently, WrongKeyError for a
    key that does not open the source's content, UsageError and PvbackError as `find_snapshot`, StorageError.
    """
    return CopyWork(source, target, options).plan


@dataclass(frozen=True, slots=True)
class CopyPair:
    """A snapshot and its copy, as far as another copy needs them."""

    origin: str
    copy: str
    root: Root
    seq: int


class CopyWork:
    """What there is on both sides, kept up to date while snapshots are copied."""

    def __init__(self, source: RepositoryAccess, target: RepositoryAccess, options: CopyOptions) -> None:
        self.source, self.target, self.options = source, target, options
        _require_pair(source, target, options)
        catalog = source.catalog()
        self.originals = {one.id: one for one in catalog.snapshots}
        there = target.catalog()
        self.heads: dict[str, list[tuple[int, str]]] = {}
        self.pairs: dict[str, list[CopyPair]] = {}
        for one in (*there.snapshots, *there.forgotten):
            self.heads.setdefault(one.source, []).append((one.record.seq, one.record.named.hash))
        present = self._find_pairs(there.snapshots)
        if not options.snapshots:
            present = {**self._origins(there.forgotten), **present}
        wanted = _select(catalog, options)
        self.plan = CopyPlan(
            missing=[one for one in wanted if one.id not in present],
            present={one.id: present[one.id] for one in wanted if one.id in present},
            failures=() if options.snapshots else tuple(catalog.damaged),
        )

    def _origins(self, copies: Iterable[CommittedSnapshot]) -> dict[str, str]:
        """Ids of the source's snapshots -> those of their copies."""
        repository = self.source.facts.repository
        found = {}
        for one in copies:
            if one.details and one.details.origin and one.details.origin.repository == repository:
                found[one.details.origin.snapshot] = one.id
        return found

    def _find_pairs(self, copies: Iterable[CommittedSnapshot]) -> dict[str, str]:
        known = list(copies)
        origins = self._origins(known)
        by_id = {one.id: one for one in known}
        for origin, copy in origins.items():
            one = by_id[copy]
            if one.details is not None:
                self.add_pair(one.source, CopyPair(origin, copy, one.details.root, one.record.seq))
        return origins

    def add_pair(self, source_id: str, pair: CopyPair) -> None:
        """Note a copy that later ones may take over from."""
        self.pairs.setdefault(source_id, []).append(pair)

    def choose_base(self, source_id: str, snapshot: CommittedSnapshot) -> CopyPair | None:
        """The pair that is nearest before the snapshot, or behind it where there is none."""
        alive = [pair for pair in self.pairs.get(source_id, ()) if pair.origin in self.originals]
        seq = {pair.origin: self.originals[pair.origin].record.seq for pair in alive}
        before = [pair for pair in alive if seq[pair.origin] <= snapshot.record.seq]
        if before:
            return max(before, key=lambda pair: (seq[pair.origin], pair.seq))
        return min(alive, key=lambda pair: (seq[pair.origin], -pair.seq), default=None)


def _require_pair(source: RepositoryAccess, target: RepositoryAccess, options: CopyOptions) -> None:
    if source.objects.layout.prefix == target.objects.layout.prefix:
        raise ConflictError("the repository to copy from is the one to copy to", key=source.store.address)
    if source.keyring.role not in ("owner", "restorer"):
        raise WrongKeyError(
            f"a {source.keyring.role}'s key opens no stored content",
            key=source.store.address,
            hint="copy with the key of an owner or a restorer of the repository that is read",
        )
    theirs, ours = ([one.facts.chunker.get(name) for name in _CUTTING] for one in (source, target))
    if theirs != ours and not options.keep_chunks:
        raise ConflictError(
            f"the repositories cut chunks differently: {theirs[2]} bytes on average, and {ours[2]}",
            hint="make the target with the same `--chunk-size`, or leave chunks as they are: `--keep-chunks`",
        )


def _select(catalog: Catalog, options: CopyOptions) -> list[CommittedSnapshot]:
    """The snapshots that are meant: source by source, as each first appears, and the oldest first."""
    if options.snapshots:
        named = {find_snapshot(catalog.snapshots, text).id for text in options.snapshots}
        wanted = [one for one in catalog.snapshots if one.id in named]
    else:
        wanted = [one for one in catalog.snapshots if options.wanted.matches(one)]
    by_source: dict[str, list[CommittedSnapshot]] = {}
    for one in wanted:
        by_source.setdefault(one.source, []).append(one)
    taken = [ones[-1:] if options.is_latest else ones for ones in by_source.values()]
    return [one for ones in taken for one in ones]
