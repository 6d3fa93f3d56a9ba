"""Output of commands in pods, stored as it comes: a snapshot only of the whole of it."""

import hashlib
import json
import random
import time
from pathlib import Path

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet

pytestmark = pytest.mark.timeout(300)
SIZE = 96 << 20


@pytest.fixture
def box(namespace: Namespace) -> Namespace:
    """A pod `box` with a file, whose digest it has printed."""
    script = f"head -c {SIZE} /dev/urandom > /tmp/part; sha256sum /tmp/part; while true; do sleep 1; done"
    namespace.create(objects.pod("box", script, image=namespace.cluster.image))
    namespace.wait_phase("box", "Running")
    wait_for(lambda: "/tmp/part" in namespace.log("box"), lambda: namespace.log("box"))
    return namespace


def stored(fleet: Fleet, name: str) -> list[str]:
    found = fleet.good("snapshots", "--json").json()
    return [one["id"] for one in found if one["source"].endswith(f":command/{name}")]


def test_there_and_back(fleet: Fleet, box: Namespace, tmp_path: Path) -> None:
    name = f"{box.name}.bin"
    words = ("pvc", "capture", f"{box.name}/box", "--name", name)
    command = ("--", "cat", "/tmp/part")
    began = time.monotonic()
    fleet.good(*words, *command)
    print(f"{SIZE / (time.monotonic() - began) / 1e6:.0f} MB/s, start, digests and commit included")
    (snapshot,) = stored(fleet, name)
    fleet.good("restore", snapshot, "--target", str(tmp_path / name))
    (restored,) = [one for one in tmp_path.rglob(name) if one.is_file()]
    assert hashlib.sha256(restored.read_bytes()).hexdigest() == box.log("box").split()[0]
    (summary,) = fleet.good(*words, "--json", *command).messages("summary")
    assert summary["stats"]["new_bytes"] < SIZE // 100, "the same again is not stored again"


@pytest.mark.parametrize("end", ["exit 3", "kill -9 $$"])
def test_a_command_that_fails(fleet: Fleet, box: Namespace, end: str) -> None:
    name = f"{box.name}.bin"
    command = ("sh", "-c", f"head -c 1000000 /tmp/part; {end}")
    done = fleet.run("pvc", "capture", f"{box.name}/box", "--name", name, "--", *command).ended(40)
    assert "the command ended with code" in done.err
    assert stored(fleet, name) == []


def test_the_pod_is_killed(fleet: Fleet, box: Namespace, seed: int) -> None:
    """Somewhere within: what came so far is never taken for all of it."""
    name = f"{box.name}.bin"
    enough = random.Random(seed).randrange(1, 64 << 20)
    command = ("sh", "-c", "while true; do cat /tmp/part; done")
    words = ("pvc", "capture", f"{box.name}/box", "--name", name, "--no-digest", "--json", "--", *command)
    with fleet.start(*words) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done_bytes", 0) >= enough:
                break
        pods = box.cluster.kind("v1", "Pod")
        pods.delete(name="box", namespace=box.name, body={"gracePeriodSeconds": 0})
        _, err = process.communicate(timeout=120)
    print(f"after {enough} bytes:", err)
    assert process.returncode == 40, err
    assert stored(fleet, name) == []
