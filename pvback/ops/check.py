"""Examining a repository. What is wrong is a finding, not an exception: the examination goes on.

Levels, each with all before it:

- `list`: everything that is listed, registers, records with their copies, reference sets by their hash, the
  chain of records, copies of `config` and keys. Small objects only are read.
- `index`: every run from end to end, packs against the store's list, every pack's own directory.
- `trees`: every snapshot's tree, its reference set, and each chunk in a pack that is there and large enough.
  Directories of data packs are left out, as they are many; `index` and `data` read them.
- `data`: packs are read and opened, all of them, a share, or what time and bytes allow.

A key that opens no trees or no content sees the other levels, and the outer seals of packs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pvback.datapath import Listeners
from pvback.errors import DamagedError, UsageError
from pvback.model import Finding, FindingSeverity
from pvback.ops.check_listing import (
    Listing,
    compare_records,
    compare_refs,
    find_lost_registers,
    find_open_registers,
    judge_chain,
    judge_copies,
    judge_damaged,
    judge_listing,
    list_objects,
)
from pvback.ops.reading import run_reading, tree_options
from pvback.ops.rows import decode_path, parse_lines
from pvback.ops.stats import refs_json
from pvback.repository.barrier import ALIVE
from pvback.repository.gcstate import IndexView, list_index
from pvback.repository.repair_copies import find_copy_problems
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import Catalog, CommittedSnapshot, load_catalog
from pvback.repository.verified import Verified, VerifiedFile, VerifiedShare
from pvback.runtime import Cancel, NoProgress, Progress, Random, SystemRandom

__all__ = ["LEVELS", "CheckOptions", "CheckResult", "check"]

LEVELS = ("list", "index", "trees", "data")
_SEVERITIES = {
    "loss": FindingSeverity.LOSS,
    "error": FindingSeverity.LOSS,
    "repairable": FindingSeverity.REPAIRABLE,
    "warning": FindingSeverity.REPAIRABLE,
}
_REPAIRABLE = frozenset(("refs-damaged", "refs-incomplete", "run-damaged", "run-missing", "runs-disagree"))
"""What the data path calls an error, for it may cost something yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """How deep to look.

    Attributes:
        level: One of `LEVELS`; None: `data` when anything below asks for it, else `trees`.
        read_percent: How much of all packs to read and open, chosen by `seed`; None: all, at level `data`.
        seed: Chooses; drawn when None.
        max_seconds: No pack is begun to be read so long after the beginning.
        max_bytes: No more than so much is read of packs, but one in any case.
        max_age: Packs that were read no longer ago are left out.

    With one of the last three, packs that were never read come first, then those read longest ago.
    """

    level: str | None = None
    read_percent: float | None = None
    seed: int | None = None
    max_seconds: float | None = None
    max_bytes: int | None = None
    max_age: timedelta | None = None

    @property
    def is_boxed(self) -> bool:
        """Whether packs are chosen by when they were read last."""
        return not (self.max_seconds is None and self.max_bytes is None and self.max_age is None)

    @property
    def used_level(self) -> str:
        """The level that is meant. Raises UsageError for a contradiction or an unknown level."""
        wants_data = self.is_boxed or self.read_percent is not None
        level = self.level or ("data" if wants_data else "trees")
        if level not in LEVELS:
            raise UsageError(f"no such level: {level}", hint=f"levels are {', '.join(LEVELS)}")
        if wants_data and level != "data":
            raise UsageError("bounds of reading are for level `data`")
        if self.is_boxed and self.read_percent is not None:
            raise UsageError("a share goes with a level, or with bounds of its own, not with both")
        if self.read_percent is not None and not 0 < self.read_percent <= 100:
            raise UsageError("the share to read is not between 0 and 100 per cent")
        return level


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Everything that was found, worst first within the order in which it was found."""

    findings: Sequence[Finding]
    snapshot_count: int
    object_count: int
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What the data path looked at."""
    verified: VerifiedShare | None = None
    """How much of what is stored was read how long ago, as far as this client remembers; at level `data`."""

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity is FindingSeverity.NOTE for finding in self.findings)


def check(
    access: RepositoryAccess,
    *,
    options: CheckOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    random: Random | None = None,
) -> CheckResult:
    """Examine the scope.

    Args:
        access: The repository.
        options: How deep; default: level `trees`.
        progress: Hears how far it is.
        cancel: Stops it, with Interrupted; what was read until then stays remembered.
        random: Where the seed comes from.

    Raises UsageError, StorageError when the store does not answer, DamagedError when `gc/state` is lost.
    """
    used = options or CheckOptions()
    return _Check(access, used, random or SystemRandom()).run(progress or NoProgress(), cancel or Cancel())


