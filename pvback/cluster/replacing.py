"""A claim's volume exchanged for another, the one before kept until it is let go, or put back.

A claim cannot change its volume, so it is made again under its name. What that takes is written down first,
in a ConfigMap of the claim's namespace, and every step looks at what is there: whoever finds it half done
completes it. Guarantees: while anything of it is under way, both volumes are ones that nobody reclaims; the
volume before is never written to.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pvback import limits
from pvback.cluster.claims import load_claim
from pvback.cluster.kinds import CLAIM as CLAIM_KIND
from pvback.cluster.kinds import CONFIG_MAP, VOLUME, Body
from pvback.cluster.manifests import pruned
from pvback.cluster.names import CLAIM, MANAGED_BY, ROLE, object_name
from pvback.cluster.quantity import parse_quantity
from pvback.errors import (
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefusal,
    ConflictError,
)
from pvback.model import Claim
from pvback.runtime import Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "Replacement",
    "again",
    "begin",
    "commit",
    "complete",
    "find_replacement",
    "forget",
    "is_void",
    "list_replacements",
    "require_free",
    "require_no_pods",
    "require_replaceable",
]

_RETAIN = "Retain"
_POLICY = "persistentVolumeReclaimPolicy"
_LABELS = {MANAGED_BY: "pvback", ROLE: "replacement"}
_HINT = "`pvback pvc commit` lets it go, `pvback pvc undo` puts it back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What was exchanged, as it is written down.

    Attributes:
        manifest: The claim as it is made again.
        current, previous: Names of the volume that the claim shall have, and of the one that it had.
        policies: What each volume's reclaim policy was.
        is_complete: Whether the claim has its volume.
        snapshot: Of which the current volume was restored, or the previous one after an undo.
    """

    claim: Claim
    manifest: Body
    current: str
    previous: str
    policies: Mapping[str, str]
    is_complete: bool
    snapshot: str

    def turned(self, manifest: Body) -> Self:
        """The other way round."""
        return replace(
            self, manifest=manifest, current=self.previous, previous=self.current, is_complete=False
        )

    def as_data(self) -> dict[str, str]:
        """For a ConfigMap."""
        return {
            "current": self.current,
            "previous": self.previous,
            "snapshot": self.snapshot,
            "state": "complete" if self.is_complete else "under way",
            "policies": json.dumps(dict(self.policies), sort_keys=True),
            "claim": json.dumps(self.manifest, sort_keys=True),
        }

    @classmethod
    def parse(cls, body: Body) -> Self:
        """Of a ConfigMap. Raises ClusterError."""
        metadata, data = body["metadata"], body.get("data") or {}
        try:
            namespace, _, name = metadata["annotations"][CLAIM].partition("/")
            return cls(
                claim=Claim(namespace, name),
                manifest=json.loads(data["claim"]),
                current=data["current"],
                previous=data["previous"],
                policies=json.loads(data["policies"]),
                is_complete=data["state"] == "complete",
                snapshot=data["snapshot"],
            )
        except (KeyError, ValueError, TypeError) as exc:
            where = f"ConfigMap {metadata['namespace']}/{metadata['name']}"
            raise ClusterError("it says not what was exchanged", key=where) from exc


def find_replacement(cluster: "Cluster", claim: Claim) -> Replacement | None:
    """What is written down for a claim."""
    try:
        return Replacement.parse(cluster.get(CONFIG_MAP, _journal(claim), namespace=claim.namespace))
    except ClusterObjectMissing:
        return None


def list_replacements(cluster: "Cluster", *, namespace: str) -> list[Replacement]:
    """Of all claims of a namespace."""
    labels = ",".join(f"{name}={value}" for name, value in _LABELS.items())
    found = cluster.list(CONFIG_MAP, namespace=namespace, labels=labels)
    return [Replacement.parse(one) for one in found]


def require_replaceable(cluster: "Cluster", claim: Claim, *, volume: str) -> None:
    """Raise ConflictError where a volume is kept already, ClusterError where volumes may not be changed."""
    if find_replacement(cluster, claim) is not None:
        raise ConflictError("the claim's previous volume is kept", key=str(claim), hint=_HINT)
    try:
        cluster.patch(VOLUME, volume, change={"metadata": {"annotations": {CLAIM: str(claim)}}}, dry_run=True)
    except ClusterRefusal as exc:
        raise ClusterRefusal(
            f"the claim's volume may not be exchanged: {exc.what}",
            key=str(claim),
            hint="that takes the right to patch volumes, which are the cluster's; `--in-place` does not",
        ) from exc


def require_no_pods(claim: Claim, pods: Sequence[str]) -> None:
    """Raise ConflictError for pods that hold the claim, also such that are over."""
    if pods:
        raise ConflictError(
            f"pods hold the claim: {', '.join(pods)}",
            key=str(claim),
            hint="a claim is made again only when no pod names it: delete those that are over, too",
        )


