"""Bringing a bucket back to how it was right before a moment, out of the versions that it keeps. Needs no key
of the repository.

Services tell times in whole seconds, and one second has room for thousands of deletions. So the moment itself
is already too late: who names the time of the first deletion gets back what went in all of that second.

A plan first, then what it says. It can be repeated and broken off: what has been done is not done again, and
nothing is removed for good. Nobody else may write meanwhile: first take the credentials away from whoever
did the damage, and let backups and prune rest.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pvback import limits
from pvback.config import Config
from pvback.retrying import Patience
from pvback.runtime import Cancel
from pvback.storage import ObjectVersion, VersionedStore, open_versions

__all__ = ["VersionPlan", "apply_versions", "bring_back_versions", "plan_versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPlan:
    """How to make things as they were at a moment; all by key."""

    revealed: Sequence[Sequence[ObjectVersion]] = ()
    """Deleted since, and nothing else: the delete markers to take back, newest first."""
    restored: Sequence[ObjectVersion] = ()
    """Overwritten since: the version to copy to the top."""
    hidden: Sequence[ObjectVersion] = ()
    """Not there at that moment, and there now."""
    unchanged_count: int = 0

    @property
    def change_count(self) -> int:
        """Objects that would change."""
        return len(self.revealed) + len(self.restored) + len(self.hidden)


def bring_back_versions(
    config: Config, before: datetime, *, is_dry: bool = False, cancel: Cancel | None = None
) -> VersionPlan:
    """Make everything under the repository's prefix as it was right before `before`, and say what that took.

    Raises UsageError for what is no bucket, StorageError, Interrupted.
    """
    wish = cancel or Cancel()
    patience = Patience(cancel=wish, deadline_seconds=config.s3.retry_seconds)
    store = open_versions(config.require_repository(), s3=config.s3, patience=patience)
    try:
        plan = plan_versions(store.list_versions(), before)
        if not is_dry:
            apply_versions(store, plan, cancel=wish)
    finally:
        store.close()
    return plan


def plan_versions(versions: Iterable[ObjectVersion], before: datetime) -> VersionPlan:
    """The plan from all versions, each key's in any order. What happened at `before` itself is undone."""
    by_key: dict[str, list[ObjectVersion]] = {}
    for one in versions:
        by_key.setdefault(one.key, []).append(one)
    revealed, restored, hidden, unchanged = [], [], [], 0
    for key in sorted(by_key):
        # The newest first; of one moment the one that the store calls the latest.
        found = sorted(by_key[key], key=lambda one: (one.mtime, one.is_latest), reverse=True)
        newer = [one for one in found if one.mtime >= before]
        wanted = next((one for one in found if one.mtime < before and not one.is_marker), None)
        if len(found) > len(newer) and found[len(newer)].is_marker:
            wanted = None
        latest = found[0]
        if wanted is None:
            if latest.is_marker:
                unchanged += 1
            else:
                hidden.append(latest)
        elif wanted is latest or (latest.etag, latest.size) == (wanted.etag, wanted.size):
            unchanged += 1
        elif all(one.is_marker for one in newer):
            revealed.append(newer)
        else:
            restored.append(wanted)
    return VersionPlan(revealed=revealed, restored=restored, hidden=hidden, unchanged_count=unchanged)


def apply_versions(store: VersionedStore, plan: VersionPlan, *, cancel: Cancel) -> None:
    """Do what a plan says: what is missing comes back before anything is hidden.

    Raises StorageError, and has not begun anything more then.
    """

    def reveal(markers: Sequence[ObjectVersion]) -> None:
        cancel.check()
        for one in markers:
            store.remove_marker(one)

    def restore(version: ObjectVersion) -> None:
        cancel.check()
        store.bring_back(version)

    def hide(version: ObjectVersion) -> None:
        cancel.check()
        store.hide(version)

    with ThreadPoolExecutor(limits.READS_IN_FLIGHT, thread_name_prefix="pvback-versions") as pool:
        for work in (
            [partial(reveal, one) for one in plan.revealed],
            [partial(restore, one) for one in plan.restored],
            [partial(hide, one) for one in plan.hidden],
        ):
            futures = [pool.submit(one) for one in work]
            try:
                for done in as_completed(futures):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
