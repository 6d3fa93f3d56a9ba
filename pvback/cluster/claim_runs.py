"""Runs: one at a time on a claim, known by an object that owns everything that the run makes for it.

The object is a ConfigMap whose name comes from the claim's, so that to create it is to have the claim. It
says until when its run lives, and its run says so again while it does. What a dead run has left goes with it:
each object names the ConfigMap as its owner, and is labelled with the run. A run on several claims together
has such an object for each of them: they live and die together.

Guarantee: the ConfigMap outlives the run's pods, so that two movers never work on one claim. A pod whose node
is gone keeps the claim until the pod is removed.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from pvback import limits
from pvback.cluster.grouping import find_group_kinds
from pvback.cluster.hook_debts import owed_words, pay_debts
from pvback.cluster.kinds import CLAIM as CLAIM_KIND
from pvback.cluster.kinds import (
    CONFIG_MAP,
    GROUP_FINALIZER,
    GROUP_KIND,
    JOB,
    POD,
    VOLUME_SNAPSHOT,
    Body,
    Kind,
)
from pvback.cluster.names import CLAIM, LIVES_UNTIL, MANAGED_BY, RUN, labels_of, run_name
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ConflictError
from pvback.model import Claim
from pvback.runtime import Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ClaimRun", "Leftover", "find_leftovers", "remove_leftovers"]

_PODS: tuple[Kind, ...] = (JOB, POD)
_BEFORE: tuple[Kind, ...] = (*_PODS, CLAIM_KIND)
_AFTER: tuple[Kind, ...] = (VOLUME_SNAPSHOT, CONFIG_MAP)
"""What uses goes before what is used; between these are groups of volume snapshots, which are served in one
version or another. The run's own object is the last. Secrets go with it, for it owns them: to list secrets
would be to read them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An object of a run that is over."""

    kind: Kind
    body: Body

    def __str__(self) -> str:
        metadata = self.body["metadata"]
        owed = owed_words(self.body) if self.kind is CONFIG_MAP else ""
        return f"{self.kind.name} {metadata['namespace']}/{metadata['name']}{owed}"


class ClaimRun:
    """A run on a claim, or on several together, from `begin` to `end`."""

    def __init__(self, cluster: "Cluster", claim: Claim, *, run: str, life: "_Life", clock: Clock) -> None:
        self.claim, self.id = claim, run
        self._cluster, self._life, self._clock = cluster, life, clock
        self._body = life.bodies[claim]

    @classmethod
    def begin(
        cls,
        cluster: "Cluster",
        claim: Claim,
        *,
        run: str,
        what: str,
        clock: Clock,
        also: Sequence[Claim] = (),
    ) -> Self:
        """Have the claim, and those others. What a dead run has left is removed first.

        Raises ConflictError while another run has one of them, ClusterError.
        """
        bodies: dict[Claim, Body] = {}
        try:
            for one in (claim, *also):
                bodies[one] = _have(cluster, one, run=run, what=what, clock=clock)
        except BaseException:
            _remove(cluster, [Leftover(kind=CONFIG_MAP, body=body) for body in bodies.values()], clock)
            raise
        return cls(cluster, claim, run=run, life=_Life(cluster, bodies), clock=clock)

    def of(self, claim: Claim) -> Self:
        """The same run as that of another of its claims, for what is made for that one. It is not ended."""
        return type(self)(self._cluster, claim, run=self.id, life=self._life, clock=self._clock)

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference for what the run makes."""
        metadata = self._body["metadata"]
        return {
            "apiVersion": CONFIG_MAP.api_version,
            "kind": CONFIG_MAP.name,
            "name": metadata["name"],
            "uid": metadata["uid"],
        }

    def metadata(self, role: str) -> dict[str, Any]:
        """Labels, owner and the claim's name, for an object that the run makes."""
        return {
            "labels": labels_of(self.id, role),
            "annotations": {CLAIM: str(self.claim)},
            "ownerReferences": [self.owner],
        }

    def check(self) -> None:
        """Raise ClusterError when a claim is no longer ours."""
        if self._life.lost is not None:
            raise self._life.lost

    def end_pods(self) -> list[Body]:
        """Remove the run's pods; what they were like last, when they are gone. Raises ClusterError."""
        found = [one for one in _of_run(self._cluster, self.claim.namespace, self.id) if one.kind in _PODS]
        seen = {one.body["metadata"]["name"]: one.body for one in found if one.kind is POD}
        failed = remove_leftovers(self._cluster, found, clock=self._clock, seen=seen)
        if failed:
            raise ClusterError(failed[0], key=str(self.claim))
        return list(seen.values())

    def record(self, data: Mapping[str, str]) -> None:
        """Write something down for who has to clean up after us. Raises ClusterError."""
        self.check()
        metadata = self._body["metadata"]
        change = {"metadata": {"uid": metadata["uid"]}, "data": dict(data)}
        self._cluster.patch(CONFIG_MAP, metadata["name"], change=change, namespace=metadata["namespace"])

    def end(self) -> list[str]:
        """Remove all that the run has made and its own objects; what could not be removed, in words.

        A mover that still runs is told to end, and is waited for: it has its grace to store a checkpoint.
        """
        try:
            found = _of_run(self._cluster, self.claim.namespace, self.id)
            return remove_leftovers(self._cluster, found, clock=self._clock)
        except ClusterError as exc:
            # `cleanup` finds it. What the run failed with, if it did, is the better thing to say.
            return [f"objects of run {self.id}: {exc.what}"]
        finally:
            self._life.end()


