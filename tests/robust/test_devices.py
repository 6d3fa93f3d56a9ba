"""Block devices as source and target, for real: loop devices over files."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.robust.world import World

SIZE = 24 * 2**20 + 3 * 4096
"""Not a multiple of the pages that devices are cut in."""

Loop = Callable[..., Path]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """Makes devices of so many bytes; skips where that is not allowed."""
    made: list[str] = []

    def make(name: str, size: int = SIZE, *, sector: int = 512, content: bytes = b"") -> Path:
        backing = tmp_path / name
        backing.write_bytes(content)
        os.truncate(backing, size)
        command = ["losetup", "--sector-size", str(sector), "--find", "--show", str(backing)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no losetup")
        if done.returncode:
            pytest.skip(f"loop devices cannot be made here: {done.stderr.strip()}")
        made.append(done.stdout.strip())
        return Path(made[-1])

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


def disk(rng: random.Random, size: int = SIZE) -> bytes:
    """What a volume holds: data, much that was never written, and zeros."""
    content = bytearray(size)
    for start in (0, 5 * 2**20 + 4096, 11 * 2**20, size - 100_000):
        piece = rng.randbytes(min(1_500_000, size - start))
        content[start : start + len(piece)] = piece
    return bytes(content)


def write(device: Path, data: bytes, at: int = 0) -> None:
    with device.open("r+b") as file:
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def written_sectors(device: Path) -> int:
    """All that were ever written or discarded, by the kernel's count."""
    fields = [int(one) for one in Path("/sys/block", device.name, "stat").read_text().split()]
    return fields[6] + fields[13]


def test_a_device_comes_back_onto_one_that_held_something_else(
    world: World, loop: Loop, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    content = disk(rng)
    source = loop("source", content=content)
    said = world.good("backup", source, "--json").summary()
    assert said["stats"]["source_bytes"] == SIZE
    assert world.good("dump", "latest").out == content

    # Larger than it has to be: what lies behind the snapshot's end is nobody's business.
    beyond = rng.randbytes(8192)
    target = loop("target", SIZE + 8192, content=rng.randbytes(SIZE) + beyond)
    world.good("restore", "latest", "--target", target, "--verify")
    assert target.read_bytes() == content + beyond
    before = written_sectors(target)
    again = world.good("restore", "latest", "--target", target, "--json").summary()["stats"]
    assert again["bytes_fetched"] == 0, "what is there was fetched again"
    assert written_sectors(target) == before, "what is there was written again, or cleared"

    write(target, b"changed", 11 * 2**20 + 5)
    write(target, b"not zero", 20 * 2**20)
    mended = world.good("restore", "latest", "--target", target, "--json").summary()["stats"]
    assert 0 < mended["bytes_fetched"] < 1_000_000
    assert target.read_bytes() == content + beyond

    world.good("restore", "latest", "--target", tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == content


def test_a_changed_device_costs_what_changed(world: World, loop: Loop, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(disk(rng))
    source = loop("source", content=bytes(content))
    world.good("backup", source)
    content[2**20 : 2**20 + 10] = b"ten bytes!"
    write(source, b"ten bytes!", 2**20)
    stats = world.good("backup", source, "--json").summary()["stats"]
    assert 0 < stats["new_bytes"] < 600_000
    assert world.good("dump", "latest", "--source", source).out == content


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_stream_or_an_image_goes_onto_a_device(
    world: World, loop: Loop, tmp_path: Path, seed: int, sector: int
) -> None:
    """Cut by content, with zeros that begin and end anywhere, unlike the device's sectors."""
    rng = random.Random(seed)
    content = b"".join(
        rng.randbytes(rng.randrange(1, 900_000)) + bytes(rng.randrange(300_000, 900_000)) for _ in range(8)
    )
    content += bytes(-len(content) % 4096)
    source = loop("source", len(content), content=content)
    with source.open("rb") as file:
        world.process("backup", "-", "--stdin-name", "disk", stdin=file).ended(0)
    (tmp_path / "disk.img").write_bytes(content)
    world.good("backup", tmp_path / "disk.img")
    for number, one in enumerate(world.snapshots()):
        target = loop(f"target{number}", len(content), sector=sector, content=b"\xaa" * len(content))
        world.good("restore", one["id"], "--target", target, "--verify")
        assert target.read_bytes() == content, one["source"]
        assert world.good("dump", one["id"]).out == content


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_damaged_chunk_leaves_zeros_on_the_device(
    world: World, loop: Loop, tmp_path: Path, seed: int, sector: int
) -> None:
    """Chunks of a stream begin and end anywhere, not at the device's sectors."""
    content = random.Random(seed).randbytes(4 * 2**20)
    (tmp_path / "stream").write_bytes(content)
    with (tmp_path / "stream").open("rb") as file:
        world.process("backup", "-", "--stdin-name", "disk", stdin=file).ended(0)
    pack = next(path for key, path in world.objects().items() if "/data/" in key)
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pack.write_bytes(damaged)
    target = loop("target", len(content), sector=sector, content=b"\xaa" * len(content))
    done = world.run("restore", "latest", "--target", target).ended(3)
    assert "is not what was written" in done.err
    restored = target.read_bytes()
    wrong = [at for at, (one, other) in enumerate(zip(restored, content, strict=True)) if one != other]
    # The segment may hold parts of two chunks, which need not be neighbours in the stream.
    assert 0 < len(wrong) < 400_000, "more than the damaged segment was lost"
    assert not any(restored[at] for at in wrong), "neither what was stored nor zeros"


def test_a_device_that_does_not_fit_is_left_alone(world: World, loop: Loop, seed: int) -> None:
    rng = random.Random(seed)
    world.good("backup", loop("source", content=disk(rng)))
    old = rng.randbytes(SIZE - 4096)
    small = loop("small", len(old), content=old)
    done = world.run("restore", "latest", "--target", small).ended(2)
    assert f"{SIZE}" in done.err
    assert str(small) in done.err
    assert small.read_bytes() == old

    used_content = rng.randbytes(SIZE)
    used = loop("used", content=used_content)
    claim = os.open(used, os.O_RDWR | os.O_EXCL)
    try:
        assert "in use" in world.run("restore", "latest", "--target", used).ended(1).err
    finally:
        os.close(claim)
    assert used.read_bytes() == used_content


def test_a_dry_run_writes_nothing_to_a_device(world: World, loop: Loop, seed: int) -> None:
    rng = random.Random(seed)
    world.good("backup", loop("source", content=disk(rng)))
    old = rng.randbytes(SIZE)
    target = loop("target", content=old)
    world.good("restore", "latest", "--target", target, "--dry-run")
    assert target.read_bytes() == old
