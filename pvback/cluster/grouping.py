"""Claims whose volumes are cut at one instant: which they are, by which class, and what forbids it.

Nothing here is weaker than what was asked for: a group that cannot be cut as a whole is not cut at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvback.cluster.claims import ClaimFacts, list_claims, require_data
from pvback.cluster.exposure import choose_class
from pvback.cluster.kinds import Body, GroupKinds, group_kinds
from pvback.cluster.names import RUN
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, UsageError

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ClaimGroup", "PlannedGroup", "find_group_kinds", "list_members", "plan_group"]

_VERSIONS = ("v1", "v1beta2", "v1beta1")
"""That we know, the best first; between them nothing has changed that we use."""
_KIND = "VolumeGroupSnapshotClass"
_DEFAULT_CLASS = "groupsnapshot.storage.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class ClaimGroup:
    """The claims of a namespace that carry all of these labels."""

    namespace: str
    labels: tuple[tuple[str, str], ...]

    @property
    def selector(self) -> str:
        """As the API takes it."""
        return ",".join(f"{name}={value}" for name, value in self.labels)

    def __str__(self) -> str:
        return f"{self.namespace}:{self.selector}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """A group that can be cut.

    Attributes:
        kinds: As the cluster serves them.
        group_class: By which it is cut.
        members: By name.
    """

    group: ClaimGroup
    kinds: GroupKinds
    group_class: str
    members: tuple[ClaimFacts, ...]


def find_group_kinds(cluster: "Cluster") -> GroupKinds | None:
    """In the best version that the cluster serves; None where it serves none. Raises ClusterError."""
    try:
        answer = cluster.read(f"/apis/{group_kinds('').group.group}", accept="application/json")
    except (ClusterObjectMissing, ClusterRefusal):
        return None
    served = {one["version"] for one in answer.get("versions") or ()}
    return next((group_kinds(one) for one in _VERSIONS if one in served), None)


def list_members(cluster: "Cluster", group: ClaimGroup) -> list[ClaimFacts]:
    """By name. Raises UsageError when there are none, ClusterError."""
    found = list_claims(cluster, namespace=group.namespace, labels=group.selector)
    found = [one for one in found if RUN not in (one.body["metadata"].get("labels") or {})]
    if not found:
        raise UsageError(
            f"no claim in namespace {group.namespace} has the label {group.selector}",
            hint="put it on the claims that belong together: `kubectl label pvc`",
        )
    return found


def plan_group(
    group: ClaimGroup,
    members: Sequence[ClaimFacts],
    *,
    kinds: GroupKinds | None,
    classes: Sequence[Body] | None,
    wanted: str | None = None,
) -> PlannedGroup:
    """How the group is cut.

    Args:
        group: What was asked for.
        members: All claims of it.
        kinds: None where the cluster serves none.
        classes: Of groups; None where they may not be read.
        wanted: The one to use; None: the driver's default, or its only one.

    Raises ClusterError where it cannot be cut as a whole.
    """
    assert members, "a group has members"
    if kinds is None:
        raise _refused(
            group,
            "the cluster serves no VolumeGroupSnapshot",
            "the snapshot controller and the driver's snapshotter have to be set up for groups",
        )
    for one in members:
        require_data(one)
    driver = _common_driver(group, members)
    if wanted is not None:
        others = [one.get("driver") for one in classes or () if one["metadata"]["name"] == wanted]
        if others and others != [driver]:
            raise _refused(group, f"class {wanted} is of driver {others[0]}, and the claims are of {driver}")
        chosen: str | None = wanted
    elif classes is None:
        raise _refused(
            group, "classes of groups may not be read", "name one of the driver's with `--group-class`"
        )
    else:
        chosen, why_not = choose_class(driver, classes, kind=_KIND, default=_DEFAULT_CLASS)
        if chosen is None:
            raise _refused(group, why_not, "name one of the driver's with `--group-class`, or have one made")
    assert chosen is not None, "every other way was refused"
    return PlannedGroup(group=group, kinds=kinds, group_class=chosen, members=tuple(members))


def _common_driver(group: ClaimGroup, members: Sequence[ClaimFacts]) -> str:
    drivers = {one.driver: one.claim.name for one in members}
    if None in drivers:
        raise _refused(group, f"claim {drivers[None]} is of no CSI driver that is known")
    if len(drivers) > 1:
        each = ", ".join(f"{one.claim.name} of {one.driver}" for one in members)
        raise _refused(
            group, f"its claims are of several drivers: {each}", "no driver cuts volumes of another's"
        )
    (driver,) = drivers
    assert driver is not None, "refused above"
    return driver


def _refused(group: ClaimGroup, why: str, hint: str | None = None) -> ClusterError:
    return ClusterError(f"the claims cannot be cut together: {why}", key=str(group), hint=hint)
