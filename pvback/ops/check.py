"""Examining a repository. What is wrong is a finding, not an exception: the examination goes on.

First everything that is listed, registers, records and their chain; then the data path follows every
snapshot's tree to packs that are there and large enough, compares reference sets, and reads packs if asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvback.datapath import Listeners
from pvback.errors import DamagedError, PvbackError, UsageError
from pvback.model import Finding, FindingSeverity
from pvback.ops.reading import run_reading, tree_options
from pvback.ops.rows import decode_path, parse_lines
from pvback.ops.stats import refs_json
from pvback.repository.copies import CopyProblem
from pvback.repository.gcstate import list_index
from pvback.repository.layout import CONFIG_KEY, COPIES_PREFIX, KEYS_PREFIX, Area, ObjectType
from pvback.repository.registers import RegisterState
from pvback.repository.repair_copies import find_copy_problems
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import Catalog, CommittedSnapshot
from pvback.runtime import Cancel, NoProgress, Progress, Random, SystemRandom

__all__ = ["CheckResult", "check", "judge_chain", "judge_listing"]

_SEVERITIES = {
    "loss": FindingSeverity.LOSS,
    "error": FindingSeverity.LOSS,
    "repairable": FindingSeverity.REPAIRABLE,
    "warning": FindingSeverity.REPAIRABLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Everything that was found, worst first within the order in which it was found."""

    findings: Sequence[Finding]
    snapshot_count: int
    object_count: int
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What the data path looked at."""

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity is FindingSeverity.NOTE for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Listing:
    """Objects by area: last part of the name -> size; and the keys that the format does not know."""

    areas: Mapping[Area, Mapping[str, int]]
    packs: Sequence[tuple[str, int]]
    foreign: Sequence[str]
    object_count: int


def check(
    access: RepositoryAccess,
    *,
    read_percent: float | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    random: Random | None = None,
) -> CheckResult:
    """Examine the scope.

    Args:
        access: The repository.
        read_percent: How much of all packs' bytes to read and open, chosen by `seed`; None: no data.
        seed: Drawn when None.
        progress: Hears how far it is.
        cancel: Stops it, with Interrupted.
        random: Where the seed comes from.

    Raises UsageError, StorageError when the store does not answer, DamagedError when `gc/state` is lost.
    """
    if read_percent is not None and not 0 < read_percent <= 100:
        raise UsageError("the share to read is not between 0 and 100 per cent")
    used_seed = seed if seed is not None else (random or SystemRandom()).below(1 << 53)
    findings: list[Finding] = []
    seen: list[tuple[Catalog, _Listing]] = []

    def look() -> Mapping[str, object]:
        findings.clear()
        catalog = access.catalog()
        # What a register or a run names was there before it: so it is listed after them.
        view = list_index(access.objects, catalog.state)
        listing = _list_objects(access)
        seen.append((catalog, listing))
        findings.extend((*_judge(catalog, listing), *_look_at_twins(access, catalog)))
        return {
            "index": view.as_options(),
            "snapshots": [
                {"snapshot": one.id, **tree_options(one), "refs": refs_json(one)}
                for one in catalog.snapshots
                if one.details is not None
            ],
            "packs": [{"key": key, "size": size} for key, size in listing.packs],
            "read_data": read_percent,
            "seed": used_seed,
        }

    def on_output(kind: str, data: memoryview) -> None:
        if kind == "rows":
            findings.extend(map(_finding, parse_lines(data)))

    heard = progress or NoProgress()
    listeners = Listeners(on_output=on_output, on_counters=heard.update, cancel=cancel or Cancel())
    result = run_reading(access, "check", options=look, listeners=listeners, tells_losses=True)
    order = list(FindingSeverity)
    catalog, listing = seen[-1]
    return CheckResult(
        findings=sorted(findings, key=lambda one: order.index(one.severity)),
        snapshot_count=len(catalog.snapshots),
        object_count=listing.object_count,
        counts={name: value for name, value in result.items() if name != "findings"},
    )


def _judge(catalog: Catalog, listing: _Listing) -> Iterator[Finding]:
    """Everything that shows without a look into trees and packs. Pure."""
    yield from judge_damaged(catalog.damaged)
    yield from judge_chain(catalog)
    yield from judge_listing(catalog, listing)
    closed = sum(one.details is None for one in catalog.snapshots)
    if closed:
        what = f"the key in use does not open {closed} snapshots"
        yield Finding(FindingSeverity.NOTE, "record-closed", what)


def _look_at_twins(access: RepositoryAccess, catalog: Catalog) -> Iterator[Finding]:
    """Whatever is stored twice."""
    yield from _compare_records(access, catalog)
    yield from judge_copies(find_copy_problems(access))


def _compare_records(access: RepositoryAccess, catalog: Catalog) -> Iterator[Finding]:
    """Records whose object is not what the register says and has a copy of."""
    for one in (*catalog.snapshots, *catalog.forgotten):
        named = one.record.named
        if not one.register.twin:
            continue
        try:
            access.objects.read_named(ObjectType.RECORD, named)
        except DamagedError as exc:
            what = f"the record of snapshot {one.id[:8]} is only left in its register: {exc.what}"
            yield Finding(FindingSeverity.REPAIRABLE, "record-damaged", what, key=exc.key)


def judge_copies(problems: Sequence[CopyProblem]) -> Iterator[Finding]:
    """`config` and key objects of which one copy is left, or none. Pure."""
    for problem in problems:
        severity = FindingSeverity.LOSS if problem.is_lost else FindingSeverity.REPAIRABLE
        kind = "key-lost" if problem.is_lost else "copy-missing"
        yield Finding(severity, kind, f"{problem.what}; `pvback key repair` mends it", key=problem.key)


def judge_damaged(errors: Sequence[PvbackError]) -> Iterator[Finding]:
    """Registers and records that do not open: their snapshots cannot be restored."""
    for error in errors:
        yield Finding(
            FindingSeverity.LOSS, "snapshot-damaged", error.what, key=error.key, offset=error.offset
        )


def judge_chain(catalog: Catalog) -> Iterator[Finding]:
    """Each record has to continue one of its source's records, as far as those are still there. Pure.

    Writers that ran at once make records with the same sequence, and forgotten ones leave gaps: what cannot
    be told is not reported.
    """
    by_place: dict[tuple[str, int], list[CommittedSnapshot]] = {}
    for one in (*catalog.snapshots, *catalog.forgotten):
        by_place.setdefault((one.source, one.record.seq), []).append(one)
    for (source, seq), snapshots in sorted(by_place.items()):
        before = by_place.get((source, seq - 1), [])
        hashes = {one.record.named.hash for one in before}
        for one in snapshots:
            if seq == 1 and one.record.prev is not None:
                what = f"snapshot {one.id[:8]} is its source's first, but names one before it"
                yield Finding(FindingSeverity.LOSS, "chain-broken", what, key=one.record.named.name)
            elif before and one.record.prev not in hashes:
                what = f"snapshot {one.id[:8]} does not continue the one before it that is there"
                yield Finding(FindingSeverity.NOTE, "chain-forked", what, key=one.record.named.name)


def judge_listing(catalog: Catalog, listing: _Listing) -> Iterator[Finding]:
    """Objects that nothing names, and named ones that are not there. Pure."""
    state, areas = catalog.state, listing.areas
    for name in sorted(state.base - areas[Area.INDEX].keys()):
        what = "an index run that prune made is missing"
        yield Finding(FindingSeverity.REPAIRABLE, "run-missing", what, key=f"index/{name}")
    alive = (RegisterState.OPEN, RegisterState.COMMITTED, RegisterState.FORGOTTEN)
    living = [register for register, _ in catalog.registers if register.state in alive]
    for register in living:
        for named in register.refs:
            if named.name.rpartition("/")[2] not in areas[Area.REFS]:
                what = f"a reference set of snapshot {register.snapshot[:8]} is missing"
                yield Finding(FindingSeverity.REPAIRABLE, "refs-missing", what, key=named.name)
    living_ids = {register.snapshot for register in living}
    orphans = {
        "refs": [name for name in areas[Area.REFS] if name[:32] not in living_ids],
        "records": [name for name in areas[Area.RECORDS] if name[:32] not in living_ids],
        "index": [name for name in areas[Area.INDEX] if not state.is_run_valid(name)],
        "snapshots": [name for name in areas[Area.SNAPSHOTS] if not state.is_register_valid(name)],
    }
    for area, names in orphans.items():
        if names and not (catalog.damaged and area in ("refs", "records")):
            what = f"{len(names)} objects in {area}/ belong to nothing; prune removes them"
            yield Finding(FindingSeverity.NOTE, "orphans", what, key=f"{area}/{min(names)}")
    if listing.foreign:
        what = f"{len(listing.foreign)} objects are not pvback's and are left alone"
        yield Finding(FindingSeverity.NOTE, "foreign", what, key=min(listing.foreign))


def _list_objects(access: RepositoryAccess) -> _Listing:
    layout = access.objects.layout
    scopes = tuple(f"s/{scope}/" for scope in access.facts.scopes)
    areas: dict[Area, dict[str, int]] = {area: {} for area in Area}
    packs: list[tuple[str, int]] = []
    foreign: list[str] = []
    count = 0
    for info in access.store.list_objects(""):
        found = layout.classify(info.key)
        if found is not None:
            count += 1
            areas[found[0]][found[1]] = info.size
            if found[0] in (Area.DATA, Area.META):
                packs.append((info.key, info.size))
        elif info.key.startswith(layout.prefix) or not info.key.startswith(
            (CONFIG_KEY, KEYS_PREFIX, COPIES_PREFIX, *scopes)
        ):
            foreign.append(info.key)
    return _Listing(areas, packs, foreign, count)


def _finding(raw: Mapping[str, Any]) -> Finding:
    offset, path = raw.get("offset"), raw.get("path_b64")
    return Finding(
        severity=_SEVERITIES.get(str(raw.get("severity")), FindingSeverity.NOTE),
        kind=str(raw.get("what", "unknown")),
        what=str(raw.get("detail", "")),
        key=raw.get("object"),
        offset=None if offset is None else int(offset),
        paths=() if path is None else (decode_path(path),),
        path_count=0 if path is None else 1,
    )
