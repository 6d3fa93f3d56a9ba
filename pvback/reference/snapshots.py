"""Registers, records and `gc/state` (section 11 of the format): parsing and what counts."""

import re
from dataclasses import dataclass, field
from typing import Any

from pvback.reference.errors import DamagedError, UnsupportedError
from pvback.reference.pages import Child
from pvback.reference.sealing import SUITES, Signer
from pvback.reference.wire import Fields, check_version, parse_fields, parse_hex

STATES = ("OPEN", "COMMITTED", "FORGOTTEN", "DEAD", "FENCED")
_GENERATION_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})")
_OBJECT_NAMES = {
    "records": re.compile(r"records/[0-9a-f]{32}(-[1-9][0-9]{0,9})?"),
    "refs": re.compile(r"refs/[0-9a-f]{32}-(0|[1-9][0-9]{0,9})"),
    "gc": re.compile(r"gc/[0-9a-f]{16}-[a-z0-9_-]{1,64}"),
}


@dataclass(frozen=True)
class Named:
    """An object that another one names: its name in the scope and BLAKE3 of its sealed bytes."""

    name: str
    hash: bytes


def split_name(name: str) -> tuple[int, str] | None:
    """(generation, rest) of `<gen>-<32 hex digits>`; None for foreign names."""
    match = _GENERATION_NAME.fullmatch(name)
    return (int(match[1], 16), match[2]) if match else None


def parse_named(fields: Fields, folder: str) -> Named:
    """An object in `folder`; any other name is refused, so that nothing outside is ever read."""
    name = fields.text("name")
    if not _OBJECT_NAMES[folder].fullmatch(name):
        fields.fail("name", f"does not name an object in {folder}/")
    return Named(name, fields.hex("hash", 32))


@dataclass(frozen=True)
class GcState:
    """`gc/state` with its lists loaded. Packs are 16-byte names, runs and registers `<gen>-...`."""

    n: int
    floor: int
    dead: frozenset[bytes]
    base: frozenset[str]
    roster: frozenset[str]

    def counts_run(self, name: str, gen: int) -> bool:
        """Whether the entries of a run count. Far above n stands what a repair has left that did not end."""
        return self.floor <= gen < self.n + 2**19 or name in self.base

    def counts_register(self, name: str, gen: int) -> bool:
        """Whether a register is valid."""
        return gen >= self.floor or name in self.roster


def pack_names(value: list[Any], what: str) -> frozenset[bytes]:
    """A list of pack names."""
    if not all(isinstance(one, str) for one in value):
        raise DamagedError(f"{what}: not a list of names")
    return frozenset(parse_hex(one, 16, what) for one in value)


def generation_names(value: list[Any], what: str) -> frozenset[str]:
    """A list of `<gen>-<name>`."""
    if not all(isinstance(one, str) and split_name(one) for one in value):
        raise DamagedError(f"{what}: not a list of names")
    return frozenset(value)


@dataclass(frozen=True)
class Register:
    """One snapshot's register. `record` is there when it is or was COMMITTED; `seq` is that record's."""

    name: str
    snapshot: bytes
    source: bytes
    seq: int
    state: str
    record: Named | None
    refs: tuple[Named, ...]
    runs: frozenset[str]


def parse_register(body: bytes, name: str) -> Register:
    """The body of `snapshots/<name>`, which must be about the snapshot in its name."""
    what = f"snapshots/{name}"
    fields = parse_fields(body, what)
    check_version(fields, what)
    fields.hex("nonce", 16)
    snapshot, state = fields.hex("snapshot", 16), fields.text("state")
    if state not in STATES:
        fields.fail("state", "is not known")
    parts = split_name(name)
    if parts is None or parts[1] != snapshot.hex():
        fields.fail("snapshot", "is not the one in the name")
    record = None if fields.is_null("record") else parse_named(fields.object("record"), "records")
    if state == "COMMITTED" and (record is None or record.name != f"records/{snapshot.hex()}"):
        fields.fail("record", "is not the snapshot's own")
    return Register(
        name,
        snapshot,
        fields.hex("source", 16),
        fields.integer("seq") if fields.has("seq") else 0,
        state,
        record,
        tuple(parse_named(one, "refs") for one in fields.objects("refs")),
        generation_names(fields.list("runs"), what),
    )


@dataclass(frozen=True)
class RecordHead:
    """The public part of a record, and the sealed rest."""

    snapshot: bytes
    source: bytes
    seq: int
    prev: bytes | None
    suite: int
    epoch: int
    counts: dict[str, int]
    sealed: bytes = field(repr=False)
    is_repaired: bool
    """It stands in the place of another one."""


def parse_record(body: bytes, what: str) -> RecordHead:
    """The body of a record."""
    fields = parse_fields(body, what)
    check_version(fields, what)
    counts = fields.object("counts")
    suite = fields.integer("suite")
    if suite not in SUITES:
        raise UnsupportedError(f"{what}: suite {suite}")
    return RecordHead(
        fields.hex("snapshot", 16),
        fields.hex("source", 16),
        fields.integer("seq", 1),
        None if fields.is_null("prev") else fields.hex("prev", 32),
        suite,
        fields.integer("epoch", 1, 2**32 - 1),
        {name: counts.integer(name) for name in ("chunks", "pages")},
        fields.b64("sealed"),
        fields.has("repaired") and not fields.is_null("repaired"),
    )


@dataclass(frozen=True)
class Snapshot:
    """A committed snapshot. `detail` is the opened JSON of the record, as it stands there."""

    id: bytes
    register: Register
    head: RecordHead
    root: Child
    root_level: int
    detail: dict[str, Any]
    record_hash: bytes
    signer: Signer

    @property
    def source_string(self) -> str:
        """The source as its writer named it; may hold surrogate escapes."""
        return str(self.detail["source"]["string"])

    @property
    def started(self) -> str:
        """RFC 3339, by the writer's clock."""
        return str(self.detail["started"])


def parse_detail(plaintext: bytes, snapshot: bytes) -> tuple[dict[str, Any], Child, int]:
    """The opened part of a record: all of it, the root page, and its level."""
    what = f"record {snapshot.hex()[:8]}"
    fields = parse_fields(plaintext, what)
    check_version(fields, what)
    if fields.hex("snapshot", 16) != snapshot:
        fields.fail("snapshot", "is another one")
    source = fields.object("source")
    for name in ("kind", "string"):
        source.text(name)
    fields.text("started")
    fields.boolean("complete")
    root = fields.object("root")
    child = Child(b"", root.hex("page", 32), root.integer("nodes"), root.integer("bytes"))
    detail: dict[str, Any] = {name: fields.raw(name) for name in fields.names()}
    return detail, child, root.integer("level", 0, 255)
