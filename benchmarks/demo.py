"""``make demo``: back up a real tree, change it, back it up again, restore both states, compare.

The tree is made of this machine's own libraries and shared files, topped up with generated database
files to at least 1 GiB, and with the nodes that backups get wrong: hard links, holes, extended
attributes, names that are not UTF-8. Manifests of both states are taken before anything is restored;
each restored tree must equal its manifest exactly, in content, types, modes, owners, times in
nanoseconds, links, holes and attributes. Nothing is left behind.

Exit codes: 0 everything equal; 1 a difference or a failed command; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.corpora import MIB, Words, list_files
from benchmarks.measure import disk_bytes, exit_on_terminate
from benchmarks.trees import Manifest, compare_manifests, file_bytes, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGINS = (Path("/usr/share"), Path("/usr/lib"))
"""Copied from in this order; each gives at most half of the real part."""

REAL_SHARE = 0.8
"""How much of the tree comes from real files, if the machine has that many."""

PAGE_BYTES = 8192
TABLE_PAGES = 4096
"""Pages per generated database file: 32 MiB."""

PLAIN_WIDTH = 110
"""Columns of the table where standard output is not a terminal."""

PVBACK = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "pvback"


class DemoFailed(Exception):
    """A command failed or a restored tree differs; the message is for people."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line of the table that the demo prints."""

    name: str
    seconds: float
    source_bytes: int
    new_bytes: int | None = None
    """Plaintext that was not in the repository before; None for a restore."""
    stored_bytes: int | None = None
    """Growth of the repository on disk; None for a restore."""


def copy_real_files(root: Path, bytes_max: int) -> None:
    """Copy files and symbolic links of this machine below ``root`` until ``bytes_max`` is reached.

    Unreadable files, special nodes and files over a quarter of the limit are left out.
    """
    left = bytes_max
    for number, origin in enumerate(ORIGINS):
        quota = left if number == len(ORIGINS) - 1 else left // 2
        for directory, names, files in os.walk(origin):
            if quota < bytes_max // 1000:
                break
            names.sort()
            place = root / Path(directory).relative_to("/")
            for name in sorted(files):
                source = Path(directory, name)
                if source.is_symlink() or (source.is_file() and os.access(source, os.R_OK)):
                    size = source.lstat().st_size
                    if size > min(quota, bytes_max // 4):
                        continue
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, place / name, follow_symlinks=False)
                    quota -= size
                    left -= size


