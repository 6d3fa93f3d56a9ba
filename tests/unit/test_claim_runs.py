"""Runs on claims where the moment matters, which a real cluster does not give on command."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pvback import limits
from pvback.cluster.claim_runs import ClaimRun, find_leftovers, remove_leftovers
from pvback.cluster.client import Cluster
from pvback.cluster.kinds import CONFIG_MAP, GROUP_FINALIZER, JOB, POD, Body, Kind, group_kinds
from pvback.cluster.names import LIVES_UNTIL, RUN, labels_of, run_name
from pvback.errors import ClusterError, ClusterObjectExists, ConflictError
from pvback.model import Claim
from pvback.runtime import ManualClock

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Objects(Cluster):
    """Objects of one namespace. What is `late` is there from the second question on."""

    def __init__(self, *bodies: tuple[Kind, Body], clock: ManualClock | None = None) -> None:
        self.bodies = list(bodies)
        self.clock = clock or ManualClock()
        self.late: list[tuple[Kind, Body]] = []
        self.are_pods_stubborn = False
        self._question_count = 0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock.monotonic())

    def list(self, kind: Kind, *, labels: str | None = None, **_: Any) -> list[Body]:
        self._question_count += 1
        if self._question_count == 2:
            self.bodies += self.late
        wanted = dict(one.split("=") for one in (labels or "").split(",") if "=" in one)
        return [
            body
            for of, body in self.bodies
            if of == kind and wanted.items() <= body["metadata"]["labels"].items()
        ]

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        if any(one["metadata"]["name"] == body["metadata"]["name"] for of, one in self.bodies if of == kind):
            raise ClusterObjectExists("there")
        body["metadata"]["uid"] = "u"
        self.bodies.append((kind, body))
        return body

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        return next(one for of, one in self.bodies if of == kind and one["metadata"]["name"] == name)

    def read(self, path: str, *, accept: str) -> Body:
        return {"versions": [{"version": "v1"}]}

    def delete(self, kind: Kind, body: Body) -> None:
        if kind is not POD or not self.are_pods_stubborn:
            self.bodies.remove((kind, body))


def run_object(run: str, until: str) -> tuple[Kind, Body]:
    metadata = {"labels": labels_of(run, "run"), "annotations": {LIVES_UNTIL: until}}
    return CONFIG_MAP, CONFIG_MAP.body(f"run-{run}", "ns", metadata=metadata)


def part(kind: Kind, run: str) -> tuple[Kind, Body]:
    return kind, kind.body(f"{kind.plural}-{run}", "ns", metadata={"labels": labels_of(run, "mover")})


def test_a_run_that_begins_during_a_cleanup_is_left_alone() -> None:
    cluster = Objects(run_object("old", "2026-02-01T00:00:00+00:00"), part(JOB, "old"))
    cluster.late = [run_object("new", "2026-03-02T00:00:00+00:00"), part(JOB, "new")]
    found = find_leftovers(cluster, namespace="ns")
    assert {one.body["metadata"]["labels"][RUN] for one in found} == {"old"}
    assert len(found) == 2


def test_a_run_has_its_claim_until_its_pods_are_gone() -> None:
    cluster = Objects(run_object("old", "2026-02-01T00:00:00+00:00"), part(JOB, "old"), part(POD, "old"))
    cluster.are_pods_stubborn = True
    found = find_leftovers(cluster, namespace="ns")
    (failed,) = remove_leftovers(cluster, found, clock=ManualClock())
    assert "pods-old: it does not end" in failed
    assert [kind for kind, _ in cluster.bodies] == [CONFIG_MAP, POD]
    cluster.are_pods_stubborn = False
    assert remove_leftovers(cluster, found[1:], clock=ManualClock()) == []
    assert cluster.bodies == []


@pytest.mark.parametrize("seconds_left", [None, 60, -3600])
def test_a_pod_that_should_be_gone_is_not_given_its_grace_again(seconds_left: int | None) -> None:
    """Of a node that is gone: until the cluster's own time for it is over, and a little."""
    clock = ManualClock()
    kind, body = part(POD, "old")
    if seconds_left is not None:
        body["metadata"]["deletionTimestamp"] = (NOW + timedelta(seconds=seconds_left)).isoformat()
    cluster = Objects((kind, body), clock=clock)
    cluster.are_pods_stubborn = True
    (failed,) = remove_leftovers(cluster, find_leftovers(cluster, namespace="ns"), clock=clock)
    assert "its node may be gone" in failed
    grace = limits.MOVER_GRACE_SECONDS if seconds_left is None else max(seconds_left, -15)
    assert 0 <= clock.monotonic() - grace - limits.MOVER_REFUSED_SECONDS <= limits.CLUSTER_POLL_SECONDS


