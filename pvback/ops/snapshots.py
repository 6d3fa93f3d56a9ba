"""Listing snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pvback.errors import PvbackError
from pvback.model import Consistency, Stats
from pvback.ops.backup import stats_from_json
from pvback.repository.records import Origin, Repaired
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot, SnapshotFilter

__all__ = ["SnapshotFilter", "SnapshotInfo", "SnapshotList", "list_snapshots", "snapshot_info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One snapshot. Everything from `source` on is None or empty when the key in use may not read it."""

    id: str
    """32 digits."""
    time: datetime
    """When it was committed, by the store's clock."""
    source_id: str
    sequence: int
    source: str | None = None
    """The source string."""
    kind: str | None = None
    host: str | None = None
    path: str | None = None
    started: datetime | None = None
    """By the clock of the machine that made it."""
    finished: datetime | None = None
    parent: str | None = None
    grade: Consistency | None = None
    tags: Mapping[str, str] | None = None
    stats: Stats | None = None
    size_bytes: int | None = None
    """Sizes of all files together."""
    node_count: int | None = None
    error_count: int | None = None
    unstable_count: int | None = None
    program: str | None = None
    origin: Origin | None = None
    """Of a copy: which snapshot of which repository it is of."""
    repaired: Repaired | None = None
    """Of one that `repair snapshots` wrote: from which, and what that had lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotList:
    """Snapshots, oldest first, and why some that there should be are missing."""

    snapshots: Sequence[SnapshotInfo]
    damaged: Sequence[PvbackError] = ()


def list_snapshots(
    access: RepositoryAccess,
    *,
    wanted: SnapshotFilter | None = None,
    latest: int | None = None,
    is_forgotten: bool = False,
) -> SnapshotList:
    """The snapshots that fit; with `latest`, only so many newest ones of each source.

    With `is_forgotten` those that were forgotten and can still be brought back. Raises DamagedError when the
    repository was rolled back, StorageError.
    """
    catalog = access.catalog()
    searched = catalog.forgotten if is_forgotten else catalog.snapshots
    fitting = [one for one in searched if (wanted or SnapshotFilter()).matches(one)]
    if latest is not None:
        fitting = _newest_of_each(fitting, latest)
    return SnapshotList(snapshots=[snapshot_info(one) for one in fitting], damaged=catalog.damaged)


def snapshot_info(snapshot: CommittedSnapshot) -> SnapshotInfo:
    """What people see of a snapshot."""
    details = snapshot.details
    if details is None:
        return SnapshotInfo(
            id=snapshot.id, time=snapshot.time, source_id=snapshot.source, sequence=snapshot.record.seq
        )
    return SnapshotInfo(
        id=snapshot.id,
        time=snapshot.time,
        source_id=snapshot.source,
        sequence=snapshot.record.seq,
        source=details.source.string,
        kind=details.source.kind,
        host=details.source.host,
        path=details.source.path,
        started=details.started,
        finished=details.finished,
        parent=details.parent,
        grade=details.grade,
        tags=details.tags,
        stats=stats_from_json(details.stats),
        size_bytes=details.root.bytes,
        node_count=details.root.nodes,
        error_count=details.error_count,
        unstable_count=details.unstable_count,
        program=details.program,
        origin=details.origin,
        repaired=details.repaired,
    )


def _newest_of_each(snapshots: Sequence[CommittedSnapshot], count: int) -> list[CommittedSnapshot]:
    left: dict[str, int] = {}
    kept = []
    for one in reversed(snapshots):
        left[one.source] = left.get(one.source, count) - 1
        if left[one.source] >= 0:
            kept.append(one)
    return kept[::-1]
