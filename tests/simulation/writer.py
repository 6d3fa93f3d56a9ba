"""A backup: the real session, and a data path as the native one is seen from outside.

The job is a thread of its own and is talked to through `JobControl`, as `ops/backup.py` does. It dedups
against the runs that the session trusts, whoever wrote them; uploads packs, then the runs that list them;
and answers `acknowledge` with what has to be kept, while packs, but no run, may be under way.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvback import datapath
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.gcstate import IndexView
from pvback.repository.layout import ObjectType, generation_name
from pvback.repository.records import (
    FinishedTree,
    RecordDetails,
    Repaired,
    Root,
    SourceIdentity,
    plan_record,
    read_record,
)
from pvback.repository.sealed import Named, ScopeObjects
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import latest_checkpoint, load_catalog
from tests.simulation.ledger import Ledger
from tests.simulation.parts import chunk_id, seal_part
from tests.simulation.work import (
    LIAR,
    Entry,
    is_doubted,
    load_run,
    pack_body,
    pack_key_name,
    pack_type,
    put_references,
    run_body,
)
from tests.simulation.world import Process

__all__ = ["BackupPlan", "Job", "back_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """What to back up, and in which steps."""

    source: str
    texts: tuple[str, ...]
    """The content of the source, a chunk each."""
    blobs_per_pack: int
    packs_per_run: int
    checkpoint_after: int
    """Chunks; 0: no checkpoints."""
    doubles: bool
    """Whether a chunk that is new twice is stored twice in one pack."""
    repaired: Repaired | None = None
    """In place of which snapshot it stands."""
    by: str = ""
    """Who seals it: see `Entry.by`. `LIAR` stores garbage under the ids of its chunks."""


class Job:
    """The data path of one backup. See `JobControl`."""

    def __init__(
        self,
        process: Process,
        objects: ScopeObjects,
        plan: BackupPlan,
        session: WriterSession,
        view: IndexView,
    ) -> None:
        self._process = process
        self._objects = objects
        self._plan = plan
        self._session = session
        self._view = view
        self._index: dict[str, list[str]] = {}
        self.used: dict[str, str] = {}
        """Each id of this snapshot -> the pack that it lies in."""
        self.own: set[str] = set()
        """Packs of this job, those included whose upload is under way or in doubt."""
        self._making: dict[str, list[list[str]]] = {"data": [], "meta": []}
        self._names: dict[str, str] = {}
        self._unlisted: list[Entry] = []
        self._packs_unlisted = 0
        self._generation = session.register.ack
        self._is_gate_open = True
        self._is_run_in_flight = False
        self.runs: list[str] = []
        self.result: FinishedTree | None = None
        self.root = ""
        self.place: tuple[int, str | None] = (1, None)
        self.has_ended = False

    # --- what is asked of it

    def command(self, name: str, options: Mapping[str, object]) -> dict[str, Any] | None:
        """See `JobControl.command`."""
        if self.has_ended:
            return None
        if name == "acknowledged":
            self._open_gate(options)
            return {}
        assert name == "acknowledge", "no other command is sent"
        return self._acknowledge(options)

    def cancel(self) -> None:
        """Nobody asks for it here."""
        raise AssertionError("nobody cancels this job")

    def _acknowledge(self, options: Any) -> dict[str, Any]:
        self._is_gate_open = False
        self.drain()
        runs = tuple((one["name"], one["size"]) for one in options["index"]["runs"])
        condemned = frozenset(options["condemned"])
        view = IndexView(runs, dead=frozenset(options["index"]["dead"]), condemned=condemned)
        index = self.load_index(view)
        keep = set()
        for one, pack in self.used.items():
            if pack in condemned and pack not in self.own:
                others = self.candidates(index.get(one, []), view)
                if others:
                    self.used[one] = others[0]
                else:
                    keep.add(pack)
        keep |= self.own_to_keep(condemned)
        self._view, self._index = view, index
        return {"keep": sorted(keep)}

    def drain(self) -> None:
        """Wait until no run is under way."""
        if self._is_run_in_flight:
            self._process.world.pause(is_ready=lambda: not self._is_run_in_flight or self.has_ended)

    def own_to_keep(self, condemned: frozenset[str]) -> set[str]:
        """Packs of this job that were condemned, whether their upload was answered or not."""
        return self.own & condemned

    def _open_gate(self, options: Any) -> None:
        self._generation = int(options["gen"])
        self._is_gate_open = True

    # --- what it does

    def run(self) -> None:
        """Store everything; the body of the job's thread."""
        try:
            self._index = self.load_index(self._view)
            for number, text in enumerate(self._plan.texts, 1):
                self._store("data", text)
                if self._plan.checkpoint_after and number % self._plan.checkpoint_after == 0:
                    self._checkpoint(self._plan.texts[:number])
            root = self._finish_tree(self._plan.texts)
            refs = self._put_refs()
            self.root = root
            self.result = FinishedTree(refs=refs, runs=tuple(self.runs), counts={"chunks": 1, "pages": 1})
        finally:
            self.has_ended = True

    def load_index(self, view: IndexView) -> dict[str, list[str]]:
        """Packs of each id, but for what a revoked principal sealed. A run that is gone costs only dedup."""
        index: dict[str, list[str]] = {}
        for run, _ in view.runs:
            try:
                entries = load_run(self._objects, run)
            except ObjectNotFound:
                continue
            for one in entries:
                if not is_doubted(one):
                    index.setdefault(one.id, []).append(one.pack)
        return index

    def candidates(self, packs: Sequence[str], view: IndexView) -> list[str]:
        """Those in which one may believe, in an order of the seed's choosing."""
        found = sorted(pack for pack in set(packs) if pack not in view.dead and pack not in view.condemned)
        if len(found) > 1:
            first = self._process.random.below(len(found))
            found = found[first:] + found[:first]
        return found

    def _store(self, kind: str, text: str) -> str:
        one = chunk_id(text)
        if one in self.used:
            if self._plan.doubles and self.used[one] == self._names.get(kind):
                self._making[kind].append([one, text])
            return one
        known = self.candidates(self._index.get(one, []), self._view)
        if known:
            self.used[one] = known[0]
            return one
        if not self._making[kind]:
            self._names[kind] = datapath.random_id()
            self.own.add(self._names[kind])
        self.used[one] = self._names[kind]
        self._making[kind].append([one, text])
        if len(self._making[kind]) >= self._plan.blobs_per_pack:
            self._put_pack(kind)
        return one

    def _put_pack(self, kind: str) -> None:
        blobs, self._making[kind] = self._making[kind], []
        if not blobs:
            return
        pack = self._names.pop(kind)
        name, by = pack_key_name(kind, pack), self._plan.by
        if by == LIAR and kind == "data":
            blobs = [[one, f"no {text}"] for one, text in blobs]
        data = seal_part(self._objects, pack_type(kind), name=name, body=pack_body(kind, blobs, by))
        self._put(name, data)
        self._unlisted += [
            Entry(one, pack, kind, index, len(text), len(data), by) for index, (one, text) in enumerate(blobs)
        ]
        self._packs_unlisted += 1
        if self._packs_unlisted >= self._plan.packs_per_run:
            self._put_run()

    def _put_run(self) -> None:
        if not self._unlisted:
            return
        self.wait_for_gate()
        entries, self._unlisted, self._packs_unlisted = self._unlisted, [], 0
        self._is_run_in_flight = True
        run = generation_name(self._generation, datapath.random_id())
        data = seal_part(self._objects, ObjectType.INDEX_RUN, name=f"index/{run}", body=run_body(entries))
        self._put(f"index/{run}", data)
        self._is_run_in_flight = False
        self.runs.append(run)

    def wait_for_gate(self) -> None:
        """Runs wait while an acknowledgement is on its way to the register."""
        if not self._is_gate_open:
            self._process.world.pause(is_ready=lambda: self._is_gate_open)

    def _put(self, name: str, data: bytes) -> None:
        self._objects.create_own(name, data=data, clock=self._process)

    def _finish_tree(self, texts: Sequence[str]) -> str:
        """The root page, and everything durable and listed."""
        root = self._store("meta", json.dumps([chunk_id(text) for text in texts]))
        for kind in ("data", "meta"):
            self._put_pack(kind)
        self._put_run()
        return root

    def _checkpoint(self, texts: Sequence[str]) -> None:
        self.root = self._finish_tree(texts)
        tree = FinishedTree(refs=(), runs=tuple(self.runs), counts={"chunks": 1, "pages": 1})
        self._session.checkpoint(tree, self.details(is_complete=False), place=self.place)

    def _put_refs(self) -> tuple[Named, ...]:
        """All ids, in parts; the last of one part is also the first of the next."""
        root = chunk_id(json.dumps([chunk_id(text) for text in self._plan.texts]))
        ids = [*dict.fromkeys(chunk_id(text) for text in self._plan.texts), root]
        return put_references(self._objects, self._session.snapshot, ids, clock=self._process)

    def details(self, *, is_complete: bool) -> RecordDetails:
        """As a record has them."""
        now = self._process.now()
        source = self._plan.source
        return RecordDetails(
            snapshot=self._session.snapshot,
            source=SourceIdentity(kind="stream", host="h", string=source, name="n"),
            started=now,
            finished=now,
            root=Root(self.root, 0, 1, sum(map(len, self._plan.texts))),
            is_complete=is_complete,
            repaired=self._plan.repaired,
        )