def write_table(path: Path, rng: random.Random, words: Words, *, bytes_total: int) -> None:
    """A file shaped like a database table: 8 KiB pages with a header, rows, and free room."""
    with path.open("wb") as table:
        for number in range(bytes_total // PAGE_BYTES):
            rows = words.read(rng.randint(PAGE_BYTES // 3, PAGE_BYTES - 64))
            keys = rng.randbytes(48)
            page = number.to_bytes(8, "little") + keys + rows
            table.write(page.ljust(PAGE_BYTES, b"\0"))


def plant_odd_nodes(root: Path, rng: random.Random) -> None:
    """Nodes that are easily lost: links, holes, attributes, raw names, odd modes and times."""
    odd = root / "odd"
    odd.mkdir()
    (odd / "one name").write_bytes(rng.randbytes(70_000))
    os.link(odd / "one name", odd / "another name")
    (odd / "dangling").symlink_to("../nowhere/at all")
    Path(os.fsdecode(os.fsencode(odd) + b"/latin-\xe9\xff")).write_bytes(b"not UTF-8\n")
    (odd / ("n" * 255)).write_bytes(b"the longest name\n")
    (odd / "empty").touch()
    (odd / "empty directory").mkdir(mode=0o750)
    os.mkfifo(odd / "fifo")
    with (odd / "holes").open("wb") as sparse:
        sparse.truncate(64 * MIB)
        for offset in (0, 17 * MIB + 4096, 50 * MIB):
            sparse.seek(offset)
            sparse.write(rng.randbytes(300_000))
    (odd / "one name").chmod(0o2640)
    os.utime(odd / "empty", ns=(0, 1_234_567_890_123_456_789))
    with contextlib.suppress(OSError):
        os.setxattr(odd / "empty", "user.note", b"kept \0 raw")


def make_tree(root: Path, *, bytes_total: int, seed: int) -> None:
    """Fill ``root`` with at least ``bytes_total`` bytes of real and generated files."""
    rng = random.Random(f"demo-{seed}")
    root.mkdir()
    copy_real_files(root, int(bytes_total * REAL_SHARE))
    plant_odd_nodes(root, rng)
    database = root / "database"
    database.mkdir()
    words = Words(rng)
    missing = bytes_total - sum(path.stat().st_size for path in list_files(root) if "odd" not in path.parts)
    for number in range(max(1, -(-missing // (TABLE_PAGES * PAGE_BYTES)))):
        path = database / f"table.{number}"
        write_table(path, rng, words, bytes_total=min(bytes_total, TABLE_PAGES * PAGE_BYTES))


def change_tree(root: Path, *, seed: int) -> None:
    """A day's work: edit, append, rename, delete and add files; update pages in the tables."""
    rng = random.Random(f"demo-change-{seed}")
    tables = sorted((root / "database").iterdir())
    for path in tables:
        with path.open("r+b") as table:
            pages = path.stat().st_size // PAGE_BYTES
            for page in rng.sample(range(pages), max(1, pages // 100)):
                table.seek(page * PAGE_BYTES + 8)
                table.write(rng.randbytes(48))
    with tables[0].open("ab") as table:
        table.write(rng.randbytes(64 * PAGE_BYTES))
    files = [path for path in list_files(root / "usr") if path.stat().st_nlink == 1]
    rng.shuffle(files)
    share = max(1, len(files) // 200)
    for path in files[:share]:
        data = path.read_bytes()
        path.chmod(path.stat().st_mode | 0o200)
        path.write_bytes(data[: len(data) // 2] + b"edited" + data[len(data) // 2 :])
    for path in files[share : 2 * share]:
        path.rename(path.with_name(f"{path.name}.old"[-255:]))
    for path in files[2 * share : 3 * share]:
        path.unlink()
    for number in range(share):
        (root / f"added-{number}").write_bytes(rng.randbytes(rng.randint(0, 100_000)))
    (root / "odd" / "dangling").unlink()
    (root / "odd" / "dangling").symlink_to("somewhere else")


class Demo:
    """One run in a scratch directory: the repository, the tree, and the steps so far."""

    def __init__(self, program: Path, work: Path) -> None:
        self.program = program
        self.tree = work / "tree"
        self.repository = work / "repository"
        self.target = work / "restored"
        self.steps: list[Step] = []
        self._env = os.environ | {
            "PVBACK_REPOSITORY": str(self.repository),
            "PVBACK_PASSWORD": "demo",
            "PVBACK_CACHE_DIR": str(work / "cache"),
        }

    def call(self, *args: str | Path) -> list[Any]:
        """Run pvback with ``--json``; return its documents. Raises DemoFailed."""
        argv = [str(self.program), "--json", *map(str, args)]
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip() or done.stdout.strip()
            raise DemoFailed(f"`pvback {args[0]}` ended with {done.returncode}: {said[-2000:]}")
        return list(read_documents(done.stdout))

    def backup(self, name: str) -> tuple[str, Manifest]:
        """Back up the tree as it is; return the snapshot's id and the manifest to expect."""
        known = {one["id"] for one in self.snapshots()}
        manifest = read_manifest(self.tree)
        before = disk_bytes(self.repository)[0]
        started = time.monotonic()
        self.call("backup", self.tree)
        seconds = time.monotonic() - started
        (snapshot,) = [one for one in self.snapshots() if one["id"] not in known]
        self.steps.append(
            Step(
                name=name,
                seconds=seconds,
                source_bytes=file_bytes(manifest),
                new_bytes=snapshot.get("stats", {}).get("new_bytes"),
                stored_bytes=disk_bytes(self.repository)[0] - before,
            )
        )
        return str(snapshot["id"]), manifest

    def snapshots(self) -> list[dict[str, Any]]:
        """All snapshots as ``pvback snapshots --json`` tells them."""
        (found,) = self.call("snapshots")
        return list(found)

    def restore(self, name: str, snapshot: str, manifest: Manifest) -> None:
        """Restore one snapshot into an empty directory and compare. Raises DemoFailed."""
        started = time.monotonic()
        self.call("restore", snapshot, "--target", self.target)
        seconds = time.monotonic() - started
        found = compare_manifests(manifest, read_manifest(self.target))
        if found:
            said = "\n".join(f"  {one}" for one in found[:20])
            raise DemoFailed(f"{name}: {len(found)} differences, the first are\n{said}")
        self.steps.append(Step(name=name, seconds=seconds, source_bytes=file_bytes(manifest)))
        shutil.rmtree(self.target)


def read_documents(text: str) -> Iterator[Any]:
    """JSON documents that follow one another, each on one line or on many."""
    decoder = json.JSONDecoder()
    rest = text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()


def make_table(steps: list[Step]) -> Table:
    """The figures of a run; throughput is of the tree's bytes, holes included."""
    table = Table(title="pvback demo")
    table.add_column("step")
    for name in ("tree", "time", "throughput", "dedup", "compression", "stored"):
        table.add_column(name, justify="right")
    for step in steps:
        table.add_row(
            step.name,
            f"{step.source_bytes / MIB:,.0f} MiB",
            f"{step.seconds:.2f} s",
            f"{step.source_bytes / 1e6 / step.seconds:,.0f} MB/s",
            _ratio(step.source_bytes, step.new_bytes),
            _ratio(step.new_bytes, step.stored_bytes),
            "" if step.stored_bytes is None else f"{step.stored_bytes / MIB:,.1f} MiB",
        )
    return table


def _ratio(whole: int | None, part: int | None) -> str:
    return f"{whole / part:,.1f} x" if whole and part else ""


def run_demo(program: Path, *, bytes_total: int, seed: int, parent: Path | None) -> list[Step]:
    """The whole story in a scratch directory that is removed at the end. Raises DemoFailed."""
    with tempfile.TemporaryDirectory(prefix="pvback-demo-", dir=parent) as scratch:
        demo = Demo(program, Path(scratch))
        make_tree(demo.tree, bytes_total=bytes_total, seed=seed)
        demo.call("init")
        first, first_manifest = demo.backup("first backup")
        change_tree(demo.tree, seed=seed)
        second, second_manifest = demo.backup("after changes")
        if first_manifest == second_manifest:
            raise DemoFailed("the tree did not change between the two backups")
        demo.restore("restore of the first", first, first_manifest)
        demo.restore("restore of the second", second, second_manifest)
        return demo.steps


def main(argv: list[str] | None = None) -> int:
    """Run the demo and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo")
    parser.add_argument("--size-mib", type=int, default=1100, help="least size of the tree (1100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where the scratch directory is made")
    parser.add_argument("--program", type=Path, default=PVBACK, help="the pvback to run")
    options = parser.parse_args(argv)
    if not options.program.exists():
        print(f"error: no `{options.program}`\n\nhint: run `make build` first", file=sys.stderr)
        return 1
    size = options.size_mib * MIB
    try:
        steps = run_demo(options.program, bytes_total=size, seed=options.seed, parent=options.work)
    except DemoFailed as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(make_table(steps))
    console.print("Both restored trees are equal to what was backed up.")
    return 0


if __name__ == "__main__":
    exit_on_terminate()
    sys.exit(main())
