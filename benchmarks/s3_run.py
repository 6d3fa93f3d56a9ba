"""Time pvback and its peers against one real S3 server, over loopback and through a slow link.

The server is MinIO, started for each program with an empty disk. Over loopback each backs up and restores
the same corpus. Through the link of `link.py` (latency, a rate that all connections share, both printed) each
backs up and restores many small files, and restores one large file that does not compress, which was backed
up with nothing in the way. Shares of the link are bytes that crossed it by what it could have carried in that
time, so that neither compression nor deduplication makes them look better; start-up counts. Before a restore
as much is written where it goes, and removed, so that nobody finds memory that others have not. Restored
trees are compared with their sources.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpora import checkout_corpus
from benchmarks.corpora_real import CORPORA
from benchmarks.link import Link, run_link
from benchmarks.machine import describe_machine
from benchmarks.measure import CommandFailed, exit_on_terminate, run_measured
from benchmarks.peers import cache_dir
from benchmarks.run import find_programs, work_dir
from benchmarks.s3_requests import make_s3_tool
from benchmarks.tools import Command, Restore, Tool
from benchmarks.trees import compare_manifests, read_manifest, split_differences
from tests.support.s3_servers import make_bucket, minio

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
OWN = "pvback"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One step by one program."""

    place: str
    """`loopback` or `link`."""
    corpus: str
    tool: str
    step: str
    source_bytes: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_bytes_peak: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    link_share: float = 0.0
    """Of what the busier direction could have carried."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What is backed up, and which steps are done through the link."""

    name: str
    source: Path
    steps: tuple[str, ...]
    bytes: int


class Race:
    """All programs on one corpus in one place, each on a server of its own."""

    def __init__(self, options: argparse.Namespace, work: Path, programs: dict[str, Path]) -> None:
        self._options, self._work, self._programs = options, work, programs

    def run(self, corpus: Corpus, *, is_slow: bool) -> Iterator[Timing]:
        """The steps of every program; one that fails ends that program's."""
        for name, program in self._programs.items():
            home = self._work / f"{name}-{corpus.name}-{'link' if is_slow else 'loopback'}"
            (home / "server").mkdir(parents=True)
            with minio(home / "server") as server, contextlib.ExitStack() as stack:
                make_bucket(server, "bucket")
                address = server.endpoint.partition("://")[2]
                link = stack.enter_context(self._link(address))
                where = link.address if is_slow else address
                tool = make_s3_tool(name, program, home / "home", where, access=server.environment)
                if tool is not None:
                    yield from self._steps(tool, corpus, link, home / "target", is_slow=is_slow)
            shutil.rmtree(home)

    def _link(self, address: str) -> contextlib.AbstractContextManager[Link]:
        rate = self._options.link_mb * 1e6
        return run_link(address, bytes_per_second=rate, round_trip_seconds=self._options.latency_ms / 1e3)

    def _steps(
        self, tool: Tool, corpus: Corpus, link: Link, target: Path, *, is_slow: bool
    ) -> Iterator[Timing]:
        target.mkdir()
        commands: dict[str, list[Command]] = {
            "init": tool.init(),
            "backup": [tool.backup(corpus.source)],
            "restore": [tool.restore(Restore(source=corpus.source, target=target))],
        }
        for step, parts in commands.items():
            if step != "init":
                use_room(target, corpus.bytes)
            link.shape(is_slow and step in corpus.steps)
            done = self._step(tool, corpus, link, (step, parts))
            if done.error or step in corpus.steps:
                yield done
            if done.error:
                return
        damage, _ = split_differences(compare_manifests(read_manifest(corpus.source), read_manifest(target)))
        if damage:
            yield _blank(tool, corpus, link, "compare", error=str(damage[0]))

    def _step(self, tool: Tool, corpus: Corpus, link: Link, what: tuple[str, list[Command]]) -> Timing:
        step, commands = what
        up, down = link.up.bytes_moved, link.down.bytes_moved
        try:
            usages = [
                run_measured(one.argv, env=tool.env(), cwd=one.cwd, is_settled=not self._options.unsettled)
                for one in commands
            ]
        except CommandFailed as exc:
            return _blank(tool, corpus, link, step, error=str(exc))
        wall = sum(one.wall_seconds for one in usages)
        moved = link.up.bytes_moved - up, link.down.bytes_moved - down
        blank = _blank(tool, corpus, link, step)
        done = Timing(
            **asdict(blank)
            | {
                "wall_seconds": wall,
                "cpu_seconds": sum(one.cpu_seconds for one in usages),
                "memory_bytes_peak": max(one.memory_bytes_peak for one in usages),
                "up_bytes": moved[0],
                "down_bytes": moved[1],
                "link_share": max(moved) / (wall * self._options.link_mb * 1e6) if link.is_shaped else 0.0,
            }
        )
        said = f"{wall:8.2f} s, {done.link_share:.0%} of the link" if link.is_shaped else f"{wall:8.2f} s"
        print(f"{done.place:9} {corpus.name:7} {step:8} {tool.label:11} {said}", file=sys.stderr, flush=True)
        return done


