"""pvback killed before each change that it makes to a cluster: then `cleanup`, and the next run."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, die, digest_of, make_claim, wait_nothing_left

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


def kill_at_each_change(fleet: Fleet, namespace: Namespace, *words: str) -> Iterator[int]:
    """Numbers of changes before which it was killed, each after a cleanup that left nothing."""
    for count in range(CHANGES_MAX):
        argv = [sys.executable, "-m", "tests.cluster.mortal", str(count), *words]
        done = subprocess.run(
            argv, check=False, cwd=ROOT, env=fleet.environment, capture_output=True, text=True
        )
        if done.returncode == 0:
            print(count, "changes")
            return
        assert done.returncode == -signal.SIGKILL, (count, done.returncode, done.stderr)
        die(namespace)
        fleet.good("pvc", "cleanup", "-n", namespace.name)
        wait_nothing_left(namespace)
        yield count
    pytest.fail("it does not end")


def test_a_backup(fleet: Fleet, filled: Namespace) -> None:
    counts = []
    words = ("pvc", "backup", f"{filled.name}/data", "--method", "snapshot")
    for count in kill_at_each_change(fleet, filled, *words):
        counts.append(count)
        assert not filled.is_gone("v1", "PersistentVolumeClaim", "data")
    assert len(counts) >= 5, "a run, a volume snapshot, a claim of it, what the mover is told, the mover"
    assert len(fleet.snapshots(filled)) >= 2


def test_a_restore(fleet: Fleet, filled: Namespace) -> None:
    """The claim that it makes is there when it was whole, and else it is not."""
    before = digest_of(filled, "data")
    seen = set()
    for _ in kill_at_each_change(fleet, filled, "pvc", "restore", f"{filled.name}/data", "--to", "again"):
        is_gone = filled.is_gone("v1", "PersistentVolumeClaim", "again")
        seen.add(is_gone)
        if not is_gone:
            assert digest_of(filled, "again") == before
            filled.delete("v1", "PersistentVolumeClaim", "again")
    assert True in seen
    assert digest_of(filled, "again") == before


def test_in_place_with_a_workload(fleet: Fleet, filled: Namespace) -> None:
    """The workload runs again once a restore has ended, and not before while its data may be half there."""
    before = digest_of(filled, "data")
    manifest = objects.workload("Deployment", "app", image=filled.cluster.image, claims=["data"])
    filled.create(manifest)

    def is_ready() -> bool:
        return bool(filled.get("apps/v1", "Deployment", "app").status.get("readyReplicas"))

    wait_for(is_ready, filled.events)
    words = ("pvc", "restore", f"{filled.name}/data", "--in-place", "--scale-down")
    count = 0
    while True:
        argv = [sys.executable, "-m", "tests.cluster.mortal", str(count), *words]
        done = subprocess.run(
            argv, check=False, cwd=ROOT, env=fleet.environment, capture_output=True, text=True
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, (count, done.returncode, done.stderr)
        die(filled)
        cleaned = fleet.run("pvc", "cleanup", "-n", filled.name).ended(0, 3)
        wait_nothing_left(filled)
        found = filled.get("apps/v1", "Deployment", "app").to_dict()
        stopped = (found["metadata"].get("annotations") or {}).get("pvback.io/stopped")
        assert (cleaned.code == 3) == (stopped is not None) == (found["spec"]["replicas"] == 0), count
        count += 1
        assert count < CHANGES_MAX
    print(count, "changes")
    assert count >= 5
    wait_for(is_ready, filled.events)
    filled.delete("apps/v1", "Deployment", "app")
    assert digest_of(filled, "data") == before
