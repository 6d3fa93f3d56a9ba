"""Backing up a claim: expose it, let a mover read it, believe only its own verdict, and leave nothing behind.

Guarantees: what was asked for is done or refused, never something weaker instead; the pod is judged by the
cluster before anything is made; whatever happens, what the run has made is removed or named; a claim that
belongs to the user is never written to or deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pvback import datapath, limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, Consumer, load_claim
from pvback.cluster.exposure import Exposure, is_never_bound, plan_exposure
from pvback.cluster.hook_runs import HookResult, HookRun, HookWork
from pvback.cluster.hooks import Hook, PlannedHook, plan_hooks
from pvback.cluster.kinds import POD, VOLUME_SNAPSHOT_CLASS, Body
from pvback.cluster.manifests import pruned
from pvback.cluster.mover import DEVICE_PATH, VOLUME_FOLDER, MoverJob, MoverSettings
from pvback.cluster.secrets import RepositorySecret, load_repository_secret
from pvback.cluster.staging import StagingOptions, StagingWork, stage
from pvback.cluster.watching import MoverEnd
from pvback.errors import ClusterError, PartlyDone, PvbackError, UsageError
from pvback.model import Claim, Consistency
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.ops.claim_places import Places
from pvback.ops.mover import MoverSpec

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ClaimBackupOptions", "ClaimOutcome", "HookShare", "backup_claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBackupOptions:
    """How claims are backed up.

    Attributes:
        method: `auto`, `snapshot`, `clone` or `live`.
        snapshot_class: Of volume snapshots; None: the driver's default, or its only one.
        settings: Of the movers; without an image, the namespace's secret names it.
        staging: Of volume snapshots and clones.
        tags, excludes, force: As `BackupOptions` has them.
        wedged_seconds: How long a mover may take until it runs.
        hooks: Besides those that are annotated at claims and pods; None: none, not those either.
    """

    method: str = "auto"
    snapshot_class: str | None = None
    settings: MoverSettings
    staging: StagingOptions = field(default_factory=StagingOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    force: bool = False
    wedged_seconds: float = limits.MOVER_WEDGED_SECONDS
    hooks: Sequence[Hook] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOutcome:
    """What became of one claim.

    Attributes:
        state: `done`, `partly` (files are missing, or a hook did not undo what it did), `skipped` (there is
            no data), or `failed`.
        method: How it was read; None where it came not so far.
        result: What the mover reports.
        error: Why not, or what is missing.
        note: What else is worth knowing.
        leftovers: What could not be removed.
        hooks: What they did, in order.
    """

    claim: str
    state: str
    method: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    error: PvbackError | None = None
    note: str = ""
    leftovers: tuple[str, ...] = ()
    hooks: tuple[HookResult, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HookShare:
    """What the hooks of several claims have to do with each other, and what those of this one did."""

    turns: Places = field(default_factory=lambda: Places(1))
    results: list[HookResult] = field(default_factory=list)


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
    planned = _plan_hooks(work.cluster, facts, exposure, options.hooks)
    secret = load_repository_secret(work.cluster, claim.namespace, name=options.settings.secret)
    settings = settings_for(work.cluster, claim.namespace, settings=options.settings, secret=secret)
    job = _plan_job(facts, exposure, secret, replace(options, settings=settings))
    try_pod(work.cluster, job)
    parts = _Parts(work=work, planned=planned, share=share or HookShare(), leftovers=[])
    end, failures = _run(parts, facts, job, options)
    error = _what_is_wrong(end, job, failures)
    return ClaimOutcome(
        claim=str(claim),
        state="done" if error is None else "partly",
        method=exposure.method,
        result=end.message.get("result") or {},
        error=error,
        note=exposure.why,
        leftovers=tuple(parts.leftovers),
        hooks=tuple(parts.share.results),
        seconds=round(work.clock.monotonic() - began, 3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What belongs to one backup of a claim."""

    work: ClaimWork
    planned: Sequence[PlannedHook]
    share: HookShare
    leftovers: list[str]


def _run(
    parts: _Parts, facts: ClaimFacts, job: MoverJob, options: ClaimBackupOptions
) -> tuple[MoverEnd, list[str]]:
    """Have the claim and do it. How the mover ended, and what hooks did not undo."""
    work = parts.work
    pods = sorted(
        {f"{facts.claim.namespace}/{target.pod}" for one in parts.planned for target in one.targets}
    )
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
    hooks.begin()
    if job.exposure.method != "live":
        staged = stage(
            StagingWork(cluster=work.cluster, run=run, cancel=work.cancel, clock=work.clock, hold=hooks),
            facts,
            exposure=job.exposure,
            options=options.staging,
        )
        spec = {**job.spec, "taken": staged.taken.isoformat() if staged.taken else None}
        job = replace(job, mounted=staged.claim, spec=spec)
    job = replace(job, spec=_with_hooks(job, hooks))
    end = move(work, run, job=job, wedged_seconds=options.wedged_seconds, check=hooks.check)
    _release(hooks, end)
    return end


