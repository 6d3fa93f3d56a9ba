"""`pvback forget`, `undelete` and `prune`."""

from typing import TYPE_CHECKING

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count, format_moment
from pvback.cli.progress import stopping, watching
from pvback.cli.values import parse_percent, parse_span, parse_tag_filters
from pvback.config import parse_size
from pvback.errors import PartlyDone, UsageError
from pvback.ops.forget import (
    ForgetPlan,
    Policy,
    apply_forget,
    plan_forget_named,
    plan_forget_policy,
)
from pvback.ops.forget import undelete as run_undelete
from pvback.ops.prune import PruneOptions, PrunePlan, PruneReport, plan_prune
from pvback.ops.prune import prune as run_prune
from pvback.ops.snapshots import SnapshotFilter, snapshot_info

if TYPE_CHECKING:
    from pvback.repository.repository import RepositoryAccess

__all__ = ["forget", "prune", "undelete"]

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def _keep_options(function: click.decorators.FC) -> click.decorators.FC:
    for name in reversed(_COUNTS):
        what = "the newest N" if name == "last" else f"the newest of each of the last N {name} periods"
        option = click.option(f"--keep-{name}", type=click.IntRange(0), metavar="N", help=f"Keep {what}.")
        function = option(function)
    return function


_alone_option = click.option(
    "--alone", is_flag=True, help="No other prune is configured: for stores without conditions."
)


@click.command(epilog=exit_codes(3, 11))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_keep_options
@click.option("--keep-within", metavar="SPAN", help="Keep what is younger than this, such as 7d or 12h.")
@click.option("--keep-tag", "keep_tags", multiple=True, metavar="KEY[=VALUE]", help="Keep what has this tag.")
@click.option("--source", metavar="SOURCE", help="Only of this source: its string, path or name.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only with this tag.")
@click.option("--acknowledge", multiple=True, metavar="ID", help="This snapshot is meant to be so small.")
@click.option("--prune", "with_prune", is_flag=True, help="Prune afterwards.")
@_alone_option
@click.option("--force", is_flag=True, help="Although it forgets most of them, or all of a source.")
@click.option("--dry-run", "-n", is_flag=True, help="Show the plan, change nothing.")
@global_options()
@pass_invocation
def forget(invocation: Invocation, /, ids: tuple[str, ...], **options: object) -> int:
    """Forget snapshots: those named, or all that no `--keep-...` rule keeps.

    Rules are applied source by source, to the store's times in UTC. Forgotten snapshots are not shown any
    more and can be brought back with `pvback undelete` until a prune finds their grace of 7 days over.
    Rules forget nothing of a source that has lost more than 90 % of its files or bytes.
    """
    output = invocation.output
    if options["alone"] and not options["with_prune"]:
        raise UsageError("`--alone` says something about `--prune`", hint="give both, or neither")
    wanted = _filter(options)
    code = 0
    with invocation.repository() as access:
        plan = _plan(access, ids, options, wanted=wanted)
        if not output.is_json:
            _show_plan(output, plan)
        is_dry = bool(options["dry_run"])
        moved = None if is_dry else apply_forget(access, plan, is_forced=bool(options["force"]))
        if output.is_json:
            output.message(
                "forget", {"decisions": plan.decisions, "shrunk": plan.shrunk, "is_dry_run": is_dry}
            )
        output.line(
            f"{format_count(len(plan.forgotten), 'snapshot')} "
            f"{'would be forgotten' if is_dry else 'forgotten'}, "
            f"{len(plan.decisions) - len(plan.forgotten)} kept"
        )
        for name in moved.refused if moved else ():
            output.warn(f"{name} was changed by somebody else meanwhile")
        _warn_of_shrunk(output, plan)
        if options["with_prune"]:
            used = PruneOptions(is_alone=bool(options["alone"]))
            code = _prune(output, access, used, is_dry=is_dry)
        elif output.is_json:
            output.summary({"is_dry_run": is_dry}, access.usage())
    return code or (PartlyDone.exit_code if plan.shrunk and not is_dry else 0)


def _warn_of_shrunk(output: Output, plan: ForgetPlan) -> None:
    names = {one.id: one.source or one.source_id[:8] for one in plan.decisions}
    for one in plan.shrunk:
        output.warn(
            f"{names[one.newest]} has next to nothing of what it had in snapshot {one.since[:8]}:"
            f" nothing of it is forgotten; if that is right, `--acknowledge {one.newest[:8]}`"
        )


@click.command(epilog=exit_codes(11))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "is_all", is_flag=True, help="Everything that can still be brought back.")
@global_options()
@pass_invocation
def undelete(invocation: Invocation, ids: tuple[str, ...], *, is_all: bool) -> int:
    """Bring back forgotten snapshots; `pvback snapshots --forgotten` lists them."""
    output = invocation.output
    if bool(ids) == is_all:
        raise UsageError("say which snapshots", hint="give ids, or `--all`")
    with invocation.repository() as access:
        found = run_undelete(access, ids)
    if output.is_json:
        output.document([snapshot_info(one) for one in found])
    output.line(f"{format_count(len(found), 'snapshot')} brought back")
    return 0


