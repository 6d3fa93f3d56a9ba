"""New keys for what is written from now on: the levels of rotation, and what each of them revokes.

Order of a new epoch: `config` first, by compare-and-swap, then each key object. In between, holders of older
bundles read what they could read and refuse to write; a bundle is never newer than `config`, which clients
would take for a repository that was rolled back. Broken off, it is finished by `reissue_bundles`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pvback.errors import DamagedError, ObjectNotFound, UsageError, WrongKeyError
from pvback.repository.config_object import parse_config
from pvback.repository.key_objects import config_facts, issue_key_again
from pvback.repository.keys import describe_keys, require_owner
from pvback.repository.layout import KEYS_PREFIX
from pvback.repository.repository import RepositoryAccess
from pvback.repository.revoking import replace_config

__all__ = ["LEVELS", "OTHER_LEVELS", "Rotated", "refuse_other_level", "reissue_bundles", "rotate_epoch"]

LEVELS: Mapping[str, str] = MappingProxyType(
    {
        "password": "revokes nothing from who has kept the old key object and the old password",
        "bundles": "revokes nothing: it completes a rotation that was broken off",
        "epoch": "revokes what is written from now on; old keys still open what was stored before",
    }
)
"""What `key rotate` does, and what that revokes."""

OTHER_LEVELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "reseal": (
            "old objects are sealed with new keys by whoever rewrites them, not by a change of keys",
            (
                "rotate with `--level epoch`, then copy into a new repository and delete the old one; "
                "what somebody has copied before stays readable to them"
            ),
        ),
        "scope": (
            "the key that names chunks lives as long as its scope: who had it can go on confirming guesses",
            "make a new repository, back up into it anew, and delete the old one when it is not needed",
        ),
        "repository": (
            "an owner's key cannot be revoked: it derives every other key there is",
            "make a new repository with `pvback init`, copy or back up into it, and delete the old one",
        ),
    }
)
"""What is not a matter of keys alone: why, and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation did."""

    epochs: Mapping[str, int]
    """The epoch of each scope that was rotated."""
    reissued: Sequence[str]
    """Principals whose bundles were issued again."""
    failed: Mapping[str, str]
    """Principals whose bundles were not, and why: they cannot write any more."""


def refuse_other_level(level: str) -> UsageError:
    """Why a level is not one of ours, and what to do."""
    why, hint = OTHER_LEVELS[level]
    return UsageError(why, hint=hint)


def rotate_epoch(access: RepositoryAccess, *, scopes: Sequence[str]) -> Rotated:
    """Begin a new epoch in each scope, and issue the bundles of everybody who is in office again.

    Nobody's password is needed. Backups that are running finish in the old epoch. Owners only: WrongKeyError.
    Raises ConflictError when others change the same objects all the time.
    """
    require_owner(access)
    current = access
    for scope in scopes:
        keyring, config = replace_config(current, lambda _, scope=scope: {"epoch": scope})  # type: ignore[misc]
        current = replace(current, keyring=keyring, config_object=config, facts=parse_config(config))
    return reissue_bundles(current)


def reissue_bundles(access: RepositoryAccess) -> Rotated:
    """Issue the bundles again that a rotation has left behind. Owners only: WrongKeyError."""
    require_owner(access)
    reissued, failed = [], {}
    for key in access.twins.names()[1:]:
        principal = key.removeprefix(KEYS_PREFIX).removesuffix(".json")
        try:
            # Also one of which only the copy is left: who holds it is in office.
            access.twins.mend(key)
            if _is_behind(access, key):
                access.twins.replace(key, lambda data: issue_key_again(access.keyring, data))
                reissued.append(principal)
        except (DamagedError, ObjectNotFound, WrongKeyError) as exc:
            failed[principal] = exc.what
    return Rotated(epochs=_epochs_of(access), reissued=reissued, failed=failed)


def _is_behind(access: RepositoryAccess, key: str) -> bool:
    (found,) = describe_keys(access, [(key, access.store.read(key).data)])
    return found.is_behind


def _epochs_of(access: RepositoryAccess) -> dict[str, int]:
    return {one["id"]: int(one["epoch"]) for one in config_facts(access.config_object)["scopes"]}
