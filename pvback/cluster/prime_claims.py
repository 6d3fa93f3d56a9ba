"""A prime claim: one of ours that is filled in place of another one, which then gets its volume.

The volume changes hands by one change, which names the uid of the claim that it is for from then on. Before
it the volume is the prime claim's and goes with it; afterwards it is the other's, and goes with that: there
is no moment at which it is nobody's, or two claims'. While it is the prime's it is one that is removed, also
where the class retains volumes, for it holds nothing that is whole; the same change gives that back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvback import limits
from pvback.cluster.kinds import CLAIM, VOLUME, Body
from pvback.cluster.populating import SELECTED_NODE, is_gone
from pvback.cluster.quantity import parse_quantity
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ConflictError
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["PrimeVolume", "is_given", "prime_body", "wait_bound"]

_POLICY = "persistentVolumeReclaimPolicy"
_COPIED = ("accessModes", "resources", "storageClassName", "volumeAttributesClassName", "volumeMode")


def prime_body(claim: Body, name: str, *, metadata: dict[str, Any], node: str | None) -> Body:
    """The prime claim: the same in all that its volume depends on, on the node that the scheduler chose."""
    spec = {field: claim["spec"][field] for field in _COPIED if field in claim["spec"]}
    annotations = {**metadata["annotations"], **({SELECTED_NODE: node} if node else {})}
    namespace = claim["metadata"]["namespace"]
    return CLAIM.body(name, namespace, metadata={**metadata, "annotations": annotations}, spec=spec)


@dataclass(slots=True, kw_only=True)
class PrimeVolume:
    """The volume of a prime claim, once there is one."""

    cluster: "Cluster"
    prime: Body
    name: str | None = None
    policy: str | None = None
    """Its reclaim policy as its class wants it."""

    def spend(self) -> None:
        """See to it that the volume goes with the prime claim. To be called until there is one."""
        if self.policy is not None:
            return
        metadata = self.prime["metadata"]
        found = self.cluster.get(CLAIM, metadata["name"], namespace=metadata["namespace"])
        if (found.get("status") or {}).get("phase") != "Bound":
            return
        self.name = str(found["spec"]["volumeName"])
        volume = self._volume()
        policy = str(volume["spec"].get(_POLICY, "Retain"))
        if policy != "Delete":
            try:
                self._change(volume, {_POLICY: "Delete"})
            except ClusterObjectExists:
                # It has changed since: the next time.
                return
        self.policy = policy

    def give(self, claim: Body) -> None:
        """Let the volume be of a claim that has none, which is bound to it then. Safe to repeat.

        Raises ConflictError when it is another's already, ClusterError when it does not fit.
        """
        where = f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"
        for _ in range(limits.SWAP_COUNT_MAX):
            volume = self._volume()
            holder = (volume["spec"].get("claimRef") or {}).get("uid")
            if holder == claim["metadata"]["uid"]:
                return
            if holder != self.prime["metadata"]["uid"]:
                raise ConflictError(f"volume {self.name} is another claim's", key=where)
            wanted = parse_quantity(claim["spec"]["resources"]["requests"]["storage"])
            if parse_quantity(volume["spec"]["capacity"]["storage"]) < wanted:
                raise ClusterError(f"volume {self.name} is smaller than the claim asks for", key=where)
            try:
                self._change(volume, {"claimRef": _reference(claim), _POLICY: self.policy})
            except ClusterObjectExists:
                continue
            return
        raise ConflictError(f"volume {self.name} is changed again and again", key=where)

    def _volume(self) -> Body:
        assert self.name is not None, "the prime claim is bound"
        return self.cluster.get(VOLUME, self.name)

    def _change(self, volume: Body, spec: Body) -> None:
        """Change what was looked at, and nothing that has changed since."""
        metadata = {field: volume["metadata"][field] for field in ("uid", "resourceVersion")}
        self.cluster.patch(VOLUME, volume["metadata"]["name"], change={"metadata": metadata, "spec": spec})


def is_given(cluster: "Cluster", volume: str, *, uid: str) -> bool:
    """Whether a volume is the claim's of that uid."""
    try:
        found = cluster.get(VOLUME, volume)
    except ClusterObjectMissing:
        return False
    return (found["spec"].get("claimRef") or {}).get("uid") == uid


def wait_bound(cluster: "Cluster", claim: Body, *, volume: str, clock: Clock, cancel: Cancel) -> None:
    """Return when a claim that was given a volume is bound to it. Raises ClusterError, Interrupted."""
    metadata = claim["metadata"]
    where = f"{metadata['namespace']}/{metadata['name']}"
    deadline = clock.monotonic() + limits.CLAIM_GONE_SECONDS
    while True:
        try:
            found: Body | None = cluster.get(CLAIM, metadata["name"], namespace=metadata["namespace"])
        except ClusterObjectMissing:
            found = None
        if found is None or is_gone(found, metadata["uid"]):
            raise ConflictError("the claim was deleted meanwhile", key=where)
        has = found["spec"].get("volumeName")
        if has == volume and (found.get("status") or {}).get("phase") == "Bound":
            return
        if has and has != volume:
            raise ConflictError(f"the claim was bound to volume {has} meanwhile", key=where)
        if clock.monotonic() >= deadline:
            raise ClusterError(f"the claim is not bound to volume {volume}, which it was given", key=where)
        clock.sleep(limits.CLUSTER_POLL_SECONDS, cancel)


def _reference(claim: Body) -> dict[str, str]:
    metadata = claim["metadata"]
    return {
        "apiVersion": CLAIM.api_version,
        "kind": CLAIM.name,
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
