"""`pvback repair`."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import stopping, watching
from pvback.cli.values import parse_time
from pvback.errors import PartlyDone
from pvback.ops import repair as repairs
from pvback.ops import rewrite as rewrites

__all__ = ["repair"]

_LOST_SHOWN_MAX = 1000
_RANGES_SHOWN_MAX = 10


def _dry_run(function: click.decorators.FC) -> click.decorators.FC:
    return click.option("--dry-run", "-n", is_flag=True, help="Show the plan, change nothing.")(function)


@click.group(no_args_is_help=False, epilog=exit_codes(3, 11))
@global_options()
def repair() -> None:
    """Mend what `pvback check` found. Backups and restores may run meanwhile.

    In this order: `pvback key repair` for `config` and keys, then `repair state`, `repair index`, `repair
    packs`, `repair snapshots`; `pvback check` before and afterwards. Needs an owner's or a maintainer's key.
    """


@repair.command("state", epilog=exit_codes(11))
@click.option("--force", is_flag=True, help="Give up no pack. Not within a day of any prune's last step.")
@_dry_run
@global_options()
@pass_invocation
def repair_state(invocation: Invocation, *, force: bool, dry_run: bool) -> int:
    """Make `gc/state` anew where it is lost: what exists, which runs count, which packs do not.

    Backups that are under way are ended, and begin again. A pack that has nothing of its own that a snapshot
    needs may have been given up before, and be about to vanish: so all such packs are given up, and what is
    needed of them is copied first.
    """
    output = invocation.output
    done = None
    with invocation.repository(is_writer=not dry_run) as access, stopping() as cancel:
        why = repairs.plan_state_repair(access)
        if why is not None and not dry_run:
            done = repairs.repair_state(access, is_forced=force, cancel=cancel)
    if output.is_json:
        output.message("summary", {"why": why, "repair": done, "is_dry_run": dry_run})
    if why is None:
        output.line("there is nothing wrong with `gc/state`")
    elif done is None:
        output.line(f"`gc/state` would be made anew: {why}")
    else:
        output.line(f"`gc/state` was made anew: {why}")
        output.line(
            f"{format_count(len(done.snapshots), 'snapshot')} there, "
            f"{len(done.fenced)} unfinished ones ended, {format_count(len(done.given_up), 'pack')} given up, "
            f"{format_bytes(done.copied_bytes)} copied out of them"
        )
        if done.missing_count:
            output.warn(f"{done.missing_count} chunks and pages that snapshots need are in no pack")
    return 0


@repair.command("index", epilog=exit_codes(11))
@_dry_run
@global_options()
@pass_invocation
def repair_index(invocation: Invocation, *, dry_run: bool) -> int:
    """Make index runs anew from packs that no readable run lists, in place of runs that are lost."""
    output = invocation.output
    with invocation.repository(is_writer=not dry_run) as access, stopping() as cancel:
        if dry_run:
            done = repairs.IndexRepair(plan=repairs.plan_index_repair(access, cancel=cancel))
        else:
            done = repairs.repair_index(access, cancel=cancel)
    if output.is_json:
        output.message("summary", {"repair": done, "is_dry_run": dry_run})
    plan = done.plan
    for run, why in plan.damaged_runs.items():
        output.line(f"index/{run} is damaged: {why}")
    for run in plan.missing_runs:
        output.line(f"index/{run} is missing")
    for run, why in plan.contradicting_runs.items():
        output.warn(f"index/{run} contradicts another run and was left as it is: {why}")
    for pack, why in done.problems.items():
        output.warn(f"{pack} cannot be listed: {why}")
    lost = format_count(len(plan.lost_runs), "lost run")
    packs = format_count(len(plan.unlisted) - len(done.problems), "pack")
    verb = "would be" if dry_run else "were"
    output.line(f"{lost} {verb} dropped, {packs} {verb} listed anew")
    return 0


@repair.command("packs", epilog=exit_codes(3, 11))
@click.option("--read-data", is_flag=True, help="Look for damage in all that packs hold, too.")
@_dry_run
@global_options()
@pass_invocation
def repair_packs(invocation: Invocation, *, read_data: bool, dry_run: bool) -> int:
    """Copy what opens of damaged packs into new ones, and give up the packs that are damaged or missing."""
    output = invocation.output
    with (
        invocation.repository(is_writer=not dry_run) as access,
        watching(output) as progress,
        stopping() as cancel,
    ):
        plan = repairs.plan_pack_repair(access, read_data=read_data, progress=progress, cancel=cancel)
        for name, why in plan.packs.items():
            output.line(f"pack {name}: {why}")
        result = None
        if plan.packs and not dry_run:
            result = repairs.repair_packs(access, plan, progress=progress, cancel=cancel)
    if output.is_json:
        output.message("summary", {"plan": plan, "repair": result, "is_dry_run": dry_run})
    if result is None:
        output.line(f"{format_count(len(plan.packs), 'pack')} to repair")
        return 0
    return _show_packs(output, result)


def _show_packs(output: Output, result: repairs.PacksRepaired) -> int:
    done = result.done
    for blob in done.lost[:_LOST_SHOWN_MAX]:
        output.line(f"lost: {blob.id} of pack {blob.pack}, {format_bytes(blob.bytes)}")
    for finding in result.losses[:_LOST_SHOWN_MAX]:
        where = f" {finding.paths[0]}:" if finding.paths else ""
        output.line(f"lost:{where} {finding.what}")
    output.line(
        f"{format_count(len(done.packs), 'pack')} given up, "
        f"{format_count(done.saved_count, 'blob')} ({format_bytes(done.saved_bytes)}) saved, "
        f"{len(done.lost)} lost"
    )
    return PartlyDone.exit_code if result.losses else 0


@repair.command("snapshots", epilog=exit_codes(3, 11))
@click.option("--force", is_flag=True, help="Give up registers that are damaged and have no record.")
@click.option("--forget", is_flag=True, help="Forget snapshots that were written anew, or have nothing left.")
@_dry_run
@global_options()
@pass_invocation
def repair_snapshots(invocation: Invocation, *, force: bool, forget: bool, dry_run: bool) -> int:
    """Make registers, records and reference sets anew, each from what is left of the others; then write anew,
    without what is lost, every snapshot that has lost content.

    A snapshot whose register is gone comes back only when everything that it needs is there. Files of which
    anything is lost are left out of the new snapshot, and so is what lost pages of the tree held. The damaged
    one stays, but for --forget. Whatever reads trees takes an owner's key.
    """
    output = invocation.output
    with (
        invocation.repository(is_writer=not dry_run) as access,
        watching(output) as progress,
        stopping() as cancel,
    ):
        plan = repairs.plan_snapshot_repair(access)
        outcomes = [] if dry_run else repairs.repair_snapshots(access, plan, is_forced=force, cancel=cancel)
        contents = rewrites.plan_rewrites(access, progress=progress, cancel=cancel)
        written: Sequence[rewrites.RewriteOutcome] = []
        if not dry_run:
            written = rewrites.rewrite(
                access, contents, is_forgetting=forget, progress=progress, cancel=cancel
            )
    if output.is_json:
        output.message(
            "summary",
            {
                "plan": plan,
                "outcomes": outcomes,
                "contents": contents,
                "written": written,
                "is_dry_run": dry_run,
            },
        )
    if dry_run:
        for one in plan:
            output.line(f"snapshot {one.snapshot[:8]}: {one.kind}: {one.what}")
        for loss in contents.losses:
            _show_loss(output, loss)
        if contents.refusal is not None and contents.losses:
            output.line(f"not to be written anew yet: {contents.refusal}")
        count = len(plan) + sum(one.replacement is None for one in contents.losses)
        output.line(f"{format_count(count, 'problem')} to mend")
        return 0
    failed = _show_mended(output, outcomes) + _show_written(output, written)
    return PartlyDone.exit_code if failed else 0


def _show_mended(output: Output, outcomes: Sequence[repairs.SnapshotOutcome]) -> int:
    for outcome in outcomes:
        place = f"snapshot {outcome.problem.snapshot[:8]}: {outcome.problem.kind}"
        output.line(f"{place}: {outcome.done}" if outcome.done else f"{place}: NOT MENDED: {outcome.reason}")
    failed = sum(outcome.done is None for outcome in outcomes)
    output.line(f"{format_count(len(outcomes) - failed, 'problem')} mended, {failed} left")
    return failed


def _show_written(output: Output, written: Sequence[rewrites.RewriteOutcome]) -> int:
    for outcome in written:
        _show_loss(output, outcome.loss)
        place = f"snapshot {outcome.loss.snapshot[:8]}"
        if outcome.replacement is None:
            output.line(f"{place}: NOT WRITTEN ANEW: {outcome.reason}")
        elif outcome.loss.replacement is None:
            output.line(f"{place}: written anew as {outcome.replacement}")
        if outcome.is_forgotten:
            output.line(f"{place}: forgotten")
    # What was forgotten since nothing of it is left needs nothing more.
    return sum(one.replacement is None and not one.is_forgotten for one in written)


def _show_loss(output: Output, loss: rewrites.ContentLoss) -> None:
    place = f"snapshot {loss.snapshot[:8]}"
    if loss.replacement is not None:
        output.line(f"{place}: snapshot {loss.replacement[:8]} stands in its place")
        return
    for entry in loss.entries:
        output.line(f"{place}: lost: {_lost_text(entry)}")
    lost = loss.lost
    if len(loss.entries) < lost["files"] + lost["gaps"] + lost["directories"]:
        output.line(f"{place}: lost: and more")
    output.line(
        f"{place}: {format_count(lost['files'], 'file')} ({format_bytes(lost['bytes'])}) not whole, "
        f"{lost['entries']} entries of lost pages, {lost['left']} entries left"
    )


def _lost_text(entry: Mapping[str, Any]) -> str:
    if entry["kind"] == "file":
        ranges = ", ".join(f"{offset}+{length}" for offset, length in entry["ranges"][:_RANGES_SHOWN_MAX])
        more = ", ..." if entry["range_count"] > _RANGES_SHOWN_MAX else ""
        return f"{entry['path'] or '.'}: of {entry['size']} bytes {ranges}{more}"
    if entry["kind"] == "directory":
        return f"{entry['path'] or '.'}: its attributes"
    after, before = entry["after"], entry["before"]
    parts = [] if after is None else [f"after `{after}`"]
    parts += [] if before is None else [f"before `{before}`"]
    return f"entries {' and '.join(parts) or 'of the whole tree'}: {entry['message']}"


@repair.command("versions", epilog=exit_codes(30, has_repository=False))
@click.option(
    "--before", metavar="TIME", required=True, help="The first moment that is undone, by the service's clock."
)
@_dry_run
@global_options()
@pass_invocation
def repair_versions(invocation: Invocation, *, before: str, dry_run: bool) -> int:
    """Make a bucket that keeps versions as it was right before a moment: after an attack or a mistake.

    Needs no key of the repository, and that nobody else writes to it. What was deleted or overwritten then
    or later comes back, what is newer is hidden; no version is removed, so that this can be taken back the
    same way.
    """
    # Loaded here: the other repairs need none of it.
    from pvback.ops.versions import bring_back_versions  # noqa: PLC0415

    output = invocation.output
    moment = parse_time(before)
    assert moment is not None, "the option is required"
    with stopping() as cancel:
        plan = bring_back_versions(
            invocation.config(is_unlocking=False), moment, is_dry=dry_run, cancel=cancel
        )
    counts = {
        "deleted": len(plan.revealed),
        "overwritten": len(plan.restored),
        "hidden": len(plan.hidden),
        "unchanged": plan.unchanged_count,
    }
    if output.is_json:
        output.message("summary", {"versions": counts, "is_dry_run": dry_run})
    verb = "would be" if dry_run else "were"
    output.line(
        f"{format_count(counts['deleted'] + counts['overwritten'], 'object')} {verb} brought back "
        f"({counts['deleted']} deleted, {counts['overwritten']} overwritten), "
        f"{counts['hidden']} newer ones {verb} hidden, {counts['unchanged']} are as they were"
    )
    return 0
