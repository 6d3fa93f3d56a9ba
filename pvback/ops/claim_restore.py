"""Restoring a claim: to a new claim made from the recorded manifest, or into one that is there.

Guarantees: a new claim whose restore fails is removed again, so that nothing empty looks restored; one that
is there is written to only while no pod has it mounted; size is checked before the first byte; the key that
the mover gets reads one scope, and is removed from the repository when the run ends.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pvback import datapath, limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, Consumer, load_claim
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import CLAIM, SECRET, Body
from pvback.cluster.mover import DEVICE_PATH, VOLUME_FOLDER, MoverJob, MoverSettings
from pvback.cluster.names import object_name
from pvback.cluster.quantity import as_quantity, parse_quantity
from pvback.cluster.secrets import RepositorySecret, key_secret_body, load_repository_secret
from pvback.errors import ClusterError, ClusterObjectExists, ConflictError, PvbackError, UsageError
from pvback.model import Claim, Consistency
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.ops.mover import MoverSpec
from pvback.repository.keys import NewWay, add_key
from pvback.repository.layout import key_object_key
from pvback.repository.records import RecordDetails
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["ClaimRestoreOptions", "RestoredClaim", "choose_snapshot", "restore_claim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRestoreOptions:
    """How a claim is restored.

    Attributes:
        target: The claim that will hold the data.
        is_in_place: Into a claim that is there; else a new one is made.
        storage_class, size_bytes, labels: Of the new claim; None: as recorded.
        keep_extra: In place, leave what the snapshot does not have.
        settings: Of the mover.
        wedged_seconds: How long the mover may take until it runs.
    """

    target: Claim
    is_in_place: bool = False
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
    seconds: float = 0.0


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
    there = _existing(work, target, details) if options.is_in_place else None
    body = None if there is not None else _new_claim(details, options)
    run_id = datapath.random_id()[:16]
    job = _plan_job(snapshot, there, secret, replace(options, settings=settings), run=run_id)
    try_pod(work.cluster, job)
    run = ClaimRun.begin(
        work.cluster, target, run=run_id, what=f"restore of snapshot {snapshot.id[:8]}", clock=work.clock
    )
    try:
        with _restorer_key(work, access, run) as key_secret, _target(work, run, body):
            end = move(
                work, run, job=replace(job, key_secret=key_secret), wedged_seconds=options.wedged_seconds
            )
            run.check()
    finally:
        for one in run.end():
            work.progress.warn(f"left behind: {one}")
    return RestoredClaim(
        claim=str(target),
        snapshot=snapshot.id,
        taken=moment_of(snapshot),
        is_whole=end.exit_code == 0,
        result=end.message.get("result") or {},
        seconds=round(work.clock.monotonic() - began, 3),
    )


def _existing(work: ClaimWork, target: Claim, details: RecordDetails) -> ClaimFacts:
    """The claim to restore into. Raises ClusterError, ConflictError where a pod has it."""
    facts = load_claim(work.cluster, target)
    if facts.is_deleting or facts.phase == "Lost":
        raise ClusterError("the claim is lost or being deleted", key=str(target))
    if facts.consumers:
        pods = ", ".join(one.pod for one in facts.consumers)
        raise ConflictError(f"pods have the claim: {pods}", key=str(target), hint="stop them, then restore")
    if facts.is_block != (details.source.kind == "device"):
        kinds = ("a file system", "a device")
        raise UsageError(
            f"the claim is {kinds[facts.is_block]}, and the snapshot of {kinds[not facts.is_block]}",
            key=str(target),
        )
    _check_size(details, facts.capacity_bytes or facts.request_bytes, str(target))
    return facts


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
    _check_size(details, size, str(options.target))
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


def _check_size(details: RecordDetails, size: int, where: str) -> None:
    """Raise UsageError where the data cannot fit: files with holes count as what their claim had."""
    recorded = details.manifests.get("claim") or {}
    had = recorded.get("spec", {}).get("resources", {}).get("requests", {}).get("storage")
    needed = details.root.bytes
    if had is not None and details.source.kind != "device":
        needed = min(needed, parse_quantity(had))
    if size < needed:
        raise UsageError(
            f"{as_quantity(size)} is too small: {needed} bytes are to be restored",
            key=where,
            hint="use `--size`",
        )


def _plan_job(
    snapshot: CommittedSnapshot,
    there: ClaimFacts | None,
    secret: RepositorySecret,
    options: ClaimRestoreOptions,
    *,
    run: str,
) -> MoverJob:
    details = snapshot.require_details()
    is_block = details.source.kind == "device"
    given = {"delete": there is not None and not options.keep_extra and not is_block}
    spec = MoverSpec(
        cluster=secret.cluster,
        namespace=options.target.namespace,
        claim=options.target.name,
        where=DEVICE_PATH if is_block else VOLUME_FOLDER,
        scope=None,
        snapshot=snapshot.id,
        options=given,
        manifests={},
    )
    return MoverJob(
        work="restore",
        claim=options.target,
        mounted=options.target.name,
        is_block=is_block,
        run=run,
        exposure=Exposure(method="live", grade=Consistency.COLD, consumer=_consumer(details)),
        spec=spec.as_json(),
        settings=options.settings,
    )


def _consumer(details: RecordDetails) -> Consumer:
    """The user and groups that the data was used with, for the mover to be; and some group, to write."""
    used = details.manifests.get("consumer") or {}
    group = used.get("fs_group")
    return Consumer(
        pod="",
        node=None,
        is_read_only=False,
        is_running=False,
        user=used.get("user"),
        fs_group=limits.MOVER_GROUP if group is None else group,
        supplemental_groups=tuple(used.get("supplemental_groups") or ()),
    )


@contextmanager
def _restorer_key(work: ClaimWork, access: RepositoryAccess, run: ClaimRun) -> Iterator[str]:
    """A secret with a restorer's key of this scope, which opens nothing any more afterwards."""
    private, public = datapath.key_pair()
    label = f"restore {run.id} of {run.claim}"
    principal = add_key(access, role="restorer", label=label, way=NewWay(method="x25519", secret=public))
    try:
        name = object_name("key", run.claim.name, run=run.id)
        body = key_secret_body(
            run.claim.namespace, name, metadata=run.metadata("key"), key=private.hex().encode()
        )
        made = work.cluster.create(SECRET, body)
        try:
            yield name
        finally:
            # The run's own object owns it, too: what is not removed here goes with that.
            with suppress(ClusterError):
                work.cluster.delete(SECRET, made)
    finally:
        access.twins.remove(key_object_key(principal))


@contextmanager
def _target(work: ClaimWork, run: ClaimRun, body: Body | None) -> Iterator[None]:
    """Make the new claim; it is removed again, and only it, when what follows fails."""
    if body is None:
        yield
        return
    try:
        made = work.cluster.create(CLAIM, body)
    except ClusterObjectExists:
        raise ConflictError(
            "the claim exists",
            key=str(run.claim),
            hint="restore to another name with `--to`, or `--in-place`",
        ) from None
    try:
        yield
    except BaseException:
        try:
            work.cluster.delete(CLAIM, made)
        except PvbackError as exc:
            work.progress.warn(f"left behind: claim {run.claim}, which is not restored: {exc}")
        raise
