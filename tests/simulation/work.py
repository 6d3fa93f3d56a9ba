"""`IndexWork` in plain Python, slow and clear: the model of the native one, and its stand-in here."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pvback import datapath
from pvback.errors import DamagedError, ObjectNotFound
from pvback.repository.gcstate import IndexView
from pvback.repository.index_work import Marks, PackUse, Rebuilt, Repacked, Salvaged, Survey, TreeRef, Usage
from pvback.repository.layout import ObjectType, generation_name, split_generation
from pvback.repository.sealed import Named, ScopeObjects
from pvback.runtime import Clock
from tests.simulation.parts import open_part, seal_part

__all__ = [
    "LIAR",
    "Entry",
    "ModelIndexWork",
    "is_doubted",
    "load_run",
    "pack_body",
    "pack_key_name",
    "put_references",
]

LIAR = "e1" * 16
"""A writer who was revoked before anybody began."""

MARKS_PER_PART = 6
ENTRIES_PER_RUN = 6
IDS_PER_PART = 3
BLOBS_PER_PACK = 2
_TOP = 1 << 128


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a run."""

    id: str
    pack: str
    kind: str
    index: int
    length: int
    object_bytes: int
    by: str = ""
    """Who sealed it, if that is of interest: as its envelope says, wherever it was moved."""


def is_doubted(entry: Entry) -> bool:
    """Whether whoever sealed it has been revoked."""
    return entry.by == LIAR


def pack_key_name(kind: str, pack: str) -> str:
    """The name of a pack's object."""
    return f"{kind}/{pack[:2]}/{pack}"


def load_run(objects: ScopeObjects, run: str) -> list[Entry]:
    """The entries of `index/<run>`. Raises ObjectNotFound, DamagedError."""
    name = f"index/{run}"
    data = objects.store.read(objects.layout.key(name)).data
    body = open_part(objects, ObjectType.INDEX_RUN, name=name, data=data)
    packs = body["packs"]
    return [
        Entry(one, pack, packs[pack][0], index, length, *packs[pack][1:])
        for one, pack, index, length in body["entries"]
    ]


def run_body(entries: Iterable[Entry]) -> dict[str, object]:
    """What a run with these entries holds."""
    ordered = sorted(set(entries), key=lambda one: (one.id, one.pack, one.index))
    return {
        "packs": {one.pack: [one.kind, one.object_bytes, one.by] for one in ordered},
        "entries": [[one.id, one.pack, one.index, one.length] for one in ordered],
    }


def read_refs(objects: ScopeObjects, part: Named) -> list[str]:
    """The ids that a part of a reference set names."""
    data = objects.store.read(objects.layout.key(part.name)).data
    if datapath.blake3(data) != part.hash:
        raise DamagedError("not what was named", key=part.name)
    ids: list[str] = open_part(objects, ObjectType.REFERENCE_SET, name=part.name, data=data)["ids"]
    return ids


def put_references(
    objects: ScopeObjects, snapshot: str, ids: Sequence[str], *, first: int = 0, clock: Clock
) -> tuple[Named, ...]:
    """Ids in parts, numbered from `first`; the last of one part is also the first of the next."""
    parts = []
    for number, start in enumerate(range(0, len(ids), IDS_PER_PART), first):
        name = f"refs/{snapshot}-{number}"
        body = {"ids": ids[max(0, start - 1) : start + IDS_PER_PART]}
        data = seal_part(objects, ObjectType.REFERENCE_SET, name=name, body=body)
        parts.append(objects.create_own(name, data=data, clock=clock))
    return tuple(parts)


def pack_body(kind: str, blobs: Sequence[Sequence[str]], by: str = "") -> dict[str, object]:
    """What a pack with these blobs holds, as (id, text)."""
    return {"kind": kind, "blobs": blobs, "by": by}


def read_pack(objects: ScopeObjects, kind: str, pack: str) -> tuple[list[list[str]], int]:
    """The blobs of a pack, as (id, text), and the size of its object."""
    body, size = _read_pack_body(objects, kind, pack)
    return body["blobs"], size


