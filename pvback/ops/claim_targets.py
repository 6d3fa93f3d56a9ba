"""Where data is restored to: a claim that is made, one that is there, or one that takes its place.

Guarantees: a claim that was made for a restore that failed is removed again, and only it; what was stopped
runs again, but for workloads whose data is half restored; a claim changes its volume only for one that is
whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pvback.cluster import replacing
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, load_claim
from pvback.cluster.kinds import CLAIM, Body
from pvback.cluster.scaling import HELD, WRITING, bring_back, find_stopped, mark, stop_workloads, wait_unused
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ConflictError, PvbackError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork

__all__ = ["being_written", "exchange", "made_claim", "require_unused", "restored_claim", "workloads_held"]


def require_unused(facts: ClaimFacts, *, may_stop: bool) -> None:
    """Raise ConflictError for pods that have the claim and are not to be stopped."""
    if facts.consumers and not may_stop:
        pods = ", ".join(one.pod for one in facts.consumers)
        raise ConflictError(
            f"pods have the claim: {pods}",
            key=str(facts.claim),
            hint="stop them first; `--scale-down` stops Deployments and StatefulSets",
        )


@contextmanager
def restored_claim(work: ClaimWork, run: ClaimRun, *, body: Body) -> Iterator[None]:
    """As `made_claim`, for a claim that is somebody's as soon as it is whole.

    Until then it is of the run, and goes with it, whoever finds it: it would look like a restored one.
    """
    wanted = body["metadata"]
    ours = run.metadata("restored")
    marked = {
        **wanted,
        **ours,
        "labels": {**(wanted.get("labels") or {}), **ours["labels"]},
        "annotations": {**(wanted.get("annotations") or {}), **ours["annotations"]},
    }
    with made_claim(work, {**body, "metadata": marked}) as made:
        yield
        _hand_over(work, made, wanted, ours)


@contextmanager
def made_claim(work: ClaimWork, body: Body) -> Iterator[Body]:
    """Make a claim; it is removed again, and only it, when what follows fails. Raises ConflictError."""
    where = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
    try:
        made = work.cluster.create(CLAIM, body)
    except ClusterObjectExists:
        raise ConflictError(
            "the claim exists",
            key=where,
            hint="restore to another name with `--to`, or `--replace` its volume, or `--in-place`",
        ) from None
    try:
        yield made
    except BaseException:
        try:
            work.cluster.delete(CLAIM, made)
        except PvbackError as exc:
            work.progress.warn(f"left behind: claim {where}, which is not restored: {exc}")
        raise


def _hand_over(work: ClaimWork, made: Body, wanted: Body, ours: Body) -> None:
    """Take off what marks a claim as the run's."""
    change: dict[str, object] = {"uid": made["metadata"]["uid"], "ownerReferences": None}
    for part in ("labels", "annotations"):
        before = wanted.get(part) or {}
        change[part] = {name: before.get(name) for name in ours[part]}
    metadata = made["metadata"]
    work.cluster.patch(CLAIM, metadata["name"], change={"metadata": change}, namespace=metadata["namespace"])


@contextmanager
def workloads_held(work: ClaimWork, claim: Claim, *, may_stop: bool) -> Iterator[list[str]]:
    """No pod has the claim meanwhile; what was stopped for that, in words, is brought back.

    Raises ConflictError for pods that are not to be stopped, or not to be brought back.
    """
    stopped: list[str] = []
    try:
        facts = load_claim(work.cluster, claim)
        require_unused(facts, may_stop=may_stop)
        # Also where there is nothing to stop: what is down for another claim waits for this one, too.
        stopped += stop_workloads(work.cluster, claim)
        pods = {one.pod for one in facts.consumers}
        wait_unused(work.cluster, claim, pods=pods, clock=work.clock, cancel=work.cancel)
    except ClusterObjectMissing:
        # It is being exchanged, and is made again.
        pass
    except BaseException:
        _let_go(work, claim)
        raise
    try:
        yield stopped
    except BaseException:
        _let_go(work, claim)
        raise
    bring_back(work.cluster, claim)


@contextmanager
def being_written(work: ClaimWork, claim: Claim) -> Iterator[None]:
    """Workloads that are held do not come back with data that is half restored, whoever finds them."""
    mark(work.cluster, claim, state=WRITING)
    yield
    mark(work.cluster, claim, state=HELD)


def exchange(work: ClaimWork, claim: Claim, *, mounted: str, snapshot: str) -> None:
    """Give a claim the volume of another one of ours. The caller holds its workloads."""
    restored = work.cluster.get(CLAIM, mounted, namespace=claim.namespace)
    body = work.cluster.get(CLAIM, claim.name, namespace=claim.namespace)
    found = replacing.begin(work.cluster, body, volume=restored["spec"]["volumeName"], snapshot=snapshot)
    replacing.complete(work.cluster, found, clock=work.clock)


def _let_go(work: ClaimWork, claim: Claim) -> None:
    """Bring back what may be; say what stays down. What went wrong before is the better thing to raise."""
    try:
        bring_back(work.cluster, claim)
        left = find_stopped(work.cluster, namespace=claim.namespace, claim=claim.name)
    except ClusterError as exc:
        work.progress.warn(f"workloads of claim {claim} may still be down: {exc}; `pvback pvc cleanup`")
        return
    for one in left:
        work.progress.warn(
            f"{one} stays down, for claim {claim} is half restored: restore it again,"
            " or `pvback pvc cleanup --scale-up`"
        )