def require_free(cluster: "Cluster", claim: Claim) -> None:
    """Raise ConflictError while any pod holds the claim: then nothing is to be begun."""
    facts = load_claim(cluster, claim)
    require_no_pods(claim, [*(one.pod for one in facts.consumers), *facts.ended])


def begin(cluster: "Cluster", claim: Body, *, volume: str, snapshot: str) -> Replacement:
    """Write down that a claim shall have another volume. Raises ConflictError where one is kept already."""
    metadata, before = claim["metadata"], claim["spec"]["volumeName"]
    require_free(cluster, Claim(metadata["namespace"], metadata["name"]))
    made = Replacement(
        claim=Claim(metadata["namespace"], metadata["name"]),
        manifest=again(claim),
        current=volume,
        previous=before,
        policies={one: cluster.get(VOLUME, one)["spec"].get(_POLICY, _RETAIN) for one in (volume, before)},
        is_complete=False,
        snapshot=snapshot,
    )
    body = CONFIG_MAP.body(
        _journal(made.claim),
        made.claim.namespace,
        metadata={"labels": _LABELS, "annotations": {CLAIM: str(made.claim)}},
        data=made.as_data(),
    )
    try:
        cluster.create(CONFIG_MAP, body)
    except ClusterObjectExists:
        raise ConflictError("the claim's previous volume is kept", key=str(made.claim), hint=_HINT) from None
    return made


def again(claim: Body) -> dict[str, Any]:
    """A claim as it is made again: the same in all that is somebody's wish, its owners too."""
    made = pruned(claim)
    for one in ("dataSource", "dataSourceRef"):
        made["spec"].pop(one, None)
    owners = claim["metadata"].get("ownerReferences")
    if owners:
        made["metadata"]["ownerReferences"] = list(owners)
    return made


def complete(cluster: "Cluster", found: Replacement, *, clock: Clock) -> Replacement:
    """Do what is left to do, until the claim has its volume. Raises ClusterError, ConflictError.

    Raises ClusterObjectMissing, and has changed nothing, where that volume is gone.

    The caller has made sure that no pod uses the claim, and has it as its run.
    """
    claim = found.claim
    _set_policy(cluster, found.current, _RETAIN, claim)
    _write(cluster, found)
    with suppress(ClusterObjectMissing):
        _set_policy(cluster, found.previous, _RETAIN, claim)
    there = _claim(cluster, claim)
    if there is None or there["spec"].get("volumeName") != found.current:
        if there is not None:
            _require_ours(there, found)
            # From here on it cannot be kept from going.
            require_free(cluster, claim)
            _delete(cluster, there, clock)
        volume = cluster.get(VOLUME, found.current)
        _free(cluster, volume, claim, clock)
        _make(cluster, found, volume)
    _wait_bound(cluster, found, clock)
    policy = found.policies.get(found.current, _RETAIN)
    _set_policy(cluster, found.current, policy, None)
    done = replace(found, is_complete=True)
    _write(cluster, done)
    return done


def is_void(cluster: "Cluster", found: Replacement) -> bool:
    """Whether the volume that the claim should get went with the run that restored it, and nothing was done.

    While the claim is not there its previous volume is all that is left of it, and must stay retained.
    """
    there = _claim(cluster, found.claim)
    if found.is_complete or there is None or there["spec"].get("volumeName") != found.previous:
        return False
    try:
        volume = cluster.get(VOLUME, found.current)
    except ClusterObjectMissing:
        return True
    # One that was not marked yet is not retained, and may be about to go with the claim it was restored to.
    return (volume["metadata"].get("annotations") or {}).get(CLAIM) != str(found.claim)


def forget(cluster: "Cluster", found: Replacement) -> None:
    """Let a void exchange be as if it had not been begun: the claim has kept its volume."""
    _set_policy(cluster, found.previous, found.policies.get(found.previous, _RETAIN), None)
    cluster.delete(
        CONFIG_MAP, cluster.get(CONFIG_MAP, _journal(found.claim), namespace=found.claim.namespace)
    )


def commit(cluster: "Cluster", found: Replacement) -> bool:
    """Let the previous volume go. Whether its reclaim policy removes it, or it stays, released."""
    if not found.is_complete:
        raise ConflictError(
            "the claim's volume is being exchanged",
            key=str(found.claim),
            hint="`pvback pvc cleanup` completes that, `pvback pvc undo` takes it back",
        )
    policy = found.policies.get(found.previous, _RETAIN)
    try:
        volume = cluster.get(VOLUME, found.previous)
        if (volume.get("status") or {}).get("phase") == "Bound":
            # Somebody uses it: it is theirs, as it is.
            policy = _RETAIN
        else:
            _set_policy(cluster, found.previous, policy, None)
    except ClusterObjectMissing:
        policy = "Delete"
    _remove(cluster, found)
    return policy == "Delete"