def _read_pack_body(objects: ScopeObjects, kind: str, pack: str) -> tuple[Any, int]:
    name = pack_key_name(kind, pack)
    data = objects.store.read(objects.layout.key(name)).data
    return open_part(objects, pack_type(kind), name=name, data=data), len(data)


def pack_type(kind: str) -> ObjectType:
    """The type of its object."""
    return ObjectType.DATA_PACK if kind == "data" else ObjectType.METADATA_PACK


class ModelIndexWork:
    """See `pvback.repository.index_work.RepairWork`."""

    def __init__(self, objects: ScopeObjects, *, clock: Clock, random_id: Callable[[], str]) -> None:
        self._objects = objects
        self._clock = clock
        self._random_id = random_id

    def count(self, marks: Marks, *, add: Sequence[Named], remove: Sequence[Named], generation: int) -> Marks:
        """See `IndexWork.count`."""
        counts = Counter(self._load_marks(marks))
        for part in add:
            counts.update(self._refs(part))
        for part in remove:
            counts.subtract(self._refs(part))
        if any(count < 0 for count in counts.values()):
            raise DamagedError("an id is needed less than never")
        left = sorted((one, count) for one, count in counts.items() if count)
        parts = []
        for first in range(0, len(left), MARKS_PER_PART):
            name = f"gc/{generation:016x}-marks-{self._random_id()}"
            body = {"counts": left[first : first + MARKS_PER_PART]}
            data = seal_part(self._objects, ObjectType.GC_LIST, name=name, body=body)
            parts.append(self._objects.create_own(name, data=data, clock=self._clock))
        return Marks(tuple(parts), len(left))

    def usage(
        self,
        view: IndexView,
        *,
        marks: Marks,
        refs: Sequence[Named],
        keep: AbstractSet[str] = frozenset(),
        spare_runs: Sequence[str] = (),
    ) -> Usage:
        """See `IndexWork.usage`."""
        needed = self._needed(marks, refs)
        entries, spared = self._load(view, spare_runs)
        given_up = view.condemned - keep
        chosen, revived = _choose(_reliable(entries), needed, given_up)
        missing = sorted(needed - chosen.keys())
        copies: dict[str, set[str]] = {}
        for one in entries:
            copies.setdefault(one.id, set()).add(one.pack)
        sole = Counter(pack for one in chosen if len(copies[one]) == 1 for pack in copies[one])
        packs = {
            pack: _describe(pack, mine, chosen, is_spared=pack in spared, sole=sole[pack])
            for pack, mine in _by_pack(entries).items()
        }
        return Usage(
            packs=packs,
            needed_count=len(needed),
            missing_count=len(missing),
            missing_examples=tuple(one[:8] for one in missing[:3]),
            revived=frozenset(revived),
        )

    def merge(self, view: IndexView, *, drop: AbstractSet[str], generation: int) -> tuple[str, ...]:
        """See `IndexWork.merge`. New names sort after those of the inputs of their generation."""
        entries, _ = self._load(view, ())
        left = sorted(
            {one for one in entries if one.pack not in drop}, key=lambda one: (one.id, one.pack, one.index)
        )
        floor = max((run for run, _ in view.runs), default="")
        return tuple(
            self._put_run(left[first : first + ENTRIES_PER_RUN], generation, floor)
            for first in range(0, len(left), ENTRIES_PER_RUN)
        )

    def repack(
        self,
        view: IndexView,
        *,
        packs: Sequence[str],
        marks: Marks,
        refs: Sequence[Named],
        generation: int,
        order: Sequence[Named] = (),
    ) -> Repacked:
        """See `IndexWork.repack`."""
        needed, entries = self._needed(marks, refs), _reliable(self._load(view, ())[0])
        elsewhere = {one.id for one in entries if one.pack not in packs and one.pack not in view.condemned}
        wanted = needed - elsewhere
        kinds = {one.pack: (one.kind, one.by) for one in entries}
        listed = {(one.pack, one.id) for one in entries}
        moved: dict[tuple[str, str], list[list[str]]] = {}
        for pack in packs:
            if pack not in kinds:
                continue
            for one, text in self._blobs(kinds[pack][0], pack):
                if one in wanted and (pack, one) in listed:
                    wanted.discard(one)
                    moved.setdefault(kinds[pack], []).append([one, text])
        places = self._places(order)
        for blobs in moved.values():
            blobs.sort(key=lambda blob: places.get(blob[0], len(places)))
        new = [entry for (kind, by), blobs in moved.items() for entry in self._put_packs(kind, blobs, by)]
        runs = (self._put_run(new, generation, ""),) if new else ()
        return Repacked(
            packs=tuple(dict.fromkeys(one.pack for one in new)),
            runs=runs,
            moved_count=len(new),
            moved_bytes=sum(one.length for one in new),
        )

    def _places(self, order: Sequence[Named]) -> dict[str, int]:
        """The first place of each id that any of these parts names which can be read."""
        places: dict[str, int] = {}
        for part in order:
            with suppress(DamagedError, ObjectNotFound):
                for one in read_refs(self._objects, part):
                    places.setdefault(one, len(places))
        return places

    def rebuild(self, packs: Sequence[tuple[str, int]], *, generation: int) -> Rebuilt:
        """See `IndexWork.rebuild`."""
        entries, problems = [], {}
        for name, size in packs:
            kind, _, pack = name.split("/")
            try:
                body, found = _read_pack_body(self._objects, kind, pack)
            except (DamagedError, ObjectNotFound, ValueError, KeyError) as exc:
                problems[pack] = str(exc)
                continue
            if found != size:
                problems[pack] = "is not as long as it was listed"
                continue
            entries += [
                Entry(one, pack, kind, index, len(text), size, body.get("by", ""))
                for index, (one, text) in enumerate(body["blobs"])
            ]
        runs = (self._put_run(entries, generation, ""),) if entries else ()
        return Rebuilt(runs=runs, problems=problems)

    def survey(self, view: IndexView, *, directories: bool = False) -> Survey:
        """See `RepairWork.survey`. Nothing is damaged here; runs and packs are there or not."""
        listed: dict[str, set[tuple[str, int]]] = {}
        packs: dict[str, tuple[str, int]] = {}
        missing = []
        for run, _ in view.runs:
            try:
                entries = load_run(self._objects, run)
            except ObjectNotFound:
                missing.append(run)
                continue
            for one in entries:
                packs[one.pack] = (pack_key_name(one.kind, one.pack), one.object_bytes)
                listed.setdefault(one.pack, set()).add((one.id, one.index))
        incomplete = set()
        for pack, (name, _) in packs.items() if directories else ():
            try:
                blobs, _ = read_pack(self._objects, name.partition("/")[0], pack)
            except ObjectNotFound:
                continue
            if {(one, index) for index, (one, _) in enumerate(blobs)} - listed[pack]:
                incomplete.add(pack)
        return Survey(packs=packs, incomplete=frozenset(incomplete), missing=tuple(missing))

    def salvage(self, view: IndexView, **_options: Any) -> Salvaged:
        """Nothing is damaged here."""
        raise NotImplementedError

    def references(self, view: IndexView, *, tree: TreeRef, first: int) -> tuple[tuple[Named, ...], int]:
        """See `RepairWork.references`. A tree is one page."""
        root = str(tree.root["page"])
        packs = [(one.kind, one.pack) for one in self._load(view, ())[0] if one.id == root]
        texts = [text for kind, pack in packs for one, text in self._blobs(kind, pack) if one == root]
        if not texts:
            return (), 1
        ids = [*dict.fromkeys(json.loads(texts[0])), root]
        return put_references(self._objects, tree.snapshot, ids, first=first, clock=self._clock), 0

    def _load_marks(self, marks: Marks) -> dict[str, int]:
        counts: dict[str, int] = {}
        for part in marks.parts:
            body = json.loads(self._objects.read_named(ObjectType.GC_LIST, part))
            counts.update({str(one): int(count) for one, count in body["counts"]})
        if len(counts) != marks.id_count:
            raise DamagedError("marks are not complete")
        return counts

    def _blobs(self, kind: str, pack: str) -> list[list[str]]:
        try:
            return read_pack(self._objects, kind, pack)[0]
        except ObjectNotFound as exc:
            raise DamagedError("the object is missing", key=exc.key) from None

    def _refs(self, part: Named) -> list[str]:
        try:
            return read_refs(self._objects, part)
        except ObjectNotFound:
            raise DamagedError("the object is missing", key=self._objects.layout.key(part.name)) from None

    def _needed(self, marks: Marks, refs: Sequence[Named]) -> set[str]:
        needed = set(self._load_marks(marks))
        for part in refs:
            needed.update(self._refs(part))
        return needed

    def _load(self, view: IndexView, spare_runs: Sequence[str]) -> tuple[list[Entry], set[str]]:
        """The usable entries, and the packs that a run to be spared lists."""
        entries: dict[Entry, None] = {}
        spared: set[str] = set()
        for run, _ in view.runs:
            found = load_run(self._objects, run)
            entries.update(dict.fromkeys(found))
            if run in spare_runs:
                spared.update(one.pack for one in found)
        return [one for one in entries if one.pack not in view.dead], spared

    def _put_run(self, entries: Iterable[Entry], generation: int, after: str) -> str:
        run = generation_name(generation, self._suffix(generation, after))
        data = seal_part(self._objects, ObjectType.INDEX_RUN, name=f"index/{run}", body=run_body(entries))
        self._objects.create_own(f"index/{run}", data=data, clock=self._clock)
        return run

    def _suffix(self, generation: int, after: str) -> str:
        """A fresh name, above that of `after` if that is of the same generation."""
        parts = split_generation(after) if after else None
        if parts is None or parts[0] < generation:
            return self._random_id()
        low = int(parts[1], 16) + 1
        assert low < _TOP, "one cannot draw a name above the last one"
        return f"{low + int(self._random_id(), 16) % (_TOP - low):032x}"

    def _put_packs(self, kind: str, blobs: Sequence[list[str]], by: str) -> list[Entry]:
        entries = []
        for first in range(0, len(blobs), BLOBS_PER_PACK):
            pack, some = self._random_id(), blobs[first : first + BLOBS_PER_PACK]
            name = pack_key_name(kind, pack)
            data = seal_part(self._objects, pack_type(kind), name=name, body=pack_body(kind, some, by))
            self._objects.create_own(name, data=data, clock=self._clock)
            entries += [
                Entry(one, pack, kind, index, len(text), len(data), by)
                for index, (one, text) in enumerate(some)
            ]
        return entries


