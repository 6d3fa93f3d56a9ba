"""The counting S3 server answers as S3 does where backup programs rely on it."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from benchmarks.s3_requests import Count, render_counts
from benchmarks.s3_server import LIST_MAX, Bucket, serve_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

Reply = tuple[int, dict[str, str], bytes]


class Client:
    """One connection to the server."""

    def __init__(self, address: str, bucket: Bucket) -> None:
        self.bucket = bucket
        self._connection = http.client.HTTPConnection(address, timeout=10)

    def ask(self, method: str, path: str, body: object = b"", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        is_stream = not isinstance(body, bytes)
        self._connection.request(method, path, body, named, encode_chunked=is_stream)  # type: ignore[arg-type]
        reply = self._connection.getresponse()
        return reply.status, dict(reply.headers), reply.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def client() -> Iterator[Client]:
    with serve_bucket() as (address, bucket):
        one = Client(address, bucket)
        yield one
        one.close()


def names(body: bytes, tag: str) -> list[str]:
    found = [element for element in ET.fromstring(body).iter() if element.tag.endswith("}" + tag)]
    return [element.text or "" for element in found]


def test_objects_come_back_whole_and_in_ranges(client: Client) -> None:
    status, headers, _ = client.ask("PUT", "/b/a/key", b"0123456789")
    assert status == 200
    assert client.ask("GET", "/b/a/key")[::2] == (200, b"0123456789")
    assert client.ask("GET", "/b/a/key", Range="bytes=2-4")[::2] == (206, b"234")
    assert client.ask("GET", "/b/a/key", Range="bytes=7-")[::2] == (206, b"789")
    assert client.ask("GET", "/b/a/key", Range="bytes=-2")[::2] == (206, b"89")
    assert client.ask("GET", "/b/a/key", Range="bytes=8-99")[::2] == (206, b"89")
    assert client.ask("GET", "/b/a/key", Range="bytes=10-")[0] == 416
    status, told, body = client.ask("HEAD", "/b/a/key")
    assert (status, told["Content-Length"], told["ETag"], body) == (200, "10", headers["ETag"], b"")
    assert client.ask("DELETE", "/b/a/key")[0] == 204
    assert client.ask("GET", "/b/a/key")[0] == 404
    assert client.ask("HEAD", "/b/a/key")[0] == 404
    assert client.bucket.requests == {"PUT": 1, "GET": 7, "HEAD": 2, "DELETE": 1}


def test_conditions_hold(client: Client) -> None:
    _, headers, _ = client.ask("PUT", "/b/key", b"one", If_None_Match="*")
    assert client.ask("PUT", "/b/key", b"two", If_None_Match="*")[0] == 412
    assert client.ask("PUT", "/b/key", b"two", If_Match='"other"')[0] == 412
    assert client.ask("PUT", "/b/none", b"two", If_Match=headers["ETag"])[0] == 412
    assert client.ask("PUT", "/b/key", b"two", If_Match=headers["ETag"])[0] == 200
    assert client.ask("GET", "/b/key")[2] == b"two"


def test_signed_chunks_and_http_chunks_are_taken_off(client: Client) -> None:
    framed = (
        b"5;chunk-signature=00\r\nhello\r\n1\r\n!\r\n0;chunk-signature=00\r\nx-amz-checksum-crc32:x\r\n\r\n"
    )
    signed = {"x_amz_content_sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    client.ask("PUT", "/b/signed", framed, **signed)
    assert client.ask("GET", "/b/signed")[2] == b"hello!"
    client.ask("PUT", "/b/chunked", iter([b"ab", b"cde"]), Transfer_Encoding="chunked")
    assert client.ask("GET", "/b/chunked")[2] == b"abcde"


def test_multipart_upload_joins_parts_by_number(client: Client) -> None:
    _, _, body = client.ask("POST", "/b/big?uploads")
    (upload,) = names(body, "UploadId")
    client.ask("PUT", f"/b/big?partNumber=2&uploadId={upload}", b"second")
    client.ask("PUT", f"/b/big?partNumber=1&uploadId={upload}", b"first,")
    assert client.ask("GET", "/b/big")[0] == 404
    assert client.ask("POST", f"/b/big?uploadId={upload}", b"<x/>")[0] == 200
    assert client.ask("GET", "/b/big")[2] == b"first,second"


@pytest.mark.parametrize(
    ("version", "token", "query"),
    [("list-type=2&", "NextContinuationToken", "continuation-token"), ("", "NextMarker", "marker")],
)
def test_lists_are_paged_and_grouped(client: Client, version: str, token: str, query: str) -> None:
    wanted = [f"p/{number:05}" for number in range(LIST_MAX + 1)]
    for key in [*wanted, "q/one/a", "q/one/b", "q/two", "q/&x"]:
        client.bucket.put(key, b"")
    body = client.ask("GET", f"/b?{version}prefix=p/")[2]
    assert names(body, "IsTruncated") == ["true"]
    (after,) = names(body, token)
    rest = client.ask("GET", f"/b?{version}prefix=p/&{query}={after}")[2]
    assert names(body, "Key") + names(rest, "Key") == wanted
    assert names(rest, "IsTruncated") == ["false"]
    grouped = client.ask("GET", f"/b?{version}prefix=q/&delimiter=/&encoding-type=url")[2]
    assert names(grouped, "Key") == ["q/%26x", "q/two"]
    assert names(grouped, "Prefix")[1:] == ["q/one/"]
    assert client.bucket.requests == {"LIST": 3}


def test_batch_delete(client: Client) -> None:
    for key in ("a", "b", "c"):
        client.bucket.put(key, b"")
    body = b"<Delete><Object><Key>a</Key></Object><Object><Key>c</Key></Object></Delete>"
    assert client.ask("POST", "/b?delete", body)[0] == 200
    assert list(client.bucket.objects) == ["b"]


def test_table_of_counts() -> None:
    counts = [
        Count(corpus="small", tool="pvback", step="first", requests={"PUT": 3, "GET": 2}),
        Count(corpus="small", tool="restic", step="first", requests={}, error="no | luck"),
    ]
    lines = render_counts(counts).splitlines()
    assert lines[2] == "| small | first | pvback | 5 | 3 | 0 | 2 | 0 | 0 | 0 | 0.0 | 0 |"
    assert "FAILED: no \\| luck" in lines[3]
