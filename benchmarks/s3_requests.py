"""Count the requests that pvback and its peers make to an object store, step by step.

Each program gets an empty bucket on the in-memory server of `s3_server`, and does one first backup,
one of an unchanged source, one of a changed source, and one restore, which is compared. Only counts
are kept: the server is not made for timing. borg 1.4 has no S3 and is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpora import CorpusUnavailable, checkout_corpus
from benchmarks.corpora_real import CORPORA
from benchmarks.measure import CommandFailed, exit_on_terminate, run_measured
from benchmarks.peers import cache_dir
from benchmarks.run import find_programs, work_dir
from benchmarks.s3_server import Bucket, serve_bucket
from benchmarks.tools import KOPIA_VARIABLES, PASSWORD, Command, Kopia, Pvback, Restic, Restore, Rustic, Tool
from benchmarks.trees import compare_manifests, read_manifest, split_differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCESS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "benchbench", "AWS_REGION": "us-east-1"}
METHODS = ("PUT", "POST", "GET", "HEAD", "LIST", "DELETE")


@dataclass(frozen=True, kw_only=True)
class Count:
    """Requests of one step by one tool."""

    corpus: str
    tool: str
    step: str
    requests: dict[str, int]
    repository_bytes: int = 0
    objects: int = 0
    error: str = ""


class RusticS3(Rustic):
    """rustic takes the options of a store from a profile."""

    def init(self) -> list[Command]:
        options = {
            "bucket": "bucket",
            "root": "/repository",
            "endpoint": self.variables["ENDPOINT"],
            "region": self.variables["AWS_REGION"],
            "access_key_id": self.variables["AWS_ACCESS_KEY_ID"],
            "secret_access_key": self.variables["AWS_SECRET_ACCESS_KEY"],
        }
        lines = ["[repository]", 'repository = "opendal:s3"', "[repository.options]"]
        lines += [f'{name} = "{value}"' for name, value in options.items()]
        profile = self.home / "config" / "rustic" / "rustic.toml"
        profile.parent.mkdir(parents=True)
        profile.write_text("\n".join(lines) + "\n")
        return super().init()


class KopiaS3(Kopia):
    """kopia takes the store as options of its first command."""

    def init(self) -> list[Command]:
        place = ["--bucket=bucket", f"--endpoint={self.variables['ENDPOINT']}", "--disable-tls"]
        _, policy = super().init()
        return [self._run("repository", "create", "s3", *place), policy]


def make_s3_tool(
    name: str, program: Path, home: Path, address: str, *, access: Mapping[str, str] = ACCESS
) -> Tool | None:
    """Adapter for one program against the server at ``address``, with what ``access`` says in the
    environment; None when it has no S3."""
    home.mkdir(parents=True)
    url = f"http://{address}"
    match name:
        case "pvback":
            variables = {
                "PVBACK_REPOSITORY": "s3://bucket/repository",
                "PVBACK_S3_ENDPOINT": url,
                "PVBACK_PASSWORD": PASSWORD,
                "PVBACK_CACHE_DIR": "{home}/cache",
            }
            return Pvback(name, program, home, {**access, **variables})
        case "restic":
            variables = {
                "RESTIC_REPOSITORY": f"s3:{url}/bucket/repository",
                "RESTIC_PASSWORD": PASSWORD,
                "RESTIC_CACHE_DIR": "{home}/cache",
            }
            return Restic(name, program, home, {**access, **variables})
        case "rustic":
            variables = {"RUSTIC_PASSWORD": PASSWORD, "RUSTIC_CACHE_DIR": "{home}/cache", "ENDPOINT": url}
            return RusticS3(name, program, home, {**access, **variables})
        case "kopia":
            variables = {**access, **KOPIA_VARIABLES, "ENDPOINT": address}
            return KopiaS3("kopia+zstd", program, home, variables, compression="zstd")
        case _:
            return None


def count_step(name: str, tool: Tool, bucket: Bucket, corpus: str, *, commands: list[Command]) -> Count:
    """Run the commands of one step up to the first that fails; return what they asked for."""
    bucket.requests.clear()
    error = ""
    try:
        for command in commands:
            run_measured(command.argv, env=tool.env(), cwd=command.cwd, is_settled=False)
    except CommandFailed as exc:
        error = str(exc)
    requests = dict(bucket.requests)
    said = error or " ".join(f"{method} {requests.get(method, 0)}" for method in METHODS)
    print(f"{corpus:9} {name:10} {tool.label:11} {said}", file=sys.stderr, flush=True)
    size, objects = bucket.stored_bytes()
    return Count(
        corpus=corpus,
        tool=tool.label,
        step=name,
        requests=requests,
        repository_bytes=size,
        objects=objects,
        error=error,
    )


def count_tool(tool: Tool, bucket: Bucket, work: Path, options: argparse.Namespace) -> Iterator[Count]:
    """All steps of one tool in turn, ending early with the one that failed.

    Leaves ``source`` and ``target`` below ``work``. Raises CorpusUnavailable.
    """
    corpus = CORPORA[options.corpus]
    source, target = work / "source", work / "target"
    checkout_corpus(corpus, source, cache_dir(), scale=options.scale, seed=options.seed)
    target.mkdir()
    steps = {
        "init": tool.init(),
        "first": [tool.backup(source)],
        "unchanged": [tool.backup(source)],
        "changed": [tool.backup(source)],
        "restore": [tool.restore(Restore(source=source, target=target))],
    }
    for name, commands in steps.items():
        if name == "changed":
            corpus.change(source, options.scale, options.seed)
        done = count_step(name, tool, bucket, corpus.name, commands=commands)
        yield done
        if done.error:
            return
    damage, _ = split_differences(compare_manifests(read_manifest(source), read_manifest(target)))
    if damage:
        yield Count(corpus=corpus.name, tool=tool.label, step="compare", requests={}, error=str(damage[0]))


def render_counts(counts: list[Count]) -> str:
    """A markdown table; steps that failed say why."""
    lines = [
        "| corpus | step | tool | all | " + " | ".join(METHODS) + " | MiB stored | objects |",
        "|---|---|---|--:|" + "--:|" * (len(METHODS) + 2),
    ]
    steps = list(dict.fromkeys(one.step for one in counts))
    for one in sorted(counts, key=lambda one: steps.index(one.step)):
        cells = [str(one.requests.get(method, 0)) for method in METHODS]
        total = f"FAILED: {one.error[:120]}" if one.error else str(sum(one.requests.values()))
        total = " ".join(total.replace("|", "\\|").split())
        size = f"{one.repository_bytes / (1 << 20):,.1f}"
        row = [one.corpus, one.step, one.tool, total, *cells, size, str(one.objects)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Count and report. 0: done; 1: a step failed; 3: nothing to count or no corpus."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3_requests", description=__doc__)
    parser.add_argument("--corpus", choices=CORPORA, default="small")
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tools", nargs="+", default=[])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    options = parser.parse_args(argv)
    counts: list[Count] = []
    for name, program in find_programs(options.tools, install=False).items():
        with serve_bucket() as (address, bucket), work_dir(options.work) as work:
            tool = make_s3_tool(name, program, work / name, address)
            if tool is None:
                continue
            try:
                counts += count_tool(tool, bucket, work, options)
            except CorpusUnavailable as exc:
                print(f"!!! NOT MEASURED: corpus {options.corpus}: {exc}", file=sys.stderr)
                return 3
    options.out.mkdir(parents=True, exist_ok=True)
    text = render_counts(counts)
    (options.out / "requests.json").write_text(json.dumps([asdict(one) for one in counts], indent=1) + "\n")
    (options.out / "requests.md").write_text(text)
    print(text, end="")
    if not counts:
        return 3
    return 1 if any(one.error for one in counts) else 0


if __name__ == "__main__":
    exit_on_terminate()
    sys.exit(main())
