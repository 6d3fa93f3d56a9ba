"""Packs: their directory, and the blobs in them (section 6 of the format)."""

from dataclasses import dataclass

from pvback.reference.errors import DamagedError
from pvback.reference.sealing import (
    ENVELOPE_BYTES,
    KIND_PAGE,
    SIGNATURE_BLOCK_BYTES,
    Envelope,
    parse_envelope,
)
from pvback.reference.wire import Cursor

FOOTER_BYTES = 16
PACK_BYTES_MAX = 1 << 30
ENTRIES_MAX = 1 << 20
_ENTRY_BYTES = 44


@dataclass(frozen=True)
class PackEntry:
    """One blob: where it lies in the pack's plaintext, and which envelope is its."""

    id: bytes
    offset: int
    length: int
    envelope: int
    kind: int


@dataclass(frozen=True)
class Pack:
    """An opened pack. `block` and `directory` are for the caller to verify."""

    plaintext: bytes
    directory: bytes
    block: bytes
    envelopes: tuple[Envelope, ...]
    raw_envelopes: tuple[bytes, ...]
    entries: tuple[PackEntry, ...]

    def blob(self, entry: PackEntry) -> bytes:
        """The sealed bytes of a blob."""
        return self.plaintext[entry.offset : entry.offset + entry.length]


def _parse_entry(cursor: Cursor) -> PackEntry:
    entry = PackEntry(cursor.take(32), cursor.u32(), cursor.u32(), cursor.u16(), cursor.u8())
    cursor.zero(1)
    return entry


def _check_entries(entries: tuple[PackEntry, ...], limit: int, kind: int, cursor: Cursor) -> None:
    end = 0
    for entry in entries:
        if entry.offset < end or not entry.length or entry.offset + entry.length > limit:
            cursor.fail("entries are empty, overlap, are out of order or reach too far")
        end = entry.offset + entry.length
        if entry.kind != kind:
            cursor.fail(f"a blob of kind {entry.kind} in a pack of kind {kind}")
    if len({entry.id for entry in entries}) != len(entries):
        cursor.fail("an id stands twice")


def parse_pack(plaintext: bytes, kind: int, what: str) -> Pack:
    """Split the plaintext of a pack of `kind` 1 (data) or 2 (metadata); its signature is not checked."""
    if not FOOTER_BYTES + SIGNATURE_BLOCK_BYTES <= len(plaintext) <= PACK_BYTES_MAX:
        raise DamagedError(f"{what}: {len(plaintext)} bytes cannot be a pack")
    footer = Cursor(plaintext[-FOOTER_BYTES:], f"{what}: footer")
    offset, length = footer.u32(), footer.u32()
    footer.magic(b"PVBKEND1")
    block_at = len(plaintext) - FOOTER_BYTES - SIGNATURE_BLOCK_BYTES
    if offset + length != block_at:
        footer.fail("the directory does not end at the signature block")
    directory = plaintext[offset:block_at]
    cursor = Cursor(directory, f"{what}: directory")
    envelope_count, entry_count = cursor.u16(), cursor.u32()
    if entry_count > ENTRIES_MAX:
        cursor.fail("too many entries or envelopes")
    if cursor.left != envelope_count * ENVELOPE_BYTES + entry_count * _ENTRY_BYTES:
        cursor.fail("counts do not match its length")
    raw = tuple(cursor.take(ENVELOPE_BYTES) for _ in range(envelope_count))
    envelopes = tuple(parse_envelope(one, what) for one in raw)
    entries = tuple(_parse_entry(cursor) for _ in range(entry_count))
    _check_entries(entries, offset, kind, cursor)
    if any(entry.envelope >= envelope_count for entry in entries):
        cursor.fail("an entry names an envelope that is not there")
    if kind == KIND_PAGE and any(any(one.sealed) for one in envelopes):
        cursor.fail("a metadata pack with data keys")
    return Pack(plaintext, directory, plaintext[block_at:-FOOTER_BYTES], envelopes, raw, entries)
