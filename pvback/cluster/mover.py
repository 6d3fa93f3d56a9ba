"""The mover: the Job beside a volume that runs the data path. Pure: makes the objects, creates none.

It is restricted as Pod Security means it: any user but root, no capability, a read-only root, no token of the
API. What it may do in the repository says its key. The kubelet never starts it again: why it ended is ours to
judge.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pvback import limits
from pvback.cluster.claims import Consumer
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import CONFIG_MAP, JOB, POD, Body
from pvback.cluster.names import CLAIM, ROLE, RUN, labels_of, object_name
from pvback.cluster.quantity import as_quantity, parse_millis
from pvback.model import Claim

__all__ = [
    "CONTAINER",
    "DEVICE_PATH",
    "KEY_FOLDER",
    "LEFT_ALONE",
    "REPOSITORY_FOLDER",
    "SPEC_FILE",
    "VOLUME_FOLDER",
    "MoverJob",
    "MoverSettings",
    "placed",
    "taken_over",
]

LEFT_ALONE: Mapping[str, str] = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "descheduler.alpha.kubernetes.io/prefer-no-eviction": "true",
    # A mesh's proxy would keep a Job alive for ever.
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
}
"""Annotations of pods that nobody else is to move or add to."""
_CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "backup": ("DAC_READ_SEARCH",),
    # Without the last one the kernel takes setgid from what is of a group that the mover is not in.
    "restore": ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"),
}
CONTAINER = "mover"
VOLUME_FOLDER = "/data"
DEVICE_PATH = "/dev/pvback-volume"
SPEC_FOLDER = "/run/pvback/spec"
SPEC_FILE = f"{SPEC_FOLDER}/spec.json"
REPOSITORY_FOLDER = "/run/pvback/repository"
KEY_FOLDER = "/run/pvback/key"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverSettings:
    """What is the same for all movers of a run.

    Attributes:
        image: Of pvback.
        secret: With the repository's address, a writer's key and S3 credentials, in the claim's namespace.
        service_account: With no rights; None: the namespace's default, whose token is not mounted.
        priority_class: None: none.
        pull_secrets: Names.
        memory_bytes, cpu: Limits of the container; cpu is a quantity, or None for no limit.
        cache_bytes: Of the emptyDir for the cache.
        deadline_seconds: When the Job is ended, done or not.
        tolerations: Besides those of the pod that uses the claim.
        node_selector: Labels of the nodes that movers may run on.
        is_privileged: Root with one more capability to read, or four to restore, where that is allowed.
    """

    image: str
    secret: str
    service_account: str | None = None
    priority_class: str | None = None
    pull_secrets: tuple[str, ...] = ()
    memory_bytes: int = limits.MOVER_MEMORY_BYTES
    cpu: str | None = None
    cache_bytes: int = limits.MOVER_CACHE_BYTES
    deadline_seconds: int = limits.MOVER_DEADLINE_SECONDS
    tolerations: tuple[Mapping[str, Any], ...] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    is_privileged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverJob:
    """One mover.

    Attributes:
        work: What it does.
        claim: Whose bytes they are, for people and names.
        mounted: The claim that it mounts, in the same namespace: the claim itself or what was staged of it.
        is_block: Whether that is a device.
        run: Of which run.
        exposure: Where it has to run, and like whom.
        spec: What it is told, as JSON.
        key_secret: Another secret whose key is used in place of the repository secret's.
    """

    work: Literal["backup", "restore"]
    claim: Claim
    mounted: str
    is_block: bool
    run: str
    exposure: Exposure
    spec: Mapping[str, Any]
    settings: MoverSettings
    key_secret: str | None = None

    @property
    def name(self) -> str:
        """Of the Job and of its pod's label."""
        return object_name(self.work, self.claim.name, run=self.run)

    @property
    def labels(self) -> dict[str, str]:
        """Of all its objects."""
        return labels_of(self.run, "mover")

    @property
    def pod_labels(self) -> str:
        """What selects its pod."""
        return f"{RUN}={self.run},{ROLE}=mover,job-name={self.name}"

    @property
    def _key_folder(self) -> str:
        return REPOSITORY_FOLDER if self.key_secret is None else KEY_FOLDER

    @property
    def spec_name(self) -> str:
        """Of the ConfigMap with what it is told."""
        return f"{self.name}-spec"

    def spec_body(self, owner: Mapping[str, Any]) -> Body:
        """The ConfigMap."""
        return CONFIG_MAP.body(
            self.spec_name,
            self.claim.namespace,
            metadata={"labels": self.labels, "ownerReferences": [owner]},
            data={"spec.json": json.dumps(self.spec, separators=(",", ":"), sort_keys=True)},
        )

    def job_body(self, owner: Mapping[str, Any]) -> Body:
        """The Job."""
        return JOB.body(
            self.name,
            self.claim.namespace,
            metadata={
                "labels": self.labels,
                "annotations": {CLAIM: str(self.claim)},
                "ownerReferences": [owner],
            },
            spec={
                "backoffLimit": 0,
                "completions": 1,
                "parallelism": 1,
                "activeDeadlineSeconds": self.settings.deadline_seconds,
                "ttlSecondsAfterFinished": limits.MOVER_KEPT_SECONDS,
                # Never two of them on one volume, not even while one is going.
                "podReplacementPolicy": "Failed",
                "template": {"metadata": self._pod_metadata(), "spec": self.pod_spec()},
            },
        )

    def pod_body(self) -> Body:
        """The pod alone, to have it judged before anything is touched: a Job's pod is judged too late."""
        name = f"{self.name}-try"
        return POD.body(name, self.claim.namespace, metadata=self._pod_metadata(), spec=self.pod_spec())

    def _pod_metadata(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "annotations": {CLAIM: str(self.claim), **LEFT_ALONE},
        }

    def pod_spec(self) -> dict[str, Any]:
        """The pod's."""
        settings = self.settings
        optional: dict[str, Any] = {
            "serviceAccountName": settings.service_account,
            "priorityClassName": settings.priority_class,
            "imagePullSecrets": [{"name": one} for one in settings.pull_secrets],
            "nodeSelector": dict(settings.node_selector),
        }
        place = placed(self.exposure.node, self.exposure.consumer, affinity=self.exposure.node_affinity)
        tolerations = [*place.pop("tolerations", ()), *settings.tolerations]
        return {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": limits.MOVER_GRACE_SECONDS,
            "securityContext": self._pod_security(),
            "containers": [self._container()],
            "volumes": self._volumes(),
            **place,
            **({"tolerations": tolerations} if tolerations else {}),
            **{name: value for name, value in optional.items() if value},
        }

    def _pod_security(self) -> dict[str, Any]:
        consumer = self.exposure.consumer
        security: dict[str, Any] = {
            "runAsNonRoot": not self.settings.is_privileged,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        if self.settings.is_privileged:
            security["runAsUser"] = 0
        elif consumer is not None and consumer.user:
            security["runAsUser"] = consumer.user
        security.update(taken_over(consumer))
        return security

    def _container(self) -> dict[str, Any]:
        settings = self.settings
        capabilities: dict[str, Any] = {"drop": ["ALL"]}
        if settings.is_privileged:
            capabilities["add"] = list(_CAPABILITIES[self.work])
        # Cache and scratch space are of the node's disk, and so is the log.
        disk = settings.cache_bytes + 2 * limits.MOVER_SCRATCH_BYTES
        maximum = {"memory": as_quantity(settings.memory_bytes), "ephemeral-storage": as_quantity(disk)}
        # The API refuses a request above its limit.
        requested = min(settings.memory_bytes, limits.MOVER_REQUEST_BYTES)
        millis = min(parse_millis(settings.cpu or "1"), limits.MOVER_REQUEST_MILLIS)
        return {
            "name": CONTAINER,
            "image": settings.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["mover", self.work, SPEC_FILE],
            "env": [
                {"name": "PVBACK_MEMORY", "value": str(settings.memory_bytes - limits.MOVER_SPARE_BYTES)},
                {"name": "PVBACK_CACHE_DIR", "value": "/cache"},
                {"name": "PVBACK_CONFIG", "value": f"{REPOSITORY_FOLDER}/config.toml"},
                {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{REPOSITORY_FOLDER}/credentials"},
                {"name": "PVBACK_KEY_FILE", "value": f"{self._key_folder}/key"},
            ],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": capabilities,
            },
            "resources": {
                "requests": {
                    "cpu": f"{millis}m",
                    "memory": as_quantity(requested),
                    "ephemeral-storage": as_quantity(min(disk, limits.MOVER_DISK_BYTES)),
                },
                "limits": {**maximum, **({"cpu": settings.cpu} if settings.cpu else {})},
            },
            "terminationMessagePolicy": "File",
            "volumeMounts": self._mounts(),
            **({"volumeDevices": [{"name": "data", "devicePath": DEVICE_PATH}]} if self.is_block else {}),
        }

    def _mounts(self) -> list[dict[str, Any]]:
        mounts: list[dict[str, Any]] = [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- of the container
            {"name": "cache", "mountPath": "/cache"},
            {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
            {"name": "repository", "mountPath": REPOSITORY_FOLDER, "readOnly": True},
        ]
        if self.key_secret is not None:
            mounts.append({"name": "key", "mountPath": KEY_FOLDER, "readOnly": True})
        if not self.is_block:
            is_read_only = self.work == "backup"
            mounts.append({"name": "data", "mountPath": VOLUME_FOLDER, "readOnly": is_read_only})
        return mounts

    def _volumes(self) -> list[dict[str, Any]]:
        # Read-only on both sides, but for what was staged: its file system may have to replay its journal.
        is_read_only = self.work == "backup" and self.exposure.method == "live" and not self.is_block
        claim: dict[str, Any] = {"claimName": self.mounted, **({"readOnly": True} if is_read_only else {})}
        volumes: list[dict[str, Any]] = [
            {"name": "data", "persistentVolumeClaim": claim},
            {"name": "tmp", "emptyDir": {"sizeLimit": as_quantity(limits.MOVER_SCRATCH_BYTES)}},
            {"name": "cache", "emptyDir": {"sizeLimit": as_quantity(self.settings.cache_bytes)}},
            {"name": "spec", "configMap": {"name": self.spec_name}},
            {"name": "repository", "secret": {"secretName": self.settings.secret, "defaultMode": 0o440}},
        ]
        if self.key_secret is not None:
            volumes.append({"name": "key", "secret": {"secretName": self.key_secret, "defaultMode": 0o440}})
        return volumes


def placed(
    node: str | None, consumer: Consumer | None, *, affinity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Of a pod's specification, where it runs: on the node, or as the volume's affinity says.

    By the node's name where the volume is attached; by `nodeName` the scheduler would be passed by.
    """
    tolerations: list[Mapping[str, Any]] = list(consumer.tolerations) if consumer is not None else []
    terms = dict(affinity) if affinity is not None else None
    if node is not None:
        fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
        terms = {"nodeSelectorTerms": [{"matchFields": fields}]}
        tolerations.append({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return {
        **({"affinity": {"nodeAffinity": required}} if terms else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def taken_over(consumer: Consumer | None) -> dict[str, Any]:
    """Of a pod's security, what it takes over from the pod that uses the claim: groups and SELinux level."""
    security: dict[str, Any] = {}
    if consumer is None:
        return security
    if consumer.fs_group is not None:
        # The consumer's own, which the volume has already: any other would change the modes of files.
        security["fsGroup"] = consumer.fs_group
        security["fsGroupChangePolicy"] = "OnRootMismatch"
    if consumer.supplemental_groups:
        security["supplementalGroups"] = list(consumer.supplemental_groups)
    if consumer.selinux and "level" in consumer.selinux:
        security["seLinuxOptions"] = {"level": consumer.selinux["level"]}
    return security
