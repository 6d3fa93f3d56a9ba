"""`pvback export restore`."""

from typing import Any

import click

from pvback.cli.claim_progress import working
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.export import export
from pvback.cli.output import Output, format_count
from pvback.cli.pvc import cluster_options, connect_cluster, mover_options, mover_settings
from pvback.cli.values import parse_time
from pvback.cluster.discovery import discover
from pvback.errors import PartlyDone, UsageError
from pvback.model import Claim
from pvback.ops.claim_restore import ClaimRestoreOptions
from pvback.ops.claim_scopes import ScopeChoice
from pvback.ops.export_apply import BAD_STATES, apply_restore
from pvback.ops.export_plan import ExportRestoreOptions, PlannedObject, RestorePlan, plan_restore
from pvback.ops.export_read import Export, find_export, load_export

__all__ = ["restore_command"]


@export.command("restore", epilog=exit_codes(3, 11, 40))
@click.argument("snapshot", metavar="SNAPSHOT")
@click.option("--apply", "is_applied", is_flag=True, help="Do it; without this, only say what would be done.")
@click.option("--namespace", "mapping", metavar="OLD=NEW", help="Into another namespace.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND[.GROUP]", help="Only these; may be repeated.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only these; may be repeated.")
@click.option("--no-data", is_flag=True, help="Make claims empty.")
@click.option("--as-of", metavar="TIME", help="Claims' data of then at the latest; default: of the export.")
@click.option("--overwrite", is_flag=True, help="Change objects of the namespace that differ.")
@click.option("--force-conflicts", is_flag=True, help="With `--overwrite`: fields that others manage, too.")
@click.option("--storage-class", metavar="NAME", help="Of claims with data; default: as recorded.")
@mover_options
@cluster_options
@global_options()
@pass_invocation
def restore_command(
    invocation: Invocation,
    /,
    snapshot: str,
    *,
    is_applied: bool,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Show what a restore of an export would do, as the cluster judges it; with `--apply`, do it.

    Nothing that is there is replaced. Claims get the data of their last backup before the export; while one
    cannot, nothing is made that would use it. Objects of the cluster are made where they are missing and that
    is allowed.
    """
    if given["force_conflicts"] and not given["overwrite"]:
        raise UsageError("`--force-conflicts` is for `--overwrite`")
    cluster = connect_cluster(kubeconfig, context)
    output = invocation.output
    with invocation.repository(is_writer=is_applied) as access:
        is_chosen = invocation.scope is not None
        where, found = find_export(access, snapshot, is_scope_chosen=is_chosen)
        stored = load_export(where, found)
        choice = ScopeChoice(cluster, access, secret=given["secret"], is_chosen=is_chosen)
        data = choice.find(stored.namespace) or where
        options = ExportRestoreOptions(
            namespace=_new_name(given["mapping"], stored),
            kinds=given["kinds"],
            names=given["names"],
            has_data=not given["no_data"],
            as_of=parse_time(given["as_of"]),
            overwrite=given["overwrite"],
            is_forced=given["force_conflicts"],
            secret=given["secret"],
        )
        plan = plan_restore(cluster, data, export=stored, discovery=discover(cluster), options=options)
        if is_applied:
            claims = ClaimRestoreOptions(
                target=Claim(plan.namespace, ""),
                storage_class=given["storage_class"],
                wedged_seconds=float(given["start_timeout"]),
                settings=mover_settings(given),
            )
            with working(output, cluster, claim=f"{plan.namespace}/claims") as work:
                apply_restore(work, plan, options=options, claims=claims, tell=lambda one: _tell(output, one))
        else:
            _show_plan(output, plan)
    return _end(output, plan, is_applied=is_applied)


def _new_name(mapping: str | None, stored: Export) -> str | None:
    if mapping is None:
        return None
    old, mark, new = mapping.partition("=")
    if not mark or not old or not new:
        raise UsageError(f"not a pair of namespaces: {mapping!r}", hint="write OLD=NEW")
    if old != stored.namespace:
        raise UsageError(f"the export is of namespace {stored.namespace}, not of {old}")
    return new


def _tell(output: Output, one: PlannedObject) -> None:
    if output.is_json:
        output.message("object", _facts(one))
    elif one.state in BAD_STATES or one.state in ("differs", "forbidden"):
        output.warn(f"{one.name}: {one.state}: {one.why}")
    elif one.state not in ("unchanged", "left"):
        output.line(f"{one.name}: {one.state}{f' {one.why}' if one.why else ''}")


def _show_plan(output: Output, plan: RestorePlan) -> None:
    if output.is_json:
        for one in plan.objects:
            output.message("object", _facts(one))
        return
    output.table(("OBJECT", "", "WHY"), [(one.name, one.state, one.why) for one in plan.objects])


def _facts(one: PlannedObject) -> dict[str, object]:
    metadata = one.body["metadata"]
    return {
        "kind": one.body["kind"],
        "api_version": one.body["apiVersion"],
        "name": metadata["name"],
        "namespace": metadata.get("namespace"),
        "state": one.state,
        "why": one.why,
        "path": one.path,
    }


def _end(output: Output, plan: RestorePlan, *, is_applied: bool) -> int:
    counts: dict[str, int] = {}
    for one in plan.objects:
        counts[one.state] = counts.get(one.state, 0) + 1
    if output.is_json:
        output.message("summary", {"snapshot": plan.export.snapshot, "namespace": plan.namespace, **counts})
    shown = ", ".join(f"{count} {state}" for state, count in counts.items())
    output.remark(f"{format_count(len(plan.objects), 'object')} for namespace {plan.namespace}: {shown}")
    if plan.export.left_out_count:
        output.remark(f"{plan.export.left_out_count} things are not in the export: see _left-out.json in it")
    if not is_applied:
        output.remark("nothing was changed; `--apply` does it")
    bad = [f"{one.name}: {one.state}" for one in plan.objects if one.state in BAD_STATES]
    if bad:
        what = "objects are not restored" if is_applied else "objects would not be restored"
        raise PartlyDone(f"{len(bad)} of {len(plan.objects)} {what}: {'; '.join(bad)}")
    return 0
