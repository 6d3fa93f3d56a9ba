"""`pvback pvc restore`, and what may follow it: `undo` and `commit`."""

from datetime import datetime
from typing import Any

import click

from pvback.cli.claim_progress import working
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output
from pvback.cli.pvc import cluster_options, connect_cluster, mover_options, mover_settings, parse_claim, pvc
from pvback.cli.values import parse_tags, parse_time
from pvback.config import parse_size
from pvback.errors import PartlyDone, UsageError
from pvback.ops.claim_list import snapshots_of_claim
from pvback.ops.claim_restore import (
    ClaimRestoreOptions,
    RestoredClaim,
    choose_snapshot,
    not_set,
    restore_claim,
)
from pvback.ops.claim_scopes import ScopeChoice
from pvback.ops.claim_undo import commit_claim, undo_claim

__all__ = ["commit_command", "restore_command", "undo_command"]


@pvc.command("restore", epilog=exit_codes(3, 11, 40))
@click.argument("claim", metavar="[NAMESPACE/]CLAIM")
@click.option("--snapshot", metavar="ID", help="Default: the newest.")
@click.option("--as-of", metavar="TIME", help="The newest snapshot that is not later.")
@click.option("--to", metavar="[NAMESPACE/]CLAIM", help="The claim to make; default: the same name.")
@click.option("--in-place", is_flag=True, help="Into the claim that is there: write what differs.")
@click.option(
    "--replace", is_flag=True, help="Give the claim a new volume; `undo` brings the one before back."
)
@click.option("--scale-down", is_flag=True, help="Stop what uses the claim, and start it afterwards.")
@click.option("--keep-extra", is_flag=True, help="In place, leave files that the snapshot does not have.")
@click.option("--storage-class", metavar="NAME", help="Of the new claim; default: as recorded.")
@click.option("--size", metavar="SIZE", help="Likewise.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="In place of the recorded labels."
)
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option(
    "--cluster-name", default="default", metavar="NAME", help="Of the snapshot; as `connect` was told."
)
@mover_options
@cluster_options
@global_options()
@pass_invocation
def restore_command(
    invocation: Invocation,
    /,
    claim: str,
    *,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Restore a claim from the repository: to a new claim, or in place of one that is there.

    Other names, namespaces, clusters, classes and sizes will do. A new claim whose restore fails is removed.
    With `--replace` the claim keeps its volume until the new one is whole; that takes the right to patch
    volumes.
    """
    cluster = connect_cluster(kubeconfig, context)
    namespace = given["namespace"] or cluster.namespace
    source = parse_claim(claim, namespace)
    as_of = parse_time(given["as_of"])
    options = ClaimRestoreOptions(
        target=parse_claim(given["to"], source.namespace) if given["to"] else source,
        way=_way(given),
        scale_down=given["scale_down"],
        keep_extra=given["keep_extra"],
        storage_class=given["storage_class"],
        size_bytes=parse_size(given["size"], what="--size") if given["size"] else None,
        labels=parse_tags(given["labels"]) if given["labels"] else None,
        wedged_seconds=float(given["start_timeout"]),
        settings=mover_settings(given),
    )
    output = invocation.output
    with invocation.repository(is_writer=True) as access:
        is_chosen = invocation.scope is not None
        choice = ScopeChoice(cluster, access, secret=options.settings.secret, is_chosen=is_chosen)
        scoped, known = snapshots_of_claim(choice, source, cluster_name=given["cluster_name"])
        chosen = choose_snapshot(known, wanted=given["snapshot"], as_of=as_of)
        with working(output, cluster, claim=str(options.target)) as work:
            done = restore_claim(work, scoped, snapshot=chosen, options=options)
    _show_restored(output, done, as_of)
    if not done.is_whole:
        raise PartlyDone("files could not be restored; the rest was", key=done.claim)
    return 0


def _way(given: dict[str, Any]) -> str:
    """How the claim is restored. Raises UsageError for options that exclude each other."""
    if given["in_place"] and given["replace"]:
        raise UsageError("`--in-place` and `--replace` exclude each other")
    way = "in-place" if given["in_place"] else "replace" if given["replace"] else "new"
    if way == "new" and given["scale_down"]:
        raise UsageError("`--scale-down` goes with `--in-place` or `--replace`")
    if given["keep_extra"] and way != "in-place":
        raise UsageError("`--keep-extra` goes with `--in-place`")
    for option in ("size", "storage_class") if way == "in-place" else ():
        if given[option]:
            name = option.replace("_", "-")
            raise UsageError(f"`--{name}` is of a volume that is made", hint="use `--replace`")
    return way


def _show_restored(output: Output, done: RestoredClaim, as_of: datetime | None) -> None:
    if output.is_json:
        output.message("summary", done)
        return
    for one in (denied := not_set(done.result)):
        output.warn(one)
    if denied:
        output.remark("a mover with `--privileged` may set more, where the namespace allows that")
    output.line(f"restored {done.claim} from snapshot {done.snapshot}, as of {done.taken.isoformat()}")
    for one in done.stopped:
        output.line(f"{one} runs again")
    if as_of is not None:
        output.line(f"that is {as_of - done.taken} before the time that was asked for")


@pvc.command("undo", epilog=exit_codes(11, 40, has_repository=False))
@click.argument("claim", metavar="[NAMESPACE/]CLAIM")
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("--scale-down", is_flag=True, help="Stop what uses the claim, and start it afterwards.")
@cluster_options
@global_options()
@pass_invocation
def undo_command(
    invocation: Invocation,
    /,
    claim: str,
    *,
    namespace: str | None,
    scale_down: bool,
    kubeconfig: str | None,
    context: str | None,
) -> int:
    """Put back the volume that a claim had before `restore --replace`.

    The restored volume is kept in its place: a second `undo` goes back to it, and `commit` lets it go.
    """
    cluster = connect_cluster(kubeconfig, context)
    which = parse_claim(claim, namespace or cluster.namespace)
    output = invocation.output
    with working(output, cluster, claim=str(which)) as work:
        done = undo_claim(work, which, may_stop=scale_down)
    if output.is_json:
        output.document({"claim": str(which), "volume": done.current, "kept": done.previous})
    output.line(f"claim {which} has volume {done.current} again; {done.previous} is kept until `commit`")
    return 0


@pvc.command("commit", epilog=exit_codes(11, 40, has_repository=False))
@click.argument("claim", metavar="[NAMESPACE/]CLAIM")
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@cluster_options
@global_options()
@pass_invocation
def commit_command(
    invocation: Invocation,
    /,
    claim: str,
    *,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> int:
    """Let go of the volume that a claim had before `restore --replace`.

    What becomes of it is what its reclaim policy was before: it is removed, or stays, released.
    """
    cluster = connect_cluster(kubeconfig, context)
    which = parse_claim(claim, namespace or cluster.namespace)
    output = invocation.output
    with working(output, cluster, claim=str(which)) as work:
        done, is_removed = commit_claim(work, which)
    if output.is_json:
        output.document({"claim": str(which), "volume": done.previous, "is_removed": is_removed})
    what = "is removed" if is_removed else "is retained, as its policy says"
    output.line(f"volume {done.previous}, which claim {which} had before, {what}")
    return 0
