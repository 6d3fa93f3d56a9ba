"""Backing up a claim: expose it, let a mover read it, believe only its own verdict, and leave nothing behind.

Guarantees: what was asked for is done or refused, never something weaker instead; the pod is judged by the
cluster before anything is made; whatever happens, what the run has made is removed or named; a claim that
belongs to the user is never written to or deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, load_claim
from pvback.cluster.exposure import Exposure, is_never_bound, plan_exposure
from pvback.cluster.freezing import Freezer
from pvback.cluster.hook_runs import HookRun, HookWork
from pvback.cluster.hooks import Hook, PlannedHook, plan_hooks, pods_of
from pvback.cluster.kinds import POD, VOLUME_SNAPSHOT_CLASS, Body
from pvback.cluster.mover import MoverJob
from pvback.cluster.secrets import load_repository_secret
from pvback.cluster.staging import StagingWork, stage
from pvback.cluster.watching import MoverEnd
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, UsageError
from pvback.model import Claim
from pvback.ops.claim_freeze import (
    AT_REST,
    end_freezers,
    plan_freezers,
    require_freezable,
    start_freezers,
)
from pvback.ops.claim_hold import HeldRead
from pvback.ops.claim_jobs import (
    ClaimBackupOptions,
    ClaimOutcome,
    HookShare,
    plan_job,
    staged_job,
    what_is_wrong,
    with_hooks,
)
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["backup_claim"]


def backup_claim(
    work: ClaimWork, claim: Claim, *, options: ClaimBackupOptions, share: HookShare | None = None
) -> ClaimOutcome:
    """Back up one claim as one snapshot. What hooks did is in `share`, also when it fails.

    Raises UsageError, ConflictError while another run has the claim, ClusterError, Interrupted, and what the
    mover failed with.
    """
    began = work.clock.monotonic()
    facts = load_claim(work.cluster, claim)
    if is_never_bound(facts):
        note = "never bound: it waits for its first pod, and has no data"
        return ClaimOutcome(claim=str(claim), state="skipped", note=note)
    exposure = plan_exposure(
        facts,
        method=options.method,
        classes=_snapshot_classes(work.cluster),
        wanted=options.snapshot_class,
    )
    if options.freeze_seconds is not None:
        require_freezable(exposure.method, str(claim))
    planned = _plan_hooks(work.cluster, facts, exposure, options.hooks)
    secret = load_repository_secret(work.cluster, claim.namespace, name=options.settings.secret)
    settings = settings_for(work.cluster, claim.namespace, settings=options.settings, secret=secret)
    job = plan_job(
        facts,
        exposure,
        run=datapath.random_id()[:16],
        secret=secret,
        options=replace(options, settings=settings),
    )
    try_pod(work.cluster, job)
    frozen = [facts] if options.freeze_seconds is not None else []
    freezers = plan_freezers(work.cluster, frozen, run=job.run, settings=settings)
    parts = _Parts(work=work, planned=planned, freezers=freezers, share=share or HookShare(), leftovers=[])
    end, failures = _run(parts, facts, job, options)
    error = what_is_wrong(end, job, failures=failures)
    return ClaimOutcome(
        claim=str(claim),
        state="done" if error is None else "partly",
        method=exposure.method,
        result=end.message.get("result") or {},
        error=error,
        note=exposure.why or (AT_REST if frozen and not freezers else ""),
        leftovers=tuple(parts.leftovers),
        hooks=tuple(parts.share.results),
        seconds=round(work.clock.monotonic() - began, 3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What belongs to one backup of a claim."""

    work: ClaimWork
    planned: Sequence[PlannedHook]
    freezers: Sequence[Freezer]
    share: HookShare
    leftovers: list[str]


def _run(
    parts: _Parts, facts: ClaimFacts, job: MoverJob, options: ClaimBackupOptions
) -> tuple[MoverEnd, list[str]]:
    """Have the claim and do it. How the mover ended, and what hooks did not undo."""
    work = parts.work
    pods = pods_of(parts.planned, namespace=facts.claim.namespace)
    parts.share.turns.take(pods, lambda: work.cancel.is_set)
    try:
        work.cancel.check()
        run = ClaimRun.begin(
            work.cluster,
            facts.claim,
            run=job.run,
            what=f"backup by {job.exposure.method}",
            clock=work.clock,
        )
        needs = HookWork(
            cluster=work.cluster, run=run, clock=work.clock, cancel=work.cancel, warn=work.progress.warn
        )
        hooks = HookRun(needs, parts.planned, results=parts.share.results)
        try:
            hooks.planned += start_freezers(work, run, freezers=parts.freezers, options=options)
            return _expose_and_move(
                work, run, hooks=hooks, facts=facts, job=job, options=options
            ), hooks.failures
        finally:
            # Before the run's end, which waits for a mover: the application waits for nobody.
            hooks.finish()
            parts.leftovers.extend(run.end())
            for one in parts.leftovers:
                work.progress.warn(f"left behind: {one}")
    finally:
        parts.share.turns.leave(pods)


def _plan_hooks(
    cluster: "Cluster", facts: ClaimFacts, exposure: Exposure, given: Sequence[Hook] | None
) -> list[PlannedHook]:
    """The hooks of the claim. Raises UsageError, ClusterError."""
    if given is None:
        return []
    pods = cluster.list(POD, namespace=facts.claim.namespace)
    planned = plan_hooks(facts, pods=pods, given=given)
    if exposure.method == "clone" and any(one.hook.quiesce is not None for one in planned):
        raise UsageError(
            "nobody says when a clone is cut, so that nothing can be held still for it",
            key=str(facts.claim),
            hint="choose `--method snapshot` or `--method live`, or use a hook without `quiesce`",
        )
    return planned


def _expose_and_move(
    work: ClaimWork,
    run: ClaimRun,
    *,
    hooks: HookRun,
    facts: ClaimFacts,
    job: MoverJob,
    options: ClaimBackupOptions,
) -> MoverEnd:
    """What hooks do before, the copy, and the mover."""
    hooks.begin()
    if job.exposure.method != "live":
        staged = stage(
            StagingWork(cluster=work.cluster, run=run, cancel=work.cancel, clock=work.clock, hold=hooks),
            facts,
            exposure=job.exposure,
            options=options.staging,
        )
        job = staged_job(job, staged)
        end_freezers(work, hooks.planned, namespace=facts.claim.namespace)
    job = with_hooks(job, hooks, own=hooks.planned)
    held = HeldRead(work, hooks, job=job)
    end = move(
        work,
        run,
        job=job,
        wedged_seconds=options.wedged_seconds,
        check=held.check,
        on_read=held.hear,
    )
    _release(held, end)
    return end


def _release(held: HeldRead, end: MoverEnd) -> None:
    """Let go who still holds. Raises ClusterError when somebody did not until the mover's end."""
    try:
        held.end()
    except ClusterError as exc:
        snapshot = (end.message.get("result") or {}).get("snapshot")
        raise ClusterError(
            f"{exc.what}; snapshot {snapshot} is stored, and worth what any live read is", key=exc.key
        ) from exc


def _snapshot_classes(cluster: "Cluster") -> list[Body] | None:
    try:
        return cluster.list(VOLUME_SNAPSHOT_CLASS)
    except (ClusterObjectMissing, ClusterRefusal):
        return None
