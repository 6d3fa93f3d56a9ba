"""Watching a mover until it ends, and saying why when it does not, in the cluster's words.

A pod that cannot be scheduled, pulled, mounted or started is given up after a bounded time; so is one that
was evicted, removed, or whose node is gone. The mover's own verdict is its termination message.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvback import limits
from pvback.cluster.kinds import EVENT, JOB, POD, Body
from pvback.cluster.mover import CONTAINER, MoverJob
from pvback.errors import ClusterError, ClusterObjectMissing, PartlyDone
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["MoverEnd", "MoverWatch", "why_not_running"]

_SURELY_WRONG = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
_TIME_IS_OVER = "DeadlineExceeded"
_LONGER = "`--deadline` gives it longer; a backup goes on from its checkpoint when it is run again"
_MAY_GO_ON = "it may still do its work, unseen: `pvback snapshots` shows whether a backup was stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverEnd:
    """How a mover ended by itself."""

    exit_code: int
    message: Mapping[str, Any] = field(default_factory=dict)
    """Its termination message; empty when it left none."""


class MoverWatch:
    """One mover's Job, from its creation to its end. `on_line` hears its log, from another thread."""

    def __init__(
        self, cluster: "Cluster", job: MoverJob, *, clock: Clock, on_line: Callable[[str], None]
    ) -> None:
        self._cluster, self._job, self._clock, self._on_line = cluster, job, clock, on_line
        self._where = job.claim.namespace
        self._wrong_since: float | None = None
        self._why_going: str | None = None
        self._gone_at = 0.0
        self._reader: threading.Thread | None = None
        self._line_count = 0

    def wait(self, *, check: Callable[[], None], cancel: Cancel, wedged_seconds: float) -> MoverEnd:
        """Until the mover ends. Raises ClusterError with the reason when it cannot start or is lost.

        One that is evicted has its grace: what it ends with then is what counts.
        """
        started = self._clock.monotonic()
        while True:
            check()
            pod = self._find_pod()
            end = self._end_of_job() if pod is None else self._end_of(pod)
            if end is not None:
                if pod is not None:
                    self._finish_log(pod["metadata"]["name"])
                return end
            if pod is not None and pod.get("status", {}).get("phase") == "Running":
                self._follow_log(pod["metadata"]["name"])
                self._wrong_since = None
            else:
                waited = self._clock.monotonic() - started
                self._judge_waiting(pod, waited=waited, wedged_seconds=wedged_seconds)
            self._clock.sleep(limits.CLUSTER_POLL_SECONDS, cancel)

    def _find_pod(self) -> Body | None:
        pods = self._cluster.list(POD, namespace=self._where, labels=self._job.pod_labels)
        return max(pods, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)

    def _end_of(self, pod: Body) -> MoverEnd | None:
        """The end, if the container has one. Raises ClusterError when the cluster ended it."""
        status = pod.get("status", {})
        state: Body = next(
            (one.get("state", {}) for one in status.get("containerStatuses", ()) if one["name"] == CONTAINER),
            {},
        )
        over = state.get("terminated")
        self._note_going(pod)
        if over is not None:
            if over.get("reason") == "OOMKilled":
                raise self._lost(
                    "the mover ran out of memory and was killed", "give it more: `--mover-memory`"
                )
            code = int(over.get("exitCode", 1))
            if self._why_going is not None and code not in (0, PartlyDone.exit_code):
                raise self._gone(self._why_going)
            return MoverEnd(exit_code=code, message=_parse_message(over.get("message") or ""))
        if status.get("phase") == "Failed":
            said = status.get("message") or status.get("reason") or "it does not say why"
            raise self._lost(f"the mover's pod failed: {said}")
        if self._why_going is not None and self._clock.monotonic() >= self._gone_at:
            raise self._gone(f"{self._why_going}, and it does not end: its node may be gone", _MAY_GO_ON)
        return None

    def _note_going(self, pod: Body) -> None:
        """Remember that the pod is being ended, and until when that may take."""
        disruption = _condition(pod, "DisruptionTarget")
        if self._why_going is None and (disruption is not None or "deletionTimestamp" in pod["metadata"]):
            grace = pod["spec"].get("terminationGracePeriodSeconds") or 0
            self._gone_at = self._clock.monotonic() + grace + limits.MOVER_REFUSED_SECONDS
            self._why_going = "the mover's pod was removed"
        if disruption is not None:
            why = disruption.get("message") or disruption.get("reason")
            self._why_going = f"the mover was evicted: {why}"

    def _end_of_job(self) -> MoverEnd | None:
        """The end that the Job knows of while there is no pod: none yet, or no more. Raises ClusterError."""
        try:
            body = self._cluster.get(JOB, self._job.name, namespace=self._where)
        except ClusterObjectMissing as exc:
            raise self._lost("the mover's Job was removed") from exc
        if _condition(body, "Complete") is not None:
            return MoverEnd(exit_code=0)
        if self._why_going is not None:
            raise self._gone(self._why_going)
        failed = _condition(body, "Failed")
        if failed is not None:
            raise self._lost(f"the mover's Job failed: {failed.get('reason')}: {failed.get('message')}")
        return None

    def _gone(self, why: str, hint: str | None = None) -> ClusterError:
        """Why its pod was ended. One whose time is over is removed by its Job, which alone says so."""
        try:
            body = self._cluster.get(JOB, self._job.name, namespace=self._where)
        except ClusterError:
            return self._lost(why, hint)
        # The first of the two comes at once, the other when the pod has ended.
        for kind in ("FailureTarget", "Failed"):
            found = _condition(body, kind) or {}
            if found.get("reason") == _TIME_IS_OVER:
                what = f"the mover did not end in its time: {_TIME_IS_OVER}: {found.get('message')}"
                return self._lost(what, _LONGER)
        return self._lost(why, hint)

    def _judge_waiting(self, pod: Body | None, *, waited: float, wedged_seconds: float) -> None:
        """Raise ClusterError when it is time to give up a pod that does not run, with the best reason."""
        reason, is_sure = self._why_waiting(pod)
        now = self._clock.monotonic()
        if not is_sure:
            self._wrong_since = None
        elif self._wrong_since is None:
            self._wrong_since = now
        is_wrong = self._wrong_since is not None and now - self._wrong_since >= limits.MOVER_REFUSED_SECONDS
        if is_wrong or waited >= wedged_seconds:
            raise self._lost(f"the mover does not start: {reason}")

    def _why_waiting(self, pod: Body | None) -> tuple[str, bool]:
        """Why it does not run, in the cluster's words, and whether waiting surely does not help."""
        if pod is None:
            said = _last_warning(self._cluster, self._where, kind=JOB.name, name=self._job.name)
            return said or "its pod was not made, and nobody says why", said is not None
        return why_not_running(self._cluster, pod)

    def _lost(self, what: str, hint: str | None = None) -> ClusterError:
        return ClusterError(what, key=str(self._job.claim), hint=hint)

    def _follow_log(self, pod: str) -> None:
        if self._reader is not None and self._reader.is_alive():
            return
        self._reader = threading.Thread(target=self._read_log, args=(pod,), name="pvback-log", daemon=True)
        self._reader.start()

    def _read_log(self, pod: str) -> None:
        """What is lost of a log is not lost of the run: its end is told by the termination message."""
        try:
            for line in self._cluster.log_lines(
                pod, namespace=self._where, container=CONTAINER, since_line=self._line_count
            ):
                self._line_count += 1
                self._on_line(line)
        except ClusterError:
            return

    def _finish_log(self, pod: str) -> None:
        """What it said last; all that it said, where it was too quick to be seen running."""
        if self._reader is not None:
            self._reader.join(limits.CLUSTER_CONNECT_SECONDS)
        else:
            self._read_log(pod)


