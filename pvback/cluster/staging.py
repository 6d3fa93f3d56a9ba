"""A copy of a claim at one instant, to be read in its place: of a volume snapshot, or a clone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pvback import limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import CLAIM, STORAGE_CLASS, VOLUME_SNAPSHOT, Body, Kind
from pvback.cluster.names import object_name
from pvback.cluster.quantity import as_quantity, parse_quantity
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "Hold",
    "Staged",
    "StagingOptions",
    "StagingWork",
    "let_settle",
    "stage",
    "stage_volume_snapshot",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingOptions:
    """How copies are made.

    Attributes:
        storage_class: Of the staged claim; None: the source's. A class may make cheap, shallow copies.
        access_modes: Likewise; None: the source's, but never for one pod alone.
        seconds: How long the volume snapshot may take.
    """

    storage_class: str | None = None
    access_modes: tuple[str, ...] | None = None
    seconds: float = limits.STAGING_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A claim to be mounted in place of the source."""

    claim: str
    taken: datetime | None
    """The instant, as the driver says; None for clones."""
    is_bound_at_once: bool = False
    """Whether its class surely does not wait for the mover, and so has chosen a node by itself."""


class Hold(Protocol):
    """Whoever holds still until the copy is made."""

    @property
    def is_holding(self) -> bool:
        """Whether anybody does."""
        ...

    def check(self) -> None:
        """Raise ClusterError when somebody does no more."""
        ...

    def release(self) -> None:
        """The copy is made. Raises ClusterError when somebody did not hold still until now."""
        ...

    def let_go(self) -> None:
        """Let everybody go on, whatever became of the copy. Raises nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StagingWork:
    """What staging needs."""

    cluster: "Cluster"
    run: ClaimRun
    cancel: Cancel
    clock: Clock
    hold: Hold


def stage(work: StagingWork, facts: ClaimFacts, *, exposure: Exposure, options: StagingOptions) -> Staged:
    """Make the copy. The claim binds when the mover is scheduled, or at once; the mover waits for it.

    Who holds still is let go when the copy is cut. Raises ClusterError, also when it did not hold so long,
    and Interrupted.
    """
    if exposure.method == "clone":
        source = {"kind": CLAIM.name, "name": facts.claim.name}
        return _make_claim(work, facts, source, size=0, options=options)
    cut = _cut_volume_snapshot(work, facts, exposure)
    try:
        ready = _wait_ready(work, cut, seconds=options.seconds)
    except BaseException:
        work.hold.let_go()
        let_settle(work, cut, kind=VOLUME_SNAPSHOT)
        raise
    return stage_volume_snapshot(work, facts, ready=ready, options=options)


def stage_volume_snapshot(
    work: StagingWork, facts: ClaimFacts, *, ready: Body, options: StagingOptions
) -> Staged:
    """Make a claim of a volume snapshot that can be used. Raises ClusterError."""
    status, name = ready["status"], ready["metadata"]["name"]
    source = {"apiGroup": VOLUME_SNAPSHOT.group, "kind": VOLUME_SNAPSHOT.name, "name": name}
    size = parse_quantity(status.get("restoreSize") or "0")
    taken = status.get("creationTime")
    made = _make_claim(work, facts, source, size=size, options=options)
    return replace(made, taken=datetime.fromisoformat(taken) if taken else None)


def _cut_volume_snapshot(work: StagingWork, facts: ClaimFacts, exposure: Exposure) -> Body:
    """Ask for the volume snapshot. Nothing is waited for: it may be cut, and not yet ready."""
    body = VOLUME_SNAPSHOT.body(
        object_name("snap", facts.claim.name, run=work.run.id),
        facts.claim.namespace,
        metadata=work.run.metadata("staging"),
        spec={
            "volumeSnapshotClassName": exposure.snapshot_class,
            "source": {"persistentVolumeClaimName": facts.claim.name},
        },
    )
    return work.cluster.create(VOLUME_SNAPSHOT, body)


def _wait_ready(work: StagingWork, body: Body, *, seconds: float) -> Body:
    """The volume snapshot when it can be used. An error that passes is waited out, the last one is told.

    Who holds still is let go as soon as it is cut, which may be long before it can be used.
    Raises ClusterError when the time is over or the snapshot is gone, Interrupted.
    """
    metadata = body["metadata"]
    deadline = work.clock.monotonic() + seconds
    while True:
        work.run.check()
        found = work.cluster.get(VOLUME_SNAPSHOT, metadata["name"], namespace=metadata["namespace"])
        status = found.get("status") or {}
        is_ready = status.get("readyToUse") is True
        if work.hold.is_holding and (is_ready or status.get("creationTime")):
            work.hold.release()
        work.hold.check()
        if is_ready:
            return found
        if work.clock.monotonic() >= deadline:
            said = (status.get("error") or {}).get("message") or "its driver says nothing"
            raise ClusterError(
                f"the volume snapshot was not ready after {seconds:.0f} s: {said}",
                key=str(work.run.claim),
                hint="its events and the driver's log say more; `--staging-timeout` waits longer",
            )
        pause = limits.HOOK_POLL_SECONDS if work.hold.is_holding else limits.CLUSTER_POLL_SECONDS
        work.clock.sleep(pause, work.cancel)


def let_settle(work: StagingWork, body: Body, *, kind: Kind) -> None:
    """Wait, not for long, until a volume snapshot or a group of them is made, so that it can be deleted.

    The snapshot controller loses one that is deleted while its content is being made (seen with
    external-snapshotter 8.7): it stays, with its finalizer, until everything is looked at again. One with an
    error is being made again.
    """
    metadata = body["metadata"]
    deadline = work.clock.monotonic() + limits.SETTLE_SECONDS
    while work.clock.monotonic() < deadline:
        try:
            found = work.cluster.find(kind, metadata["name"], namespace=metadata["namespace"])
        except ClusterError:
            # What ended the run is what is to be told.
            return
        if found is None or (found.get("status") or {}).get("readyToUse") is True:
            return
        work.clock.sleep(limits.CLUSTER_POLL_SECONDS)


def _make_claim(
    work: StagingWork, facts: ClaimFacts, source: Mapping[str, Any], *, size: int, options: StagingOptions
) -> Staged:
    """A claim of `source`, as large as the driver wants it, if that is more than was asked."""
    modes = options.access_modes or tuple(
        "ReadWriteOnce" if one == "ReadWriteOncePod" else one for one in facts.access_modes
    )
    name = options.storage_class or facts.storage_class
    storage_class = _find_class(work, name, is_asked_for=name == options.storage_class) if name else None
    size = max(facts.request_bytes, facts.capacity_bytes, size)
    body = CLAIM.body(
        object_name("copy", facts.claim.name, run=work.run.id),
        facts.claim.namespace,
        metadata=work.run.metadata("staging"),
        spec={
            "accessModes": list(modes),
            "volumeMode": "Block" if facts.is_block else "Filesystem",
            "storageClassName": name,
            "resources": {"requests": {"storage": as_quantity(size)}},
            "dataSource": dict(source),
        },
    )
    work.cluster.create(CLAIM, body)
    mode = "WaitForFirstConsumer" if storage_class is None else storage_class.get("volumeBindingMode")
    return Staged(claim=body["metadata"]["name"], taken=None, is_bound_at_once=mode != "WaitForFirstConsumer")


def _find_class(work: StagingWork, name: str, *, is_asked_for: bool) -> Body | None:
    """A storage class, or None where it may not be read. Raises ClusterError for an option's that is none."""
    try:
        return work.cluster.get(STORAGE_CLASS, name)
    except ClusterRefusal:
        return None
    except ClusterObjectMissing as exc:
        if not is_asked_for:
            return None
        raise ClusterError(
            f"there is no storage class {name}", key=str(work.run.claim), hint="`--staging-class` names it"
        ) from exc
