"""What the store in a bucket makes of answers that servers give seldom, and what it sends."""

import contextlib
import os
import random
import traceback
from collections.abc import Iterator

import pytest
from botocore.awsrequest import AWSPreparedRequest

from pvback.errors import StorageError, StorageUnavailable
from pvback.model import S3Address
from pvback.retrying import create_own
from pvback.runtime import ManualClock
from pvback.s3_options import Addressing, S3Options
from pvback.storage import open_store
from pvback.storage.s3_body import sum_crc32
from pvback.storage.s3_store import S3Store
from pvback.storage.unconditional import UnconditionalStore
from tests.support.scripted_s3 import Answer, Asked, ScriptedS3, refusal


@pytest.fixture
def store(s3_service: ScriptedS3) -> Iterator[S3Store]:
    made = S3Store(s3_service.address("p"), S3Options(multipart_bytes=6 << 20, part_bytes=5 << 20))
    yield made
    made.close()


def page(*keys: str, token: str | None = None, is_cut: bool = False) -> Answer:
    found = "".join(
        f"<Contents><Key>p/{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>e</ETag></Contents>"
        for key in keys
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    cut = "true" if is_cut else "false"
    text = f"<ListBucketResult><IsTruncated>{cut}</IsTruncated>{more}{found}</ListBucketResult>"
    return Answer(body=text.encode())


def test_a_page_without_keys_is_not_the_end_of_a_list(s3_service: ScriptedS3, store: S3Store) -> None:
    def script(asked: Asked) -> Answer:
        match asked.query.get("continuation-token"), asked.query.get("start-after"):
            case None, None:
                return page("a", is_cut=True, token="1")
            case None, "p/a":
                return page(is_cut=True, token="2")
            case "2", None:
                return page(is_cut=True, token="3")
            case "3", None:
                return page("b", is_cut=True, token="4")
            case None, "p/b":
                return page("c")
        raise AssertionError(asked)

    s3_service.script = script
    assert [one.key for one in store.list_objects("")] == ["a", "b", "c"]


@pytest.mark.parametrize("token", [None, "same"])
def test_a_list_that_says_there_is_more_and_not_where_is_in_doubt(
    s3_service: ScriptedS3, store: S3Store, token: str | None
) -> None:
    s3_service.script = lambda _: page(is_cut=True, token=token)
    with pytest.raises(StorageUnavailable, match="broke off"):
        list(store.list_objects(""))
    assert len(s3_service.asked) <= 2


def test_an_upload_that_is_gone_is_begun_again(s3_service: ScriptedS3, store: S3Store) -> None:
    """As a lifecycle rule ends it, or a completion that was heard and not answered."""
    begun: list[str] = []

    def script(asked: Asked) -> Answer:
        if asked.method == "POST" and "uploads" in asked.query:
            begun.append(f"u{len(begun)}")
            name = "InitiateMultipartUploadResult"
            return Answer(body=f"<{name}><UploadId>{begun[-1]}</UploadId></{name}>".encode())
        if asked.method == "POST" and asked.query["uploadId"] == "u0":
            return refusal(404, "NoSuchUpload")
        if asked.method == "POST":
            return Answer(
                body=b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            )
        return Answer()

    s3_service.script = script
    create_own(store, "big", data=bytes(7 << 20), clock=ManualClock())
    assert begun == ["u0", "u1"]


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (301, "PermanentRedirect", "another region"),
        (400, "ExpiredToken", "have expired"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidAccessKeyId", "does not know these credentials"),
    ],
)
def test_what_is_wrong_with_a_head_is_asked_with_a_body(
    s3_service: ScriptedS3, store: S3Store, status: int, code: str, says: str
) -> None:
    # The client asks for the bucket's region when it is sent elsewhere.
    s3_service.script = lambda asked: refusal(status, code) if asked.key else Answer()
    for ask in (store.head, store.locked_until):
        with pytest.raises(StorageError, match=says):
            ask("a")
    asked = [one for one in s3_service.asked if one.method == "GET" and one.key == "p/a"]
    assert {one.headers["range"] for one in asked} == {"bytes=0-0"}


def test_credentials_that_expired_before_a_head_are_found_anew(
    s3_service: ScriptedS3, store: S3Store
) -> None:
    s3_service.script = lambda asked: (
        refusal(400, "ExpiredToken") if "someone" in asked.headers["authorization"] else Answer()
    )
    os.environ["AWS_ACCESS_KEY_ID"] = "another"  # of the fixture's environment
    assert store.head("a").size == 0


def test_a_head_that_is_refused_alone_is_refused(s3_service: ScriptedS3, store: S3Store) -> None:
    s3_service.script = lambda asked: refusal(403, "") if asked.method == "HEAD" else Answer(status=206)
    with pytest.raises(StorageError, match="access denied"):
        store.head("a")
    s3_service.script = lambda asked: (
        refusal(403, "") if asked.method == "HEAD" else refusal(416, "InvalidRange")
    )
    with pytest.raises(StorageError, match="access denied"):
        store.head("a")


