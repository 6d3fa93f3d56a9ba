"""A cluster of objects in memory, and a claim of it that is to be filled."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

from pvback.cluster.client import Cluster
from pvback.cluster.kinds import (
    CLAIM,
    EVENT,
    RESTORE,
    RESTORE_STATUS,
    STORAGE_CLASS,
    Body,
    Kind,
)
from pvback.cluster.mover import MoverSettings
from pvback.cluster.populating import SELECTED_NODE
from pvback.errors import (
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    StorageUnavailable,
)
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_populate import PopulateOptions
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, ManualClock, NoProgress

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def claim(**spec: Any) -> dict[str, Any]:
    """One that names the Restore `r`."""
    wanted = {
        "storageClassName": "fast",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "dataSourceRef": {"apiGroup": "pvback.io", "kind": "Restore", "name": "r"},
    }
    body = CLAIM.body("data", "ns", spec={**wanted, **spec}, status={"phase": "Pending"})
    body["metadata"].update(uid="u1", resourceVersion="7", annotations={})
    return body


def bound(body: dict[str, Any], volume: str = "v1") -> dict[str, Any]:
    made = deepcopy(body)
    made["spec"]["volumeName"] = volume
    made["status"] = {"phase": "Bound"}
    return made


def restore(*, status: Body | None = None, **spec: Any) -> dict[str, Any]:
    body = RESTORE.body("r", "ns", spec=spec or {"source": {"claim": "data"}}, status=dict(status or {}))
    body["metadata"].update(uid="r1", resourceVersion="1")
    return body


def told(phase: str, **more: str) -> dict[str, Any]:
    return restore(status={"claims": [{"name": "data", "uid": "u1", "phase": phase, **more}]})


def storage_class(mode: str = "Immediate", provisioner: str = "csi.example") -> Body:
    return STORAGE_CLASS.body("fast", volumeBindingMode=mode, provisioner=provisioner)


WAITING = storage_class("WaitForFirstConsumer")


def chosen(node: str) -> dict[str, Any]:
    body = claim()
    body["metadata"]["annotations"] = {SELECTED_NODE: node}
    return body


def deleting(body: dict[str, Any]) -> dict[str, Any]:
    body["metadata"]["deletionTimestamp"] = "2026-03-01T00:00:00Z"
    return body


class Objects(Cluster):
    """Objects by kind and name; a change that names another version is refused."""

    def __init__(self, *bodies: tuple[Kind, dict[str, Any]]) -> None:
        self.bodies = {(kind.name, body["metadata"]["name"]): body for kind, body in bodies}
        self.events: list[Body] = []
        self.failures = 0
        self.before_patch: list[Callable[[], None]] = []

    def read(self, path: str, *, accept: str) -> Body:
        """Groups of kinds are not served but for those that everybody has."""
        raise ClusterObjectMissing("it is not served", key=path)

    def now(self) -> datetime:
        return NOW

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        try:
            return deepcopy(self.bodies[kind.name, name])
        except KeyError:
            raise ClusterObjectMissing("not there", key=name) from None

    def find(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body | None:
        return deepcopy(self.bodies.get((kind.name, name)))

    def list(self, kind: Kind, *, labels: str | None = None, **_: Any) -> list[Body]:
        if self.failures:
            self.failures -= 1
            raise ClusterError("the API server does not answer")
        wanted = dict(one.split("=") for one in (labels or "").split(",") if "=" in one)
        return [
            deepcopy(body)
            for (name, _), body in sorted(self.bodies.items())
            if name == kind.name and wanted.items() <= (body["metadata"].get("labels") or {}).items()
        ]

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        if kind is EVENT:
            self.events.append(body)
            return body
        made = deepcopy(dict(body))
        made["metadata"]["uid"] = f"uid of {made['metadata']['name']}"
        self.bodies[kind.name, made["metadata"]["name"]] = made
        return deepcopy(made)

    def delete(self, kind: Kind, body: Body) -> None:
        del self.bodies[kind.name, body["metadata"]["name"]]

    def patch(self, kind: Kind, name: str, *, change: Body, **_: Any) -> Body:
        if self.before_patch:
            self.before_patch.pop(0)()
        found = self.bodies[kind.name, name]
        version = change["metadata"].get("resourceVersion")
        if version != found["metadata"]["resourceVersion"]:
            raise ClusterObjectExists("changed", key=name)
        part = "status" if kind is RESTORE_STATUS else "spec"
        found[part] = {**found[part], **change[part]}
        found["metadata"]["resourceVersion"] = str(int(version) + 1)
        return deepcopy(found)


OPTIONS = PopulateOptions(cluster_name="default", settings=MoverSettings(image="i", secret="s"))


def work(cluster: Cluster, cancel: Cancel | None = None) -> ClaimWork:
    return ClaimWork(cluster=cluster, progress=NoProgress(), cancel=cancel or Cancel(), clock=ManualClock())


class Unreachable(AbstractContextManager[RepositoryAccess]):
    """A repository that cannot be opened."""

    def __enter__(self) -> RepositoryAccess:
        raise StorageUnavailable("nobody answers", key="s3://b/p")

    def __exit__(self, *_: object) -> None:
        pass
