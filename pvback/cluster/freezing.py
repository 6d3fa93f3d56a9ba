"""Freezing the file system of a claim: a pod with one capability beside the pod that uses it. Pure, but for
starting it.

What is done in it is a quiesce like any other: a process that says when it holds. What is special is that a
frozen file system outlives that process; so the pod's own process guards it, and the kubelet starts that one
again when it is killed. The pod mounts the claim read-only, so that the node changes nothing on it meanwhile.

It has one capability. Where the volume's root folder is closed to it, a pod takes its place that has a second
one: to read what is not its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pvback import limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.exec import ExecTarget, run_command
from pvback.cluster.hooks import Hook, HookTarget, PlannedHook, Quiesce
from pvback.cluster.kinds import POD, Body
from pvback.cluster.mover import LEFT_ALONE, VOLUME_FOLDER, MoverSettings, placed, taken_over
from pvback.cluster.names import CLAIM, labels_of, object_name
from pvback.cluster.quantity import as_quantity
from pvback.cluster.watching import why_not_running
from pvback.errors import ClusterError
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["FREEZE", "FreezeWork", "Freezer", "freeze_hook", "node_of_freeze", "start_freezer"]

FREEZE = "fsfreeze"
"""The name of the hook that freezes."""
CONTAINER = "freeze"
_STATE_FOLDER = "/tmp"  # noqa: S108 -- of the container, and a volume of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Freezer:
    """A pod from which a claim's file system is frozen.

    Attributes:
        node: Where the claim is mounted.
        run: Of which run.
        may_read_all: Whether it opens folders that are closed to it.
    """

    facts: ClaimFacts
    node: str
    run: str
    settings: MoverSettings
    may_read_all: bool = False

    def pod_body(self, owner: Body | None = None) -> Body:
        """The pod; without an owner it is to be judged only."""
        claim = self.facts.claim
        role = "freeze-closed" if self.may_read_all else "freeze"
        role = role if owner is not None else f"{role}-try"
        metadata: dict[str, Any] = {
            "labels": labels_of(self.run, "freeze"),
            "annotations": {CLAIM: str(claim), **LEFT_ALONE},
            **({"ownerReferences": [dict(owner)]} if owner is not None else {}),
        }
        name = object_name(role, claim.name, run=self.run)
        return POD.body(name, claim.namespace, metadata=metadata, spec=self._spec())

    def _spec(self) -> dict[str, Any]:
        settings = self.settings
        consumer = next((one for one in self.facts.consumers if one.node == self.node), None)
        security: dict[str, Any] = {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
            **taken_over(consumer),
        }
        # Not `fsGroup`, by which the node would change what is on the volume; to be of the group is enough.
        groups = [*security.pop("supplementalGroups", ()), *_listed(security.pop("fsGroup", None))]
        security.pop("fsGroupChangePolicy", None)
        optional: dict[str, Any] = {
            "serviceAccountName": settings.service_account,
            "priorityClassName": settings.priority_class,
            "imagePullSecrets": [{"name": one} for one in settings.pull_secrets],
        }
        claim = {"claimName": self.facts.claim.name, "readOnly": True}
        return {
            "restartPolicy": "OnFailure",
            # When nobody is there any more to remove it: a volume that is mounted here cannot go elsewhere.
            "activeDeadlineSeconds": limits.FREEZE_POD_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": limits.FREEZE_GRACE_SECONDS,
            "securityContext": {**security, **({"supplementalGroups": groups} if groups else {})},
            "containers": [self._container()],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": claim},
                {"name": "state", "emptyDir": {"sizeLimit": "16Mi"}},
            ],
            **placed(self.node, consumer),
            **{name: value for name, value in optional.items() if value},
        }

    def _container(self) -> dict[str, Any]:
        memory = as_quantity(limits.FREEZE_MEMORY_BYTES)
        return {
            "name": CONTAINER,
            "image": self.settings.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["mover", "guard", VOLUME_FOLDER, "--state", _STATE_FOLDER],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {
                    "drop": ["ALL"],
                    "add": ["SYS_ADMIN", *(["DAC_READ_SEARCH"] if self.may_read_all else [])],
                },
            },
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": memory}},
            "volumeMounts": [
                {"name": "data", "mountPath": VOLUME_FOLDER, "readOnly": True},
                {"name": "state", "mountPath": _STATE_FOLDER},
            ],
        }


def _listed(group: int | None) -> list[int]:
    return [] if group is None else [group]


def node_of_freeze(facts: ClaimFacts) -> str | None:
    """The node where the claim's file system is in use; None where no pod has it: then it is at rest.

    Raises ClusterError for a claim that cannot be frozen.
    """
    where = str(facts.claim)
    if facts.is_block:
        raise ClusterError("a raw device has no file system to be frozen", key=where)
    source = (facts.volume_body or {}).get("spec", {})
    if "hostPath" in source or "local" in source:
        raise ClusterError("a folder of a node is not frozen: others may use its file system", key=where)
    nodes = sorted({one.node for one in facts.consumers if one.node is not None})
    if len(nodes) > 1:
        raise ClusterError(f"it is used on several nodes: {', '.join(nodes)}", key=where)
    if nodes and facts.is_for_one_pod:
        raise ClusterError(
            "the claim is for one pod alone (ReadWriteOncePod): no other can freeze it",
            key=where,
            hint="let a hook in that pod hold the application still",
        )
    return nodes[0] if nodes else None


def freeze_hook(targets: Sequence[HookTarget], *, lease_seconds: float) -> PlannedHook:
    """What freezes, in these pods: the last of all hooks, and the first that lets go."""
    lease = f"{lease_seconds:g}"
    argv = ("pvback", "mover", "freeze", VOLUME_FOLDER, "--state", _STATE_FOLDER, "--lease", lease)
    quiesce = Quiesce(
        argv=argv,
        seconds=lease_seconds,
        on_failure="abort",
        tries=1,
        ready="frozen",
        lease_seconds=lease_seconds,
    )
    hook = Hook(name=FREEZE, container=CONTAINER, on_multiple="all", quiesce=quiesce, is_built_in=True)
    return PlannedHook(hook=hook, targets=tuple(targets))


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeWork:
    """What starting needs. `seconds`: how long a pod may take until it runs."""

    cluster: "Cluster"
    run: ClaimRun
    clock: Clock
    cancel: Cancel
    seconds: float


def start_freezer(work: FreezeWork, freezer: Freezer) -> HookTarget:
    """Make the pod, and wait until it runs. Raises ClusterError with why it does not, Interrupted."""
    made = work.cluster.create(POD, freezer.pod_body(work.run.owner))["metadata"]
    deadline = work.clock.monotonic() + work.seconds
    wrong_since: float | None = None
    while True:
        work.run.check()
        found = work.cluster.list(POD, namespace=made["namespace"], fields=f"metadata.name={made['name']}")
        if not found or "deletionTimestamp" in found[0]["metadata"]:
            raise ClusterError("the pod that freezes was removed", key=str(freezer.facts.claim))
        states = found[0].get("status", {}).get("containerStatuses") or ()
        if any(one["name"] == CONTAINER and "running" in one.get("state", {}) for one in states):
            if not freezer.may_read_all and _is_closed(work, made["namespace"], made["name"]):
                work.cluster.delete(POD, found[0])
                return start_freezer(work, replace(freezer, may_read_all=True))
            return HookTarget(pod=made["name"], uid=made["uid"], container=CONTAINER)
        reason, is_sure = why_not_running(work.cluster, found[0])
        now = work.clock.monotonic()
        wrong_since = (wrong_since or now) if is_sure else None
        is_wrong = wrong_since is not None and now - wrong_since >= limits.MOVER_REFUSED_SECONDS
        if is_wrong or now >= deadline:
            raise ClusterError(f"the pod that freezes does not start: {reason}", key=str(freezer.facts.claim))
        work.clock.sleep(limits.CLUSTER_POLL_SECONDS, work.cancel)


def _is_closed(work: FreezeWork, namespace: str, pod: str) -> bool:
    """Whether the pod surely may not open the volume's root folder. Raises Interrupted."""
    try:
        end = run_command(
            work.cluster,
            ExecTarget(namespace=namespace, pod=pod, container=CONTAINER),
            argv=("pvback", "mover", "look", VOLUME_FOLDER),
            seconds=limits.HOOK_SECONDS,
            clock=work.clock,
            cancel=work.cancel,
        )
    except ClusterError:
        # Then it cannot freeze either, and says why.
        return False
    return end.is_success and end.stdout.strip() == b"closed"
