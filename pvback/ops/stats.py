"""Sizes: of snapshots, and of what the repository stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvback.ops.reading import run_reading, tree_options
from pvback.repository.layout import Area
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["AreaSize", "RepositoryStats", "repository_stats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaSize:
    """What one folder of the repository holds."""

    object_count: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryStats:
    """Sizes in bytes."""

    snapshot_count: int
    source_bytes: int
    """Sizes of all files of the chosen snapshots, as a restore of each of them would write."""
    areas: Mapping[str, AreaSize]
    """By folder: `data`, `meta`, `index`, `refs`, `records`, `snapshots`, `gc`."""
    stored_bytes: int
    """All of the scope's objects together."""
    trees: Mapping[str, Any]
    """What the data path counted in the trees of the chosen snapshots; empty unless asked for."""


def repository_stats(
    access: RepositoryAccess, snapshots: Sequence[CommittedSnapshot], *, mode: str | None = None
) -> RepositoryStats:
    """Count what is stored, and with a mode (`restore-size`, `raw-data`, `index`) what the trees hold.

    Only a mode reads trees; without one it is a listing. Raises DamagedError, StorageError.
    """
    areas: dict[str, AreaSize] = {str(area): AreaSize() for area in Area}
    for info in access.store.list_objects(access.objects.layout.prefix):
        found = access.objects.layout.classify(info.key)
        if found is not None:
            old = areas[found[0]]
            areas[found[0]] = AreaSize(
                object_count=old.object_count + 1, stored_bytes=old.stored_bytes + info.size
            )
    trees: Mapping[str, Any] = {}
    if mode is not None:
        readable = [one for one in snapshots if one.details is not None]
        described = [{"snapshot": one.id, **tree_options(one), "refs": refs_json(one)} for one in readable]
        trees = run_reading(access, "stats", options={"snapshots": described, "mode": mode})
    return RepositoryStats(
        snapshot_count=len(snapshots),
        source_bytes=sum(one.details.root.bytes for one in snapshots if one.details is not None),
        areas=areas,
        stored_bytes=sum(area.stored_bytes for area in areas.values()),
        trees=trees,
    )


def refs_json(snapshot: CommittedSnapshot) -> list[dict[str, str]]:
    """The reference sets of a snapshot, as jobs take them."""
    return [named.as_json() for named in snapshot.register.refs]
