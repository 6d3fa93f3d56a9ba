"""Exec against a real WebSocket server that cuts, lies and falls silent. No Kubernetes."""

import hashlib
import ipaddress
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kubernetes
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pvback import limits
from pvback.cluster.client import Cluster
from pvback.cluster.exec import STDERR, STDOUT, CommandEnd, ExecStream, ExecTarget, ended_well, run_command
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, Interrupted
from pvback.runtime import Cancel, ManualClock, SystemClock
from tests.support.exec_server import (
    SUCCESS,
    V4,
    V5,
    ExecServer,
    Peer,
    Script,
    close,
    failure,
    frame,
    serving,
    status,
    stderr,
    stdout,
)

CLOCK = SystemClock()
TARGET = ExecTarget(namespace="ns", pod="db", container="main")


def cluster_of(server: ExecServer, **more: Any) -> Cluster:
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.port}", **more)
    return Cluster(configuration)


@contextmanager
def opened(script: Script, *, has_input: bool = False) -> Iterator[ExecStream]:
    with (
        serving(script=script) as server,
        ExecStream.open(cluster_of(server), TARGET, argv=["x"], has_input=has_input) as stream,
    ):
        yield stream


def run(server: ExecServer, *, seconds: float = 10.0, cancel: Cancel | None = None) -> CommandEnd:
    return run_command(
        cluster_of(server), TARGET, argv=["x"], seconds=seconds, clock=CLOCK, cancel=cancel or Cancel()
    )


def test_output_exit_code_and_what_was_asked() -> None:
    def script(peer: Peer) -> None:
        # As servers begin: an empty message for each stream.
        peer.send(frame(b"\x01"), frame(b"\x02"), frame(b"\x03"))
        peer.send(stdout(b"out "), stderr(b"err"), stdout(b"put"), status(failure(3)), close())

    with serving(script=script) as server:
        cluster = cluster_of(server, api_key={"BearerToken": "Bearer secret-token"})
        argv = ["sh", "-c", "a b&c=d"]
        end = run_command(cluster, TARGET, argv=argv, seconds=10, clock=CLOCK, cancel=Cancel())
    assert (end.is_success, end.exit_code, end.stdout, end.stderr) == (False, 3, b"out put", b"err")
    with pytest.raises(ClusterError, match="code 3: err"):
        ended_well(end, what="x")
    line, *headers = server.requests[0].split("\r\n")
    asked = parse_qsl(urlsplit(line.split()[1]).query)
    assert [value for name, value in asked if name == "command"] == argv
    assert ("container", "main") in asked
    assert not {"stdin", "tty"} & {name for name, _ in asked}
    assert urlsplit(line.split()[1]).path == "/api/v1/namespaces/ns/pods/db/exec"
    assert "authorization: Bearer secret-token" in headers
    # By the newer one an API server makes the Status itself: see docs/adr/0029.
    assert f"Sec-WebSocket-Protocol: {V4}" in headers


def test_success_needs_a_status() -> None:
    with serving(script=lambda peer: peer.send(stdout(b"all"), status(SUCCESS), close())) as server:
        assert run(server).is_success
    # Without a close frame, too: the connection just ends.
    with serving(script=lambda peer: peer.send(stdout(b"all"), status(SUCCESS))) as server:
        assert run(server).is_success


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        close(),
        status(SUCCESS)[:-1],
        frame(b"\x03" + b'{"status": "Succ', final=False),
        frame(b"\x01x", final=False),
    ],
    ids=["cut", "closed", "cut in the status", "half a status", "half a message"],
)
def test_closed_without_a_status(tail: bytes) -> None:
    with (
        serving(script=lambda peer: peer.send(stdout(b"all of it"), tail)) as server,
        pytest.raises(ClusterError, match="closed without a status"),
    ):
        run(server)


def test_reset_without_a_status() -> None:
    def script(peer: Peer) -> None:
        peer.send(stdout(b"all of it"))
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(script=script) as server, pytest.raises(ClusterError, match="closed without a status"):
        run(server)


@pytest.mark.parametrize(
    "broken",
    [
        frame(b"\x07x"),
        frame(b"\x01x", opcode=1),
        b"\xff\xff\xff",
        frame(b"\x03no json"),
        frame(b"\x03[]"),
        frame(b"\x03{}"),
        frame(b"\x03" + b" " * (limits.EXEC_STATUS_BYTES_MAX + 1)),
    ],
)
def test_a_broken_stream_is_no_success(broken: bytes) -> None:
    with (
        serving(script=lambda peer: peer.send(broken, status(SUCCESS), close())) as server,
        pytest.raises(ClusterError, match="the stream is broken"),
    ):
        run(server)


