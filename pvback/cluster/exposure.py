"""How the bytes of a claim are got at: from a volume snapshot, from a clone, or live. Pure planning.

What is asked for is done or refused, never exchanged for something weaker; `auto` takes a volume snapshot
where driver and class allow one, else says why it reads live.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvback.cluster.claims import ClaimFacts, Consumer, require_data
from pvback.cluster.kinds import Body
from pvback.errors import ClusterError, UsageError
from pvback.model import Consistency

__all__ = ["METHODS", "Exposure", "choose_class", "is_never_bound", "plan_exposure", "staged_exposure"]

METHODS = ("auto", "snapshot", "clone", "live")
_KIND = "VolumeSnapshotClass"
_DEFAULT_CLASS = "snapshot.storage.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How a claim will be read.

    Attributes:
        method: `snapshot`, `clone` or `live`.
        grade: What the copy is worth.
        why: Why this and nothing better, where that is worth a remark.
        snapshot_class: Of the volume snapshot.
        node: Where the mover has to run; None: anywhere that suits the volume.
        node_affinity: The volume's own, for what is made of it; None where it has none or may not be read.
        consumer: The pod whose user and groups the mover takes over; None where no pod uses the claim.
    """

    method: str
    grade: Consistency
    why: str = ""
    snapshot_class: str | None = None
    node: str | None = None
    node_affinity: Mapping[str, Any] | None = None
    consumer: Consumer | None = None


def is_never_bound(facts: ClaimFacts) -> bool:
    """Whether the claim waits for its first pod, and so has no data: nothing to back up, and no failure."""
    return facts.phase == "Pending" and facts.is_waiting_for_consumer and not facts.is_deleting


def plan_exposure(
    facts: ClaimFacts, *, method: str, classes: Sequence[Body] | None, wanted: str | None = None
) -> Exposure:
    """How to read the claim.

    Args:
        facts: The claim.
        method: One of `METHODS`.
        classes: Volume snapshot classes; None where the cluster has no such kind, or they may not be read.
        wanted: The one to use; None: the driver's default, or its only one.

    Raises ClusterError where the claim has no data or cannot be read that way, UsageError.
    """
    if method not in METHODS:
        raise UsageError(f"no such method: {method}", hint=f"one of {', '.join(METHODS)}")
    require_data(facts)
    if method in ("auto", "snapshot"):
        chosen, why_not = (wanted, "") if wanted else _choose_class(facts, classes)
        if chosen is not None:
            return staged_exposure(facts, "snapshot", snapshot_class=chosen)
        if method == "snapshot":
            raise ClusterError(
                f"no volume snapshot can be taken: {why_not}",
                key=str(facts.claim),
                hint="install a VolumeSnapshotClass for its driver, or choose `--method clone` or `live`",
            )
        return _live(facts, why=f"no volume snapshot can be taken: {why_not}")
    if method == "clone":
        if facts.driver is None:
            raise ClusterError(
                "the volume's driver is not known to clone",
                key=str(facts.claim),
                hint="only CSI volumes can be cloned; choose `--method live`",
            )
        return staged_exposure(facts, "clone")
    return _live(facts)


def _choose_class(facts: ClaimFacts, classes: Sequence[Body] | None) -> tuple[str | None, str]:
    """The class to use, or why there is none."""
    if classes is None:
        return None, "the cluster has no volume snapshots, or its classes may not be read"
    if facts.driver is None:
        return None, "the volume is of no CSI driver that is known"
    return choose_class(facts.driver, classes, kind=_KIND, default=_DEFAULT_CLASS)


def choose_class(driver: str, classes: Sequence[Body], *, kind: str, default: str) -> tuple[str | None, str]:
    """The driver's class that has the annotation `default`, or its only one; or None and why."""
    fitting = [one for one in classes if one.get("driver") == driver]
    if not fitting:
        return None, f"driver {driver} has no {kind}"
    names = [one["metadata"]["name"] for one in fitting]
    defaults = [
        one["metadata"]["name"]
        for one in fitting
        if (one["metadata"].get("annotations") or {}).get(default) == "true"
    ]
    if len(defaults or names) == 1:
        return (defaults or names)[0], ""
    return None, f"driver {driver} has several classes, and not one default: {', '.join(sorted(names))}"


def _consumer_of(facts: ClaimFacts) -> Consumer | None:
    """The pod to be like: one that writes and runs, if there is one."""
    ranked = sorted(facts.consumers, key=lambda one: (one.is_read_only, not one.is_running, one.pod))
    return ranked[0] if ranked else None


def staged_exposure(facts: ClaimFacts, method: str, *, snapshot_class: str | None = None) -> Exposure:
    """How what is made of the claim is read."""
    affinity = ((facts.volume_body or {}).get("spec", {}).get("nodeAffinity") or {}).get("required")
    return Exposure(
        method=method,
        grade=Consistency.CRASH if facts.writers else Consistency.COLD,
        snapshot_class=snapshot_class,
        node_affinity=affinity,
        consumer=_consumer_of(facts),
    )


def _live(facts: ClaimFacts, *, why: str = "") -> Exposure:
    if facts.is_for_one_pod and facts.consumers:
        raise ClusterError(
            f"the claim is for one pod alone (ReadWriteOncePod), and pod {facts.consumers[0].pod} has it",
            key=str(facts.claim),
            hint="choose `--method snapshot` or `--method clone`, or stop the pod",
        )
    nodes = sorted({one.node for one in facts.consumers if one.node is not None})
    return Exposure(
        method="live",
        grade=Consistency.FUZZY if facts.writers else Consistency.COLD,
        why=why,
        # One node at a time may attach the volume: the mover goes where it is.
        node=nodes[0] if nodes and not facts.is_shared else None,
        consumer=_consumer_of(facts),
    )
