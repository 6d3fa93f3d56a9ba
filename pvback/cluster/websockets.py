"""A WebSocket to the API server: the shaking of hands by the library, everything after it by ourselves.

The library's own loop would take a frame of any length into memory. One thread at a time may use a
connection: it reads and writes in `pump`, and never blocks elsewhere.
"""

import contextlib
import select
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pvback import limits
from pvback.cluster.frames import FrameReader, Piece, client_frame
from pvback.errors import ClusterError
from pvback.runtime import SystemRandom

__all__ = ["Endpoint", "HandshakeRefused", "NobodyAnswers", "WebSocket"]

_KEEP_ALIVE: list[tuple[int, int, int]] = [
    # A peer whose machine is gone is noticed after a minute, also where nothing is to be said.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and as whom to connect.

    Attributes:
        url: `wss://...` or `ws://...`.
        what: For people.
        headers: With the credentials.
        tls: Options of TLS, by the names of websocket-client.
        proxy: Of the proxy, likewise; none where it is empty.
    """

    url: str
    what: str
    headers: Mapping[str, str]
    tls: Mapping[str, Any]
    proxy: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Endpoint({self.what})"


class HandshakeRefused(Exception):
    """The server has answered, but not with a WebSocket."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status, self.body = status, body


class NobodyAnswers(Exception):
    """There was no connection at all, so that nothing has begun."""


class WebSocket:
    """An open connection."""

    def __init__(self, connection: socket.socket, *, protocol: str, what: str) -> None:
        connection.setblocking(False)
        self.protocol = protocol
        """The one that the server has chosen of those that it was offered."""
        self.is_over = False
        """Whether no more will come."""
        self._connection, self._what = connection, what
        self._reader, self._random = FrameReader(), SystemRandom()
        self._outgoing = bytearray()

    @classmethod
    def dial(cls, endpoint: Endpoint, *, protocols: Sequence[str]) -> Self:
        """Connect. Raises HandshakeRefused where the server does not want to, NobodyAnswers, ClusterError."""
        # Loaded here: it comes with the extra `kubernetes`.
        import websocket  # noqa: PLC0415

        made: Any = websocket.WebSocket(sslopt=dict(endpoint.tls), sockopt=_KEEP_ALIVE)
        # The server answers when its node has: not at once, where that has much to do.
        made.settimeout(limits.CLUSTER_REQUEST_SECONDS)
        try:
            made.connect(
                endpoint.url,
                header=dict(endpoint.headers),
                subprotocols=list(protocols),
                suppress_origin=True,
                redirect_limit=0,
                **(endpoint.proxy or {"http_no_proxy": ["*"]}),
            )
        except websocket.WebSocketBadStatusException as exc:
            made.shutdown()
            raise HandshakeRefused(exc.status_code, exc.resp_body or b"") from exc
        except ConnectionRefusedError as exc:
            made.shutdown()
            raise NobodyAnswers(exc.strerror or "connection refused") from exc
        except (websocket.WebSocketException, OSError, ValueError) as exc:
            made.shutdown()
            raise ClusterError(f"no connection: {exc}", key=endpoint.what) from exc
        status, connection = made.getstatus(), made.sock
        if status != limits.HTTP_SWITCHED or connection is None:
            made.shutdown()
            raise HandshakeRefused(status or 0, b"")
        return cls(connection, protocol=made.getsubprotocol() or "", what=endpoint.what)

    @property
    def unsent_bytes(self) -> int:
        """What `send` has taken and `pump` has not sent."""
        return len(self._outgoing)

    def send(self, payload: bytes) -> None:
        """Have it sent by `pump`, as a message of its own."""
        self._outgoing += client_frame("data", payload, mask=self._random.bytes(4))

    def pump(self, seconds: float) -> list[Piece]:
        """Send what is to be sent, and return what has come; waits so long at most, if there is neither.

        Pings are answered. After the end, which sets `is_over`, there is nothing more. Raises ClusterError
        where the connection breaks or what comes is no WebSocket.
        """
        if self.is_over:
            return []
        try:
            self._wait(seconds)
            self._flush()
            data = self._receive()
        except OSError as exc:
            self.is_over = True
            raise ClusterError(f"the connection broke off: {exc}", key=self._what) from exc
        if data is None:
            return []
        if not data:
            self.is_over = True
            return []
        try:
            return [piece for piece in self._reader.feed(data) if self._is_for_others(piece)]
        except ClusterError:
            self.is_over = True
            raise

    def close(self) -> None:
        """End it at once: the other side sees a connection that is closed."""
        self.is_over = True
        # It may be broken already; there is nobody to tell.
        with contextlib.suppress(OSError):
            self._connection.close()

    def _is_for_others(self, piece: Piece) -> bool:
        if piece.kind == "ping":
            self._outgoing += client_frame("pong", piece.payload, mask=self._random.bytes(4))
        elif piece.kind == "close":
            self.is_over = True
        return piece.kind == "data"

    def _wait(self, seconds: float) -> None:
        """Until there is something to read, or room to write what is to be sent."""
        if isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
            return
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        poll.poll(seconds * 1000)

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = self._connection.send(
                    memoryview(self._outgoing)[: limits.EXEC_RECEIVE_BYTES].tobytes()
                )
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del self._outgoing[:sent]

    def _receive(self) -> bytes | None:
        """What has come: None for nothing yet, empty at the end."""
        try:
            return self._connection.recv(limits.EXEC_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
