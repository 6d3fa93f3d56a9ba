"""What goes wrong with a mover at work: it is told, nothing is left behind, and the next run goes on."""

from collections.abc import Iterator
from pathlib import Path

import kubernetes
import pytest

from tests.cluster.client import Cluster, Namespace
from tests.cluster.fleet import Fleet, digest_of, make_claim, wait_nothing_left, writer_pod
from tests.cluster.local.images import load_image, make_glutton
from tests.cluster.local.programs import find_programs
from tests.cluster.slow import LITTLE_MEMORY, make_slow, mover_of, next_run

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def slow(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim whose backup takes a while."""
    make_slow(fleet, namespace)
    yield namespace
    wait_nothing_left(namespace)


def test_evicted(fleet: Fleet, slow: Namespace) -> None:
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live", *LITTLE_MEMORY) as process:
        pod = mover_of(slow)
        eviction = kubernetes.client.V1Eviction(
            metadata=kubernetes.client.V1ObjectMeta(name=pod, namespace=slow.name)
        )
        kubernetes.client.CoreV1Api(slow.cluster.api).create_namespaced_pod_eviction(pod, slow.name, eviction)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 40, err
    assert "evict" in err.lower()
    wait_nothing_left(slow)
    assert fleet.snapshots(slow) == []
    assert next_run(fleet, slow)["resumed"] is not None


def test_interrupted_in_the_middle(fleet: Fleet, slow: Namespace) -> None:
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live", *LITTLE_MEMORY) as process:
        mover_of(slow)
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    wait_nothing_left(slow)
    result = next_run(fleet, slow)
    # Two minutes may have been enough for all of it.
    assert result["resumed"] is not None or result["parent"] is not None
    fleet.good("pvc", "restore", f"{slow.name}/data", "--to", "again")
    slow.delete("v1", "Pod", "app")
    assert digest_of(slow, "again") == digest_of(slow, "data")


def test_the_mover_is_killed(fleet: Fleet, slow: Namespace) -> None:
    """As by the kernel: it leaves no word, and is not believed to have done its work."""
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
        pod = mover_of(slow)
        slow.cluster.kind("v1", "Pod").delete(name=pod, namespace=slow.name, body={"gracePeriodSeconds": 0})
        _, err = process.communicate(timeout=120)
    assert process.returncode not in (0, 3), err
    wait_nothing_left(slow)
    assert fleet.snapshots(slow) == []
    next_run(fleet, slow)
    assert len(fleet.snapshots(slow)) == 1


def test_out_of_memory(fleet: Fleet, namespace: Namespace, local_cluster: Cluster, tmp_path: Path) -> None:
    """The kernel ends a mover that needs more than its limit, and that is what is said."""
    fleet.connect(namespace)
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    image, archive = make_glutton(tmp_path, busybox=Path("/bin/busybox"))
    load_image(archive, programs=find_programs())
    failed = fleet.run("pvc", "backup", f"{namespace.name}/data", "--image", image).ended(40)
    assert "memory" in failed.err.lower()
    assert "--mover-memory" in failed.err
    wait_nothing_left(namespace)
    assert fleet.snapshots(namespace) == []
