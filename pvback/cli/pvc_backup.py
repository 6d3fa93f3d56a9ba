"""`pvback pvc backup`."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pvback import limits
from pvback.cli.claim_progress import working_on_many
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.pvc import cluster_options, connect_cluster, mover_options, mover_settings, parse_claim, pvc
from pvback.cli.values import parse_tags
from pvback.cluster.claims import ClaimFacts, list_claims, load_claim
from pvback.cluster.exposure import METHODS
from pvback.cluster.hooks import Hook, parse_hooks
from pvback.cluster.secrets import load_repository_secret
from pvback.cluster.staging import StagingOptions
from pvback.errors import FileError, PartlyDone, UsageError
from pvback.ops.claim_backup import ClaimBackupOptions, ClaimOutcome
from pvback.ops.claim_backups import backup_claims

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["backup_command"]


@pvc.command("backup", epilog=exit_codes(3, 11, 40, has_repository=False))
@click.argument("claims", nargs=-1, metavar="[NAMESPACE/]CLAIM...")
@click.option("-l", "--selector", metavar="LABELS", help="All claims that these labels select.")
@click.option("--all", "is_all", is_flag=True, help="All claims of the namespace.")
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces that are connected.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    help="Volume snapshot, clone, or the volume itself; default: a volume snapshot where there can be one.",
)
@click.option("--snapshot-class", metavar="NAME", help="Of volume snapshots; default: the driver's default.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Stored with the snapshots.")
@click.option("--exclude", "excludes", multiple=True, metavar="GLOB", help="Leave out what fits.")
@click.option("--force", is_flag=True, help="Read everything again, changed or not.")
@click.option("--staging-class", metavar="NAME", help="Storage class of copies; default: the claim's own.")
@click.option("--staging-access-mode", metavar="MODE", help="Access mode of copies; default: likewise.")
@click.option(
    "--staging-timeout",
    default=limits.STAGING_SECONDS,
    metavar="SECONDS",
    help="How long a volume snapshot may take until it is ready.",
)
@click.option("--hooks", "hooks_file", metavar="FILE", help="Hooks besides those in annotations: YAML.")
@click.option("--no-hooks", is_flag=True, help="Run none, not those in annotations either.")
@click.option("--at-once", default=limits.MOVERS_AT_ONCE, metavar="N", help="Movers at once.")
@click.option("--per-node", default=limits.MOVERS_PER_NODE, metavar="N", help="Movers at once on a node.")
@mover_options
@cluster_options
@global_options()
@pass_invocation
def backup_command(
    invocation: Invocation,
    /,
    claims: tuple[str, ...],
    *,
    selector: str | None,
    is_all: bool,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Back up claims, each as a snapshot of its own.

    What is asked for is done or refused, never exchanged for something weaker. A claim that has never been
    bound has no data and is skipped. Nothing is needed of the repository here: the movers have its key.
    """
    cluster = connect_cluster(kubeconfig, context)
    if given["all_namespaces"]:
        if claims or given["namespace"]:
            raise UsageError("`--all-namespaces` goes with `--all` or `--selector` alone")
        chosen = _choose_everywhere(invocation.output, cluster, selector=selector, secret=given["secret"])
    else:
        chosen = _choose(cluster, claims, given["namespace"], selector=selector, is_all=is_all)
    mode = given["staging_access_mode"]
    options = ClaimBackupOptions(
        method=given["method"],
        snapshot_class=given["snapshot_class"],
        tags=parse_tags(given["tags"]),
        excludes=given["excludes"],
        force=given["force"],
        staging=StagingOptions(
            storage_class=given["staging_class"],
            access_modes=(mode,) if mode else None,
            seconds=float(given["staging_timeout"]),
        ),
        wedged_seconds=float(given["start_timeout"]),
        settings=mover_settings(given),
        hooks=_read_hooks(given["hooks_file"], is_off=given["no_hooks"]),
    )
    output = invocation.output
    names = [str(one.claim) for one in chosen]
    with working_on_many(output, cluster, claims=names) as (work, progress_of):
        outcomes = backup_claims(
            work,
            chosen,
            options=options,
            progress_of=progress_of,
            at_once=int(given["at_once"]),
            per_node=int(given["per_node"]),
        )
    return _end(output, outcomes)


