"""Measure pvback and its peers on the same work; ``make bench`` runs ``python -m benchmarks.run``.

For each corpus and round, every step is done by all tools in turn before the next step begins, and
the order rotates from round to round, so that a slow minute of the machine hits everybody. All
restored trees are compared with the source. Results go to ``benchmarks/out/``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpora import Corpus, CorpusUnavailable, checkout_corpus, list_files
from benchmarks.corpora_real import CORPORA
from benchmarks.machine import describe_machine
from benchmarks.measure import CommandFailed, Usage, disk_bytes, exit_on_terminate, run_measured
from benchmarks.peers import PEERS, cache_dir, find_peer, install_peers
from benchmarks.report import write_reports
from benchmarks.tools import Command, Restore, Tool, make_tools
from benchmarks.trees import (
    Manifest,
    compare_manifests,
    file_bytes,
    read_manifest,
    split_differences,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TREE = Path(__file__).resolve().parent.parent
TINY_SCALE = 0.005
TINY_CORPORA = ("small", "sparse")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One step by one tool in one round."""

    corpus: str
    round: int
    tool: str
    step: str
    source_bytes: int
    source_entries: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    sync_seconds: float = 0.0
    memory_bytes_peak: int = 0
    repository_bytes: int = 0
    repository_objects: int = 0
    objects_written: int = 0
    """Objects that this step added to the repository: the least number of requests to write it."""
    lost: dict[str, int] = field(default_factory=dict)
    """How often the tool did not bring back an aspect, such as hard links."""
    damage: list[str] = field(default_factory=list)
    """Wrong content, names or types: a restore that failed. At most ten are kept."""
    error: str = ""


