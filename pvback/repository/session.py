"""The writer's side of commit and prune without locks: one backup, from OPEN to COMMITTED.

Order, each step durable before the next: `gc/state` is read, the register is created OPEN, `gc/state` is read
again, with runs listed beside that; packs before the runs that list them, those and reference sets before the
record, that before the swap to COMMITTED. A new generation is acknowledged only when no run of the
old one is in flight, and no run of the new one is written before the acknowledgement is. Every lost
compare-and-swap means that prune ended this session: `SessionFencedError`, and the caller starts over.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from pvback import datapath, limits
from pvback.datapath import JobControl
from pvback.errors import PvbackError, SessionFencedError, StorageError, StorageUnavailable
from pvback.repository.finishing import fenced
from pvback.repository.gcstate import GcState, IndexView, list_index, list_runs, read_gc_state
from pvback.repository.layout import Area, record_name
from pvback.repository.reading_each import beside
from pvback.repository.records import FinishedTree, RecordDetails, seal_record
from pvback.repository.registers import (
    Register,
    RegisterState,
    StoredRegister,
    create_register,
    swap_register,
)
from pvback.repository.sealed import Named, ScopeObjects
from pvback.repository.timing import View, is_timed
from pvback.runtime import Clock

__all__ = ["WriterSession"]


class WriterSession:
    """One OPEN register and what may be done to it. Safe to use from several threads.

    Args:
        objects: The scope.
        source: The source id, in hex.
        clock: Times retries and polls.
        state: `gc/state` as it was read before; None: it is read now. That it is current is seen afterwards.
    """

    def __init__(
        self, objects: ScopeObjects, source: str, *, clock: Clock, state: GcState | None = None
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._lock = threading.RLock()
        self._is_timed = is_timed(objects)
        begun = _start(objects, source, clock=clock, known=state)
        self._state, self._stored, self._view, self._listed = begun
        self._polled = clock.monotonic()
        self._checkpoints = 0

    @property
    def snapshot(self) -> str:
        """The id of the snapshot that this will be, in hex."""
        return self._stored.register.snapshot

    @property
    def register(self) -> Register:
        """The register as this session wrote it last."""
        with self._lock:
            return self._stored.register

    @property
    def state(self) -> GcState:
        """`gc/state` as this session has acknowledged it."""
        with self._lock:
            return self._state

    def index_view(self) -> IndexView:
        """The runs that this session may dedup against, under the generation that it has acknowledged."""
        with self._lock:
            # What was listed at the beginning is for who asks first.
            listed, self._listed = self._listed, None
            return list_index(self._objects, self._state, is_writer=True, listed=listed)

    def poll(self, control: JobControl) -> None:
        """Once a minute look at `gc/state`, and acknowledge a new generation. Quick in between.

        Raises SessionFencedError when prune has not waited.
        """
        now = self._clock.monotonic()
        if now - self._polled < limits.GENERATION_POLL_SECONDS:
            return
        self._polled = now
        view = View.begin(self._clock)
        state = read_gc_state(self._objects)
        if not state.is_register_valid(self.register.name):
            raise self._fenced()
        if state.n <= self.register.ack or self._acknowledge(state, control):
            # Only such a view is one that a commit may rest on.
            self._view = view

    def _acknowledge(self, state: GcState, control: JobControl) -> bool:
        """Whether the register says that this session has taken note of `state`."""
        view = list_index(self._objects, state, is_writer=True)
        # The job answers when no run is in flight and everything it uses is in trusted copies or named here.
        # From then on it holds runs back until it is told that the register says so.
        answer = control.command(
            "acknowledge", {"gen": state.n, "condemned": sorted(state.condemned), "index": view.as_options()}
        )
        if answer is None:
            # The job has ended: what is left is the commit, which needs no acknowledgement.
            return False
        keep = {str(pack) for pack in answer["keep"]}
        with self._lock:
            # What an earlier generation kept stays named: that prune may still be under way.
            kept = tuple(sorted(keep | set(self._stored.register.keep)))
            acknowledged = replace(self._stored.register, ack=state.n, keep=kept)
            self._swap(acknowledged, before=self._require_close_view)
            self._state = state
        control.command("acknowledged", {"gen": state.n})
        return True

    def checkpoint(
        self, tree: FinishedTree, details: RecordDetails, *, place: tuple[int, str | None]
    ) -> None:
        """Record how far the backup has come, so that another session can go on from there."""
        with self._lock:
            number = self._checkpoints + 1
            named, _ = self._write_record(record_name(self.snapshot, number), tree, details, place)
            self._checkpoints = number
            register = replace(self._stored.register, sequence=place[0], checkpoint=named, runs=tree.runs)
            self._swap(register)

    def commit(
        self, tree: FinishedTree, details: RecordDetails, *, place: tuple[int, str | None]
    ) -> Register:
        """Make the snapshot exist. Its packs, runs and reference sets are durable already.

        Raises SessionFencedError when prune has ended the session; StorageUnavailable leaves open what
        happened.
        """
        with self._lock:
            named, twin = self._write_record(record_name(self.snapshot), tree, details, place)
            self._swap(
                replace(
                    self._stored.register,
                    state=RegisterState.COMMITTED,
                    sequence=place[0],
                    record=named,
                    refs=tree.refs,
                    runs=tree.runs,
                    twin=twin,
                ),
                before=self._require_recent_view,
            )
            self._require_validity()
            return self._stored.register

    def _require_recent_view(self) -> None:
        """Without conditional writes a commit is only as good as the view that it rests on is young."""
        while self._is_timed and self._view.age(self._clock) > limits.TIMED_VIEW_SECONDS:
            view = View.begin(self._clock)
            if read_gc_state(self._objects).n > self._stored.register.ack:
                raise self._fenced()
            self._view = view

    def _require_close_view(self) -> None:
        """Without conditional writes nobody takes note of a generation for which prune may have given up."""
        if self._is_timed and self._view.age(self._clock) > limits.TIMED_ACK_SECONDS:
            raise self._fenced()

    def _require_validity(self) -> None:
        """Nothing is reported as saved before the register is seen to count.

        A create that was doubled on its way can bring a register back, with the very etag that this session
        holds, after prune has fenced and removed it. It is void then, and so is what was committed on it.
        """
        if not read_gc_state(self._objects).is_register_valid(self._stored.register.name):
            raise self._fenced()

    def _fenced(self) -> SessionFencedError:
        key = self._objects.layout.key(self._stored.register.object_name)
        return SessionFencedError("prune has moved on", key=key, hint="run the backup again")

    def _write_record(
        self, name: str, tree: FinishedTree, details: RecordDetails, place: tuple[int, str | None]
    ) -> tuple[Named, bytes]:
        source = self._stored.register.source
        data = seal_record(self._objects, name, source=source, place=place, tree=tree, details=details)
        return self._objects.create_own(name, data=data, clock=self._clock), data

    def _swap(self, new: Register, *, before: Callable[[], None] | None = None) -> None:
        self._stored = swap_register(self._objects, self._stored, new=new, clock=self._clock, before=before)


def _start(
    objects: ScopeObjects, source: str, *, clock: Clock, known: GcState | None
) -> tuple[GcState, StoredRegister, View, Mapping[str, int] | None]:
    """Create a register of the generation that is current before and after; when the latter was read.

    And the runs that were listed beside that. Raises StorageUnavailable when no register could be created,
    StorageError when a prune came between each time.
    """
    is_created = False
    for _ in range(limits.SESSION_START_COUNT_MAX):
        before, known = known or read_gc_state(objects), None
        stored = create_register(
            objects,
            Register(
                generation=before.n,
                snapshot=datapath.random_id(),
                source=source,
                state=RegisterState.OPEN,
                ack=before.n,
                started=clock.now(),
            ),
            clock=clock,
        )
        if stored is None:
            continue
        is_created = True
        view = View.begin(clock)
        # A run that is listed before the state is read counts by that state, or not; one that comes later is
        # missed, which costs dedup.
        after, listed = beside(
            objects.store, first=lambda: read_gc_state(objects), second=lambda: list_runs(objects)
        )
        if after.n == before.n:
            # The later one: packs may have been condemned, or doomed, between the two.
            return after, stored, view, listed
        if not is_timed(objects):
            # Nobody will speak for it: the prune that came between would wait a quarter of an hour for it.
            with contextlib.suppress(PvbackError):
                swap_register(objects, stored, new=fenced(stored.register), clock=clock)
    if not is_created:
        raise StorageUnavailable(
            "no register could be created: the store does not answer, and has none afterwards",
            key=objects.layout.area(Area.SNAPSHOTS),
            hint="run it again",
        )
    raise StorageError(
        "prune moved on each time that a session was begun", key=objects.layout.key("gc/state")
    )
