"""A proxy in front of an S3 server that does to requests what networks and services do to them.

It forwards every request as it came, signature and all, except those that the rule in force is for. A rule is
for requests by method and path, from the nth that fits on, so that what goes wrong does not depend on time.
"""

import contextlib
import enum
import http.client
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pvback.runtime import Cancel, SystemClock
from pvback.storage.paced import Pace
from tests.support.s3_servers import S3Server

__all__ = ["Fault", "FaultProxy", "Rule", "fault_proxy"]

_FORWARD_SECONDS_MAX = 60.0
_PACED_BYTES = 1 << 16
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding"})


class Fault(enum.Enum):
    """What happens to a request."""

    RESET = "reset"
    """The connection is reset before the server hears of it."""
    STALL = "stall"
    """No answer, on a connection that stays open; the server does not hear of it."""
    CUT = "cut"
    """The answer ends in the middle of its body."""
    FLIP = "flip"
    """One bit of the answer's body is another one."""
    SPOIL = "spoil"
    """One bit of the request's body is another one when the server gets it."""
    LOSE = "lose"
    """The server does it, and the connection is reset in place of the answer."""
    REFUSE = "refuse"
    """An answer of the rule's in place of the server's, which does not hear of it."""
    PASS = "pass"
    """Forwarded, after the rule's `act`."""


@dataclass(kw_only=True)
class Rule:
    """Which requests, and what happens to them."""

    fault: Fault
    methods: tuple[str, ...] = ()
    """None: all."""
    path: str = ""
    """A pattern that is searched for in path and query, `/bucket/key?query`."""
    first: int = 1
    """The number of the first fitting request that is meant."""
    count: int = 1
    """How many are meant from there on."""
    status: int = 503
    code: str = "SlowDown"
    headers: tuple[tuple[str, str], ...] = ()
    act: Callable[[], object] | None = None
    """Called for each request that is meant, before anything happens to it."""
    seen_count: int = field(default=0, init=False)
    hit_count: int = field(default=0, init=False)

    def meets(self, method: str, path: str) -> bool:
        """Whether this request, which is counted, is meant."""
        if (self.methods and method not in self.methods) or not re.search(self.path, path):
            return False
        self.seen_count += 1
        is_meant = self.first <= self.seen_count < self.first + self.count
        self.hit_count += is_meant
        return is_meant


class FaultProxy:
    """One proxy. `server` is the server as its clients are to see it."""

    def __init__(
        self,
        behind: S3Server,
        *,
        certificate: tuple[Path, Path] | None = None,
        upload_bytes_per_second: int | None = None,
    ) -> None:
        self._upload = Pace(upload_bytes_per_second, SystemClock())
        self._behind = urlsplit(behind.endpoint).netloc
        self._lock = threading.Lock()
        self._rule: Rule | None = None
        self.answered_bytes = 0
        """In bodies of answers, of all requests."""
        self.ending = threading.Event()
        self.listener = _Listener(("127.0.0.1", 0), _Handler)
        self.listener.proxy = self
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.listener.socket = context.wrap_socket(self.listener.socket, server_side=True)
        self.server = S3Server(
            name=f"{behind.name} behind a proxy",
            endpoint=f"http{'s' if certificate else ''}://127.0.0.1:{self.listener.server_port}",
            access_key=behind.access_key,
            secret_key=behind.secret_key,
            ca_bundle=certificate[0] if certificate else None,
        )

    def obey(self, rule: Rule | None) -> None:
        """From now on, this rule; None: none."""
        with self._lock:
            self._rule = rule

    def rule_for(self, method: str, path: str) -> Rule | None:
        """The rule, when this request is meant by it."""
        with self._lock:
            rule = self._rule
            return rule if rule is not None and rule.meets(method, path) else None

    def take(self, file: BufferedIOBase, size: int) -> bytes:
        """A request's body, no faster than the link is."""
        parts: list[bytes] = []
        while size:
            parts.append(file.read(min(size, _PACED_BYTES)))
            if not parts[-1]:
                raise ConnectionResetError("the client went away")
            size -= len(parts[-1])
            self._upload.wait(len(parts[-1]), Cancel())
        return b"".join(parts)

    def note_answer(self, count: int) -> None:
        """So many bytes more have been answered with."""
        with self._lock:
            self.answered_bytes += count

    def connect(self) -> http.client.HTTPConnection:
        """A new connection to the server."""
        return http.client.HTTPConnection(self._behind, timeout=_FORWARD_SECONDS_MAX)


@contextlib.contextmanager
def fault_proxy(
    behind: S3Server,
    *,
    certificate: tuple[Path, Path] | None = None,
    upload_bytes_per_second: int | None = None,
) -> Generator[FaultProxy, None, None]:
    """A proxy on loopback that listens as long as the body lasts; with (certificate, key) over TLS.

    A rate holds for what clients send, all connections together.
    """
    proxy = FaultProxy(behind, certificate=certificate, upload_bytes_per_second=upload_bytes_per_second)
    thread = threading.Thread(target=proxy.listener.serve_forever, args=(0.05,), name="fault-proxy")
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ending.set()
        proxy.listener.shutdown()
        thread.join()
        proxy.listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Listener
    _upstream: http.client.HTTPConnection | None = None

    def handle(self) -> None:
        try:
            super().handle()
        finally:
            if self._upstream is not None:
                self._upstream.close()

    def _serve(self) -> None:
        body = self.server.proxy.take(self.rfile, int(self.headers.get("Content-Length") or 0))
        rule = self.server.proxy.rule_for(self.command, unquote(self.path))
        fault = rule.fault if rule else Fault.PASS
        if rule and rule.act:
            rule.act()
        if fault is Fault.RESET:
            self._reset()
        elif fault is Fault.STALL:
            self.server.proxy.ending.wait()
            self._reset()
        elif fault is Fault.REFUSE and rule:
            self._refuse(rule)
        else:
            self._forward(_flip(body) if fault is Fault.SPOIL else body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that the base class calls

    def _forward(self, body: bytes, fault: Fault) -> None:
        status, reason, headers, answer = self._ask(body)
        if fault is Fault.LOSE:
            self._reset()
            return
        if fault is Fault.FLIP:
            answer = _flip(answer)
        self.server.proxy.note_answer(len(answer))
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if fault is Fault.CUT else answer)
        self.wfile.flush()
        if fault is Fault.CUT:
            self._reset()

    def _ask(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """The server's answer: status, reason, headers and all of its body."""
        if self._upstream is None:
            self._upstream = self.server.proxy.connect()
        upstream = self._upstream
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_HEADERS:
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        data = answer.read()
        headers = [one for one in answer.getheaders() if one[0].lower() not in _HOP_HEADERS]
        names = {name.lower() for name, _ in headers}
        if "content-length" not in names and answer.status not in (204, 304):
            headers.append(("Content-Length", str(len(data))))
        return answer.status, answer.reason, headers, data

    def _refuse(self, rule: Rule) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>made up</Message></Error>"
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(rule.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        for name, value in rule.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection; what the other side has not read yet is gone."""
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        """Nothing: pytest shows what a test needs."""


def _flip(data: bytes) -> bytes:
    """With one bit in its middle another one, if it has any."""
    flipped = bytearray(data)
    if flipped:
        flipped[len(flipped) // 2] ^= 1
    return bytes(flipped)
