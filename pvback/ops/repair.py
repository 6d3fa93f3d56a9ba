"""Repairing a repository: the index, packs, and what snapshots are made of. A plan first, then what it says.

Everything can be repeated and killed; nothing that opens is removed. See `pvback.repository.mend_index` and
`mend_snapshots` for what holds beside backups and prune. What stays lost is named, and `check` names it
again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pvback.errors import PvbackError, WrongKeyError
from pvback.model import Finding, FindingSeverity
from pvback.ops.check import CheckOptions, check
from pvback.ops.index_work import NativeIndexWork
from pvback.ops.rewrite import BROKEN_PACK_KINDS
from pvback.repository.gcstate import read_gc_state
from pvback.repository.index_work import LostBlob, TreeRef
from pvback.repository.mend_index import IndexPlan, IndexRepair, PackRepair, plan_index
from pvback.repository.mend_index import repair_index as mend_index
from pvback.repository.mend_index import repair_packs as mend_packs
from pvback.repository.mend_lost_state import StateRepair, why_lost, write_lost_state
from pvback.repository.mend_snapshots import (
    REASONS,
    SnapshotProblem,
    SnapshotTools,
    mend_snapshot,
    plan_snapshots,
)
from pvback.repository.mend_state import require_conditions
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import load_catalog
from pvback.runtime import Cancel, Progress

__all__ = [
    "IndexPlan",
    "IndexRepair",
    "LostBlob",
    "PackPlan",
    "PacksRepaired",
    "SnapshotOutcome",
    "SnapshotProblem",
    "StateRepair",
    "plan_index_repair",
    "plan_pack_repair",
    "plan_snapshot_repair",
    "plan_state_repair",
    "repair_index",
    "repair_packs",
    "repair_snapshots",
    "repair_state",
]

_LOSS_KINDS = frozenset(
    ("chunk-damaged", "chunk-missing", "file-damaged", "page-damaged", "snapshot-damaged")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan:
    """Packs that are damaged or gone."""

    packs: Mapping[str, str] = field(default_factory=dict)
    """Name -> what is wrong, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacksRepaired:
    """What became of damaged packs, and what snapshots lack now."""

    done: PackRepair
    losses: Sequence[Finding] = ()
    """By chunk, file and snapshot, as far as the key in use reads trees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOutcome:
    """What became of one problem."""

    problem: SnapshotProblem
    done: str | None = None
    """What was done; None: it could not be mended."""
    reason: str | None = None
    """Why not."""


def plan_index_repair(access: RepositoryAccess, *, cancel: Cancel | None = None) -> IndexPlan:
    """What `repair_index` would do now. Writes nothing."""
    state = read_gc_state(access.objects)
    return plan_index(access.objects, NativeIndexWork(access, cancel), state=state)


def repair_index(access: RepositoryAccess, *, cancel: Cancel | None = None) -> IndexRepair:
    """Make index runs anew from pack directories. Owners and maintainers: WrongKeyError. Raises as
    `pvback.repository.mend_index.repair_index`, UsageError for a store without conditional writes.
    """
    _require(access)
    used = cancel or Cancel()
    return mend_index(access.objects, NativeIndexWork(access, used), clock=access.clock, cancel=used)


def plan_pack_repair(
    access: RepositoryAccess,
    *,
    read_data: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> PackPlan:
    """Which packs are damaged: by size and directory, with `read_data` by all that is in them."""
    level = "data" if read_data else "index"
    result = check(access, options=CheckOptions(level=level), progress=progress, cancel=cancel)
    packs: dict[str, str] = {}
    for finding in result.findings:
        if finding.kind in BROKEN_PACK_KINDS and finding.key is not None:
            packs.setdefault(finding.key.rpartition("/")[2], finding.what)
    return PackPlan(packs=packs)


def repair_packs(
    access: RepositoryAccess,
    plan: PackPlan,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> PacksRepaired:
    """Save what opens of the packs in the plan, and give them up. Raises as `repair_index`."""
    _require(access)
    used = cancel or Cancel()
    trees = [
        TreeRef(snapshot=one.id, source=one.source, root=one.details.root.as_json())
        for one in load_catalog(access.objects).snapshots
        if one.details is not None
    ]
    done = mend_packs(
        access.objects,
        NativeIndexWork(access, used),
        broken=frozenset(plan.packs),
        trees=trees,
        clock=access.clock,
        cancel=used,
    )
    if not done.lost:
        return PacksRepaired(done=done)
    after = check(access, progress=progress, cancel=cancel)
    return PacksRepaired(done=done, losses=[one for one in after.findings if is_loss(one)])


def plan_state_repair(access: RepositoryAccess) -> str | None:
    """What is wrong with `gc/state`; None: nothing. Writes nothing."""
    lost = why_lost(access.objects)
    return lost[0] if lost else None


def repair_state(
    access: RepositoryAccess, *, is_forced: bool = False, cancel: Cancel | None = None
) -> StateRepair | None:
    """Make a `gc/state` that is lost anew; None when there is nothing wrong with it.

    Raises as `repair_index`, and DamagedError when it is not known what a snapshot needs, unless forced.
    """
    _require(access)
    used = cancel or Cancel()
    work = NativeIndexWork(access, used)
    return write_lost_state(access.objects, work, is_forced=is_forced, clock=access.clock, cancel=used)


def is_loss(finding: Finding) -> bool:
    """Whether a finding says that content of snapshots is lost."""
    return finding.severity is FindingSeverity.LOSS and finding.kind in _LOSS_KINDS


def plan_snapshot_repair(access: RepositoryAccess) -> Sequence[SnapshotProblem]:
    """What `repair_snapshots` would mend. Writes nothing."""
    return plan_snapshots(access.objects)


def repair_snapshots(
    access: RepositoryAccess,
    plan: Sequence[SnapshotProblem],
    *,
    is_forced: bool = False,
    cancel: Cancel | None = None,
) -> Sequence[SnapshotOutcome]:
    """Mend registers, records and reference sets, one after the other; what cannot be mended says why.

    Raises StorageError, Interrupted, WrongKeyError for keys that sign nothing.
    """
    _require(access)
    used = cancel or Cancel()
    tools = SnapshotTools(access.objects, NativeIndexWork(access, used), access.clock)
    outcomes = []
    for problem in plan:
        used.check()
        try:
            done = mend_snapshot(tools, problem, is_forced=is_forced)
            outcomes.append(SnapshotOutcome(problem=problem, done=done))
        except REASONS as exc:
            outcomes.append(SnapshotOutcome(problem=problem, reason=_reason(exc)))
    return outcomes


def _reason(exc: PvbackError) -> str:
    return f"{exc.what}; {exc.hint}" if exc.hint else exc.what


def _require(access: RepositoryAccess) -> None:
    require_conditions(access.objects)
    if access.keyring.role not in ("owner", "maintainer"):
        raise WrongKeyError(
            f"a {access.keyring.role}'s key may not repair", hint="use an owner's or a maintainer's key"
        )
