"""What is made of the ways in which a mover ends, also where a cluster does not show them on command."""

import json
from typing import Any

import pytest

from pvback import limits
from pvback.cluster.client import Cluster
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import EVENT, JOB, POD, Body, Kind
from pvback.cluster.mover import CONTAINER, MoverJob, MoverSettings
from pvback.cluster.watching import MoverEnd, MoverWatch
from pvback.errors import ClusterError, ClusterObjectMissing
from pvback.model import Claim, Consistency
from pvback.runtime import Cancel, ManualClock

WORD = {"exit_code": 0, "result": {"snapshot": "s"}}
EVICTED = {"type": "DisruptionTarget", "status": "True", "message": "node is drained"}


class Pods(Cluster):
    """Shows the pods of a list, one look after the other, the last one for ever; and one Job."""

    def __init__(self, *pods: Body | None, job: Body | None = None, events: tuple[Body, ...] = ()) -> None:
        self.pods, self.job, self.events = list(pods), job, events

    def list(self, kind: Kind, **_: Any) -> list[Body]:
        if kind is EVENT:
            return list(self.events)
        assert kind is POD
        found = self.pods.pop(0) if len(self.pods) > 1 else self.pods[0]
        return [] if found is None else [found]

    def get(self, kind: Kind, name: str, **_: Any) -> Body:
        assert kind is JOB
        if self.job is None:
            raise ClusterObjectMissing("not found")
        return self.job

    def log_lines(self, pod: str, **_: Any) -> Any:
        return iter(())


def pod(phase: str = "Running", *, state: Body | None = None, **wishes: Any) -> Body:
    status = {
        "phase": phase,
        "containerStatuses": [{"name": CONTAINER, "state": state or {}}],
        "conditions": wishes.pop("conditions", []),
    }
    metadata = {"creationTimestamp": "t", **wishes}
    return POD.body("m", "ns", metadata=metadata, spec={"terminationGracePeriodSeconds": 120}, status=status)


def over(code: int, *, message: str = "", reason: str = "") -> Body:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


def job(condition: str | None = None, **facts: Any) -> Body:
    conditions = [{"type": condition, "status": "True", **facts}] if condition else []
    return JOB.body("j", "ns", status={"conditions": conditions})


def watch(cluster: Pods, clock: ManualClock | None = None) -> MoverEnd:
    settings = MoverSettings(image="i", secret="s")
    mover = MoverJob(
        work="backup",
        claim=Claim("ns", "data"),
        mounted="data",
        is_block=False,
        run="0" * 16,
        exposure=Exposure(method="live", grade=Consistency.COLD),
        spec={},
        settings=settings,
    )
    found = MoverWatch(cluster, mover, clock=clock or ManualClock(), on_line=print)
    return found.wait(check=lambda: None, cancel=Cancel(), wedged_seconds=30)


def test_its_own_verdict() -> None:
    end = watch(
        Pods(pod("Pending"), pod(), pod("Succeeded", state=over(0, message=json.dumps(WORD))), job=job())
    )
    assert (end.exit_code, end.message) == (0, WORD)
    assert watch(Pods(pod("Failed", state=over(30, message="torn {")), job=job())) == MoverEnd(exit_code=30)


def test_out_of_memory() -> None:
    with pytest.raises(ClusterError, match="ran out of memory") as caught:
        watch(Pods(pod("Failed", state=over(137, reason="OOMKilled")), job=job()))
    assert "--mover-memory" in str(caught.value.hint)


def test_evicted_while_it_works() -> None:
    """It has its grace: who ends well in that has done its work, who does not was evicted."""
    going = pod(conditions=[EVICTED], deletionTimestamp="t")
    end = watch(Pods(pod(), going, pod("Succeeded", state=over(0, message=json.dumps(WORD)))))
    assert end.exit_code == 0
    with pytest.raises(ClusterError, match="evicted: node is drained"):
        watch(Pods(pod(), going, pod("Failed", state=over(130, message="{}"), conditions=[EVICTED])))
    with pytest.raises(ClusterError, match="evicted: node is drained"):
        watch(Pods(pod(), going, None, job=job()))
    assert watch(Pods(pod(), going, None, job=job("Complete"))) == MoverEnd(exit_code=0)


def test_a_node_that_is_gone() -> None:
    clock = ManualClock()
    with pytest.raises(ClusterError, match="its node may be gone"):
        watch(Pods(pod(conditions=[EVICTED], deletionTimestamp="t")), clock)
    assert clock.monotonic() >= 120


def test_a_pod_that_was_not_made() -> None:
    warning = {"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota"}
    clock = ManualClock()
    with pytest.raises(ClusterError, match="does not start: FailedCreate: exceeded quota"):
        watch(Pods(None, job=job(), events=(warning,)), clock)
    assert limits.MOVER_REFUSED_SECONDS <= clock.monotonic() < 30
    with pytest.raises(ClusterError, match="nobody says why"):
        watch(Pods(None, job=job()))


def test_a_job_that_is_gone_or_over_its_time() -> None:
    with pytest.raises(ClusterError, match="Job was removed"):
        watch(Pods(pod(), None))
    failed = job("Failed", reason="DeadlineExceeded", message="too long")
    with pytest.raises(ClusterError, match="DeadlineExceeded: too long"):
        watch(Pods(pod(), None, job=failed))


@pytest.mark.parametrize("condition", ["FailureTarget", "Failed"])
@pytest.mark.parametrize("last", [None, pod("Failed", state=over(130, message="{}"), deletionTimestamp="t")])
def test_a_pod_whose_time_is_over(condition: str, last: Body | None) -> None:
    """Its Job removes it, and what removed it is asked of the Job."""
    over_time = job(condition, reason="DeadlineExceeded", message="longer than specified")
    with pytest.raises(ClusterError, match="not end in its time: DeadlineExceeded: longer") as caught:
        watch(Pods(pod(), pod(deletionTimestamp="t"), last, job=over_time))
    assert "--deadline" in str(caught.value.hint)
    failed = job(condition, reason="BackoffLimitExceeded", message="backoff limit")
    with pytest.raises(ClusterError, match="the mover's pod was removed"):
        watch(Pods(pod(), pod(deletionTimestamp="t"), last, job=failed))


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError"])
def test_what_is_surely_wrong_is_not_waited_for(reason: str) -> None:
    waiting = pod("Pending", state={"waiting": {"reason": reason, "message": "why"}})
    clock = ManualClock()
    with pytest.raises(ClusterError, match=f"does not start: {reason}: why"):
        watch(Pods(waiting, job=job()), clock)
    assert clock.monotonic() < 30
