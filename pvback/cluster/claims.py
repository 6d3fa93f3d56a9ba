"""Claims as they are: bound to what, used by whom, on which node. Reads objects, changes none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pvback import limits
from pvback.cluster.kinds import CLAIM, POD, STORAGE_CLASS, VOLUME, Body
from pvback.cluster.names import RUN
from pvback.cluster.quantity import parse_quantity
from pvback.errors import ClusterError
from pvback.model import Claim

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "ClaimFacts",
    "Consumer",
    "as_recorded",
    "facts_of",
    "from_record",
    "has_begun",
    "list_claims",
    "load_claim",
    "pods_of",
    "require_data",
]

_SINCE = ("selinux", "tolerations", "node_affinity")
"""What snapshots have not had from the first, where a pod has it."""
_OVER = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A pod that uses a claim and is not over."""

    pod: str
    node: str | None
    """Where it is; None while it is nowhere."""
    is_read_only: bool
    is_running: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    """The user id of the container that mounts the claim."""
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    selinux: Mapping[str, str] | None = None
    tolerations: tuple[Mapping[str, Any], ...] = ()
    node_affinity: Mapping[str, Any] | None = None
    """What it asks of its node, be it by a selector, as the required terms of an affinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFacts:
    """A claim and what hangs together with it."""

    claim: Claim
    uid: str
    phase: str
    """`Bound`, `Pending` or `Lost`."""
    is_deleting: bool
    is_block: bool
    access_modes: tuple[str, ...]
    storage_class: str | None
    request_bytes: int
    capacity_bytes: int
    volume: str | None
    """The name of the volume that it is bound to."""
    driver: str | None
    """Of CSI volumes, where the volume may be read; else of its class."""
    is_waiting_for_consumer: bool
    """Whether its class binds with the first pod."""
    is_bound_at_once: bool
    """Whether its class surely binds without one. Neither: the class is not known."""
    consumers: tuple[Consumer, ...]
    ended: tuple[str, ...]
    """Pods that are over and still hold it: a claim does not go before their objects do."""
    body: Body
    volume_body: Body | None

    @property
    def is_made_by_a_run(self) -> bool:
        """Whether we made it ourselves, for a while: it is nobody's data."""
        return RUN in (self.body["metadata"].get("labels") or {})

    @property
    def is_shared(self) -> bool:
        """Whether pods on several nodes may mount it."""
        return bool({"ReadWriteMany", "ReadOnlyMany"} & set(self.access_modes))

    @property
    def is_for_one_pod(self) -> bool:
        """ReadWriteOncePod."""
        return "ReadWriteOncePod" in self.access_modes

    @property
    def tolerations(self) -> tuple[Mapping[str, Any], ...]:
        """Of all pods that mount it, or will."""
        return tuple(one for pod in self.consumers for one in pod.tolerations)

    @property
    def writers(self) -> tuple[Consumer, ...]:
        """Pods that mount it and may write."""
        return tuple(one for one in self.consumers if not one.is_read_only)


def as_recorded(consumer: Consumer) -> dict[str, Any]:
    """What whoever restores the claim takes over of a pod; see `from_record`."""
    used = asdict(consumer)
    kept = {name: used[name] for name in ("user", "fs_group", "supplemental_groups")}
    return {**kept, **{name: used[name] for name in _SINCE if used[name]}}


def from_record(
    recorded: Mapping[str, Any], *, is_at_home: bool, tolerations: Sequence[Mapping[str, Any]] = ()
) -> Consumer:
    """A pod like the one that was recorded, to be like.

    Only `is_at_home`, in the same namespace of the same cluster, are its SELinux level and its wishes for a
    node: others have their own. `tolerations` are those of pods that are there now.
    """
    group = recorded.get("fs_group")
    of_then = [one for one in recorded.get("tolerations") or () if one not in tolerations]
    return Consumer(
        pod="",
        node=None,
        is_read_only=False,
        is_running=False,
        user=recorded.get("user"),
        # Some group, to write at all.
        fs_group=limits.MOVER_GROUP if group is None else group,
        supplemental_groups=tuple(recorded.get("supplemental_groups") or ()),
        selinux=recorded.get("selinux") if is_at_home else None,
        tolerations=(*of_then, *tolerations),
        node_affinity=recorded.get("node_affinity") if is_at_home else None,
    )


def load_claim(cluster: "Cluster", claim: Claim) -> ClaimFacts:
    """Raises ClusterObjectMissing, and ClusterError."""
    body = cluster.get(CLAIM, claim.name, namespace=claim.namespace)
    pods = cluster.list(POD, namespace=claim.namespace)
    return _load(cluster, body, pods, {})


def pods_of(cluster: "Cluster", claim: Claim) -> list[str]:
    """Pods that name a claim, be it there or not, and are not over. Raises ClusterError."""
    pods = cluster.list(POD, namespace=claim.namespace)
    return sorted(one["metadata"]["name"] for one in pods if _uses(one, claim) and not _is_over(one))


def list_claims(cluster: "Cluster", *, namespace: str | None, labels: str | None = None) -> list[ClaimFacts]:
    """The claims of a namespace, or of all (None), by name. Raises ClusterError."""
    bodies = cluster.list(CLAIM, namespace=namespace, labels=labels)
    pods = cluster.list(POD, namespace=namespace) if bodies else []
    classes: dict[str, Body | None] = {}
    found = [_load(cluster, body, pods, classes) for body in bodies]
    return sorted(found, key=lambda one: one.claim)


