"""Objects of Kubernetes as the tests write them: what `restricted` pod security lets pass."""

from collections.abc import Mapping, Sequence
from typing import Any

Manifest = dict[str, Any]

USER = 1000680000
"""As OpenShift gives them out: no name, no home."""


def namespace(name: str) -> Manifest:
    """A namespace that admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pvback.test/namespace": "true"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def claim(
    name: str,
    *,
    storage_class: str,
    size: str = "64Mi",
    block: bool = False,
    source: Mapping[str, str] | None = None,
    mode: str = "ReadWriteOnce",
) -> Manifest:
    """A claim; `source` is a `dataSource`, see `from_volume_snapshot` and `from_claim`."""
    spec: Manifest = {
        "storageClassName": storage_class,
        "accessModes": [mode],
        "volumeMode": "Block" if block else "Filesystem",
        "resources": {"requests": {"storage": size}},
    }
    if source:
        spec["dataSource"] = dict(source)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {"pvback.test/claim": name}},
        "spec": spec,
    }


def from_claim(name: str) -> dict[str, str]:
    """A clone of this claim."""
    return {"kind": "PersistentVolumeClaim", "name": name}


def from_volume_snapshot(name: str) -> dict[str, str]:
    """The content of this volume snapshot."""
    return {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name}


def volume_snapshot(name: str, *, claim: str, snapshot_class: str) -> Manifest:
    """A volume snapshot of a claim."""
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {"volumeSnapshotClassName": snapshot_class, "source": {"persistentVolumeClaimName": claim}},
    }


def volume_group_snapshot(name: str, *, labels: Mapping[str, str], group_class: str) -> Manifest:
    """Volume snapshots of all claims with these labels, together."""
    return {
        "apiVersion": "groupsnapshot.storage.k8s.io/v1",
        "kind": "VolumeGroupSnapshot",
        "metadata": {"name": name},
        "spec": {
            "volumeGroupSnapshotClassName": group_class,
            "source": {"selector": {"matchLabels": dict(labels)}},
        },
    }


def pod(
    name: str,
    script: str,
    *,
    image: str,
    claims: Sequence[str] = (),
    devices: Sequence[str] = (),
    node: str | None = None,
) -> Manifest:
    """A pod that runs a shell script once; claims are mounted at /CLAIM, devices are at /dev/CLAIM."""
    container: Manifest = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-euc", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": one, "mountPath": f"/{one}"} for one in claims],
        "volumeDevices": [{"name": one, "devicePath": f"/dev/{one}"} for one in devices],
    }
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": security,
        "containers": [container],
        "volumes": [
            {"name": one, "persistentVolumeClaim": {"claimName": one}} for one in (*claims, *devices)
        ],
    }
    if node:
        # Not `nodeName`: that goes past the scheduler, and a claim that waits for it would wait for ever.
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        required = {"nodeSelectorTerms": [term]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def workload(kind: str, name: str, *, image: str, claims: Sequence[str], template: str = "") -> Manifest:
    """A Deployment or StatefulSet of one pod; `template` names a claim that it makes itself."""
    body = pod(name, "while true; do sleep 1; done", image=image, claims=claims)["spec"]
    body["restartPolicy"] = "Always"
    labels = {"app": name}
    spec: Manifest = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": body},
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if template:
        body["containers"][0]["volumeMounts"] = [{"name": template, "mountPath": f"/{template}"}]
        made = claim(template, storage_class="csi")
        spec["volumeClaimTemplates"] = [{"metadata": made["metadata"], "spec": made["spec"]}]
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
