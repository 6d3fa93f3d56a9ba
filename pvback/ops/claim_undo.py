"""What comes after a restore: the volume before put back, or let go; what a killed one left, completed."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.cluster import replacing
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.kinds import CLAIM
from pvback.cluster.replacing import Replacement, find_replacement, list_replacements
from pvback.cluster.scaling import EXCHANGING, HELD, WRITING, bring_back, find_stopped
from pvback.errors import ClusterError, ClusterObjectMissing, ConflictError, PvbackError, UsageError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_targets import complete_exchange, half_done, workloads_held

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["Unfinished", "commit_claim", "complete_unfinished", "find_unfinished", "undo_claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A claim that a restore has left half done.

    Attributes:
        is_exchanged: Whether its volume is to be exchanged.
        workloads: What is down for it.
    """

    claim: Claim
    is_exchanged: bool = False
    workloads: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = ["its volume is half exchanged"] if self.is_exchanged else []
        what += [f"{one} is down" for one in self.workloads]
        return f"claim {self.claim}: {', '.join(what)}"


def undo_claim(work: ClaimWork, claim: Claim, *, may_stop: bool) -> Replacement:
    """Give a claim its previous volume; the one that it had is kept in its place.

    Raises UsageError where none is kept, ConflictError, ClusterError, Interrupted.
    """
    _require(work.cluster, claim)
    run = _begin(work, claim, "undo of a restore")
    try:
        with workloads_held(work, claim, may_stop=may_stop):
            found = _require(work.cluster, claim)
            try:
                there = work.cluster.get(CLAIM, claim.name, namespace=claim.namespace)
            except ClusterObjectMissing:
                manifest = found.manifest
            else:
                manifest = replacing.again(there)
                replacing.require_free(work.cluster, claim)
            return complete_exchange(work, found.turned(manifest))
    finally:
        _end(work, run)


def commit_claim(work: ClaimWork, claim: Claim) -> tuple[Replacement, bool]:
    """Let the previous volume of a claim go; what it was, and whether it is removed with that.

    Raises UsageError where none is kept, ConflictError, ClusterError.
    """
    _require(work.cluster, claim)
    run = _begin(work, claim, "commit of a restore")
    try:
        found = _require(work.cluster, claim)
        return found, replacing.commit(work.cluster, found)
    finally:
        _end(work, run)


def find_unfinished(cluster: "Cluster", *, namespace: str) -> list[Unfinished]:
    """Claims whose volume is half exchanged, or for which a workload is down; also of runs that live."""
    found: dict[Claim, Unfinished] = {}
    for one in list_replacements(cluster, namespace=namespace):
        if not one.is_complete:
            found[one.claim] = Unfinished(claim=one.claim, is_exchanged=True)
    for workload in find_stopped(cluster, namespace=namespace):
        for name in workload.claims:
            claim = Claim(namespace, name)
            before = found.get(claim, Unfinished(claim=claim))
            found[claim] = replace(before, workloads=(*before.workloads, str(workload)))
    return [found[one] for one in sorted(found)]


def complete_unfinished(work: ClaimWork, unfinished: Unfinished, *, scale_up: bool) -> list[str]:
    """Complete what a dead run has begun; what could not be, in words.

    A workload whose data is half restored stays down unless `scale_up` says that it shall run.
    """
    claim = unfinished.claim
    try:
        run = _begin(work, claim, "cleanup")
    except ConflictError:
        # It is under way, and brings back what it has stopped.
        return []
    except ClusterError as exc:
        return [f"claim {claim}: {exc.what}"]
    try:
        found = find_replacement(work.cluster, claim)
        if found is not None and replacing.is_void(work.cluster, found):
            replacing.forget(work.cluster, found)
        elif found is not None and not found.is_complete:
            complete_exchange(work, found)
        # No exchange is under way any more.
        states = (HELD, EXCHANGING, *([WRITING] if scale_up else []))
        bring_back(work.cluster, claim, states=states)
        left = find_stopped(work.cluster, namespace=claim.namespace, claim=claim.name)
    except PvbackError as exc:
        return [f"claim {claim}: {exc.what}"]
    finally:
        _end(work, run)
    return [half_done(one, claim) for one in left]


def _require(cluster: "Cluster", claim: Claim) -> Replacement:
    found = find_replacement(cluster, claim)
    if found is None:
        raise UsageError(
            "no previous volume is kept for this claim",
            key=str(claim),
            hint="one is kept by `pvback pvc restore --replace`, until `commit`",
        )
    return found


def _begin(work: ClaimWork, claim: Claim, what: str) -> ClaimRun:
    return ClaimRun.begin(work.cluster, claim, run=datapath.random_id()[:16], what=what, clock=work.clock)


def _end(work: ClaimWork, run: ClaimRun) -> None:
    for one in run.end():
        work.progress.warn(f"left behind: {one}")