def use_room(folder: Path, size: int) -> None:
    """Write so many bytes below `folder` and remove them, or the first to restore pays for fresh pages.

    On a virtual machine whose memory comes from its host at first touch that is several seconds for 2 GiB.
    """
    block = random.Random(0).randbytes(MIB)
    path = folder / "room"
    with path.open("wb") as file:
        for _ in range(-(-size // MIB)):
            file.write(block)
    path.unlink()


def _blank(tool: Tool, corpus: Corpus, link: Link, step: str, *, error: str = "") -> Timing:
    place = "link" if link.is_shaped else "loopback"
    return Timing(
        place=place,
        corpus=corpus.name,
        tool=tool.label,
        step=step,
        source_bytes=corpus.bytes,
        error=error,
    )


def make_big_file(root: Path, mebibytes: int, seed: int) -> None:
    """One file that neither compresses nor repeats."""
    root.mkdir()
    rng = random.Random(f"s3-run-{seed}")
    with (root / "big").open("wb") as file:
        for _ in range(mebibytes):
            file.write(rng.randbytes(MIB))


def make_corpora(options: argparse.Namespace, work: Path) -> Iterator[tuple[Corpus, bool]]:
    """Each corpus, and whether it is for the link; made when its turn comes."""

    def sized(name: str, source: Path, *steps: str) -> Corpus:
        size = sum(one.lstat().st_size for one in source.rglob("*") if one.is_file() and not one.is_symlink())
        return Corpus(name=name, source=source, steps=steps, bytes=size)

    for name in options.corpora:
        source = work / name
        checkout_corpus(CORPORA[name], source, cache_dir(), scale=options.scale, seed=options.seed)
        yield sized(name, source, "backup", "restore"), False
    if options.files:
        source = work / "files"
        checkout_corpus(
            CORPORA["small"], source, cache_dir(), scale=options.files / 100_000, seed=options.seed
        )
        yield sized("files", source, "backup", "restore"), True
    if options.big_mib:
        make_big_file(work / "big", options.big_mib, options.seed)
        yield sized("big", work / "big", "restore"), True


def render_timings(timings: list[Timing]) -> str:
    """A markdown table; the ratio is the fastest peer's time by this program's."""
    lines = [
        "| where | corpus | step | tool | s | MB/s | x best peer | of the link | CPU s | peak MiB |",
        "|---|---|---|---|" + "--:|" * 6,
    ]
    for one in timings:
        head = f"| {one.place} | {one.corpus} | {one.step} | {one.tool} |"
        if one.error:
            lines.append(f"{head} FAILED: {' '.join(one.error.replace('|', ' ').split())[:120]} | | | | | |")
            continue
        same = [
            other.wall_seconds
            for other in timings
            if (other.place, other.corpus, other.step) == (one.place, one.corpus, one.step)
            and other.tool != OWN
            and not other.error
        ]
        ratio = f"{min(same) / one.wall_seconds:.2f}" if same else "-"
        share = f"{one.link_share:.0%}" if one.link_share else "-"
        lines.append(
            f"{head} {one.wall_seconds:.2f} | {one.source_bytes / 1e6 / one.wall_seconds:,.1f} | {ratio} "
            f"| {share} | {one.cpu_seconds:.2f} | {one.memory_bytes_peak / MIB:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3_run", description=__doc__)
    parser.add_argument("--corpora", nargs="*", choices=CORPORA, default=["postgres", "media"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the corpora over loopback (1.0)")
    parser.add_argument("--files", type=int, default=100_000, help="small files through the link; 0: none")
    parser.add_argument("--big-mib", type=int, default=8192, help="the large file through the link; 0: none")
    parser.add_argument("--latency-ms", type=float, default=50.0, help="a round trip through the link (50)")
    parser.add_argument("--link-mb", type=float, default=50.0, help="MB/s in each direction (50)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tools", nargs="+", default=[])
    parser.add_argument("--unsettled", action="store_true", help="do not wait for the disk")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and report. 0: done; 1: a step failed; 3: nothing to measure."""
    options = parse_options(argv)
    programs = find_programs(options.tools, install=False)
    timings: list[Timing] = []
    options.out.mkdir(parents=True, exist_ok=True)
    with work_dir(options.work) as work:
        machine = describe_machine(programs, work)
        for corpus, is_slow in make_corpora(options, work):
            timings += Race(options, work, programs).run(corpus, is_slow=is_slow)
            document = {
                "machine": machine,
                "latency_ms": options.latency_ms,
                "link_mb": options.link_mb,
                "timings": [asdict(one) for one in timings],
            }
            (options.out / "s3.json").write_text(json.dumps(document, indent=1) + "\n")
            (options.out / "s3.md").write_text(render_timings(timings))
            shutil.rmtree(corpus.source)
    conditions = f"link: {options.link_mb:g} MB/s, {options.latency_ms:g} ms a round trip"
    print(f"load before: {machine['load_before']}; {conditions}\n")
    print(render_timings(timings), end="")
    if not timings:
        return 3
    return 1 if any(one.error for one in timings) else 0


if __name__ == "__main__":
    exit_on_terminate()
    sys.exit(main())
