"""Jobs that write a snapshot, and the session that each is a part of: checkpoints, prune's generations, and
an end that is asked for.

Guarantees: a checkpoint is in the register before the job goes on with the next; one that is asked to stop
checkpoints first, for `limits.STOP_SECONDS_MAX` at most.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pvback import limits
from pvback.datapath import DataJob, JobControl, Listeners
from pvback.errors import DamagedError, Interrupted
from pvback.ops.index_work import NativeIndexWork
from pvback.ops.rows import Problem, parse_problem
from pvback.repository.gcstate import IndexView
from pvback.repository.merging import merge_runs
from pvback.repository.records import FinishedTree, RecordDetails
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.runtime import Cancel, Clock, Counters, Progress

__all__ = ["SnapshotWriting", "view_with_runs_merged"]

_PROBLEM_COUNT_MAX = 1000


def view_with_runs_merged(
    access: RepositoryAccess, session: WriterSession, *, progress: Progress, cancel: Cancel
) -> IndexView:
    """The runs that a session may dedup against, their number bounded.

    Who may not remove objects leaves merging to prune. Raises as `merge_runs`, but for damage.
    """
    view = session.index_view()
    if access.keyring.role != "owner":
        return view
    work = NativeIndexWork(access, cancel)
    try:
        merged = merge_runs(access.objects, work, session=session, view=view, clock=access.clock)
    except DamagedError as exc:
        progress.warn(f"index runs were not merged: {exc}")
        return view
    return session.index_view() if merged else view


class SnapshotWriting:
    """What happens around a job while it writes.

    Args:
        session: The session; None for a dry run, which has nothing to keep alive.
        describe: Makes the record of a checkpoint from what the job says of it.
        place: Of the record in its source's chain, from `plan_record`.
        clock: Times checkpoints.
        progress: Hears counters and problems.
        cancel: The user's wish to stop.
    """

    def __init__(
        self,
        session: WriterSession | None,
        *,
        describe: Callable[[Mapping[str, Any]], RecordDetails],
        place: tuple[int, str | None],
        clock: Clock,
        progress: Progress,
        cancel: Cancel,
    ) -> None:
        self._session, self._describe, self._place = session, describe, place
        self._clock, self._progress, self._cancel = clock, progress, cancel
        self._last_checkpoint = clock.monotonic()
        self._stop_deadline: float | None = None
        self._checkpoint_count = 0
        self._checkpoints_before_stop = 0
        self._guess_bytes = 0
        self._problems: list[Problem] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What went wrong with single files: the first thousand."""
        return tuple(self._problems)

    def run(self, job: DataJob, *, what: str, guess_bytes: int = 0) -> dict[str, Any]:
        """Run the job to its end. Raises as `DataJob.run`.

        `what` is what people call it, and `guess_bytes` a guess of the source's size.
        """
        self._guess_bytes = guess_bytes
        listeners = Listeners(
            on_output=self._on_output,
            on_counters=self._on_counters,
            on_tick=self._on_tick,
            on_cancel=self._on_cancel,
            cancel=self._cancel,
        )
        try:
            return job.run(listeners)
        except Interrupted as exc:
            if self._checkpoint_count and exc.hint is None:
                exc.hint = f"run the same {what} again: it goes on from the last checkpoint"
            raise

    def _on_output(self, kind: str, data: memoryview) -> None:
        if kind == "problem":
            problem = parse_problem(data)
            if not problem.is_note and len(self._problems) < _PROBLEM_COUNT_MAX:
                self._problems.append(problem)
            self._progress.warn(str(problem))
        elif kind == "checkpoint" and self._session is not None:
            raw = json.loads(bytes(data))
            self._session.checkpoint(FinishedTree.from_json(raw), self._describe(raw), place=self._place)
            self._checkpoint_count += 1

    def _on_counters(self, counters: Counters) -> None:
        """The source's size is known at its end; until then the guess is the best there is."""
        if counters.total_bytes is None and self._guess_bytes > counters.done_bytes:
            counters = replace(counters, total_bytes=self._guess_bytes)
        self._progress.update(counters)

    def _on_tick(self, control: JobControl) -> None:
        if self._session is None:
            return
        self._session.poll(control)
        now = self._clock.monotonic()
        if now - self._last_checkpoint >= limits.CHECKPOINT_SECONDS and self._stop_deadline is None:
            self._last_checkpoint = now
            control.command("checkpoint", {})

    def _on_cancel(self, control: JobControl) -> None:
        """Ask for one last checkpoint, and stop when it is recorded or takes too long."""
        if self._session is None:
            control.cancel()
        elif self._stop_deadline is None:
            self._stop_deadline = self._clock.monotonic() + limits.STOP_SECONDS_MAX
            self._checkpoints_before_stop = self._checkpoint_count
            control.command("checkpoint", {})
        elif (
            self._checkpoint_count > self._checkpoints_before_stop
            or self._clock.monotonic() > self._stop_deadline
        ):
            control.cancel()