def _load(
    cluster: "Cluster", body: Body, pods: Iterable[Body], classes: dict[str, Body | None]
) -> ClaimFacts:
    """Volumes and classes belong to the cluster; where they may not be read, less is known."""
    name = body["spec"].get("storageClassName")
    if name and name not in classes:
        classes[name] = cluster.find(STORAGE_CLASS, name)
    volume = body["spec"].get("volumeName")
    found = cluster.find(VOLUME, volume) if volume else None
    return facts_of(body, pods=pods, storage_class=classes.get(name) if name else None, volume=found)


def facts_of(
    body: Body, *, pods: Iterable[Body], storage_class: Body | None, volume: Body | None
) -> ClaimFacts:
    """What the objects say."""
    metadata, spec, status = body["metadata"], body["spec"], body.get("status", {})
    claim = Claim(metadata["namespace"], metadata["name"])
    csi = (volume or {}).get("spec", {}).get("csi", {})
    annotations = metadata.get("annotations") or {}
    provisioner = (
        annotations.get("volume.kubernetes.io/storage-provisioner")
        or annotations.get("volume.beta.kubernetes.io/storage-provisioner")
        or (storage_class or {}).get("provisioner")
    )
    users = [pod for pod in pods if _uses(pod, claim)]
    consumers = [_consumer(pod, claim) for pod in users if not _is_over(pod)]
    return ClaimFacts(
        claim=claim,
        uid=metadata["uid"],
        phase=status.get("phase", "Pending"),
        is_deleting="deletionTimestamp" in metadata,
        is_block=spec.get("volumeMode") == "Block",
        access_modes=tuple(spec.get("accessModes", ())),
        storage_class=spec.get("storageClassName"),
        request_bytes=parse_quantity(spec["resources"]["requests"]["storage"]),
        capacity_bytes=parse_quantity(status.get("capacity", {}).get("storage", "0")),
        volume=spec.get("volumeName"),
        driver=csi.get("driver") or (provisioner if volume is None else None),
        is_waiting_for_consumer=(storage_class or {}).get("volumeBindingMode") == "WaitForFirstConsumer",
        is_bound_at_once=(storage_class or {}).get("volumeBindingMode") == "Immediate",
        consumers=tuple(sorted(consumers, key=lambda one: one.pod)),
        ended=tuple(sorted(pod["metadata"]["name"] for pod in users if _is_over(pod))),
        body=body,
        volume_body=volume,
    )


def _uses(pod: Body, claim: Claim) -> bool:
    metadata = pod["metadata"]
    in_place = metadata.get("namespace") == claim.namespace
    return in_place and bool(_volumes_of(pod["spec"], metadata["name"], claim))


def _is_over(pod: Body) -> bool:
    return pod.get("status", {}).get("phase") in _OVER


def _consumer(pod: Body, claim: Claim) -> Consumer:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    names = _volumes_of(spec, metadata["name"], claim)
    mounts = [
        (container, mount)
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for mount in (*(container.get("volumeMounts") or ()), *(container.get("volumeDevices") or ()))
        if mount["name"] in names
    ]
    security = spec.get("securityContext") or {}
    own = next((container.get("securityContext") or {} for container, _ in mounts), {})
    return Consumer(
        pod=metadata["name"],
        node=spec.get("nodeName"),
        is_read_only=all(names.values()) or (bool(mounts) and all(one.get("readOnly") for _, one in mounts)),
        is_running=status.get("phase") == "Running",
        labels=metadata.get("labels") or {},
        user=own.get("runAsUser", security.get("runAsUser")),
        fs_group=security.get("fsGroup"),
        supplemental_groups=tuple(security.get("supplementalGroups") or ()),
        selinux=own.get("seLinuxOptions") or security.get("seLinuxOptions"),
        tolerations=tuple(spec.get("tolerations") or ()),
        node_affinity=_node_affinity_of(spec),
    )


def _node_affinity_of(spec: Body) -> dict[str, Any] | None:
    """One of these terms has to be met, and in each of them the whole selector."""
    selector = spec.get("nodeSelector") or {}
    wanted = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or ([{}] if wanted else [])
    both = [[*(one.get("matchExpressions") or ()), *wanted] for one in terms]
    made = [{**one, "matchExpressions": more} for one, more in zip(terms, both, strict=True)]
    return {"nodeSelectorTerms": made} if made else None


def has_begun(pod: Body) -> bool:
    """Whether a container of a pod has ever run, as far as its node has said."""
    states = [
        state
        for one in pod.get("status", {}).get("containerStatuses", ())
        for state in (one.get("state") or {}, one.get("lastState") or {})
    ]
    # One that its node never had ends, too, when its pod goes: without a beginning.
    return any("running" in one or (one.get("terminated") or {}).get("startedAt") for one in states)


def _volumes_of(spec: Body, pod: str, claim: Claim) -> dict[str, bool]:
    """The pod's volumes that are this claim, and whether they are read-only."""
    names = {}
    for volume in spec.get("volumes") or ():
        used = volume.get("persistentVolumeClaim") or {}
        # A generic ephemeral volume's claim is called after its pod.
        is_own = "ephemeral" in volume and f"{pod}-{volume['name']}" == claim.name
        if used.get("claimName") == claim.name or is_own:
            names[volume["name"]] = bool(used.get("readOnly"))
    return names


def require_data(facts: ClaimFacts) -> None:
    """Raise ClusterError for a claim that has no volume to read, with the reason."""
    where = str(facts.claim)
    if facts.is_deleting:
        raise ClusterError("the claim is being deleted", key=where)
    if facts.phase == "Lost":
        raise ClusterError(
            "the claim has lost its volume", key=where, hint="restore it from an earlier snapshot"
        )
    if facts.phase != "Bound":
        raise ClusterError("the claim is not bound to a volume", key=where)
