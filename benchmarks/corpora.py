"""The data that is backed up: corpora, their second states, and the cache that keeps them.

Every corpus is a directory in two states. The first is built once for a scale and a seed, kept
in a cache outside the tree and copied for each run; the second is made by changing that copy in
place, as the owner of the data would, so that inode numbers and times of untouched files stay.
Generated corpora are equal byte for byte for equal (scale, seed); real ones (`corpora_real`) are
equal within one cache.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORMAT = 1
"""Raised whenever a generator changes, so that no cached corpus of another shape is used."""

MIB = 1 << 20
BLOCK_BYTES = 4096

SMALL_FILES = 100_000
SMALL_MEDIAN_BYTES = 2000
SMALL_SIGMA = 1.2
"""Log-normal with this median and sigma has a mean of 4.1 KiB and a long tail."""

MEDIA_BYTES = 1536 * MIB
IMAGE_BYTES = 10 * 1024 * MIB
IMAGE_DATA_SHARE = 0.1
IMAGE_CHANGED_SHARE = 0.02

EPOCH_NS = 1_500_000_000 * 10**9
"""Generated modification times lie within five years after this."""


class CorpusUnavailable(Exception):
    """A corpus cannot be made on this machine; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One kind of data: how its first state is built, and how that becomes the second."""

    name: str
    title: str
    build: Callable[[Path, float, int], None]
    """Fill an empty directory, given scale (1.0 is the measuring size) and seed."""
    change: Callable[[Path, float, int], None]
    """Change the directory in place to its second state."""


def checkout_corpus(corpus: Corpus, root: Path, cache: Path, *, scale: float, seed: int) -> None:
    """Make the first state of ``corpus`` at ``root``, which must not exist.

    Taken from the cache, which is filled first when needed. Raises CorpusUnavailable.
    """
    kept = cache / "corpora" / f"{corpus.name}-{scale:g}-{seed}-{FORMAT}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="corpus-") as scratch:
            Path(scratch).chmod(0o711)
            fresh = Path(scratch) / "tree"
            fresh.mkdir(mode=0o755)
            corpus.build(fresh, scale, seed)
            partial = kept.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            copy_tree(fresh, partial)
            partial.rename(kept)
    copy_tree(kept, root)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with everything a backup must keep; ``target`` must not exist."""
    argv = ["cp", "-a", "--sparse=always", "--reflink=auto", str(source), str(target)]
    subprocess.run(argv, check=True)


