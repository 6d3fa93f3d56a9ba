"""`pvback pvc`: claims of a Kubernetes cluster, read and written by pods beside their volumes."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pvback import limits
from pvback.cli.claim_progress import working
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import format_bytes, format_count, format_moment
from pvback.cli.values import parse_tags, parse_toleration
from pvback.cluster.claim_runs import find_leftovers, remove_leftovers
from pvback.cluster.mover import MoverSettings
from pvback.cluster.quantity import parse_millis
from pvback.config import parse_size
from pvback.errors import ClusterError, FileError, PartlyDone, UsageError
from pvback.model import Claim
from pvback.ops import claim_connect as connecting
from pvback.ops.claim_list import CoveredClaim, list_coverage
from pvback.ops.claim_scopes import SECRET_NAME, ScopeChoice
from pvback.ops.claim_undo import complete_unfinished, find_unfinished

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "cluster_options",
    "connect_cluster",
    "mover_options",
    "mover_settings",
    "parse_claim",
    "pvc",
    "secret_option",
]

F = TypeVar("F", bound=Callable[..., Any])


_ELSEWHERE = {
    "backup": "pvc_backup.backup_command",
    "capture": "pvc_capture.capture_command",
    "commit": "pvc_restore.commit_command",
    "populate": "pvc_populate.populate_command",
    "restore": "pvc_restore.restore_command",
    "undo": "pvc_restore.undo_command",
}
"""Commands that have a module of their own, which is built upon this one."""


class _Claims(click.Group):
    """Loads commands of other modules when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as the help shows them."""
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them."""
        if cmd_name in _ELSEWHERE:
            module, _, name = _ELSEWHERE[cmd_name].partition(".")
            command: click.Command = getattr(import_module(f"pvback.cli.{module}"), name)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Claims, epilog=exit_codes(3, 11, 40))
@global_options()
def pvc() -> None:
    """Back up and restore the claims of a Kubernetes cluster.

    A mover, a pod without rights in the cluster, does the work beside each volume. `connect` gives a
    namespace what its movers need, once.
    """


