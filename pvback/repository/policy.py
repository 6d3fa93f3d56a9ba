"""What the credentials of each role need at an S3 service, as a policy to attach to them. Pure.

Keys protect what is read and forged; these policies protect what is deleted and overwritten, which no key
can. What they do not allow is denied by default.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pvback.errors import UsageError
from pvback.model import S3Address
from pvback.repository.layout import CONFIG_KEY, COPIES_PREFIX, KEYS_PREFIX, Area, ScopeLayout

__all__ = ["BUCKET_STYLES", "BucketStyle", "render_policy"]

BucketStyle = Literal["aws", "minio"]
BUCKET_STYLES: tuple[BucketStyle, ...] = ("aws", "minio")

_CREATED_ONCE = (Area.DATA, Area.META, Area.INDEX, Area.REFS, Area.RECORDS)
_READ_BY_WRITERS = (Area.META, Area.INDEX, Area.REFS, Area.RECORDS, Area.SNAPSHOTS, Area.GC)
_MULTIPART = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]


def render_policy(
    role: str, address: S3Address, *, scope: str, style: BucketStyle, is_locking: bool = False
) -> dict[str, Any]:
    """The policy document for a role in one scope of the repository at `address`.

    A writer creates objects and replaces none but registers: at AWS by condition (`s3:if-none-match`), which
    MinIO does not know; there a versioned bucket has to keep what is overwritten. It reads no data packs and
    deletes nothing. A maintainer may do everything in the scope and nothing outside.

    With `is_locking`, Object Lock is used: who writes may set locks, and who prunes may extend them, also
    those of `config` and keys. Nobody may lift one, and nobody may remove a version. Raises UsageError.
    """
    place = _Place(address, ScopeLayout(scope))
    if role == "owner":
        statements = [*_look(place, [""]), *_change(place.objects([""]), style)]
    elif role == "restorer":
        statements = _look(place, [*_SHARED, place.layout.prefix])
    elif role == "maintainer":
        readable = [*_SHARED, place.layout.prefix]
        statements = [*_look(place, readable), *_change(place.objects([place.layout.prefix]), style)]
    elif role == "writer":
        statements = _writer(place, style)
    else:
        raise UsageError(f"no such role: {role}")
    if is_locking:
        statements += _lock(place, role)
    return {"Version": "2012-10-17", "Statement": statements}


_SHARED = (CONFIG_KEY, KEYS_PREFIX, COPIES_PREFIX)


class _Place:
    """Resource names of one repository."""

    def __init__(self, address: S3Address, layout: ScopeLayout) -> None:
        self.layout = layout
        self.bucket = f"arn:aws:s3:::{address.bucket}"
        self.folder = f"{address.prefix}/" if address.prefix else ""

    def objects(self, prefixes: Sequence[str]) -> list[str]:
        """Everything below prefixes that end in a slash or are empty, and single objects."""
        names = [f"{one}*" if one.endswith("/") or not one else one for one in prefixes]
        return [f"{self.bucket}/{self.folder}{name}" for name in names]

    def areas(self, areas: Sequence[Area]) -> list[str]:
        """Prefixes of folders of the scope."""
        return [self.layout.area(area) for area in areas]


def _change(changed: list[str], style: BucketStyle) -> list[dict[str, Any]]:
    statements = [_allow("Change", ["s3:PutObject", "s3:DeleteObject", *_MULTIPART], changed)]
    if style == "minio":
        # There the right to delete reaches what an object was before, unless that is denied.
        statements.append(_allow("KeepVersions", ["s3:DeleteObjectVersion"], changed) | {"Effect": "Deny"})
    return statements


def _writer(place: _Place, style: BucketStyle) -> list[dict[str, Any]]:
    created = place.objects(place.areas(_CREATED_ONCE))
    statements = _look(place, [*_SHARED, *place.areas(_READ_BY_WRITERS)])
    if style == "aws":
        # Parts of a multipart upload carry no condition; its completion does.
        statements += [
            {
                **_allow("Create", ["s3:PutObject"], created),
                "Condition": {"StringEquals": {"s3:if-none-match": "*"}},
            },
            {
                **_allow("CreateParts", ["s3:PutObject"], created),
                "Condition": {"Bool": {"s3:ObjectCreationOperation": "false"}},
            },
        ]
    else:
        statements.append(_allow("Create", ["s3:PutObject"], created))
    return [
        *statements,
        _allow("Multipart", _MULTIPART, created),
        _allow("Registers", ["s3:PutObject"], place.objects(place.areas([Area.SNAPSHOTS]))),
    ]


def _lock(place: _Place, role: str) -> list[dict[str, Any]]:
    if role == "writer":
        return [_allow("Lock", ["s3:PutObjectRetention"], place.objects(place.areas(_CREATED_ONCE)))]
    if role == "restorer":
        return []
    everything = [""] if role == "owner" else [*_SHARED, place.layout.prefix]
    return [_allow("Lock", ["s3:PutObjectRetention", "s3:GetObjectRetention"], place.objects(everything))]


def _look(place: _Place, readable: Sequence[str]) -> list[dict[str, Any]]:
    listed = _allow("List", ["s3:ListBucket"], [place.bucket])
    if place.folder:
        listed["Condition"] = {"StringLike": {"s3:prefix": [f"{place.folder}*"]}}
    return [
        listed,
        _allow("Locate", ["s3:GetBucketLocation"], [place.bucket]),
        _allow("Read", ["s3:GetObject"], place.objects(readable)),
    ]


def _allow(name: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}
