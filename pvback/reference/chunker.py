"""The chunkers of the format, slow and plain: the oracle that the data path is tested against.

Written from the definition alone, one byte position after the other. Reading a repository needs
none of this; writing one that deduplicates against what is there does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

WINDOW_BYTES = 4
"""Bytes that a value is made of."""


class Chunker(Protocol):
    """Says where the chunk at the start of some bytes ends."""

    def cut(self, offset: int, data: bytes, *, at_end: bool) -> int | None:
        """Return the length of the chunk that starts at `data[0]`, byte `offset` of the file.

        None asks for more bytes. `at_end`: no byte follows `data`.
        """


@dataclass(frozen=True)
class ArgminChunker:
    """A chunk ends where a keyed function of the last four bytes is least.

    The average is in bytes. The key is 32 bytes, of which the first eight count.
    """

    average_bytes: int
    key: bytes

    def __post_init__(self) -> None:
        if not 4096 <= self.average_bytes <= 8 << 20 or self.average_bytes % 4096:
            raise ValueError(f"average chunk of {self.average_bytes} bytes")
        if len(self.key) != 32:
            raise ValueError(f"chunker key of {len(self.key)} bytes")

    @property
    def min_bytes(self) -> int:
        """No chunk is shorter, but for the last."""
        return self.average_bytes // 2

    @property
    def max_bytes(self) -> int:
        """No chunk is longer."""
        return 3 * self.average_bytes // 2

    def cut(self, offset: int, data: bytes, *, at_end: bool) -> int | None:
        """Return the length of the chunk that starts at `data[0]`; the offset has no influence."""
        del offset
        if len(data) < self.max_bytes:
            if not at_end or not data:
                return None
            if len(data) <= self.average_bytes:
                return len(data)
        low, high = struct.unpack_from("<II", self.key)
        multiplier, addend = low | 1, high
        best_value, best_cut = 1 << 32, 0
        for cut in range(self.min_bytes, min(len(data), self.max_bytes) + 1):
            window = int.from_bytes(data[cut - WINDOW_BYTES : cut], "little")
            value = (window * multiplier + addend) & 0xFFFF_FFFF
            if value < best_value:
                best_value, best_cut = value, cut
        return best_cut


@dataclass(frozen=True)
class FixedChunker:
    """Chunks of one size, in bytes, aligned to the start of the file."""

    chunk_bytes: int

    def __post_init__(self) -> None:
        if not 4096 <= self.chunk_bytes <= 8 << 20 or self.chunk_bytes % 4096:
            raise ValueError(f"fixed chunk of {self.chunk_bytes} bytes")

    def cut(self, offset: int, data: bytes, *, at_end: bool) -> int | None:
        """Return the length of the chunk that starts at `data[0]`, byte `offset` of the file."""
        length = self.chunk_bytes - offset % self.chunk_bytes
        if len(data) >= length:
            return length
        return len(data) if at_end and data else None


def cut_all(chunker: Chunker, data: bytes, *, offset: int = 0) -> list[int]:
    """Return where the chunks of `data` end, as positions in it.

    All of the data is at hand: what a reader that is given it in pieces finds must be the same.
    """
    cuts: list[int] = []
    start = 0
    while (length := chunker.cut(offset + start, data[start:], at_end=True)) is not None:
        start += length
        cuts.append(start)
    return cuts
