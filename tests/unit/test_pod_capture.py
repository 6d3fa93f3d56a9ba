"""Output of commands in pods as sources: whole, or an error before anything is committed. No Kubernetes."""

import hashlib
import os
import random
import shutil
import subprocess
from typing import Any

import kubernetes
import pytest

from pvback.cluster.client import Cluster
from pvback.cluster.exec import ExecTarget
from pvback.errors import ClusterError, PvbackError
from pvback.ops.pod_capture import Capture, pod_source
from pvback.ops.sources import Source, open_source
from pvback.runtime import SystemClock
from tests.support.exec_server import SUCCESS, Peer, close, failure, serving, status, stderr, stdout

TARGET = ExecTarget(namespace="ns", pod="db")


def read(*frames: bytes, is_digested: bool = True) -> bytes:
    """What a backup would read, to its end. Raises what it would raise before it commits."""
    with serving(script=lambda peer: peer.send(*frames)) as server:
        cluster = Cluster(kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.port}"))
        capture = Capture(target=TARGET, argv=("dump",), seconds=20, is_digested=is_digested)
        source = pod_source(cluster, capture, name="dump.sql", cluster_name="c", clock=SystemClock())
        assert source.identity.string == "c/ns:command/dump.sql"
        with open_source(source) as where:
            found = b""
            while part := os.read(int(str(where["fd"])), 1 << 16):
                found += part
    return found


def digest_of(data: bytes) -> bytes:
    return stderr(hashlib.sha256(data).hexdigest().encode() + b"  -\n")


def test_whole() -> None:
    end = [status(SUCCESS), close()]
    assert read(stdout(b"on"), stderr(b"notice: x\n"), stdout(b"e"), digest_of(b"one"), *end) == b"one"
    assert read(stdout(b"one"), *end, is_digested=False) == b"one"
    assert read(digest_of(b""), *end) == b""


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([stdout(b"one"), digest_of(b"one!"), status(SUCCESS)], "not what the command printed"),
        ([stdout(b"one"), status(SUCCESS)], "took no digest"),
        ([stdout(b"one"), stderr(b"sh: sha256sum: not found\n"), status(SUCCESS)], "sha256sum: not found"),
        ([stdout(b"one"), digest_of(b"one"), stderr(b"more\n"), status(SUCCESS)], "took no digest"),
        ([stdout(b"one"), digest_of(b"one"), status(failure(2))], "ended with code 2"),
        ([stdout(b"one"), digest_of(b"one")], "without a status"),
    ],
)
def test_not_whole(frames: list[bytes], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        read(*frames, close())


def test_cut_at_every_byte() -> None:
    data = random.Random(7).randbytes(300)
    whole = stdout(data[:100]) + stdout(data[100:]) + digest_of(data) + status(SUCCESS)
    assert read(whole) == data
    for cut in range(len(whole)):
        with pytest.raises(ClusterError):
            read(whole[:cut])


def give_up(source: Source) -> None:
    with open_source(source) as where:
        os.read(int(str(where["fd"])), 1)
        raise PvbackError("enough")


def test_a_reader_that_gives_up() -> None:
    """Neither a full pipe nor a silent command keeps it."""

    def silent(peer: Peer) -> None:
        peer.send(stdout(b"one"))
        while peer.read() is not None:
            pass

    def loud(peer: Peer) -> None:
        while True:
            peer.send(stdout(bytes(1 << 16)))

    for script in (silent, loud):
        with serving(script=script) as server:
            cluster = Cluster(kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.port}"))
            capture = Capture(target=TARGET, argv=("dump",), seconds=60)
            source = pod_source(cluster, capture, name="dump", cluster_name="c", clock=SystemClock())
            with pytest.raises(PvbackError, match="enough"):
                give_up(source)


SHELLS = [one for one in (["sh"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(one[0])]


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("code", [0, 3])
def test_the_digest_of_a_container(shell: list[str], code: int) -> None:
    """The wrapper in real shells: the bytes untouched, the command's own exit code, the digest last."""
    capture = Capture(
        target=TARGET, argv=("sh", "-c", f"head -c 300000 /dev/urandom; echo x >&2; exit {code}"), seconds=1
    )
    run: Any = subprocess.run(
        [*shell, *capture.command[1:]], capture_output=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )
    assert run.returncode == code, run.stderr
    assert len(run.stdout) == 300000
    lines = run.stderr.splitlines()
    assert lines == [b"x", hashlib.sha256(run.stdout).hexdigest().encode() + b"  -"]
