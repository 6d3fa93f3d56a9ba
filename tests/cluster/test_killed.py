"""pvback killed before each change that it makes to a cluster: then `cleanup`, and the next run."""

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Done, Fleet, die, digest_of, make_claim, wait_nothing_left

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
CHANGES_MAX = 40


@pytest.fixture
def filled(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim that has been backed up once."""
    fleet.connect(namespace)
    make_claim(namespace, "data")
    namespace.run(objects.pod("fill", "echo x > /data/x", image=namespace.cluster.image, claims=["data"]))
    namespace.delete("v1", "Pod", "fill")
    fleet.good("pvc", "backup", f"{namespace.name}/data")
    yield namespace
    wait_nothing_left(namespace)


def kill_at_each_change(fleet: Fleet, namespace: Namespace, *words: str) -> Iterator[Done]:
    """Kill it before its first change, its second, and so on: what a cleanup says, which leaves nothing."""
    for count in range(CHANGES_MAX):
        done = fleet.mortal(count, *words)
        if done.returncode == 0:
            print(count, "changes")
            return
        assert done.returncode == -signal.SIGKILL, (count, done.returncode, done.stderr)
        die(namespace)
        cleaned = fleet.run("pvc", "cleanup", "-n", namespace.name).ended(0, 3)
        wait_nothing_left(namespace)
        yield cleaned
    pytest.fail("it does not end")


def stopped_words(namespace: Namespace, kind: str) -> str | None:
    """What is written on a workload that is down, and on no other."""
    found = namespace.get("apps/v1", kind, "app").to_dict()
    words: str | None = (found["metadata"].get("annotations") or {}).get("pvback.io/stopped")
    assert (words is not None) == (found["spec"]["replicas"] == 0)
    return words


def is_ready(namespace: Namespace, kind: str) -> bool:
    return bool(namespace.get("apps/v1", kind, "app").status.get("readyReplicas"))


@pytest.mark.long
def test_a_backup(fleet: Fleet, filled: Namespace) -> None:
    count = 0
    words = ("pvc", "backup", f"{filled.name}/data", "--method", "snapshot")
    for cleaned in kill_at_each_change(fleet, filled, *words):
        count += 1
        assert cleaned.code == 0
        assert not filled.is_gone("v1", "PersistentVolumeClaim", "data")
    assert count >= 5, "a run, a volume snapshot, a claim of it, what the mover is told, the mover"
    assert len(fleet.snapshots(filled)) >= 2


@pytest.mark.long
def test_a_restore(fleet: Fleet, filled: Namespace) -> None:
    """The claim that it makes is there when it was whole, and else it is not."""
    before = digest_of(filled, "data")
    seen = set()
    for cleaned in kill_at_each_change(
        fleet, filled, "pvc", "restore", f"{filled.name}/data", "--to", "again"
    ):
        assert cleaned.code == 0
        is_gone = filled.is_gone("v1", "PersistentVolumeClaim", "again")
        seen.add(is_gone)
        if not is_gone:
            assert digest_of(filled, "again") == before
            filled.delete("v1", "PersistentVolumeClaim", "again")
    assert True in seen
    assert digest_of(filled, "again") == before


@pytest.mark.long
def test_in_place_with_a_workload(fleet: Fleet, filled: Namespace) -> None:
    """The workload runs again once a restore has ended, and not before while its data may be half there."""
    before = digest_of(filled, "data")
    filled.create(objects.workload("Deployment", "app", image=filled.cluster.image, claims=["data"]))
    ready = partial(is_ready, filled, "Deployment")
    wait_for(ready, filled.events)
    words = ("pvc", "restore", f"{filled.name}/data", "--in-place", "--scale-down")
    codes = [
        (cleaned.code, stopped_words(filled, "Deployment") is not None)
        for cleaned in kill_at_each_change(fleet, filled, *words)
    ]
    assert set(codes) == {(0, False), (3, True)}
    wait_for(ready, filled.events)
    filled.delete("apps/v1", "Deployment", "app")
    assert digest_of(filled, "data") == before


@pytest.mark.long
def test_replaced_with_a_workload(fleet: Fleet, filled: Namespace) -> None:
    """A StatefulSet would make an empty claim of that name: it has the one volume or the other."""
    ready = partial(is_ready, filled, "StatefulSet")
    manifest = objects.workload("StatefulSet", "app", image=filled.cluster.image, claims=[], template="data")
    filled.create(manifest)
    wait_for(ready, filled.events)
    target = f"{filled.name}/data-app-0"
    fleet.good("pvc", "backup", target)
    volumes = {filled.wait_bound("data-app-0")}
    words = ("pvc", "restore", target, "--replace", "--scale-down")
    for cleaned in kill_at_each_change(fleet, filled, *words):
        assert cleaned.code == 0
        assert stopped_words(filled, "StatefulSet") is None
        wait_for(ready, filled.events)
        volume = filled.wait_bound("data-app-0")
        if volume not in volumes:
            volumes.add(volume)
            found = filled.cluster.kind("v1", "PersistentVolume").get(name=volume)
            assert found.spec.persistentVolumeReclaimPolicy == "Delete", "it is in use as any other"
            fleet.good("pvc", "commit", target)
    assert len(volumes) > 1, "some were completed by the cleanup"
    fleet.good("pvc", "commit", target)
