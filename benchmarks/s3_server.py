"""A small S3 server in memory that counts requests.

It exists to count what a program asks of an object store, not to be fast: it keeps objects in memory,
checks no signature, and knows the part of S3 that backup programs use: objects with ranges and
conditions, both list versions, multipart uploads, batch deletes, and bodies in `aws-chunked` coding.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase

LIST_MAX = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass(frozen=True)
class StoredObject:
    """Bytes of one object with what S3 tells about them."""

    data: bytes
    etag: str
    modified: float


@dataclass
class Bucket:
    """All objects, open uploads, and the counts; every change is made under one lock."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _upload_ids: Iterator[int] = field(default_factory=count)

    def put(self, key: str, data: bytes, *, if_none_match: str = "", if_match: str = "") -> str | None:
        """Store an object and return its tag; None when a condition does not hold."""
        with self.lock:
            present = self.objects.get(key)
            if if_none_match == "*" and present is not None:
                return None
            if if_match and (present is None or present.etag != if_match):
                return None
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            self.objects[key] = StoredObject(data, f'"{digest}"', time.time())
            return self.objects[key].etag

    def start_upload(self) -> str:
        """Id of a new multipart upload."""
        with self.lock:
            upload = f"upload-{next(self._upload_ids)}"
            self.uploads[upload] = {}
            return upload

    def list_keys(self, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str], bool]:
        """One page of keys and common prefixes after ``after``, and whether more follow."""
        with self.lock:
            names = sorted(key for key in self.objects if key.startswith(prefix))
        keys: list[str] = []
        groups: list[str] = []
        for name in names:
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            shown = name if cut < 0 else name[: cut + len(delimiter)]
            if shown <= after or (groups and groups[-1] == shown):
                continue
            if len(keys) + len(groups) == LIST_MAX:
                return keys, groups, True
            (keys if cut < 0 else groups).append(shown)
        return keys, groups, False

    def stored_bytes(self) -> tuple[int, int]:
        """Bytes and number of all objects."""
        with self.lock:
            return sum(len(one.data) for one in self.objects.values()), len(self.objects)


