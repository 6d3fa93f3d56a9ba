"""Measure what the size of a repository's index costs: a backup into it, and the mark of a prune.

The index is synthetic and real: runs and reference sets as the data path writes them, made by
`native/core/examples/big_index.rs` with the keys of a repository that `init` made, named by a `gc/state` and
by committed registers and records like any other. Packs are absent, because neither of the two reads one. For
each size are measured

- a backup of the same source with nothing remembered from before, in a process of its own;
- the mark as prune does it: all reference sets counted, the index joined with the counts, and the merge of
  all runs, in one process with the peak of memory for each step.

The size 0 is a repository as `init` makes it; bars are differences to it. With `--minio` both are done in a
bucket of a MinIO that is started for it, into which the repository is put as it is.
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
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from blake3 import blake3

from benchmarks.machine import describe_machine
from benchmarks.measure import CommandFailed, disk_bytes, exit_on_terminate, run_measured
from benchmarks.report import Panels, render_panels
from benchmarks.run import TREE, find_programs, work_dir
from benchmarks.tools import PASSWORD, Pvback
from pvback.config import Secret, load_config
from pvback.ops.facade import init_repository
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.gcstate import Marks, list_index, load_gc_state, swap_gc_state
from pvback.repository.layout import Area
from pvback.repository.records import FinishedTree, RecordDetails, Root, SourceIdentity, plan_record
from pvback.repository.registers import read_register
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.repository.session import WriterSession
from tests.support.s3_servers import client_of, make_bucket, minio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.s3_servers import S3Server

T = TypeVar("T")

MIB = 1 << 20
SIZES = (0, 200_000, 2_000_000, 20_000_000)
UNUSED_ONE_IN = 20
PACK_ENTRIES = 500
"""Sealed chunks of 256 KiB in a pack of 128 MiB, less what its directory takes."""
RUN_ENTRIES = 1 << 20
MARK_STEPS = ("count", "usage", "merge")
PVBACK_VARIABLES = {
    "PVBACK_REPOSITORY": "{repository}",
    "PVBACK_PASSWORD": "{password}",
    "PVBACK_CACHE_DIR": "{home}/cache",
}
BUCKET = "bucket"
BARS = {"backup s": 5.0, "backup MiB": 300.0, "mark s": 300.0, "mark MiB": 512.0}


@dataclass(kw_only=True)
class Cost:
    """What one size of the index costs. Seconds are wall time; of backups medians over the rounds."""

    chunks: int
    index_bytes: int = 0
    refs_bytes: int = 0
    make_seconds: float = 0.0
    backup_seconds: float = 0.0
    backup_cpu_seconds: float = 0.0
    backup_memory_bytes: int = 0
    mark_seconds: dict[str, float] = field(default_factory=dict)
    mark_memory_bytes: dict[str, int] = field(default_factory=dict)
    needed: int = 0
    digest: str = ""
    """Of what the mark found, so that a fast wrong answer is seen."""


def build_maker(profile: str) -> Path:
    """The program that makes runs and reference sets, built by cargo. Raises CalledProcessError."""
    argv = ["cargo", "build", "--quiet", "--locked", "--manifest-path", "native/Cargo.toml"]
    argv += ["--package", "pvback-core", "--example", "big_index", "--profile", profile]
    argv += ["--message-format", "json-render-diagnostics"]
    done = subprocess.run(argv, cwd=TREE, check=True, stdout=subprocess.PIPE, text=True)
    made = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(one["executable"] for one in made if one.get("target", {}).get("name") == "big_index"))


def make_source(root: Path, mebibytes: int, seed: int) -> None:
    """Files of up to 16 MiB, half of each of which is easy to compress."""
    root.mkdir()
    rng = random.Random(f"big-index-{seed}")
    easy = bytes(one & 15 for one in range(256))
    left = mebibytes
    while left > 0:
        size = min(16, left)
        with (root / f"{left:06}").open("wb") as file:
            for _ in range(size):
                file.write(rng.randbytes(MIB // 2) + rng.randbytes(MIB // 2).translate(easy))
        left -= size


def make_repository(
    root: Path, maker: Path | None, *, chunks: int, snapshots: int, seed: int, run_entries: int = RUN_ENTRIES
) -> None:
    """A repository at ``root`` whose index lists so many chunks, all but a few needed by each snapshot."""
    init_repository(root, PASSWORD).close()
    if not chunks:
        return
    assert maker is not None, "something is to be made"
    access = open_access(root)
    source = access.keyring.source_id(access.objects.scope, "synthetic")
    sessions = [WriterSession(access.objects, source, clock=access.clock) for _ in range(snapshots)]
    plan = {
        "gen": sessions[0].register.ack,
        "chunks": chunks,
        "unused_one_in": UNUSED_ONE_IN,
        "run_entries": run_entries,
        "pack_entries": PACK_ENTRIES,
        "seed": seed,
        "snapshots": [session.snapshot for session in sessions],
    }
    done = subprocess.run(
        [maker, root, access.objects.scope],
        input=json.dumps(plan).encode(),
        env={**os.environ, "PVBACK_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        check=True,
    )
    made = json.loads(done.stdout)
    heads: list[tuple[int, str]] = []
    for session in sessions:
        heads.append(_commit(session, made["refs"][session.snapshot], plan_record(heads)))
    stored = load_gc_state(access.objects)
    roster = frozenset(session.register.name for session in sessions)
    n = stored.state.n + 1
    state = replace(stored.state, n=n, floor=n, base=frozenset(made["runs"]), roster=roster)
    assert swap_gc_state(access.objects, stored, new=state, clock=access.clock), "nobody else writes here"
    access.close()


def _commit(
    session: WriterSession, refs: list[dict[str, str]], place: tuple[int, str | None]
) -> tuple[int, str]:
    """Commit a snapshot that needs what ``refs`` say; its tree is nowhere."""
    tree = FinishedTree.from_json({"refs": refs})
    now = datetime.now(UTC)
    details = RecordDetails(
        snapshot=session.snapshot,
        source=SourceIdentity(kind="directory", host="synthetic", string="synthetic", path="/synthetic"),
        started=now,
        finished=now,
        root=Root(page="00" * 32, level=0, nodes=0, bytes=0),
    )
    record = session.commit(tree, details, place=place).record
    assert record is not None, "it was just committed"
    return place[0], record.hash


def open_access(address: str | Path) -> RepositoryAccess:
    """The repository, for whoever works below the command line. Remembers nothing."""
    settings = {"repository": str(address), "password": Secret(PASSWORD), "cache_dir": False}
    return open_repository_access(load_config(settings))


@contextlib.contextmanager
def cloned(root: Path, home: Path, server: S3Server | None) -> Iterator[Mapping[str, str]]:
    """The same repository once more, and the variables that lead to it.

    Made of links, for objects are replaced and never changed in place; or in the bucket of `server`.
    """
    if server is None:
        shutil.copytree(root, home / "repository", copy_function=os.link)
        yield PVBACK_VARIABLES | {"PVBACK_REPOSITORY": str(home / "repository")}
        return
    client, files = client_of(server), [one for one in root.rglob("*") if one.is_file()]
    keys = [f"{home.name}/{one.relative_to(root).as_posix()}" for one in files]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one, key: client.upload_file(str(one), BUCKET, key), files, keys))
    place = {"PVBACK_REPOSITORY": f"s3://{BUCKET}/{home.name}", "PVBACK_S3_ENDPOINT": server.endpoint}
    yield PVBACK_VARIABLES | place | server.environment
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{home.name}/"):
        for one in page.get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])


def mark(address: str) -> dict[str, Any]:
    """Do what prune does to learn what is needed, and say what each step took."""
    access = open_access(address)
    state = load_gc_state(access.objects).state
    refs = [one for name in sorted(state.roster) for one in read_register(access.objects, name).register.refs]
    view, work = list_index(access.objects, state), NativeIndexWork(access)
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}

    def timed(step: str, act: Callable[[], T]) -> T:
        Path("/proc/self/clear_refs").write_text("5")
        started = time.monotonic()
        found = act()
        seconds[step], memory[step] = time.monotonic() - started, _memory_bytes_peak()
        return found

    marks = timed("count", lambda: work.count(Marks(), add=refs, remove=(), generation=state.n))
    usage = timed("usage", lambda: work.usage(view, marks=marks, refs=()))
    runs = timed("merge", lambda: work.merge(view, drop=frozenset(), generation=state.n))
    access.close()
    uses = sorted((name, one.used_count, one.used_bytes) for name, one in usage.packs.items())
    return {
        "seconds": seconds,
        "memory": memory,
        "needed": usage.needed_count,
        "missing": usage.missing_count,
        "packs": len(usage.packs),
        "runs": len(runs),
        "digest": blake3(json.dumps(uses).encode()).hexdigest()[:8],
    }


def _memory_bytes_peak() -> int:
    """High-water mark of this process's resident memory since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure_size(
    work: Path,
    chunks: int,
    options: argparse.Namespace,
    *,
    maker: Path | None,
    server: S3Server | None = None,
) -> Cost:
    """Make a repository with so many chunks and measure on it. Raises CommandFailed."""
    root, source, cost = work / f"repository-{chunks}", work / "source", Cost(chunks=chunks)
    started = time.monotonic()
    make_repository(root, maker, chunks=chunks, snapshots=options.snapshots, seed=options.seed)
    cost.make_seconds = time.monotonic() - started
    for scope in (root / "s").iterdir():
        cost.index_bytes = disk_bytes(scope / Area.INDEX)[0]
        cost.refs_bytes = disk_bytes(scope / Area.REFS)[0]
    program = find_programs(["pvback"], install=False)["pvback"]
    usages = []
    for number in range(options.rounds):
        with work_dir(work) as home, cloned(root, home, server) as variables:
            tool = Pvback("pvback", program, home, variables)
            usages.append(
                run_measured(tool.backup(source).argv, env=tool.env(), is_settled=not options.unsettled)
            )
        print(f"{chunks:>11,} backup #{number} {usages[-1].wall_seconds:.2f} s", file=sys.stderr, flush=True)
    cost.backup_seconds = median(one.wall_seconds for one in usages)
    cost.backup_cpu_seconds = median(one.cpu_seconds for one in usages)
    cost.backup_memory_bytes = max(one.memory_bytes_peak for one in usages)
    if chunks:
        with work_dir(work) as home, cloned(root, home, server) as variables:
            _measure_mark(variables, cost)
    shutil.rmtree(root)
    return cost


