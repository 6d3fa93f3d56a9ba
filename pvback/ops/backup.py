"""Backing up one source: plan, run the data path, keep the session alive, commit.

Guarantees: nothing is visible before the commit; a command that fails, and a stream that breaks, commit
nothing; a backup that is killed loses at most the work since its last checkpoint; one that is asked to stop
checkpoints first. Files that could not be read are named, and the snapshot of the others is committed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from pvback import datapath, limits
from pvback.datapath import DataJob
from pvback.errors import DamagedError, Interrupted, SessionFencedError
from pvback.model import Consistency, Stats
from pvback.ops.rows import Problem
from pvback.ops.sources import Source, open_source
from pvback.ops.writing import SnapshotWriting, view_with_runs_merged
from pvback.repository.gcstate import is_all_trusted, list_index
from pvback.repository.records import FinishedTree, RecordDetails, Root, plan_record, read_record
from pvback.repository.registers import Register
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import (
    Catalog,
    CommittedSnapshot,
    find_snapshot,
    is_standing,
    latest_checkpoint,
    latest_of_source,
)
from pvback.runtime import Cancel, NoProgress, Progress, Random, SystemRandom

__all__ = ["BackupOptions", "BackupResult", "backup", "stats_from_json"]

_JOB_STATS = {
    "file_count": ("files",),
    "directory_count": ("directories",),
    "other_count": ("others",),
    "file_unchanged_count": ("files_unmodified",),
    "error_count": ("errors",),
    "source_bytes": ("bytes",),
    "read_bytes": ("bytes_read",),
    "chunk_count": ("chunks_new", "chunks_known"),
    "chunk_new_count": ("chunks_new",),
    "new_bytes": ("bytes_new",),
    "stored_bytes": ("bytes_stored",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """How to back up.

    Attributes:
        tags: Stored with the snapshot.
        excludes: Patterns of paths below the source that are left out.
        one_file_system: Do not enter directories on other file systems.
        parent: The first digits of the snapshot to compare with; None for the source's latest.
        force: Read everything again, whether it seems unchanged or not.
        ignore_ctime: A file with the same size and mtime is unchanged although its ctime differs.
        ignore_inode: Likewise for its inode number.
        clones: `auto` looks whether nearly all files differ from the parent's in ctime or inode alone, and
            then ignores what differs; `never` reads such files.
        recheck_percent: Share of the bytes of unchanged files that is read and compared with what is stored;
            None: `limits.RECHECK_PERCENT_DEFAULT`, of up to about `limits.RECHECK_BYTES_MAX`.
        chunker: `auto`, `argmin` or `fixed`.
        pack_bytes: Size of packs; None: what suits the repository's size. Less where memory is short.
        level: zstd level; None adapts to the slower of processor and store.
        grade: What the copy is worth; None: as after a power failure, or fuzzy when files changed meanwhile.
        judge: Asked when all is read and nothing is committed, with the id that the snapshot will have and
            how many files changed meanwhile: what the copy is worth; None: `grade` says it.
        dry_run: Read and count, and store nothing.
        taken: The instant that the source is of, when it is itself a copy; stored with the snapshot.
        manifests: Objects that describe the source, stored with the snapshot.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    excludes: Sequence[str] = ()
    one_file_system: bool = False
    parent: str | None = None
    force: bool = False
    ignore_ctime: bool = False
    ignore_inode: bool = False
    clones: str = "auto"
    recheck_percent: float | None = None
    chunker: str = "auto"
    pack_bytes: int | None = None
    level: int | None = None
    grade: Consistency | None = None
    judge: Callable[[str, int], Consistency] | None = None
    dry_run: bool = False
    taken: datetime | None = None
    manifests: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What was done for one source."""

    snapshot: str | None
    """The id of the new snapshot; None after a dry run."""
    source: str
    """The source string."""
    parent: str | None
    resumed: str | None
    """The unfinished session whose checkpoint was gone on from."""
    stats: Stats
    error_count: int
    """Files that could not be read, each of them a problem."""
    unstable_count: int
    """Files that changed while they were read, twice; they are stored as they were read."""
    problems: Sequence[Problem] = ()
    """The first thousand."""
    is_damage_found: bool = False
    """Something is missing of what an earlier backup stored, and no prune was meant to remove it. It was read
    again; what else is missing, this snapshot may need, too.
    """
    is_clone: bool = False
    """The source was taken for a clone of what the parent saw: ctimes or inodes were ignored."""


def backup(
    access: RepositoryAccess,
    source: Source,
    *,
    options: BackupOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    random: Random | None = None,
) -> BackupResult:
    """Back up a source as one snapshot.

    Starts over when prune ends the session, which happens to those that sleep for long; a stream cannot, and
    raises ConflictError. Raises Interrupted after the last checkpoint when `cancel` was set, FileError when
    the source is not readable, PvbackError when its command failed, RepositoryNotFound when the repository
    is removed meanwhile, WrongKeyError, StorageError.
    """
    used_options, used_progress = options or BackupOptions(), progress or NoProgress()
    for attempt in range(limits.SESSION_RETRY_COUNT_MAX + 1):
        try:
            with access.while_there():
                run = _Run(access, source, used_options, progress=used_progress, cancel=cancel or Cancel())
                run.draw(random or SystemRandom())
                return run.go()
        except SessionFencedError:
            if not source.is_repeatable or attempt == limits.SESSION_RETRY_COUNT_MAX:
                raise
            used_progress.warn("prune has ended this session; starting over with what is stored")
    raise AssertionError("the last attempt returns or raises")


def stats_from_json(raw: Mapping[str, Any]) -> Stats:
    """What a record says under the names of `Stats`, or a job under its own; missing ones are 0."""
    known = {item.name for item in fields(Stats)}
    values = {name: value for name, value in raw.items() if name in known}
    for name, theirs in _JOB_STATS.items():
        if any(one in raw for one in theirs):
            values[name] = sum(int(raw.get(one, 0)) for one in theirs)
    return Stats(**values)


class _Run:
    """One attempt."""

    def __init__(
        self,
        access: RepositoryAccess,
        source: Source,
        options: BackupOptions,
        *,
        progress: Progress,
        cancel: Cancel,
    ) -> None:
        self._access, self._source, self._options = access, source, options
        self._progress, self._cancel = progress, cancel
        self._clock = access.clock
        self._started = self._clock.now()
        self._began = self._clock.monotonic()
        self._recheck_seed, self._is_repacking = 0, False
        self._source_id = access.keyring.source_id(access.objects.scope, source.identity.string)
        catalog = access.catalog()
        for problem in catalog.damaged:
            progress.warn(str(problem))
        self._state = catalog.state
        self._parent = self._choose_parent(catalog)
        self._resumed, self._resume = self._choose_resume(catalog)
        self._earlier = [self._parent.register] if self._parent is not None else []
        self._earlier += [self._resumed] if self._resumed is not None else []
        self._place = plan_record(
            [
                (one.record.seq, one.record.named.hash)
                for one in (*catalog.snapshots, *catalog.forgotten)
                if one.source == self._source_id
            ]
        )
        self._session: WriterSession | None = None

    def draw(self, random: Random) -> None:
        """Choose what is left to chance."""
        self._recheck_seed = random.below(1 << 53)
        self._is_repacking = random.below(limits.REPACK_ONE_IN) == 0

    def go(self) -> BackupResult:
        """Everything, in order."""
        if self._options.dry_run:
            view = list_index(self._access.objects, self._state, is_writer=True)
            snapshot, generation = datapath.random_id(), self._state.n
        else:
            self._session = WriterSession(
                self._access.objects, self._source_id, clock=self._clock, state=self._state
            )
            view = view_with_runs_merged(
                self._access, self._session, progress=self._progress, cancel=self._cancel
            )
            snapshot, generation = self._session.snapshot, self._session.register.ack
        writing = SnapshotWriting(
            self._session,
            describe=lambda raw: self._details(raw, is_complete=False),
            place=self._place,
            clock=self._clock,
            progress=self._progress,
            cancel=self._cancel,
        )
        with open_source(self._source) as where:
            job_options = {
                **self._access.job_options(view.as_options()),
                **self._job_options(),
                "pack_bytes": self._options.pack_bytes or view.pack_bytes,
                **where,
                "snapshot": snapshot,
                "gen": generation,
            }
            job = DataJob(
                "backup",
                self._access.keyring,
                options=job_options,
                store=self._access.store,
                patience=self._access.patience,
            )
            result = writing.run(job, what="backup", guess_bytes=self._guess_bytes())
        if self._session is not None:
            self._commit(self._session, result)
        return self._report(result, writing.problems)

    def _commit(self, session: WriterSession, result: Mapping[str, Any]) -> None:
        """The snapshot exists afterwards; when nobody waits for its grade any more, its checkpoint does."""
        tree = FinishedTree.from_json(result)
        details = self._details(result, is_complete=True)
        if self._options.judge is not None:
            try:
                grade = self._options.judge(session.snapshot, details.unstable_count)
            except Interrupted as exc:
                session.checkpoint(tree, replace(details, is_complete=False), place=self._place)
                exc.hint = "run the same backup again: it goes on from the last checkpoint"
                raise
            details = replace(details, grade=grade)
        session.commit(tree, details, place=self._place)

    def _guess_bytes(self) -> int:
        """The parent's size."""
        return self._parent.details.root.bytes if self._parent and self._parent.details else 0

    def _job_options(self) -> dict[str, object]:
        options, source = self._options, self._source
        chunker = "fixed" if options.chunker == "auto" and source.is_fixed else options.chunker
        return {
            "source_id": self._source_id,
            "kind": source.job_kind,
            "parent": self._parent_option(),
            "resume": self._resume,
            "excludes": list(options.excludes),
            "one_file_system": options.one_file_system,
            "plain": source.is_plain,
            "force": options.force,
            "ignore_ctime": options.ignore_ctime,
            "ignore_inode": options.ignore_inode,
            "detect_clones": options.clones == "auto",
            "recheck": self._recheck_option(),
            "repack": self._is_repacking,
            "chunker": chunker,
            "level": options.level,
            "dry_run": options.dry_run,
            "puts": limits.PUTS_IN_FLIGHT,
        }

    def _recheck_option(self) -> dict[str, object]:
        percent = self._options.recheck_percent
        if percent is not None:
            return {"percent": percent, "bytes_max": None, "seed": self._recheck_seed}
        share = {"percent": limits.RECHECK_PERCENT_DEFAULT, "bytes_max": limits.RECHECK_BYTES_MAX}
        return {**share, "seed": self._recheck_seed}

    def _choose_parent(self, catalog: Catalog) -> CommittedSnapshot | None:
        if self._options.parent is not None:
            chosen = find_snapshot(catalog.snapshots, self._options.parent)
            chosen.require_details()
            return chosen
        parent = latest_of_source(catalog.snapshots, self._source_id)
        return parent if parent is not None and parent.details is not None else None

    def _parent_option(self) -> dict[str, object] | None:
        if self._parent is None:
            return None
        return _tree_json(self._parent.require_details())

    def _choose_resume(self, catalog: Catalog) -> tuple[Register | None, dict[str, object] | None]:
        register = latest_checkpoint(catalog, self._source_id)
        if register is None or register.checkpoint is None:
            return None, None
        try:
            record = read_record(
                self._access.objects, register.checkpoint, snapshot=register.snapshot, source=register.source
            )
        except DamagedError as exc:
            self._progress.warn(f"a checkpoint is not usable: {exc}")
            return None, None
        if record.details is None:
            return None, None
        return register, _tree_json(record.details)

    def _details(self, raw: Mapping[str, Any], *, is_complete: bool) -> RecordDetails:
        assert self._session is not None, "a dry run records nothing"
        stats = replace(stats_from_json(raw["stats"]), duration_seconds=self._seconds())
        unstable = int(raw["stats"].get("unstable", 0))
        default = Consistency.FUZZY if unstable else Consistency.CRASH
        root = raw["root"]
        return RecordDetails(
            snapshot=self._session.snapshot,
            source=self._source.identity,
            started=self._started,
            finished=self._clock.now(),
            root=Root(str(root["page"]), int(root["level"]), int(root["nodes"]), int(root["bytes"])),
            parent=self._parent.id if self._parent else None,
            is_complete=is_complete,
            grade=self._options.grade or default,
            tags=self._options.tags,
            stats=asdict(stats),
            error_count=stats.error_count,
            unstable_count=unstable,
            program=f"pvback {datapath.native_version()}",
            taken=self._options.taken,
            manifests=self._options.manifests,
        )

    def _is_damage_found(self, result: Mapping[str, Any]) -> bool:
        """Whether something is lost of what this was compared with, and no prune has to do with it.

        What a prune has condemned, or not met yet, is there, and no writer may build on it.
        """
        if not result["stats"].get("earlier_lost"):
            return False
        objects = self._access.objects
        state = self._session.state if self._session else self._state
        is_alone = state.n == self._state.n and is_all_trusted(objects, state)
        return is_alone and all(is_standing(objects, one.name) for one in self._earlier)

    def _seconds(self) -> float:
        return round(self._clock.monotonic() - self._began, 3)

    def _report(self, result: Mapping[str, Any], problems: Sequence[Problem]) -> BackupResult:
        stats = replace(stats_from_json(result["stats"]), duration_seconds=self._seconds())
        return BackupResult(
            snapshot=self._session.snapshot if self._session else None,
            source=self._source.identity.string,
            parent=self._parent.id if self._parent else None,
            resumed=self._resumed.snapshot if self._resumed else None,
            stats=stats,
            error_count=stats.error_count,
            unstable_count=int(result["stats"].get("unstable", 0)),
            problems=problems,
            is_damage_found=self._is_damage_found(result),
            is_clone=result.get("clone") is not None,
        )


def _tree_json(details: RecordDetails) -> dict[str, object]:
    since = details.started.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    return {"root": details.root.as_json(), "started_ns": micros * 1000}