class Handler(BaseHTTPRequestHandler):
    """One connection; paths are ``/bucket/key``, and there is one bucket whatever its name."""

    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it
        """Say nothing: counts are what is wanted."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: replies are small and wait for nothing

    def _split(self) -> tuple[str, dict[str, str]]:
        """Key (empty for the bucket itself) and query parameters."""
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        return key, dict(parse_qsl(parts.query, keep_blank_values=True))

    def _count(self, kind: str) -> None:
        with self.bucket.lock:
            self.bucket.requests[kind] += 1

    def _body(self) -> bytes:
        """Body of the request, with `aws-chunked` coding and HTTP chunks taken off."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b"".join(_read_chunks(self.rfile))
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            return _decode_aws_chunked(data)
        return data

    def _reply(self, status: int, body: str | bytes = b"", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._reply(status, body, Content_Type="application/xml")

    def do_HEAD(self) -> None:
        key, _ = self._split()
        self._count("HEAD")
        found = self.bucket.objects.get(key)
        if key and found is None:
            self._fail(404, "NoSuchKey")
        elif found is None:
            self._reply(200)
        else:
            self._reply(200, Content_Length=str(len(found.data)), **_object_headers(found))

    def do_GET(self) -> None:
        key, query = self._split()
        if not key:
            self._get_bucket(query)
            return
        self._count("GET")
        found = self.bucket.objects.get(key)
        if found is None:
            self._fail(404, "NoSuchKey")
            return
        span = _parse_range(self.headers.get("Range"), len(found.data))
        if span is None:
            self._reply(200, found.data, **_object_headers(found))
        elif span[0] >= len(found.data):
            self._fail(416, "InvalidRange")
        else:
            said = f"bytes {span[0]}-{span[1] - 1}/{len(found.data)}"
            part = found.data[span[0] : span[1]]
            self._reply(206, part, Content_Range=said, **_object_headers(found))

    def _get_bucket(self, query: dict[str, str]) -> None:
        self._count("LIST" if "prefix" in query or "list-type" in query else "GET")
        if "location" in query:
            self._reply(200, f"<LocationConstraint xmlns='{NAMESPACE}'></LocationConstraint>")
        elif "versioning" in query:
            self._reply(200, f"<VersioningConfiguration xmlns='{NAMESPACE}'/>")
        elif "object-lock" in query:
            self._fail(404, "ObjectLockConfigurationNotFoundError")
        else:
            self._reply(200, _list_xml(self.bucket, query), Content_Type="application/xml")

    def do_PUT(self) -> None:
        key, query = self._split()
        data = self._body()
        self._count("PUT")
        if not key:
            self._reply(200)
        elif "uploadId" in query:
            etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            with self.bucket.lock:
                self.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = data
            self._reply(200, ETag=etag)
        else:
            self._put_object(key, data)

    def _put_object(self, key: str, data: bytes) -> None:
        etag = self.bucket.put(
            key,
            data,
            if_none_match=self.headers.get("If-None-Match", ""),
            if_match=self.headers.get("If-Match", ""),
        )
        if etag is None:
            self._fail(412, "PreconditionFailed")
        else:
            self._reply(200, ETag=etag)

    def do_POST(self) -> None:
        key, query = self._split()
        body = self._body()
        self._count("POST")
        if "delete" in query:
            keys = [element.text or "" for element in ET.fromstring(body).iter() if _is_key(element)]
            with self.bucket.lock:
                for one in keys:
                    self.bucket.objects.pop(one, None)
            self._reply(200, f"<DeleteResult xmlns='{NAMESPACE}'></DeleteResult>")
        elif "uploads" in query:
            upload = self.bucket.start_upload()
            self._reply(200, _upload_xml("InitiateMultipartUploadResult", key, UploadId=upload))
        elif "uploadId" in query:
            with self.bucket.lock:
                parts = self.bucket.uploads.pop(query["uploadId"])
            etag = self.bucket.put(key, b"".join(parts[number] for number in sorted(parts))) or ""
            self._reply(200, _upload_xml("CompleteMultipartUploadResult", key, ETag=etag))
        else:
            self._fail(501, "NotImplemented")

    def do_DELETE(self) -> None:
        key, query = self._split()
        self._count("DELETE")
        with self.bucket.lock:
            if "uploadId" in query:
                self.bucket.uploads.pop(query["uploadId"], None)
            else:
                self.bucket.objects.pop(key, None)
        self._reply(204)


@contextmanager
def serve_bucket() -> Iterator[tuple[str, Bucket]]:
    """Run a server on a free port of this machine; yields its address (host:port) and bucket."""
    bucket = Bucket()
    handler = type("BoundHandler", (Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="s3-server", daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_key(element: ET.Element) -> bool:
    return element.tag.rpartition("}")[2] == "Key"


def _object_headers(found: StoredObject) -> dict[str, str]:
    return {
        "ETag": found.etag,
        "Last_Modified": formatdate(found.modified, usegmt=True),
        "Accept_Ranges": "bytes",
        "Content_Type": "application/octet-stream",
    }


def _parse_range(text: str | None, length: int) -> tuple[int, int] | None:
    """Start and end of a ``Range`` header, also of the last N bytes; None without one."""
    if not text or not text.startswith("bytes="):
        return None
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, length - int(last)), length
    return int(first), min(length, int(last) + 1) if last else length


def _list_xml(bucket: Bucket, query: dict[str, str]) -> str:
    """Answer to both versions of the list request."""
    is_second = query.get("list-type") == "2"
    after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
    keys, groups, is_truncated = bucket.list_keys(query.get("prefix", ""), query.get("delimiter", ""), after)

    def said(name: str) -> str:
        return quote(name, safe="/") if query.get("encoding-type") == "url" else escape(name)

    parts = [f"<ListBucketResult xmlns='{NAMESPACE}'><Name>bucket</Name>"]
    parts += [f"<Prefix>{said(query.get('prefix', ''))}</Prefix><MaxKeys>{LIST_MAX}</MaxKeys>"]
    parts += [f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"]
    parts += ["<EncodingType>url</EncodingType>"] if query.get("encoding-type") == "url" else []
    parts += [f"<KeyCount>{len(keys) + len(groups)}</KeyCount>"] if is_second else []
    if is_truncated:
        name = "NextContinuationToken" if is_second else "NextMarker"
        parts += [f"<{name}>{said(max(keys[-1:] + groups[-1:]))}</{name}>"]
    for key in keys:
        found = bucket.objects.get(key)
        if found is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.modified))
            parts += [f"<Contents><Key>{said(key)}</Key><LastModified>{stamp}</LastModified>"]
            parts += [f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size>"]
            parts += ["<StorageClass>STANDARD</StorageClass></Contents>"]
    parts += [f"<CommonPrefixes><Prefix>{said(one)}</Prefix></CommonPrefixes>" for one in groups]
    return "".join(parts) + "</ListBucketResult>"


def _upload_xml(name: str, key: str, **values: str) -> str:
    inner = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in values.items())
    return f"<{name} xmlns='{NAMESPACE}'><Bucket>bucket</Bucket><Key>{escape(key)}</Key>{inner}</{name}>"


def _read_chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    """Chunks of HTTP's own chunked coding; trailers are read and dropped."""
    while size := int(stream.readline().partition(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass


def _decode_aws_chunked(data: bytes) -> bytes:
    """Take the signed-chunk framing off: ``size;extension CRLF data CRLF ...``, then trailers."""
    parts: list[bytes] = []
    start = 0
    while True:
        end = data.index(b"\r\n", start)
        size = int(data[start:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        start = end + 2 + size + 2
