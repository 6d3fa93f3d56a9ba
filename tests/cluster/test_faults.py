"""What goes wrong while a mover works: it is told, nothing is left behind, and the next run goes on."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Fleet, die, digest_of, make_claim, wait_nothing_left, writer_pod
from tests.cluster.local import layout, nodes, processes
from tests.cluster.local.images import load_image, make_glutton
from tests.cluster.local.programs import find_programs

ROOT = Path(__file__).parents[2]
MEBIBYTES = 384
RATE = 4 << 20
"""Bytes a second: a backup takes over a minute, and what is on its way at its end a part of its grace."""
FILL = f"for i in 1 2 3 4; do dd if=/dev/urandom of=/data/f$i bs=1M count={MEBIBYTES // 4} 2>/dev/null; done"

pytestmark = [pytest.mark.timeout(600), pytest.mark.alone]


@pytest.fixture
def slow(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim whose backup takes a while."""
    fleet.connect(namespace)
    set_rate(namespace, RATE)
    make_claim(namespace, "data", size="512Mi")
    writer_pod(namespace, "app", "data", FILL)
    yield namespace
    wait_nothing_left(namespace)


def set_rate(namespace: Namespace, rate: int | None) -> None:
    """Let the movers of a namespace send so fast."""
    secret = namespace.get("v1", "Secret", "pvback-repository")
    lines = base64.b64decode(secret.data["config.toml"]).decode().splitlines()
    kept = [line for line in lines if not line.startswith("upload_bytes_per_second")]
    config = "\n".join([*([f"upload_bytes_per_second = {rate}"] if rate else []), *kept])
    change = {"data": {"config.toml": base64.b64encode(config.encode()).decode()}}
    namespace.cluster.kind("v1", "Secret").patch(
        name="pvback-repository",
        namespace=namespace.name,
        body=change,
        content_type="application/merge-patch+json",
    )


def mover_of(namespace: Namespace) -> str:
    """The pod of the mover, when it has sent something."""

    def look() -> str | None:
        pods = namespace.cluster.kind("v1", "Pod").get(
            namespace=namespace.name,
            label_selector="pvback.io/role=mover",
            field_selector="status.phase=Running",
        )
        for one in pods.items:
            name = str(one.metadata.name)
            if '"stored_bytes": ' in namespace.log(name):
                return name
        return None

    return wait_for(look, lambda: f"no mover works: {namespace.events()}")


def start_again(name: str) -> None:
    """From a process of its own, which does not wait for what it has started."""
    code = f"from tests.cluster.local import processes; processes.again({name!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def start_again_node(name: str) -> None:
    """Likewise."""
    code = (
        "from tests.cluster.local import layout, nodes; "
        f"nodes.start_node(next(one for one in layout.NODES if one.name == {name!r}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def next_run(fleet: Fleet, slow: Namespace) -> dict[str, Any]:
    """What the next backup reports, at full speed."""
    set_rate(slow, None)
    (claim,) = fleet.good("pvc", "backup", f"{slow.name}/data", "--json").messages("claim")
    found: dict[str, Any] = claim["result"]
    return found


def test_evicted(fleet: Fleet, slow: Namespace) -> None:
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
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
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
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


def test_the_api_server_is_restarted(fleet: Fleet, slow: Namespace, local_cluster: Cluster) -> None:
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--json") as process:
        mover_of(slow)
        processes.stop("kube-apiserver", kill=True)
        start_again("kube-apiserver")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    wait_nothing_left(slow)
    assert len(fleet.snapshots(slow)) == 1


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


@pytest.mark.timeout(1200)
def test_the_node_dies(fleet: Fleet, slow: Namespace, local_cluster: Cluster) -> None:
    """Power cut under a mover: told, and when the node is back nothing is left, and the next run goes on."""
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
        pod = mover_of(slow)
        name = slow.get("v1", "Pod", pod).spec.nodeName
        node = next(one for one in layout.NODES if one.name == name)
        nodes.stop_machine(node)
        try:
            # Until the node is known to be gone, then twice the grace that a mover has.
            _, err = process.communicate(timeout=600)
        finally:
            start_again_node(name)
    assert process.returncode == 40, err
    assert "node" in err.lower()
    die(slow)
    wait_for(lambda: is_ready(local_cluster, name), lambda: f"node {name} is not ready")
    fleet.good("pvc", "cleanup", "-n", slow.name)
    wait_nothing_left(slow)
    # What used the claim has gone with its node, and nothing makes it again.
    next_run(fleet, slow)
    assert len(fleet.snapshots(slow)) == 1


def is_ready(cluster: Cluster, node: str) -> bool:
    status = cluster.kind("v1", "Node").get(name=node).status
    return any(one.type == "Ready" and one.status == "True" for one in status.conditions)
