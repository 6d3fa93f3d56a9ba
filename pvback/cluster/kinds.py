"""The kinds of objects that pvback asks a cluster for, and where they are served."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = [
    "CLAIM",
    "CLUSTER_BINDING",
    "CLUSTER_ROLE",
    "CONFIG_MAP",
    "DEFINITION",
    "DEPLOYMENT",
    "EVENT",
    "GROUP_FINALIZER",
    "GROUP_KIND",
    "JOB",
    "NAMESPACE",
    "NODE",
    "POD",
    "RBAC_BINDING",
    "RBAC_ROLE",
    "REPLICA_SET",
    "RESTORE",
    "RESTORE_STATUS",
    "SECRET",
    "SERVICE_ACCOUNT",
    "STATEFUL_SET",
    "STORAGE_CLASS",
    "VOLUME",
    "VOLUME_SNAPSHOT",
    "VOLUME_SNAPSHOT_CLASS",
    "VOLUME_SNAPSHOT_CONTENT",
    "Body",
    "GroupKinds",
    "Kind",
    "full_kind",
    "group_kinds",
]

Body = Mapping[str, Any]
"""An object as the API has it, as JSON."""


def full_kind(body: Body) -> str:
    """`Kind.group`, or `Kind` of the core API: others use the names of Kubernetes for kinds of their own."""
    group, _, _ = body["apiVersion"].rpartition("/")
    return f"{body['kind']}.{group}" if group else str(body["kind"])


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object. `group` is empty for the core API; `part` names a part of each, such as `status`."""

    group: str
    version: str
    name: str
    plural: str
    is_namespaced: bool = True
    part: str = ""

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", *, subresource: str = "") -> str:
        """Where it is served; the collection without a name."""
        assert not name or not self.is_namespaced or namespace, "an object of a namespace needs one"
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{quote(namespace, safe='')}" if self.is_namespaced and namespace else ""
        part = subresource or (self.part if name else "")
        end = "".join(f"/{quote(one, safe='')}" for one in (name, part) if one)
        return f"{base}{within}/{self.plural}{end}"

    def body(
        self,
        name: str,
        namespace: str | None = None,
        **parts: Any,  # noqa: ANN401 -- JSON has no type
    ) -> dict[str, Any]:
        """An object to be created: `metadata` given in parts is kept."""
        metadata = {
            "name": name,
            **({"namespace": namespace} if namespace else {}),
            **parts.pop("metadata", {}),
        }
        return {"apiVersion": self.api_version, "kind": self.name, "metadata": metadata, **parts}


_SNAPSHOTS = "snapshot.storage.k8s.io"

CLAIM = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
DEFINITION = Kind(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    is_namespaced=False,
)
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
RBAC_ROLE = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
RBAC_BINDING = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE = Kind(RBAC_ROLE.group, "v1", "ClusterRole", "clusterroles", is_namespaced=False)
CLUSTER_BINDING = Kind(
    RBAC_ROLE.group, "v1", "ClusterRoleBinding", "clusterrolebindings", is_namespaced=False
)
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
EVENT = Kind("", "v1", "Event", "events")
JOB = Kind("batch", "v1", "Job", "jobs")
NAMESPACE = Kind("", "v1", "Namespace", "namespaces", is_namespaced=False)
NODE = Kind("", "v1", "Node", "nodes", is_namespaced=False)
POD = Kind("", "v1", "Pod", "pods")
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets")
RESTORE = Kind("pvback.io", "v1alpha1", "Restore", "restores")
RESTORE_STATUS = Kind(RESTORE.group, RESTORE.version, RESTORE.name, RESTORE.plural, part="status")
SECRET = Kind("", "v1", "Secret", "secrets")
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets")
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", is_namespaced=False)
VOLUME = Kind("", "v1", "PersistentVolume", "persistentvolumes", is_namespaced=False)
VOLUME_SNAPSHOT = Kind(_SNAPSHOTS, "v1", "VolumeSnapshot", "volumesnapshots")
VOLUME_SNAPSHOT_CLASS = Kind(
    _SNAPSHOTS, "v1", "VolumeSnapshotClass", "volumesnapshotclasses", is_namespaced=False
)
VOLUME_SNAPSHOT_CONTENT = Kind(
    _SNAPSHOTS, "v1", "VolumeSnapshotContent", "volumesnapshotcontents", is_namespaced=False
)

_GROUPS = "groupsnapshot.storage.k8s.io"
GROUP_KIND = "VolumeGroupSnapshot"
GROUP_FINALIZER = "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-bound-protection"
"""The snapshot controller's, on a group whose content it would miss."""


@dataclass(frozen=True, slots=True)
class GroupKinds:
    """Groups of volume snapshots, in the version that a cluster serves."""

    group: Kind
    group_class: Kind


def group_kinds(version: str) -> GroupKinds:
    """What they are in this version."""
    return GroupKinds(
        Kind(_GROUPS, version, GROUP_KIND, "volumegroupsnapshots"),
        Kind(
            _GROUPS,
            version,
            "VolumeGroupSnapshotClass",
            "volumegroupsnapshotclasses",
            is_namespaced=False,
        ),
    )
