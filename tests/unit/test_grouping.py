"""Claims that are cut together: what is chosen, what is refused, and what is cut. No cluster."""

from typing import Any

import pytest

from pvback.cluster.claims import ClaimFacts, facts_of
from pvback.cluster.client import Cluster
from pvback.cluster.group_staging import CutGroup, cut_group
from pvback.cluster.grouping import ClaimGroup, PlannedGroup, find_group_kinds, plan_group
from pvback.cluster.kinds import CLAIM, VOLUME_SNAPSHOT, Body, Kind, group_kinds
from pvback.cluster.staging import StagingWork
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, Interrupted
from pvback.model import Claim
from pvback.runtime import Cancel, ManualClock

GROUP = ClaimGroup("ns", (("app", "db"),))
KINDS = group_kinds("v1")
DEFAULT = "groupsnapshot.storage.kubernetes.io/is-default-class"


def member(name: str, *, driver: str | None = "d", phase: str = "Bound") -> ClaimFacts:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    annotations = {"volume.kubernetes.io/storage-provisioner": driver} if driver else {}
    body = CLAIM.body(
        name,
        "ns",
        metadata={"namespace": "ns", "name": name, "uid": name, "annotations": annotations},
        spec=spec,
        status={"phase": phase},
    )
    return facts_of(body, pods=[], storage_class=None, volume=None)


def group_class(name: str, driver: str = "d", **annotations: str) -> Body:
    return {"metadata": {"name": name, "annotations": annotations}, "driver": driver}


def plan(*members: ClaimFacts, **given: Any) -> PlannedGroup:
    return plan_group(GROUP, members, **{"kinds": KINDS, "classes": [group_class("c")], **given})


def test_the_class_is_chosen_as_those_of_volume_snapshots_are() -> None:
    two = [group_class("a"), group_class("b", **{DEFAULT: "true"}), group_class("x", "other")]
    assert plan(member("data")).group_class == "c"
    assert plan(member("data"), classes=two).group_class == "b"
    assert plan(member("data"), classes=two, wanted="a").group_class == "a"
    assert plan(member("data"), classes=None, wanted="a").group_class == "a"


@pytest.mark.parametrize(
    ("members", "given", "words"),
    [
        ([member("data"), member("wal", driver="e")], {}, "several drivers: data of d, wal of e"),
        ([member("data"), member("wal", driver=None)], {}, "claim wal is of no CSI driver"),
        ([member("data"), member("wal", phase="Pending")], {}, "not bound"),
        ([member("data")], {"kinds": None}, "serves no VolumeGroupSnapshot"),
        ([member("data")], {"classes": []}, "driver d has no VolumeGroupSnapshotClass"),
        ([member("data")], {"classes": None}, "may not be read"),
        ([member("data")], {"classes": [group_class("a"), group_class("b")]}, "not one default: a, b"),
        ([member("data")], {"classes": [group_class("x", "e")], "wanted": "x"}, "x is of driver e"),
    ],
)
def test_what_cannot_be_cut_as_a_whole(members: list[ClaimFacts], given: Any, words: str) -> None:
    with pytest.raises(ClusterError) as caught:
        plan(*members, **given)
    assert words in caught.value.what
    assert "ns" in str(caught.value.key)


class Served(Cluster):
    """A cluster that serves these versions of groups."""

    def __init__(self, *versions: str, failure: ClusterError | None = None) -> None:
        self.versions, self.failure = versions, failure

    def read(self, path: str, *, accept: str) -> Body:
        assert path == "/apis/groupsnapshot.storage.k8s.io"
        if self.failure is not None:
            raise self.failure
        return {"versions": [{"version": one} for one in self.versions]}


def test_the_version() -> None:
    for versions, chosen in (
        (("v1beta1", "v1", "v1beta2"), "v1"),
        (("v1beta1", "v1beta2"), "v1beta2"),
        (("v1beta1", "v1alpha1"), "v1beta1"),
    ):
        found = find_group_kinds(Served(*versions))
        assert found is not None
        assert found.group.version == found.group_class.version == chosen
    assert find_group_kinds(Served("v1alpha1")) is None
    for failure in (ClusterObjectMissing("404"), ClusterRefusal("403")):
        assert find_group_kinds(Served(failure=failure)) is None
    with pytest.raises(ClusterError):
        find_group_kinds(Served(failure=ClusterError("does not answer")))


