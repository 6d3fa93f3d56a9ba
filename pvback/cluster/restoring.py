"""In which order exported objects come back, and what changes with another namespace. Pure.

What is used comes before its user: kinds, namespaces, classes, roles, accounts and their roles, secrets and
maps, claims with their data, then what shields and serves pods, then pods; quotas when nothing is left that
they could hinder, webhooks when everything runs that answers them.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from pvback.cluster.kinds import Body, Kind

__all__ = ["CLAIM_RANK", "LEFT_KINDS", "is_definition_of", "is_wanted", "rank_of", "renamed"]

_RANKS = (
    ("CustomResourceDefinition",),
    ("Namespace",),
    ("StorageClass", "VolumeSnapshotClass", "VolumeAttributesClass"),
    ("PriorityClass", "RuntimeClass", "IngressClass", "GatewayClass"),
    ("ClusterRole",),
    ("Role",),
    ("ServiceAccount",),
    ("SecurityContextConstraints", "ClusterRoleBinding", "RoleBinding"),
    ("Secret",),
    ("ConfigMap",),
    ("PersistentVolume",),
    ("PersistentVolumeClaim",),
    ("LimitRange", "NetworkPolicy"),
    ("Service", "Endpoints", "EndpointSlice"),
    (
        "CronJob",
        "DaemonSet",
        "Deployment",
        "DeploymentConfig",
        "Job",
        "Pod",
        "ReplicaSet",
        "ReplicationController",
        "StatefulSet",
    ),
    (),
    ("Ingress", "Route"),
    ("HorizontalPodAutoscaler",),
    ("ResourceQuota",),
    ("VolumeSnapshot", "VolumeGroupSnapshot"),
    ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
)
_OTHERS = _RANKS.index(())
_RANK_OF = {kind: rank for rank, kinds in enumerate(_RANKS) for kind in kinds}
CLAIM_RANK = _RANK_OF["PersistentVolumeClaim"]
"""What comes after it would use claims, or make empty ones of their names."""

_RBAC = "rbac.authorization.k8s.io/"
_ADMISSION = "admissionregistration.k8s.io/"
LEFT_KINDS: Mapping[str, str] = {
    "PersistentVolume": "claims bring their volumes with them",
    "VolumeSnapshot": "its content is not in the export; it would be one of the claim as it is then",
    "VolumeGroupSnapshot": "its content is not in the export; it would be one of the claims as they are then",
}
"""Kinds that come back only when they are asked for by name."""


def rank_of(body: Body) -> tuple[int, str, str]:
    """Sorts objects in the order in which they are made."""
    return _RANK_OF.get(body["kind"], _OTHERS), body["kind"], body["metadata"]["name"]


def is_wanted(body: Body, *, kinds: Collection[str], names: Collection[str]) -> bool:
    """Whether a kind, as `Kind` or `Kind.group` in any case, and a name are among those asked for, if any."""
    group, _, _ = body["apiVersion"].rpartition("/")
    known = {body["kind"].lower(), f"{body['kind']}.{group}".lower()}
    is_kind = not kinds or bool(known & {one.lower() for one in kinds})
    return is_kind and (not names or body["metadata"]["name"] in names)


def is_definition_of(definition: Body, body: Body) -> bool:
    """Whether this is the definition of an object's kind."""
    group, _, _ = body["apiVersion"].rpartition("/")
    spec = definition.get("spec") or {}
    named = (spec.get("names") or {}).get("kind")
    return definition["kind"] == "CustomResourceDefinition" and (spec.get("group"), named) == (
        group,
        body["kind"],
    )


def renamed(body: Body, old: str, *, new: str, kind: Kind | None) -> dict[str, Any]:
    """The object for a namespace of another name: where it is, and whose accounts and services it names.

    What stands in a specification as free text is not understood, and stays.
    """
    made = copy.deepcopy(dict(body))
    if old == new:
        return made
    metadata = made["metadata"]
    if metadata.get("namespace") == old:
        metadata["namespace"] = new
    is_cluster = kind is not None and not kind.is_namespaced
    if made["kind"] == "Namespace" and is_cluster and metadata["name"] == old:
        metadata["name"] = new
    is_binding = made["kind"] in ("RoleBinding", "ClusterRoleBinding") and _RBAC in made["apiVersion"]
    for subject in (made.get("subjects") or ()) if is_binding else ():
        if subject.get("namespace") == old:
            subject["namespace"] = new
        if subject.get("name") == f"system:serviceaccounts:{old}":
            subject["name"] = f"system:serviceaccounts:{new}"
    is_admission = made["kind"].endswith("WebhookConfiguration") and _ADMISSION in made["apiVersion"]
    for webhook in (made.get("webhooks") or ()) if is_admission else ():
        service = (webhook.get("clientConfig") or {}).get("service") or {}
        if service.get("namespace") == old:
            service["namespace"] = new
    # Of OpenShift's security context constraints.
    accounts, group = f"system:serviceaccount:{old}:", f"system:serviceaccounts:{old}"
    for field in ("users", "groups") if made["apiVersion"].startswith("security.openshift.io/") else ():
        made[field] = [
            one.replace(f":{old}", f":{new}", 1) if one == group or one.startswith(accounts) else one
            for one in made.get(field) or ()
        ]
    return made