@click.command(epilog=exit_codes(11))
@click.option("--max-unused", metavar="N%", help="How much may stay unused; default: 5%.")
@click.option("--max-repack", metavar="SIZE", help="Copy no more than this; 0: nothing.")
@click.option("--keep-unused", metavar="SPAN", help="Leave unused packs that are younger; default: 1d.")
@click.option(
    "--grace", metavar="SPAN", help="How long forgotten snapshots can be brought back; default: 7d."
)
@_alone_option
@click.option("--force", is_flag=True, help="A whole cycle, although there seems to be nothing to do.")
@click.option("--dry-run", "-n", is_flag=True, help="Show the plan, change nothing.")
@global_options()
@pass_invocation
def prune(invocation: Invocation, /, **options: object) -> int:
    """Remove what no snapshot needs. Backups and restores may run meanwhile.

    Sessions that are under way are waited for until they have taken note, which takes a minute or two; those
    that do not answer for a quarter of an hour are ended and start over. A prune that is interrupted is gone
    on with by the next one.
    """
    defaults = PruneOptions()
    share = parse_percent(_text(options, "max_unused"), may_be_none=True)
    used = PruneOptions(
        unused_share_max=defaults.unused_share_max if share is None else share / 100,
        repack_bytes_max=_parse_bound(_text(options, "max_repack")),
        unused_seconds=_seconds(options, "keep_unused", default=defaults.unused_seconds),
        grace_seconds=_seconds(options, "grace", default=defaults.grace_seconds),
        is_forced=bool(options["force"]),
        is_alone=bool(options["alone"]),
    )
    with invocation.repository() as access:
        return _prune(invocation.output, access, used, is_dry=bool(options["dry_run"]))


def _prune(output: Output, access: "RepositoryAccess", options: PruneOptions, *, is_dry: bool) -> int:
    if is_dry:
        with stopping() as cancel:
            plan = plan_prune(access, options=options, cancel=cancel)
        if output.is_json:
            output.summary({"plan": plan, "is_dry_run": True}, access.usage())
        _show_prune_plan(output, plan)
        return 0
    with watching(output) as progress, stopping() as cancel:
        report = run_prune(access, options=options, progress=progress, cancel=cancel)
    if output.is_json:
        output.summary(report, access.usage())
    _show_prune_plan(output, report.plan)
    _show_report(output, report)
    return 0


def _show_prune_plan(output: Output, plan: PrunePlan) -> None:
    given_up = len(plan.unused) + len(plan.orphans)
    output.line(
        f"unused: {format_count(given_up, 'pack')}, {format_bytes(plan.unused_bytes)} "
        f"of {format_bytes(plan.total_bytes)}"
    )
    output.line(
        f"written again: {format_count(len(plan.repack), 'pack')}, {format_bytes(plan.repack_bytes)} copied, "
        f"{format_bytes(plan.wasted_bytes)} won; {format_bytes(plan.remaining_bytes)} unused stay"
    )
    if plan.locked:
        held = format_count(len(plan.locked), "pack")
        output.line(f"locked, so that they cost as before: {held}, {format_bytes(plan.locked_bytes)}")
    if plan.young_count:
        young = format_count(plan.young_count, "pack")
        output.line(f"left alone for now, as they are young or a backup's: {young}")


def _show_report(output: Output, report: PruneReport) -> None:
    output.line(
        f"removed: {format_count(report.removed_pack_count, 'pack')}, {format_bytes(report.removed_bytes)}; "
        f"{format_count(report.removed_object_count, 'other object')}; "
        f"{format_count(report.ended_count, 'forgotten snapshot')} ended"
    )
    if report.waits_until is not None:
        output.line(f"to be gone on with by a prune after {format_moment(report.waits_until)}")
    if report.locks.extended_count:
        output.line(f"locked for longer: {format_count(report.locks.extended_count, 'object')}")
    if refused := report.locks.refused:
        output.warn(f"{format_count(len(refused), 'object')} could not be locked for longer: {refused[0]}")
    if report.locked_count:
        output.line(f"kept by the store, as they are locked: {format_count(report.locked_count, 'object')}")
    if report.spared_count:
        output.line(f"spared, as a backup needs them: {format_count(report.spared_count, 'pack')}")


def _plan(
    access: "RepositoryAccess",
    ids: tuple[str, ...],
    options: dict[str, object],
    *,
    wanted: SnapshotFilter | None,
) -> ForgetPlan:
    policy = Policy(
        **{name: int(str(options[f"keep_{name}"] or 0)) for name in _COUNTS},
        within=parse_span(_text(options, "keep_within")),
        tags=tuple(parse_tag_filters([word]) for word in _words(options, "keep_tags")),
    )
    if ids:
        if wanted or not policy.is_empty:
            raise UsageError("ids and rules do not go together", hint="give one of them")
        return plan_forget_named(access, ids)
    return plan_forget_policy(access, policy, wanted=wanted, acknowledged=_words(options, "acknowledge"))


def _show_plan(output: Output, plan: ForgetPlan) -> None:
    rows = [
        (
            one.id[:8],
            format_moment(one.time),
            one.source or one.source_id[:8],
            "keep" if one.is_kept else "forget",
            ", ".join(one.reasons),
        )
        for one in plan.decisions
    ]
    if rows and not output.is_quiet:
        output.table(("ID", "TIME", "SOURCE", "", "REASONS"), rows)


def _filter(options: dict[str, object]) -> SnapshotFilter | None:
    source, tags = _text(options, "source"), _words(options, "tags")
    return SnapshotFilter(source=source, tags=parse_tag_filters(tags)) if source or tags else None


def _parse_bound(text: str | None) -> int | None:
    if text is None:
        return None
    return 0 if text == "0" else parse_size(text, what="`--max-repack`")


def _seconds(options: dict[str, object], name: str, *, default: float) -> float:
    span = parse_span(_text(options, name))
    return default if span is None else span.total_seconds()


def _text(options: dict[str, object], name: str) -> str | None:
    value = options[name]
    return None if value is None else str(value)


def _words(options: dict[str, object], name: str) -> tuple[str, ...]:
    value = options[name]
    assert isinstance(value, tuple), "an option that may be repeated"
    return value
