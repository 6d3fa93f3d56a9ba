"""`pvback init`, `check` and `bench`."""

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import format_count, to_json
from pvback.cli.progress import stopping, watching
from pvback.cli.recovery import offering, recovery_options
from pvback.cli.values import parse_percent
from pvback.config import parse_size
from pvback.errors import DamagedError
from pvback.model import Finding
from pvback.ops.bench import measure_limits
from pvback.ops.check import check as run_check
from pvback.ops.init import init as run_init

__all__ = ["bench", "check", "init"]


@click.command(epilog=exit_codes(11))
@click.option("--label", default="default", metavar="NAME", help="Name of the first scope.")
@click.option("--chunk-size", metavar="SIZE", help="Average size of chunks; default: 512KiB.")
@recovery_options
@global_options()
@pass_invocation
def init(
    invocation: Invocation,
    *,
    label: str,
    chunk_size: str | None,
    recovery_key: bool,
    recovery_key_file: str | None,
) -> int:
    """Make a repository.

    There is no way into it without its password or a key that was added: keep a copy somewhere else, or let
    `--recovery-key` make a second key to write down.
    """
    output = invocation.output
    size = parse_size(chunk_size, what="`--chunk-size`") if chunk_size else None
    with offering(output, is_wanted=recovery_key, path=recovery_key_file) as recovery:
        config = invocation.config(is_new=True)
        made = run_init(config, label=label, chunk_bytes=size, recovery_key=recovery)
        if output.is_json:
            output.document({**to_json(made), "recovery_key_file": recovery_key_file})
        output.line(f"repository {made.repository} at {made.address}")
    return 0


@click.command(epilog=exit_codes())
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="100%",
    metavar="[N%]",
    help="Read and open all packs, or a share of them.",
)
@click.option("--seed", type=int, metavar="N", help="Choose the same share as another time.")
@global_options()
@pass_invocation
def check(invocation: Invocation, *, read_data: str | None, seed: int | None) -> int:
    """Examine the repository; the exit code is 20 when something is lost or needs repair.

    Every object is listed and every snapshot's tree is followed; contents are read with `--read-data` only.
    """
    output = invocation.output
    share = parse_percent(read_data)
    with invocation.repository() as access, watching(output) as progress, stopping() as cancel:
        result = run_check(access, read_percent=share, seed=seed, progress=progress, cancel=cancel)
        usage = access.usage()
    for finding in result.findings:
        if output.is_json:
            output.message("finding", finding)
        output.line(_show_finding(finding))
    if output.is_json:
        facts = {
            "snapshot_count": result.snapshot_count,
            "object_count": result.object_count,
            "counts": result.counts,
            "is_sound": result.is_sound,
        }
        output.summary(facts, usage)
    output.line(
        f"{format_count(result.snapshot_count, 'snapshot')}, "
        f"{format_count(result.object_count, 'object')}: "
        f"{'sound' if result.is_sound else 'NOT SOUND'}"
    )
    return 0 if result.is_sound else DamagedError.exit_code


def _show_finding(finding: Finding) -> str:
    place = f"{finding.key}: " if finding.key else ""
    return f"{finding.severity}: {finding.kind}: {place}{finding.what}"


@click.group(no_args_is_help=False, epilog=exit_codes())
@global_options()
def bench() -> None:
    """Measure."""


@bench.command("limits", epilog=exit_codes())
@click.option("--path", metavar="FILE", help="Take the data from this file; default: made up.")
@global_options()
@pass_invocation
def bench_limits(invocation: Invocation, *, path: str | None) -> int:
    """Measure each stage of the data path alone: what a backup can at best reach here."""
    output = invocation.output
    with invocation.repository() as access:
        rates = measure_limits(access, path=path)
    if output.is_json:
        output.document(rates)
    else:
        columns = list(dict.fromkeys(name for stage in rates.values() for name in stage))
        header = ("STAGE", *(f"GB/s, {name}" for name in columns))
        rows = [
            (stage, *(f"{found[name]:.2f}" if name in found else "" for name in columns))
            for stage, found in rates.items()
        ]
        output.table(header, rows)
    return 0