def _choose(
    cluster: "Cluster", claims: tuple[str, ...], namespace: str | None, *, selector: str | None, is_all: bool
) -> list[ClaimFacts]:
    """The claims that are meant. Raises UsageError for none or two ways to say it."""
    if bool(claims) + bool(selector) + is_all != 1:
        raise UsageError("name claims, or use `--selector`, or `--all`")
    where = namespace or cluster.namespace
    if claims:
        return [load_claim(cluster, parse_claim(one, where)) for one in dict.fromkeys(claims)]
    found = _list(cluster, where, selector)
    if not found:
        raise UsageError(f"no claim in namespace {where} is selected")
    return found


def _choose_everywhere(
    output: Output, cluster: "Cluster", *, selector: str | None, secret: str
) -> list[ClaimFacts]:
    """The claims of all namespaces that have the secret; of the others it is said that they are left out."""
    found = _list(cluster, None, selector)
    chosen: list[ClaimFacts] = []
    for namespace, group in groupby(found, key=lambda one: one.claim.namespace):
        claims = list(group)
        try:
            load_repository_secret(cluster, namespace, name=secret)
        except UsageError:
            output.remark(
                f"namespace {namespace} is not connected: {format_count(len(claims), 'claim')} left out"
            )
        else:
            chosen += claims
    if not chosen:
        raise UsageError("no claim of a connected namespace is selected")
    return chosen


def _list(cluster: "Cluster", namespace: str | None, selector: str | None) -> list[ClaimFacts]:
    found = list_claims(cluster, namespace=namespace, labels=selector)
    # What we made ourselves is nobody's data.
    return [one for one in found if "pvback.io/run" not in (one.body["metadata"].get("labels") or {})]


def _read_hooks(path: str | None, *, is_off: bool) -> list[Hook] | None:
    """The hooks of a file; None where there are to be none at all. Raises UsageError, FileError."""
    if is_off:
        if path is not None:
            raise UsageError("`--hooks` and `--no-hooks` exclude each other")
        return None
    if path is None:
        return []
    # Loaded here, with the extra `kubernetes`: only this needs it.
    import yaml  # noqa: PLC0415

    try:
        said = yaml.safe_load(Path(path).read_bytes())
    except OSError as exc:
        raise FileError(exc.strerror or "not readable", key=path) from exc
    except yaml.YAMLError as exc:
        raise UsageError(f"no YAML: {exc}", key=path) from exc
    return parse_hooks(said, where=path)


def _end(output: Output, outcomes: list[ClaimOutcome]) -> int:
    """Say what became of each; raise what the only one failed with, PartlyDone where some are not whole."""
    for one in outcomes:
        _show(output, one)
    bad = [one for one in outcomes if one.state in ("failed", "partly")]
    if not bad:
        return 0
    if len(outcomes) == 1:
        assert bad[0].error is not None, "what is not whole says why"
        raise bad[0].error
    stored = sum(one.state in ("done", "partly") for one in outcomes)
    names = ", ".join(one.claim for one in bad)
    if not stored and bad[0].error is not None and len({type(one.error) for one in bad}) == 1:
        raise type(bad[0].error)(
            f"none of {len(outcomes)} claims was backed up: {names}", hint=bad[0].error.hint
        )
    raise PartlyDone(f"{len(bad)} of {len(outcomes)} claims are not backed up whole: {names}")


def _show(output: Output, one: ClaimOutcome) -> None:
    if output.is_json:
        output.message("claim", one)
        return
    if one.note:
        output.remark(f"{one.claim}: {one.note}")
    for hook in one.hooks:
        if hook.step == "thaw":
            output.remark(f"{one.claim}: hook {hook.hook} held pod {hook.pod} still for {hook.seconds:.1f} s")
    if one.state in ("skipped", "failed"):
        why = f": {one.error.what}" if one.error is not None else ""
        output.line(f"{one.claim}: {one.state}{why}")
        return
    stats = one.result.get("stats") or {}
    files = format_count(int(stats.get("file_count", 0)), "file")
    size, stored = (format_bytes(int(stats.get(name, 0))) for name in ("source_bytes", "stored_bytes"))
    facts = f"{files}, {size}, {stored} stored, {one.seconds:.1f} s, by {one.method}"
    output.line(f"{one.claim}: snapshot {one.result.get('snapshot')} ({facts})")
