"""What shows without a look into index, trees and packs: names, sizes, registers, records, their chain.

Pure, but for listing and reading small objects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pvback import datapath, limits
from pvback.errors import DamagedError, ObjectNotFound, PvbackError
from pvback.model import Finding, FindingSeverity
from pvback.repository.copies import CopyProblem
from pvback.repository.layout import (
    CONFIG_KEY,
    COPIES_PREFIX,
    KEYS_PREFIX,
    Area,
    ObjectType,
    record_name,
    split_generation,
)
from pvback.repository.reading_each import read_each
from pvback.repository.registers import Register, RegisterState, read_register
from pvback.repository.repository import RepositoryAccess
from pvback.repository.sealed import Named
from pvback.repository.snapshots import Catalog, CommittedSnapshot

__all__ = [
    "Listing",
    "compare_records",
    "compare_refs",
    "find_lost_registers",
    "find_open_registers",
    "judge_chain",
    "judge_copies",
    "judge_damaged",
    "judge_listing",
    "list_objects",
]

_ID_DIGITS = 2 * limits.RANDOM_ID_BYTES
_LARGE_BYTES = 256 * limits.KIB
"""Objects from here on are read one at a time."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects by area: last part of the name -> size; and the keys that the format does not know."""

    areas: Mapping[Area, Mapping[str, int]]
    packs: Sequence[tuple[str, int]]
    foreign: Sequence[str]
    object_count: int


def judge_copies(problems: Sequence[CopyProblem], *, pair_count: int = 0) -> Iterator[Finding]:
    """`config` and key objects of which one copy is left, or none. Pure.

    Where each of `pair_count` pairs lacks its copy, the repository is older than the habit of making them.
    """
    lacking = [one for one in problems if one.key.startswith(COPIES_PREFIX) and not one.is_lost]
    if lacking and len(lacking) == len(problems) == pair_count:
        what = "`config` and keys lie there once; `pvback key repair` makes the copies"
        yield Finding(FindingSeverity.NOTE, "copies-none", what, key=lacking[0].key)
        return
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


def judge_listing(catalog: Catalog, listing: Listing) -> Iterator[Finding]:
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


def list_objects(access: RepositoryAccess) -> Listing:
    """List everything."""
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
    return Listing(areas, packs, foreign, count)


def compare_records(access: RepositoryAccess, catalog: Catalog) -> Iterator[Finding]:
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


def find_lost_registers(access: RepositoryAccess, listing: Listing) -> Iterator[Finding]:
    """Records without a register of any kind: looked at again, for a prune removes one before the other."""
    known = {_snapshot(name) for name in listing.areas[Area.SNAPSHOTS]}
    suspects = [name for name in listing.areas[Area.RECORDS] if len(name) == _ID_DIGITS and name not in known]
    if not suspects:
        return
    known = {_snapshot(name) for name, _ in access.objects.list_area(Area.SNAPSHOTS)}
    for name in suspects:
        key = access.objects.layout.key(record_name(name))
        try:
            access.store.head(key)
        except ObjectNotFound:
            continue
        if name not in known:
            what = f"snapshot {name[:8]} has a record and no register"
            yield Finding(FindingSeverity.REPAIRABLE, "register-missing", what, key=key)


def find_open_registers(access: RepositoryAccess, catalog: Catalog, *, listing: Listing) -> Iterator[Finding]:
    """Registers that are OPEN although their snapshot's record is there, and not because it is just now made.

    A prune counted the snapshot, or the register was written after the record was, or nothing has been heard
    for so long that nobody can be about to commit.
    """
    records = listing.areas[Area.RECORDS]
    for register, mtime in catalog.registers:
        if register.state is not RegisterState.OPEN or register.snapshot not in records:
            continue
        try:
            info = access.store.head(access.objects.layout.key(record_name(register.snapshot)))
            now = read_register(access.objects, register.name).register
        except (DamagedError, ObjectNotFound):
            continue
        silent = access.clock.now() - info.mtime > timedelta(seconds=limits.FENCE_QUIET_SECONDS)
        is_left = register.name in catalog.state.counted or mtime > info.mtime or silent
        if is_left and now.state is RegisterState.OPEN:
            what = (
                f"snapshot {register.snapshot[:8]} has a record, and its register says that it is unfinished"
            )
            yield Finding(FindingSeverity.REPAIRABLE, "register-open", what, key=info.key)


def compare_refs(
    access: RepositoryAccess, registers: Sequence[Register], *, listing: Listing
) -> Iterator[Finding]:
    """Parts of reference sets that are not what their register names; missing ones show in the listing."""
    sizes = listing.areas[Area.REFS]
    parts = [part for one in registers for part in one.refs if part.name.rpartition("/")[2] in sizes]
    small = [part for part in parts if sizes[part.name.rpartition("/")[2]] < _LARGE_BYTES]
    large = [part for part in parts if part not in small]
    found = read_each(access.store, small, work=lambda part: _is_as_named(access, part))
    bad = [part for part, is_good in zip(small, found, strict=True) if not is_good]
    bad += [part for part in large if not _is_as_named(access, part)]
    for part in bad:
        what = (
            f"a reference set of snapshot {part.name.partition('/')[2][:8]} is not the one that was recorded"
        )
        yield Finding(
            FindingSeverity.REPAIRABLE, "refs-damaged", what, key=access.objects.layout.key(part.name)
        )


def _is_as_named(access: RepositoryAccess, part: Named) -> bool:
    """Whether it is; one that a prune has removed meanwhile is nobody's any more."""
    try:
        data = access.store.read(access.objects.layout.key(part.name)).data
    except ObjectNotFound:
        return True
    return datapath.blake3(data) == part.hash


def _snapshot(name: str) -> str:
    parts = split_generation(name)
    assert parts is not None, "listed names were classified"
    return parts[1]
