"""Backing up claims whose volumes are cut at one instant, each as a snapshot of its own.

Guarantees: as those of one claim, and: all claims are the run's from before the first hook until all that it
has made is removed; hooks of all of them run once; either all volumes are cut together, or nothing is stored.
What fails after the cut fails for its claim alone.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pvback import datapath
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.exposure import staged_exposure
from pvback.cluster.freezing import Freezer
from pvback.cluster.group_staging import CutGroup, cut_group
from pvback.cluster.grouping import ClaimGroup, PlannedGroup, find_group_kinds, list_members, plan_group
from pvback.cluster.hook_runs import HookRun, HookWork
from pvback.cluster.hooks import PlannedHook, merge_hooks, plan_hooks, pods_of
from pvback.cluster.kinds import POD, Body, GroupKinds
from pvback.cluster.mover import MoverJob
from pvback.cluster.secrets import load_repository_secret
from pvback.cluster.staging import StagingWork, stage_volume_snapshot
from pvback.cluster.watching import MoverEnd
from pvback.errors import ClusterObjectMissing, ClusterRefusal, PvbackError
from pvback.model import Claim
from pvback.ops.claim_freeze import AT_REST, end_freezers, plan_freezers, start_freezers
from pvback.ops.claim_jobs import (
    GROUP_TAG,
    ClaimBackupOptions,
    ClaimOutcome,
    HookShare,
    plan_job,
    staged_job,
    what_is_wrong,
    with_hooks,
)
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.runtime import Progress

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["GroupTask", "backup_group"]

_METHOD = "group snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTask:
    """A group, and how its movers run.

    Attributes:
        at_once: So many movers.
        progress_of: Of each claim.
    """

    group: ClaimGroup
    at_once: int
    progress_of: Callable[[Claim], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that is decided before anything is made."""

    group: PlannedGroup
    run: str
    jobs: Sequence[MoverJob]
    hooks: Mapping[str, Sequence[PlannedHook]]
    """Of each claim."""
    merged: Sequence[PlannedHook]
    freezers: Sequence[Freezer]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What belongs to one backup of a group."""

    work: ClaimWork
    task: GroupTask
    options: ClaimBackupOptions
    share: HookShare
    plan: _Plan
    leftovers: list[str]

    def note_of(self, claim: Claim) -> str:
        """What is worth knowing of a claim."""
        is_frozen = any(one.facts.claim == claim for one in self.plan.freezers)
        return AT_REST if self.options.freeze_seconds is not None and not is_frozen else ""


_End = tuple[MoverJob, MoverEnd | PvbackError]
"""What the mover of a claim ended with."""


def backup_group(
    work: ClaimWork, task: GroupTask, *, options: ClaimBackupOptions, share: HookShare
) -> list[ClaimOutcome]:
    """Back up all claims of the group, by name. What hooks did is in `share`, also when it fails.

    Raises UsageError, ConflictError while another run has one of the claims, ClusterError, Interrupted; then
    nothing is stored of any.
    """
    began = work.clock.monotonic()
    plan = _plan(work.cluster, task.group, options)
    parts = _Parts(work=work, task=task, options=options, share=share, plan=plan, leftovers=[])
    pods = pods_of(plan.merged, namespace=task.group.namespace)
    share.turns.take(pods, lambda: work.cancel.is_set)
    try:
        work.cancel.check()
        ends, failures = _run(parts)
    finally:
        share.turns.leave(pods)
    seconds = round(work.clock.monotonic() - began, 3)
    return [_outcome(parts, end, failures=failures, seconds=seconds) for end in ends]


def _outcome(parts: _Parts, ended: _End, *, failures: Sequence[str], seconds: float) -> ClaimOutcome:
    job, end = ended
    result: Mapping[str, Any] = {}
    error: PvbackError | None
    if isinstance(end, PvbackError):
        state, error = "failed", end
    else:
        result = end.message.get("result") or {}
        error = what_is_wrong(end, job, failures=failures)
        state = "done" if error is None else "partly"
    return ClaimOutcome(
        claim=str(job.claim),
        state=state,
        method=_METHOD,
        result=result,
        error=error,
        note=parts.note_of(job.claim),
        leftovers=tuple(parts.leftovers),
        hooks=tuple(parts.share.results),
        group=parts.plan.run,
        seconds=seconds,
    )


def _plan(cluster: "Cluster", group: ClaimGroup, options: ClaimBackupOptions) -> _Plan:
    """Raises UsageError, ClusterError."""
    members = list_members(cluster, group)
    kinds = find_group_kinds(cluster)
    planned = plan_group(
        group,
        members,
        kinds=kinds,
        classes=_classes(cluster, kinds),
        wanted=options.group_class,
    )
    hooks: dict[str, Sequence[PlannedHook]] = {}
    if options.hooks is not None:
        pods = cluster.list(POD, namespace=group.namespace)
        hooks = {one.claim.name: plan_hooks(one, pods=pods, given=options.hooks) for one in members}
    merged = merge_hooks(hooks.values(), where=str(group))
    secret = load_repository_secret(cluster, group.namespace, name=options.settings.secret)
    settings = settings_for(cluster, group.namespace, settings=options.settings, secret=secret)
    run = datapath.random_id()[:16]
    told = replace(options, settings=settings, tags={**options.tags, GROUP_TAG: run})
    about = {"id": run, "labels": dict(group.labels), "claims": [one.claim.name for one in members]}
    jobs = [
        plan_job(one, staged_exposure(one, "snapshot"), run=run, secret=secret, options=told, group=about)
        for one in members
    ]
    for job in jobs:
        try_pod(cluster, job)
    frozen = members if options.freeze_seconds is not None else []
    freezers = plan_freezers(cluster, frozen, run=run, settings=settings)
    return _Plan(group=planned, run=run, jobs=jobs, hooks=hooks, merged=merged, freezers=freezers)


def _classes(cluster: "Cluster", kinds: GroupKinds | None) -> list[Body] | None:
    try:
        return cluster.list(kinds.group_class) if kinds is not None else None
    except (ClusterObjectMissing, ClusterRefusal):
        return None


def _run(parts: _Parts) -> tuple[list[_End], list[str]]:
    """Have the claims and do it. How the movers ended, and what hooks did not undo."""
    work, plan = parts.work, parts.plan
    first, *others = (job.claim for job in plan.jobs)
    run = ClaimRun.begin(
        work.cluster, first, run=plan.run, what=f"backup by {_METHOD}", clock=work.clock, also=others
    )
    warn = work.progress.warn
    needs = HookWork(cluster=work.cluster, run=run, clock=work.clock, cancel=work.cancel, warn=warn)
    hooks = HookRun(needs, plan.merged, results=parts.share.results)
    staging = StagingWork(cluster=work.cluster, run=run, cancel=work.cancel, clock=work.clock, hold=hooks)
    try:
        hooks.planned += start_freezers(work, run, freezers=plan.freezers, options=parts.options)
        hooks.begin()
        cut = cut_group(staging, plan.group, seconds=parts.options.staging.seconds)
        end_freezers(work, hooks.planned, namespace=first.namespace)
        return _upload(parts, staging, cut=cut, hooks=hooks), hooks.failures
    finally:
        hooks.finish()
        parts.leftovers.extend(run.end())
        for one in parts.leftovers:
            warn(f"left behind: {one}")


def _upload(parts: _Parts, staging: StagingWork, *, cut: CutGroup, hooks: HookRun) -> list[_End]:
    """Have movers read what was cut, so many at once. One that fails does not keep the others."""
    work, plan, options = parts.work, parts.plan, parts.options
    facts_of = {one.claim: one for one in plan.group.members}

    def one(job: MoverJob) -> _End:
        name, run = job.claim.name, staging.run.of(job.claim)
        own = replace(work, progress=parts.task.progress_of(job.claim))
        try:
            work.cancel.check()
            staged = stage_volume_snapshot(
                replace(staging, run=run),
                facts_of[job.claim],
                ready=cut.volume_snapshots[name],
                options=options.staging,
            )
            told = staged_job(job, replace(staged, taken=cut.taken or staged.taken))
            told = with_hooks(told, hooks, own=plan.hooks.get(name, ()))
            return told, move(own, run, job=told, wedged_seconds=options.wedged_seconds)
        except PvbackError as exc:
            return job, exc

    with ThreadPoolExecutor(max_workers=parts.task.at_once) as pool:
        return list(pool.map(one, plan.jobs))