def test_a_run_on_several_claims_lives_while_it_has_one_of_them() -> None:
    """Its objects are found by the run, and one of them may not have been heard for longer than another."""
    late, soon = "2026-02-01T00:00:00+00:00", "2026-03-02T00:00:00+00:00"
    kinds = group_kinds("v1")
    objects = []
    for name, until in (("one", late), ("two", soon)):
        metadata = {"labels": labels_of("r", "run"), "annotations": {LIVES_UNTIL: until}}
        objects.append((CONFIG_MAP, CONFIG_MAP.body(run_name(Claim("ns", name)), "ns", metadata=metadata)))
    cluster = Objects(*objects, part(kinds.group, "r"))
    assert find_leftovers(cluster, namespace="ns") == []
    with pytest.raises(ConflictError):
        ClaimRun.begin(cluster, Claim("ns", "one"), run="n", what="test", clock=ManualClock())
    objects[1][1]["metadata"]["annotations"][LIVES_UNTIL] = late
    found = find_leftovers(cluster, namespace="ns")
    assert [one.kind.name for one in found] == ["VolumeGroupSnapshot", "ConfigMap", "ConfigMap"]
    begun = ClaimRun.begin(
        cluster, Claim("ns", "two"), run="n", what="test", clock=ManualClock(), also=[Claim("ns", "three")]
    )
    assert [body["metadata"]["labels"][RUN] for _, body in cluster.bodies] == ["n", "n"]
    assert begun.of(Claim("ns", "three")).owner["name"] == run_name(Claim("ns", "three"))
    assert begun.end() == []
    assert cluster.bodies == []


@pytest.mark.parametrize("labels", [None, {}, {"app": "mine"}])
def test_a_config_map_of_somebody_else(labels: Any) -> None:
    """It has our name, and is left where it is."""
    claim = Claim("ns", "data")
    body = CONFIG_MAP.body(run_name(claim), "ns", metadata={"labels": labels} if labels is not None else {})
    cluster = Objects((CONFIG_MAP, body))
    with pytest.raises(ClusterError, match="is none of them"):
        ClaimRun.begin(cluster, claim, run="1", what="backup", clock=ManualClock())
    assert cluster.bodies == [(CONFIG_MAP, body)]


def test_a_run_that_does_not_get_all_claims_keeps_none() -> None:
    soon = "2026-03-02T00:00:00+00:00"
    metadata = {"labels": labels_of("other", "run"), "annotations": {LIVES_UNTIL: soon}}
    held = CONFIG_MAP.body(run_name(Claim("ns", "two")), "ns", metadata=metadata)
    cluster = Objects((CONFIG_MAP, held))
    claim, also = Claim("ns", "one"), [Claim("ns", "two")]
    with pytest.raises(ConflictError):
        ClaimRun.begin(cluster, claim, run="n", what="test", clock=ManualClock(), also=also)
    assert cluster.bodies == [(CONFIG_MAP, held)]


@pytest.mark.parametrize("bound_at", [0.0, 3.0, None])
def test_a_group_is_deleted_when_the_controller_holds_on_to_it(bound_at: float | None) -> None:
    """Who deletes it before loses what its driver has cut. One that is never held is not waited for long."""
    group = group_kinds("v1").group
    deleted: list[float] = []

    class Bound(Objects):
        def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
            found = super().get(kind, name, namespace=namespace)
            if bound_at is not None and self.clock.monotonic() >= bound_at:
                found["metadata"]["finalizers"] = ["example.com/other", GROUP_FINALIZER]
            return found

        def delete(self, kind: Kind, body: Body) -> None:
            if kind == group:
                deleted.append(self.clock.monotonic() - began)
            super().delete(kind, body)

    cluster = Bound(run_object("old", "2026-02-01T00:00:00+00:00"), part(group, "old"))
    found = find_leftovers(cluster, namespace="ns")
    began = cluster.clock.monotonic()
    assert remove_leftovers(cluster, found, clock=cluster.clock) == []
    assert cluster.bodies == []
    wanted = limits.SETTLE_SECONDS if bound_at is None else bound_at
    assert wanted <= deleted[0] <= wanted + limits.CLUSTER_POLL_SECONDS
