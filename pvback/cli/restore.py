"""`pvback restore` and `pvback dump`."""

import sys
from collections.abc import Mapping
from dataclasses import replace

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import stopping, watching
from pvback.errors import PartlyDone, UsageError
from pvback.model import StoreUsage
from pvback.ops.dump import dump_file
from pvback.ops.reading import find_in, split_snapshot_path
from pvback.ops.restore import OVERWRITE, RestoreOptions, RestoreResult
from pvback.ops.restore import restore as run_restore

__all__ = ["dump", "restore"]


@click.command(epilog=exit_codes(3))
@click.argument("snapshot", metavar="SNAP[:PATH]")
@click.option("-t", "--target", required=True, metavar="DIR", help="Becomes the image of the source.")
@click.option("--source", metavar="SOURCE", help="Whose `latest`.")
@click.option("--include", "includes", multiple=True, metavar="GLOB", help="Restore only what fits.")
@click.option("--exclude", "excludes", multiple=True, metavar="GLOB", help="Leave out what fits.")
@click.option("--delete", is_flag=True, help="Remove from the target what is not in the snapshot.")
@click.option(
    "--overwrite",
    type=click.Choice(OVERWRITE),
    default="always",
    help="Files that are there: compare contents (default), trust size and time, or leave them.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--verify", is_flag=True, help="Read everything back and compare.")
@click.option("--reference", is_flag=True, help="Use the slow second reader, without the native module.")
@global_options()
@pass_invocation
def restore(
    invocation: Invocation,
    /,
    snapshot: str,
    *,
    target: str,
    source: str | None,
    reference: bool,
    **options: object,
) -> int:
    """Restore a snapshot, or a part of it, to a directory, a file or a device.

    SNAP is the beginning of an id, or `latest`. What is in the target and the same is not written again. An
    interrupted restore goes on where it was. Files that cannot be restored whole are named, the rest is
    restored, and the exit code is 3.
    """
    output = invocation.output
    used = RestoreOptions(**options)  # type: ignore[arg-type]
    if reference:
        if used != RestoreOptions():
            raise UsageError(
                "`--reference` restores everything to an empty place", hint="leave the other options out"
            )
        with stopping():
            # With its cryptography it loads as slowly as everything else together.
            from pvback.ops.reference import restore_by_reference  # noqa: PLC0415

            summary = restore_by_reference(
                invocation.config(), snapshot, target=target, source=source, scope=invocation.scope
            )
        return _show_reference(output, summary)
    name, path = split_snapshot_path(snapshot)
    used = replace(used, path=path)
    with invocation.repository() as access:
        found = find_in(access, name, source=source)
        with watching(output) as progress, stopping() as cancel:
            result = run_restore(access, found, target=target, options=used, progress=progress, cancel=cancel)
        usage = access.usage()
    _show(output, result, is_dry=used.dry_run, usage=usage)
    if result.error_count:
        raise PartlyDone(_not_restored(result), hint="`pvback check --read-data` says what is damaged")
    return 0


def _show(output: Output, result: RestoreResult, *, is_dry: bool, usage: StoreUsage) -> None:
    if output.is_json:
        output.summary(result, usage)
        return
    for denied in result.denied:
        some = ", ".join(denied.examples)
        output.warn(f"{denied.category}: {denied.count} not set ({denied.message}); for example {some}")
    for lost in result.lost:
        output.warn(str(lost))
    output.remark(_facts(result.stats))
    verb = "would restore" if is_dry else "restored"
    output.line(f"{verb} snapshot {result.snapshot} to {result.target}")


def _not_restored(result: RestoreResult) -> str:
    count, lost = result.error_count, result.stats.get("ranges_lost", 0)
    what = [format_count(count - lost, "file")] if count > lost else []
    what += [f"{format_count(lost, 'range')} of paths"] if lost else []
    return f"{' and '.join(what)} could not be restored; the rest was"


def _facts(stats: Mapping[str, int]) -> str:
    """What a restore did, in one line; what did not happen is not mentioned."""

    def count(name: str) -> int:
        return stats.get(name, 0)

    facts = [
        f"{format_count(count('files'), 'file')}, {format_bytes(count('bytes'))}",
        f"{count('files_unchanged')} unchanged",
        f"{format_bytes(count('bytes_written'))} written, {format_bytes(count('bytes_fetched'))} fetched",
    ]
    for name, words in (
        ("files_skipped", "left alone"),
        ("deleted", "deleted"),
        ("files_verified", "verified"),
        ("errors", "problems"),
    ):
        if count(name):
            facts.append(f"{count(name)} {words}")
    return "; ".join(facts)


def _show_reference(output: Output, summary: list[str]) -> int:
    if output.is_json:
        output.message("summary", {"warnings": summary})
    for line in summary:
        output.remark(line)
    return 0


@click.command(epilog=exit_codes())
@click.argument("snapshot", metavar="SNAP:PATH")
@click.option("--source", metavar="SOURCE", help="Whose `latest`.")
@global_options()
@pass_invocation
def dump(invocation: Invocation, snapshot: str, *, source: str | None) -> int:
    """Write one file of a snapshot to standard output.

    A snapshot of standard input, a program or a single file needs no PATH.
    """
    name, path = split_snapshot_path(snapshot)
    if sys.stdout.isatty():
        raise UsageError("standard output is a terminal", hint="redirect it to a file or a program")
    with invocation.repository() as access:
        found = find_in(access, name, source=source)
        dump_file(access, found, path=path, output=sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return 0
