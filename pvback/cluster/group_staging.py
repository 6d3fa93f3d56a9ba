"""Volume snapshots of all claims of a group, cut at one instant.

Guarantee: what is returned is of exactly the claims that were planned. Another set, by a label that has
changed meanwhile, is an error, and never a smaller or a larger group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pvback import limits
from pvback.cluster.grouping import PlannedGroup
from pvback.cluster.kinds import VOLUME_SNAPSHOT, Body
from pvback.cluster.names import object_name
from pvback.cluster.staging import StagingWork, let_settle
from pvback.errors import ClusterError

__all__ = ["CutGroup", "cut_group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutGroup:
    """A group that is cut and can be used.

    Attributes:
        taken: The instant, as the driver says.
        volume_snapshots: By the name of the claim.
    """

    taken: datetime | None
    volume_snapshots: Mapping[str, Body]


def cut_group(work: StagingWork, planned: PlannedGroup, *, seconds: float) -> CutGroup:
    """Cut it, and wait until all members can be used. The group and its members are the run's.

    Who holds still is let go as soon as all are cut. Raises ClusterError, also when it did not hold so long
    or others were cut than planned, and Interrupted.
    """
    group = planned.group
    body = planned.kinds.group.body(
        object_name("group", group.selector, run=work.run.id),
        group.namespace,
        metadata=work.run.metadata("staging"),
        spec={
            "volumeGroupSnapshotClassName": planned.group_class,
            "source": {"selector": {"matchLabels": dict(group.labels)}},
        },
    )
    made = work.cluster.create(planned.kinds.group, body)
    try:
        return _wait_ready(work, planned, made, seconds=seconds)
    except BaseException:
        work.hold.let_go()
        let_settle(work, made, kind=planned.kinds.group)
        raise


def _wait_ready(work: StagingWork, planned: PlannedGroup, made: Body, *, seconds: float) -> CutGroup:
    metadata = made["metadata"]
    names = {one.claim.name for one in planned.members}
    deadline = work.clock.monotonic() + seconds
    while True:
        work.run.check()
        found = work.cluster.get(planned.kinds.group, metadata["name"], namespace=metadata["namespace"])
        status = found.get("status") or {}
        members = _members_of(work, planned, found)
        is_whole = members.keys() == names
        is_ready = is_whole and all(
            one.get("readyToUse") is True for one in (status, *map(_status, members.values()))
        )
        is_cut = is_whole and all(_status(one).get("creationTime") for one in members.values())
        if work.hold.is_holding and (is_ready or is_cut or status.get("creationTime")):
            work.hold.release()
        work.hold.check()
        if is_ready:
            taken = status.get("creationTime")
            return CutGroup(taken=datetime.fromisoformat(taken) if taken else None, volume_snapshots=members)
        if status.get("readyToUse") is True and not is_whole:
            # All of them are there before their group is ready; one look may fall in between.
            deadline = min(deadline, work.clock.monotonic() + limits.SETTLE_SECONDS)
        if work.clock.monotonic() >= deadline:
            raise _too_late(work, status, names - members.keys(), seconds=seconds)
        pause = limits.HOOK_POLL_SECONDS if work.hold.is_holding else limits.CLUSTER_POLL_SECONDS
        work.clock.sleep(pause, work.cancel)


def _members_of(work: StagingWork, planned: PlannedGroup, found: Body) -> dict[str, Body]:
    """The volume snapshots that the group has by now. Raises ClusterError for one of another claim."""
    uid = found["metadata"]["uid"]
    names = {one.claim.name for one in planned.members}
    members: dict[str, Body] = {}
    for one in work.cluster.list(VOLUME_SNAPSHOT, namespace=planned.group.namespace):
        if all(owner["uid"] != uid for owner in one["metadata"].get("ownerReferences") or ()):
            continue
        claim = one["spec"]["source"].get("persistentVolumeClaimName")
        if claim not in names or claim in members:
            raise ClusterError(
                f"the cluster has cut other claims than planned: {claim or 'one without a name'} is none of"
                f" {', '.join(sorted(names))}",
                key=str(planned.group),
                hint="was the label put on it meanwhile? Try again",
            )
        members[claim] = one
    return members


def _status(body: Body) -> Mapping[str, Any]:
    found: Mapping[str, Any] = body.get("status") or {}
    return found


def _too_late(work: StagingWork, status: Body, missing: set[str], *, seconds: float) -> ClusterError:
    if status.get("readyToUse") is True and missing:
        return ClusterError(
            f"the cluster has cut fewer claims than planned: {', '.join(sorted(missing))} is not among them",
            key=str(work.run.claim),
            hint="was the label taken from it meanwhile? Try again",
        )
    said = (status.get("error") or {}).get("message") or "its driver says nothing"
    return ClusterError(
        f"the volume snapshots of the group were not ready after {seconds:.0f} s: {said}",
        key=str(work.run.claim),
        hint="its events and the driver's log say more; `--staging-timeout` waits longer",
    )
