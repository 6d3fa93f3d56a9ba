"""When who holds still for a volume snapshot is let go. No cluster."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pvback.cluster.claims import facts_of
from pvback.cluster.client import Cluster
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import CLAIM, STORAGE_CLASS, VOLUME_SNAPSHOT, Body, Kind
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.cluster.staging import StagingOptions, StagingWork, stage
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, ClusterUnavailable, Interrupted
from pvback.model import Claim, Consistency
from pvback.ops.claim_jobs import staged_job
from pvback.runtime import Cancel, ManualClock

CUT = {"creationTime": "2026-03-01T00:00:00Z", "readyToUse": False}
READY = {**CUT, "readyToUse": True, "restoreSize": "1Gi"}
CLASS_ERRORS: dict[str, type[ClusterError]] = {"secret": ClusterRefusal, "none": ClusterObjectMissing}
FAILING = {"error": {"message": "try again"}}


class Snapshots(Cluster):
    """Answers the questions after one volume snapshot with one status after the other; the last one stays."""

    def __init__(self, log: list[str], *statuses: dict[str, Any]) -> None:
        self.log, self.statuses = log, list(statuses)

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        self.log.append(f"made {kind.name}")
        return body

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        if kind is STORAGE_CLASS:
            # They bind as they are called.
            if name in CLASS_ERRORS:
                raise CLASS_ERRORS[name](name)
            return STORAGE_CLASS.body(name, volumeBindingMode=name)
        assert kind is VOLUME_SNAPSHOT
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status.get("is_gone"):
            self.log.append("nobody answers")
            raise ClusterUnavailable("no answer")
        self.log.append(
            "ready" if status.get("readyToUse") else "cut" if "creationTime" in status else "none"
        )
        return VOLUME_SNAPSHOT.body(name, namespace, status=status)


class Holding:
    """Somebody who holds still, until it does no more."""

    def __init__(self, log: list[str], *, check_count: int = 1000) -> None:
        self.log, self.is_holding, self.check_count = log, True, check_count

    def check(self) -> None:
        self.check_count -= self.is_holding
        if self.is_holding and self.check_count < 0:
            raise ClusterError("it ended by itself")

    def release(self) -> None:
        self.check()
        self.let_go()

    def let_go(self) -> None:
        if self.is_holding:
            self.log.append("let go")
        self.is_holding = False


class Run:
    """A run on a claim that has it."""

    id, claim = "r", Claim("ns", "data")

    def check(self) -> None:
        pass

    def metadata(self, role: str) -> dict[str, Any]:
        return {}


def take(
    *statuses: dict[str, Any],
    check_count: int = 1000,
    cancel: Cancel | None = None,
    method: str = "snapshot",
    storage_class: str | None = None,
) -> tuple[list[str], Any]:
    """What happened in which order, and what was made or raised."""
    log: list[str] = []
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = CLAIM.body("data", "ns", metadata={"uid": "u"}, spec=spec, status={"phase": "Bound"})
    run: Any = Run()
    work = StagingWork(
        cluster=Snapshots(log, *statuses),
        run=run,
        cancel=cancel or Cancel(),
        clock=ManualClock(),
        hold=Holding(log, check_count=check_count),
    )
    facts = facts_of(body, pods=[], storage_class=None, volume=None)
    exposure = Exposure(method=method, grade=Consistency.CRASH, snapshot_class="c")
    options = StagingOptions(seconds=60, storage_class=storage_class)
    try:
        return log, stage(work, facts, exposure=exposure, options=options)
    except (ClusterError, Interrupted) as exc:
        return log, exc


def test_let_go_when_it_is_cut_and_not_when_it_can_be_used() -> None:
    log, staged = take({}, FAILING, CUT, CUT, READY)
    assert log == [
        "made VolumeSnapshot",
        "none",
        "none",
        "cut",
        "let go",
        "cut",
        "ready",
        "made PersistentVolumeClaim",
    ]
    assert staged.taken == datetime(2026, 3, 1, tzinfo=UTC)


def test_ready_at_once() -> None:
    log, _ = take(READY)
    assert log == ["made VolumeSnapshot", "ready", "let go", "made PersistentVolumeClaim"]


@pytest.mark.parametrize("check_count", [0, 1, 2])
def test_lost_before_it_is_cut(check_count: int) -> None:
    """Also when both are seen at the same look: nobody knows which was first."""
    log, failed = take({}, {}, READY, check_count=check_count)
    assert "ended by itself" in str(failed)
    assert "made PersistentVolumeClaim" not in log


def test_lost_after_it_is_cut_is_no_matter() -> None:
    log, staged = take(CUT, CUT, READY, check_count=1)
    assert log[-1] == "made PersistentVolumeClaim", staged


def test_let_go_before_anything_is_waited_for() -> None:
    log, failed = take({})
    assert "not ready after 60 s" in str(failed)
    settling = log[log.index("let go") :]
    assert settling.count("none") > 1, "a volume snapshot that is being made is waited for"
    cancel = Cancel()
    cancel.set()
    log, failed = take({}, cancel=cancel)
    assert isinstance(failed, Interrupted)
    assert log[:3] == ["made VolumeSnapshot", "none", "let go"]


def test_what_ended_it_is_told_and_not_that_nobody_answers() -> None:
    """Also where the API server goes away while a volume snapshot settles that is no longer wanted."""
    cancel = Cancel()
    cancel.set()
    log, failed = take({}, {"is_gone": True}, cancel=cancel)
    assert isinstance(failed, Interrupted), failed
    assert log[-1] == "nobody answers"


@pytest.mark.parametrize("method", ["snapshot", "clone"])
@pytest.mark.parametrize("mode", ["Immediate", "WaitForFirstConsumer", "secret", None])
def test_where_the_mover_of_a_copy_has_to_run(method: str, mode: str | None) -> None:
    """Where the source can be, unless the copy surely has a place by itself, which may be another one."""
    _, staged = take(READY, method=method, storage_class=mode)
    affinity: dict[str, Any] = {"nodeSelectorTerms": [{"matchExpressions": []}]}
    exposure = Exposure(method=method, grade=Consistency.CRASH, node_affinity=affinity)
    job = MoverJob(
        work="backup",
        claim=Claim("ns", "data"),
        mounted="data",
        is_block=False,
        run="r",
        exposure=exposure,
        spec={},
        settings=MoverSettings(image="i", secret="s"),
    )
    told = staged_job(job, staged)
    assert told.mounted == staged.claim != "data"
    assert ("affinity" in told.pod_spec()) == (mode != "Immediate")


def test_a_class_that_is_not_there() -> None:
    """One that is asked for is refused, in place of a claim that is never bound."""
    log, failed = take(READY, storage_class="none")
    assert "no storage class none" in str(failed)
    assert "made PersistentVolumeClaim" not in log