class _Check:
    """One examination."""

    def __init__(self, access: RepositoryAccess, options: CheckOptions, random: Random) -> None:
        self._access, self._options, self._level = access, options, options.used_level
        self._began = access.clock.monotonic()
        self._seed = options.seed if options.seed is not None else random.below(1 << 53)
        self._findings: list[Finding] = []
        self._seen: tuple[Catalog, Listing] | None = None
        self._verified: Verified | None = None
        if self._level == "data":
            file = VerifiedFile.of(access)
            self._verified = Verified(file, clock=access.clock)

    def run(self, progress: Progress, cancel: Cancel) -> CheckResult:
        """Everything, in order."""
        counts: Mapping[str, Any] = {}
        if self._level == "list":
            self._look()
        else:
            listeners = Listeners(on_output=self._on_output, on_counters=progress.update, cancel=cancel)
            try:
                counts = run_reading(
                    self._access,
                    "check",
                    options=self._job_options,
                    listeners=listeners,
                    tells_losses=True,
                )
            finally:
                if self._verified is not None:
                    self._verified.save()
        assert self._seen is not None, "it has looked at least once"
        catalog, listing = self._seen
        order = list(FindingSeverity)
        return CheckResult(
            findings=sorted(self._findings, key=lambda one: order.index(one.severity)),
            snapshot_count=len(catalog.snapshots),
            object_count=listing.object_count,
            counts={name: value for name, value in counts.items() if name != "findings"},
            verified=self._share(catalog, listing),
        )

    def _look(self) -> tuple[Catalog, IndexView, Listing]:
        """Everything that shows without a look into index, trees and packs."""
        access = self._access
        catalog, memory = self._catalog()
        # What a register or a run names was there before it: so objects are listed after them.
        view = list_index(access.objects, catalog.state)
        listing = list_objects(access)
        self._seen = (catalog, listing)
        self._findings = [
            *memory,
            *judge_damaged(catalog.damaged),
            *judge_chain(catalog),
            *judge_listing(catalog, listing),
            *find_lost_registers(access, listing),
            *find_open_registers(access, catalog, listing=listing),
            *compare_records(access, catalog),
            *judge_copies(find_copy_problems(access), pair_count=len(access.twins.names())),
            *self._closed(catalog),
        ]
        # The data path reads those of the trees that it follows.
        followed: set[str] = (
            set() if self._level in ("list", "index") else {one.id for one in _open_ones(catalog)}
        )
        living = [one for one, _ in catalog.registers if one.state in ALIVE and one.snapshot not in followed]
        self._findings += compare_refs(access, living, listing=listing)
        return catalog, view, listing

    def _catalog(self) -> tuple[Catalog, list[Finding]]:
        """What there is, even if it is not what this client remembers."""
        try:
            return self._access.catalog(), []
        except DamagedError as exc:
            # Whatever keeps the catalog from being read is raised again.
            catalog = load_catalog(self._access.objects)
            what = f"{exc.what}; {exc.hint}" if exc.hint else exc.what
            return catalog, [Finding(FindingSeverity.LOSS, "rolled-back", what, key=exc.key)]

    def _closed(self, catalog: Catalog) -> list[Finding]:
        closed = sum(one.details is None for one in catalog.snapshots)
        if not closed:
            return []
        what = f"the key in use does not open {closed} snapshots"
        return [Finding(FindingSeverity.NOTE, "record-closed", what)]

    def _job_options(self) -> Mapping[str, object]:
        catalog, view, listing = self._look()
        trees = [] if self._level == "index" else _open_ones(catalog)
        made: dict[str, object] = {
            "index": view.as_options(),
            "snapshots": [{"snapshot": one.id, **tree_options(one), "refs": refs_json(one)} for one in trees],
            "packs": [{"key": key, "size": size} for key, size in listing.packs],
            "directories": self._level == "index",
            "seed": self._seed,
        }
        if self._verified is not None:
            made.update(self._reading(self._verified, listing))
        return made

    def _reading(self, verified: Verified, listing: Listing) -> dict[str, object]:
        options = self._options
        if not options.is_boxed:
            return {"read_data": 100.0 if options.read_percent is None else options.read_percent}
        names = [key.rpartition("/")[2] for key, _ in listing.packs]
        left = None
        if options.max_seconds is not None:
            left = max(0.0, options.max_seconds - (self._access.clock.monotonic() - self._began))
        return {
            "read_packs": verified.plan(names, seed=self._seed, max_age=options.max_age),
            "read_bytes": options.max_bytes,
            "seconds": left,
        }

    def _on_output(self, kind: str, data: memoryview) -> None:
        if kind == "rows":
            self._findings.extend(map(_finding, parse_lines(data)))
        elif kind == "read" and self._verified is not None:
            for row in parse_lines(data):
                if row["is_good"]:
                    self._verified.note(row["name"], is_opened=row["is_opened"])

    def _share(self, catalog: Catalog, listing: Listing) -> VerifiedShare | None:
        if self._verified is None:
            return None
        unlisted = {one.key for one in self._findings if one.kind in ("orphan", "dead-pack")}
        packs = {key.rpartition("/")[2]: size for key, size in listing.packs if key not in unlisted}
        return self._verified.share({name: packs[name] for name in packs.keys() - catalog.state.dead})


def _finding(raw: Mapping[str, Any]) -> Finding:
    offset, path = raw.get("offset"), raw.get("path_b64")
    return Finding(
        severity=FindingSeverity.REPAIRABLE
        if raw.get("what") in _REPAIRABLE
        else _SEVERITIES.get(str(raw.get("severity")), FindingSeverity.NOTE),
        kind=str(raw.get("what", "unknown")),
        what=str(raw.get("detail", "")),
        key=raw.get("object"),
        offset=None if offset is None else int(offset),
        paths=() if path is None else (decode_path(path),),
        path_count=0 if path is None else 1,
        snapshot=raw.get("snapshot"),
    )


def _open_ones(catalog: Catalog) -> list[CommittedSnapshot]:
    """Snapshots whose trees the key in use opens."""
    return [one for one in catalog.snapshots if one.details is not None]
