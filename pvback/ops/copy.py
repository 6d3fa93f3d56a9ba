"""Copying snapshots from one repository into another, under the keys of the other.

A copy is a snapshot of the same source, with the same times, tags and grade, and with an `origin` in its
record; by that a second copy knows that there is nothing to do, and a copy of a later snapshot what it may
take over from the one before. Guarantees are those of a backup: nothing is visible before the commit, prune
may run on both sides, an interrupted copy goes on from its last checkpoint. Files of which anything cannot be
read are named, and marked as unreadable in the copy; snapshots that cannot be copied are named, and the
others are copied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pvback import datapath, limits
from pvback.datapath import DataJob
from pvback.errors import (
    DamagedError,
    ObjectNotFound,
    PvbackError,
    SessionFencedError,
    UnsupportedFormatError,
)
from pvback.model import Stats
from pvback.ops.backup import stats_from_json
from pvback.ops.copy_plan import CopyOptions, CopyPair, CopyWork
from pvback.ops.rows import Problem
from pvback.ops.writing import SnapshotWriting, view_with_runs_merged
from pvback.repository.gcstate import IndexView, read_index
from pvback.repository.records import FinishedTree, Origin, RecordDetails, Root, plan_record, read_record
from pvback.repository.registers import RegisterState
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import CommittedSnapshot
from pvback.retrying import ListedObject, WholeObject
from pvback.runtime import Cancel, NoProgress, Progress

__all__ = ["CopiedSnapshot", "CopyResult", "copy_snapshots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedSnapshot:
    """One snapshot that was copied."""

    origin: str
    """Its id in the source."""
    snapshot: str
    """The id of the copy."""
    source: str
    """The source string."""
    base: str | None
    """The copy that unchanged files were taken over from."""
    resumed: str | None
    """The unfinished session whose checkpoint was gone on from."""
    stats: Stats
    error_count: int
    """Files that could not be read in the source now, each of them a problem."""
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """What was done."""

    copied: Sequence[CopiedSnapshot]
    present: Mapping[str, str]
    failures: Sequence[PvbackError]
    """Why snapshots were not copied, one for each; `key` says what is wrong."""


def copy_snapshots(
    source: RepositoryAccess,
    target: RepositoryAccess,
    *,
    options: CopyOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> CopyResult:
    """Copy snapshots from `source` into `target`.

    What is wrong with one snapshot is in `failures`. Raises as `plan_copy`, and Interrupted after the last
    checkpoint when `cancel` was set, StorageError, ConflictError when prune ends each session,
    RepositoryNotFound when one of the two is removed meanwhile.
    """
    used, used_progress = options or CopyOptions(), progress or NoProgress()
    planned = CopyWork(source, target, used)
    copied: list[CopiedSnapshot] = []
    failures = list(planned.plan.failures)
    for snapshot in planned.plan.missing:
        one = _SnapshotCopy(planned, snapshot, progress=used_progress, cancel=cancel or Cancel())
        try:
            with source.while_there(), target.while_there():
                copied.append(one.go())
        except (DamagedError, UnsupportedFormatError) as exc:
            what = f"snapshot {snapshot.id[: limits.SHORT_ID_DIGITS]} was not copied: {exc.what}"
            failures.append(DamagedError(what, key=exc.key, hint=exc.hint))
            used_progress.warn(str(failures[-1]))
    return CopyResult(copied=copied, present=planned.plan.present, failures=failures)


class _SnapshotCopy:
    """The copy of one snapshot."""

    def __init__(
        self, planned: CopyWork, snapshot: CommittedSnapshot, *, progress: Progress, cancel: Cancel
    ) -> None:
        self._planned, self._snapshot = planned, snapshot
        self._source, self._target = planned.source, planned.target
        self._progress, self._cancel = progress, cancel
        self._clock = planned.target.clock
        self._began = self._clock.monotonic()
        self._details = snapshot.require_details()
        string = self._details.source.string
        self._source_id = self._target.keyring.source_id(self._target.objects.scope, string)
        self._base = planned.choose_base(self._source_id, snapshot)
        self._place = plan_record(planned.heads.get(self._source_id, []))
        self._loses_missing = False

    def go(self) -> CopiedSnapshot:
        """All attempts: prune may end a session in the target, or move what the source's index named."""
        view = self._source_view()
        for attempt in range(limits.SESSION_RETRY_COUNT_MAX + 1):
            is_last = attempt == limits.SESSION_RETRY_COUNT_MAX
            try:
                return self._attempt(view)
            except SessionFencedError:
                if is_last:
                    raise
                self._progress.warn("prune has ended this session; starting over with what is stored")
            except ObjectNotFound as exc:
                if exc.key is None or not exc.key.startswith(self._source.objects.layout.prefix):
                    raise
                before, view = view, self._source_view()
                if is_last or (self._loses_missing and view == before):
                    hint = "`pvback check` of the source says what is affected"
                    raise DamagedError("an object is missing", key=exc.key, hint=hint) from None
                # Where prune has moved nothing the object is lost, and with it the files that need it.
                self._loses_missing = view == before
        raise AssertionError("the last attempt returns or raises")

    def _source_view(self) -> IndexView:
        return read_index(self._source.objects).readable()

    def _attempt(self, view: IndexView) -> CopiedSnapshot:
        resumed, resume = self._find_checkpoint()
        session = WriterSession(self._target.objects, self._source_id, clock=self._clock)
        writing = SnapshotWriting(
            session,
            describe=lambda raw: self._describe(session.snapshot, raw, is_complete=False),
            place=self._place,
            clock=self._clock,
            progress=self._progress,
            cancel=self._cancel,
        )
        job = DataJob(
            "copy",
            self._target.keyring,
            options=self._job_options(session, view, resume),
            store=_TwoStores(self._target, self._source),
            source=self._source.keyring,
            patience=self._target.patience,
        )
        result = writing.run(job, what="copy", guess_bytes=self._details.root.bytes)
        details = self._describe(session.snapshot, result, is_complete=True)
        register = session.commit(FinishedTree.from_json(result), details, place=self._place)
        assert register.record is not None, "a committed register names its record"
        self._planned.heads.setdefault(self._source_id, []).append((self._place[0], register.record.hash))
        pair = CopyPair(self._snapshot.id, session.snapshot, details.root, self._place[0])
        self._planned.add_pair(self._source_id, pair)
        return CopiedSnapshot(
            origin=self._snapshot.id,
            snapshot=session.snapshot,
            source=self._details.source.string,
            base=self._base.copy if self._base else None,
            resumed=resumed,
            stats=self._stats(result),
            error_count=int(result["stats"].get("errors", 0)),
            problems=writing.problems,
        )

    def _job_options(self, session: WriterSession, view: IndexView, resume: Root | None) -> dict[str, object]:
        used = self._planned.options
        target_view = view_with_runs_merged(
            self._target, session, progress=self._progress, cancel=self._cancel
        )
        common = self._target.job_options(target_view.as_options())
        gets = max(int(str(one.job_options({})["gets"])) for one in (self._source, self._target))
        base = None
        if self._base is not None:
            original = self._planned.originals[self._base.origin].require_details()
            base = {"from": original.root.as_json(), "copy": self._base.root.as_json()}
        return {
            **common,
            "memory_bytes": int(str(common["memory_bytes"])) - limits.OTHER_STORE_BYTES,
            "gets": gets,
            "puts": limits.PUTS_IN_FLIGHT,
            "source_id": self._source_id,
            "snapshot": session.snapshot,
            "gen": session.register.ack,
            "pack_bytes": used.pack_bytes or target_view.pack_bytes,
            "level": used.level,
            "base": base,
            "resume": resume.as_json() if resume else None,
            "from": {
                "scope": self._source.objects.scope,
                "source_id": self._snapshot.source,
                "root": self._details.root.as_json(),
                "index": view.as_options(),
                "loses_missing": self._loses_missing,
            },
        }

    def _find_checkpoint(self) -> tuple[str | None, Root | None]:
        """The newest checkpoint of an unfinished copy of this very snapshot: its session, its tree."""
        catalog = self._target.catalog()
        unfinished = [
            (mtime, register.snapshot, register)
            for register, mtime in catalog.registers
            if register.source == self._source_id
            and register.checkpoint is not None
            and register.state in (RegisterState.OPEN, RegisterState.FENCED)
        ]
        for _, _, register in sorted(unfinished, key=lambda one: one[:2], reverse=True):
            assert register.checkpoint is not None, "those without were left out"
            try:
                record = read_record(
                    self._target.objects,
                    register.checkpoint,
                    snapshot=register.snapshot,
                    source=register.source,
                )
            except DamagedError as exc:
                self._progress.warn(f"a checkpoint is not usable: {exc}")
                continue
            origin = record.details.origin if record.details else None
            if record.details and origin and self._is_of_this(origin):
                return register.snapshot, record.details.root
        return None, None

    def _is_of_this(self, origin: Origin) -> bool:
        return (origin.repository, origin.snapshot) == (self._source.facts.repository, self._snapshot.id)

    def _describe(self, snapshot: str, raw: Mapping[str, Any], *, is_complete: bool) -> RecordDetails:
        stats, root = self._stats(raw), raw["root"]
        return replace(
            self._details,
            snapshot=snapshot,
            root=Root(str(root["page"]), int(root["level"]), int(root["nodes"]), int(root["bytes"])),
            parent=self._base.copy if self._base else None,
            is_complete=is_complete,
            stats=asdict(stats),
            error_count=stats.error_count,
            unstable_count=int(raw["stats"].get("unstable", 0)),
            program=f"pvback {datapath.native_version()}",
            origin=Origin(self._source.facts.repository, self._snapshot.id, self._snapshot.time),
        )

    def _stats(self, raw: Mapping[str, Any]) -> Stats:
        """What could not be read when the snapshot was made is still not there."""
        stats = stats_from_json(raw["stats"])
        return replace(
            stats,
            error_count=stats.error_count + self._details.error_count,
            duration_seconds=round(self._clock.monotonic() - self._began, 3),
        )


class _TwoStores:
    """One store for a job that reads from two: names of objects begin with their scope."""

    def __init__(self, target: RepositoryAccess, source: RepositoryAccess) -> None:
        self._target, self._source = target.store, source.store
        self._prefix = source.objects.layout.prefix

    def create(self, key: str, data: bytes | bytearray | memoryview) -> str:
        """Into the target; a copy writes nothing to its source."""
        assert not key.startswith(self._prefix), "a copy's source is only read"
        return self._target.create(key, data)

    def read(self, key: str) -> WholeObject:
        """From the one that has the scope."""
        return (self._source if key.startswith(self._prefix) else self._target).read(key)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """Of what was created."""
        return self._target.list_objects(prefix, after=after)

    def read_into(self, key: str, buffer: memoryview, *, offset: int) -> int:
        """From the one that has the scope."""
        store = self._source if key.startswith(self._prefix) else self._target
        return store.read_into(key, buffer, offset=offset)
