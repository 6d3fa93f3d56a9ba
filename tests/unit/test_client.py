"""What the client makes of servers that are gone, and of kubeconfigs that are none. No Kubernetes."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as kubernetes_client

from pvback import limits
from pvback.cluster.client import Cluster
from pvback.cluster.kinds import CONFIG_MAP
from pvback.errors import ClusterError, UsageError
from pvback.runtime import ManualClock

Script = Callable[[socket.socket], None]
LOG: dict[str, Any] = {"namespace": "ns", "container": "mover"}
OWN = CONFIG_MAP.body("one", "ns", metadata={"labels": {"pvback.io/run": "r"}})


@contextmanager
def answering(*scripts: Script) -> Iterator[tuple[Cluster, list[str]]]:
    """A server whose connections go by one script each and are closed; after them nobody listens."""
    asked: list[str] = []

    def serve() -> None:
        for script in scripts:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(1 << 16)
                asked.append(data.decode().split("\r\n")[0])
                script(connection)
        listener.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        make: Any = kubernetes_client.Configuration
        configuration = make(host=f"http://127.0.0.1:{listener.getsockname()[1]}")
        # Each failure is to be ours to see.
        configuration.retries = False
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Cluster(configuration, clock=ManualClock()), asked
        thread.join(10)
        assert not thread.is_alive(), "not all was asked"


def says(status: int, body: bytes, *, length: int | None = None) -> Script:
    def script(connection: socket.socket) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return script


def breaks_off(*pieces: bytes) -> Script:
    """As API servers send logs: in pieces as they come, of which there is to be one more."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"63\r\nhalf")

    return script


def hangs_up(_: socket.socket) -> None:
    """Heard, and no answer."""


def test_a_log_of_a_server_that_is_gone() -> None:
    with answering() as (cluster, _), pytest.raises(ClusterError, match="does not answer") as caught:
        list(cluster.log_lines("pod", **LOG))
    assert caught.value.key is not None
    assert "ns/pod" in caught.value.key
    with answering(hangs_up) as (cluster, _), pytest.raises(ClusterError, match="does not answer"):
        list(cluster.log_lines("pod", **LOG))


def test_a_log_that_breaks_off() -> None:
    with answering(breaks_off(b"one\n", b"two\nth")) as (cluster, _):
        lines = cluster.log_lines("pod", since_line=1, **LOG)
        assert next(lines) == "two"
        with pytest.raises(ClusterError, match="broke off"):
            next(lines)


def test_a_log_that_is_refused_in_half_a_sentence() -> None:
    with (
        answering(says(403, b'{"message": "pods', length=99)) as (cluster, _),
        pytest.raises(ClusterError, match="broke off"),
    ):
        list(cluster.log_lines("pod", **LOG))


@pytest.mark.parametrize("look", [hangs_up, says(200, b"{", length=99)], ids=["nothing", "half"])
def test_a_creation_that_was_heard_while_the_server_goes(look: Script) -> None:
    """The second answer says that it exists; whether it is ours is asked until somebody answers."""
    exists = says(409, b'{"message": "already exists"}')
    there = says(200, json.dumps({**OWN, "kind": "ConfigMap"}).encode())
    with answering(hangs_up, exists, look, exists, there) as (cluster, asked):
        assert cluster.create(CONFIG_MAP, OWN)["metadata"] == OWN["metadata"]
    assert [line.split()[0] for line in asked] == ["POST", "POST", "GET", "POST", "GET"]
    with answering(hangs_up, exists) as (cluster, _), pytest.raises(ClusterError, match="does not answer"):
        cluster.create(CONFIG_MAP, OWN)
    clock = cluster._clock
    assert clock.monotonic() >= limits.CLUSTER_RETRY_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- a\n- list\n",
        "only words",
        "contexts: 3\n",
        "current-context: one\ncontexts: [{name: one, context: }]\nclusters: []\nusers: []\n",
        "current-context: one\ncontexts: [{name: one}]\nclusters: {}\nusers: []\n",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c}]\n",
        "\x00",
    ],
)
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(UsageError, match="no cluster"):
        Cluster.connect(kubeconfig=str(path))


def test_a_kubeconfig_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="no cluster"):
        Cluster.connect(kubeconfig=str(path))