def _measure_mark(variables: Mapping[str, str], cost: Cost) -> None:
    argv = [sys.executable, "-m", "benchmarks.big_index", "--mark", variables["PVBACK_REPOSITORY"]]
    done = run_measured(argv, env=os.environ | variables, cwd=TREE, is_settled=False)
    found = json.loads(done.output)
    wanted = cost.chunks - -(-cost.chunks // UNUSED_ONE_IN)
    if found["missing"] or found["needed"] != wanted:
        raise CommandFailed(f"the mark is wrong: {wanted} ids are needed, and it says {found}")
    cost.mark_seconds, cost.mark_memory_bytes = found["seconds"], found["memory"]
    cost.needed, cost.digest = found["needed"], found["digest"]
    print(f"{cost.chunks:>11,} mark {cost.mark_seconds}", file=sys.stderr, flush=True)


def find_misses(costs: Sequence[Cost]) -> list[str]:
    """Bars that the largest size misses, in words; the smallest size is what it is compared with."""
    least, most = costs[0], costs[-1]
    found = {
        "backup s": most.backup_seconds - least.backup_seconds,
        "backup MiB": (most.backup_memory_bytes - least.backup_memory_bytes) / MIB,
        "mark s": sum(most.mark_seconds.get(step, 0.0) for step in ("count", "usage")),
        "mark MiB": max((most.mark_memory_bytes.get(step, 0) for step in ("count", "usage")), default=0)
        / MIB,
    }
    return [f"{name}: {found[name]:.1f}, bar {bar:g}" for name, bar in BARS.items() if found[name] > bar]


def render_costs(costs: Sequence[Cost]) -> str:
    """A markdown table."""
    head = ["chunks", "index MiB", "refs MiB", "backup s", "CPU s", "MiB"]
    head += [f"{step} {unit}" for step in MARK_STEPS for unit in ("s", "MiB")] + ["digest"]
    lines = ["| " + " | ".join(head) + " |", "|" + "--:|" * len(head)]
    for one in costs:
        row = [f"{one.chunks:,}", f"{one.index_bytes / MIB:,.1f}", f"{one.refs_bytes / MIB:,.1f}"]
        row += [f"{one.backup_seconds:.2f}", f"{one.backup_cpu_seconds:.2f}"]
        row += [f"{one.backup_memory_bytes / MIB:,.0f}"]
        for step in MARK_STEPS:
            is_done = step in one.mark_seconds
            row += [f"{one.mark_seconds[step]:.2f}" if is_done else "-"]
            row += [f"{one.mark_memory_bytes[step] / MIB:,.0f}" if is_done else "-"]
        lines.append("| " + " | ".join([*row, one.digest or "-"]) + " |")
    return "\n".join(lines) + "\n"


def draw_costs(costs: Sequence[Cost]) -> str:
    """A chart: a bar for each size of the index, so that what grows is seen to grow."""

    def panel(title: str, value: Callable[[Cost], float]) -> tuple[str, list[tuple[str, float]]]:
        return title, [(f"{one.chunks:,}", value(one)) for one in costs]

    groups: list[Panels] = [
        (
            "backup of the same source, by chunks in the index",
            [
                panel("wall, s", lambda one: one.backup_seconds),
                panel("CPU, s", lambda one: one.backup_cpu_seconds),
                panel("peak memory, MiB", lambda one: one.backup_memory_bytes / MIB),
                panel("index, MiB", lambda one: one.index_bytes / MIB),
            ],
        )
    ]
    for title, unit in (("mark and merge: wall, s", "s"), ("mark and merge: peak memory, MiB", "MiB")):
        panels = []
        for step in MARK_STEPS:
            if unit == "s":
                panels.append(panel(step, lambda one, step=step: one.mark_seconds.get(step, 0.0)))
            else:
                panels.append(panel(step, lambda one, step=step: one.mark_memory_bytes.get(step, 0) / MIB))
        groups.append((title, panels))
    return render_panels(groups)


def main(argv: list[str] | None = None) -> int:
    """Measure and report. 0: done, whether or not a bar was missed; 1: a step failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_index", description=__doc__)
    parser.add_argument("--chunks", nargs="+", type=int, default=SIZES, help="sizes, ascending")
    parser.add_argument(
        "--snapshots", type=int, default=1, help="that need them, each with reference sets of its own"
    )
    parser.add_argument("--source-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", default="release", help="of cargo, for the program that makes the index")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unsettled", action="store_true", help="do not wait for the disk between steps")
    parser.add_argument("--minio", action="store_true", help="in a bucket, and not in a directory")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--mark", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.mark:
        print(json.dumps(mark(options.mark)))
        return 0
    maker = build_maker(options.profile)
    sizes = sorted({0, *options.chunks})
    with work_dir(options.work) as work:
        machine = describe_machine({}, work)
        make_source(work / "source", options.source_mib, options.seed)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(minio(work)) if options.minio else None
            if server is not None:
                make_bucket(server, BUCKET)
            try:
                costs = [measure_size(work, one, options, maker=maker, server=server) for one in sizes]
            except CommandFailed as exc:
                print(f"!!! FAILED: {exc}", file=sys.stderr)
                return 1
    options.out.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "costs": [asdict(one) for one in costs]}
    (options.out / "index.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "index.svg").write_text(draw_costs(costs))
    text = render_costs(costs)
    (options.out / "index.md").write_text(text)
    print(f"load before: {machine['load_before']}; {options.source_mib} MiB, {options.rounds} round(s)\n")
    print(text)
    for miss in find_misses(costs):
        print(f"MISSED: {miss}")
    return 0


if __name__ == "__main__":
    exit_on_terminate()
    sys.exit(main())