def test_a_status_in_parts_and_every_cut_of_a_stream() -> None:
    text = b"\x03" + b'{"status":"Success"}'
    whole = stdout(b"one") + frame(text[:1], final=False) + frame(text[1:9], opcode=0, final=False)
    whole += frame(b"", opcode=0, final=False) + frame(text[9:], opcode=0) + close()
    with serving(script=lambda peer: peer.send(whole)) as server:
        assert run(server).stdout == b"one"
    must_be = len(whole) - len(close())
    for cut in range(must_be):
        with (
            serving(script=lambda peer, cut=cut: peer.send(whole[:cut])) as server,
            pytest.raises(ClusterError, match="closed without a status"),
        ):
            run(server)


def test_refused() -> None:
    body = b'{"message": "pods \\"db\\" is forbidden: User \\"x\\" cannot create resource \\"pods/exec\\""}'
    with (
        serving(refusal=(403, body)) as server,
        pytest.raises(ClusterRefusal, match="cannot create") as caught,
    ):
        run(server)
    assert "rights" in str(caught.value.hint)
    with (
        serving(refusal=(404, b'{"message": "pods \\"db\\" not found"}')) as server,
        pytest.raises(ClusterObjectMissing, match="not found"),
    ):
        run(server)
    with serving(refusal=(302, b"")) as server, pytest.raises(ClusterError):
        run(server)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    clock = ManualClock()
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{port}")
    cluster = Cluster(configuration, clock=clock)
    with pytest.raises(ClusterError, match="does not answer"):
        run_command(cluster, TARGET, argv=["x"], seconds=10, clock=CLOCK, cancel=Cancel())
    assert clock.monotonic() >= limits.CLUSTER_RETRY_SECONDS
    # A server that is busy has begun nothing; one that has lost its node may have.
    for status_code, is_tried_again in ((503, True), (504, False)):
        with serving(refusal=(status_code, b"{}")) as server:
            cluster = Cluster(cluster_of(server)._transport._api.configuration, clock=clock)
            with pytest.raises(ClusterError):
                run_command(cluster, TARGET, argv=["x"], seconds=10, clock=CLOCK, cancel=Cancel())
        assert (len(server.requests) > 1) == is_tried_again


def wait_for_end(peer: Peer) -> None:
    while peer.read() is not None:
        pass


def test_too_long_and_cancelled() -> None:
    with serving(script=wait_for_end) as server:
        began = time.monotonic()
        with pytest.raises(ClusterError, match="takes too long; it may go on"):
            run(server, seconds=0.3)
        assert time.monotonic() - began < 5
        cancel = Cancel()
        cancel.set()
        with pytest.raises(Interrupted):
            run(server, cancel=cancel)


def test_a_server_that_does_not_close_after_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXEC_CLOSE_SECONDS", 0.2)

    def script(peer: Peer) -> None:
        peer.send(status(SUCCESS))
        wait_for_end(peer)

    with serving(script=script) as server:
        assert run(server).is_success


def test_input_and_its_end() -> None:
    sent = os.urandom(1 << 20)

    def script(peer: Peer) -> None:
        data = b""
        while (got := peer.read()) is not None and got[1] != b"\xff\x00":
            assert got[1][0] == 0
            data += got[1][1:]
        peer.send(stdout(hashlib.sha256(data).hexdigest().encode()), status(SUCCESS), close())

    with opened(script, has_input=True) as stream:
        assert stream.protocol == V5
        deadline = CLOCK.monotonic() + 20
        stream.write(sent, deadline=deadline, clock=CLOCK)
        stream.close_input(deadline=deadline, clock=CLOCK)
        said = b"".join(stream.read_stdout(seconds=20, clock=CLOCK, cancel=Cancel()))
    assert said.decode() == hashlib.sha256(sent).hexdigest()


def test_an_old_server() -> None:
    """v4 has no way to end standard input: what waits for that is not started."""
    with serving(protocols=(V4,), script=lambda peer: peer.send(status(SUCCESS))) as server:
        assert run(server).is_success
        with pytest.raises(ClusterError, match="no such protocol"):
            ExecStream.open(cluster_of(server), TARGET, argv=["x"], has_input=True)
        with ExecStream.open(cluster_of(server), TARGET, argv=["x"]) as stream:
            assert stream.protocol == V4
            with pytest.raises(ClusterError, match="cannot be ended"):
                stream.close_input(deadline=CLOCK.monotonic() + 1, clock=CLOCK)


def test_input_that_nobody_takes() -> None:
    is_told = threading.Event()

    def script(_: Peer) -> None:
        is_told.wait()

    with opened(script, has_input=True) as stream:
        with pytest.raises(ClusterError, match="does not take its input"):
            stream.write(bytes(64 << 20), deadline=CLOCK.monotonic() + 0.3, clock=CLOCK)
        is_told.set()