Look = tuple[dict[str, Any], dict[str, dict[str, Any]]]
"""The status of the group, and of its members by the names of their claims."""
CUT = {"creationTime": "2026-03-01T00:00:00Z", "readyToUse": False}
READY = {**CUT, "readyToUse": True}


class Groups(Cluster):
    """Shows one look after the other; the last one stays."""

    def __init__(self, log: list[str], *looks: Look) -> None:
        self.log, self.looks = log, list(looks)

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        self.log.append(f"made {kind.name}")
        return body

    def find(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body | None:
        self.log.append("settling")
        return None

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        self.log.append("look")
        status = self.looks[0][0]
        return kind.body(name, namespace, metadata={"uid": "g"}, status=status)

    def list(self, kind: Kind, **_: Any) -> list[Body]:
        assert kind is VOLUME_SNAPSHOT
        members = self.looks.pop(0)[1] if len(self.looks) > 1 else self.looks[0][1]
        return [
            kind.body("other", "ns", metadata={"ownerReferences": [{"uid": "h"}]}, spec={"source": {}}),
            kind.body("alone", "ns", spec={"source": {"persistentVolumeClaimName": "data"}}),
            *(
                kind.body(
                    f"s-{claim}",
                    "ns",
                    metadata={"ownerReferences": [{"uid": "g"}]},
                    spec={"source": {"persistentVolumeClaimName": claim} if claim else {}},
                    status=status,
                )
                for claim, status in members.items()
            ),
        ]


class Holding:
    """Somebody who holds still."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.is_holding = log, True

    def check(self) -> None:
        pass

    def release(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        if self.is_holding:
            self.log.append("let go")
        self.is_holding = False


class Run:
    id, claim = "r", Claim("ns", "data")

    def check(self) -> None:
        pass

    def metadata(self, role: str) -> dict[str, Any]:
        return {}


def cut(*looks: Look) -> tuple[list[str], Any]:
    """What happened in which order, and what was made or raised."""
    log: list[str] = []
    run: Any = Run()
    work = StagingWork(
        cluster=Groups(log, *looks), run=run, cancel=Cancel(), clock=ManualClock(), hold=Holding(log)
    )
    try:
        return log, cut_group(work, plan(member("data"), member("wal")), seconds=60)
    except (ClusterError, Interrupted) as exc:
        return log, exc


def test_let_go_when_all_are_cut() -> None:
    """By what the group says, or each of its members: one of them alone says nothing of the other."""
    both = {"data": CUT, "wal": CUT}
    log, made = cut(
        ({}, {}), ({}, {"data": CUT}), ({}, both), ({}, both), (READY, dict.fromkeys(both, READY))
    )
    assert isinstance(made, CutGroup), made
    assert log == ["made VolumeGroupSnapshot", "look", "look", "look", "let go", "look", "look"]
    assert sorted(made.volume_snapshots) == ["data", "wal"]
    assert made.volume_snapshots["wal"]["metadata"]["name"] == "s-wal"
    log, _ = cut(({}, {}), (CUT, {}), (READY, dict.fromkeys(both, READY)))
    assert log == ["made VolumeGroupSnapshot", "look", "look", "let go", "look"]


def test_not_used_before_all_can_be() -> None:
    log, made = cut(
        (READY, {"data": READY, "wal": CUT}),
        (CUT, {"data": READY, "wal": READY}),
        (READY, {"data": READY, "wal": READY}),
    )
    assert isinstance(made, CutGroup)
    assert log.count("look") == 3


@pytest.mark.parametrize("other", ["new", ""])
def test_other_claims_than_planned(other: str) -> None:
    log, failed = cut(({}, {}), (READY, {"data": READY, "wal": READY, other: READY}))
    assert "other claims than planned" in str(failed)
    assert log[-2:] == ["let go", "settling"]


def test_fewer_claims_than_planned() -> None:
    log, failed = cut((READY, {"data": READY}))
    assert "fewer claims than planned: wal is not among them" in str(failed)
    assert log[-1] == "settling"


def test_never_ready() -> None:
    log, failed = cut(({"error": {"message": "no space"}}, {}))
    assert "not ready after 60 s: no space" in str(failed)
    assert log[-2:] == ["let go", "settling"]
