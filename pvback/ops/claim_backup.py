"""Backing up a claim: expose it, let a mover read it, believe only its own verdict, and leave nothing behind.

Guarantees: what was asked for is done or refused, never something weaker instead; the pod is judged by the
cluster before anything is made; whatever happens, what the run has made is removed or named; a claim that
belongs to the user is never written to or deleted.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pvback import datapath, limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, Consumer, load_claim
from pvback.cluster.exposure import Exposure, is_never_bound, plan_exposure
from pvback.cluster.kinds import VOLUME_SNAPSHOT_CLASS, Body
from pvback.cluster.manifests import pruned
from pvback.cluster.mover import DEVICE_PATH, VOLUME_FOLDER, MoverJob, MoverSettings
from pvback.cluster.secrets import RepositorySecret, load_repository_secret
from pvback.cluster.staging import StagingOptions, StagingWork, stage
from pvback.cluster.watching import MoverEnd
from pvback.errors import ClusterError, PartlyDone, PvbackError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.ops.mover import MoverSpec

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ClaimBackupOptions", "ClaimOutcome", "backup_claim"]


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
    """

    method: str = "auto"
    snapshot_class: str | None = None
    settings: MoverSettings
    staging: StagingOptions = field(default_factory=StagingOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    force: bool = False
    wedged_seconds: float = limits.MOVER_WEDGED_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOutcome:
    """What became of one claim.

    Attributes:
        state: `done`, `partly` (files are missing), `skipped` (there is no data), or `failed`.
        method: How it was read; None where it came not so far.
        result: What the mover reports.
        error: Why not, or what is missing.
        note: What else is worth knowing.
        leftovers: What could not be removed.
    """

    claim: str
    state: str
    method: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    error: PvbackError | None = None
    note: str = ""
    leftovers: tuple[str, ...] = ()
    seconds: float = 0.0


def backup_claim(work: ClaimWork, claim: Claim, *, options: ClaimBackupOptions) -> ClaimOutcome:
    """Back up one claim as one snapshot.

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
    secret = load_repository_secret(work.cluster, claim.namespace, name=options.settings.secret)
    settings = settings_for(work.cluster, claim.namespace, settings=options.settings, secret=secret)
    job = _plan_job(facts, exposure, secret, replace(options, settings=settings))
    try_pod(work.cluster, job)
    run = ClaimRun.begin(
        work.cluster, claim, run=job.run, what=f"backup by {exposure.method}", clock=work.clock
    )
    leftovers: list[str] = []
    try:
        end = _expose_and_move(work, run, facts, job, options)
    finally:
        leftovers += run.end()
        for one in leftovers:
            work.progress.warn(f"left behind: {one}")
    is_whole = end.exit_code == 0
    unread = PartlyDone(_partly(end), key=str(claim), hint=_hint_for_unread(exposure, job))
    return ClaimOutcome(
        claim=str(claim),
        state="done" if is_whole else "partly",
        method=exposure.method,
        result=end.message.get("result") or {},
        error=None if is_whole else unread,
        note=exposure.why,
        leftovers=tuple(leftovers),
        seconds=round(work.clock.monotonic() - began, 3),
    )


def _expose_and_move(
    work: ClaimWork, run: ClaimRun, facts: ClaimFacts, job: MoverJob, options: ClaimBackupOptions
) -> MoverEnd:
    if job.exposure.method != "live":
        staged = stage(
            StagingWork(cluster=work.cluster, run=run, cancel=work.cancel, clock=work.clock),
            facts,
            exposure=job.exposure,
            options=options.staging,
        )
        spec = {**job.spec, "taken": staged.taken.isoformat() if staged.taken else None}
        job = replace(job, mounted=staged.claim, spec=spec)
    return move(work, run, job=job, wedged_seconds=options.wedged_seconds)


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
