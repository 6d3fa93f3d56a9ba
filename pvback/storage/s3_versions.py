"""The versions of objects in a bucket that keeps them: how it was at a moment, and how it becomes that again.

Nothing is ever removed for good here: old versions are copied to the top, and what was not there is hidden
behind a delete marker. The one thing that goes is delete markers, which hold nothing.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pvback.errors import ObjectNotFound, StorageUnavailable
from pvback.model import S3Address
from pvback.retrying import Patience
from pvback.runtime import Clock, SystemClock
from pvback.s3_options import S3Options, is_written_once
from pvback.storage.base import ObjectVersion
from pvback.storage.retry import Retries
from pvback.storage.s3 import S3Door
from pvback.storage.wrap import Request

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["S3Versions"]

T = TypeVar("T")


class S3Versions:
    """See `VersionedStore`. The rights that are needed: `s3:ListBucketVersions`, `s3:GetObjectVersion`,
    `s3:PutObject`, `s3:DeleteObject`, `s3:DeleteObjectVersion`.
    """

    def __init__(
        self,
        address: S3Address,
        options: S3Options,
        *,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._address, self._options = address, options
        self._clock = clock or SystemClock()
        # All that is done here is safe to repeat, and each page of a list is a request of its own.
        self._retries = Retries(clock=self._clock, patience=patience)
        self._door = S3Door(address, options)
        self._prefix = f"{address.prefix}/" if address.prefix else ""

    def list_versions(self) -> Iterator[ObjectVersion]:
        """See `VersionedStore.list_versions`."""
        wanted: dict[str, Any] = {"Bucket": self._address.bucket, "Prefix": self._prefix}
        place = ("", "")
        while True:
            answer = self._ask(Request.LIST, "", lambda client: client.list_object_versions(**wanted))
            found = [self._version(one, is_marker=False) for one in answer.get("Versions", [])]
            found += [self._version(one, is_marker=True) for one in answer.get("DeleteMarkers", [])]
            yield from found
            if not answer.get("IsTruncated"):
                return
            last, place = place, (answer.get("NextKeyMarker", ""), answer.get("NextVersionIdMarker", ""))
            if place[0] == "" or place == last:
                raise StorageUnavailable("the list broke off, and the service does not say where")
            wanted["KeyMarker"], wanted["VersionIdMarker"] = place

    def bring_back(self, version: ObjectVersion) -> None:
        """See `VersionedStore.bring_back`. Copied inside the service; locked as a new object is."""
        place = self._place(version)
        settings: dict[str, Any] = {}
        if self._options.object_lock is not None and is_written_once(version.key):
            until = self._clock.now() + timedelta(seconds=self._options.object_lock)
            settings["ObjectLockMode"] = self._options.object_lock_mode.upper()
            settings["ObjectLockRetainUntilDate"] = until
        if (storage_class := self._options.class_of(version.key)) is not None:
            settings["StorageClass"] = storage_class
        if self._options.sse is not None:
            settings["ServerSideEncryption"] = self._options.sse
        if self._options.sse_kms_key_id is not None:
            settings["SSEKMSKeyId"] = self._options.sse_kms_key_id
        source: Any = {**place, "VersionId": version.version}
        self._ask(
            Request.PUT,
            version.key,
            lambda client: client.copy_object(**place, CopySource=source, **settings),
        )

    def hide(self, version: ObjectVersion) -> None:
        """See `VersionedStore.hide`."""
        place = self._place(version)
        self._ask(Request.DELETE, version.key, lambda client: client.delete_object(**place))

    def remove_marker(self, version: ObjectVersion) -> None:
        """See `VersionedStore.remove_marker`."""
        assert version.is_marker, "what holds something is never removed"
        place = self._place(version)

        def act(client: "S3Client") -> None:
            client.delete_object(**place, VersionId=version.version)

        try:
            self._ask(Request.DELETE, version.key, act)
        except ObjectNotFound:
            return

    def close(self) -> None:
        """Give back connections."""
        self._door.close()

    def _ask(self, kind: Request, key: str, act: Callable[["S3Client"], T]) -> T:
        return self._retries.ask(kind, lambda: self._door.ask(kind, key, act=act))

    def _version(self, one: Any, *, is_marker: bool) -> ObjectVersion:  # noqa: ANN401 - the client's own
        return ObjectVersion(
            key=one["Key"].removeprefix(self._prefix),
            version=one["VersionId"],
            mtime=one["LastModified"].astimezone(UTC),
            size=one.get("Size", 0),
            is_latest=one["IsLatest"],
            is_marker=is_marker,
            etag=one.get("ETag", ""),
        )

    def _place(self, version: ObjectVersion) -> dict[str, Any]:
        return {"Bucket": self._address.bucket, "Key": self._prefix + version.key}
