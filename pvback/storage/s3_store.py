"""A store in a bucket of S3, or of a service that speaks like it.

One call is one attempt of ours; `RetryingStore` decides about more. Conditions are headers
(`If-None-Match: *` and `If-Match`); those of objects that go up in parts hold when the parts are joined.

Bodies are handed over as they are, with a CRC32 of ours in a header: no trailers, which other services do not
take. Reads of whole objects ask for the checksum back; ranges have none, and what is in packs is
authenticated by the data path.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pvback import limits
from pvback.errors import StorageError, StorageUnavailable
from pvback.model import S3Address
from pvback.runtime import Clock, Random, SystemClock
from pvback.s3_options import S3Options, is_written_once
from pvback.storage.abandon import current_ticket
from pvback.storage.base import (
    Capabilities,
    ObjectInfo,
    ReadBuffer,
    StoredObject,
    WriteBuffer,
    check_key,
    check_prefix,
)
from pvback.storage.s3 import Passed, S3Door
from pvback.storage.s3_body import BufferReader, fill_from, plan_parts, stop_body, sum_crc32
from pvback.storage.s3_errors import MISSING_FEATURE_CODES, Refusal, translate_refusal
from pvback.storage.s3_missing import ask_for
from pvback.storage.wrap import Request

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["S3Store"]

T = TypeVar("T")

_PAST_THE_END = frozenset({"416", "InvalidRange"})
_WORDLESS = frozenset({"301", "400", "403"})
"""Statuses that mean one of several things, which only a body tells apart."""
_CUT_OFF = "the connection ended in the middle of an object"
_PART_COUNT_MAX = 10_000


class S3Store:
    """Objects below a prefix of a bucket. Raises UsageError for a profile or endpoint that cannot be.

    Sends nothing to the service before the first call.
    """

    def __init__(
        self,
        address: S3Address,
        options: S3Options | None = None,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._address = address
        self._options = options or S3Options()
        self._clock = clock or SystemClock()
        self._door = S3Door(address, self._options, clock=clock, random=random)
        self._prefix = f"{address.prefix}/" if address.prefix else ""
        self._parts = ThreadPoolExecutor(
            self._options.part_parallel * limits.PUTS_IN_FLIGHT, thread_name_prefix="pvback-part"
        )

    @property
    def address(self) -> str:
        """`s3://bucket/prefix`."""
        return str(self._address)

    @property
    def capabilities(self) -> Capabilities:
        """As S3 promises them; what the service does is found by `probe_conditions`."""
        return Capabilities(
            list_lag_seconds=self._options.list_lag_seconds,
            is_remote=True,
            multipart_bytes=self._options.multipart_bytes,
            part_bytes=self._options.part_bytes,
            lock_seconds=self._options.object_lock,
        )

    def put(self, key: str, data: ReadBuffer) -> None:
        """See `ObjectStore.put`."""
        self._write(Request.PUT, key, data, {})

    def create(self, key: str, data: ReadBuffer) -> str:
        """See `ObjectStore.create`."""
        return self._write(Request.CREATE, key, data, {"IfNoneMatch": "*"})

    def swap(self, key: str, data: ReadBuffer, *, etag: str) -> str:
        """See `ObjectStore.swap`."""
        assert etag, "an object without an etag is not swapped"
        assert memoryview(data).nbytes <= limits.SWAPPED_BYTES_MAX, "too big to be swapped"
        return self._write(Request.SWAP, key, data, {"IfMatch": etag})

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`. A body that does not fit the service's checksum is StorageUnavailable."""
        mode: dict[str, Any] = {"ChecksumMode": "ENABLED"} if self._options.checksums else {}

        def act(client: "S3Client") -> StoredObject:
            answer = client.get_object(**self._place(key), **mode)
            with contextlib.closing(answer["Body"]) as body:
                data = body.read()
            return StoredObject(data, answer.get("ETag", ""), _whole_second(answer["LastModified"]))

        return self._ask_for(Request.READ, key, act=act)

    def read_range(self, key: str, *, offset: int, length: int) -> bytes:
        """See `ObjectStore.read_range`."""
        assert offset >= 0, "no object begins before 0"
        assert length >= 0, "a range is not of negative length"
        if length == 0:
            self.head(key)
            return b""

        def act(client: "S3Client") -> bytes:
            body, available = self._get_range(client, key, offset=offset, length=length)
            with contextlib.closing(body):
                data: bytes = body.read(available)
            if len(data) < available:
                raise StorageUnavailable(_CUT_OFF, key=key)
            return data

        try:
            return self._ask_for(Request.READ, key, act=act, passes=_PAST_THE_END)
        except Passed:
            return b""

    def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
        """See `ObjectStore.read_into`. From the socket into `buffer`, with nothing between.

        No view of `buffer` is held before the ticket lets the read begin, and none after an error.
        """
        assert offset >= 0, "no object begins before 0"
        with memoryview(buffer) as whole:
            size = whole.nbytes
        if size == 0:
            self.head(key)
            return 0
        ticket = current_ticket()
        ticket.defer()

        def act(client: "S3Client") -> int:
            body, available = self._get_range(client, key, offset=offset, length=size)
            with contextlib.closing(body):
                ticket.begin(partial(stop_body, body), key=key)
                with memoryview(buffer) as whole, whole.cast("B") as view, view[:available] as wanted:
                    done = fill_from(body, wanted)
            if done < available:
                raise StorageUnavailable(_CUT_OFF, key=key)
            return done

        try:
            return self._ask_for(Request.READ, key, act=act, passes=_PAST_THE_END)
        except Passed:
            return 0

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore.head`."""
        answer = self._head(key)
        return ObjectInfo(
            key, answer["ContentLength"], _whole_second(answer["LastModified"]), answer.get("ETag")
        )

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Each page begins after the last key, not where a token says.

        But for a page without keys that is not the last one, as services may answer where much was deleted.
        """
        check_prefix(prefix)
        place = {"Bucket": self._address.bucket, "Prefix": self._prefix + prefix}
        token = ""
        while True:
            begin = {"StartAfter": self._prefix + after} if after else {}
            wanted: Any = place | ({"ContinuationToken": token} if token else begin)
            act = partial(_list_page, wanted)
            answer: Any = self._door.ask(Request.LIST, prefix, act=act)
            page = answer.get("Contents", [])
            for one in page:
                after = one["Key"].removeprefix(self._prefix)
                yield ObjectInfo(after, one["Size"], _whole_second(one["LastModified"]), one.get("ETag"))
            if not answer.get("IsTruncated"):
                return
            last, token = token, "" if page else answer.get("NextContinuationToken", "")
            if not page and token in ("", last):
                raise StorageUnavailable("the list broke off, and the service does not say where", key=prefix)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._door.ask(Request.DELETE, key, act=lambda client: client.delete_object(**self._place(key)))

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete_many`. One by one where the service has no request for many."""
        for key in keys:
            check_key(key)
        for first in range(0, len(keys), limits.DELETE_BATCH_COUNT):
            self._delete_batch(keys[first : first + limits.DELETE_BATCH_COUNT])

    def locked_until(self, key: str) -> datetime | None:
        """See `LockingStore.locked_until`. None without the right to see it, `s3:GetObjectRetention`."""
        answer = self._head(key)
        # The client's types have it always there; the service says it of locked objects only.
        until: datetime | None = dict(answer).get("ObjectLockRetainUntilDate")
        return until.astimezone(UTC) if until else None

    def extend_lock(self, key: str, until: datetime) -> None:
        """See `LockingStore.extend_lock`. The service refuses to shorten a lock."""
        retention: Any = {"Mode": self._options.object_lock_mode.upper(), "RetainUntilDate": until}
        self._door.ask(
            Request.PUT,
            key,
            act=lambda client: client.put_object_retention(**self._place(key), Retention=retention),
        )

    def close(self) -> None:
        """See `ObjectStore.close`."""
        self._parts.shutdown()
        self._door.close()

    # --- writing ------------------------------------------------------------------------------------

    def _write(self, kind: Request, key: str, data: ReadBuffer, condition: dict[str, Any]) -> str:
        view = memoryview(data).cast("B")
        if len(view) > self._options.multipart_bytes:
            return self._write_parts(kind, key, view, condition)
        settings = {**self._settings(key), **self._sum(view), **condition}
        answer = self._door.ask(
            kind,
            key,
            act=lambda client: client.put_object(**self._place(key), Body=_as_body(view), **settings),
        )
        return answer.get("ETag", "")

    def _write_parts(self, kind: Request, key: str, view: memoryview, condition: dict[str, Any]) -> str:
        """The condition holds when the parts are joined. Parts of an upload that failed are removed."""
        settings = self._settings(key)
        if self._options.checksums:
            settings["ChecksumAlgorithm"] = "CRC32"
        made = self._door.ask(
            kind, key, act=lambda client: client.create_multipart_upload(**self._place(key), **settings)
        )
        upload = made["UploadId"]
        plan = plan_parts(len(view), part_bytes=self._options.part_bytes, count_max=_PART_COUNT_MAX)
        try:
            work = [
                self._parts.submit(self._write_part, key, upload, number, view[begin:end])
                for number, (begin, end) in enumerate(plan, 1)
            ]
            try:
                parts = [one.result() for one in work]
            finally:
                # The buffer is the caller's again when this returns: nothing may be under way then.
                for one in work:
                    one.cancel()
                for one in work:
                    with contextlib.suppress(BaseException):
                        one.result()
            answer = self._door.ask(
                kind,
                key,
                act=lambda client: client.complete_multipart_upload(
                    **self._place(key), UploadId=upload, MultipartUpload={"Parts": parts}, **condition
                ),
            )
        except StorageError:
            with contextlib.suppress(StorageError):
                self._door.ask(
                    Request.DELETE,
                    key,
                    act=lambda client: client.abort_multipart_upload(**self._place(key), UploadId=upload),
                )
            raise
        return answer.get("ETag", "")

    def _write_part(self, key: str, upload: str, number: int, view: memoryview) -> Any:  # noqa: ANN401 - the client's own
        sums = self._sum(view)
        answer = self._door.ask(
            Request.PUT,
            key,
            act=lambda client: client.upload_part(
                **self._place(key),
                UploadId=upload,
                PartNumber=number,
                Body=_as_body(view),
                **sums,
            ),
        )
        part: dict[str, object] = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        return part

    def _sum(self, view: memoryview) -> dict[str, Any]:
        return {"ChecksumCRC32": sum_crc32(view)} if self._options.checksums else {}

    def _settings(self, key: str) -> dict[str, Any]:
        """What a new object is to be like."""
        options = self._options
        wanted: dict[str, Any] = {
            "StorageClass": options.class_of(key),
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_kms_key_id,
        }
        if options.object_lock is not None and is_written_once(key):
            wanted["ObjectLockMode"] = options.object_lock_mode.upper()
            until = self._clock.now() + timedelta(seconds=options.object_lock)
            wanted["ObjectLockRetainUntilDate"] = until
            # ClusterRefusal without a word on the checksum, even with the checksum there.
            wanted["ChecksumAlgorithm"] = "CRC32"
        return {name: value for name, value in wanted.items() if value is not None}

    # --- reading and removing -----------------------------------------------------------------------

    def _get_range(self, client: "S3Client", key: str, *, offset: int, length: int) -> tuple[Any, int]:
        """The body of an answer, and how many bytes of it are wanted."""
        answer = client.get_object(**self._place(key), Range=f"bytes={offset}-{offset + length - 1}")
        # Some services answer a range with the status of a whole object; what they send is in this header.
        if offset and not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
            answer["Body"].close()
            raise StorageError("the service does not know ranges", key=key)
        return answer["Body"], min(length, answer["ContentLength"])

    def _head(self, key: str) -> Any:  # noqa: ANN401 - the client's own
        """What the service says of an object. Answers to HEAD have no body that could say what is wrong."""
        place = self._place(key)
        try:
            return self._door.ask(
                Request.HEAD, key, act=lambda client: client.head_object(**place), passes=_WORDLESS
            )
        except Passed:
            with contextlib.suppress(Passed):
                self._ask_for(
                    Request.HEAD,
                    key,
                    act=lambda client: client.get_object(**place, Range="bytes=0-0")["Body"].close(),
                    passes=_PAST_THE_END,
                )
        # It says nothing: the credentials may be other ones now, or only the one request is refused.
        return self._door.ask(Request.HEAD, key, act=lambda client: client.head_object(**place))

    def _delete_batch(self, keys: Sequence[str]) -> None:
        wanted: Any = {"Objects": [{"Key": self._prefix + key} for key in keys], "Quiet": True}
        try:
            answer = self._door.ask(
                Request.DELETE,
                keys[0],
                act=lambda client: client.delete_objects(Bucket=self._address.bucket, Delete=wanted),
                passes=MISSING_FEATURE_CODES,
            )
        except Passed:
            for key in keys:
                self.delete(key)
            return
        for error in answer.get("Errors", []):
            code = error.get("Code", "")
            if code != "NoSuchKey":
                key = error.get("Key", "").removeprefix(self._prefix)
                refusal = Refusal(status=200, code=code, message=self._door.scrub(error.get("Message", "")))
                raise translate_refusal(refusal, kind=Request.DELETE, key=key)

    def _ask_for(
        self,
        kind: Request,
        key: str,
        *,
        act: Callable[["S3Client"], T],
        passes: frozenset[str] = frozenset(),
    ) -> T:
        place = (self._address.bucket, self._prefix + key)
        return ask_for(self._door, kind, key=key, place=place, act=act, passes=passes)

    def _place(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._address.bucket, "Key": self._prefix + check_key(key)}


def _as_body(view: memoryview) -> Any:  # noqa: ANN401 - not what the client's types say, but what it takes
    return BufferReader(view)


def _list_page(wanted: Any, client: "S3Client") -> Any:  # noqa: ANN401 - the client's own
    return client.list_objects_v2(**wanted)


def _whole_second(time: datetime) -> datetime:
    """Lists may tell milliseconds, headers cannot: the same object has one time here."""
    return time.astimezone(UTC).replace(microsecond=0)
