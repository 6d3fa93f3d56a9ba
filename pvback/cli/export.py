"""`pvback export`."""

from typing import Any

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output, format_bytes, format_count
from pvback.cli.progress import stopping, watching
from pvback.cli.pvc import cluster_options, connect_cluster, secret_option
from pvback.cli.values import parse_tags
from pvback.cluster.exporting import CollectOptions
from pvback.errors import PartlyDone, PvbackError
from pvback.ops.export import ExportOptions, ExportResult, export_namespace

__all__ = ["export"]

_DEFAULT = "namespaces"


class _Export(click.Group):
    """`export NAMESPACE...` means `export namespaces NAMESPACE...`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as the help shows them."""
        return [_DEFAULT, "restore"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them; `restore` has a module of its own."""
        if cmd_name == "restore":
            # It is built upon this module.
            from pvback.cli import export_restore  # noqa: PLC0415

            return export_restore.restore_command
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word in that may be left out."""
        first = _first_word(args)
        is_for_all = first is None and (not args or bool({"-h", "--help"} & set(args)))
        if not is_for_all and first not in self.list_commands(ctx):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


def _first_word(args: list[str]) -> str | None:
    """The first that is neither an option nor the value of one."""
    options = (one for one in namespaces_command.params if isinstance(one, click.Option) and not one.is_flag)
    with_value = {name for one in options for name in one.opts}
    words = iter(args)
    for word in words:
        if word == "--":
            return next(words, None)
        if not word.startswith("-"):
            return word
        if word in with_value:
            next(words, None)
    return None


@click.group(
    cls=_Export,
    epilog=exit_codes(3, 11, 40),
    subcommand_metavar="NAMESPACE... | COMMAND [ARGS]...",
)
@global_options()
def export() -> None:
    """Store the objects of namespaces as documents, and bring them back.

    `pvback export NAMESPACE...` is short for `pvback export namespaces NAMESPACE...`.
    """


@export.command(_DEFAULT, epilog=exit_codes(3, 11, 40))
@click.argument("namespaces", nargs=-1, required=True, metavar="NAMESPACE...")
@click.option("--secrets", "with_secrets", is_flag=True, help="Secrets, too, with all that is in them.")
@click.option("-l", "--selector", metavar="LABELS", help="Only objects that these labels select.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Stored with the snapshots.")
@click.option("--cluster-name", metavar="NAME", help="Of this cluster; default: as `connect` was told.")
@secret_option
@cluster_options
@global_options()
@pass_invocation
def namespaces_command(
    invocation: Invocation,
    /,
    namespaces: tuple[str, ...],
    *,
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Store everything that makes up a namespace as a snapshot: one JSON document for each object.

    Custom resources and the objects of the cluster that they refer to are among them; what the cluster or a
    controller makes by itself is not. Kinds that may not be listed are named, and left out.
    """
    options = ExportOptions(
        collect=CollectOptions(with_secrets=given["with_secrets"], labels=given["selector"]),
        cluster_name=given["cluster_name"],
        secret=given["secret"],
        is_scope_chosen=invocation.scope is not None,
        tags=parse_tags(given["tags"]),
    )
    cluster = connect_cluster(kubeconfig, context)
    output = invocation.output
    results: list[ExportResult] = []
    failures: list[PvbackError] = []
    with invocation.repository(is_writer=True) as access:
        for namespace in dict.fromkeys(namespaces):
            try:
                with watching(output) as progress, stopping() as cancel:
                    done = export_namespace(
                        cluster,
                        access,
                        namespace=namespace,
                        options=options,
                        progress=progress,
                        cancel=cancel,
                    )
            except PvbackError as exc:
                if len(namespaces) == 1 or exc.exit_code not in (2, 40):
                    raise
                failures.append(exc)
                output.warn(f"namespace {namespace}: {exc}")
                continue
            results.append(done)
            _show(output, done)
    return _end(results, failures)


def _end(results: list[ExportResult], failures: list[PvbackError]) -> int:
    if failures and not results:
        raise failures[0]
    bad = [one.namespace for one in results if not one.is_whole]
    if failures or bad:
        names = ", ".join([*bad, *(str(one.key or one.what) for one in failures)])
        raise PartlyDone(f"not exported whole: {names}")
    return 0


def _show(output: Output, done: ExportResult) -> None:
    if output.is_json:
        output.message("summary", done)
        return
    secrets = [one for one in done.left_out if one.what.startswith("Secret ")]
    for one in done.left_out:
        if one not in secrets:
            output.warn(f"left out: {one.what}: {one.why}")
    if secrets:
        output.remark(f"{format_count(len(secrets), 'secret')} left out: `--secrets` exports them")
    facts = f"{format_count(done.object_count, 'object')}, {format_bytes(done.stats.stored_bytes)} stored"
    output.line(f"snapshot {done.snapshot} of namespace {done.namespace} ({facts})")
