"""Jobs that only read. They need no write access, and prune may run beside them.

When a run or pack that should be there is gone, prune has moved what it held: the view of the index is loaded
anew, and the job begins again. On a store whose lists lag, what the index does not have may just not be
listed yet: it is looked for again for as long as a list may be late.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pvback import limits
from pvback.datapath import DataJob, Listeners, run_job
from pvback.errors import DamagedError, ObjectNotFound, PvbackError, UsageError
from pvback.repository.gcstate import read_index
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot, find_snapshot
from pvback.runtime import Cancel
from pvback.storage import ObjectStore

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = ["find_in", "run_reading", "split_snapshot_path", "stream_reading", "tree_options"]

_RELOAD_COUNT_MAX = 3
_LOOK_COUNT = 4
"""So often is the index loaded anew while lists may be late."""
_ID_DIGITS = 2 * limits.RANDOM_ID_BYTES


def split_snapshot_path(text: str) -> tuple[str, str]:
    """(snapshot, path) of `SNAP[:PATH]`; the path is relative to the source, with or without a `/`."""
    snapshot, _, path = text.partition(":")
    return snapshot, path.strip("/")


def find_in(access: RepositoryAccess, text: str, *, source: str | None = None) -> CommittedSnapshot:
    """The snapshot that a user means. Raises as `find_snapshot`, and DamagedError for a roll-back.

    A snapshot that does not open is not passed over: asked for by its id it raises why, and `latest` raises
    DamagedError, for it may be the one that is meant.
    """
    catalog = access.catalog()
    if text == "latest" and catalog.damaged:
        raise DamagedError(
            "a snapshot does not open, and it may be the latest",
            key=catalog.damaged[0].key,
            hint="`pvback snapshots` lists the others; name one by its id",
        ) from catalog.damaged[0]
    try:
        return find_snapshot(catalog.snapshots, text, source=source)
    except PvbackError as exc:
        if not isinstance(exc, UsageError):
            for problem in catalog.damaged:
                # The id ends the name of a register and of a record.
                if problem.key and problem.key[-_ID_DIGITS:].startswith(text):
                    raise problem from None
        raise


def tree_options(snapshot: CommittedSnapshot) -> dict[str, Any]:
    """`source_id` and `root` of a snapshot. Raises WrongKeyError when this keyring does not open it."""
    return {"source_id": snapshot.source, "root": snapshot.require_details().root.as_json()}


def run_reading(
    access: RepositoryAccess,
    verb: str,
    *,
    options: Mapping[str, object] | Callable[[], Mapping[str, object]],
    listeners: Listeners | None = None,
    tells_losses: bool = False,
) -> dict[str, Any]:
    """Run a job that reads, and return its result. Raises as `DataJob.run`.

    Options that depend on what is stored are made by a function, which is called for each attempt. A job that
    tells what is lost, instead of failing, begins when lists show all that there was before.
    """
    cancel = listeners.cancel if listeners else Cancel()
    lag = access.store.capabilities.list_lag_seconds
    if tells_losses and lag:
        access.clock.sleep(lag, cancel)
    patience = _Patience(access, cancel)
    while True:
        patience.begin()
        made = options() if callable(options) else options
        try:
            return run_job(
                verb,
                access.keyring,
                options=_with_index(access, made),
                store=access.store,
                listeners=listeners,
            )
        except (ObjectNotFound, DamagedError) as exc:
            if not patience.looks_again(exc):
                raise _explain(access, exc) from None


def stream_reading(
    access: RepositoryAccess, verb: str, *, options: Mapping[str, object], cancel: Cancel | None = None
) -> Iterator[tuple[str, bytes]]:
    """The outputs of a job that reads, as they come. It begins again only while nothing has come."""
    patience = _Patience(access, cancel or Cancel())
    while True:
        has_begun = False
        patience.begin()
        try:
            for output in _stream_job(
                verb, access.keyring, options=_with_index(access, options), store=access.store, cancel=cancel
            ):
                has_begun = True
                yield output
        except (ObjectNotFound, DamagedError) as exc:
            if has_begun or not patience.looks_again(exc):
                raise _explain(access, exc) from None
        else:
            return


def _stream_job(
    verb: str,
    keyring: "Keyring",
    *,
    options: Mapping[str, object],
    store: ObjectStore,
    cancel: Cancel | None = None,
) -> Iterator[tuple[str, bytes]]:
    """The outputs of a job, (kind, bytes), as they come; a slow taker slows the job down.

    Closing the iterator early cancels the job. Raises as `DataJob.run`, after the last output.
    """
    outputs: queue.Queue[tuple[str, bytes] | BaseException | None] = queue.Queue(maxsize=8)
    stopped = Cancel()
    job = DataJob(verb, keyring, options=options, store=store)

    def hand_over(kind: str, data: memoryview) -> None:
        while True:
            stopped.check()
            with contextlib.suppress(queue.Full):
                outputs.put((kind, bytes(data)), timeout=limits.PROGRESS_SECONDS)
                return

    def work() -> None:
        end: BaseException | None = None
        try:
            job.run(Listeners(on_output=hand_over, cancel=stopped))
        except BaseException as exc:  # noqa: BLE001 - raised again where the iterator is used
            end = exc
        while not stopped.is_set:
            with contextlib.suppress(queue.Full):
                outputs.put(end, timeout=limits.PROGRESS_SECONDS)
                return

    thread = threading.Thread(target=work, name=f"pvback-{verb}", daemon=True)
    thread.start()
    try:
        yield from _take(outputs, cancel or Cancel())
    finally:
        stopped.set()
        job.cancel()
        thread.join()


def _take(
    outputs: "queue.Queue[tuple[str, bytes] | BaseException | None]", cancel: Cancel
) -> Iterator[tuple[str, bytes]]:
    while True:
        cancel.check()
        try:
            output = outputs.get(timeout=limits.PROGRESS_SECONDS)
        except queue.Empty:
            continue
        if output is None:
            return
        if isinstance(output, BaseException):
            raise output
        yield output


def _is_object(access: RepositoryAccess, exc: ObjectNotFound) -> bool:
    """Whether an object of the store is missing; jobs also say so of a path in a snapshot."""
    return exc.key is not None and exc.key.startswith(access.objects.layout.prefix)


class _Patience:
    """Whether a job that failed is begun again, with the index loaded anew."""

    def __init__(self, access: RepositoryAccess, cancel: Cancel) -> None:
        self._access, self._cancel = access, cancel
        self._reload_count = 0
        self._until: float | None = None
        self._began = 0.0

    def begin(self) -> None:
        """An attempt begins now: before it lists anything."""
        self._began = self._access.clock.monotonic()

    def looks_again(self, exc: ObjectNotFound | DamagedError) -> bool:
        """Returns when it is time for the next attempt. Raises Interrupted."""
        if isinstance(exc, ObjectNotFound) and _is_object(self._access, exc):
            self._reload_count += 1
            return self._reload_count <= _RELOAD_COUNT_MAX
        return exc.key is None and self._waits_for_lists()

    def _waits_for_lists(self) -> bool:
        """For what is in no run. What has a key was read by its name, whatever lists show."""
        clock, lag = self._access.clock, self._access.store.capabilities.list_lag_seconds
        now = clock.monotonic()
        if self._until is None:
            self._until = now + lag
        if not lag or self._began >= self._until:
            return False
        clock.sleep(max(0.0, min(self._until - now, lag / _LOOK_COUNT)), self._cancel)
        return True


def _explain(access: RepositoryAccess, exc: ObjectNotFound | DamagedError) -> PvbackError:
    if isinstance(exc, DamagedError):
        return exc
    if _is_object(access, exc):
        return DamagedError("an object is missing", key=exc.key, hint="`pvback check` says what is affected")
    if exc.key is None:
        # No run lists it.
        return DamagedError(str(exc), hint="`pvback check` says what is affected")
    return PvbackError(
        "there is no such path in the snapshot", key=exc.key, hint="`pvback ls` shows what there is"
    )


def _with_index(access: RepositoryAccess, options: Mapping[str, object]) -> dict[str, object]:
    if "index" in options:
        return {**access.job_options({}), **options}
    return {**access.job_options(read_index(access.objects).as_options()), **options}