def _by_pack(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for one in entries:
        found.setdefault(one.pack, []).append(one)
    return found


def _reliable(entries: Sequence[Entry]) -> list[Entry]:
    """Without those that are doubted, of ids that others have too."""
    sound = {one.id for one in entries if not is_doubted(one)}
    return [one for one in entries if one.id not in sound or not is_doubted(one)]


def _choose(
    entries: Sequence[Entry], needed: AbstractSet[str], given_up: AbstractSet[str]
) -> tuple[dict[str, str], set[str]]:
    """Which pack each needed id is used in, and which packs are revived for it."""
    copies: dict[str, set[str]] = {}
    for one in entries:
        if one.id in needed:
            copies.setdefault(one.id, set()).add(one.pack)
    use = Counter(pack for packs in copies.values() for pack in packs)
    chosen: dict[str, str] = {}
    revived: set[str] = set()
    for needed_id in sorted(copies, key=lambda needed_id: (len(copies[needed_id]), needed_id)):
        alive = copies[needed_id] - given_up
        candidates = alive or copies[needed_id] & revived or copies[needed_id]
        pack = min(candidates, key=lambda pack: (-use[pack], pack))
        if not alive:
            revived.add(pack)
        chosen[needed_id] = pack
    return chosen, revived


def _describe(
    pack: str, entries: Sequence[Entry], chosen: Mapping[str, str], *, is_spared: bool, sole: int
) -> PackUse:
    used = {one.id: one.length for one in entries if chosen.get(one.id) == pack}
    return PackUse(
        name=pack,
        kind="data" if entries[0].kind == "data" else "meta",
        object_bytes=entries[0].object_bytes,
        entry_count=len(entries),
        entry_bytes=sum(one.length for one in entries),
        used_count=len(used),
        used_bytes=sum(used.values()),
        is_spared=is_spared,
        sole_count=sole,
    )
