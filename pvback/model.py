"""Frozen value types that the layers above exchange. They hold facts, do no I/O and import no client."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

from pvback import limits
from pvback.errors import UsageError

__all__ = [
    "ChunkId",
    "Claim",
    "Consistency",
    "Extent",
    "Finding",
    "FindingSeverity",
    "LocalAddress",
    "PackId",
    "RepositoryAddress",
    "RepositoryId",
    "S3Address",
    "ScopeId",
    "Snapshot",
    "SnapshotId",
    "SourceId",
    "Stats",
    "StoreUsage",
]


@dataclass(frozen=True, slots=True, order=True)
class _Id:
    """A fixed number of bytes, shown as hexadecimal digits. Ids of different kinds never compare equal."""

    raw: bytes
    bytes_count: ClassVar[int] = limits.RANDOM_ID_BYTES
    what: ClassVar[str] = "id"

    def __post_init__(self) -> None:
        if len(self.raw) != self.bytes_count:
            raise UsageError(f"a {self.what} has {self.bytes_count} bytes, not {len(self.raw)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that `str()` wrote: all digits, lower case. Raises UsageError for anything else."""
        if len(text) == 2 * cls.bytes_count and not set(text) - set("0123456789abcdef"):
            return cls(bytes.fromhex(text))
        raise UsageError(f"not a {cls.what}: {text!r}", hint=f"it has {2 * cls.bytes_count} digits of 0-9a-f")

    @property
    def short(self) -> str:
        """The first digits, for people; never stored, never compared."""
        return self.raw.hex()[: limits.SHORT_ID_DIGITS]

    def __str__(self) -> str:
        return self.raw.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short})"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class RepositoryId(_Id):
    """Names a repository for life, wherever it is copied."""

    what: ClassVar[str] = "repository id"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class ScopeId(_Id):
    """Names a scope: one deduplication domain, one set of keys."""

    what: ClassVar[str] = "scope id"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class SnapshotId(_Id):
    """Names a snapshot, and the session that made it: they are one register."""

    what: ClassVar[str] = "snapshot id"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class PackId(_Id):
    """Names a pack: random, never used again."""

    what: ClassVar[str] = "pack id"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class SourceId(_Id):
    """Names a source: keyed, so that the provider of the storage learns nothing from it."""

    what: ClassVar[str] = "source id"


@dataclass(frozen=True, slots=True, order=True, repr=False)
class ChunkId(_Id):
    """The keyed digest of a chunk's or page's plaintext."""

    bytes_count: ClassVar[int] = limits.CHUNK_ID_BYTES
    what: ClassVar[str] = "chunk id"


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A repository in a directory of this machine. The path is absolute."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class S3Address:
    """A repository under a prefix of a bucket. The prefix has no slash at either end and may be empty.

    `endpoint` is the URL of a service other than AWS; region and credentials come from the AWS environment.
    """

    bucket: str
    prefix: str
    endpoint: str | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


RepositoryAddress = LocalAddress | S3Address


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A PersistentVolumeClaim, by name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Consistency(enum.StrEnum):
    """What a restored copy is worth, best first."""

    COLD = "cold"
    """Nothing was writing."""
    APP = "app"
    """The application was asked to hold still, or to mark the point."""
    CRASH = "crash"
    """As after a power failure: one instant of the whole volume."""
    FUZZY = "fuzzy"
    """Copied while it was written to; different files are of different instants."""


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """An allocated byte range of a file or volume; what lies between extents is a hole."""

    offset: int
    length: int

    def __post_init__(self) -> None:
        assert self.offset >= 0, "an extent begins at or after 0"
        assert self.length > 0, "an empty extent is a hole"

    @property
    def end(self) -> int:
        """The offset of the first byte after the extent."""
        return self.offset + self.length


class FindingSeverity(enum.StrEnum):
    """What a finding means for the data."""

    LOSS = "loss"
    """Some stored content cannot be had back."""
    REPAIRABLE = "repairable"
    """Nothing is lost; `pvback repair` mends it."""
    NOTE = "note"
    """Worth knowing, needs nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check` found. Data, not an exception: the check goes on.

    Attributes:
        severity: What it means for the data.
        kind: A stable word for programs, such as `pack-missing`.
        what: One sentence for people.
        key: The object that it is about, if it is about one.
        offset: The byte offset in that object, if known.
        paths: Files that cannot be restored whole because of it; may be cut short, `path_count` is not.
        path_count: How many such files there are.
        snapshot: The snapshot that it is about, if it is about one.
    """

    severity: FindingSeverity
    kind: str
    what: str
    key: str | None = None
    offset: int | None = None
    paths: tuple[str, ...] = ()
    path_count: int = 0
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one backup. Bytes are plaintext bytes unless the name says `stored`."""

    file_count: int = 0
    directory_count: int = 0
    other_count: int = 0
    file_unchanged_count: int = 0
    error_count: int = 0
    source_bytes: int = 0
    """Sizes of all files together, holes included."""
    read_bytes: int = 0
    """What was read from the source."""
    chunk_count: int = 0
    chunk_new_count: int = 0
    new_bytes: int = 0
    """Plaintext of the new chunks, before compression."""
    stored_bytes: int = 0
    """What was added to the repository, everything included."""
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the register and record of one backup say."""

    id: SnapshotId
    time: datetime
    source: str
    consistency: Consistency
    parent: SnapshotId | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """What was asked of an object store. Requests that failed count, their bytes do not."""

    requests: Mapping[str, int] = field(default_factory=dict)
    """By kind: `put`, `create`, `swap`, `read`, `head`, `list`, `delete`, and `part` for what an object in
    parts takes beyond one request. Repeats are among them. Kinds that did not occur are left out."""
    request_count: int = 0
    """All kinds together."""
    retry_count: int = 0
    """Requests that were asked again because an answer was missing or put them off."""
    hedge_count: int = 0
    """Reads that were asked a second time because they took unusually long."""
    sent_bytes: int = 0
    received_bytes: int = 0

    def since(self, before: "StoreUsage") -> "StoreUsage":
        """What was added after `before`, an earlier state of the same counts."""
        kinds = {kind: count - before.requests.get(kind, 0) for kind, count in self.requests.items()}
        return StoreUsage(
            requests={kind: count for kind, count in kinds.items() if count},
            request_count=self.request_count - before.request_count,
            retry_count=self.retry_count - before.retry_count,
            hedge_count=self.hedge_count - before.hedge_count,
            sent_bytes=self.sent_bytes - before.sent_bytes,
            received_bytes=self.received_bytes - before.received_bytes,
        )
