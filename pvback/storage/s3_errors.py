"""What an S3 service's refusals mean, by their codes. Pure, and knows no client.

Doubt has a type: whatever may have happened all the same is StorageUnavailable. The words of a service are
repeated only where they help, short, and never with a credential in them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pvback import limits
from pvback.errors import ObjectChanged, ObjectExists, ObjectNotFound, StorageError, StorageUnavailable
from pvback.storage.wrap import Request

__all__ = [
    "CONFLICT_CODES",
    "DENIED_CODES",
    "EXPIRED_CODES",
    "MISSING_FEATURE_CODES",
    "Refusal",
    "translate_refusal",
]

CONFLICT_CODES = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""Another request on the same key was under way; this one did nothing."""
DENIED_CODES = frozenset({"AccessDenied", "Forbidden"})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
MISSING_FEATURE_CODES = frozenset({"NotImplemented", "MethodNotAllowed"})

_MESSAGE_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is no success."""

    status: int
    code: str
    """The service's word; for answers without a body, the status as text."""
    message: str = ""
    """The service's sentence, without credentials."""
    retry_after: str | None = None
    """The header of that name."""


class _Meaning(NamedTuple):
    what: str
    hint: str | None = None


_CREDENTIALS = (
    "check the AWS environment, profile or service account; `aws sts get-caller-identity` shows who"
)
_FULL = "free some space or raise the quota; what was written so far is complete"
_REGION = "set AWS_REGION, or `--s3-option region=NAME`"

_REFUSED: dict[str, _Meaning] = {
    "NoSuchBucket": _Meaning(
        "no such bucket", "make the bucket first, or check the address and the endpoint"
    ),
    "AccessDenied": _Meaning("access denied", "the credentials in use need more rights on this bucket"),
    "AllAccessDisabled": _Meaning("access denied", "the bucket's owner has disabled it"),
    "AccountProblem": _Meaning("the account has a problem", "ask the service's provider"),
    "InvalidAccessKeyId": _Meaning("the service does not know these credentials", _CREDENTIALS),
    "SignatureDoesNotMatch": _Meaning("the secret key is not the one of this access key", _CREDENTIALS),
    "InvalidToken": _Meaning("the session token is not valid", _CREDENTIALS),
    "InvalidClientTokenId": _Meaning("the service does not know these credentials", _CREDENTIALS),
    "RequestTimeTooSkewed": _Meaning(
        "this machine's clock is not the service's", "set the clock; signatures hold for some minutes only"
    ),
    "PermanentRedirect": _Meaning("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": _Meaning("signed for another region", _REGION),
    "IllegalLocationConstraintException": _Meaning("the bucket is in another region", _REGION),
    "QuotaExceeded": _Meaning("the quota is used up", _FULL),
    "XMinioAdminBucketQuotaExceeded": _Meaning("the bucket's quota is used up", _FULL),
    "XMinioStorageFull": _Meaning("the store is full", _FULL),
    "InsufficientStorage": _Meaning("the store is full", _FULL),
    "EntityTooLarge": _Meaning(
        "too large for this service in one piece", "lower `--s3-option multipart_bytes`"
    ),
    "InvalidStorageClass": _Meaning("no such storage class", "see the S3 option storage_class"),
    "InvalidObjectState": _Meaning("the object is archived", "restore it from its storage class first"),
    "KMS.NotFoundException": _Meaning("no such KMS key", "see the S3 option sse_kms_key_id"),
    "KMS.DisabledException": _Meaning("the KMS key is disabled", "enable it; nothing can be read without it"),
    "InvalidBucketName": _Meaning("not a valid name for a bucket"),
    "NotImplemented": _Meaning(
        "the service does not know this request",
        "see the S3 options; `checksums=false` leaves out the newest",
    ),
    "MethodNotAllowed": _Meaning("the service does not allow this request"),
}
_REFUSED |= dict.fromkeys(
    EXPIRED_CODES, _Meaning("the credentials have expired", "get new ones and run again")
)

_AGAIN = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "InvalidDigest",
        "NoSuchUpload",
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""What the way spoils, and what a service says of itself: the same request may do better."""
_THROTTLED = frozenset(
    {
        "Busy",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)


def translate_refusal(refusal: Refusal, *, kind: Request, key: str) -> StorageError:
    """The exception that a refusal is."""
    code, status = refusal.code, refusal.status
    if error := _condition(refusal, kind, key):
        return error
    is_known = code in _REFUSED or code in _AGAIN
    if code in ("NoSuchKey", "NoSuchVersion") or (status == 404 and not is_known):
        return ObjectNotFound("object not found", key=key)
    if code in CONFLICT_CODES:
        return StorageUnavailable("the service puts this off: others write the same object", key=key)
    if code in _THROTTLED or status in (429, 503):
        return StorageUnavailable(
            f"the service is asked too much ({code})", key=key, pause_seconds=_pause(refusal.retry_after)
        )
    if status == 507:
        return StorageError("the store is full", key=key, hint=_FULL)
    if code in _REFUSED:
        return _refused(refusal, key)
    if code in _AGAIN or status in (408, 425) or (status >= 500 and status != 501):
        return StorageUnavailable(f"the service failed ({code}, {status})", key=key)
    if status == 401 or (status == 403 and code in ("403", "Forbidden")):
        denied = _REFUSED["AccessDenied"]
        return StorageError(denied.what, key=key, hint=denied.hint)
    return StorageError(f"refused ({code}, {status}){_quote(refusal)}", key=key)


def _condition(refusal: Refusal, kind: Request, key: str) -> StorageError | None:
    """What a condition that does not hold means; a swap of what is gone is told as 404, too."""
    failed = refusal.status == 412 or refusal.code == "PreconditionFailed"
    if kind is Request.CREATE and failed:
        return ObjectExists("object exists already", key=key)
    gone = refusal.code in ("NoSuchKey", "404", "NoSuchVersion")
    if kind is Request.SWAP and (failed or gone):
        return ObjectChanged("object is gone" if gone else "object has changed", key=key)
    return None


def _refused(refusal: Refusal, key: str) -> StorageError:
    meaning = _REFUSED[refusal.code]
    # These two tell what to change: the right that is missing, the region that is meant.
    quote = _quote(refusal) if refusal.code in ("AccessDenied", "AuthorizationHeaderMalformed") else ""
    return StorageError(meaning.what + quote, key=key, hint=meaning.hint)


def _quote(refusal: Refusal) -> str:
    words = " ".join(refusal.message.split())[:_MESSAGE_CHARACTERS_MAX]
    return f": {words}" if words else ""


def _pause(retry_after: str | None) -> float:
    """Seconds; a header that gives a date says nothing that our own pauses do not."""
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return max(seconds, limits.RETRY_THROTTLED_SECONDS_MIN)