def why_not_running(cluster: "Cluster", pod: Body) -> tuple[str, bool]:
    """Why a pod does not run, in the cluster's words, and whether waiting surely does not help."""
    for one in pod.get("status", {}).get("containerStatuses", ()):
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _SURELY_WRONG:
            return f"{waiting['reason']}: {waiting.get('message', '')}", True
    metadata = pod["metadata"]
    said = _last_warning(cluster, metadata["namespace"], kind=POD.name, name=metadata["name"])
    scheduled = _condition(pod, "PodScheduled", status="False")
    if scheduled is not None:
        return f"{scheduled.get('reason')}: {scheduled.get('message')}", False
    return said or "its container is being created", False


def _last_warning(cluster: "Cluster", namespace: str, *, kind: str, name: str) -> str | None:
    try:
        events = cluster.list(
            EVENT, namespace=namespace, fields=f"involvedObject.kind={kind},involvedObject.name={name}"
        )
    except ClusterError:
        return None
    warnings = [one for one in events if one.get("type") == "Warning"]
    if not warnings:
        return None
    last = max(warnings, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    return f"{last.get('reason')}: {last.get('message')}"


def _condition(body: Body, kind: str, *, status: str = "True") -> Body | None:
    conditions = body.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind and one.get("status") == status), None)


def _parse_message(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
