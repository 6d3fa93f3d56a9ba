"""`pvback repair`."""

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import stopping, watching
from pvback.errors import PartlyDone
from pvback.ops import repair as repairs

__all__ = ["repair"]

_LOST_SHOWN_MAX = 1000


def _dry_run(function: click.decorators.FC) -> click.decorators.FC:
    return click.option("--dry-run", "-n", is_flag=True, help="Show the plan, change nothing.")(function)


@click.group(no_args_is_help=False, epilog=exit_codes(3, 11))
@global_options()
def repair() -> None:
    """Mend what `pvback check` found. Backups and restores may run meanwhile.

    In this order: `pvback key repair` for `config` and keys, then `repair index`, `repair packs`, `repair
    snapshots`; `pvback check` before and afterwards. Needs an owner's or a maintainer's key.
    """


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
@_dry_run
@global_options()
@pass_invocation
def repair_snapshots(invocation: Invocation, *, force: bool, dry_run: bool) -> int:
    """Make registers, records and reference sets anew, each from what is left of the others.

    A snapshot whose register is gone comes back only when everything that it needs is there. Reference sets
    are made from trees, which takes an owner's key.
    """
    output = invocation.output
    with invocation.repository(is_writer=not dry_run) as access, stopping() as cancel:
        plan = repairs.plan_snapshot_repair(access)
        outcomes = [] if dry_run else repairs.repair_snapshots(access, plan, is_forced=force, cancel=cancel)
    if output.is_json:
        output.message("summary", {"plan": plan, "outcomes": outcomes, "is_dry_run": dry_run})
    if dry_run:
        for one in plan:
            output.line(f"snapshot {one.snapshot[:8]}: {one.kind}: {one.what}")
        output.line(f"{format_count(len(plan), 'problem')} to mend")
        return 0
    for outcome in outcomes:
        place = f"snapshot {outcome.problem.snapshot[:8]}: {outcome.problem.kind}"
        output.line(f"{place}: {outcome.done}" if outcome.done else f"{place}: NOT MENDED: {outcome.reason}")
    failed = sum(outcome.done is None for outcome in outcomes)
    output.line(f"{format_count(len(outcomes) - failed, 'problem')} mended, {failed} left")
    return PartlyDone.exit_code if failed else 0
