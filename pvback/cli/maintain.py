"""`pvback init`, `check` and `bench`."""

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import format_count, to_json
from pvback.cli.progress import stopping, watching
from pvback.cli.recovery import offering, recovery_options
from pvback.cli.values import parse_percent, parse_span
from pvback.config import parse_size
from pvback.errors import DamagedError
from pvback.model import Finding
from pvback.ops.bench import measure_limits
from pvback.ops.check import LEVELS, CheckOptions
from pvback.ops.check import check as run_check
from pvback.ops.init import init as run_init
from pvback.repository.verified import VerifiedShare

__all__ = ["bench", "check", "init"]


@click.command(epilog=exit_codes(11))
@click.option("--label", default="default", metavar="NAME", help="Name of the first scope.")
@click.option("--chunk-size", metavar="SIZE", help="Average size of chunks; default: 512KiB.")
@click.option(
    "--allow-unconditional", is_flag=True, help="Also on a store that ignores conditions on writes."
)
@recovery_options
@global_options()
@pass_invocation
def init(
    invocation: Invocation,
    *,
    label: str,
    chunk_size: str | None,
    allow_unconditional: bool,
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
        made = run_init(
            config,
            label=label,
            chunk_bytes=size,
            recovery_key=recovery,
            allow_unconditional=allow_unconditional,
        )
        if output.is_json:
            output.document({**to_json(made), "recovery_key_file": recovery_key_file})
        output.line(f"repository {made.repository} at {made.address}")
        for warning in made.warnings:
            output.warn(warning)
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
@click.option("--level", type=click.Choice(LEVELS), help="How deep to look; default: trees.")
@click.option("--max-time", metavar="SPAN", help="Begin to read no more packs after this, such as 2h.")
@click.option("--max-bytes", metavar="SIZE", help="Read no more of packs than this.")
@click.option("--max-age", metavar="SPAN", help="Leave packs out that were read no longer ago, such as 30d.")
@global_options()
@pass_invocation
def check(invocation: Invocation, /, **options: object) -> int:
    """Examine the repository; the exit code is 20 when something is lost or needs repair.

    Levels, each with those before it: `list` (what is listed, registers, records, reference sets), `index`
    (runs against packs and their directories), `trees` (every snapshot's tree, without directories of data
    packs), `data` (packs are read and opened). With `--max-time`, `--max-bytes` or `--max-age` those packs
    are read first that were never read by this client, or longest ago: run every night, it goes round.
    """
    output = invocation.output
    used = _check_options(options)
    with invocation.repository() as access, watching(output) as progress, stopping() as cancel:
        result = run_check(access, options=used, progress=progress, cancel=cancel)
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
            "verified": result.verified,
        }
        output.summary(facts, usage)
    if result.verified is not None:
        output.line(_show_verified(result.verified, left=int(result.counts.get("packs_left", 0))))
    output.line(
        f"{format_count(result.snapshot_count, 'snapshot')}, "
        f"{format_count(result.object_count, 'object')}: "
        f"{'sound' if result.is_sound else 'NOT SOUND'}"
    )
    return 0 if result.is_sound else DamagedError.exit_code


def _check_options(options: dict[str, object]) -> CheckOptions:
    def text(name: str) -> str | None:
        value = options[name]
        return None if value is None else str(value)

    max_time, max_bytes, seed = parse_span(text("max_time")), text("max_bytes"), text("seed")
    return CheckOptions(
        level=text("level"),
        read_percent=parse_percent(text("read_data")),
        seed=None if seed is None else int(seed),
        max_seconds=None if max_time is None else max_time.total_seconds(),
        max_bytes=None if max_bytes is None else parse_size(max_bytes, what="`--max-bytes`"),
        max_age=parse_span(text("max_age")),
    )


def _show_verified(share: VerifiedShare, *, left: int) -> str:
    def percent(part: int) -> str:
        return f"{100 * part // share.total_bytes if share.total_bytes else 100} %"

    spans = ", ".join(f"{percent(part)} within {span}" for span, part in share.within.items())
    depth = "read and opened" if share.is_opened else "read, outer seals opened"
    rest = f"; {format_count(left, 'pack')} left for another time" if left else ""
    return f"{depth}: {spans}, {percent(share.never_bytes)} never{rest}"


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