def test_a_service_that_sends_every_request_elsewhere(s3_service: ScriptedS3, store: S3Store) -> None:
    """As a proxy does that answers `http` with the address of `https`."""
    s3_service.script = lambda _: Answer(status=301, headers={"Location": "https://elsewhere/"})
    with pytest.raises(StorageError, match="sends requests elsewhere") as caught:
        store.read("a")
    assert "endpoint" in (caught.value.hint or "")


def test_what_is_written_is_sent_with_its_class_its_encryption_and_its_checksum(
    s3_service: ScriptedS3,
) -> None:
    options = S3Options(
        storage_class=(("data", "COLD"),),
        sse="aws:kms",
        sse_kms_key_id="key-1",
        multipart_bytes=6 << 20,
        part_bytes=5 << 20,
    )
    store = S3Store(s3_service.address(), options)

    def script(asked: Asked) -> Answer:
        if "uploads" in asked.query:
            name = "InitiateMultipartUploadResult"
            return Answer(body=f"<{name}><UploadId>u</UploadId></{name}>".encode())
        if asked.method == "POST":
            return Answer(
                body=b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            )
        return Answer()

    s3_service.script = script
    noise = random.Random(1).randbytes(7 << 20)
    store.put("s/1/data/00/small", b"small")
    store.create("s/1/data/00/parts", noise)
    etag = store.create("s/1/snapshots/1-a", b"register")
    store.swap("s/1/snapshots/1-a", b"another", etag=etag)
    store.close()

    made = {one.key: one.headers for one in s3_service.asked if one.method == "PUT" and not one.query}
    begun = next(one.headers for one in s3_service.asked if "uploads" in one.query)
    for headers in (*made.values(), begun):
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert made["s/1/data/00/small"]["x-amz-storage-class"] == begun["x-amz-storage-class"] == "COLD"
    assert "x-amz-storage-class" not in made["s/1/snapshots/1-a"]
    assert begun["x-amz-checksum-algorithm"] == "CRC32"
    with_bodies = [one for one in s3_service.asked if one.method == "PUT"]
    assert len(with_bodies) == 5
    for one in with_bodies:
        assert one.headers["x-amz-checksum-crc32"] == sum_crc32(memoryview(one.body)), one.key
    parts = {one.query["partNumber"]: one.body for one in with_bodies if one.query}
    assert parts["1"] + parts["2"] == noise


def test_services_that_refuse_checksums_get_none(s3_service: ScriptedS3) -> None:
    store = S3Store(s3_service.address(), S3Options(checksums=False))
    store.put("a", b"x")
    store.close()
    (asked,) = s3_service.asked
    assert not [name for name in asked.headers if name.startswith("x-amz-checksum")]
    assert "x-amz-trailer" not in asked.headers


def test_a_traceback_tells_no_credentials(s3_service: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services repeat what they were sent."""
    secret = "never-to-be-told"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    body = f"<Error><Code>InvalidArgument</Code><Message>computed with {secret}</Message></Error>"
    s3_service.script = lambda _asked: Answer(status=400, body=body.encode())
    store = S3Store(s3_service.address("p"), S3Options())
    with contextlib.closing(store), pytest.raises(StorageError) as caught:
        store.read("there")
    told = "".join(traceback.format_exception(caught.value))
    assert "computed with ***" in told
    assert secret not in told


def test_a_lag_of_lists_is_heard_of_by_who_waits_for_it(s3_service: ScriptedS3) -> None:
    """Through whatever stands before the store."""
    for options, lag in ((S3Options(), 0.0), (S3Options(list_lag_seconds=7.5), 7.5)):
        with contextlib.closing(open_store(s3_service.address("p"), s3=options)) as store:
            assert store.capabilities.list_lag_seconds == lag
            assert UnconditionalStore(store).capabilities.list_lag_seconds == lag


@pytest.mark.parametrize(
    ("addressing", "endpoint", "wanted"),
    [
        ("auto", "https://s3.example.test", "https://s3.example.test/bucket/p/there"),
        ("path", "https://s3.example.test", "https://s3.example.test/bucket/p/there"),
        ("virtual", "https://s3.example.test", "https://bucket.s3.example.test/p/there"),
        ("auto", None, "https://bucket.s3.eu-west-2.amazonaws.com/p/there"),
        ("path", None, "https://s3.eu-west-2.amazonaws.com/bucket/p/there"),
    ],
)
def test_where_the_bucket_stands(
    addressing: Addressing, endpoint: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the path for services of one's own, whose name may be the only one that resolves."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    options = S3Options(addressing=addressing, region="eu-west-2")
    store = S3Store(S3Address("bucket", "p", endpoint), options)

    def refuse(request: AWSPreparedRequest, **_: object) -> None:
        raise RuntimeError(request.url)

    store._door._client.meta.events.register("before-send.s3", refuse)
    with contextlib.closing(store), pytest.raises(RuntimeError) as caught:
        store.read("there")
    assert str(caught.value).partition("?")[0] == wanted
