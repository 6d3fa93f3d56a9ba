"""Claims that are there, restored: workloads stopped and started, volumes exchanged; killed half-way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from pvback.cluster import replacing
from pvback.cluster.client import Cluster as Door
from pvback.cluster.kinds import CLAIM, VOLUME, Body, Kind
from pvback.cluster.replacing import Replacement
from pvback.errors import ClusterError, ClusterObjectMissing
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_targets import exchange, workloads_held
from pvback.runtime import Cancel, NoProgress, SystemClock
from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, die, digest_of, left_behind, make_claim, wait_nothing_left

pytestmark = pytest.mark.timeout(600)
SPOIL = "rm /data/f1; echo other > /data/f2; echo more > /data/extra"
FILL = "for i in $(seq 1 50); do echo file $i > /data/f$i; done"


def work(namespace: Namespace, script: str, *, name: str = "work", is_kept: bool = False) -> None:
    namespace.run(objects.pod(name, script, image=namespace.cluster.image, claims=["data"]))
    if not is_kept:
        namespace.delete("v1", "Pod", name)


def start(namespace: Namespace, kind: str, **wishes: Any) -> Callable[[], int]:
    """A workload that runs; how many of its pods are ready, then."""
    manifest = objects.workload(kind, "app", image=namespace.cluster.image, **wishes)
    namespace.create(manifest)

    def ready() -> int:
        return int(namespace.get("apps/v1", kind, "app").status.get("readyReplicas") or 0)

    wait_for(ready, lambda: f"{kind} is not ready:\n{namespace.events()}")
    return ready


def is_stopped(namespace: Namespace, kind: str) -> bool:
    found = namespace.get("apps/v1", kind, "app").to_dict()
    annotations = found["metadata"].get("annotations") or {}
    assert ("pvback.io/stopped" in annotations) == (found["spec"]["replicas"] == 0)
    return bool(found["spec"]["replicas"] == 0)


@pytest.fixture
def spoilt(fleet: Fleet, connected: Namespace) -> str:
    """The digest of what a claim had when it was backed up. It has other content, and a Deployment, now."""
    make_claim(connected, "data")
    work(connected, FILL)
    before = digest_of(connected, "data")
    fleet.good("pvc", "backup", f"{connected.name}/data")
    work(connected, SPOIL)
    return before


def test_replaced_undone_and_committed(fleet: Fleet, connected: Namespace, spoilt: str) -> None:
    target = f"{connected.name}/data"
    other = digest_of(connected, "data")
    labels = connected.get("v1", "PersistentVolumeClaim", "data").metadata.labels.to_dict()
    old = connected.wait_bound("data")
    ready = start(connected, "Deployment", claims=["data"])
    refused = fleet.run("pvc", "restore", target, "--replace").ended(11)
    assert "pods have the claim" in refused.err
    work(connected, "true", name="over", is_kept=True)
    refused = fleet.run("pvc", "restore", target, "--replace", "--scale-down").ended(11)
    assert "pods hold the claim: over" in refused.err
    connected.delete("v1", "Pod", "over")
    done = fleet.good("pvc", "restore", target, "--replace", "--scale-down", "--json")
    (summary,) = done.messages("summary")
    assert summary["stopped"] == [f"Deployment {connected.name}/app"]
    new = connected.wait_bound("data")
    assert new != old
    wait_for(ready, lambda: f"it does not run again:\n{connected.events()}")
    assert not is_stopped(connected, "Deployment")
    assert connected.get("v1", "PersistentVolumeClaim", "data").metadata.labels.to_dict() == labels
    volumes = connected.cluster.kind("v1", "PersistentVolume")
    assert volumes.get(name=old).spec.persistentVolumeReclaimPolicy == "Retain"
    assert volumes.get(name=new).spec.persistentVolumeReclaimPolicy == "Delete"

    def content() -> str:
        connected.cluster.kind("apps/v1", "Deployment").patch(
            name="app",
            namespace=connected.name,
            body={"spec": {"replicas": 0}},
            content_type="application/merge-patch+json",
        )
        pods = connected.cluster.kind("v1", "Pod")
        wait_for(lambda: not pods.get(namespace=connected.name).items, connected.events)
        return digest_of(connected, "data")

    assert content() == spoilt
    again = fleet.run("pvc", "restore", target, "--replace").ended(11)
    assert "previous volume is kept" in again.err
    work(connected, "true", name="over", is_kept=True)
    assert "pods hold the claim: over" in fleet.run("pvc", "undo", target).ended(11).err
    connected.delete("v1", "Pod", "over")
    assert "unfinished" not in fleet.good("pvc", "cleanup", "-n", connected.name).out
    assert connected.wait_bound("data") == new, "what was refused is not done by a cleanup"
    fleet.good("pvc", "undo", target)
    assert (connected.wait_bound("data"), digest_of(connected, "data")) == (old, other)
    fleet.good("pvc", "undo", target)
    assert (connected.wait_bound("data"), digest_of(connected, "data")) == (new, spoilt)
    assert "is removed" in fleet.good("pvc", "commit", target).out
    wait_for(lambda: old not in {one.metadata.name for one in volumes.get().items}, lambda: f"{old} stays")
    assert "no previous volume" in fleet.run("pvc", "undo", target).ended(2).err
    assert digest_of(connected, "data") == spoilt


def test_a_stateful_set_is_stopped_and_started(fleet: Fleet, connected: Namespace) -> None:
    ready = start(connected, "StatefulSet", claims=[], template="data")
    target = f"{connected.name}/data-app-0"
    fleet.good("pvc", "backup", target)
    done = fleet.good("pvc", "restore", target, "--in-place", "--scale-down", "--json")
    (summary,) = done.messages("summary")
    assert summary["stopped"] == [f"StatefulSet {connected.name}/app"]
    wait_for(ready, lambda: f"it does not run again:\n{connected.events()}")
    assert not is_stopped(connected, "StatefulSet")


def test_a_pod_that_nobody_brings_back(fleet: Fleet, connected: Namespace, spoilt: str) -> None:
    manifest = objects.pod("lonely", "sleep 1000", image=connected.cluster.image, claims=["data"])
    connected.create(manifest)
    connected.wait_phase("lonely", "Running")
    for way in ("--in-place", "--replace"):
        words = ("pvc", "restore", f"{connected.name}/data", way, "--scale-down")
        assert "belongs to nothing, which pvback does not stop" in fleet.run(*words).ended(11).err
    assert connected.get("v1", "Pod", "lonely").status.phase == "Running"
    connected.delete("v1", "Pod", "lonely")
    assert digest_of(connected, "data") != spoilt, "nothing was restored"


def test_killed_while_it_writes(fleet: Fleet, connected: Namespace, spoilt: str) -> None:
    """What is half restored is not started, by nobody but who says so; a restore that ends starts it."""
    target = f"{connected.name}/data"
    ready = start(connected, "Deployment", claims=["data"])
    words = ("pvc", "restore", target, "--in-place", "--scale-down")
    with fleet.start(*words, "--image", "localhost/none:1") as process:
        wait_for(lambda: any("Job" in one for one in left_behind(connected)), lambda: "no Job is made")
        process.kill()
        process.wait()
    assert is_stopped(connected, "Deployment")
    fleet.good("pvc", "cleanup", "-n", connected.name)
    assert is_stopped(connected, "Deployment"), "its run may live"
    die(connected)
    said = fleet.run("pvc", "cleanup", "-n", connected.name).ended(3)
    assert "half restored" in said.err
    assert is_stopped(connected, "Deployment")
    fleet.good(*words)
    assert not is_stopped(connected, "Deployment")
    wait_for(ready, lambda: f"it does not run again:\n{connected.events()}")


def test_scaled_up_by_hand(fleet: Fleet, connected: Namespace, spoilt: str) -> None:
    target = f"{connected.name}/data"
    ready = start(connected, "Deployment", claims=["data"])
    with fleet.start(
        "pvc", "restore", target, "--in-place", "--scale-down", "--image", "localhost/none:1"
    ) as one:
        wait_for(lambda: any("Job" in one for one in left_behind(connected)), lambda: "no Job is made")
        one.kill()
        one.wait()
    die(connected)
    fleet.good("pvc", "cleanup", "-n", connected.name, "--scale-up")
    wait_for(ready, lambda: f"it does not run again:\n{connected.events()}")


def test_a_restore_that_fails_starts_what_it_stopped(fleet: Fleet, connected: Namespace, spoilt: str) -> None:
    """With `--replace` the workload is not even stopped before the new volume is whole."""
    ready = start(connected, "Deployment", claims=["data"])
    before = connected.wait_bound("data")
    words = ("--replace", "--scale-down", "--image", "localhost/none:1", "--start-timeout", "5")
    fleet.run("pvc", "restore", f"{connected.name}/data", *words).ended(40)
    assert ready() == 1
    assert connected.wait_bound("data") == before
    wait_nothing_left(connected)


class Told(NoProgress):
    """What was said aloud."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, what: str) -> None:
        self.warnings.append(what)


