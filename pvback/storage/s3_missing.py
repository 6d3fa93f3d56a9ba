"""Requests for one object that may be missing, by who may not hear so.

AWS answers that an object is missing to those alone who may list the bucket; others are refused, as for
objects that they may not read. Whose right to list is bound to a prefix, as in the policies of
`pvback key policy`, may be one of the others: a request for an object has no prefix. A list with one tells.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pvback.errors import ObjectNotFound, StorageError, StorageUnavailable
from pvback.storage.s3 import Passed, S3Door
from pvback.storage.s3_errors import DENIED_CODES, translate_refusal
from pvback.storage.wrap import Request

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["ask_for"]

T = TypeVar("T")


def ask_for(
    door: S3Door,
    kind: Request,
    *,
    key: str,
    place: tuple[str, str],
    act: "Callable[[S3Client], T]",
    passes: frozenset[str] = frozenset(),
) -> T:
    """What `act` gives, a request for the object at `place`, its bucket and whole key.

    Raises ObjectNotFound for one that is refused and that no list shows, and as `S3Door.ask`.
    """
    try:
        return door.ask(kind, key, act=act, passes=passes | DENIED_CODES)
    except Passed as exc:
        if {exc.refusal.code, str(exc.refusal.status)} & passes:
            raise
        refusal = exc.refusal
    if _is_listed(door, key, place):
        raise translate_refusal(refusal, kind=kind, key=key)
    raise ObjectNotFound("object not found", key=key)


def _is_listed(door: S3Door, key: str, place: tuple[str, str]) -> bool:
    """Whether it is there, or that cannot be said."""
    bucket, whole = place
    try:
        answer = door.ask(
            Request.LIST,
            key,
            act=lambda client: client.list_objects_v2(Bucket=bucket, Prefix=whole, MaxKeys=1),
        )
    except StorageUnavailable:
        raise
    except StorageError:
        return True
    # What begins like it comes after it.
    return any(one["Key"] == whole for one in answer.get("Contents", []))
