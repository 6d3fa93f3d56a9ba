"""Restoring a claim: to a new claim made from the recorded manifest, or into one that is there.

Guarantees: a new claim whose restore fails is removed again, so that nothing empty looks restored; one that
is there is written to only while no pod has it mounted, and one that a pod takes meanwhile is not called
restored; size is checked before the first byte; the key that the mover gets reads one scope, and is removed
from the repository when the run ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pvback import datapath, limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, load_claim
from pvback.cluster.kinds import CLAIM, Body
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.cluster.names import object_name
from pvback.cluster.quantity import as_quantity, parse_quantity
from pvback.cluster.replacing import require_no_pods, require_replaceable
from pvback.cluster.secrets import RepositorySecret, load_repository_secret
from pvback.cluster.watching import MoverEnd
from pvback.errors import ClusterError, PartlyDone, UsageError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.ops.claim_targets import (
    SoleUse,
    being_written,
    exchange,
    is_whole,
    made_claim,
    require_unused,
    require_unwanted,
    restored_claim,
    workloads_held,
)
from pvback.ops.restore_mover import Target, check_kind, check_size, plan_job, restorer_key
from pvback.repository.records import RecordDetails
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["ClaimRestoreOptions", "RestoredClaim", "choose_snapshot", "not_set", "restore_claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRestoreOptions:
    """How a claim is restored.

    Attributes:
        target: The claim that will hold the data.
        way: `new`: a claim is made; `in-place`: into the one that is there; `replace`: it gets a new volume.
        scale_down: Whether workloads that use the claim may be stopped meanwhile.
        storage_class, size_bytes, labels: Of the new claim; None: as recorded.
        keep_extra: In place, leave what the snapshot does not have.
        settings: Of the mover.
        wedged_seconds: How long the mover may take until it runs.
    """

    target: Claim
    way: str = "new"
    scale_down: bool = False
    storage_class: str | None = None
    size_bytes: int | None = None
    labels: Mapping[str, str] | None = None
    keep_extra: bool = False
    settings: MoverSettings
    wedged_seconds: float = limits.MOVER_WEDGED_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredClaim:
    """What was done."""

    claim: str
    snapshot: str
    taken: datetime
    """The moment that the data is of."""
    is_whole: bool
    result: Mapping[str, Any] = field(default_factory=dict)
    stopped: tuple[str, ...] = ()
    """Workloads that were down meanwhile, and run again."""
    seconds: float = 0.0


def not_set(result: Mapping[str, Any]) -> list[str]:
    """What a mover was not allowed to set of files that are restored, by kind, in words."""
    found = []
    for one in result.get("denied") or ():
        # The root of a volume has no path.
        some = next(iter(one["examples"]), "") or "the root of the volume"
        found.append(f"{one['category']}: {one['count']} not set ({one['message']}); for example {some}")
    return found


def choose_snapshot(
    snapshots: list[CommittedSnapshot], *, wanted: str | None, as_of: datetime | None
) -> CommittedSnapshot:
    """The newest of these, the newest that is not of later than `as_of`, or the one whose id begins so.

    Raises UsageError where there is none, and for an ambiguous id.
    """
    whole = [one for one in snapshots if one.details is None or one.details.is_complete]
    if wanted is not None and wanted != "latest":
        fitting = [one for one in whole if one.id.startswith(wanted)]
        if len(fitting) != 1:
            what = "several snapshots begin so" if fitting else "no such snapshot of this claim"
            raise UsageError(f"{what}: {wanted}", hint="`pvback pvc list` and `pvback snapshots` show them")
        return fitting[0]
    reached = [one for one in whole if as_of is None or moment_of(one) <= as_of]
    if not reached:
        first = f"; the first is of {min(map(moment_of, whole)).isoformat()}" if whole else ""
        raise UsageError(f"there is no snapshot of this claim{' that early' if whole else ''}{first}")
    return max(reached, key=moment_of)


def moment_of(snapshot: CommittedSnapshot) -> datetime:
    """The moment that its data is of: the volume snapshot's, or the beginning of the reading."""
    details = snapshot.details
    if details is None:
        return snapshot.time
    return details.taken or details.started