class Failing(Door):
    """An API server that makes no claim."""

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        if kind is CLAIM and not dry_run:
            raise ClusterError("made to fail")
        return super().create(kind, body, dry_run=dry_run)


def test_an_exchange_that_fails_halfway_starts_nothing(fleet: Fleet, namespace: Namespace) -> None:
    """The claim is gone then, and a StatefulSet would make an empty one of its name."""
    ready = start(namespace, "StatefulSet", claims=[], template="data")
    staging = objects.claim("new", storage_class="csi-immediate")
    staging["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "pvback"}
    namespace.create(staging)
    new = namespace.wait_bound("new")
    claim, told = Claim(namespace.name, "data-app-0"), Told()
    work = ClaimWork(
        cluster=Failing.connect(kubeconfig=str(fleet.kubeconfig)),
        progress=told,
        cancel=Cancel(),
        clock=SystemClock(),
    )
    with pytest.raises(ClusterError, match="made to fail"), workloads_held(work, claim, may_stop=True):
        exchange(work, claim, mounted="new", snapshot="0" * 32)
    assert is_stopped(namespace, "StatefulSet")
    assert namespace.is_gone("v1", "PersistentVolumeClaim", claim.name)
    assert any("stays down" in one for one in told.warnings)
    fleet.good("pvc", "cleanup", "-n", namespace.name)
    assert namespace.wait_bound(claim.name) == new
    wait_for(ready, namespace.events)
    fleet.good("pvc", "commit", str(claim))


class Death(BaseException):
    """The process is gone."""


class Mortal(Door):
    """Dies before its n-th change."""

    left = 1 << 30

    def _ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        if method != "GET":
            self.left -= 1
            if self.left < 0:
                raise Death
        return super()._ask(method, path, **given)


@dataclass(frozen=True)
class Exchange:
    """Two volumes, one of them the claim's."""

    namespace: Namespace
    door: Mortal
    claim: Claim

    def begin(self, new: str) -> Replacement:
        return replacing.begin(self.door, self.body(), volume=new, snapshot="0" * 32)

    def exchange(self, new: str) -> Replacement:
        return self.complete(self.begin(new))

    def complete(self, found: Replacement) -> Replacement:
        return replacing.complete(self.door, found, clock=SystemClock())

    def found(self) -> Replacement | None:
        return replacing.find_replacement(self.door, self.claim)

    def body(self) -> Body:
        return self.door.get(CLAIM, self.claim.name, namespace=self.claim.namespace)

    def prepare(self) -> tuple[str, str]:
        """The claim's volume, and that of another claim of ours."""
        for name in ("data", "new"):
            manifest = objects.claim(name, storage_class="csi-immediate")
            if name == "new":
                manifest["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "pvback"}
            if self.namespace.is_gone("v1", "PersistentVolumeClaim", name):
                self.namespace.create(manifest)
        return self.namespace.wait_bound("data"), self.namespace.wait_bound("new")

    def dies(self, count: int, action: Callable[[], object]) -> bool:
        """Whether it dies before its change of this number."""
        self.door.left = count
        try:
            action()
        except Death:
            return True
        finally:
            self.door.left = 1 << 30
        return False

    def clean_up(self) -> None:
        """What becomes of a dead run: its claim goes, whatever state that is in."""
        if not self.namespace.is_gone("v1", "PersistentVolumeClaim", "new"):
            volume = self.namespace.wait_bound("new")
            self.namespace.delete("v1", "PersistentVolumeClaim", "new")
            wait_for(lambda: self.is_settled(volume), lambda: f"volume {volume} is still bound")
        found = self.found()
        if found is not None and replacing.is_void(self.door, found):
            replacing.forget(self.door, found)
        elif found is not None and not found.is_complete:
            self.complete(found)

    def is_settled(self, volume: str) -> bool:
        try:
            spec = self.door.get(VOLUME, volume)
        except ClusterObjectMissing:
            return True
        kept = spec["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        return bool(
            (kept and spec["status"]["phase"] != "Bound") or spec["spec"]["claimRef"]["name"] == "data"
        )


def test_killed_between_any_two_changes(fleet: Fleet, namespace: Namespace) -> None:
    """An exchange of volumes and its undo, killed before each of their changes: whole, or not begun."""
    door = Mortal.connect(kubeconfig=str(fleet.kubeconfig))
    both = Exchange(namespace, door, Claim(namespace.name, "data"))
    count, is_dying, seen = 0, True, set()
    while is_dying:
        old, new = both.prepare()
        is_dying = both.dies(count, partial(both.exchange, new))
        both.clean_up()
        found = both.found()
        volume = namespace.wait_bound("data")
        assert volume == (old if found is None else new), count
        assert door.get(VOLUME, old)["status"]["phase"] != "Failed"
        seen.add(found is None)
        if found is not None:
            back = found.turned(replacing.again(both.body()))
            both.dies(count, partial(both.complete, back))
            both.clean_up()
            found = both.found()
            assert found is not None
            assert namespace.wait_bound("data") == found.current
            assert door.get(VOLUME, found.previous)["status"]["phase"] == "Released"
            assert replacing.commit(door, found)
        count += 1
    print(count, "changes")
    assert count > 6
    assert seen == {True, False}


def test_the_only_volume_that_is_left_stays_retained(fleet: Fleet, namespace: Namespace) -> None:
    """Who deletes the restored volume in the middle of an exchange has lost that one, and no other."""
    door = Mortal.connect(kubeconfig=str(fleet.kubeconfig))
    both = Exchange(namespace, door, Claim(namespace.name, "data"))
    old, new = both.prepare()
    # Both volumes are retained then, both claims gone, and the new volume is not yet the claim's.
    assert both.dies(5, partial(both.complete, both.begin(new)))
    for name in ("data", "new"):
        wait_for(partial(namespace.is_gone, "v1", "PersistentVolumeClaim", name), namespace.events)
    volumes = namespace.cluster.kind("v1", "PersistentVolume")
    volumes.delete(name=new)
    wait_for(lambda: new not in {one.metadata.name for one in volumes.get().items}, lambda: f"{new} stays")
    failed = fleet.run("pvc", "cleanup", "-n", namespace.name).ended(3)
    assert new in failed.err
    assert volumes.get(name=old).spec.persistentVolumeReclaimPolicy == "Retain"
    fleet.good("pvc", "undo", f"{namespace.name}/data")
    assert namespace.wait_bound("data") == old
    assert volumes.get(name=old).spec.persistentVolumeReclaimPolicy == "Delete"
    fleet.good("pvc", "commit", f"{namespace.name}/data")