class Words:
    """Text that compresses like prose and source code do (about 3:1), from a seeded generator."""

    def __init__(self, rng: random.Random, *, vocabulary: int = 4000) -> None:
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        words = [
            "".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(2, 11))) for _ in range(vocabulary)
        ]
        self._rng = rng
        self._pool = [word for rank, word in enumerate(words, 1) for _ in range(1 + 300 // rank)]

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes of text."""
        text = ""
        while len(text) < length:
            missing = length - len(text)
            text += " ".join(self._rng.choices(self._pool, k=missing // 5 + 2)) + "\n"
        return text[:length].encode()


def _content(rng: random.Random, words: Words, length: int) -> bytes:
    """Content of one small file: three of four are text, the rest is incompressible."""
    return words.read(length) if rng.random() < 0.75 else rng.randbytes(length)


def _small_bytes(rng: random.Random) -> int:
    return min(int(rng.lognormvariate(0, SMALL_SIGMA) * SMALL_MEDIAN_BYTES), MIB)


def _set_mtime(path: Path, rng: random.Random) -> None:
    mtime_ns = EPOCH_NS + rng.randrange(5 * 365 * 86400 * 10**9)
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def build_small(root: Path, scale: float, seed: int) -> None:
    """Many small files: directories of about a dozen entries, up to seven deep, as in a home
    directory full of packages; with some symbolic and hard links and all common modes."""
    rng = random.Random(f"small-{seed}")
    words = Words(rng)
    count = max(50, int(SMALL_FILES * scale))
    directories = [root]
    for number in range(count // 12):
        parent = rng.choice(directories[-400:])
        if len(parent.relative_to(root).parts) >= 7:
            parent = root
        directory = parent / f"{words.read(6).decode().strip()}-{number:x}"
        directory.mkdir()
        directories.append(directory)
    last = root
    for number in range(count):
        directory = rng.choice(directories)
        path = directory / f"f{number:06x}.{rng.choice(('js', 'json', 'py', 'md', 'png', 'so'))}"
        draw = rng.random()
        if draw < 0.01:
            path.symlink_to(os.path.relpath(last, directory))
        elif draw < 0.012 and last.is_file():
            os.link(last, path)
            continue
        else:
            path.write_bytes(_content(rng, words, _small_bytes(rng)))
            path.chmod(rng.choice((0o644, 0o644, 0o644, 0o755, 0o600)))
            last = path
        _set_mtime(path, rng)
    for directory in reversed(directories):
        _set_mtime(directory, rng)


def change_small(root: Path, _scale: float, seed: int) -> None:
    """Edit 1 % of the files; add, remove and rename half a percent each."""
    rng = random.Random(f"small-change-{seed}")
    words = Words(rng)
    files = [path for path in list_files(root) if path.stat().st_nlink == 1]
    rng.shuffle(files)
    step = max(1, len(files) // 200)
    for number, path in enumerate(files[: 2 * step]):
        data = bytearray(path.read_bytes())
        middle = rng.randint(0, len(data))
        data[middle:middle] = words.read(rng.randint(1, 200))
        path.write_bytes(data)
        path.with_name(f"{path.name}.new{number:x}").write_bytes(words.read(_small_bytes(rng)))
    for path in files[2 * step : 3 * step]:
        path.unlink()
    for path in files[3 * step : 4 * step]:
        path.rename(path.with_name(f"moved-{path.name}"))


def list_files(root: Path) -> list[Path]:
    """Regular files below ``root``, in a fixed order."""
    found = []
    for directory, names, files in os.walk(root):
        names.sort()
        found += [Path(directory, name) for name in sorted(files)]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _write_random(path: Path, rng: random.Random, length: int) -> None:
    with path.open("wb") as handle:
        for start in range(0, length, MIB):
            handle.write(rng.randbytes(min(MIB, length - start)))


def build_media(root: Path, scale: float, seed: int) -> None:
    """Incompressible files of 5 to 200 MB (times the scale), no two alike."""
    rng = random.Random(f"media-{seed}")
    missing = int(MEDIA_BYTES * scale)
    for number in range(10_000):
        length = min(missing, int(rng.uniform(5e6, 200e6) * min(1.0, scale)))
        _write_random(root / f"clip{number:04}.mp4", rng, length)
        missing -= length
        if missing <= 0:
            break


def change_media(root: Path, scale: float, seed: int) -> None:
    """Rename one file, delete one, add one: media are rarely edited in place."""
    rng = random.Random(f"media-change-{seed}")
    files = list_files(root)
    files[0].rename(root / "renamed.mp4")
    if len(files) > 2:
        files[1].unlink()
    _write_random(root / "added.mp4", rng, int(50e6 * min(1.0, scale)))


def _image_extents(rng: random.Random, length: int) -> Iterator[tuple[int, int]]:
    """Non-overlapping allocated ranges (start, length), whole blocks, ascending."""
    start = 0
    while True:
        extent = BLOCK_BYTES * rng.randint(16, 1024)
        start += BLOCK_BYTES * int(extent / BLOCK_BYTES * rng.expovariate(IMAGE_DATA_SHARE))
        if start + extent > length:
            return
        yield start, extent
        start += extent


def build_sparse(root: Path, scale: float, seed: int) -> None:
    """A sparse disk image: 10 GiB long, a tenth of it allocated, half of that compressible."""
    rng = random.Random(f"sparse-{seed}")
    words = Words(rng)
    length = max(64 * MIB, int(IMAGE_BYTES * scale)) // BLOCK_BYTES * BLOCK_BYTES
    with (root / "disk.img").open("wb") as image:
        image.truncate(length)
        for start, extent in _image_extents(rng, length):
            image.seek(start)
            image.write(words.read(extent) if rng.random() < 0.5 else rng.randbytes(extent))


def _data_ranges(handle: int, length: int) -> Iterator[tuple[int, int]]:
    """Allocated ranges (start, end) of an open file, as the file system tells them."""
    end = 0
    while end < length:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows
            return
        end = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, end


def change_sparse(root: Path, _scale: float, seed: int) -> None:
    """Rewrite 2 % of the allocated blocks in place, in runs of eight."""
    rng = random.Random(f"sparse-change-{seed}")
    run = 8 * BLOCK_BYTES
    with (root / "disk.img").open("r+b", buffering=0) as image:
        length = os.fstat(image.fileno()).st_size
        for start, end in list(_data_ranges(image.fileno(), length)):
            for offset in range(start, end - run + 1, run):
                if rng.random() < IMAGE_CHANGED_SHARE:
                    os.pwrite(image.fileno(), rng.randbytes(run), offset)


GENERATED = (
    Corpus(
        name="small",
        title="100,000 small files",
        build=build_small,
        change=change_small,
    ),
    Corpus(
        name="media",
        title="incompressible media",
        build=build_media,
        change=change_media,
    ),
    Corpus(
        name="sparse",
        title="sparse disk image, 10 GiB",
        build=build_sparse,
        change=change_sparse,
    ),
)
