"""What the data path says about files: rows of lists, differences, and problems."""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Change", "Node", "Problem", "decode_path", "encode_path", "parse_lines", "parse_problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry of a snapshot. `path` is relative to the source; the root's is empty.

    Bytes of names that are not UTF-8 are surrogate escapes, as `os.fsdecode` makes them.
    """

    path: str
    kind: str
    """`file`, `directory`, `symlink`, `fifo`, `socket`, `chardev` or `blockdev`."""
    mode: int
    """Permission bits, 07777."""
    uid: int
    gid: int
    size: int
    """Bytes; 0 for everything but files."""
    mtime_ns: int
    """Nanoseconds since 1970."""
    target: str | None = None
    """Where a symlink points."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Node":
        """From a row of `list` or `find`."""
        target = raw.get("target_b64")
        return cls(
            path=decode_path(raw["path_b64"]),
            kind=str(raw["kind"]),
            mode=int(raw.get("mode", 0)),
            uid=int(raw.get("uid", 0)),
            gid=int(raw.get("gid", 0)),
            size=int(raw.get("size", 0)),
            mtime_ns=int(raw.get("mtime_ns", 0)),
            target=None if target is None else decode_path(target),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two snapshots; `node` is the newer one, or the one that was removed."""

    change: str
    """`added`, `removed`, `content`, `attributes` or `kind`."""
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that went wrong with one file, while the rest went on."""

    what: str
    path: str | None = None
    offset: int | None = None
    is_note: bool = False
    """Worth knowing, though everything was done as it should be."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.path else self.what


def encode_path(path: str) -> str:
    """A path as jobs take it: components joined by `/`, none before the first, base64."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return base64.b64encode(os.fsencode("/".join(parts))).decode()


def decode_path(text: str) -> str:
    """The other way round."""
    return os.fsdecode(base64.b64decode(text))


def parse_lines(data: bytes | memoryview) -> Iterator[dict[str, Any]]:
    """The objects of a `rows` output."""
    for line in bytes(data).splitlines():
        if line:
            yield json.loads(line)


def parse_problem(data: bytes | memoryview) -> Problem:
    """A `problem` output."""
    raw = json.loads(bytes(data))
    path, shown = raw.get("path_b64"), raw.get("path")
    offset = raw.get("offset")
    # A restore has a word for programs in `what`, and says to people what happened in `message`.
    return Problem(
        what=str(raw.get("message") or raw.get("what") or "unknown"),
        path=shown if path is None else decode_path(path),
        offset=None if offset is None else int(offset),
        is_note=bool(raw.get("is_note", False)),
    )


def parse_changes(rows: Iterable[Mapping[str, Any]]) -> Iterator[Change]:
    """Rows of `diff`."""
    for raw in rows:
        yield Change(change=str(raw["change"]), node=Node.from_json(raw))
