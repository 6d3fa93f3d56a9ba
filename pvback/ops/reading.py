"""Jobs that only read. They need no write access, and prune may run beside them.

When a run or pack that should be there is gone, prune has moved what it held: the view of the index is loaded
anew, and the job begins again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pvback.datapath import Listeners, run_job, stream_job
from pvback.errors import ObjectNotFound
from pvback.repository.gcstate import list_index, read_gc_state
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot, find_snapshot
from pvback.runtime import Cancel

__all__ = ["find_in", "run_reading", "split_snapshot_path", "stream_reading", "tree_options"]

_RELOAD_COUNT_MAX = 3


def split_snapshot_path(text: str) -> tuple[str, str]:
    """(snapshot, path) of `SNAP[:PATH]`; the path is relative to the source, with or without a `/`."""
    snapshot, _, path = text.partition(":")
    return snapshot, path.strip("/")


def find_in(access: RepositoryAccess, text: str, *, source: str | None = None) -> CommittedSnapshot:
    """The snapshot that a user means. Raises as `find_snapshot`, and DamagedError for a roll-back."""
    return find_snapshot(access.catalog().snapshots, text, source=source)


def tree_options(snapshot: CommittedSnapshot) -> dict[str, Any]:
    """`source_id` and `root` of a snapshot. Raises UsageError when its record is closed to this keyring."""
    return {"source_id": snapshot.source, "root": snapshot.require_details().root.as_json()}


def run_reading(
    access: RepositoryAccess, verb: str, *, options: Mapping[str, object], listeners: Listeners | None = None
) -> dict[str, Any]:
    """Run a job that reads, and return its result. Raises as `DataJob.run`."""
    for attempt in range(_RELOAD_COUNT_MAX + 1):
        try:
            return run_job(
                verb,
                access.keyring,
                options=_with_index(access, options),
                store=access.store,
                listeners=listeners,
            )
        except ObjectNotFound:
            if attempt == _RELOAD_COUNT_MAX:
                raise
    raise AssertionError("the last attempt returns or raises")


def stream_reading(
    access: RepositoryAccess, verb: str, *, options: Mapping[str, object], cancel: Cancel | None = None
) -> Iterator[tuple[str, bytes]]:
    """The outputs of a job that reads, as they come. It begins again only while nothing has come."""
    for attempt in range(_RELOAD_COUNT_MAX + 1):
        has_begun = False
        try:
            for output in stream_job(
                verb, access.keyring, options=_with_index(access, options), store=access.store, cancel=cancel
            ):
                has_begun = True
                yield output
        except ObjectNotFound:
            if has_begun or attempt == _RELOAD_COUNT_MAX:
                raise
        else:
            return


def _with_index(access: RepositoryAccess, options: Mapping[str, object]) -> dict[str, object]:
    view = list_index(access.objects, read_gc_state(access.objects))
    return {**access.job_options(view.as_options()), **options}