def back_up(
    process: Process,
    objects: ScopeObjects,
    plan: BackupPlan,
    *,
    ledger: Ledger,
    merge: Callable[[WriterSession], None] | None = None,
) -> str:
    """One attempt, from begin to commit; the snapshot's id. Raises SessionFencedError, StorageError."""
    catalog = load_catalog(objects)
    heads = [
        (one.record.seq, one.record.named.hash)
        for one in (*catalog.snapshots, *catalog.forgotten)
        if one.source == plan.source
    ]
    _look_at_checkpoint(objects, plan, catalog=catalog)
    session = WriterSession(objects, plan.source, clock=process)
    if merge is not None:
        merge(session)
    job = Job(process, objects, plan, session, session.index_view())
    job.place = plan_record(heads)
    task = process.start(f"{process.name}/job", job.run)
    world = process.world
    try:
        while not job.has_ended:
            world.pause(wake=world.now + 60, is_ready=lambda: job.has_ended)
            if not job.has_ended:
                session.poll(job)
    except Exception:
        world.stop(task)
        raise
    process.wait_for(task)
    assert job.result is not None, "a job that ends well has a result"
    ledger.contents[session.snapshot] = plan.texts
    if plan.by == LIAR:
        ledger.lying.add(session.snapshot)
    session.commit(job.result, job.details(is_complete=True), place=job.place)
    if plan.by != LIAR:
        ledger.report_saved(session.snapshot)
    return session.snapshot


def _look_at_checkpoint(objects: ScopeObjects, plan: BackupPlan, *, catalog: Any) -> None:
    """What an earlier session has stored is found by dedup; its record says only where to look."""
    register = latest_checkpoint(catalog, plan.source)
    if register is None or register.checkpoint is None:
        return
    try:
        read_record(objects, register.checkpoint, snapshot=register.snapshot, source=register.source)
    except DamagedError:
        return  # prune has removed it meanwhile
