"""Saying in the cluster what becomes of a claim: in the status of its Restore, and as its event."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pvback import datapath, limits
from pvback.cluster.kinds import CLAIM, EVENT, RESTORE, RESTORE_STATUS, Body
from pvback.cluster.restores import ClaimState, state_of, with_snapshot, with_state
from pvback.errors import ClusterObjectExists, ClusterObjectMissing, ConflictError

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["pin_snapshot", "tell"]

_WARNINGS = ("Failed", "NotFilled")


def pin_snapshot(cluster: "Cluster", restore: Body, *, snapshot: str, source: str, taken: str) -> str:
    """The id of the snapshot that all claims of a Restore get: this one, unless one is pinned already.

    Raises ConflictError when the Restore is gone, ClusterError.
    """
    facts = {"snapshot": snapshot, "source": source, "taken": taken}
    now = cluster.now().isoformat(timespec="seconds")

    def plan(status: Body) -> Body:
        return status if status.get("snapshot") else with_snapshot(status, facts, now=now)

    found = _change_status(cluster, restore, plan)
    if found is None:
        raise ConflictError("the Restore was deleted meanwhile", key=_where(restore))
    return str(found["status"]["snapshot"])


def tell(cluster: "Cluster", claim: Body, *, restore: Body | None, state: ClaimState | None) -> None:
    """Say how far a claim is, where that is news; None: it is not there any more. Raises ClusterError.

    The volume that it was to be given stays said, until there is another one: it may be the claim's by now.
    """
    metadata = claim["metadata"]
    known: ClaimState | None = None
    if restore is not None:
        now = cluster.now().isoformat(timespec="seconds")

        def plan(status: Body) -> Body:
            nonlocal known, state
            known = state_of({"status": status}, claim)
            if known is not None and state is not None and not state.volume:
                state = replace(state, volume=known.volume)
            return status if known == state else with_state(status, metadata["name"], state=state, now=now)

        _change_status(cluster, restore, plan)
    if state is not None and (known is None or (known.phase, known.message) != (state.phase, state.message)):
        cluster.create(EVENT, _event(claim, state, cluster.now().isoformat(timespec="seconds")))


def _change_status(cluster: "Cluster", restore: Body, plan: Callable[[Body], Body]) -> Body | None:
    """The Restore with what `plan` made of its status; None: it is gone."""
    metadata = restore["metadata"]
    for _ in range(limits.SWAP_COUNT_MAX):
        try:
            found = cluster.get(RESTORE, metadata["name"], namespace=metadata["namespace"])
        except ClusterObjectMissing:
            return None
        if found["metadata"]["uid"] != metadata["uid"]:
            return None
        before = found.get("status") or {}
        after = plan(before)
        if after == before:
            return found
        version = {field: found["metadata"][field] for field in ("uid", "resourceVersion")}
        change = {"metadata": version, "status": after}
        try:
            return cluster.patch(
                RESTORE_STATUS, metadata["name"], change=change, namespace=metadata["namespace"]
            )
        except ClusterObjectExists:
            continue
        except ClusterObjectMissing:
            return None
    raise ConflictError("its status is changed again and again", key=_where(restore))


def _where(restore: Body) -> str:
    return f"Restore {restore['metadata']['namespace']}/{restore['metadata']['name']}"


def _event(claim: Body, state: ClaimState, now: str) -> Body:
    metadata = claim["metadata"]
    about: dict[str, Any] = {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.name,
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return EVENT.body(
        f"pvback-{datapath.random_id()[:16]}",
        metadata["namespace"],
        involvedObject=about,
        type="Warning" if state.phase in _WARNINGS else "Normal",
        reason=f"Pvback{state.phase}",
        message=_shortened(state.message or f"volume {state.volume}"),
        source={"component": "pvback"},
        firstTimestamp=now,
        lastTimestamp=now,
        count=1,
    )


def _shortened(text: str) -> str:
    """What of it fits into an event, in whole characters."""
    return text.encode()[: limits.EVENT_BYTES_MAX].decode("utf-8", "ignore")
