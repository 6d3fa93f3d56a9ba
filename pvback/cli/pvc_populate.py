"""`pvback pvc populate`."""

from typing import Any

import click

from pvback import limits
from pvback.cli.claim_progress import NamedProgress
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_count
from pvback.cli.progress import stopping
from pvback.cli.pvc import cluster_options, connect_cluster, mover_options, mover_settings, pvc
from pvback.errors import PartlyDone, UsageError
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_populate import Attended, PopulateOptions
from pvback.ops.claim_populator import Populator
from pvback.runtime import SystemClock

__all__ = ["populate_command"]


@pvc.command("populate", epilog=exit_codes(3, 11, 40))
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of the whole cluster.")
@click.option("--watch", "is_watching", is_flag=True, help="Go on until stopped, and try again what failed.")
@click.option(
    "--interval",
    default=limits.POPULATE_POLL_SECONDS,
    metavar="SECONDS",
    help="With `--watch`: between two looks.",
)
@click.option("--cluster-name", default="default", metavar="NAME", help="As `connect` was told.")
@click.option("--at-once", default=limits.MOVERS_AT_ONCE, metavar="N", help="Movers at once.")
@mover_options
@cluster_options
@global_options()
@pass_invocation
def populate_command(
    invocation: Invocation,
    /,
    *,
    is_watching: bool,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Fill claims that name a Restore as their `dataSourceRef`, and give them their volumes then.

    A claim that waits for its first pod is filled on the node that the scheduler has chosen. One that cannot
    be filled stays unbound, and its Restore and its events say why. What a Restore names is of its own
    namespace. Takes an owner's key, or a restorer's key file, and the right to patch volumes.
    """
    cluster = connect_cluster(kubeconfig, context)
    namespace = None if given["all_namespaces"] else given["namespace"] or cluster.namespace
    interval, at_once = float(given["interval"]), int(given["at_once"])
    if given["privileged"]:
        raise UsageError("which movers are privileged says the Restore", hint="set `privileged: true` in it")
    if interval <= 0 or at_once < 1:
        raise UsageError("`--interval` and `--at-once` are more than nothing")
    options = PopulateOptions(
        cluster_name=given["cluster_name"],
        wedged_seconds=float(given["start_timeout"]),
        settings=mover_settings(given),
    )
    output, config = invocation.output, invocation.config()
    with stopping() as cancel:
        told = NamedProgress(output, namespace or "all namespaces")
        populator = Populator(
            ClaimWork(cluster=cluster, progress=told, cancel=cancel, clock=SystemClock()),
            namespace=namespace,
            options=options,
            open_repository=lambda: invocation.repository(config=config),
            progress_of=lambda claim: NamedProgress(output, str(claim)),
            at_once=at_once,
        )
        if is_watching:
            populator.watch(seconds=interval, tell=lambda one: _show(output, one))
            return 0
        attended = populator.once()
    return _end(output, attended)


def _end(output: Output, attended: list[Attended]) -> int:
    """Say what became of each; raise what they failed with, PartlyDone where some did not."""
    for one in attended:
        _show(output, one)
    filled = sum(one.state == "filled" for one in attended)
    output.remark(f"{format_count(filled, 'claim')} filled, of {len(attended)} looked at")
    errors = [one.error for one in attended if one.error is not None]
    if not errors:
        return 0
    if not filled and len({one.exit_code for one in errors}) == 1:
        raise errors[0]
    raise PartlyDone(f"{format_count(len(errors), 'claim')} of {len(attended)} could not be filled")


def _show(output: Output, one: Attended) -> None:
    if output.is_json:
        output.message("claim", one)
        return
    if one.snapshot is not None and one.taken is not None:
        facts = f"from snapshot {one.snapshot}, as of {one.taken.isoformat()}, {one.seconds:.1f} s"
        output.line(f"{one.claim}: filled {facts}")
        if one.note:
            output.warn(f"{one.claim}: {one.note}")
        return
    why = str(one.error) if one.error is not None else one.note
    output.line(f"{one.claim}: {one.state}: {why}")