def restore_claim(
    work: ClaimWork, access: RepositoryAccess, *, snapshot: CommittedSnapshot, options: ClaimRestoreOptions
) -> RestoredClaim:
    """Restore one snapshot of a claim. `access` is to its scope, with an owner's key.

    Raises UsageError, ConflictError while another run has the target, ClusterError, Interrupted, and what the
    mover failed with.
    """
    began = work.clock.monotonic()
    details = snapshot.require_details()
    target = options.target
    secret = load_repository_secret(work.cluster, target.namespace, name=options.settings.secret)
    settings = settings_for(work.cluster, target.namespace, settings=options.settings, secret=secret)
    there = None if options.way == "new" else _existing(work, details, options)
    job = _plan_job(snapshot, secret, there=there, options=replace(options, settings=settings))
    try_pod(work.cluster, job)
    run = ClaimRun.begin(
        work.cluster, target, run=job.run, what=f"restore of snapshot {snapshot.id[:8]}", clock=work.clock
    )
    try:
        with restorer_key(work, run, access=access) as key_secret:
            made = _Restoring(work=work, run=run, job=replace(job, key_secret=key_secret), options=options)
            end, back = made.to(there, details)
    finally:
        for one in run.end():
            work.progress.warn(f"left behind: {one}")
    return RestoredClaim(
        claim=str(target),
        snapshot=snapshot.id,
        taken=moment_of(snapshot),
        is_whole=end.exit_code == 0,
        result=end.message.get("result") or {},
        stopped=tuple(back),
        seconds=round(work.clock.monotonic() - began, 3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restoring:
    """A restore whose mover is ready to go."""

    work: ClaimWork
    run: ClaimRun
    job: MoverJob
    options: ClaimRestoreOptions

    def to(self, there: ClaimFacts | None, details: RecordDetails) -> tuple[MoverEnd, list[str]]:
        """How the mover ended, and what was stopped meanwhile and runs again."""
        if there is None:
            body = _new_claim(details, self.options)
            require_unwanted(self.work, self.options.target)
            with restored_claim(self.work, self.run, body=body):
                alone = SoleUse(self.work, self.run, claim=self.options.target)
                end = self._move(check=alone.look)
                alone.require()
                return end, []
        if self.options.way == "replace":
            return self._replace(there)
        with workloads_held(self.work, there.claim, may_stop=self.options.scale_down) as back:
            with being_written(self.work, self.run, claim=there.claim) as alone:
                end = self._move(check=alone.look)
            if end.exit_code == 0:
                is_whole(self.work, there.claim)
        return end, back

    def _replace(self, there: ClaimFacts) -> tuple[MoverEnd, list[str]]:
        """The workload goes on until there is a volume that is whole."""
        body = _claim_like(there, self.run, name=self.job.mounted, options=self.options)
        with made_claim(self.work, body):
            end = self._move()
            if end.exit_code != 0:
                raise PartlyDone(
                    "files could not be restored, so the claim keeps the volume that it has",
                    key=str(there.claim),
                    hint="`--to` restores what there is to another claim",
                )
            with workloads_held(self.work, there.claim, may_stop=self.options.scale_down) as back:
                # They would keep the claim that they have mounted from going.
                self.run.end_pods()
                self.run.check()
                snapshot = str(self.job.spec["snapshot"])
                exchange(self.work, there.claim, mounted=self.job.mounted, snapshot=snapshot)
        return end, back

    def _move(self, *, check: Callable[[], None] = lambda: None) -> MoverEnd:
        wedged_seconds = self.options.wedged_seconds
        end = move(self.work, self.run, job=self.job, wedged_seconds=wedged_seconds, check=check)
        self.run.check()
        return end


def _existing(work: ClaimWork, details: RecordDetails, options: ClaimRestoreOptions) -> ClaimFacts:
    """The claim to restore into, or to replace. Raises ClusterError, ConflictError where a pod has it."""
    target = options.target
    facts = load_claim(work.cluster, target)
    if facts.is_deleting or facts.phase == "Lost":
        raise ClusterError("the claim is lost or being deleted", key=str(target))
    require_unused(facts, may_stop=options.scale_down)
    check_kind(details, is_block=facts.is_block, where=str(target))
    size = facts.capacity_bytes or facts.request_bytes
    if options.way == "replace":
        if facts.volume is None:
            raise ClusterError("the claim has no volume to replace", key=str(target), hint="use `--in-place`")
        require_no_pods(target, facts.ended)
        require_replaceable(work.cluster, target, volume=facts.volume)
        size = options.size_bytes or size
    check_size(details, size, where=str(target))
    return facts


def _claim_like(there: ClaimFacts, run: ClaimRun, *, name: str, options: ClaimRestoreOptions) -> Body:
    """A claim of ours whose volume another claim shall have."""
    size = options.size_bytes or max(there.request_bytes, there.capacity_bytes)
    return CLAIM.body(
        name,
        there.claim.namespace,
        metadata=run.metadata("staging"),
        spec={
            "accessModes": list(there.access_modes),
            "volumeMode": "Block" if there.is_block else "Filesystem",
            "storageClassName": options.storage_class or there.storage_class,
            "resources": {"requests": {"storage": as_quantity(size)}},
        },
    )


def _new_claim(details: RecordDetails, options: ClaimRestoreOptions) -> Body:
    """The claim as it was recorded, with what is to be different. Raises UsageError."""
    recorded = details.manifests.get("claim")
    if not isinstance(recorded, dict):
        raise UsageError(
            "the snapshot is not of a claim", key=details.snapshot, hint="restore it with `pvback restore`"
        )
    spec = dict(recorded["spec"])
    spec.pop("dataSource", None)
    spec.pop("dataSourceRef", None)
    if options.storage_class is not None:
        spec["storageClassName"] = options.storage_class
    size = options.size_bytes or parse_quantity(spec["resources"]["requests"]["storage"])
    check_size(details, size, where=str(options.target))
    spec["resources"] = {"requests": {"storage": as_quantity(size)}}
    labels = recorded["metadata"].get("labels") or {} if options.labels is None else options.labels
    annotations = {
        **(recorded["metadata"].get("annotations") or {}),
        "pvback.io/restored-from": details.snapshot,
    }
    return CLAIM.body(
        options.target.name,
        options.target.namespace,
        metadata={"labels": dict(labels), "annotations": annotations},
        spec=spec,
    )


def _plan_job(
    snapshot: CommittedSnapshot,
    secret: RepositorySecret,
    *,
    there: ClaimFacts | None,
    options: ClaimRestoreOptions,
) -> MoverJob:
    is_block = snapshot.require_details().source.kind == "device"
    is_in_place = options.way == "in-place"
    run = datapath.random_id()[:16]
    name = options.target.name
    return plan_job(
        snapshot,
        secret,
        target=Target(
            claim=options.target,
            mounted=object_name("new", name, run=run) if options.way == "replace" else name,
            is_mirrored=is_in_place and not options.keep_extra and not is_block,
            tolerations=there.tolerations if there is not None else (),
            is_made=not is_in_place,
        ),
        settings=options.settings,
        run=run,
    )
