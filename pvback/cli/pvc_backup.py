"""`pvback pvc backup`."""

from collections import Counter
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
from pvback.cluster.freezing import FREEZE
from pvback.cluster.grouping import ClaimGroup, list_members
from pvback.cluster.hooks import Hook, parse_hooks
from pvback.cluster.secrets import load_repository_secret
from pvback.cluster.staging import StagingOptions
from pvback.errors import ClusterObjectMissing, FileError, PartlyDone, UsageError
from pvback.model import Claim
from pvback.ops.claim_backups import ChosenClaims, Pace, backup_claims
from pvback.ops.claim_jobs import GROUP_TAG, ClaimBackupOptions, ClaimOutcome

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["backup_command"]

_Groups = list[tuple[ClaimGroup, list[ClaimFacts]]]
_COUNT = click.IntRange(min=1)


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
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="LABEL=VALUE[,...]",
    help="Claims with this label, cut together at one instant, besides others. May be repeated.",
)
@click.option("--group-class", metavar="NAME", help="Of groups of volume snapshots; default: likewise.")
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
@click.option("--freeze", is_flag=True, help="Freeze file systems while they are cut, where that is allowed.")
@click.option(
    "--freeze-lease",
    type=click.FloatRange(1, limits.FREEZE_LEASE_SECONDS_MAX),
    default=limits.FREEZE_LEASE_SECONDS,
    metavar="SECONDS",
    help="When they are thawed at the latest.",
)
@click.option("--hooks", "hooks_file", metavar="FILE", help="Hooks besides those in annotations: YAML.")
@click.option("--no-hooks", is_flag=True, help="Run none, not those in annotations either.")
@click.option("--at-once", type=_COUNT, default=limits.MOVERS_AT_ONCE, metavar="N", help="Movers at once.")
@click.option(
    "--per-node", type=_COUNT, default=limits.MOVERS_PER_NODE, metavar="N", help="Movers at once on a node."
)
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

    Those of a `--group` are snapshots of one instant, known by their tag `pvback.io/group`. What is asked
    for is done or refused, never exchanged for something weaker. A claim that has never been bound has no
    data and is skipped. Nothing is needed of the repository here: the movers have its key.
    """
    cluster = connect_cluster(kubeconfig, context)
    output = invocation.output
    chosen = _choose_all(output, cluster, claims, selector=selector, is_all=is_all, given=given)
    mode = given["staging_access_mode"]
    options = ClaimBackupOptions(
        method=given["method"],
        snapshot_class=given["snapshot_class"],
        group_class=given["group_class"],
        tags=_parse_tags(given["tags"]),
        excludes=given["excludes"],
        force=given["force"],
        staging=StagingOptions(
            storage_class=given["staging_class"],
            access_modes=(mode,) if mode else None,
            seconds=float(given["staging_timeout"]),
        ),
        wedged_seconds=float(given["start_timeout"]),
        settings=mover_settings(given),
        freeze_seconds=given["freeze_lease"] if given["freeze"] else None,
        hooks=_read_hooks(given["hooks_file"], is_off=given["no_hooks"]),
    )
    pace = Pace(at_once=int(given["at_once"]), per_node=int(given["per_node"]))
    with working_on_many(output, cluster, claims=chosen.names) as (work, progress_of):
        outcomes = backup_claims(work, chosen, options=options, progress_of=progress_of, pace=pace)
    return _end(output, [*outcomes, *chosen.missing])


def _parse_tags(words: tuple[str, ...]) -> dict[str, str]:
    tags = parse_tags(words)
    if GROUP_TAG in tags:
        raise UsageError(f"tag {GROUP_TAG} is given by pvback")
    return tags


def _choose_all(
    output: Output,
    cluster: "Cluster",
    claims: tuple[str, ...],
    *,
    selector: str | None,
    is_all: bool,
    given: dict[str, Any],
) -> ChosenClaims:
    """The claims and the groups that are meant: one that is of a group is not backed up alone, too."""
    namespace, secret, method = given["namespace"], given["secret"], given["method"]
    if given["groups"] and method not in ("auto", "snapshot"):
        raise UsageError(f"claims of a group are cut by volume snapshots, not by `--method {method}`")
    if given["all_namespaces"]:
        if claims or namespace:
            raise UsageError("`--all-namespaces` goes with `--all`, `--selector` or `--group` alone")
        has_others = bool(selector or is_all or not given["groups"])
        others = _list(cluster, None, selector) if has_others else []
        everywhere = _choose_groups_everywhere(cluster, given["groups"])
        return _of_connected(output, cluster, others, groups=everywhere, secret=secret)
    groups = _choose_groups(cluster, given["groups"], namespace or cluster.namespace)
    if groups and not (claims or selector or is_all):
        return ChosenClaims(claims=[], groups=groups)
    found, missing = _choose(cluster, claims, namespace, selector=selector, is_all=is_all)
    return ChosenClaims(claims=_alone(found, groups), groups=groups, missing=missing)


def _alone(claims: list[ClaimFacts], groups: _Groups) -> list[ClaimFacts]:
    """Those that are of no group."""
    together = {one.claim for _, members in groups for one in members}
    return [one for one in claims if one.claim not in together]


def _choose_groups(cluster: "Cluster", words: tuple[str, ...], namespace: str) -> _Groups:
    """Raises UsageError for what is no label, selects nothing, or selects a claim twice."""
    groups = dict.fromkeys(ClaimGroup(namespace, _parse_labels(one)) for one in words)
    return _each_once([(group, list_members(cluster, group)) for group in groups])


def _choose_groups_everywhere(cluster: "Cluster", words: tuple[str, ...]) -> _Groups:
    """The groups of each namespace that has some. Raises as `_choose_groups`, when none has."""
    found: _Groups = []
    for labels in dict.fromkeys(_parse_labels(one) for one in words):
        selector = ClaimGroup("", labels).selector
        claims = _list(cluster, None, selector)
        if not claims:
            raise UsageError(
                f"no claim in any namespace has the label {selector}",
                hint="put it on the claims that belong together: `kubectl label pvc`",
            )
        for namespace, members in groupby(claims, key=lambda one: one.claim.namespace):
            found.append((ClaimGroup(namespace, labels), list(members)))
    return _each_once(found)


def _each_once(groups: _Groups) -> _Groups:
    """Raise UsageError for a claim that is in several of them."""
    names = [str(one.claim) for _, members in groups for one in members]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UsageError(f"in several groups: {', '.join(twice)}")
    return groups


def _parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    labels = [one.partition("=") for one in text.split(",")]
    if not all(name.strip() and mark and not value.startswith("=") for name, mark, value in labels):
        raise UsageError(f"not a label: {text!r}", hint="write LABEL=VALUE")
    return tuple(sorted((name.strip(), value.strip()) for name, _, value in labels))


def _choose(
    cluster: "Cluster", claims: tuple[str, ...], namespace: str | None, *, selector: str | None, is_all: bool
) -> tuple[list[ClaimFacts], list[ClaimOutcome]]:
    """The claims that are meant, and accounts of those that were named and are not there.

    Raises UsageError for none or two ways to say it.
    """
    if bool(claims) + bool(selector) + is_all != 1:
        raise UsageError("name claims, or use `--selector`, `--all`, or `--group`")
    where = namespace or cluster.namespace
    if claims:
        return _load_named(cluster, [parse_claim(one, where) for one in claims])
    found = _list(cluster, where, selector)
    if not found:
        raise UsageError(f"no claim in namespace {where} is selected")
    return found, []


def _load_named(cluster: "Cluster", claims: list[Claim]) -> tuple[list[ClaimFacts], list[ClaimOutcome]]:
    """One that is not there does not keep the others from being backed up. Raises ClusterError."""
    found: list[ClaimFacts] = []
    missing: list[ClaimOutcome] = []
    for one in dict.fromkeys(claims):
        try:
            found.append(load_claim(cluster, one))
        except ClusterObjectMissing as exc:
            missing.append(ClaimOutcome(claim=str(one), state="failed", error=exc))
    return found, missing


def _of_connected(
    output: Output, cluster: "Cluster", claims: list[ClaimFacts], *, groups: _Groups, secret: str
) -> ChosenClaims:
    """What is in namespaces that have the secret; of the others it is said that they are left out.

    Raises UsageError when nothing is.
    """
    alone = _alone(claims, groups)
    counts = Counter(one.claim.namespace for one in alone)
    for group, members in groups:
        counts[group.namespace] += len(members)
    connected = set()
    for namespace in sorted(counts):
        try:
            load_repository_secret(cluster, namespace, name=secret)
        except UsageError:
            left_out = format_count(counts[namespace], "claim")
            output.remark(f"namespace {namespace} is not connected: {left_out} left out")
        else:
            connected.add(namespace)
    if not connected:
        raise UsageError("no claim of a connected namespace is selected")
    return ChosenClaims(
        claims=[one for one in alone if one.claim.namespace in connected],
        groups=[one for one in groups if one[0].namespace in connected],
    )


def _list(cluster: "Cluster", namespace: str | None, selector: str | None) -> list[ClaimFacts]:
    found = list_claims(cluster, namespace=namespace, labels=selector)
    return [one for one in found if not one.is_made_by_a_run]


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
    shown: set[str | None] = {None}
    for one in outcomes:
        # What hooks did for a group they did once.
        _show(output, one, has_hooks=one.group is None or one.group not in shown)
        shown.add(one.group)
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


def _show(output: Output, one: ClaimOutcome, *, has_hooks: bool) -> None:
    if output.is_json:
        output.message("claim", one)
        return
    if one.note:
        output.remark(f"{one.claim}: {one.note}")
    for hook in one.hooks if has_hooks else ():
        if hook.step == "thaw" and hook.hook == FREEZE:
            output.remark(f"{one.claim}: pod {hook.pod} had the file system frozen for {hook.seconds:.1f} s")
        elif hook.step == "thaw":
            output.remark(f"{one.claim}: hook {hook.hook} held pod {hook.pod} still for {hook.seconds:.1f} s")
    if one.state in ("skipped", "failed"):
        why = f": {one.error.what}" if one.error is not None else ""
        output.line(f"{one.claim}: {one.state}{why}")
        return
    stats = one.result.get("stats") or {}
    files = format_count(int(stats.get("file_count", 0)), "file")
    size, stored = (format_bytes(int(stats.get(name, 0))) for name in ("source_bytes", "stored_bytes"))
    facts = f"{files}, {size}, {stored} stored, {one.seconds:.1f} s, by {one.method}"
    if one.group is not None:
        facts += f" {one.group}"
    output.line(f"{one.claim}: snapshot {one.result.get('snapshot')} ({facts})")
