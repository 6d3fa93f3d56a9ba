"""Where data is restored to: a claim that is made, one that is there, or one that takes its place.

Guarantees: a claim that was made for a restore that failed is removed again, and only it; what was stopped
runs again, but for workloads whose data is half restored; a claim changes its volume only for one that is
whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pvback import limits
from pvback.cluster import replacing
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, has_begun, load_claim, pods_of
from pvback.cluster.kinds import CLAIM, Body
from pvback.cluster.names import RUN
from pvback.cluster.replacing import Replacement
from pvback.cluster.scaling import (
    EXCHANGING,
    HELD,
    WRITING,
    StoppedWorkload,
    bring_back,
    find_stopped,
    mark,
    stop_workloads,
    wait_unused,
)
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ConflictError, PvbackError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork

__all__ = [
    "SoleUse",
    "being_written",
    "complete_exchange",
    "exchange",
    "half_done",
    "is_whole",
    "made_claim",
    "require_unused",
    "require_unwanted",
    "restored_claim",
    "workloads_held",
]


def require_unused(facts: ClaimFacts, *, may_stop: bool) -> None:
    """Raise ConflictError for pods that have the claim and are not to be stopped."""
    if facts.consumers and not may_stop:
        pods = ", ".join(one.pod for one in facts.consumers)
        raise ConflictError(
            f"pods have the claim: {pods}",
            key=str(facts.claim),
            hint="stop them first; `--scale-down` stops Deployments and StatefulSets",
        )


def require_unwanted(work: ClaimWork, claim: Claim) -> None:
    """Raise ConflictError for pods that wait for a claim which is to be made, and would take it empty."""
    pods = pods_of(work.cluster, claim)
    if pods and work.cluster.find(CLAIM, claim.name, namespace=claim.namespace) is None:
        raise ConflictError(
            f"pods wait for the claim, and would take it before it is whole: {', '.join(pods)}",
            key=str(claim),
            hint="stop them first, or restore to another name with `--to`",
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
    """No pod has the claim meanwhile. What is given is filled at the end with what runs again, in words.

    Raises ConflictError for pods that are not to be stopped, or that nobody would bring back.
    """
    back: list[str] = []
    try:
        _stop(work, claim, may_stop=may_stop)
        yield back
    except BaseException:
        # What went wrong is the better thing to raise.
        try:
            _let_go(work, claim)
        except ClusterError as exc:
            work.progress.warn(f"workloads of claim {claim} may still be down: {exc}; `pvback pvc cleanup`")
        raise
    back += _let_go(work, claim)


def _stop(work: ClaimWork, claim: Claim, *, may_stop: bool) -> None:
    try:
        facts = load_claim(work.cluster, claim)
    except ClusterObjectMissing:
        # It is being exchanged, and is made again.
        return
    require_unused(facts, may_stop=may_stop)
    # Also where there is nothing to stop: what is down for another claim waits for this one, too.
    stop_workloads(work.cluster, claim)
    pods = {one.pod for one in facts.consumers}
    wait_unused(work.cluster, claim, pods=pods, clock=work.clock, cancel=work.cancel)


def _let_go(work: ClaimWork, claim: Claim) -> list[str]:
    """Bring back what may be, and say what stays down."""
    back = bring_back(work.cluster, claim)
    for one in find_stopped(work.cluster, namespace=claim.namespace, claim=claim.name):
        work.progress.warn(half_done(one, claim))
    return back


def half_done(workload: StoppedWorkload, claim: Claim) -> str:
    """Why a workload is not started, and what to do."""
    how = "was started by somebody" if workload.is_up else "stays down"
    return (
        f"{workload} {how}: claim {claim} is half restored, or its volume half exchanged: `pvback pvc"
        " cleanup` completes an exchange; else restore it again, or start it all the same with `--scale-up`"
    )


@contextmanager
def being_written(work: ClaimWork, run: ClaimRun, *, claim: Claim) -> Iterator["SoleUse"]:
    """A claim is written by the run's mover. Its workloads do not come back, whoever finds them, until it
    `is_whole`, but where what follows fails before the mover had begun: then all is as it was.

    Raises ConflictError, at the latest at the end, for another pod that has taken the claim.
    """
    stopped = find_stopped(work.cluster, namespace=claim.namespace, claim=claim.name)
    was_half_restored = any(one.claims[claim.name] != HELD for one in stopped)
    mark(work.cluster, claim, state=WRITING)
    alone = SoleUse(work, run, claim=claim)
    try:
        yield alone
    except PvbackError:
        if not was_half_restored:
            _unmark_unwritten(work, run, claim)
        raise
    # Whoever comes later comes to what is written.
    alone.require()


def _unmark_unwritten(work: ClaimWork, run: ClaimRun, claim: Claim) -> None:
    """End the mover. What went wrong is the better thing to raise."""
    try:
        if not any(has_begun(one) for one in run.end_pods()):
            is_whole(work, claim)
    except PvbackError as exc:
        work.progress.warn(f"whether claim {claim} was written to is not known: {exc}")


class SoleUse:
    """Whether pods other than a run's have its claim, looked at now and then."""

    def __init__(self, work: ClaimWork, run: ClaimRun, *, claim: Claim) -> None:
        self._work, self._run, self._claim = work, run, claim
        self._due = work.clock.monotonic()

    def look(self) -> None:
        """`require` it when it is time to. For who asks again and again."""
        now = self._work.clock.monotonic()
        if now >= self._due:
            self._due = now + limits.SOLE_USE_SECONDS
            self.require()

    def require(self) -> None:
        """Raise ConflictError where another pod has been given a node. Raises ClusterError."""
        facts = load_claim(self._work.cluster, self._claim)
        others = [one for one in facts.consumers if one.labels.get(RUN) != self._run.id]
        taken = [one.pod for one in others if one.node is not None]
        # A claim for one pod alone is kept from others by the cluster; they wait, and come when we go.
        if taken and not facts.is_for_one_pod:
            raise ConflictError(
                f"pods have taken the claim while it was written: {', '.join(taken)}",
                key=str(self._claim),
                hint="its data is half restored: stop them, and what brings them back, and restore it again",
            )


def is_whole(work: ClaimWork, claim: Claim) -> None:
    """Its workloads may come back."""
    mark(work.cluster, claim, state=HELD)


def exchange(work: ClaimWork, claim: Claim, *, mounted: str, snapshot: str) -> None:
    """Give a claim the volume of another one of ours. The caller holds its workloads."""
    restored = work.cluster.get(CLAIM, mounted, namespace=claim.namespace)
    body = work.cluster.get(CLAIM, claim.name, namespace=claim.namespace)
    mark(work.cluster, claim, state=EXCHANGING)
    found = replacing.begin(work.cluster, body, volume=restored["spec"]["volumeName"], snapshot=snapshot)
    complete_exchange(work, found)


def complete_exchange(work: ClaimWork, found: Replacement) -> Replacement:
    """Make the claim again, and what uses it stays down until that is done.

    A StatefulSet that came back before would make an empty claim of that name.
    """
    mark(work.cluster, found.claim, state=EXCHANGING)
    done = replacing.complete(work.cluster, found, clock=work.clock)
    is_whole(work, found.claim)
    return done
