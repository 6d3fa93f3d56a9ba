"""Which claims there are, and the last good backup of each: coverage."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pvback.cluster.claims import ClaimFacts, list_claims
from pvback.cluster.exposure import is_never_bound
from pvback.errors import UsageError
from pvback.model import Claim
from pvback.ops.claim_jobs import GROUP_TAG
from pvback.ops.claim_restore import moment_of
from pvback.ops.claim_scopes import ScopeChoice, scopes_with
from pvback.ops.sources import check_cluster_name, claim_string
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["CoveredClaim", "find_snapshots", "list_coverage", "snapshots_of_claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredClaim:
    """A claim and its last good backup.

    Attributes:
        claim: `NAMESPACE/NAME`.
        phase: `Bound`, `Pending`, `Lost`, or `NeverBound` for one that waits for its first pod.
        pods: Who uses it.
        last_backup: The moment that its newest complete snapshot is of; None: there is none.
        snapshot: That snapshot.
        error_count: Files that are missing in it.
        group: What it shares with snapshots of other claims that were cut at the same instant, if any were.
    """

    claim: str
    phase: str
    is_block: bool
    storage_class: str | None
    capacity_bytes: int
    pods: tuple[str, ...]
    last_backup: datetime | None
    snapshot: str | None
    grade: str | None
    error_count: int = 0
    group: str | None = None


def list_coverage(
    cluster: "Cluster", choice: ScopeChoice, *, namespace: str | None, cluster_name: str
) -> list[CoveredClaim]:
    """Every claim of a namespace, or of all. Raises UsageError, ClusterError, StorageError, DamagedError."""
    check_cluster_name(cluster_name)
    found = [one for one in list_claims(cluster, namespace=namespace) if not one.is_made_by_a_run]
    newest: dict[Claim, CommittedSnapshot] = {}
    for name in {facts.claim.namespace for facts in found}:
        scoped = choice.find(name)
        of_source = _newest(scoped.catalog().snapshots) if scoped is not None else {}
        for claim in (facts.claim for facts in found if facts.claim.namespace == name):
            if last := of_source.get(claim_string(claim, cluster=cluster_name)):
                newest[claim] = last
    return [_covered(facts, newest.get(facts.claim)) for facts in found]


def _newest(snapshots: Iterable[CommittedSnapshot]) -> dict[str, CommittedSnapshot]:
    """The newest complete snapshot of each source."""
    newest: dict[str, CommittedSnapshot] = {}
    for one in snapshots:
        details = one.details
        if details is None or not details.is_complete:
            continue
        known = newest.get(details.source.string)
        if known is None or moment_of(one) >= moment_of(known):
            newest[details.source.string] = one
    return newest


def snapshots_of_claim(
    choice: ScopeChoice, claim: Claim, *, cluster_name: str
) -> tuple[RepositoryAccess, list[CommittedSnapshot]]:
    """A claim's snapshots in the scope of its namespace, and access to that. All have details.

    Raises UsageError where there are none, with the other scopes that have some.
    """
    wanted = claim_string(claim, cluster=cluster_name)

    def is_wanted(one: CommittedSnapshot) -> bool:
        return one.require_details().source.string == wanted

    scoped = choice.require(claim.namespace)
    known = find_snapshots(scoped, is_wanted)
    if not known and (others := scopes_with(scoped, is_wanted)):
        raise UsageError(
            f"the scope of namespace {claim.namespace} has no snapshot of {claim}, but others have: "
            f"{', '.join(others)}",
            hint="whoever writes into a scope can say so; `--scope` takes them from there",
        )
    return scoped, known


def find_snapshots(
    access: RepositoryAccess, is_wanted: Callable[[CommittedSnapshot], bool]
) -> list[CommittedSnapshot]:
    """Snapshots of a scope that are wanted. All have details."""
    return [one for one in access.catalog().snapshots if one.details and is_wanted(one)]


def _covered(facts: ClaimFacts, newest: CommittedSnapshot | None) -> CoveredClaim:
    details = newest.details if newest is not None else None
    return CoveredClaim(
        claim=str(facts.claim),
        phase="NeverBound" if is_never_bound(facts) else facts.phase,
        is_block=facts.is_block,
        storage_class=facts.storage_class,
        capacity_bytes=facts.capacity_bytes or facts.request_bytes,
        pods=tuple(one.pod for one in facts.consumers),
        last_backup=moment_of(newest) if newest is not None else None,
        snapshot=newest.id if newest is not None else None,
        grade=str(details.grade) if details is not None else None,
        error_count=details.error_count if details is not None else 0,
        group=details.tags.get(GROUP_TAG) if details is not None else None,
    )
