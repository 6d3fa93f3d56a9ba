"""Objects as they are exported: what only this cluster, this moment or a controller has put in is left out.

An object that somebody else would make again by itself is not exported at all.
Claims and secrets that have an owner are kept, for their content is not to be made again.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pvback.cluster.kinds import Body, full_kind
from pvback.cluster.manifests import dictionaries, pruned
from pvback.cluster.names import CLAIM, ROLE, RUN, STOPPED

__all__ = ["SKIPPED_KINDS", "exported_body", "is_finished", "is_generated", "owner_uid"]

SKIPPED_KINDS = {
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("coordination.k8s.io", "Lease"),
    ("storage.k8s.io", "CSIStorageCapacity"),
    # Roles and their bindings, once more.
    ("authorization.openshift.io", "Role"),
    ("authorization.openshift.io", "RoleBinding"),
}
"""Of no use to anybody else, or of no use tomorrow."""

_GENERATED_MAPS = ("kube-root-ca.crt", "openshift-service-ca.crt")
_TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105 -- a type's name
_ACCOUNT_UID = "kubernetes.io/service-account.uid"
_ANNOTATION_STARTS = ("deployment.kubernetes.io/",)
_ANNOTATIONS = (
    "batch.kubernetes.io/job-tracking",
    "deprecated.daemonset.template.generation",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "pvback.io/restored-from",
    CLAIM,
    STOPPED,
)
_JOB_LABELS = (
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
)
_MIRROR = "kubernetes.io/config.mirror"
"""Of pods that a kubelet has from files of its own."""
_KEPT_OWNED = ("PersistentVolumeClaim", "Secret")


def exported_body(body: Body) -> dict[str, Any]:
    """What is exported of an object."""
    kept = pruned(body)
    metadata = kept["metadata"]
    annotations = {
        name: value
        for name, value in (metadata.pop("annotations", None) or {}).items()
        if name not in _ANNOTATIONS and not name.startswith(_ANNOTATION_STARTS)
    }
    if annotations:
        metadata["annotations"] = annotations
    if full_kind(body) == "Service":
        _prune_service(kept, body)
    elif (rule := _RULES.get(full_kind(body))) is not None:
        rule(kept)
    if STOPPED in (body["metadata"].get("annotations") or {}):
        _start_again(kept, body["metadata"]["annotations"][STOPPED])
    _drop_null_moments(kept)
    return kept


def is_generated(body: Body) -> bool:
    """Whether the cluster makes it by itself wherever it belongs, or we have made it for our own work."""
    kind, metadata = full_kind(body), body["metadata"]
    annotations = metadata.get("annotations") or {}
    if {RUN, ROLE} & set(metadata.get("labels") or ()):
        return True
    if kind == "ConfigMap":
        return metadata["name"] in _GENERATED_MAPS
    if kind == "Pod":
        return _MIRROR in annotations
    if kind == "Secret":
        return body.get("type") == _TOKEN_TYPE or _ACCOUNT_UID in annotations
    # Those that a controller makes of a service's selector; the others are somebody's own.
    labels = metadata.get("labels") or {}
    if kind == "EndpointSlice.discovery.k8s.io":
        return str(labels.get("endpointslice.kubernetes.io/managed-by", "")).endswith("controller.k8s.io")
    return kind == "Endpoints" and (
        "endpoints.kubernetes.io/managed-by" in labels
        or "endpoints.kubernetes.io/last-change-trigger-time" in annotations
    )


def is_finished(body: Body) -> bool:
    """A pod or Job that is over: made again, it would do its work again."""
    if full_kind(body) == "Pod":
        return (body.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    if full_kind(body) != "Job.batch":
        return False
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def owner_uid(body: Body) -> str | None:
    """The uid of the object that makes this one, where it would be made again as it is."""
    if full_kind(body) in _KEPT_OWNED:
        return None
    owners = body["metadata"].get("ownerReferences") or ()
    return next((one["uid"] for one in owners if one.get("controller")), None)


def _prune_service(kept: dict[str, Any], body: Body) -> None:
    spec = kept["spec"]
    if spec.get("clusterIP") != "None":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    if "f:healthCheckNodePort" not in _managed(body, "f:spec"):
        spec.pop("healthCheckNodePort", None)
    managed = _managed(body, "f:spec", "f:ports")
    for port in spec.get("ports") or ():
        # As field managers name it: somebody has chosen the number, or nobody has.
        key = {"port": port["port"], "protocol": port.get("protocol", "TCP")}
        fields = managed.get(f"k:{json.dumps(key, sort_keys=True, separators=(',', ':'))}") or {}
        if "f:nodePort" not in fields:
            port.pop("nodePort", None)


def _managed(body: Body, *path: str) -> dict[str, Any]:
    """The fields below a path that somebody manages, of all managers together."""
    found: dict[str, Any] = {}
    for manager in body["metadata"].get("managedFields") or ():
        # What a controller reports is not what was asked for.
        if manager.get("subresource") == "status":
            continue
        fields: Any = manager.get("fieldsV1") or {}
        for name in path:
            fields = fields.get(name) or {}
        for name, inner in fields.items():
            found.setdefault(name, {}).update(inner)
    return found


def _start_again(kept: dict[str, Any], said: str) -> None:
    """A workload that we have stopped for a restore has the replicas that it had."""
    with suppress(ValueError, TypeError, KeyError):
        if kept["spec"]["replicas"] == 0:
            kept["spec"]["replicas"] = int(json.loads(said)["replicas"])


def _prune_job(kept: dict[str, Any]) -> None:
    if kept["spec"].get("manualSelector"):
        return
    kept["spec"].pop("selector", None)
    template = kept["spec"].get("template", {}).get("metadata") or {}
    for metadata in (kept["metadata"], template):
        labels = {
            name: value
            for name, value in (metadata.pop("labels", None) or {}).items()
            if name not in _JOB_LABELS
        }
        if labels:
            metadata["labels"] = labels


def _prune_pod(kept: dict[str, Any]) -> None:
    spec = kept["spec"]
    for name in ("nodeName", "priority", "preemptionPolicy"):
        spec.pop(name, None)
    generated = {
        one["name"]
        for one in spec.get("volumes") or ()
        if one["name"].startswith("kube-api-access-") and "projected" in one
    }
    if not generated:
        return
    _keep_others(spec, "volumes", lambda one: one["name"] in generated)
    for group in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            _keep_others(container, "volumeMounts", lambda one: one["name"] in generated)


def _prune_account(kept: dict[str, Any]) -> None:
    name = kept["metadata"]["name"]
    starts = (f"{name}-token-", f"{name}-dockercfg-")
    for field in ("secrets", "imagePullSecrets"):
        _keep_others(kept, field, lambda one: str(one.get("name", "")).startswith(starts))


def _prune_namespace(kept: dict[str, Any]) -> None:
    kept.pop("spec", None)
    labels = kept["metadata"].get("labels") or {}
    labels.pop("kubernetes.io/metadata.name", None)
    if not labels:
        kept["metadata"].pop("labels", None)


def _prune_cluster_role(kept: dict[str, Any]) -> None:
    if kept.get("aggregationRule"):
        kept.pop("rules", None)


def _keep_others(holder: dict[str, Any], field: str, is_dropped: Callable[[Body], bool]) -> None:
    """Drop some entries of a list, and the list with the last of them."""
    kept = [one for one in holder.get(field) or () if not is_dropped(one)]
    if kept:
        holder[field] = kept
    else:
        holder.pop(field, None)


def _drop_null_moments(kept: Mapping[str, Any]) -> None:
    """Templates carry an empty `creationTimestamp`, of some clients and not of others."""
    for holder in dictionaries(kept):
        if "creationTimestamp" in holder and holder["creationTimestamp"] is None:
            del holder["creationTimestamp"]


_RULES = {
    "ClusterRole.rbac.authorization.k8s.io": _prune_cluster_role,
    "Job.batch": _prune_job,
    "Namespace": _prune_namespace,
    "Pod": _prune_pod,
    "ServiceAccount": _prune_account,
}