def test_a_command_that_prints_and_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXEC_BACKLOG_BYTES_MAX", 1 << 20)

    def script(peer: Peer) -> None:
        while True:
            peer.send(stdout(bytes(1 << 16)))

    with opened(script, has_input=True) as stream, pytest.raises(ClusterError, match="prints more than"):
        stream.write(bytes(64 << 20), deadline=CLOCK.monotonic() + 20, clock=CLOCK)


def test_pings_are_answered() -> None:
    answers: list[Any] = []

    def script(peer: Peer) -> None:
        peer.send(frame(b"hello?", opcode=9))
        answers.append(peer.read())
        peer.send(status(SUCCESS), close())

    with serving(script=script) as server:
        assert run(server).is_success
    assert answers == [(10, b"hello?")]


def test_standard_output_is_whole_or_an_error() -> None:
    """The seam for dumps: who reads to the end knows that it was the end."""

    def read(*frames: bytes) -> tuple[bytes, str]:
        got = b""
        with opened(lambda peer: peer.send(*frames)) as stream:
            try:
                for part in stream.read_stdout(seconds=10, clock=CLOCK, cancel=Cancel()):
                    got += part
            except ClusterError as exc:
                return got, exc.what
        return got, ""

    assert read(stdout(b"a"), stderr(b"noise"), stdout(b"b"), status(SUCCESS), close()) == (b"ab", "")
    got, why = read(stdout(b"a"), stderr(b"disk full"), status(failure(7)), close())
    assert (got, why) == (b"a", "the command ended with code 7: disk full")
    assert "without a status" in read(stdout(b"a"))[1]


def test_much_output_in_linear_time_and_little_memory() -> None:
    part = stdout(os.urandom(32 << 10)) * 8
    count = 256

    def script(peer: Peer) -> None:
        for _ in range(count):
            peer.send(part)
        peer.send(status(SUCCESS), close())

    with opened(script) as stream:
        began = time.monotonic()
        size = sum(map(len, stream.read_stdout(seconds=60, clock=CLOCK, cancel=Cancel())))
        seconds = time.monotonic() - began
    assert size == count * 8 * (32 << 10)
    print(f"{size / seconds / 1e6:.0f} MB/s")
    assert {STDOUT, STDERR} == {1, 2}


def certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + text)
    return path


def test_tls(tmp_path: Path) -> None:
    """Who is not trusted hears nothing of us; who asks for a certificate gets ours."""
    own = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = certificate(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    context.load_verify_locations(own)
    context.verify_mode = ssl.CERT_REQUIRED

    def run_with(**given: Any) -> CommandEnd:
        configuration = kubernetes.client.Configuration(host=f"https://127.0.0.1:{server.port}")
        for name, value in given.items():
            setattr(configuration, name, value)
        cluster = Cluster(configuration)
        return run_command(cluster, TARGET, argv=["x"], seconds=10, clock=CLOCK, cancel=Cancel())

    def script(peer: Peer) -> None:
        peer.send(stdout(bytes(1 << 20)), status(SUCCESS), close())

    pair = {"cert_file": str(own), "key_file": str(own)}
    with serving(script=script, context=context) as server:
        assert run_with(ssl_ca_cert=str(own), **pair).is_success
        assert run_with(verify_ssl=False, **pair).is_success
        assert len(server.requests) == 2
        for bad in ({"ssl_ca_cert": str(other), **pair}, {"ssl_ca_cert": str(own)}, pair):
            with pytest.raises(ClusterError):
                run_with(**bad)
        with pytest.raises(ClusterError, match="no connection"):
            run_with(ssl_ca_cert=str(own), tls_server_name="elsewhere", **pair)
        assert len(server.requests) == 2


def test_through_a_proxy() -> None:
    asked: list[str] = []

    def tunnel(connection: socket.socket, _: Any) -> None:
        with connection:
            asked.append(connection.recv(4096).decode().split("\r\n")[0])
            connection.sendall(b"HTTP/1.1 200 Fine\r\n\r\n")
            exec_server.serve(connection)

    def script(peer: Peer) -> None:
        peer.send(status(SUCCESS), close())

    exec_server = ExecServer(script=script)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: tunnel(*listener.accept()))
        thread.start()
        configuration = kubernetes.client.Configuration(host="http://cluster.invalid:6443")
        configuration.proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        cluster = Cluster(configuration)
        assert run_command(cluster, TARGET, argv=["x"], seconds=10, clock=CLOCK, cancel=Cancel()).is_success
        thread.join()
    assert asked == ["CONNECT cluster.invalid:6443 HTTP/1.1"]
