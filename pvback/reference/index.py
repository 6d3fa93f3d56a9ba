"""Index runs, reference sets and marks (sections 7 and 10 of the format)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pvback.reference.errors import DamagedError
from pvback.reference.sealing import ENVELOPE_BYTES
from pvback.reference.wire import U64, Cursor

REFS_MAX = 1 << 20
PACK_DATA, PACK_META = 1, 2


@dataclass(frozen=True)
class Location:
    """Where a blob lies: pack name (16 bytes), kind of pack, plaintext offset and length."""

    pack: bytes
    pack_kind: int
    offset: int
    length: int


@dataclass(frozen=True)
class RunPack:
    """A pack as a run lists it, its envelopes as bytes.

    `spans` are (start offset, envelope position), ascending.
    """

    name: bytes
    kind: int
    object_bytes: int
    envelopes: tuple[bytes, ...]
    spans: tuple[tuple[int, int], ...]

    def envelope_at(self, offset: int) -> int | None:
        """The envelope of the blob at `offset`; None when no span covers it."""
        found = None
        for start, envelope in self.spans:
            if start > offset:
                break
            found = envelope
        return found


@dataclass(frozen=True)
class Filter:
    """A binary fuse filter over the first 8 bytes of ids."""

    seed: int
    segment_length: int
    segment_count_length: int
    fingerprints: bytes

    def may_contain(self, short_id: bytes) -> bool:
        """False only for ids that are surely not in the run."""
        hash_ = mix((int.from_bytes(short_id[:8], "little") + self.seed) & U64)
        return (hash_ ^ (hash_ >> 32)) & 255 == self._stored(hash_)

    def _stored(self, hash_: int) -> int:
        value = 0
        for position in positions(hash_, self.segment_length, self.segment_count_length):
            value ^= self.fingerprints[position]
        return value


def mix(value: int) -> int:
    """The 64-bit finaliser of MurmurHash3."""
    value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & U64
    value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & U64
    return value ^ (value >> 33)


def positions(hash_: int, segment_length: int, segment_count_length: int) -> tuple[int, int, int]:
    """The three places of a key in the fingerprints."""
    mask = segment_length - 1
    first = (hash_ * segment_count_length) >> 64
    second = (first + segment_length) ^ ((hash_ >> 18) & mask)
    third = (first + 2 * segment_length) ^ (hash_ & mask)
    return first, second, third


@dataclass(frozen=True)
class Run:
    """One index run: (short id, location) sorted, and its packs."""

    entries: tuple[tuple[bytes, Location], ...]
    packs: tuple[RunPack, ...]
    filter: Filter | None


def _parse_filter(data: bytes, entries: int, what: str) -> Filter | None:
    cursor = Cursor(data, f"{what}: filter")
    if not entries:
        cursor.end()
        return None
    seed, length, count = cursor.u64(), cursor.u32(), cursor.u32()
    fingerprints = cursor.take(cursor.left)
    if not length or length & (length - 1) or not count or count % length:
        cursor.fail("segment lengths are impossible")
    if len(fingerprints) != count + 2 * length:
        cursor.fail("wrong number of fingerprints")
    return Filter(seed, length, count, fingerprints)


def _parse_section(cursor: Cursor) -> tuple[tuple[bytes, ...], tuple[tuple[int, int], ...]]:
    raw = tuple(cursor.take(ENVELOPE_BYTES) for _ in range(cursor.u16()))
    spans = []
    last = -1
    for _ in range(cursor.u32()):
        start, envelope = cursor.u32(), cursor.u16()
        cursor.zero(2)
        if start <= last or envelope >= len(raw):
            cursor.fail("spans are out of order or name no envelope")
        last = start
        spans.append((start, envelope))
    return raw, tuple(spans)


def _parse_run_pack(cursor: Cursor, section: bytes) -> RunPack:
    name, kind = cursor.take(16), cursor.u8()
    cursor.zero(3)
    object_bytes, offset = cursor.u32(), cursor.u32()
    cursor.zero(4)
    if kind not in (PACK_DATA, PACK_META) or offset > len(section):
        cursor.fail("a pack is of no known kind, or its section is not there")
    envelopes, spans = _parse_section(Cursor(section[offset:], "envelope section of a run"))
    return RunPack(name, kind, object_bytes, envelopes, spans)


def _parse_entries(cursor: Cursor, count: int, packs: int) -> list[tuple[bytes, int, int, int]]:
    entries = [(cursor.take(16), cursor.u32(), cursor.u32(), cursor.u32()) for _ in range(count)]
    for before, entry in pairwise(entries):
        if before[:3] >= entry[:3]:
            cursor.fail("entries are out of order")
    if any(entry[1] >= packs for entry in entries):
        cursor.fail("an entry names a pack that is not there")
    return entries


def parse_run(body: bytes, what: str) -> Run:
    """The body of a run: everything before its signature block."""
    cursor = Cursor(body, what)
    cursor.magic(b"PVBKRUN1")
    count, pack_count, filter_bytes, section_bytes = (
        cursor.u64(),
        cursor.u32(),
        cursor.u32(),
        cursor.u32(),
    )
    cursor.zero(4)
    if filter_bytes + count * 28 + pack_count * 32 + section_bytes > cursor.left:
        cursor.fail("counts do not fit into it")
    filter_ = _parse_filter(cursor.take(filter_bytes), count, what)
    raw_entries = _parse_entries(cursor, count, pack_count)
    pack_table = Cursor(cursor.take(pack_count * 32), f"{what}: packs")
    section = cursor.take(section_bytes)
    cursor.zero(cursor.left)
    packs = tuple(_parse_run_pack(pack_table, section) for _ in range(pack_count))
    if len({pack.name for pack in packs}) != len(packs):
        cursor.fail("a pack is listed twice")
    entries = tuple(
        (id_, Location(packs[pack].name, packs[pack].kind, offset, length))
        for id_, pack, offset, length in raw_entries
    )
    return Run(entries, packs, filter_)


class Index:
    """Short id -> locations, over all runs that count. Packs in `dead` do not."""

    def __init__(self, dead: frozenset[bytes] = frozenset()) -> None:
        self._dead = dead
        self._places: dict[bytes, dict[Location, None]] = {}

    def add(self, id_: bytes, location: Location) -> None:
        """Take in one entry."""
        if location.pack not in self._dead:
            self._places.setdefault(id_[:16], {})[location] = None

    def lookup(self, id_: bytes) -> tuple[Location, ...]:
        """All usable locations of blobs whose ids begin like `id_`."""
        return tuple(self._places.get(id_[:16], ()))

    def packs(self) -> Iterator[tuple[bytes, int]]:
        """Names and kinds of all packs with usable entries, each once."""
        found = {(one.pack, one.pack_kind) for places in self._places.values() for one in places}
        yield from sorted(found)


def parse_refs(body: bytes, what: str) -> frozenset[bytes]:
    """The short ids of one part of a reference set. Their places, for repacks, are passed over."""
    cursor = Cursor(body, what)
    cursor.magic(b"PVBKREF1")
    count, form = cursor.u32(), cursor.u32()
    if count > REFS_MAX:
        cursor.fail("too many ids")
    if form > 1:
        cursor.fail("an unknown form")
    ids = [cursor.take(16 + 2 * form)[:16] for _ in range(count)]
    cursor.zero(cursor.left)
    if any(before >= after for before, after in pairwise(ids)):
        raise DamagedError(f"{what}: ids are out of order")
    return frozenset(ids)


def parse_marks(body: bytes, what: str) -> dict[bytes, int]:
    """Short ids of one part of marks, in order, and how often each is needed."""
    cursor = Cursor(body, what)
    cursor.magic(b"PVBKMRK1")
    count = cursor.u32()
    cursor.zero(4)
    if count > REFS_MAX:
        cursor.fail("too many ids")
    marks = [(cursor.take(16), cursor.u32()) for _ in range(count)]
    cursor.zero(cursor.left)
    if any(before[0] >= after[0] for before, after in pairwise(marks)):
        raise DamagedError(f"{what}: ids are out of order")
    if any(needed == 0 for _, needed in marks):
        raise DamagedError(f"{what}: lists an id that nothing needs")
    return dict(marks)
