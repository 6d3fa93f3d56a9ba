"""Writing snapshots anew around what is lost of them.

The data path leaves out files of which anything is lost, passes over pages of the tree that are lost, and
says so in the directories that lack something: a restore that removes what a snapshot does not have leaves
these alone. What comes out is a snapshot like any other, committed by a session like any other, with the
source, the times and the tags of the first one, and its place in time: `latest` does not become an old one.
The first one stays, or is forgotten when that is asked for; it can be brought back like others then.

What is lost is said by the index: so packs that are damaged or gone have to be given up before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pvback import datapath, limits
from pvback.datapath import DataJob, Listeners
from pvback.errors import DamagedError, ObjectNotFound, PvbackError, SessionFencedError
from pvback.model import Finding
from pvback.ops.backup import stats_from_json
from pvback.ops.check import CheckOptions, check
from pvback.ops.reading import run_reading
from pvback.ops.rows import decode_path, parse_lines
from pvback.ops.writing import SnapshotWriting
from pvback.repository.forget import forget_snapshots
from pvback.repository.gcstate import list_index, read_gc_state
from pvback.repository.mend_state import abandoned, change_gc_state
from pvback.repository.records import FinishedTree, RecordDetails, Repaired, Root, plan_record
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import Catalog, CommittedSnapshot, load_catalog
from pvback.repository.successors import choose_successor, settle_successors
from pvback.runtime import Cancel, NoProgress, Progress

__all__ = ["BROKEN_PACK_KINDS", "ContentLoss", "ContentPlan", "RewriteOutcome", "plan_rewrites", "rewrite"]

BROKEN_PACK_KINDS = frozenset(
    (
        "blob-damaged",
        "envelope-damaged",
        "index-wrong",
        "pack-damaged",
        "pack-directory-damaged",
        "pack-missing",
        "pack-size",
    )
)
"""What `check` says of packs that cannot stay."""
_LOST_RUN_KINDS = frozenset(("index-incomplete", "run-damaged", "run-missing"))
_ENTRY_COUNT_MAX = 1000
"""So many losses of one snapshot are told."""
_EXAMPLE_BYTES_MAX = 32 * 1024
"""So much of that is kept in the record: about the bytes of paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentLoss:
    """What is lost of the content of one snapshot."""

    snapshot: str
    lost: Mapping[str, int] = field(default_factory=dict)
    """`files` that are left out and their `bytes`; `gaps` in the tree, where pages are lost, and the
    `entries` that these held; `directories` of which only what is below them is known; entries `left`."""
    entries: Sequence[Mapping[str, Any]] = ()
    """The first thousand, by `kind`: a `file` with `path`, `size`, lost `ranges` (offset, length) and their
    number `range_count`; `entries` between `after` and `before`, with a `message`; a `directory`."""
    replacement: str | None = None
    """The snapshot that was written in its place by an earlier repair, and exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPlan:
    """Snapshots to write anew, oldest first."""

    losses: Sequence[ContentLoss] = ()
    refusal: str | None = None
    """Why nothing can be written anew now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOutcome:
    """What became of one snapshot that has lost content."""

    loss: ContentLoss
    replacement: str | None = None
    """The snapshot in its place."""
    is_forgotten: bool = False
    """Whether the damaged one is forgotten now."""
    reason: str | None = None
    """Why there is no replacement."""


def plan_rewrites(
    access: RepositoryAccess, *, progress: Progress | None = None, cancel: Cancel | None = None
) -> ContentPlan:
    """Which snapshots have lost what. Reads all trees; writes nothing.

    A key that is not an owner's opens no trees or may not write there: it finds nothing. Raises as `check`.
    """
    if access.keyring.role != "owner":
        return ContentPlan()
    found = check(access, options=CheckOptions(level="trees"), progress=progress, cancel=cancel)
    affected = {
        one.snapshot for one in found.findings if one.kind == "snapshot-damaged" and one.snapshot is not None
    }
    if not affected:
        return ContentPlan()
    catalog = load_catalog(access.objects)
    snapshots = catalog.snapshots
    replaced = {
        one.id: chosen
        for one in snapshots
        if (chosen := choose_successor(catalog, one.id).chosen) is not None
    }
    given_up = frozenset(
        one.key.rpartition("/")[2] for one in found.findings if one.kind in BROKEN_PACK_KINDS and one.key
    )
    losses = []
    for snapshot in snapshots:
        if snapshot.id in replaced:
            if snapshot.id in affected:
                losses.append(ContentLoss(snapshot=snapshot.id, replacement=replaced[snapshot.id]))
        elif snapshot.id in affected and snapshot.details is not None:
            loss = _survey(access, snapshot, given_up=given_up, cancel=cancel)
            if _is_anything(loss.lost):
                losses.append(loss)
    return ContentPlan(losses=losses, refusal=_refusal(found.findings))


