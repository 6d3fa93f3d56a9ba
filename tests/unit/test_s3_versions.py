"""Versions of a bucket whose service is busy, or away."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from pvback import limits
from pvback.errors import StorageError
from pvback.ops.versions import VersionPlan, apply_versions
from pvback.runtime import Cancel, ManualClock
from pvback.s3_options import S3Options
from pvback.storage import ObjectVersion
from pvback.storage.s3_versions import S3Versions
from tests.support.scripted_s3 import Answer, Asked, ScriptedS3, refusal

COUNT = 20 * limits.READS_IN_FLIGHT
LIST = """<ListVersionsResult><IsTruncated>{cut}</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>
<Version><Key>{key}</Key><VersionId>v</VersionId><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size>
<IsLatest>true</IsLatest><ETag>e</ETag></Version></ListVersionsResult>"""


def version(key: str, *, is_marker: bool = False) -> ObjectVersion:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return ObjectVersion(
        key=key, version="v", mtime=moment, size=1, is_latest=True, is_marker=is_marker, etag="e"
    )


@pytest.fixture
def versions(s3_service: ScriptedS3) -> Iterator[S3Versions]:
    made = S3Versions(s3_service.address(), S3Options(), clock=ManualClock())
    yield made
    made.close()


def busy_at_first(good: Any) -> Any:
    """Every request is refused once before it is answered."""
    seen: set[tuple[object, ...]] = set()
    lock = threading.Lock()

    def script(asked: Asked) -> Answer:
        with lock:
            name = (asked.method, asked.key, *sorted(asked.query.items()))
            if name in seen:
                found: Answer = good(asked)
                return found
            seen.add(name)
        return refusal(503, "SlowDown")

    return script


def test_what_a_busy_service_puts_off_is_asked_again(s3_service: ScriptedS3, versions: S3Versions) -> None:
    def good(asked: Asked) -> Answer:
        if "versions" in asked.query:
            is_first = "key-marker" not in asked.query
            return Answer(body=LIST.format(cut=str(is_first).lower(), key="ab"[not is_first]).encode())
        return Answer(body=b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")

    s3_service.script = busy_at_first(good)
    assert [one.key for one in versions.list_versions()] == ["a", "b"]
    s3_service.asked.clear()
    plan = VersionPlan(
        revealed=[[version("m", is_marker=True)]], restored=[version("r")], hidden=[version("h")]
    )
    apply_versions(versions, plan, cancel=Cancel())
    assert sorted((one.method, one.key) for one in s3_service.asked) == [
        ("DELETE", "h"), ("DELETE", "h"), ("DELETE", "m"), ("DELETE", "m"), ("PUT", "r"), ("PUT", "r"),
    ]  # fmt: skip


def test_after_an_error_nothing_more_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fails, and the others are held back until that has come up."""
    has_come_up = threading.Event()
    begun: list[str] = []

    class Store:
        def hide(self, one: ObjectVersion) -> None:
            begun.append(one.key)
            if one.key == "1":
                raise StorageError("access denied")
            assert has_come_up.wait(60)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            if cancel_futures:
                super().shutdown(wait=False, cancel_futures=True)
            has_come_up.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr("pvback.ops.versions.ThreadPoolExecutor", Pool)
    plan = VersionPlan(hidden=[version(str(number)) for number in range(COUNT)])
    store: Any = Store()
    with pytest.raises(StorageError, match="access denied"):
        apply_versions(store, plan, cancel=Cancel())
    assert len(begun) <= limits.READS_IN_FLIGHT + 1


def test_what_comes_back_is_as_what_is_written(s3_service: ScriptedS3) -> None:
    options = S3Options(
        storage_class=(("data", "COLD"),), sse="aws:kms", sse_kms_key_id="key-1", object_lock=86_400
    )
    s3_service.script = lambda _: Answer(body=b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    versions = S3Versions(s3_service.address(), options, clock=ManualClock())
    versions.bring_back(version("s/1/data/00/a"))
    versions.close()
    (asked,) = s3_service.asked
    wanted = {
        "storage-class": "COLD",
        "server-side-encryption": "aws:kms",
        "server-side-encryption-aws-kms-key-id": "key-1",
        "object-lock-mode": "GOVERNANCE",
        "object-lock-retain-until-date": "2026-01-02T00:00:00Z",
        "copy-source": "bucket/s/1/data/00/a?versionId=v",
    }
    assert {name: asked.headers[f"x-amz-{name}"] for name in wanted} == wanted


def test_a_list_that_says_there_is_more_and_not_where(s3_service: ScriptedS3, versions: S3Versions) -> None:
    s3_service.script = lambda _: Answer(
        body=b"<ListVersionsResult><IsTruncated>true</IsTruncated></ListVersionsResult>"
    )
    with pytest.raises(StorageError, match="broke off"):
        list(versions.list_versions())
