"""Options for S3: from a file, from variables, from flags; and what refusals mean, by their codes."""

from dataclasses import fields
from pathlib import Path

import pytest

from pvback import limits
from pvback.config import load_config
from pvback.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
    UsageError,
)
from pvback.repository.layout import Area, ScopeLayout
from pvback.s3_options import STORAGE_CLASS_AREAS, S3Options
from pvback.storage.s3_errors import Refusal, translate_refusal
from pvback.storage.wrap import Request


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        '[s3]\nregion = "file"\nconnections = 7\nread_seconds = 1.5\nchecksums = false\n'
        'storage_class = { data = "COLD", meta = "WARM" }\n'
    )
    environment = {"PVBACK_CONFIG": str(file), "PVBACK_S3_REGION": "variable", "PVBACK_S3_PROFILE": "p"}
    words = ("profile=flag", "part_bytes=8M", "storage_class.data=COLDER", "sse=aws:kms")
    found = load_config({"s3_options": words}, environment=environment).s3
    assert found == S3Options(
        region="variable",
        profile="flag",
        connections=7,
        read_seconds=1.5,
        checksums=False,
        part_bytes=8 * limits.MIB,
        sse="aws:kms",
        storage_class=(("data", "COLDER"), ("meta", "WARM")),
    )


def test_every_option_has_a_variable() -> None:
    samples: dict[str, object] = {
        "addressing": "path",
        "sse": "aws:kms",
        "storage_class": "data=X,index=Y",
        "object_lock": "30d",
        "object_lock_mode": "compliance",
    }
    for item in fields(S3Options):
        value = str(
            samples.get(item.name, {int: "6000000", float: "3", bool: "no"}.get(type(item.default), "x"))
        )
        value = "5" if item.name in ("part_parallel", "connections") else value
        environment = {f"PVBACK_S3_{item.name.upper()}": value, "PVBACK_S3_SSE": "aws:kms"}
        found = getattr(load_config(environment=environment).s3, item.name)
        assert found != item.default, item.name


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("object_lock=30", "span from 1d"),
        ("object_lock=11y", "span from 1d"),
        ("object_lock=23h", "span from 1d"),
        ("object_lock_mode=none", "not one of governance"),
        ("region", "not an option for S3"),
        ("regoin=x", "no such option for S3: `regoin`"),
        ("region=", "has to be a text"),
        ("addressing=both", "not one of auto, path, virtual"),
        ("connections=0", "not a count"),
        ("connections=x", "not a count"),
        ("read_seconds=-1", "not a number of seconds"),
        ("read_seconds=0", "not a number of seconds"),
        ("checksums=maybe", "neither true nor false"),
        ("part_bytes=1M", "too small"),
        ("multipart_bytes=6G", "too large"),
        ("storage_class.snapshots=COLD", "no storage class for `snapshots`"),
        ("storage_class=COLD", "no storage class for `COLD`"),
        ("sse=rot13", "not one of"),
        ("sse_kms_key_id=x", "without encryption by KMS"),
    ],
)
def test_what_is_no_option(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_config({"s3_options": (word,)}, environment={})


def test_a_table_is_a_table(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("s3 = 1")
    with pytest.raises(UsageError, match="not a table"):
        load_config(environment={"PVBACK_CONFIG": str(file)})


@pytest.mark.parametrize(
    "endpoint", ["https://user:secret@host", "host:9000", "ftp://x", "https://", "http://h/?q=1"]
)
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    with pytest.raises(UsageError, match="is not an endpoint") as caught:
        load_config({"s3_endpoint": endpoint, "repository": "s3://bucket/p"}, environment={})
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_classes_go_by_the_folder() -> None:
    assert set(STORAGE_CLASS_AREAS) <= {str(area) for area in Area}
    options = S3Options(storage_class=(("data", "COLD"), ("meta", "WARM")))
    layout = ScopeLayout("0" * 32)
    assert options.class_of(f"{layout.area(Area.DATA)}00/x") == "COLD"
    assert options.class_of(f"{layout.area(Area.META)}00/x") == "WARM"
    assert options.class_of(f"{layout.area(Area.SNAPSHOTS)}x") is None
    assert options.class_of("config") is None
    assert options.class_of("keys/data") is None


@pytest.mark.parametrize(
    ("status", "code", "kind", "wanted"),
    [
        (412, "PreconditionFailed", Request.CREATE, ObjectExists),
        (412, "PreconditionFailed", Request.SWAP, ObjectChanged),
        (404, "NoSuchKey", Request.SWAP, ObjectChanged),
        (404, "NoSuchKey", Request.READ, ObjectNotFound),
        (404, "404", Request.HEAD, ObjectNotFound),
        (404, "NoSuchUpload", Request.PUT, StorageUnavailable),
        (404, "NoSuchUpload", Request.CREATE, StorageUnavailable),
        (404, "NoSuchUpload", Request.SWAP, StorageUnavailable),
        (404, "NoSuchBucket", Request.READ, StorageError),
        (404, "NoSuchBucket", Request.SWAP, StorageError),
        (409, "ConditionalRequestConflict", Request.CREATE, StorageUnavailable),
        (403, "AccessDenied", Request.PUT, StorageError),
        (403, "403", Request.HEAD, StorageError),
        (400, "ExpiredToken", Request.PUT, StorageError),
        (403, "RequestTimeTooSkewed", Request.READ, StorageError),
        (301, "PermanentRedirect", Request.READ, StorageError),
        (400, "AuthorizationHeaderMalformed", Request.READ, StorageError),
        (403, "InvalidAccessKeyId", Request.READ, StorageError),
        (403, "SignatureDoesNotMatch", Request.READ, StorageError),
        (403, "QuotaExceeded", Request.PUT, StorageError),
        (507, "XMinioStorageFull", Request.PUT, StorageError),
        (507, "507", Request.PUT, StorageError),
        (400, "RequestTimeout", Request.PUT, StorageUnavailable),
        (400, "BadDigest", Request.PUT, StorageUnavailable),
        (500, "InternalError", Request.PUT, StorageUnavailable),
        (502, "502", Request.READ, StorageUnavailable),
        (503, "SlowDown", Request.READ, StorageUnavailable),
        (429, "TooManyRequests", Request.READ, StorageUnavailable),
        (501, "NotImplemented", Request.DELETE, StorageError),
        (400, "SomethingNew", Request.PUT, StorageError),
    ],
)
def test_what_a_refusal_means(status: int, code: str, kind: Request, wanted: type[StorageError]) -> None:
    found = translate_refusal(Refusal(status=status, code=code), kind=kind, key="a/b")
    assert type(found) is wanted
    assert found.key == "a/b"


def test_hints_say_what_to_do() -> None:
    for code, hint in (
        ("RequestTimeTooSkewed", "clock"),
        ("PermanentRedirect", "region="),
        ("ExpiredToken", "new ones"),
        ("NoSuchBucket", "make the bucket"),
        ("QuotaExceeded", "free some space"),
    ):
        found = translate_refusal(Refusal(status=400, code=code), kind=Request.PUT, key="a")
        assert hint in (found.hint or ""), code


def test_a_throttled_request_says_how_long_to_wait() -> None:
    def pause(retry_after: str | None) -> float | None:
        refusal = Refusal(status=503, code="SlowDown", retry_after=retry_after)
        found = translate_refusal(refusal, kind=Request.PUT, key="a")
        assert isinstance(found, StorageUnavailable)
        return found.pause_seconds

    assert pause("17") == 17.0
    for nothing in (None, "", "Mon, 01 Jan 2026 00:00:00 GMT", "-3", "0"):
        assert pause(nothing) == limits.RETRY_THROTTLED_SECONDS_MIN
