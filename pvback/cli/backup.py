"""`pvback backup`."""

from collections.abc import Callable, Sequence
from functools import partial

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import stopping, watching
from pvback.cli.values import parse_percent, parse_tags
from pvback.errors import FileError, PartlyDone, PvbackError, UsageError
from pvback.model import Consistency, StoreUsage
from pvback.ops.backup import BackupOptions, BackupResult
from pvback.ops.backup import backup as run_backup
from pvback.ops.sources import Source, command_source, path_source, stdin_source

__all__ = ["backup"]

_DAMAGED = "run `pvback check` to see what the repository lacks"


@click.command(epilog=exit_codes(3, 11))
@click.argument("sources", nargs=-1, metavar="SOURCE...", type=click.UNPROCESSED)
@click.option(
    "--command", "is_command", is_flag=True, help="SOURCE... after `--` is a program: store its output."
)
@click.option(
    "--stdin-name", metavar="NAME", help="Name of the file that standard input or a program becomes."
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Stored with the snapshot.")
@click.option("--exclude", "excludes", multiple=True, metavar="GLOB", help="Leave out what fits.")
@click.option("--one-file-system", is_flag=True, help="Stay on the source's file system.")
@click.option("--parent", metavar="ID", help="Snapshot to compare with; default: the source's latest.")
@click.option("--force", is_flag=True, help="Read everything again, changed or not.")
@click.option("--ignore-ctime", is_flag=True, help="A new ctime alone does not make a file changed.")
@click.option("--ignore-inode", is_flag=True, help="A new inode number alone does not, either.")
@click.option(
    "--clones", type=click.Choice(["auto", "never"]), default="auto", help="Whether clones are looked for."
)
@click.option("--recheck", metavar="N%", help="Read and compare this share of unchanged files; default: 1%.")
@click.option("--chunker", type=click.Choice(["auto", "argmin", "fixed"]), default="auto", help="How to cut.")
@click.option("--level", type=click.IntRange(-7, 22), help="zstd level; default: adaptive.")
@click.option("--host", metavar="NAME", help="Name of this machine in the source; default: its own.")
@click.option("--grade", type=click.Choice([str(one) for one in Consistency]), help="What the copy is worth.")
@click.option("--dry-run", is_flag=True, help="Read and count; store nothing.")
@global_options()
@pass_invocation
def backup(
    invocation: Invocation,
    /,
    sources: tuple[str, ...],
    *,
    is_command: bool,
    stdin_name: str | None,
    tags: tuple[str, ...],
    excludes: tuple[str, ...],
    host: str | None,
    grade: str | None,
    recheck: str | None,
    **options: object,
) -> int:
    """Back up directories, files, block devices, standard input or a program's output.

    Each SOURCE becomes a snapshot of its own. `-` is standard input. Files that cannot be read are named, the
    rest is stored, and the exit code is 3. Ctrl-C stores a checkpoint, from which the next backup of the
    same source goes on.
    """
    chosen = _choose_sources(sources, is_command=is_command, stdin_name=stdin_name, host=host)
    used = BackupOptions(
        tags=parse_tags(tags),
        excludes=excludes,
        grade=Consistency(grade) if grade else None,
        recheck_percent=parse_percent(recheck, may_be_none=True),
        **options,  # type: ignore[arg-type]
    )
    results, failures = _run_all(invocation, chosen, used)
    partly = [one for one in results if one.error_count]
    hint = _DAMAGED if any(one.is_damage_found for one in results) else None
    if failures or partly:
        count = sum(one.error_count for one in partly) + len(failures)
        raise PartlyDone(f"{count} sources or files could not be read; the rest is stored", hint=hint)
    if hint is not None:
        raise PartlyDone(
            "all was read; the repository lacks something that an earlier backup stored", hint=hint
        )
    return 0


def _run_all(
    invocation: Invocation, sources: Sequence[Callable[[], Source]], options: BackupOptions
) -> tuple[list[BackupResult], list[PvbackError]]:
    """One after the other; a source that is not readable does not keep the others from being stored."""
    output = invocation.output
    results: list[BackupResult] = []
    failures: list[PvbackError] = []
    with invocation.repository(is_writer=not options.dry_run) as access:
        before = StoreUsage()
        for find_source in sources:
            try:
                source = find_source()
                with watching(output) as progress, stopping() as cancel:
                    result = run_backup(access, source, options=options, progress=progress, cancel=cancel)
            except FileError as exc:
                if len(sources) == 1:
                    raise
                failures.append(exc)
                output.warn(str(exc))
                continue
            results.append(result)
            used = access.usage()
            _show(output, result, usage=used.since(before))
            before = used
    if failures and not results:
        raise failures[0]
    return results, failures


def _show(output: Output, result: BackupResult, *, usage: StoreUsage) -> None:
    if output.is_json:
        output.summary(result, usage)
        return
    stats = result.stats
    rate = stats.read_bytes / stats.duration_seconds if stats.duration_seconds else 0
    output.remark(
        f"{format_count(stats.file_count, 'file')}, {format_bytes(stats.source_bytes)}; "
        f"{stats.file_unchanged_count} unchanged; "
        f"{format_bytes(stats.new_bytes)} new, {format_bytes(stats.stored_bytes)} stored; "
        f"{stats.duration_seconds:.1f} s, {format_bytes(rate)}/s read"
    )
    if result.unstable_count:
        output.warn(f"{format_count(result.unstable_count, 'file')} changed while being read")
    if result.snapshot is None:
        output.line(f"dry run of {result.source}: nothing was stored")
    else:
        output.line(f"snapshot {result.snapshot} of {result.source}")


def _choose_sources(
    sources: Sequence[str], *, is_command: bool, stdin_name: str | None, host: str | None
) -> list[Callable[[], Source]]:
    """How to get at each source; a path is looked at when its turn comes."""
    if is_command:
        return [partial(command_source, sources, name=stdin_name, host=host)]
    if stdin_name is not None and not sources:
        return [partial(stdin_source, stdin_name, host=host)]
    if not sources:
        raise UsageError("there is no source", hint="name a directory, a file or a device, or `-`")
    if "-" in sources and len(sources) > 1:
        raise UsageError("standard input is a source of its own", hint="back it up alone")
    if stdin_name is not None and "-" not in sources:
        raise UsageError("`--stdin-name` is for standard input and programs")
    if sources[0] == "-":
        return [partial(stdin_source, stdin_name or "stdin", host=host)]
    return [partial(path_source, source, host=host) for source in sources]
