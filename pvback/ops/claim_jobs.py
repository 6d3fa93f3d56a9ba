"""What backing up a claim is told, what it tells, and the mover that is planned for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pvback import limits
from pvback.cluster.claims import ClaimFacts, Consumer, as_recorded
from pvback.cluster.exposure import Exposure
from pvback.cluster.hook_runs import HookResult, HookRun
from pvback.cluster.hooks import Hook, PlannedHook
from pvback.cluster.manifests import pruned
from pvback.cluster.mover import DEVICE_PATH, VOLUME_FOLDER, MoverJob, MoverSettings
from pvback.cluster.secrets import RepositorySecret
from pvback.cluster.staging import Staged, StagingOptions
from pvback.cluster.watching import MoverEnd
from pvback.errors import PartlyDone, PvbackError
from pvback.model import Consistency
from pvback.ops.claim_places import Places
from pvback.ops.mover import MoverSpec

__all__ = [
    "GROUP_TAG",
    "ClaimBackupOptions",
    "ClaimOutcome",
    "HookShare",
    "plan_job",
    "staged_job",
    "what_is_wrong",
    "with_hooks",
]

GROUP_TAG = "pvback.io/group"
"""Of snapshots that are of one instant: the same value, which no others have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimBackupOptions:
    """How claims are backed up.

    Attributes:
        method: `auto`, `snapshot`, `clone` or `live`.
        snapshot_class: Of volume snapshots; None: the driver's default, or its only one.
        group_class: Likewise of groups.
        settings: Of the movers; without an image, the namespace's secret names it.
        staging: Of volume snapshots and clones.
        tags, excludes, force: As `BackupOptions` has them.
        wedged_seconds: How long a mover may take until it runs.
        freeze_seconds: Freeze file systems while they are cut, so long at most; None: do not.
        hooks: Besides those that are annotated at claims and pods; None: none, not those either.
    """

    method: str = "auto"
    snapshot_class: str | None = None
    group_class: str | None = None
    settings: MoverSettings
    staging: StagingOptions = field(default_factory=StagingOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()
    force: bool = False
    wedged_seconds: float = limits.MOVER_WEDGED_SECONDS
    freeze_seconds: float | None = None
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
        hooks: What they did, in order; of a group, what those of all its claims did.
        group: What its snapshot shares with those of the same instant; None: it was cut alone.
    """

    claim: str
    state: str
    method: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    error: PvbackError | None = None
    note: str = ""
    leftovers: tuple[str, ...] = ()
    hooks: tuple[HookResult, ...] = ()
    group: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HookShare:
    """What the hooks of several claims have to do with each other, and what those of this one did."""

    turns: Places = field(default_factory=lambda: Places(1))
    results: list[HookResult] = field(default_factory=list)


def plan_job(
    facts: ClaimFacts,
    exposure: Exposure,
    *,
    run: str,
    secret: RepositorySecret,
    options: ClaimBackupOptions,
    group: Mapping[str, Any] | None = None,
) -> MoverJob:
    """The mover of a claim, before anything is made. `group`: what is stored of the group that it is of.

    What is made of the claim is where its driver has put it, when that is not the mover's choice.
    """
    if facts.is_bound_at_once and options.staging.storage_class is None:
        exposure = replace(exposure, node_affinity=None)
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
        manifests={
            **_manifests(facts, exposure.consumer),
            **({"group": dict(group)} if group is not None else {}),
        },
    )
    return MoverJob(
        work="backup",
        claim=facts.claim,
        mounted=facts.claim.name,
        is_block=facts.is_block,
        run=run,
        exposure=exposure,
        spec=spec.as_json(),
        settings=options.settings,
    )


def staged_job(job: MoverJob, staged: Staged) -> MoverJob:
    """The mover, told to read what was made of the claim."""
    taken = staged.taken.isoformat() if staged.taken else None
    # A copy that was bound at once may be elsewhere than the source; what waits is bound where that can be.
    exposure = replace(job.exposure, node_affinity=None) if staged.is_bound_at_once else job.exposure
    return replace(job, mounted=staged.claim, spec={**job.spec, "taken": taken}, exposure=exposure)


def with_hooks(job: MoverJob, hooks: HookRun, *, own: Sequence[PlannedHook]) -> MoverJob:
    """The mover, told what hooks have done so far; `own` are those of its claim.

    A copy that was cut while its applications held still is worth more than one that was not. Of a live read
    that is known when all is read: its mover waits for the word.
    """
    if not hooks.results:
        return job
    options, manifests = dict(job.spec["options"]), dict(job.spec["manifests"])
    held: dict[str, Any] = {}
    is_own = any(one.hook.quiesce is not None and one.targets and not one.hook.is_built_in for one in own)
    if is_own and hooks.is_quiesced:
        if hooks.is_holding and options["grade"] == str(Consistency.FUZZY):
            held["held_grade"] = str(Consistency.APP)
        elif not hooks.is_holding and options["grade"] == str(Consistency.CRASH):
            options["grade"] = str(Consistency.APP)
    manifests["hooks"] = [asdict(one) for one in hooks.results]
    return replace(job, spec={**job.spec, **held, "options": options, "manifests": manifests})


def what_is_wrong(end: MoverEnd, job: MoverJob, *, failures: Sequence[str]) -> PartlyDone | None:
    """Files that are not stored, hooks that did not undo what they did; None where all is well."""
    wrong = [] if end.exit_code == 0 else [_partly(end)]
    is_unread = end.exit_code != 0 and (end.message.get("result") or {}).get("error_count") != 0
    hint = _hint_for_unread(job.exposure, job) if is_unread else None
    if failures:
        wrong.append(f"{'; '.join(failures)}; the snapshot is stored")
        hint = "look after the application: it may not have been let go on"
    return PartlyDone("; ".join(wrong), key=str(job.claim), hint=hint) if wrong else None


def _manifests(facts: ClaimFacts, consumer: Consumer | None) -> dict[str, Any]:
    manifests: dict[str, Any] = {"claim": pruned(facts.body)}
    if facts.volume_body is not None:
        manifests["volume"] = pruned(facts.volume_body)
    if consumer is not None:
        manifests["consumer"] = as_recorded(consumer)
    return manifests


def _partly(end: MoverEnd) -> str:
    result = end.message.get("result") or {}
    examples = "; ".join(result.get("examples") or ())
    count = result.get("error_count", "some")
    if count == 0 and result.get("is_damage_found"):
        return "all was read; the repository lacks something that was stored earlier: run `pvback check`"
    which = f", for example {examples}" if examples else ""
    return f"{count} files could not be read{which}; the rest is stored"


def _hint_for_unread(exposure: Exposure, job: MoverJob) -> str | None:
    if job.settings.is_privileged:
        return None
    who = "" if exposure.consumer is None else f", as pod {exposure.consumer.pod} does"
    return (
        f"the mover runs as a plain user{who}: where it is allowed, `--privileged` reads files of all owners"
    )