def _several(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _check_cpu(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        if value is None or parse_millis(value) > 0:
            return value
    except ClusterError:
        pass
    raise click.BadParameter("write it as Kubernetes does: `500m`, `2`")


cluster_options = _several(
    click.option("--kubeconfig", metavar="FILE", help="Default: KUBECONFIG, or the pod's own account."),
    click.option("--context", metavar="NAME", help="Of the kubeconfig; default: its current one."),
)
secret_option = click.option(
    "--secret",
    default=SECRET_NAME,
    metavar="NAME",
    help="The namespace's secret with the repository.",
)
mover_options = _several(
    secret_option,
    click.option("--image", metavar="IMAGE", help="Of movers; default: what `connect` was told."),
    click.option("--mover-memory", default="512MiB", metavar="SIZE", help="Limit of a mover's container."),
    click.option("--mover-cpu", metavar="QUANTITY", callback=_check_cpu, help="Likewise; default: none."),
    click.option("--service-account", metavar="NAME", help="Of movers; it needs no rights."),
    click.option("--priority-class", metavar="NAME", help="Of movers."),
    click.option("--pull-secret", "pull_secrets", multiple=True, metavar="NAME", help="May be repeated."),
    click.option(
        "--toleration",
        "tolerations",
        multiple=True,
        metavar="TAINT",
        help="KEY[=VALUE][:EFFECT], besides those of the claim's pod. May be repeated.",
    ),
    click.option(
        "--node-selector",
        "node_selector",
        multiple=True,
        metavar="LABEL=VALUE",
        help="Where movers may run; in a restore in place of what the claim's pod asked for.",
    ),
    click.option("--deadline", default=limits.MOVER_DEADLINE_SECONDS, metavar="SECONDS", help="Of a mover."),
    click.option(
        "--start-timeout",
        default=limits.MOVER_WEDGED_SECONDS,
        metavar="SECONDS",
        help="How long a mover may take until it runs.",
    ),
    click.option(
        "--privileged", is_flag=True, help="Movers run as root with one capability, where that is allowed."
    ),
)


def connect_cluster(kubeconfig: str | None, context: str | None) -> "Cluster":
    """The cluster that the options name. Raises UsageError."""
    # Loaded here: the client takes a good part of a second, and is an extra.
    try:
        from pvback.cluster.client import Cluster  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise UsageError(
            "the client of Kubernetes is not installed", hint="run `pip install 'pvback[kubernetes]'`"
        ) from exc
    return Cluster.connect(kubeconfig=kubeconfig, context=context)


def mover_settings(given: dict[str, Any]) -> MoverSettings:
    """The settings that the options say. Takes its options out of `given`."""
    memory = parse_size(given.pop("mover_memory"), what="--mover-memory")
    least = limits.MEMORY_BYTES_MIN + limits.MOVER_SPARE_BYTES
    if memory < least:
        raise UsageError(f"--mover-memory is too small: at least {format_bytes(least)}")
    return MoverSettings(
        image=given.pop("image") or "",
        secret=given.pop("secret"),
        memory_bytes=memory,
        cpu=given.pop("mover_cpu"),
        service_account=given.pop("service_account"),
        priority_class=given.pop("priority_class"),
        pull_secrets=given.pop("pull_secrets"),
        tolerations=tuple(map(parse_toleration, given.pop("tolerations"))),
        node_selector=parse_tags(given.pop("node_selector")),
        deadline_seconds=int(given.pop("deadline")),
        is_privileged=given.pop("privileged"),
    )


def parse_claim(text: str, namespace: str) -> Claim:
    """`NAMESPACE/CLAIM` or `CLAIM`."""
    before, mark, after = text.partition("/")
    found = Claim(before, after) if mark else Claim(namespace, before)
    if not found.name or not found.namespace or "/" in found.name:
        raise UsageError(f"not a claim: {text!r}", hint="write NAMESPACE/CLAIM")
    return found


@pvc.command("connect", epilog=exit_codes(11, 40))
@click.argument("namespace")
@click.option(
    "--role",
    type=click.Choice(["writer", "restorer", "owner"]),
    default="writer",
    help="For movers; a populator of the namespace; one of all namespaces.",
)
@click.option(
    "--secret", metavar="NAME", help="To be made; default: pvback-repository, of others pvback-populator."
)
@click.option(
    "--cluster-name", metavar="NAME", help="Of this cluster in snapshots, for life; default: `default`."
)
@click.option("--scope-name", metavar="NAME", help="Of the scope; default: the namespace's name.")
@click.option("--image", metavar="IMAGE", help="Of movers.")
@click.option(
    "--aws-credentials", type=click.Path(), metavar="FILE", help="For movers; they need not delete."
)
@click.option("--ca", type=click.Path(), metavar="FILE", help="Certificates that movers trust the store by.")
@click.option("--mover-endpoint", metavar="URL", help="The store's, as pods reach it.")
@click.option("--replace", is_flag=True, help="A new key in the secret; what is not named stays.")
@cluster_options
@global_options()
@pass_invocation
def connect(
    invocation: Invocation,
    /,
    namespace: str,
    *,
    role: str,
    aws_credentials: str | None,
    ca: str | None,
    replace: bool,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Let the movers of a namespace write into the repository: a scope and a key of their own.

    The key backs up and opens no stored content. It lies in a secret, with the store's credentials. With
    `--role` it is that of a populator: a restorer's key reads the scope, an owner's everything.
    """
    options = connecting.ConnectOptions(
        secret=given["secret"] or (SECRET_NAME if role == "writer" else "pvback-populator"),
        replace=replace,
        role=role,
        cluster=given["cluster_name"],
        scope=given["scope_name"],
        image=given["image"],
        endpoint=given["mover_endpoint"],
        credentials=_read(aws_credentials),
        ca=_read(ca),
    )
    cluster = connect_cluster(kubeconfig, context)
    if not replace:
        connecting.require_unconnected(cluster, namespace, secret=options.secret)
    with invocation.repository(is_writer=True) as access:
        made = connecting.connect_namespace(cluster, access, namespace=namespace, options=options)
    output = invocation.output
    if output.is_json:
        output.document({"namespace": made.namespace, "scope": made.scope, "principal": made.principal})
    does = {"writer": f"writes into scope {made.scope}", "restorer": f"reads scope {made.scope}"}
    output.line(f"namespace {namespace} {does.get(role, 'reads everything')}, with key {made.principal}")
    return 0


def _read(path: str | None) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as exc:
        raise FileError(exc.strerror or "not readable", key=path) from exc


@pvc.command("list", epilog=exit_codes(40))
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of the whole cluster.")
@click.option("--cluster-name", default="default", metavar="NAME", help="As `connect` was told.")
@secret_option
@cluster_options
@global_options()
@pass_invocation
def list_command(
    invocation: Invocation,
    /,
    *,
    namespace: str | None,
    all_namespaces: bool,
    cluster_name: str,
    secret: str,
    **where_from: str | None,
) -> int:
    """Show every claim and its last good backup, or that there is none."""
    cluster = connect_cluster(where_from["kubeconfig"], where_from["context"])
    where = None if all_namespaces else namespace or cluster.namespace
    with invocation.repository() as access:
        choice = ScopeChoice(cluster, access, secret=secret, is_chosen=invocation.scope is not None)
        found = list_coverage(cluster, choice, namespace=where, cluster_name=cluster_name)
    output = invocation.output
    if output.is_json:
        output.document(found)
        return 0
    output.table(("CLAIM", "PHASE", "SIZE", "PODS", "LAST BACKUP", "WORTH"), [_row(one) for one in found])
    bare = sum(one.last_backup is None and one.phase == "Bound" for one in found)
    output.remark(f"{format_count(len(found), 'claim')}, {bare} of them bound and never backed up")
    return 0


def _row(one: CoveredClaim) -> tuple[str, ...]:
    worth = "" if one.grade is None else one.grade
    if one.error_count:
        worth += f", {format_count(one.error_count, 'file')} missing"
    last = "none" if one.last_backup is None else format_moment(one.last_backup)
    return one.claim, one.phase, format_bytes(one.capacity_bytes), ",".join(one.pods), last, worth


@pvc.command("cleanup", epilog=exit_codes(3, 40, has_repository=False))
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@click.option("--scale-up", is_flag=True, help="Also workloads whose claim is half restored.")
@cluster_options
@global_options()
@pass_invocation
def cleanup(
    invocation: Invocation,
    /,
    *,
    namespace: str | None,
    dry_run: bool,
    scale_up: bool,
    kubeconfig: str | None,
    context: str | None,
) -> int:
    """Remove what runs that were killed have left, and complete what they had begun.

    Movers, volume snapshots, copies of claims and secrets go: only what pvback has made for a run and
    labelled so; nothing of a run that lives, and no claim of yours. A volume that was half exchanged is
    exchanged; workloads that were stopped run again, but not with data that is half restored.
    """
    cluster = connect_cluster(kubeconfig, context)
    where = namespace or cluster.namespace
    output = invocation.output
    with working(output, cluster, claim=where) as work:
        found = find_leftovers(cluster, namespace=where)
        failed = [] if dry_run else remove_leftovers(cluster, found, clock=work.clock)
        unfinished = find_unfinished(cluster, namespace=where)
        for half_done in () if dry_run else unfinished:
            failed += complete_unfinished(work, half_done, scale_up=scale_up)
    said = [str(one) for one in unfinished]
    if output.is_json:
        names = [str(one) for one in found]
        output.document({"namespace": where, "found": names, "unfinished": said, "failed": failed})
    else:
        for one in found:
            output.line(f"{'would remove' if dry_run else 'removed'} {one}")
        for words in said:
            output.line(f"unfinished: {words}")
        output.remark(format_count(len(found), "object"))
    if failed:
        raise PartlyDone(f"could not be removed or completed: {'; '.join(failed)}")
    return 0
