"""A server that shakes hands as the API server does for an exec, and then says what a test wants."""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
SUCCESS = {"metadata": {}, "status": "Success"}


def failure(code: int) -> dict[str, Any]:
    """The Status of a command that ended so."""
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": causes},
    }


def frame(payload: bytes, *, opcode: int = 2, final: bool = True) -> bytes:
    """As servers send it: not masked."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 1 << 16:
        length = b"\x7e" + struct.pack(">H", size)
    else:
        length = b"\x7f" + struct.pack(">Q", size)
    return bytes([(0x80 if final else 0) | opcode]) + length + payload


def stdout(data: bytes) -> bytes:
    return frame(b"\x01" + data)


def stderr(data: bytes) -> bytes:
    return frame(b"\x02" + data)


def status(said: dict[str, Any]) -> bytes:
    return frame(b"\x03" + json.dumps(said).encode())


def close() -> bytes:
    return frame(struct.pack(">H", 1000), opcode=8)


@dataclass
class Peer:
    """One connection, on the server's side."""

    socket: socket.socket
    request: str
    protocol: str
    buffer: bytes = b""

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def read(self) -> tuple[int, bytes] | None:
        """The next frame of the client, unmasked; None at the end."""
        head = self._take(2)
        if head is None:
            return None
        assert head[1] & 0x80, "a client masks"
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack(">H", self._take(2) or b"")[0]
        elif size == 127:
            size = struct.unpack(">Q", self._take(8) or b"")[0]
        mask = self._take(4) or b""
        data = self._take(size) or b""
        return head[0] & 0x0F, bytes(one ^ mask[at % 4] for at, one in enumerate(data))

    def _take(self, count: int) -> bytes | None:
        while len(self.buffer) < count:
            try:
                more = self.socket.recv(1 << 16)
            except OSError:
                return None
            if not more:
                return None
            self.buffer += more
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken


Script = Callable[[Peer], None]


@dataclass
class ExecServer:
    """Runs `script` for each connection. `refusal` is a status and a body in place of the handshake."""

    script: Script = lambda _: None
    protocols: tuple[str, ...] = (V5, V4)
    refusal: tuple[int, bytes] | None = None
    context: ssl.SSLContext | None = None
    port: int = 0
    requests: list[str] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        """One connection to its end."""
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            self._serve(connection)
        except OSError:
            # The client has gone; what a test wants to know of that it asks the client.
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                more = connection.recv(1 << 16)
                if not more:
                    return
                data += more
            request = data.decode()
            self.requests.append(request)
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in request.split("\r\n")[1:])
            }
            offered = headers["sec-websocket-protocol"].split(",")
            chosen = next((one for one in self.protocols if one in offered), None)
            if self.refusal is not None or chosen is None:
                code, body = self.refusal or (403, b"no such protocol")
                connection.sendall(
                    f"HTTP/1.1 {code} No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
                return
            guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            digest = hashlib.sha1((headers["sec-websocket-key"] + guid).encode()).digest()
            connection.sendall(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n"
                f"Sec-WebSocket-Protocol: {chosen}\r\n\r\n".encode()
            )
            self.script(Peer(connection, request, chosen))


@contextlib.contextmanager
def serving(**given: Any) -> Iterator[ExecServer]:
    """A server until the end of the block."""
    server = ExecServer(**given)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=server.serve, args=(connection,)))
                threads[-1].start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in threads:
                one.join()
