"""The reference chunkers agree with the shared vectors, which the Rust ones are held to as well."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest

from pvback.reference.chunker import ArgminChunker, Chunker, FixedChunker, cut_all

VECTORS = Path(__file__).parents[1] / "vectors" / "chunker.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_bytes())["cases"]
KEY = bytes(range(32))


def splitmix64(seed: int) -> Iterator[int]:
    """Yield the 64-bit numbers of Steele, Lea and Flood's SplitMix64 from the first state `seed`."""
    mask = (1 << 64) - 1
    while True:
        seed = (seed + 0x9E37_79B9_7F4A_7C15) & mask
        mixed = ((seed ^ (seed >> 30)) * 0xBF58_476D_1CE4_E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & mask
        yield mixed ^ (mixed >> 31)


def make_data(pieces: list[dict[str, Any]]) -> bytes:
    """Make the data of a case, as the vectors' own description says."""
    data = bytearray()
    for piece in pieces:
        length: int = piece["bytes"]
        if "repeat" in piece:
            unit = bytes.fromhex(piece["repeat"])
            made = unit * (length // len(unit) + 1)
        else:
            mask = int(piece["mask"], 16)
            numbers = itertools.islice(splitmix64(piece["seed"]), length // 8 + 1)
            made = b"".join(struct.pack("<Q", number & mask) for number in numbers)
        data += made[:length]
    return bytes(data)


def make_chunker(case: dict[str, Any]) -> Chunker:
    if case["chunker"] == "fixed":
        return FixedChunker(case["chunk_bytes"])
    chunker = ArgminChunker(case["average_bytes"], bytes.fromhex(case["key"]))
    assert (chunker.min_bytes, chunker.max_bytes) == (case["min_bytes"], case["max_bytes"])
    return chunker


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_reference_agrees_with_the_vectors(case: dict[str, Any]) -> None:
    data = make_data(case["data"])
    assert blake3.blake3(data).hexdigest() == case["data_blake3"]
    cuts = cut_all(make_chunker(case), data, offset=case["offset"])
    assert cuts == case["cuts"]
    packed = struct.pack(f"<{len(cuts)}Q", *cuts)
    assert blake3.blake3(packed).hexdigest() == case["cuts_blake3"]


def test_vectors_cover_both_chunkers_and_the_default_sizes() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert {case["chunker"] for case in CASES} == {"argmin", "fixed"}
    assert 524_288 in {case.get("average_bytes") for case in CASES}
    assert 131_072 in {case.get("chunk_bytes") for case in CASES}


def test_argmin_decides_only_when_it_can() -> None:
    chunker = ArgminChunker(4096, KEY)
    data = bytes([7]) * 6144
    assert chunker.cut(0, b"", at_end=False) is None
    assert chunker.cut(0, b"", at_end=True) is None
    assert chunker.cut(0, data[:6143], at_end=False) is None
    assert chunker.cut(0, data, at_end=False) == 2048
    assert chunker.cut(0, data[:4096], at_end=True) == 4096
    assert chunker.cut(0, data[:4097], at_end=True) == 2048


def test_fixed_aligns_to_the_start_of_the_file() -> None:
    chunker = FixedChunker(8192)
    assert chunker.cut(8191, bytes(10), at_end=False) == 1
    assert chunker.cut(8192, bytes(8191), at_end=False) is None
    assert chunker.cut(8192, bytes(8191), at_end=True) == 8191
    assert chunker.cut(0, b"", at_end=True) is None


@pytest.mark.parametrize("size", [-4096, 0, 64, 4097, (8 << 20) + 4096])
def test_unknown_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        ArgminChunker(size, KEY)
    with pytest.raises(ValueError, match="bytes"):
        FixedChunker(size)
