"""The cluster as the tests see it: the client library, and waits that say what they waited for."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from tests.cluster.objects import Manifest

T = TypeVar("T")

WAIT_SECONDS_MAX = 60.0
POLL_SECONDS_MIN = 0.1
POLL_SECONDS_MAX = 0.5
"""What is waited for long is asked for less often: each look costs the API server as much as the test."""
LOG_END = "pvback-test-end"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that answers, and what its administrator calls things."""

    kubeconfig: Path
    api: Any
    dynamic: Any
    is_local: bool
    image: str
    storage_class: str
    snapshot_class: str
    host_address: str
    """Where a pod reaches a server that a test has started; "" when it cannot."""

    def create(self, manifest: Manifest, *, namespace: str | None = None) -> Any:
        """Create an object of any kind."""
        return self.resource(manifest).create(body=manifest, namespace=namespace)

    def resource(self, manifest: Manifest) -> Any:
        """The kind of an object."""
        return self.dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])

    def kind(self, api_version: str, kind: str) -> Any:
        """A kind by its name."""
        return self.dynamic.resources.get(api_version=api_version, kind=kind)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A namespace of one test."""

    cluster: Cluster
    name: str

    def create(self, manifest: Manifest) -> Any:
        """Create an object in it."""
        return self.cluster.create(manifest, namespace=self.name)

    def get(self, api_version: str, kind: str, name: str) -> Any:
        """An object of it as it is now."""
        return self.cluster.kind(api_version, kind).get(name=name, namespace=self.name)

    def delete(self, api_version: str, kind: str, name: str) -> None:
        """Delete an object and wait until it is gone."""
        self.cluster.kind(api_version, kind).delete(name=name, namespace=self.name)
        wait_for(lambda: self.is_gone(api_version, kind, name), lambda: f"{kind} {name} stays")

    def is_gone(self, api_version: str, kind: str, name: str) -> bool:
        """Whether there is no such object."""
        try:
            self.get(api_version, kind, name)
        except NotFoundError:
            return True
        return False

    def run(self, manifest: Manifest) -> str:
        """What the script of a new pod prints, when it has done its work. One that fails, fails the test.

        A pod may be over before all that it has printed is in its log, so the script says where that ends.
        Two streams would come into the log in any order.
        """
        made = copy.deepcopy(manifest)
        command = made["spec"]["containers"][0]["command"]
        command[-1] = f"exec 2>&1\ntrap 'echo {LOG_END}' EXIT\n{command[-1]}"
        name = self.create(made).metadata.name
        phase = self.wait_phase(name, "Succeeded", "Failed")
        assert phase == "Succeeded", f"pod {name} failed:\n{self.log(name)}"
        end = f"{LOG_END}\n"

        def look() -> str | None:
            log = self.log(name)
            return log if log.endswith(end) else None

        log = wait_for(look, lambda: f"the log of pod {name} has no end:\n{self.log(name)}")
        return log.removesuffix(end)

    def wait_phase(self, pod: str, *phases: str) -> str:
        """The phase of a pod when it is one of these."""

        def look() -> str | None:
            phase = self.get("v1", "Pod", pod).status.phase
            return str(phase) if phase in phases else None

        return wait_for(look, lambda: f"pod {pod} is not {' or '.join(phases)}:\n{self.events()}")

    def log(self, pod: str) -> str:
        """What a pod has printed."""
        core = kubernetes.client.CoreV1Api(self.cluster.api)
        return str(core.read_namespaced_pod_log(pod, self.name))

    def events(self) -> str:
        """What has happened in the namespace, in the words of Kubernetes."""
        listed = self.cluster.kind("v1", "Event").get(namespace=self.name).items
        lines = [f"{one.involvedObject.kind} {one.involvedObject.name}: {one.message}" for one in listed]
        return "\n".join(lines)

    def wait_bound(self, claim: str) -> str:
        """The volume of a claim when it has one."""

        def look() -> str | None:
            found = self.get("v1", "PersistentVolumeClaim", claim)
            return str(found.spec.volumeName) if found.status.phase == "Bound" else None

        return wait_for(look, lambda: f"claim {claim} is not bound:\n{self.events()}")

    def wait_ready(self, manifest: Manifest) -> Any:
        """A volume snapshot, or a group of them, when it can be used."""
        name = manifest["metadata"]["name"]

        def look() -> Any:
            found = self.cluster.resource(manifest).get(name=name, namespace=self.name)
            status = found.get("status") or {}
            return found if status.get("readyToUse") else None

        return wait_for(look, lambda: f"{manifest['kind']} {name} is not ready:\n{self.events()}")


def wait_for(
    look: Callable[[], T | None], what: Callable[[], str], *, seconds: float = WAIT_SECONDS_MAX
) -> T:
    """What `look` finds. Raises AssertionError with the words of `what`, asked when time is up."""
    start = time.monotonic()
    while True:
        if found := look():
            return found
        waited = time.monotonic() - start
        if waited > seconds:
            raise AssertionError(what())
        time.sleep(min(max(POLL_SECONDS_MIN, waited / 10), POLL_SECONDS_MAX))


def connect(kubeconfig: Path, **facts: Any) -> Cluster:
    """The cluster of a kubeconfig. Raises what the client library raises when it does not answer."""
    make_api: Any = kubernetes.config.new_client_from_config
    make_dynamic: Any = DynamicClient
    api = make_api(config_file=str(kubeconfig))
    return Cluster(kubeconfig=kubeconfig, api=api, dynamic=make_dynamic(api), **facts)


@contextlib.contextmanager
def new_namespace(cluster: Cluster, manifest: Manifest) -> Iterator[Namespace]:
    """A namespace that is deleted afterwards, when its volumes and volume snapshots are gone."""
    name = cluster.create(manifest).metadata.name
    found = Namespace(cluster=cluster, name=name)
    # A pod that comes before its account would be refused.
    wait_for(lambda: not found.is_gone("v1", "ServiceAccount", "default"), lambda: "no default account")
    try:
        yield found
    finally:
        # One by one: a namespace takes ten seconds to find out that a claim waited for its pod.
        for api_version, kind in _CONTENT:
            # The client deletes all only of what is selected.
            all_of_it = f"metadata.namespace={name}"
            cluster.kind(api_version, kind).delete(namespace=name, field_selector=all_of_it, body=_AT_ONCE)
        wait_for(lambda: not _volumes_of(cluster, name), lambda: f"left: {_volumes_of(cluster, name)}")
        cluster.kind("v1", "Namespace").delete(name=name)


_AT_ONCE = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
# Who makes pods goes before them, and pods before what they use.
_CONTENT = (
    ("batch/v1", "CronJob"),
    ("batch/v1", "Job"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("v1", "Pod"),
    ("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshot"),
    ("snapshot.storage.k8s.io/v1", "VolumeSnapshot"),
    ("v1", "PersistentVolumeClaim"),
)


def wait_until_gone(cluster: Cluster, names: Sequence[str]) -> None:
    """Return when none of these namespaces is left."""
    kind = cluster.kind("v1", "Namespace")

    def left() -> dict[str, Any]:
        return {one.metadata.name: one.status for one in kind.get().items if one.metadata.name in names}

    wait_for(lambda: not left(), lambda: f"namespaces stay: {left()}")


def _volumes_of(cluster: Cluster, namespace: str) -> list[str]:
    """Volumes and contents of volume snapshots that were made for a namespace and go with it."""
    left = []
    for volume in cluster.kind("v1", "PersistentVolume").get().items:
        owner = volume.spec.claimRef
        is_kept = volume.spec.persistentVolumeReclaimPolicy == "Retain"
        if owner and owner.namespace == namespace and not is_kept:
            left.append(f"PersistentVolume {volume.metadata.name}")
    contents = cluster.kind("snapshot.storage.k8s.io/v1", "VolumeSnapshotContent").get().items
    return left + [
        f"VolumeSnapshotContent {content.metadata.name}"
        for content in contents
        if content.spec.volumeSnapshotRef.namespace == namespace and content.spec.deletionPolicy == "Delete"
    ]
