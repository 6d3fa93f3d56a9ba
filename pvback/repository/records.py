"""Snapshot records: a public part for whoever may look at the index, and a sealed one. Section 11.2.

Invariants: a record is created once and never changed; the register names it with the hash of its bytes; each
record names the hash of its source's previous one, so that a repository cannot be rolled back unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pvback.errors import DamagedError, WrongKeyError
from pvback.model import Consistency
from pvback.repository.body import Body, dump_body, format_time, parse_body
from pvback.repository.layout import Area, ObjectType
from pvback.repository.sealed import Named, ScopeObjects, parse_named

__all__ = [
    "FinishedTree",
    "Origin",
    "Record",
    "RecordDetails",
    "Repaired",
    "Root",
    "SourceIdentity",
    "plan_record",
    "read_record",
    "seal_record",
]

_SOURCE_KINDS = ("directory", "file", "device", "stream", "command")


@dataclass(frozen=True, slots=True)
class Root:
    """Where a snapshot's tree begins."""

    page: str
    """Page id, 32 bytes in hex."""
    level: int
    nodes: int
    bytes: int
    """Sizes of all files together."""

    def as_json(self) -> dict[str, Any]:
        """As records and jobs have it."""
        return {"page": self.page, "level": self.level, "nodes": self.nodes, "bytes": self.bytes}

    @classmethod
    def from_body(cls, body: Body) -> "Root":
        """Raises DamagedError."""
        page, level = body.hex("page", 32), body.integer("level")
        return cls(page, level, body.integer("nodes"), body.integer("bytes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIdentity:
    """What a backup is of. `string` is all that the source id is made from; the rest is for people."""

    kind: str
    host: str
    string: str
    path: str | None = None
    """Of a directory, file or device; bytes that are not UTF-8 as surrogate escapes."""
    name: str | None = None
    """Of the one file in a snapshot of anything else than a directory."""

    def as_json(self) -> dict[str, Any]:
        """As records hold it; what does not apply is left out."""
        facts = {"kind": self.kind, "host": self.host, "path": self.path, "name": self.name}
        return {key: value for key, value in facts.items() if value is not None} | {"string": self.string}

    @classmethod
    def from_body(cls, body: Body) -> "SourceIdentity":
        """Raises DamagedError."""
        kind = body.text("kind")
        if kind not in _SOURCE_KINDS:
            raise body.fail("kind", "is not known")
        path = body.text("path") if body.raw.get("path") is not None else None
        name = body.text("name") if body.raw.get("name") is not None else None
        return cls(kind=kind, host=body.text("host"), string=body.text("string"), path=path, name=name)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which snapshot of which other repository a snapshot is a copy of."""

    repository: str
    snapshot: str
    time: datetime
    """When that was committed, by its store's clock."""

    def as_json(self) -> dict[str, Any]:
        """As records hold it."""
        return {"repository": self.repository, "snapshot": self.snapshot, "time": format_time(self.time)}

    @classmethod
    def from_body(cls, body: Body) -> "Origin":
        """Raises DamagedError."""
        return cls(body.hex("repository", 16), body.hex("snapshot", 16), body.time("time"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Which snapshot of this repository a snapshot was written anew from, around what is lost of that."""

    snapshot: str
    time: datetime
    """When that was committed."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """How much: `files`, `bytes`, `gaps`, `entries`, `directories`, as the data path counts."""
    examples: tuple[Mapping[str, Any], ...] = ()
    """What, as far as there is room for it."""

    def as_json(self) -> dict[str, Any]:
        """As the sealed part of a record holds it."""
        return {**self.as_public_json(), "lost": dict(self.lost), "examples": list(self.examples)}

    def as_public_json(self) -> dict[str, Any]:
        """As the public part does."""
        return {"snapshot": self.snapshot, "time": format_time(self.time)}

    @classmethod
    def from_body(cls, body: Body) -> "Repaired":
        """Either of the two. Raises DamagedError."""
        lost = body.inner("lost") if "lost" in body.raw else None
        return cls(
            snapshot=body.hex("snapshot", 16),
            time=body.time("time"),
            lost={} if lost is None else {name: lost.integer(name) for name in lost.raw},
            examples=tuple(one.raw for one in body.inners("examples")) if "examples" in body.raw else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDetails:
    """The sealed part of a record."""

    snapshot: str
    source: SourceIdentity
    started: datetime
    finished: datetime
    root: Root
    parent: str | None = None
    is_complete: bool = True
    grade: Consistency = Consistency.CRASH
    tags: Mapping[str, str] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)
    error_count: int = 0
    unstable_count: int = 0
    program: str = ""
    origin: Origin | None = None
    """Of copies only."""
    repaired: Repaired | None = None
    """Of what `repair snapshots` wrote only."""
    taken: datetime | None = None
    """The one instant that the copy is of, where that is not when it was read: of volume snapshots."""
    manifests: Mapping[str, Any] = field(default_factory=dict)
    """Of a claim: its own and its volume's object, as `claim` and `volume`; of an export, `export`."""

    def as_body(self) -> bytes:
        """As it is sealed."""
        return dump_body(
            {
                "v": 1,
                "snapshot": self.snapshot,
                "source": self.source.as_json(),
                "started": format_time(self.started),
                "finished": format_time(self.finished),
                "root": self.root.as_json(),
                "parent": self.parent,
                "complete": self.is_complete,
                "grade": str(self.grade),
                "tags": dict(self.tags),
                "stats": dict(self.stats),
                "errors": self.error_count,
                "unstable": self.unstable_count,
                "program": self.program,
                **({"origin": self.origin.as_json()} if self.origin else {}),
                **({"repaired": self.repaired.as_json()} if self.repaired else {}),
                **({"taken": format_time(self.taken)} if self.taken else {}),
                **({"manifests": dict(self.manifests)} if self.manifests else {}),
            }
        )

    @classmethod
    def from_body(cls, body: Body) -> "RecordDetails":
        """Raises DamagedError."""
        grade, tags = body.text("grade"), body.inner("tags").raw
        if grade not in set(Consistency):
            raise body.fail("grade", "is not known")
        if not all(isinstance(value, str) for value in tags.values()):
            raise body.fail("tags", "holds something that is not a string")
        return cls(
            snapshot=body.hex("snapshot", 16),
            source=SourceIdentity.from_body(body.inner("source")),
            started=body.time("started"),
            finished=body.time("finished"),
            root=Root.from_body(body.inner("root")),
            parent=body.hex("parent", 16) if body.raw.get("parent") is not None else None,
            is_complete=body.raw.get("complete") is True,
            grade=Consistency(grade),
            tags=tags,
            stats=body.inner("stats").raw,
            error_count=body.integer("errors"),
            unstable_count=body.integer("unstable"),
            program=body.text("program"),
            origin=Origin.from_body(body.inner("origin")) if body.raw.get("origin") is not None else None,
            repaired=_parse_repaired(body),
            taken=body.time("taken") if body.raw.get("taken") is not None else None,
            manifests=body.inner("manifests").raw if "manifests" in body.raw else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as it was read."""

    named: Named
    snapshot: str
    source: str
    seq: int
    prev: str | None
    counts: Mapping[str, int]
    refs: tuple[Named, ...]
    """The snapshot's reference sets, as its register names them; none in records older than this field."""
    details: RecordDetails | None
    """None when this keyring may not read it."""
    repaired: Repaired | None = None
    """What everybody may know of it. Only an owner may have signed such a record: the time counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTree:
    """What a checkpoint or the end of a backup says of what is stored by now."""

    refs: tuple[Named, ...]
    runs: tuple[str, ...]
    counts: Mapping[str, int]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "FinishedTree":
        """From a job's result or a checkpoint output."""
        return cls(
            refs=tuple(Named(str(one["name"]), str(one["hash"])) for one in raw.get("refs", ())),
            runs=tuple(str(name) for name in raw.get("runs", ())),
            counts={name: int(raw.get("counts", {}).get(name, 0)) for name in ("chunks", "pages")},
        )


def plan_record(heads: list[tuple[int, str]]) -> tuple[int, str | None]:
    """(seq, prev) of a source's next record, from the (seq, hash) of those known. Pure.

    Of several with the highest seq, made by writers that ran at once, the least hash is continued: every
    client picks the same one.
    """
    if not heads:
        return 1, None
    seq = max(one for one, _ in heads)
    return seq + 1, min(digest for one, digest in heads if one == seq)


def seal_record(
    objects: ScopeObjects,
    name: str,
    *,
    source: str,
    place: tuple[int, str | None],
    tree: FinishedTree,
    details: RecordDetails,
) -> bytes:
    """The bytes of a record as the object `name`; `place` is from `plan_record`. Nothing is stored."""
    suite, epoch, blob = objects.keyring.seal_record(
        objects.scope, source, details.snapshot, details.as_body()
    )
    public = {
        "v": 1,
        "snapshot": details.snapshot,
        "source": source,
        "seq": place[0],
        "prev": place[1],
        "suite": suite,
        "epoch": epoch,
        "counts": dict(tree.counts),
        # As in the register, so that a register that is lost can be made anew.
        "refs": [named.as_json() for named in tree.refs],
        "sealed": blob,
    }
    if details.repaired is not None and details.origin is None:
        public["repaired"] = details.repaired.as_public_json()
    return objects.seal(ObjectType.RECORD, name=name, data=dump_body(public))


def read_record(
    objects: ScopeObjects, named: Named, *, snapshot: str, source: str, twin: bytes = b""
) -> Record:
    """Open the record that a register names and check that it is about that snapshot and source.

    With a `twin`, the same bytes out of the register, the object itself is not asked for. Raises
    DamagedError, UnsupportedFormatError. A sealed part that this keyring may not read is None.
    """
    key = objects.layout.key(named.name)
    body = parse_body(objects.read_named(ObjectType.RECORD, named, twin=twin), key)
    if body.hex("snapshot", 16) != snapshot:
        raise body.fail("snapshot", "is another one")
    if body.hex("source", 16) != source:
        raise body.fail("source", "is another one")
    counts = body.inner("counts")
    seq = body.integer("seq")
    if seq < 1:
        raise body.fail("seq", "is below 1")
    return Record(
        named=named,
        snapshot=snapshot,
        source=source,
        seq=seq,
        prev=body.hex("prev", 32) if body.raw.get("prev") is not None else None,
        counts={name: counts.integer(name) for name in ("chunks", "pages")},
        refs=tuple(parse_named(one, Area.REFS) for one in body.inners("refs")) if "refs" in body.raw else (),
        details=_open_details(objects, body, key),
        repaired=_parse_repaired(body),
    )


def _parse_repaired(body: Body) -> Repaired | None:
    return Repaired.from_body(body.inner("repaired")) if body.raw.get("repaired") is not None else None


def _open_details(objects: ScopeObjects, body: Body, key: str) -> RecordDetails | None:
    snapshot, source = body.hex("snapshot", 16), body.hex("source", 16)
    suite, epoch, blob = body.integer("suite"), body.integer("epoch"), body.text("sealed")
    try:
        data = objects.keyring.open_record(objects.scope, source, snapshot, suite, epoch, blob)
    except WrongKeyError:
        return None
    details = RecordDetails.from_body(parse_body(data, key))
    if details.snapshot != snapshot:
        raise DamagedError("the sealed part is another snapshot's", key=key)
    if objects.keyring.source_id(objects.scope, details.source.string) != source:
        raise DamagedError("the sealed part names another source", key=key)
    return details
