"""Commands in containers of a real cluster: whole output, true exit codes, no success without a word."""

import hashlib
import time

import pytest

from pvback.cluster.client import Cluster as Door
from pvback.cluster.exec import ExecStream, ExecTarget, run_command
from pvback.errors import ClusterError, ClusterObjectMissing
from pvback.runtime import Cancel, SystemClock
from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for

CLOCK = SystemClock()
SIZE = 256 << 20
HEAD = len("/tmp/part") + 64 + 3
"""What sha256sum prints of it."""


@pytest.fixture
def door(cluster: Cluster) -> Door:
    return Door.connect(kubeconfig=str(cluster.kubeconfig))


@pytest.fixture
def target(namespace: Namespace) -> ExecTarget:
    namespace.create(objects.pod("box", "while true; do sleep 1; done", image=namespace.cluster.image))
    namespace.wait_phase("box", "Running")
    return ExecTarget(namespace=namespace.name, pod="box", container="main")


def test_much_output(door: Door, target: ExecTarget) -> None:
    """The same bytes, at a rate that a quadratic reader does not have."""
    count = SIZE >> 20
    script = (
        "head -c 1048576 /dev/urandom > /tmp/part; sha256sum /tmp/part; "
        f"i=0; while [ $i -lt {count} ]; do cat /tmp/part; i=$((i + 1)); done"
    )
    digest = hashlib.sha256()
    began = time.monotonic()
    with ExecStream.open(door, target, argv=["sh", "-c", script]) as stream:
        print(stream.protocol)
        parts = stream.read_stdout(seconds=120, clock=CLOCK, cancel=Cancel())
        head, size = b"", 0
        for part in parts:
            if len(head) < HEAD:
                head += part
                head, rest = head[:HEAD], head[HEAD:]
            else:
                rest = part
            digest.update(rest)
            size += len(rest)
    seconds = time.monotonic() - began
    print(f"{size / seconds / 1e6:.0f} MB/s, hashed")
    assert size == SIZE
    kept = read_part(door, target)
    assert hashlib.sha256(kept).hexdigest() == head.split()[0].decode()
    assert hashlib.sha256(kept * count).hexdigest() == digest.hexdigest()


def read_part(door: Door, target: ExecTarget) -> bytes:
    with ExecStream.open(door, target, argv=["cat", "/tmp/part"]) as stream:
        return b"".join(stream.read_stdout(seconds=30, clock=CLOCK, cancel=Cancel()))


@pytest.mark.parametrize("code", [0, 1, 3, 127, 137])
def test_exit_codes(door: Door, target: ExecTarget, code: int) -> None:
    command = ["sh", "-c", f"echo out; echo err >&2; exit {code}"]
    end = run_command(door, target, argv=command, seconds=30, clock=CLOCK, cancel=Cancel())
    assert (end.exit_code, end.is_success) == (code, code == 0)
    assert (end.stdout, end.stderr) == (b"out\n", b"err\n")


def test_what_cannot_begin(door: Door, target: ExecTarget) -> None:
    end = run_command(door, target, argv=["/no/such/program"], seconds=30, clock=CLOCK, cancel=Cancel())
    assert not end.is_success
    assert "no such file" in end.message
    for other, words in (
        (ExecTarget(namespace=target.namespace, pod="box", container="side"), "container side"),
        (ExecTarget(namespace=target.namespace, pod="nowhere"), "not found"),
    ):
        with pytest.raises(ClusterError, match=words) as caught:
            run_command(door, other, argv=["true"], seconds=30, clock=CLOCK, cancel=Cancel())
        print(type(caught.value).__name__, caught.value)
    assert isinstance(caught.value, ClusterObjectMissing)


def test_the_pod_is_killed(door: Door, target: ExecTarget, namespace: Namespace) -> None:
    """In the middle of its output, which looks like any other end."""
    with ExecStream.open(door, target, argv=["sh", "-c", "while true; do echo line; done"]) as stream:
        lines = stream.read_stdout(seconds=120, clock=CLOCK, cancel=Cancel())
        assert next(lines)
        pods = namespace.cluster.kind("v1", "Pod")
        pods.delete(name="box", namespace=namespace.name, body={"gracePeriodSeconds": 0})
        with pytest.raises(ClusterError) as caught:
            for _ in lines:
                pass
    print(caught.value)
    assert "takes too long" not in caught.value.what


def test_the_end_of_input(door: Door, target: ExecTarget, namespace: Namespace) -> None:
    data = bytes(range(256)) * (16 << 10)
    with ExecStream.open(door, target, argv=["sh", "-c", "sha256sum; exit 5"], has_input=True) as stream:
        deadline = CLOCK.monotonic() + 60
        stream.write(data, deadline=deadline, clock=CLOCK)
        stream.close_input(deadline=deadline, clock=CLOCK)
        said = b""
        while not stream.is_over:
            said += b"".join(part for _, part in stream.poll(1.0))
        assert stream.require_end().exit_code == 5
    assert said.split()[0].decode() == hashlib.sha256(data).hexdigest()
    # Who goes without a word ends the input, too.
    command = ["sh", "-c", "echo here; cat > /dev/null; touch /tmp/undone"]
    with ExecStream.open(door, target, argv=command, has_input=True) as stream:
        while not stream.poll(1.0):
            pass

    def is_undone() -> bool:
        look = ["ls", "/tmp/undone"]
        return run_command(door, target, argv=look, seconds=30, clock=CLOCK, cancel=Cancel()).is_success

    began = time.monotonic()
    wait_for(is_undone, lambda: "its input does not end")
    print(f"undone after {time.monotonic() - began:.1f} s")
