"""What there is to do for a claim that names a Restore as its `dataSourceRef`. Pure: looks at objects.

The rules: a claim that is bound is left alone, whoever bound it; one that waits for its first pod is filled
when the scheduler has chosen a node; and what stands in the way is said, for nobody else will say it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pvback.cluster.kinds import RESTORE, Body
from pvback.cluster.restores import parse_wish, state_of
from pvback.errors import UsageError

__all__ = ["SELECTED_NODE", "Plan", "is_gone", "plan_claim", "plan_volume", "restore_of"]

SELECTED_NODE = "volume.kubernetes.io/selected-node"
_BY_HAND = "kubernetes.io/no-provisioner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        action: `nothing`; `wait`: for somebody else; `refuse`: it cannot be done as things are; `fill` the
            claim; `complete`: a killed run has given it its volume; `warn`: it got another one.
        why: In words.
        node: Where the volume has to be; None: anywhere.
        volume: To `complete` with.
    """

    action: Literal["nothing", "wait", "refuse", "fill", "complete", "warn"]
    why: str = ""
    node: str | None = None
    volume: str = ""


def restore_of(claim: Body) -> str | None:
    """The name of the Restore that a claim is to be filled from; None: none, or of another namespace."""
    reference = claim["spec"].get("dataSourceRef") or {}
    if (reference.get("apiGroup"), reference.get("kind")) != (RESTORE.group, RESTORE.name):
        return None
    namespace = reference.get("namespace")
    is_here = namespace is None or namespace == claim["metadata"]["namespace"]
    return str(reference["name"]) if is_here else None


def is_gone(claim: Body, uid: str) -> bool:
    """Whether the claim of that uid is being deleted, or this is another one of its name."""
    return bool(claim["metadata"]["uid"] != uid or "deletionTimestamp" in claim["metadata"])


def plan_claim(claim: Body, *, restore: Body | None, storage_class: Body | None) -> Plan:
    """What is to be done for one claim. Its class is not asked for once it is bound."""
    name = restore_of(claim)
    if name is None or "deletionTimestamp" in claim["metadata"]:
        return Plan(action="nothing")
    if claim["spec"].get("volumeName"):
        return _plan_bound(claim, restore)
    if restore is None or "deletionTimestamp" in restore["metadata"]:
        return Plan(action="refuse", why=f"there is no Restore {name} in the claim's namespace")
    try:
        parse_wish(restore)
    except UsageError as exc:
        return Plan(action="refuse", why=str(exc))
    state = state_of(restore, claim)
    if state is not None and state.volume:
        return Plan(action="complete", volume=state.volume)
    return plan_volume(claim, storage_class)


def _plan_bound(claim: Body, restore: Body | None) -> Plan:
    """Somebody has given it a volume: we, or Kubernetes one that was made by hand and is empty."""
    volume = claim["spec"]["volumeName"]
    state = state_of(restore, claim)
    is_bound = (claim.get("status") or {}).get("phase") == "Bound"
    if restore is None or not is_bound or (state is not None and state.phase in ("Restored", "NotFilled")):
        return Plan(action="nothing")
    if state is not None and state.volume == volume:
        return Plan(action="complete", volume=volume)
    return Plan(
        action="warn", why=f"the claim was bound to volume {volume}, which was not filled from this Restore"
    )


def plan_volume(claim: Body, storage_class: Body | None) -> Plan:
    """Whether a volume for it can be made, and where."""
    spec = claim["spec"]
    name = spec.get("storageClassName")
    if name is None:
        return Plan(action="wait", why="the claim has no storage class, and there is no default one")
    if spec.get("selector"):
        return Plan(action="refuse", why="no volume is made for a claim that selects volumes by labels")
    if not name or (storage_class is not None and storage_class.get("provisioner") == _BY_HAND):
        return Plan(action="refuse", why="volumes of the claim's class are made by hand")
    if storage_class is None:
        return Plan(action="refuse", why=f"storage class {name} is not there, or may not be read")
    node = _node_of(claim)
    if storage_class.get("volumeBindingMode") == "WaitForFirstConsumer" and node is None:
        return Plan(action="wait", why="the claim waits for its first pod, whose node decides")
    return Plan(action="fill", node=node)


def _node_of(claim: Body) -> str | None:
    annotations: Mapping[str, str] = claim["metadata"].get("annotations") or {}
    return annotations.get(SELECTED_NODE)
