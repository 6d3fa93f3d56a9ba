"""Forgetting snapshots by policy or by name, and bringing them back.

A plan with reasons comes first, and what it says is all that is done. Forgotten snapshots can be brought back
until a prune finds their grace over.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pvback import limits
from pvback.errors import ConflictError, UsageError, WrongKeyError
from pvback.repository.forget import Moved, forget_snapshots, undelete_snapshots
from pvback.repository.repository import RepositoryAccess
from pvback.repository.retention import Candidate, Decision, Policy, Shrunk, find_shrunk, plan_retention
from pvback.repository.snapshots import Catalog, CommittedSnapshot, SnapshotFilter, find_snapshot

__all__ = [
    "Decided",
    "ForgetPlan",
    "Policy",
    "apply_forget",
    "plan_forget_named",
    "plan_forget_policy",
    "undelete",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What is to become of one snapshot, for people."""

    id: str
    time: datetime
    source: str | None
    """None when the key in use does not read it."""
    source_id: str
    is_kept: bool
    reasons: tuple[str, ...]
    """Why it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPlan:
    """Decisions by source, newest first within each."""

    decisions: Sequence[Decided]
    registers: tuple[str, ...]
    """Names of the registers to change."""
    is_named: bool = False
    """Somebody has chosen each snapshot, not a policy."""
    shrunk: tuple[Shrunk, ...] = ()
    """Sources of which nothing is forgotten, for they are next to empty now."""

    @property
    def forgotten(self) -> Sequence[Decided]:
        """Those that go."""
        return [one for one in self.decisions if not one.is_kept]


def plan_forget_policy(
    access: RepositoryAccess,
    policy: Policy,
    *,
    wanted: SnapshotFilter | None = None,
    acknowledged: Sequence[str] = (),
) -> ForgetPlan:
    """What a policy forgets of the snapshots that fit: nothing of a source that has shrunk to next to none.

    Sizes are sealed, so that with a maintainer's key no source is found to have shrunk. `acknowledged` are
    ids, or beginnings of them, of snapshots that are meant to be so small.

    Raises UsageError for a policy that keeps nothing, WrongKeyError for one about tags with a key that does
    not read them, DamagedError when the repository was rolled back or a snapshot does not open, StorageError.
    """
    if policy.is_empty:
        raise UsageError("the policy keeps nothing", hint="use at least one of the `--keep-...` options")
    catalog = _sound_catalog(access)
    fitting = [one for one in catalog.snapshots if (wanted or SnapshotFilter()).matches(one)]
    if (policy.tags or wanted) and any(one.details is None for one in catalog.snapshots):
        raise WrongKeyError(
            "the key in use does not read sources and tags", hint="use an owner's or a restorer's key"
        )
    candidates = [_candidate(one) for one in fitting]
    known = {find_snapshot(catalog.snapshots, text).id for text in acknowledged}
    shrunk = find_shrunk(candidates, acknowledged=known)
    decisions = plan_retention(candidates, policy, frozen={one.source for one in shrunk})
    return dataclasses.replace(_plan(decisions, fitting), shrunk=tuple(shrunk))


def _candidate(one: CommittedSnapshot) -> Candidate:
    details = one.details
    if details is None:
        return Candidate(one.id, one.source, one.time, None, seq=one.record.seq)
    return Candidate(
        one.id,
        one.source,
        one.time,
        details.tags,
        seq=one.record.seq,
        node_count=details.root.nodes,
        byte_count=details.root.bytes,
    )


def plan_forget_named(access: RepositoryAccess, ids: Sequence[str]) -> ForgetPlan:
    """Forget the snapshots with these ids, or beginnings of them. Raises as `find_snapshot`."""
    catalog = _sound_catalog(access)
    found = {one.id: one for one in (find_snapshot(catalog.snapshots, text) for text in ids)}
    fitting = list(found.values())
    decisions = [Decision(Candidate(one.id, one.source, one.time, None), ()) for one in fitting]
    return dataclasses.replace(_plan(decisions, fitting), is_named=True)


def apply_forget(access: RepositoryAccess, plan: ForgetPlan, *, is_forced: bool = False) -> Moved:
    """Forget what the plan says.

    Without `is_forced` a policy's plan that forgets more than `limits.FORGET_SHARE_MAX` of its snapshots, or
    all of a source, is refused with ConflictError: it may be a mistake in the policy. Raises WrongKeyError
    when the key in use may not forget, StorageError after having forgotten some.
    """
    gone = plan.forgotten
    if not is_forced and not plan.is_named and gone:
        kept_sources = {one.source_id for one in plan.decisions if one.is_kept}
        lost = [one for one in gone if one.source_id not in kept_sources]
        share = len(gone) / len(plan.decisions)
        if lost or share > limits.FORGET_SHARE_MAX:
            what = "every snapshot of a source" if lost else f"{share:.0%} of the snapshots"
            raise ConflictError(
                f"this would forget {what}",
                hint="look at the plan with `--dry-run`; `--force` does it all the same",
            )
    _require_keeper(access)
    return forget_snapshots(access.objects, plan.registers, clock=access.clock)


def undelete(access: RepositoryAccess, ids: Sequence[str]) -> Sequence[CommittedSnapshot]:
    """Bring back forgotten snapshots, all of them without `ids`; returns those that exist again.

    Raises ConflictError when one has gone meanwhile, UsageError and PvbackError as `find_snapshot`,
    WrongKeyError, StorageError.
    """
    _require_keeper(access)
    catalog = _sound_catalog(access)
    found = [find_snapshot(catalog.forgotten, text) for text in ids] if ids else list(catalog.forgotten)
    moved = undelete_snapshots(access.objects, [one.register.name for one in found], clock=access.clock)
    if moved.refused:
        raise ConflictError(
            f"{len(moved.refused)} of them are gone for good: a prune found their grace over",
            key=access.objects.layout.key(f"snapshots/{moved.refused[0]}"),
        )
    return found


def _sound_catalog(access: RepositoryAccess) -> Catalog:
    """The catalog, all of it: a policy that does not see a snapshot would count wrongly."""
    catalog = access.catalog()
    if catalog.damaged:
        raise catalog.damaged[0]
    return catalog


def _require_keeper(access: RepositoryAccess) -> None:
    if access.keyring.role not in ("owner", "maintainer"):
        raise WrongKeyError(
            f"a {access.keyring.role}'s key may not forget snapshots",
            hint="use an owner's or a maintainer's key",
        )


def _plan(decisions: Sequence[Decision], fitting: Sequence[CommittedSnapshot]) -> ForgetPlan:
    by_id = {one.id: one for one in fitting}
    decided = []
    for one in decisions:
        snapshot = by_id[one.candidate.id]
        decided.append(
            Decided(
                id=snapshot.id,
                time=snapshot.time,
                source=snapshot.details.source.string if snapshot.details else None,
                source_id=snapshot.source,
                is_kept=one.is_kept,
                reasons=one.reasons,
            )
        )
    names = tuple(by_id[one.id].register.name for one in decided if not one.is_kept)
    return ForgetPlan(decisions=decided, registers=names)