def _set_policy(cluster: "Cluster", volume: str, policy: str, claim: Claim | None) -> None:
    """A reclaim policy, and for whom the volume is kept."""
    mark = {"annotations": {CLAIM: None if claim is None else str(claim)}}
    cluster.patch(VOLUME, volume, change={"spec": {_POLICY: policy}, "metadata": mark})


def _journal(claim: Claim) -> str:
    return object_name("previous", claim.name)


def _write(cluster: "Cluster", found: Replacement) -> None:
    cluster.patch(
        CONFIG_MAP,
        _journal(found.claim),
        change={"data": found.as_data()},
        namespace=found.claim.namespace,
    )


def _remove(cluster: "Cluster", found: Replacement) -> None:
    body = cluster.get(CONFIG_MAP, _journal(found.claim), namespace=found.claim.namespace)
    cluster.delete(CONFIG_MAP, body)


def _claim(cluster: "Cluster", claim: Claim) -> Body | None:
    try:
        return cluster.get(CLAIM_KIND, claim.name, namespace=claim.namespace)
    except ClusterObjectMissing:
        return None


def _require_ours(there: Body, found: Replacement) -> None:
    """Raise ConflictError for a claim that somebody else has made under this name meanwhile."""
    volume = there["spec"].get("volumeName")
    # One of ours that is not bound yet names its volume from the beginning.
    if volume != found.previous:
        raise ConflictError(
            f"another claim of this name was made meanwhile, on {volume or 'no volume yet'}",
            key=str(found.claim),
            hint="stop what makes it, delete it if nothing is in it, then `pvback pvc cleanup`",
        )


def _delete(cluster: "Cluster", claim: Body, clock: Clock) -> None:
    """Delete a claim, whose volume stays, and wait until it is gone."""
    metadata = claim["metadata"]
    name = Claim(metadata["namespace"], metadata["name"])
    cluster.delete(CLAIM_KIND, claim)
    deadline = clock.monotonic() + limits.CLAIM_GONE_SECONDS
    while (there := _claim(cluster, name)) is not None and there["metadata"]["uid"] == metadata["uid"]:
        if clock.monotonic() >= deadline:
            raise ClusterError("the claim does not go", key=str(name), hint="is there a pod that has it?")
        clock.sleep(limits.CLUSTER_POLL_SECONDS)


def _free(cluster: "Cluster", volume: Body, claim: Claim, clock: Clock) -> None:
    """Bind the volume to the claim's name, whatever it was bound to: a claim of ours, or this one before."""
    reference = volume["spec"].get("claimRef") or {}
    holder = Claim(reference.get("namespace", ""), reference.get("name", ""))
    there = _claim(cluster, holder) if holder.name else None
    if there is not None and there["metadata"]["uid"] == reference.get("uid"):
        if (there["metadata"].get("labels") or {}).get(MANAGED_BY) != "pvback":
            raise ConflictError(f"the volume is of another claim, {holder}", key=volume["metadata"]["name"])
        _delete(cluster, there, clock)
    wanted = {
        "apiVersion": CLAIM_KIND.api_version,
        "kind": CLAIM_KIND.name,
        "namespace": claim.namespace,
        "name": claim.name,
        "uid": None,
        "resourceVersion": None,
    }
    cluster.patch(VOLUME, volume["metadata"]["name"], change={"spec": {"claimRef": wanted}})


def _make(cluster: "Cluster", found: Replacement, volume: Body) -> None:
    """Make the claim again. It asks for no more than the volume is, or it would not be bound."""
    spec, given = dict(found.manifest["spec"]), volume["spec"]
    wanted = parse_quantity(spec["resources"]["requests"]["storage"])
    if wanted > parse_quantity(given["capacity"]["storage"]):
        spec["resources"] = {"requests": {"storage": given["capacity"]["storage"]}}
    if not set(spec["accessModes"]) <= set(given["accessModes"]):
        spec["accessModes"] = given["accessModes"]
    spec["storageClassName"] = given.get("storageClassName", "")
    spec["volumeName"] = found.current
    cluster.create(CLAIM_KIND, {**found.manifest, "spec": spec})


def _wait_bound(cluster: "Cluster", found: Replacement, clock: Clock) -> None:
    deadline = clock.monotonic() + limits.CLAIM_GONE_SECONDS
    while True:
        body = cluster.get(CLAIM_KIND, found.claim.name, namespace=found.claim.namespace)
        if (body.get("status") or {}).get("phase") == "Bound":
            return
        if clock.monotonic() >= deadline:
            raise ClusterError(f"the claim is not bound to volume {found.current}", key=str(found.claim))
        clock.sleep(limits.CLUSTER_POLL_SECONDS)
