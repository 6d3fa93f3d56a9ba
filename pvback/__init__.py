"""Backup and restore of Kubernetes persistent volumes. What is in `__all__` is the public API.

Most names are loaded when they are first used, so that `import pvback.reference` works on machines where the
native module does not. Errors are there at once: they need nothing.
"""

import importlib
from typing import TYPE_CHECKING

from pvback.errors import (
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefusal,
    ClusterUnavailable,
    ConflictError,
    DamagedError,
    FileError,
    InternalError,
    Interrupted,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    PartlyDone,
    PvbackError,
    RepositoryNotFound,
    SessionFencedError,
    StorageError,
    StorageUnavailable,
    UnsupportedFormatError,
    UsageError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from pvback.model import Consistency, Finding, FindingSeverity, Stats, StoreUsage
    from pvback.ops.backup import BackupOptions, BackupResult
    from pvback.ops.check import CheckResult
    from pvback.ops.copy import CopiedSnapshot, CopyResult
    from pvback.ops.copy_plan import CopyOptions
    from pvback.ops.facade import Repository, init_repository, open_repository
    from pvback.ops.find import Match
    from pvback.ops.restore import RestoreOptions, RestoreResult
    from pvback.ops.rows import Change, Node, Problem
    from pvback.ops.snapshots import SnapshotInfo
    from pvback.ops.sources import Source, command_source, path_source, stdin_source
    from pvback.ops.stats import RepositoryStats
    from pvback.repository.keys import KeyInfo
    from pvback.runtime import Cancel, Counters, Progress

__all__ = [
    "BackupOptions",
    "BackupResult",
    "Cancel",
    "Change",
    "CheckResult",
    "ClusterError",
    "ClusterObjectExists",
    "ClusterObjectMissing",
    "ClusterRefusal",
    "ClusterUnavailable",
    "ConflictError",
    "Consistency",
    "CopiedSnapshot",
    "CopyOptions",
    "CopyResult",
    "Counters",
    "DamagedError",
    "FileError",
    "Finding",
    "FindingSeverity",
    "InternalError",
    "Interrupted",
    "KeyInfo",
    "Match",
    "Node",
    "ObjectChanged",
    "ObjectExists",
    "ObjectNotFound",
    "PartlyDone",
    "Problem",
    "Progress",
    "PvbackError",
    "Repository",
    "RepositoryNotFound",
    "RepositoryStats",
    "RestoreOptions",
    "RestoreResult",
    "SessionFencedError",
    "SnapshotInfo",
    "Source",
    "Stats",
    "StorageError",
    "StorageUnavailable",
    "StoreUsage",
    "UnsupportedFormatError",
    "UsageError",
    "WrongKeyError",
    "command_source",
    "init_repository",
    "open_repository",
    "path_source",
    "stdin_source",
]

_HOMES = {
    "pvback.model": ("Consistency", "Finding", "FindingSeverity", "Stats", "StoreUsage"),
    "pvback.ops.backup": ("BackupOptions", "BackupResult"),
    "pvback.ops.copy": ("CopiedSnapshot", "CopyResult"),
    "pvback.ops.copy_plan": ("CopyOptions",),
    "pvback.ops.check": ("CheckResult",),
    "pvback.ops.facade": ("Repository", "init_repository", "open_repository"),
    "pvback.ops.find": ("Match",),
    "pvback.ops.restore": ("RestoreOptions", "RestoreResult"),
    "pvback.ops.rows": ("Change", "Node", "Problem"),
    "pvback.ops.snapshots": ("SnapshotInfo",),
    "pvback.ops.sources": ("Source", "command_source", "path_source", "stdin_source"),
    "pvback.ops.stats": ("RepositoryStats",),
    "pvback.repository.keys": ("KeyInfo",),
    "pvback.runtime": ("Cancel", "Counters", "Progress"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'pvback' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
