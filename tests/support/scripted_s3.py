"""An S3 service on loopback that answers what a test tells it to, and remembers what it was asked.

For what no real server can be made to do. It checks no signature, and knows nothing of S3 but how a refusal
looks.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from pvback.model import S3Address

__all__ = ["Answer", "Asked", "ScriptedS3", "refusal", "scripted_s3"]

_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
BUCKET = "bucket"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request."""

    method: str
    key: str
    """Without the bucket; as it was sent, unquoted."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By small letters."""
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, **headers: str) -> Answer:
    """An answer that is no success, as S3 words it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made up</Message></Error>"
    return Answer(status=status, body=text.encode(), headers=headers)


@dataclass
class ScriptedS3:
    """The service while it runs. `script` may be changed at any time, and is called from several threads."""

    script: Callable[[Asked], Answer]
    endpoint: str = ""
    asked: list[Asked] = field(default_factory=list)

    def address(self, prefix: str = "") -> S3Address:
        """A place in it."""
        return S3Address(BUCKET, prefix, self.endpoint)


@contextlib.contextmanager
def scripted_s3(script: Callable[[Asked], Answer]) -> Generator[ScriptedS3, None, None]:
    """A service that listens as long as the body lasts."""
    service = ScriptedS3(script)
    listener = _Listener(("127.0.0.1", 0), _Handler)
    listener.service = service
    service.endpoint = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), name="scripted-s3")
    thread.start()
    try:
        yield service
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    service: ScriptedS3


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            key=unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/"),
            query={name: one[0] for name, one in parse_qs(parts.query, keep_blank_values=True).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        self.server.service.asked.append(asked)
        answer = self.server.service.script(asked)
        self.send_response_only(answer.status)
        for name, value in ({"Last-Modified": _DATE, "ETag": '"e"'} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the names that the base class calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        """Nothing."""
