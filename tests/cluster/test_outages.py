"""The API server hangs or is restarted, a kubelet or a node is gone, while a claim is backed up.

pvback tells the truth, nothing is left behind in the end, and the next run goes on.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import ROOT, Fleet, die, make_claim, wait_nothing_left, writer_pod
from tests.cluster.local import layout, nodes, processes
from tests.cluster.slow import make_slow, mover_of, next_run
from tests.cluster.test_capture import stored as captured
from tests.cluster.test_hooks import Application, hook

pytestmark = [pytest.mark.timeout(600), pytest.mark.alone]
NODE = next(one for one in layout.NODES if one.name == "n2")
KUBELET = f"kubelet-{NODE.name}"
RUNTIME = f"containerd-{NODE.name}"
API_SERVER = "kube-apiserver"
FILL = "head -c 16777216 /dev/urandom > /tmp/part; echo /tmp/part; while true; do sleep 1; done"
HANG_SECONDS = 20
LEASE_SECONDS = 8


@pytest.fixture
def slow(fleet: Fleet, namespace: Namespace, local_cluster: Cluster) -> Iterator[Namespace]:
    """A namespace with a claim on one node whose backup takes a while."""
    make_slow(fleet, namespace, node=NODE.name)
    yield namespace
    wait_nothing_left(namespace)


def start_again(code: str) -> None:
    """From a process of its own, which does not wait for what it has started."""
    code = f"from tests.cluster.local import layout, nodes, processes; {code}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def is_ready(cluster: Cluster) -> bool:
    status = cluster.kind("v1", "Node").get(name=NODE.name).status
    return any(one.type == "Ready" and one.status == "True" for one in status.conditions)


def wait_ready(cluster: Cluster) -> None:
    wait_for(lambda: is_ready(cluster), lambda: f"node {NODE.name} is not ready")


def host_uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def test_the_api_server_is_restarted(fleet: Fleet, slow: Namespace) -> None:
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--json") as process:
        mover_of(slow)
        processes.stop(API_SERVER, kill=True)
        start_again(f"processes.again({API_SERVER!r})")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    wait_nothing_left(slow)
    assert len(fleet.snapshots(slow)) == 1


def test_the_api_server_hangs(fleet: Fleet, slow: Namespace) -> None:
    """For shorter than it is asked again: nobody notices but for the time."""
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--json") as process:
        mover_of(slow)
        with processes.held(API_SERVER), pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=HANG_SECONDS)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    wait_nothing_left(slow)
    assert len(fleet.snapshots(slow)) == 1


def test_the_api_server_hangs_while_an_application_holds_still(
    fleet: Fleet, namespace: Namespace, local_cluster: Cluster
) -> None:
    """Nobody can let it go then but its own lease, and what would be copied after that is not stored."""
    fleet.connect(namespace)
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x; touch /tmp/journal", node=NODE.name)
    app = Application(namespace)
    app.annotate(hook(lease=LEASE_SECONDS))
    with fleet.start("pvc", "backup", app.claim, "--method", "snapshot") as process:
        # So that it is not cut before.
        with processes.held("csi-snapshotter"):
            app.wait_step("frozen")
            began = host_uptime()
            with processes.held(API_SERVER), pytest.raises(subprocess.TimeoutExpired):
                process.communicate(timeout=LEASE_SECONDS + 4)
            ended = host_uptime()
        _, err = process.communicate(timeout=200)
    assert process.returncode == 40, err
    assert "quiesce did not hold until the copy was made" in err
    times = {what: at for at, what in app.journal()}
    held = times["thawed"] - times["frozen"]
    print(f"held still for {held:.2f} s, the API server hung for {ended - began:.2f} s")
    assert LEASE_SECONDS - 0.5 < held < LEASE_SECONDS + 1
    assert began < times["thawed"] < ended
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    wait_nothing_left(namespace)
    assert fleet.snapshots(namespace) == []


def test_the_runtime_is_killed_under_a_capture(
    fleet: Fleet, namespace: Namespace, local_cluster: Cluster, seed: int
) -> None:
    """What came until then is never taken for all of it; once the runtime is back, it is captured whole."""
    box = objects.pod("box", FILL, image=local_cluster.image)
    box["spec"]["nodeSelector"] = {"kubernetes.io/hostname": NODE.name}
    namespace.create(box)
    namespace.wait_phase("box", "Running")
    wait_for(lambda: "/tmp/part" in namespace.log("box"), lambda: namespace.log("box"))
    words = ("pvc", "capture", f"{namespace.name}/box", "--name", "part.bin")
    enough = random.Random(seed).randrange(1, 64 << 20)
    endless = ("--no-digest", "--json", "--", "sh", "-c", "while true; do cat /tmp/part; done")
    with fleet.start(*words, *endless) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done_bytes", 0) >= enough:
                break
        processes.stop(RUNTIME, kill=True)
        try:
            _, err = process.communicate(timeout=120)
        finally:
            start_again(f"processes.again({RUNTIME!r})")
    print(f"after {enough} bytes:", err)
    assert process.returncode == 40, err
    assert captured(fleet, "part.bin") == []
    wait_ready(local_cluster)
    # The pod has lived on, and its first `cat` may not have heard that nobody reads.
    wait_for(
        lambda: fleet.run(*words, "--", "cat", "/tmp/part").code == 0,
        lambda: "the runtime does not come back",
    )
    assert len(captured(fleet, "part.bin")) == 1


def test_the_kubelet_is_started_again(fleet: Fleet, slow: Namespace) -> None:
    """Before the cluster takes the node's pods for lost: the mover has worked on, and its end is heard."""
    with fleet.start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
        mover_of(slow)
        processes.stop(KUBELET, kill=True)
        try:
            wait_for(lambda: not is_ready(slow.cluster), lambda: "nobody misses the kubelet")
        finally:
            start_again(f"processes.again({KUBELET!r})")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    wait_nothing_left(slow)
    assert len(fleet.snapshots(slow)) == 1


def test_the_kubelet_stays_away(fleet: Fleet, slow: Namespace) -> None:
    """The mover works on and stores its snapshot, but nobody can say so: that is told, and found later."""
    with fleet.hasty().start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
        mover_of(slow)
        processes.stop(KUBELET, kill=True)
        try:
            _, err = process.communicate(timeout=200)
        finally:
            start_again(f"processes.again({KUBELET!r})")
    assert process.returncode == 40, err
    assert "it does not end: its node may be gone" in err
    assert "left behind: Pod" in err
    (stored,) = fleet.snapshots(slow)
    wait_ready(slow.cluster)
    die(slow)
    fleet.good("pvc", "cleanup", "-n", slow.name)
    wait_nothing_left(slow)
    assert next_run(fleet, slow)["parent"] == stored["id"]


def test_the_node_dies(fleet: Fleet, slow: Namespace) -> None:
    """Power cut under a mover: told, and when the node is back nothing is left, and the next run goes on."""
    with fleet.hasty().start("pvc", "backup", f"{slow.name}/data", "--method", "live") as process:
        mover_of(slow)
        nodes.stop_machine(NODE)
        try:
            _, err = process.communicate(timeout=200)
        finally:
            start_again("nodes.start_node(layout.NODES[1])")
    assert process.returncode == 40, err
    assert "it does not end: its node may be gone" in err
    assert fleet.snapshots(slow) == []
    wait_ready(slow.cluster)
    die(slow)
    fleet.good("pvc", "cleanup", "-n", slow.name)
    wait_nothing_left(slow)
    # What used the claim has gone with its node, and nothing makes it again.
    next_run(fleet, slow)
    assert len(fleet.snapshots(slow)) == 1
