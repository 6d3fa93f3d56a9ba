"""Which objects of the cluster an object of a namespace refers to, and which refer to a namespace. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pvback.cluster.kinds import Body, full_kind
from pvback.cluster.manifests import dictionaries

__all__ = ["SEARCHED", "Reference", "is_about", "references_of"]

_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_SNAPSHOTS = "snapshot.storage.k8s.io"
_STORAGE = "storage.k8s.io"


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An object of the cluster, by the name that another one uses."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


SEARCHED = (
    (_RBAC, "ClusterRoleBinding"),
    (_ADMISSION, "MutatingWebhookConfiguration"),
    (_ADMISSION, "ValidatingWebhookConfiguration"),
    ("security.openshift.io", "SecurityContextConstraints"),
)
"""Kinds of the cluster whose objects name namespaces: all of them are looked through."""


def references_of(body: Body) -> Iterator[Reference]:
    """The objects of the cluster that this one needs, some of them more than once."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        spec = {}
    for kind, field, group, target in _FIELDS:
        if full_kind(body) == kind and isinstance(spec.get(field), str) and spec[field]:
            yield Reference(group, target, spec[field])
    if full_kind(body) in _BINDINGS and body["roleRef"]["kind"] == "ClusterRole":
        yield Reference(_RBAC, "ClusterRole", body["roleRef"]["name"])
    named = (body["metadata"].get("annotations") or {}).get("kubernetes.io/ingress.class")
    if full_kind(body) == _INGRESS and named:
        yield Reference("networking.k8s.io", "IngressClass", named)
    if full_kind(body) == "StatefulSet.apps":
        for template in spec.get("volumeClaimTemplates") or ():
            if name := (template.get("spec") or {}).get("storageClassName"):
                yield Reference(_STORAGE, "StorageClass", name)
    for pod in _pod_specs(spec):
        if isinstance(name := pod.get("priorityClassName"), str) and name:
            yield Reference("scheduling.k8s.io", "PriorityClass", name)
        if isinstance(name := pod.get("runtimeClassName"), str) and name:
            yield Reference("node.k8s.io", "RuntimeClass", name)


_INGRESS = "Ingress.networking.k8s.io"
_BINDINGS = (f"RoleBinding.{_RBAC}", f"ClusterRoleBinding.{_RBAC}")
_FIELDS = (
    ("PersistentVolumeClaim", "volumeName", "", "PersistentVolume"),
    ("PersistentVolumeClaim", "storageClassName", _STORAGE, "StorageClass"),
    ("PersistentVolumeClaim", "volumeAttributesClassName", _STORAGE, "VolumeAttributesClass"),
    ("PersistentVolume", "storageClassName", _STORAGE, "StorageClass"),
    (f"VolumeSnapshot.{_SNAPSHOTS}", "volumeSnapshotClassName", _SNAPSHOTS, "VolumeSnapshotClass"),
    (_INGRESS, "ingressClassName", "networking.k8s.io", "IngressClass"),
    ("Gateway.gateway.networking.k8s.io", "gatewayClassName", "gateway.networking.k8s.io", "GatewayClass"),
)


def is_about(body: Body, namespace: str) -> bool:
    """Whether an object of a kind in `SEARCHED` names accounts or services of a namespace."""
    for subject in body.get("subjects") or ():
        if subject.get("kind") == "ServiceAccount" and subject.get("namespace") == namespace:
            return True
        if subject.get("kind") == "Group" and subject.get("name") == f"system:serviceaccounts:{namespace}":
            return True
    for webhook in body.get("webhooks") or ():
        service = (webhook.get("clientConfig") or {}).get("service") or {}
        if service.get("namespace") == namespace:
            return True
    users = [str(one) for one in body.get("users") or ()]
    groups = body.get("groups") or ()
    return f"system:serviceaccounts:{namespace}" in groups or any(
        one.startswith(f"system:serviceaccount:{namespace}:") for one in users
    )


def _pod_specs(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that has containers, however deep: custom resources have templates of pods, too."""
    return (one for one in dictionaries(spec) if isinstance(one.get("containers"), list))
