"""Who can open the repository: the use-cases are those of `pvback.repository`; policies are rendered here."""

from collections.abc import Sequence
from typing import Any

from pvback.errors import UsageError
from pvback.model import S3Address
from pvback.repository.keys import (
    ROLES,
    KeyCheck,
    KeyInfo,
    NewWay,
    add_key,
    add_way_to_unlock,
    check_key,
    list_keys,
    replace_way_to_unlock,
)
from pvback.repository.policy import BUCKET_STYLES, BucketStyle, render_policy
from pvback.repository.repair_copies import MendedCopies, repair_copies
from pvback.repository.repository import RepositoryAccess
from pvback.repository.revoking import Revoked, remove_key
from pvback.repository.rotation import (
    LEVELS,
    OTHER_LEVELS,
    Rotated,
    refuse_other_level,
    reissue_bundles,
    rotate_epoch,
)
from pvback.repository.unlocking import new_recovery_key

__all__ = [
    "BUCKET_STYLES",
    "LEVELS",
    "OTHER_LEVELS",
    "ROLES",
    "BucketStyle",
    "KeyCheck",
    "KeyInfo",
    "MendedCopies",
    "NewWay",
    "Revoked",
    "Rotated",
    "add_key",
    "add_way_to_unlock",
    "check_key",
    "list_keys",
    "new_recovery_key",
    "plan_policy",
    "refuse_other_level",
    "reissue_bundles",
    "remove_key",
    "repair_copies",
    "replace_way_to_unlock",
    "rotate",
]


def rotate(access: RepositoryAccess, *, is_every_scope: bool = False) -> Rotated:
    """A new epoch for the scope in use, or for all; see `rotate_epoch` for what is raised."""
    scopes: Sequence[str] = [access.objects.scope]
    if is_every_scope:
        scopes = [scope for scope, _ in access.keyring.scopes()]
    return rotate_epoch(access, scopes=scopes)


def plan_policy(access: RepositoryAccess, role: str, *, style: BucketStyle) -> dict[str, Any]:
    """The policy for the credentials of a role in the scope in use. Raises UsageError without a bucket."""
    address = access.config.require_repository()
    if not isinstance(address, S3Address):
        raise UsageError("only a repository in a bucket has policies", hint="give one as s3://bucket/prefix")
    is_locking = access.config.s3.object_lock is not None
    return render_policy(role, address, scope=access.objects.scope, style=style, is_locking=is_locking)
