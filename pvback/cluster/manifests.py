"""Objects without what only their cluster can know: what somebody else would create them from."""

import copy
from collections.abc import Iterator
from typing import Any

from pvback.cluster.kinds import Body

__all__ = ["dictionaries", "pruned"]

_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_ANNOTATIONS = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "pv.kubernetes.io/provisioned-by",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-resizer",
)


def pruned(body: Body) -> dict[str, Any]:
    """A copy without status, identity, owners and what binds it to other objects."""
    kept = copy.deepcopy(dict(body))
    kept.pop("status", None)
    metadata = kept["metadata"] = {
        name: value for name, value in kept["metadata"].items() if name not in _METADATA
    }
    annotations = {
        name: value
        for name, value in (metadata.pop("annotations", None) or {}).items()
        if name not in _ANNOTATIONS
    }
    if annotations:
        metadata["annotations"] = annotations
    if kept.get("kind") == "PersistentVolumeClaim":
        kept["spec"].pop("volumeName", None)
    if kept.get("kind") == "PersistentVolume":
        kept["spec"].pop("claimRef", None)
    return kept


def dictionaries(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 -- JSON has no type
    """All of them, however deep, the outer ones first."""
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from dictionaries(one)
    elif isinstance(value, list):
        for one in value:
            yield from dictionaries(one)