class Bench:
    """One corpus in one round: the source, the tools, and the results so far."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace, work: Path) -> None:
        self.corpus = corpus
        self.options = options
        self.work = work
        self.source = work / "source"
        self.manifest: Manifest = {}
        self.results: list[Result] = []
        self.round = 0
        self._broken: set[str] = set()

    def run(self, programs: dict[str, Path], number: int) -> list[Result]:
        """Do all steps of one round. Raises CorpusUnavailable."""
        self.round = number
        self._checkout(self.source)
        tools = make_tools(programs, self.work / "tools")
        shift = number % max(1, len(tools))
        tools = tools[shift:] + tools[:shift]
        for tool in tools:
            for command in tool.init():
                self._attempt(tool, "init", command)
        self._read_source()
        self._each(tools, "first", lambda tool: tool.backup(self.source))
        self._each(tools, "unchanged", lambda tool: tool.backup(self.source))
        self._each(tools, "full re-read", lambda tool: tool.backup(self.source, force=True))
        self.corpus.change(self.source, self.options.scale, self.options.seed)
        self._read_source()
        self._each(tools, "changed", lambda tool: tool.backup(self.source))
        for step in ("restore", "restore in place"):
            for tool in tools:
                self._restore(tool, step)
        return self.results

    def _checkout(self, root: Path) -> None:
        scale, seed = self.options.scale, self.options.seed
        checkout_corpus(self.corpus, root, cache_dir(), scale=scale, seed=seed)

    def _read_source(self) -> None:
        """Take the manifest of the source, which also leaves it in the page cache."""
        self.manifest = read_manifest(self.source)

    def _each(self, tools: list[Tool], step: str, make: Callable[[Tool], Command]) -> None:
        for tool in tools:
            if tool.label not in self._broken:
                self._attempt(tool, step, make(tool))

    def _attempt(self, tool: Tool, step: str, command: Command) -> Result:
        """Run one command and record it; a tool that fails a backup is out of this round."""
        blank = Result(
            corpus=self.corpus.name,
            round=self.round,
            tool=tool.label,
            step=step,
            source_bytes=file_bytes(self.manifest),
            source_entries=len(self.manifest),
        )
        objects_before = disk_bytes(tool.repository)[1]
        try:
            usage = run_measured(
                command.argv, env=tool.env(), cwd=command.cwd, is_settled=not self.options.tiny
            )
        except CommandFailed as exc:
            result = replace(blank, error=str(exc))
            if not step.startswith("restore"):
                self._broken.add(tool.label)
        else:
            result = _with_usage(blank, usage, disk_bytes(tool.repository), objects_before)
        if step != "init" or result.error:
            self.results.append(result)
            _say(result)
        return result

    def _restore(self, tool: Tool, step: str) -> None:
        """Restore and compare; ``in place`` starts from the older state with some damage."""
        if tool.label in self._broken:
            return
        in_place = step == "restore in place"
        target = self.work / "target"
        if in_place:
            self._checkout(target)
            damage_tree(target, self.options.seed)
        else:
            target.mkdir()
        order = Restore(
            source=self.source,
            target=target,
            in_place=in_place,
            is_sparse=self.corpus.name == "sparse",
        )
        result = self._attempt(tool, step, tool.restore(order))
        if not result.error:
            found = compare_manifests(self.manifest, read_manifest(target))
            damage, lost = split_differences(found)
            if in_place and not tool.deletes_extra:
                damage = [one for one in damage if one.aspect != "extra"]
                lost["extra"] = sum(one.aspect == "extra" for one in found)
            said = [str(one) for one in damage[:10]]
            self.results[-1] = replace(result, damage=said, lost=dict(lost))
            for line in said:
                print(f"!!! WRONG RESTORE by {tool.label}: {line}", file=sys.stderr)
        shutil.rmtree(target)


def damage_tree(root: Path, seed: int) -> None:
    """Hurt a tree as an accident would: one file in a hundred truncated, one in a hundred lost,
    at least one of each; sizes and times change, so that every tool can notice by its defaults."""
    rng = random.Random(f"damage-{seed}")
    files = [path for path in list_files(root) if path.stat().st_nlink == 1]
    rng.shuffle(files)
    share = max(1, len(files) // 100)
    for path in files[:share]:
        os.truncate(path, path.stat().st_size // 2)
    if len(files) > 2 * share:
        for path in files[share : 2 * share]:
            path.unlink()


def _with_usage(blank: Result, usage: Usage, repository: tuple[int, int], objects_before: int) -> Result:
    return replace(
        blank,
        wall_seconds=usage.wall_seconds,
        cpu_seconds=usage.cpu_seconds,
        sync_seconds=usage.sync_seconds,
        memory_bytes_peak=usage.memory_bytes_peak,
        repository_bytes=repository[0],
        repository_objects=repository[1],
        objects_written=max(0, repository[1] - objects_before),
    )


def _say(result: Result) -> None:
    text = result.error or f"{result.wall_seconds:8.2f} s {result.cpu_seconds:8.2f} cpu s"
    line = f"{result.corpus:9} #{result.round} {result.step:16} {result.tool:11} {text}"
    print(line, file=sys.stderr, flush=True)


@contextmanager
def work_dir(parent: Path | None) -> Iterator[Path]:
    """A scratch directory that an unprivileged database server can pass through."""
    with tempfile.TemporaryDirectory(prefix="pvback-bench-", dir=parent) as scratch:
        Path(scratch).chmod(0o711)
        yield Path(scratch)


def find_programs(wanted: list[str], *, install: bool) -> dict[str, Path]:
    """Programs to measure, by name; what is missing is said loudly and left out."""
    programs: dict[str, Path] = {}
    own = TREE / ".venv" / "bin" / "pvback"
    if own.exists():
        programs["pvback"] = own
    else:
        print("!!! NOT MEASURED: pvback: no .venv/bin/pvback", file=sys.stderr)
    if install:
        programs |= install_peers()
    else:
        programs |= {peer.name: found for peer in PEERS if (found := find_peer(peer))}
    return {name: path for name, path in programs.items() if not wanted or name in wanted}


def measure_all(options: argparse.Namespace, programs: dict[str, Path]) -> Iterator[list[Result]]:
    """The results of each round of each corpus; a corpus that cannot be made here is left out loudly."""
    for name in options.corpora:
        for number in range(options.rounds):
            with work_dir(options.work) as work:
                try:
                    yield Bench(CORPORA[name], options, work).run(programs, number)
                except CorpusUnavailable as exc:
                    print(f"\n!!! NOT MEASURED: corpus {name}: {exc}\n", file=sys.stderr)
                    break


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """Command line of the harness."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small generated corpora, one round")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the corpora (1.0)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per corpus (3)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpora (1)")
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--tools", nargs="+", default=[], help="only these programs")
    parser.add_argument("--work", type=Path, help="where sources, repositories and targets lie")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--no-install", action="store_true", help="measure only what is there")
    options = parser.parse_args(argv)
    if options.tiny:
        options.scale, options.rounds, options.corpora = TINY_SCALE, 1, list(TINY_CORPORA)
        options.no_install = True
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and report. 0: done; 1: a tool failed or restored wrongly; 3: nothing to measure."""
    options = parse_options(argv)
    programs = find_programs(options.tools, install=not options.no_install)
    if not programs:
        print("error: there is no program to measure", file=sys.stderr)
        return 3
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(programs, options.work or Path(tempfile.gettempdir()))
    document: dict[str, Any] = {"machine": machine, "scale": options.scale, "seed": options.seed}
    results: list[Result] = []
    options.out.mkdir(parents=True, exist_ok=True)
    text = ""
    for fresh in measure_all(options, programs):  # Written each time: an interrupted run keeps what it has.
        results += fresh
        document["results"] = [asdict(result) for result in results]
        (options.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        text = write_reports(document, options.out)
    print(text, end="")
    if not results:
        return 3
    return 1 if any(result.error or result.damage for result in results) else 0


if __name__ == "__main__":
    exit_on_terminate()
    sys.exit(main())
