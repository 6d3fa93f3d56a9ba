"""Workloads that are stopped so that a claim can be changed, and brought back.

What a workload was is written on it by the very change that stops it, so that whoever comes later can bring
it back, whatever became of who stopped it. Guarantees: a workload that was stopped for several claims comes
back with the last of them; one whose data is half restored stays down until a restore of it has ended, or
somebody says that it shall not.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pvback import limits
from pvback.cluster.claims import load_claim
from pvback.cluster.kinds import DEPLOYMENT, POD, REPLICA_SET, STATEFUL_SET, Body, Kind
from pvback.cluster.names import STOPPED
from pvback.errors import ClusterError, ClusterObjectExists, ClusterRefusal, ConflictError
from pvback.model import Claim
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "EXCHANGING",
    "HELD",
    "WRITING",
    "StoppedWorkload",
    "bring_back",
    "find_stopped",
    "mark",
    "stop_workloads",
    "wait_unused",
]

HELD: Final = "held"
"""The claim is as it was, or as it shall be."""
EXCHANGING: Final = "exchanging"
"""The claim gets another volume, and may not be there."""
WRITING: Final = "writing"
"""The claim is half restored."""
_KINDS = (DEPLOYMENT, STATEFUL_SET)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedWorkload:
    """A workload that we have stopped.

    Attributes:
        replicas: How many it had; where somebody has started it meanwhile, how many they have asked for.
        claims: Names of the claims that it was stopped for, and the state of each: `held`, `exchanging` or
            `writing`.
    """

    kind: Kind
    body: Body
    replicas: int
    claims: Mapping[str, str]

    @property
    def is_up(self) -> bool:
        """Whether somebody has started it meanwhile."""
        return _wanted(self.body) != 0

    def __str__(self) -> str:
        metadata = self.body["metadata"]
        return f"{self.kind.name} {metadata['namespace']}/{metadata['name']}"


def find_stopped(cluster: "Cluster", *, namespace: str, claim: str | None = None) -> list[StoppedWorkload]:
    """The workloads of a namespace that were stopped, for one claim or for any."""
    found = [one for one in _list(cluster, namespace) if one.claims]
    return [one for one in found if claim is None or claim in one.claims]


def stop_workloads(cluster: "Cluster", claim: Claim) -> list[str]:
    """Stop what uses the claim; what has been stopped now, in words. Pods need a while to end.

    Raises ConflictError, before anything is stopped, for a pod that nobody would bring back.
    """
    facts = load_claim(cluster, claim)
    pods = {one.pod for one in facts.consumers}
    wanted = [_workload_of(cluster, one) for one in _pods(cluster, claim.namespace) if _name(one) in pods]
    stopped = []
    for kind, name in dict.fromkeys(wanted):
        made = _change(cluster, kind, name, claim, lambda found: _hold(found, claim.name))
        stopped += [str(made)] if made else []
    # One that was stopped before, for another claim of its own, must not come back without this one.
    for found in find_stopped(cluster, namespace=claim.namespace):
        if claim.name not in found.claims and _uses(found, claim.name):
            _change(cluster, found.kind, _name(found.body), claim, lambda found: _hold(found, claim.name))
    return stopped


def mark(cluster: "Cluster", claim: Claim, *, state: str) -> None:
    """Write down, at each workload that was stopped for a claim, what state that is in.

    A claim that is half restored stays so until it is whole, also when its exchange begins. What somebody has
    started meanwhile is stopped again.
    """
    for found in find_stopped(cluster, namespace=claim.namespace, claim=claim.name):
        _change(
            cluster,
            found.kind,
            _name(found.body),
            claim,
            lambda one: _marked(one, claim.name, state=state),
        )


def _marked(found: StoppedWorkload, claim: str, *, state: str) -> StoppedWorkload:
    before = found.claims.get(claim)
    if before is None or (before, state) == (WRITING, EXCHANGING):
        return found
    return replace(found, claims={**found.claims, claim: state})


def bring_back(cluster: "Cluster", claim: Claim, *, states: Collection[str] = (HELD,)) -> list[str]:
    """Let go of what was stopped for a claim that is in one of these states; what runs again, in words.

    What is stopped for other claims, too, waits for these. Raises ClusterError.
    """
    back = []
    for found in find_stopped(cluster, namespace=claim.namespace, claim=claim.name):
        if found.claims[claim.name] not in states:
            continue
        made = _change(
            cluster,
            found.kind,
            _name(found.body),
            claim,
            lambda one: replace(one, claims={k: v for k, v in one.claims.items() if k != claim.name}),
        )
        back += [str(made)] if made and not made.claims else []
    return back


def wait_unused(
    cluster: "Cluster", claim: Claim, *, pods: Collection[str], clock: Clock, cancel: Cancel
) -> None:
    """Return when no pod has the claim, and these are gone altogether.

    Raises ClusterError when that takes too long, Interrupted.
    """
    deadline = clock.monotonic() + limits.STOP_WORKLOAD_SECONDS
    while True:
        facts = load_claim(cluster, claim)
        left = [*(one.pod for one in facts.consumers), *(one for one in facts.ended if one in pods)]
        if not left:
            return
        if clock.monotonic() >= deadline:
            raise ClusterError(
                f"pods still have the claim after {limits.STOP_WORKLOAD_SECONDS:.0f} s: {', '.join(left)}",
                key=str(claim),
                hint="something brings them back, or they do not end: see their events",
            )
        clock.sleep(limits.CLUSTER_POLL_SECONDS, cancel)


def _list(cluster: "Cluster", namespace: str) -> list[StoppedWorkload]:
    found = []
    for kind in _KINDS:
        try:
            bodies = cluster.list(kind, namespace=namespace)
        except ClusterRefusal:
            # Who may not see them has stopped none.
            continue
        found += [_parse(kind, one) for one in bodies]
    return found


def _parse(kind: Kind, body: Body) -> StoppedWorkload:
    """A workload, and what is written on it; nothing, or what makes no sense, is: not stopped."""
    text = (body["metadata"].get("annotations") or {}).get(STOPPED, "")
    try:
        said = json.loads(text) if text else {}
        replicas = int(said.get("replicas", 0))
        claims = {str(name): str(state) for name, state in said.get("claims", {}).items()}
    except (ValueError, TypeError, AttributeError):
        replicas, claims = 0, {}
    # Somebody who has started it meanwhile has said how many they want.
    return StoppedWorkload(kind=kind, body=body, replicas=_wanted(body) or replicas, claims=claims)


def _hold(found: StoppedWorkload, claim: str) -> StoppedWorkload:
    replicas = found.replicas if found.claims else _wanted(found.body)
    # What is half restored stays so, whoever stops it again.
    return replace(found, replicas=replicas, claims={claim: HELD, **found.claims})


def _wanted(body: Body) -> int:
    """How many replicas a workload is to have, as it stands."""
    return int(body["spec"].get("replicas", 1))


def _change(
    cluster: "Cluster",
    kind: Kind,
    name: str,
    claim: Claim,
    edit: Callable[[StoppedWorkload], StoppedWorkload],
) -> StoppedWorkload | None:
    """Change what is written on a workload, and with it how many replicas it has. None: nothing to change."""
    for _ in range(limits.SWAP_COUNT_MAX):
        before = _parse(kind, cluster.get(kind, name, namespace=claim.namespace))
        after = edit(before)
        if after.claims == before.claims and not (after.claims and before.is_up):
            return None
        said = json.dumps({"replicas": after.replicas, "claims": dict(after.claims)}, sort_keys=True)
        spec: dict[str, Any] = {}
        if after.claims:
            spec = {"replicas": 0}
        elif not before.is_up:
            spec = {"replicas": before.replicas}
        change = {
            "metadata": {
                "resourceVersion": before.body["metadata"]["resourceVersion"],
                "annotations": {STOPPED: said if after.claims else None},
            },
            **({"spec": spec} if spec else {}),
        }
        try:
            cluster.patch(kind, name, change=change, namespace=claim.namespace)
        except ClusterObjectExists:
            # Changed meanwhile; a status counts, too.
            continue
        return after
    raise ConflictError(f"{kind.name} {claim.namespace}/{name} changes again and again", key=str(claim))


def _workload_of(cluster: "Cluster", pod: Body) -> tuple[Kind, str]:
    """What would make the pod again. Raises ConflictError where that is nothing that we know to stop."""
    namespace = pod["metadata"]["namespace"]
    owner = _controller(pod)
    if owner is not None and owner["kind"] == REPLICA_SET.name:
        owner = _controller(cluster.get(REPLICA_SET, owner["name"], namespace=namespace))
    for kind in _KINDS:
        if owner is not None and (owner["apiVersion"], owner["kind"]) == (kind.api_version, kind.name):
            return kind, owner["name"]
    what = "nothing" if owner is None else f"{owner['kind']} {owner['name']}"
    raise ConflictError(
        f"pod {namespace}/{_name(pod)} belongs to {what}, which pvback does not stop",
        hint="stop it, then restore; Deployments and StatefulSets are stopped by `--scale-down`",
    )


def _controller(body: Body) -> Mapping[str, Any] | None:
    owners = body["metadata"].get("ownerReferences") or ()
    return next((one for one in owners if one.get("controller")), None)


def _uses(found: StoppedWorkload, claim: str) -> bool:
    """Whether a workload's pods would mount the claim."""
    spec = found.body["spec"]
    volumes = spec["template"]["spec"].get("volumes") or ()
    if any((one.get("persistentVolumeClaim") or {}).get("claimName") == claim for one in volumes):
        return True
    templates = [_name(one) for one in spec.get("volumeClaimTemplates") or ()]
    starts = [f"{one}-{_name(found.body)}-" for one in templates]
    return any(claim.startswith(one) and claim[len(one) :].isdecimal() for one in starts)


def _pods(cluster: "Cluster", namespace: str) -> list[Body]:
    return cluster.list(POD, namespace=namespace)


def _name(body: Body) -> str:
    name: str = body["metadata"]["name"]
    return name