class _Life:
    """Says for a run that it lives, on its object of each claim, from a thread of its own."""

    def __init__(self, cluster: "Cluster", bodies: Mapping[Claim, Body]) -> None:
        self.bodies = bodies
        self.lost: ClusterError | None = None
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._say_so, name="pvback-run", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Say it no more."""
        self._over.set()
        self._thread.join()

    def _say_so(self) -> None:
        while not self._over.wait(limits.RUN_BEAT_SECONDS):
            for claim, body in self.bodies.items():
                try:
                    self._say_of(body)
                except (ClusterObjectExists, ClusterObjectMissing):
                    self.lost = ClusterError("another run has taken this claim over", key=str(claim))
                    return
                except ClusterError:
                    # The next time may do; the object lives for several of them.
                    continue

    def _say_of(self, body: Body) -> None:
        until = _as_text(self._cluster.now() + timedelta(seconds=limits.RUN_LIVES_SECONDS))
        metadata = body["metadata"]
        # With its uid, so that the object of another run, which took ours for dead, is not touched.
        change = {"metadata": {"uid": metadata["uid"], "annotations": {LIVES_UNTIL: until}}}
        self._cluster.patch(CONFIG_MAP, metadata["name"], change=change, namespace=metadata["namespace"])


def _have(cluster: "Cluster", claim: Claim, *, run: str, what: str, clock: Clock) -> Body:
    """The object by which a run has a claim. Raises ConflictError while another run has it, ClusterError."""
    name = run_name(claim)
    for _ in range(limits.SWAP_COUNT_MAX):
        try:
            return cluster.create(CONFIG_MAP, _run_body(name, claim, run, what, cluster.now()))
        except ClusterObjectExists:
            _take_over(cluster, claim, name, clock)
    raise ConflictError("other runs take this claim again and again", key=str(claim))


def _run_body(name: str, claim: Claim, run: str, what: str, now: datetime) -> Body:
    until = _as_text(now + timedelta(seconds=limits.RUN_LIVES_SECONDS))
    return CONFIG_MAP.body(
        name,
        claim.namespace,
        metadata={
            "labels": labels_of(run, "run"),
            "annotations": {CLAIM: str(claim), LIVES_UNTIL: until},
        },
        data={"what": what},
    )


def _take_over(cluster: "Cluster", claim: Claim, name: str, clock: Clock) -> None:
    """Remove what a dead run has left. Raises ConflictError when it lives."""
    try:
        found = cluster.get(CONFIG_MAP, name, namespace=claim.namespace)
    except ClusterObjectMissing:
        return
    labels = found["metadata"].get("labels") or {}
    if MANAGED_BY not in labels or RUN not in labels:
        raise ClusterError(
            f"ConfigMap {name} has the name of pvback's runs on this claim, and is none of them",
            key=str(claim),
            hint="remove it, if nobody needs it",
        )
    left = _of_run(cluster, claim.namespace, labels[RUN])
    # A run on several claims lives while it has any of them.
    bodies = [found, *(one.body for one in left if one.kind is CONFIG_MAP)]
    if any(_is_alive(one, cluster.now()) for one in bodies):
        raise ConflictError(
            f"another run works on this claim: {found.get('data', {}).get('what', '?')}",
            key=str(claim),
            hint="wait for its end; a run that was killed is taken over two minutes later",
        )
    failed = remove_leftovers(cluster, left, clock=clock)
    if failed:
        raise ClusterError(f"what a dead run has left cannot be removed: {failed[0]}", key=str(claim))


def _is_alive(body: Body, now: datetime) -> bool:
    until = (body["metadata"].get("annotations") or {}).get(LIVES_UNTIL, "")
    try:
        return datetime.fromisoformat(until) >= now
    except (ValueError, TypeError):
        return False


def find_leftovers(cluster: "Cluster", *, namespace: str) -> list[Leftover]:
    """Objects of runs that are dead, in the order in which they are removed.

    Who lives is asked last: a run that begins meanwhile has its own object before it has any other.
    """
    found = _with_label(cluster, namespace, f"{MANAGED_BY}=pvback,{RUN}")
    runs = cluster.list(CONFIG_MAP, namespace=namespace, labels=f"{MANAGED_BY}=pvback,{RUN}")
    alive = {one["metadata"]["labels"][RUN] for one in runs if _is_alive(one, cluster.now())}
    return [one for one in found if one.body["metadata"]["labels"][RUN] not in alive]


def remove_leftovers(
    cluster: "Cluster", found: Sequence[Leftover], *, clock: Clock, seen: dict[str, Body] | None = None
) -> list[str]:
    """Remove them in order. What could not be removed, in words; never an object without our labels.

    Pods that are on their way out are put into `seen` by their names, as they were last.

    Post hooks that are owed are run first, for somebody may hold still until then. While one is owed still,
    or a pod of a run is there, the rest of what was found stays, too. Raises ClusterError when that is not to
    be learned.
    """
    failed = [
        why for one in found if one.kind is CONFIG_MAP for why in pay_debts(cluster, one.body, clock=clock)
    ]
    failed += _remove(cluster, [one for one in found if one.kind in _PODS], clock)
    failed += _wait_for_pods(cluster, found, clock, {} if seen is None else seen)
    return failed or _remove(cluster, [one for one in found if one.kind not in _PODS], clock)


def _remove(cluster: "Cluster", found: Iterable[Leftover], clock: Clock) -> list[str]:
    failed = []
    for one in found:
        assert one.body["metadata"]["labels"][MANAGED_BY] == "pvback", "only what is ours is removed"
        try:
            if one.kind.name == GROUP_KIND:
                _let_bind(cluster, one, clock)
            cluster.delete(one.kind, one.body)
        except ClusterError as exc:
            failed.append(f"{one}: {exc.what}")
    return failed


def _let_bind(cluster: "Cluster", group: Leftover, clock: Clock) -> None:
    """Wait, not for long, until the snapshot controller holds on to a group.

    Of one that is deleted before, its content stays, and with it what the driver has cut, for good: nobody
    looks at it again (seen with external-snapshotter 8.7, which is some seconds late when it has much to do).
    """
    metadata = group.body["metadata"]
    deadline = clock.monotonic() + limits.SETTLE_SECONDS
    while clock.monotonic() < deadline:
        found = cluster.find(group.kind, metadata["name"], namespace=metadata["namespace"])
        if found is None or GROUP_FINALIZER in (found["metadata"].get("finalizers") or ()):
            return
        clock.sleep(limits.CLUSTER_POLL_SECONDS)


def _wait_for_pods(
    cluster: "Cluster", found: Iterable[Leftover], clock: Clock, seen: dict[str, Body]
) -> list[str]:
    """Wait until no pod of these runs is there: its grace, and a little. Those that stay, in words.

    What was to be gone by now, as the cluster says, is not given its grace again.
    """
    places = {(one.body["metadata"]["namespace"], one.body["metadata"]["labels"][RUN]) for one in found}
    deadline = clock.monotonic() + limits.MOVER_GRACE_SECONDS + limits.MOVER_REFUSED_SECONDS
    for namespace, run in sorted(places):
        while pods := cluster.list(POD, namespace=namespace, labels=f"{MANAGED_BY}=pvback,{RUN}={run}"):
            seen.update({one["metadata"]["name"]: one for one in pods})
            if clock.monotonic() >= deadline or all(_is_late(one, cluster.now()) for one in pods):
                return [f"{Leftover(kind=POD, body=pods[0])}: it does not end; its node may be gone"]
            clock.sleep(limits.CLUSTER_POLL_SECONDS)
    return []


def _is_late(pod: Body, now: datetime) -> bool:
    """Whether a pod that is being ended should have been gone for a little while."""
    gone_by = pod["metadata"].get("deletionTimestamp")
    if gone_by is None:
        return False
    return datetime.fromisoformat(gone_by) + timedelta(seconds=limits.MOVER_REFUSED_SECONDS) <= now


def _of_run(cluster: "Cluster", namespace: str, run: str) -> list[Leftover]:
    return _with_label(cluster, namespace, f"{MANAGED_BY}=pvback,{RUN}={run}")


def _with_label(cluster: "Cluster", namespace: str, labels: str) -> list[Leftover]:
    found = []
    kinds = find_group_kinds(cluster)
    for kind in (*_BEFORE, *((kinds.group,) if kinds is not None else ()), *_AFTER):
        try:
            bodies = cluster.list(kind, namespace=namespace, labels=labels)
        except ClusterError:
            # A cluster without volume snapshots, or an account that may make none: then we made none.
            if kind in (*_BEFORE, CONFIG_MAP):
                raise
            continue
        bodies = sorted(bodies, key=lambda one: LIVES_UNTIL in (one["metadata"].get("annotations") or {}))
        found += [Leftover(kind=kind, body=one) for one in bodies]
    return found


def _as_text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
