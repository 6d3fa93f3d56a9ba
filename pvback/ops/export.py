"""Exporting a namespace: its objects as a snapshot of documents, one a file.

Guarantees: what is not in it is said, in the result and in the snapshot; two exports of the same objects have
the same tree; content of secrets is stored when that is asked for, and else not even read; nothing of it is
left on this machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvback.cluster.exporting import Collected, CollectOptions, LeftOut, collect
from pvback.model import Consistency, Stats
from pvback.ops.backup import BackupOptions, backup
from pvback.ops.claim_scopes import SECRET_NAME, ScopeChoice, connected_secret
from pvback.ops.export_files import export_files
from pvback.ops.private_folder import private_files
from pvback.ops.sources import export_source
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, NoProgress, Progress

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ExportOptions", "ExportResult", "export_namespace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How a namespace is exported.

    Attributes:
        collect: What of it.
        cluster_name: In the source string; None: as the namespace was connected, or `default`.
        secret: The namespace's secret that says so, and which scope is its.
        is_scope_chosen: Into the scope of `access`; else into that of the namespace.
        tags: Stored with the snapshot.
    """

    collect: CollectOptions = field(default_factory=CollectOptions)
    cluster_name: str | None = None
    secret: str = SECRET_NAME
    is_scope_chosen: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was exported."""

    namespace: str
    snapshot: str | None
    source: str
    object_count: int
    left_out: tuple[LeftOut, ...]
    stats: Stats

    @property
    def is_whole(self) -> bool:
        """Whether everything was had that should have been."""
        return not any(one.is_failure for one in self.left_out)


def export_namespace(
    cluster: "Cluster",
    access: RepositoryAccess,
    *,
    namespace: str,
    options: ExportOptions,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> ExportResult:
    """Store a namespace's objects as one snapshot.

    Raises UsageError where no scope is the namespace's, ClusterError, and as `backup`.
    """
    used_cancel = cancel or Cancel()
    connected = connected_secret(cluster, namespace, secret=options.secret)
    choice = ScopeChoice(cluster, access, secret=options.secret, is_chosen=options.is_scope_chosen)
    used = choice.require(namespace)
    name = options.cluster_name or (connected.cluster if connected is not None else "default")
    found = collect(cluster, namespace, options=options.collect, cancel=used_cancel)
    files = export_files(found.objects, found.left_out)
    with private_files(files, clock=access.clock) as folder:
        result = backup(
            used,
            export_source(folder, namespace, cluster=name, labels=options.collect.labels),
            options=BackupOptions(
                tags=options.tags,
                # Their times and inode numbers say nothing.
                clones="never",
                # Kinds are listed one after the other.
                grade=Consistency.FUZZY,
                manifests={"export": _facts(found, name)},
            ),
            progress=progress or NoProgress(),
            cancel=used_cancel,
        )
    return ExportResult(
        namespace=namespace,
        snapshot=result.snapshot,
        source=result.source,
        object_count=len(found.objects),
        left_out=tuple(found.left_out),
        stats=result.stats,
    )


def _facts(found: Collected, cluster: str) -> dict[str, object]:
    return {
        "cluster": cluster,
        "namespace": found.namespace,
        "unbound_claims": found.unbound_claims,
        "left_out": len(found.left_out),
    }
