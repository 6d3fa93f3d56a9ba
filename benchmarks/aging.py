"""What age does to a restore: rounds of changes, each backed up and pruned, beside a repository made anew.

Prune writes packs again; how far what lies together in a tree still lies together in packs shows in the
ranged reads of a restore of the newest snapshot, and in the bytes that come with them. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.corpora import checkout_corpus
from benchmarks.corpora_real import CORPORA
from benchmarks.peers import cache_dir
from benchmarks.run import work_dir
from benchmarks.tools import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "image"
IMAGE_BYTES = 512 << 20
PAGE_BYTES = 8 << 10
CHANGED_SHARE = 0.01


@dataclass(frozen=True)
class Client:
    """Runs commands on one repository."""

    repository: Path
    cache: Path

    def run(self, *words: str) -> dict[str, Any]:
        """The last line of its JSON. Raises CalledProcessError."""
        variables = {
            "PVBACK_REPOSITORY": str(self.repository),
            "PVBACK_CACHE_DIR": str(self.cache),
            "PVBACK_PASSWORD": PASSWORD,
        }
        done = subprocess.run(
            [sys.executable, "-m", "pvback", *words, "--json"],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def restore(self, target: Path) -> tuple[int, int]:
        """Reads and bytes of a restore of the newest snapshot, with an empty cache."""
        shutil.rmtree(self.cache)
        used = self.run("restore", "latest", "--target", str(target))["store"]
        shutil.rmtree(target)
        return used["requests"]["read"], used["received_bytes"]


def change(source: Path, corpus: str, scale: float, seed: int) -> None:
    """One round: a hundredth of an image's pages anywhere, or what the corpus does."""
    if corpus != IMAGE:
        CORPORA[corpus].change(source, scale, seed)
        return
    chances = random.Random(seed)
    pages = int(IMAGE_BYTES * scale) // PAGE_BYTES
    with (source / "image").open("r+b") as file:
        for page in sorted(chances.sample(range(pages), int(pages * CHANGED_SHARE))):
            file.seek(page * PAGE_BYTES)
            file.write(chances.randbytes(PAGE_BYTES))


def main(argv: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aging", description=__doc__)
    parser.add_argument("--corpus", choices=[*CORPORA, IMAGE], default="small")
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep", default="3", help="snapshots that each round leaves")
    options = parser.parse_args(argv)
    print("| corpus | rounds | reads | MiB read | reads, anew | MiB, anew |\n|---|--:|--:|--:|--:|--:|")
    with work_dir(None) as work:
        source = work / "source"
        if options.corpus == IMAGE:
            source.mkdir()
            chances = random.Random(0)
            with (source / "image").open("wb") as file:
                for _ in range(int(IMAGE_BYTES * options.scale) // PAGE_BYTES):
                    file.write(chances.randbytes(PAGE_BYTES))
        else:
            checkout_corpus(CORPORA[options.corpus], source, cache_dir(), scale=options.scale, seed=1)
        old = Client(work / "old", work / "old-cache")
        old.run("init")
        old.run("backup", str(source))
        for number in range(1, options.rounds + 1):
            change(source, options.corpus, options.scale, number)
            old.run("backup", str(source))
            old.run("forget", "--keep-last", options.keep)
            old.run("prune", "--grace", "0s", "--keep-unused", "0s")
            if number in (1, 10) or number == options.rounds:
                new = Client(work / "new", work / "new-cache")
                new.run("init")
                new.run("backup", str(source))
                cells = [one.restore(work / "target") for one in (old, new)]
                shutil.rmtree(new.repository)
                counts = " | ".join(f"{reads} | {size / 2**20:.1f}" for reads, size in cells)
                print(f"| {options.corpus} | {number} | {counts} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
