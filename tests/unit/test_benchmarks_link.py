"""The slow link of the benchmarks: never faster than it says, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.link import BURST_SECONDS, run_link

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 4e6
ROUND_TRIP = 0.1


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets, to the end of each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        def answer(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                while piece := client.recv(1 << 16):
                    client.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def send_and_receive(address: str, data: bytes) -> tuple[bytes, float]:
    """What comes back, and the seconds from the connection to its end."""
    host, _, port = address.rpartition(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), 30) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        found = b"".join(iter(lambda: client.recv(1 << 16), b""))
        sender.join(10)
    return found, time.monotonic() - started


def test_rate_and_round_trip_hold_and_nothing_is_lost(echo: str) -> None:
    data = random.Random(1).randbytes(2_000_000)
    with run_link(echo, bytes_per_second=RATE, round_trip_seconds=ROUND_TRIP) as link:
        found, seconds = send_and_receive(link.address, data)
    assert hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
    # A round trip for the connection, one for the bytes, which cross at the rate after a first burst.
    assert seconds >= 2 * ROUND_TRIP + len(data) / RATE - BURST_SECONDS - 0.01
    assert (link.up.bytes_moved, link.down.bytes_moved) == (len(data), len(data))
    assert (link.connection_count, link.failures) == (1, [])


def test_connections_share_the_rate(echo: str) -> None:
    data = random.Random(2).randbytes(500_000)
    results: list[tuple[bytes, float]] = []
    with run_link(echo, bytes_per_second=RATE, round_trip_seconds=0.0) as link:
        work = [
            threading.Thread(target=lambda: results.append(send_and_receive(link.address, data)))
            for _ in range(4)
        ]
        for one in work:
            one.start()
        for one in work:
            one.join(30)
    assert [found == data for found, _ in results] == [True] * 4
    assert max(seconds for _, seconds in results) >= 4 * len(data) / RATE - BURST_SECONDS - 0.01


def test_an_open_link_holds_nothing_back(echo: str) -> None:
    data = bytes(3_000_000)
    with run_link(echo, bytes_per_second=1e5, round_trip_seconds=60.0) as link:
        link.shape(False)
        found, seconds = send_and_receive(link.address, data)
    assert found == data
    assert seconds < 30, "at the rate it would take half a minute, and a minute to connect"


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with run_link(nobody, bytes_per_second=RATE, round_trip_seconds=0.0) as link:
        assert send_and_receive(link.address, b"")[0] == b""
    assert len(link.failures) == 1