def _release(hooks: HookRun, end: MoverEnd) -> None:
    """Let go who held still for a live read. Raises ClusterError when somebody did not until its end."""
    try:
        hooks.release()
    except ClusterError as exc:
        snapshot = (end.message.get("result") or {}).get("snapshot")
        raise ClusterError(
            f"{exc.what}; snapshot {snapshot} is stored, and worth what any live read is", key=exc.key
        ) from exc


def _with_hooks(job: MoverJob, hooks: HookRun) -> Mapping[str, Any]:
    """The specification with what hooks have done so far.

    A copy that was cut while its applications held still is worth more than one that was not. Of a live read
    nobody knows that when its snapshot is stored: its grade is what it would be without.
    """
    if not hooks.results:
        return job.spec
    options, manifests = dict(job.spec["options"]), dict(job.spec["manifests"])
    is_crash = options["grade"] == str(Consistency.CRASH)
    if hooks.is_quiesced and not hooks.is_holding and is_crash:
        options["grade"] = str(Consistency.APP)
    manifests["hooks"] = [asdict(one) for one in hooks.results]
    return {**job.spec, "options": options, "manifests": manifests}


def _what_is_wrong(end: MoverEnd, job: MoverJob, failures: Sequence[str]) -> PartlyDone | None:
    """Files that are not stored, hooks that did not undo what they did; None where all is well."""
    wrong = [] if end.exit_code == 0 else [_partly(end)]
    hint = None if end.exit_code == 0 else _hint_for_unread(job.exposure, job)
    if failures:
        wrong.append(f"{'; '.join(failures)}; the snapshot is stored")
        hint = "look after the application: it may not have been let go on"
    return PartlyDone("; ".join(wrong), key=str(job.claim), hint=hint) if wrong else None


def _snapshot_classes(cluster: "Cluster") -> list[Body] | None:
    try:
        return cluster.list(VOLUME_SNAPSHOT_CLASS)
    except ClusterError:
        return None


def _plan_job(
    facts: ClaimFacts,
    exposure: Exposure,
    secret: RepositorySecret,
    options: ClaimBackupOptions,
) -> MoverJob:
    given: dict[str, Any] = {
        "tags": dict(options.tags),
        "excludes": list(options.excludes),
        "force": options.force,
        # Live, files are of different instants, whether the data path saw one change or not.
        "grade": str(exposure.grade),
        # A copy has the times and inode numbers that its driver gives it.
        **({"ignore_inode": True} if exposure.method != "live" else {}),
    }
    spec = MoverSpec(
        cluster=secret.cluster,
        namespace=facts.claim.namespace,
        claim=facts.claim.name,
        where=DEVICE_PATH if facts.is_block else VOLUME_FOLDER,
        scope=secret.scope,
        options=given,
        manifests=_manifests(facts, exposure.consumer),
    )
    return MoverJob(
        work="backup",
        claim=facts.claim,
        mounted=facts.claim.name,
        is_block=facts.is_block,
        run=datapath.random_id()[:16],
        exposure=exposure,
        spec=spec.as_json(),
        settings=options.settings,
    )


def _manifests(facts: ClaimFacts, consumer: Consumer | None) -> dict[str, Any]:
    manifests: dict[str, Any] = {"claim": pruned(facts.body)}
    if facts.volume_body is not None:
        manifests["volume"] = pruned(facts.volume_body)
    if consumer is not None:
        used = asdict(consumer)
        manifests["consumer"] = {name: used[name] for name in ("user", "fs_group", "supplemental_groups")}
    return manifests


def _partly(end: MoverEnd) -> str:
    result = end.message.get("result") or {}
    examples = "; ".join(result.get("examples") or ())
    count = result.get("error_count", "some")
    which = f", for example {examples}" if examples else ""
    return f"{count} files could not be read{which}; the rest is stored"


def _hint_for_unread(exposure: Exposure, job: MoverJob) -> str | None:
    if job.settings.is_privileged:
        return None
    who = "" if exposure.consumer is None else f", as pod {exposure.consumer.pod} does"
    return (
        f"the mover runs as a plain user{who}: where it is allowed, `--privileged` reads files of all owners"
    )