def rewrite(
    access: RepositoryAccess,
    plan: ContentPlan,
    *,
    is_forgetting: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Sequence[RewriteOutcome]:
    """Write the snapshots in the plan anew, oldest first, and forget the damaged ones if that is asked for.

    One of which nothing is left is only forgotten. What keeps one from being written is its `reason`, and the
    others go on. Raises StorageError, Interrupted, WrongKeyError.
    """
    used = cancel or Cancel()
    outcomes = []
    if plan.losses and plan.refusal is None:
        # A cycle that was under way when content was lost cannot end: what it counts is not there.
        change_gc_state(access.objects, abandoned, clock=access.clock)
    for loss in plan.losses:
        used.check()
        outcomes.append(
            _rewrite_one(
                access,
                loss,
                refusal=plan.refusal,
                is_forgetting=is_forgetting,
                progress=progress or NoProgress(),
                cancel=used,
            )
        )
    return outcomes


def _refusal(findings: Sequence[Finding]) -> str | None:
    kinds = {one.kind for one in findings}
    if kinds & _LOST_RUN_KINDS:
        return "a part of the index is lost; run `pvback repair index` first"
    if kinds & BROKEN_PACK_KINDS:
        return "packs are damaged or missing; run `pvback repair packs` first"
    return None


def _is_anything(lost: Mapping[str, int]) -> bool:
    return any(lost[name] for name in ("files", "gaps", "directories"))


def _survey(
    access: RepositoryAccess,
    snapshot: CommittedSnapshot,
    *,
    given_up: frozenset[str],
    cancel: Cancel | None,
) -> ContentLoss:
    """What is lost of a snapshot when these packs count no longer."""
    entries: list[Mapping[str, Any]] = []

    def on_output(kind: str, data: memoryview) -> None:
        if kind == "lost":
            entries.extend(map(_entry, parse_lines(data)))
            del entries[_ENTRY_COUNT_MAX:]

    def options() -> Mapping[str, object]:
        entries.clear()
        state = read_gc_state(access.objects)
        view = list_index(access.objects, replace(state, dead=state.dead | given_up)).readable()
        return {
            **_options(
                snapshot,
                view.as_options(),
                scope=access.objects.scope,
                snapshot=snapshot.id,
                generation=state.n,
            ),
            "index": view.as_options(),
            "pack_bytes": view.pack_bytes,
            "dry_run": True,
        }

    listeners = Listeners(on_output=on_output, cancel=cancel or Cancel())
    result = run_reading(access, "rewrite", options=options, listeners=listeners, tells_losses=True)
    return ContentLoss(snapshot=snapshot.id, lost=result["lost"], entries=tuple(entries))


def _options(
    damaged: CommittedSnapshot, view: Mapping[str, object], *, scope: str, snapshot: str, generation: int
) -> dict[str, object]:
    return {
        "source_id": damaged.source,
        "snapshot": snapshot,
        "gen": generation,
        "from": {
            "scope": scope,
            "source_id": damaged.source,
            "root": damaged.require_details().root.as_json(),
            "index": view,
        },
    }


def _entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its paths as people have them."""
    made = {}
    for name, value in raw.items():
        if name.endswith("_b64"):
            made[name.removesuffix("_b64")] = None if value is None else decode_path(value)
        else:
            made[name] = value
    return made


def _rewrite_one(
    access: RepositoryAccess,
    loss: ContentLoss,
    *,
    refusal: str | None,
    is_forgetting: bool,
    progress: Progress,
    cancel: Cancel,
) -> RewriteOutcome:
    replacement = loss.replacement
    if replacement is None:
        if refusal is not None:
            return RewriteOutcome(loss=loss, reason=refusal)
        if not loss.lost["left"]:
            is_forgotten = is_forgetting and _forget(access, loss.snapshot)
            return RewriteOutcome(loss=loss, is_forgotten=is_forgotten, reason="nothing of it can be read")
        try:
            with access.while_there():
                replacement = _Rewrite(access, loss, progress=progress, cancel=cancel).go()
        except (DamagedError, ObjectNotFound, SessionFencedError) as exc:
            reason = f"{exc.what}; {exc.hint}" if exc.hint else exc.what
            return RewriteOutcome(loss=loss, reason=reason)
    # Another repair may have written one as well, now or before it was killed.
    replacement = settle_successors(access.objects, loss.snapshot, clock=access.clock) or replacement
    is_forgotten = is_forgetting and _forget(access, loss.snapshot)
    return RewriteOutcome(loss=loss, replacement=replacement, is_forgotten=is_forgotten)


def _forget(access: RepositoryAccess, snapshot: str) -> bool:
    found = _find(load_catalog(access.objects), snapshot)
    names = [found.register.name] if found else []
    return bool(forget_snapshots(access.objects, names, clock=access.clock).changed)


def _find(catalog: Catalog, snapshot: str) -> CommittedSnapshot | None:
    return next((one for one in catalog.snapshots if one.id == snapshot), None)


class _Rewrite:
    """One snapshot that is written anew."""

    def __init__(
        self, access: RepositoryAccess, loss: ContentLoss, *, progress: Progress, cancel: Cancel
    ) -> None:
        self._access, self._loss, self._progress, self._cancel = access, loss, progress, cancel
        self._began = access.clock.monotonic()
        catalog = load_catalog(access.objects)
        found = _find(catalog, loss.snapshot)
        if found is None:
            raise DamagedError("it does not exist any more")
        self._damaged = found
        self._existing = choose_successor(catalog, loss.snapshot).chosen
        """Another repair was faster."""
        self._place = plan_record(
            [
                (one.record.seq, one.record.named.hash)
                for one in (*catalog.snapshots, *catalog.forgotten)
                if one.source == found.source
            ]
        )

    def go(self) -> str:
        """All attempts: prune may end a session, or move what the index named. The new snapshot's id."""
        for attempt in range(limits.SESSION_RETRY_COUNT_MAX + 1):
            try:
                return self._existing or self._attempt()
            except (SessionFencedError, ObjectNotFound) as exc:
                if attempt == limits.SESSION_RETRY_COUNT_MAX:
                    raise self._explained(exc) from None
                self._progress.warn("a prune ran at the same time; starting over")
        raise AssertionError("the last attempt returns or raises")

    def _explained(self, exc: PvbackError) -> PvbackError:
        if isinstance(exc, ObjectNotFound):
            hint = "run `pvback repair packs` first"
            return DamagedError("an object is missing", key=exc.key, hint=hint)
        return exc

    def _attempt(self) -> str:
        access = self._access
        session = WriterSession(access.objects, self._damaged.source, clock=access.clock)
        writing = SnapshotWriting(
            session,
            describe=lambda raw: self._describe(session.snapshot, raw, is_complete=False),
            place=self._place,
            clock=access.clock,
            progress=self._progress,
            cancel=self._cancel,
        )
        # What may be read is more than what may be built upon; the rest is stored once more.
        readable = list_index(access.objects, session.state).readable()
        trusted = session.index_view()
        options = {
            **access.job_options(trusted.as_options()),
            **_options(
                self._damaged,
                readable.as_options(),
                scope=access.objects.scope,
                snapshot=session.snapshot,
                generation=session.register.ack,
            ),
            "puts": limits.PUTS_IN_FLIGHT,
            "pack_bytes": trusted.pack_bytes,
        }
        job = DataJob(
            "rewrite", access.keyring, options=options, store=access.store, patience=access.patience
        )
        result = writing.run(job, what="repair", guess_bytes=self._damaged.require_details().root.bytes)
        if result["lost"] != self._loss.lost:
            raise DamagedError("what is lost has changed meanwhile", hint="run it again")
        details = self._describe(session.snapshot, result, is_complete=True)
        session.commit(FinishedTree.from_json(result), details, place=self._place)
        return session.snapshot

    def _describe(self, snapshot: str, raw: Mapping[str, Any], *, is_complete: bool) -> RecordDetails:
        stats, root = stats_from_json(raw["stats"]), raw["root"]
        seconds = round(self._access.clock.monotonic() - self._began, 3)
        return replace(
            self._damaged.require_details(),
            snapshot=snapshot,
            root=Root(str(root["page"]), int(root["level"]), int(root["nodes"]), int(root["bytes"])),
            parent=self._damaged.id,
            is_complete=is_complete,
            stats=asdict(replace(stats, duration_seconds=seconds)),
            program=f"pvback {datapath.native_version()}",
            # A copy that lacks something is none: another one may bring it back.
            origin=None,
            repaired=Repaired(
                snapshot=self._damaged.id,
                time=self._damaged.time,
                lost={name: count for name, count in self._loss.lost.items() if name != "left"},
                examples=_examples(self._loss.entries),
            ),
        )


def _examples(entries: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """As many as a record has room for."""
    kept: list[Mapping[str, Any]] = []
    left = _EXAMPLE_BYTES_MAX
    for entry in entries:
        left -= sum(len(str(value)) for value in entry.values())
        if left < 0:
            break
        kept.append(entry)
    return tuple(kept)
