"""A live read for which others hold still: let go when all is read, and the mover told whether they held.

Guarantees: they held before the mover was made. It is told that they held only when, after it had said that
all is read, everybody still held, for a moment longer, and then undid it at our asking and said so. What is
read after that is told otherwise, also when the mover has to begin anew. Who surely did not hold fails the
backup, and nothing is stored: the mover waits.
"""

from pvback import limits
from pvback.cluster.exec import ExecTarget, ended_well, run_command
from pvback.cluster.hook_runs import HookRun
from pvback.cluster.kinds import POD
from pvback.cluster.mover import CONTAINER, MoverJob
from pvback.errors import ClusterError
from pvback.model import Consistency
from pvback.ops.claim_mover import ClaimWork

__all__ = ["HeldRead"]


class HeldRead:
    """From the beginning of the read to the word for the mover. `hear` may be called from another thread."""

    def __init__(self, work: ClaimWork, hooks: HookRun, *, job: MoverJob) -> None:
        self._work, self._hooks, self._job = work, hooks, job
        self._is_waited_for = job.spec.get("held_grade") is not None
        self._read: str | None = None
        self._told: str | None = None

    def hear(self, snapshot: str) -> None:
        """The mover has read all that this snapshot is of."""
        self._read = snapshot

    def check(self) -> None:
        """Raise ClusterError when somebody does not hold until all is read; Interrupted."""
        self._hooks.check()
        snapshot = self._read
        if not self._is_waited_for or snapshot is None or snapshot == self._told:
            return
        is_held = self._told is None and self._let_go()
        self._tell(snapshot, str(self._job.spec["held_grade"]) if is_held else str(Consistency.FUZZY))
        self._told = snapshot

    def end(self) -> None:
        """The mover has ended. Raises ClusterError when who still held by then did not surely do so."""
        if self._is_waited_for and self._told is None:
            self._work.progress.warn("that all is read was not heard of the mover: it stores a live read")
        self._hooks.release()

    def _let_go(self) -> bool:
        """Whether everybody held until now."""
        self._work.clock.sleep(limits.HOOK_SETTLE_SECONDS, self._work.cancel)
        before = len(self._hooks.failures)
        self._hooks.release()
        return self._hooks.is_quiesced and len(self._hooks.failures) == before

    def _tell(self, snapshot: str, grade: str) -> None:
        """What does not arrive leaves the mover in doubt."""
        why = ClusterError("not tried")
        for count in range(limits.HOOK_TRIES):
            if count:
                self._work.clock.sleep(limits.HOOK_RETRY_SECONDS, self._work.cancel)
            try:
                self._tell_once(snapshot, grade)
            except ClusterError as exc:
                why = exc
            else:
                return
        self._work.progress.warn(f"the mover may not have been told that others held still: {why.what}")

    def _tell_once(self, snapshot: str, grade: str) -> None:
        work, job = self._work, self._job
        namespace = job.claim.namespace
        for pod in work.cluster.list(POD, namespace=namespace, labels=job.pod_labels):
            where = ExecTarget(namespace=namespace, pod=pod["metadata"]["name"], container=CONTAINER)
            end = run_command(
                work.cluster,
                where,
                argv=("pvback", "mover", "word", snapshot, grade),
                seconds=limits.HOOK_SECONDS,
                clock=work.clock,
                cancel=work.cancel,
            )
            ended_well(end, what=str(where))
