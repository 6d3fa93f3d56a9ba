"""`pvback copy`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import ending_at_once, stopping, watching
from pvback.cli.values import parse_tag_filters
from pvback.errors import PartlyDone, UsageError
from pvback.model import StoreUsage
from pvback.ops.copy import CopiedSnapshot, CopyResult, copy_snapshots
from pvback.ops.copy_plan import CopyOptions, CopyPlan, plan_copy
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.repository.snapshots import SnapshotFilter

__all__ = ["copy"]


@click.command(epilog=exit_codes(3, 11))
@click.argument("snapshots", nargs=-1, metavar="[SNAP]...")
@click.option("--from-repository", metavar="R", help="The repository to copy from.")
@click.option("--from-password-file", metavar="FILE", help="Its password is the first line.")
@click.option("--from-password-command", metavar="CMD", help="Its password is the output's first line.")
@click.option("--from-key-file", metavar="FILE", help="A private key, in place of its password.")
@click.option("--from-key-command", metavar="CMD", help="Opens what `key add --command` sealed there.")
@click.option("--from-s3-endpoint", metavar="URL", help="The S3 service that it is in.")
@click.option(
    "--from-s3-option",
    "from_s3_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="As `--s3-option`, for it.",
)
@click.option("--from-scope", metavar="NAME", help="Which of its scopes; default: `default`.")
@click.option("--source", metavar="SOURCE", help="Only of this source: its string, path or name.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only with this tag.")
@click.option("--latest", "is_latest", is_flag=True, help="Only the newest of each source.")
@click.option("--keep-chunks", is_flag=True, help="Also where the target cuts chunks of other sizes.")
@click.option("--level", type=click.IntRange(-7, 22), help="zstd level; default: adaptive.")
@click.option("--dry-run", is_flag=True, help="Say what would be copied.")
@global_options()
@pass_invocation
def copy(
    invocation: Invocation,
    /,
    snapshots: tuple[str, ...],
    *,
    source: str | None,
    tags: tuple[str, ...],
    from_scope: str | None,
    dry_run: bool,
    **options: object,
) -> int:
    """Copy snapshots from another repository into this one, which has other keys.

    Without SNAP, all that this repository does not have yet, the oldest first. What has an earlier copy costs
    what changed. Files that cannot be read in the other repository are named and marked as unreadable,
    snapshots that cannot be copied are named; the rest is copied, and the exit code is 3. Ctrl-C stores a
    checkpoint, from which the next copy goes on.
    """
    if snapshots and (source or tags or options["is_latest"]):
        raise UsageError("snapshots are named, or chosen with `--source`, `--tag` and `--latest`")
    where = {name: options.pop(f"from_{name}") for name in _FROM}
    used = CopyOptions(
        snapshots=snapshots,
        wanted=SnapshotFilter(source=source, tags=parse_tag_filters(tags)),
        **options,  # type: ignore[arg-type]
    )
    with (
        invocation.repository(is_writer=not dry_run) as target,
        _other(invocation, target, where, from_scope) as other,
    ):
        if dry_run:
            return _show_plan(invocation.output, plan_copy(other, target, options=used))
        with watching(invocation.output) as progress, stopping() as cancel:
            result = copy_snapshots(other, target, options=used, progress=progress, cancel=cancel)
        usage = target.usage()
    _show(invocation.output, result, usage=usage)
    count = len(result.failures) + sum(one.error_count for one in result.copied)
    if count:
        raise PartlyDone(f"{count} snapshots or files could not be copied; the rest is")
    return 0


_FROM = (
    "repository",
    "password_file",
    "password_command",
    "key_file",
    "key_command",
    "s3_endpoint",
    "s3_options",
)


@contextmanager
def _other(
    invocation: Invocation, target: RepositoryAccess, where: dict[str, object], scope: str | None
) -> Iterator[RepositoryAccess]:
    """The repository that is copied from."""
    access = open_repository_access(invocation.from_config(target.config, where), scope=scope)
    try:
        with ending_at_once(access.patience.cancel), access.while_there():
            yield access
    finally:
        access.close()


def _show_plan(output: Output, plan: CopyPlan) -> int:
    if output.is_json:
        missing = [
            {"origin": one.id, "source": one.require_details().source.string, "time": one.time}
            for one in plan.missing
        ]
        failures = [str(one) for one in plan.failures]
        output.document({"missing": missing, "present": plan.present, "failures": failures})
    else:
        for one in plan.missing:
            output.line(f"would copy snapshot {one.id} of {one.require_details().source.string}")
        output.remark(f"{format_count(len(plan.present), 'snapshot')} there already")
    if plan.failures:
        for failure in plan.failures:
            output.warn(str(failure))
        raise PartlyDone(f"{format_count(len(plan.failures), 'snapshot')} could not be looked at")
    return 0


def _show(output: Output, result: CopyResult, *, usage: StoreUsage) -> None:
    if output.is_json:
        failures = [str(one) for one in result.failures]
        output.summary({**_fields(result), "failures": failures}, usage)
        return
    for one in result.copied:
        _show_copied(output, one)
    output.remark(f"{format_count(len(result.present), 'snapshot')} there already")


def _fields(result: CopyResult) -> dict[str, object]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def _show_copied(output: Output, one: CopiedSnapshot) -> None:
    stats = one.stats
    output.remark(
        f"{format_count(stats.file_count, 'file')}, {format_bytes(stats.source_bytes)}; "
        f"{stats.file_unchanged_count} taken over; "
        f"{format_bytes(stats.read_bytes)} read, {format_bytes(stats.new_bytes)} new, "
        f"{format_bytes(stats.stored_bytes)} stored; {stats.duration_seconds:.1f} s"
    )
    output.line(f"snapshot {one.snapshot} of {one.source}, a copy of {one.origin}")
