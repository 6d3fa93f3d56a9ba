"""`pvback install`."""

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.pvc import cluster_options, connect_cluster, secret_option
from pvback.cluster.installing import InstallOptions, install_objects
from pvback.cluster.installing_populator import POPULATOR
from pvback.errors import UsageError

__all__ = ["install"]


@click.command(epilog=exit_codes(40, has_repository=False))
@click.option("-n", "--namespace", metavar="NAME", required=True, help="Whose claims are backed up.")
@click.option(
    "--cluster", "is_for_cluster", is_flag=True, help="Of all namespaces, by an account in this one."
)
@secret_option
@click.option("--restore", "may_restore", is_flag=True, help="Let the account restore, too.")
@click.option(
    "--replace", "may_replace", is_flag=True, help="Let it exchange volumes, which are the cluster's."
)
@click.option("--hooks", "may_run_hooks", is_flag=True, help="Let it run hooks: commands in any pod there.")
@click.option("--schedule", metavar="CRON", help="A nightly run, such as '17 2 * * *'.")
@click.option("--time-zone", metavar="NAME", help="Of the schedule, such as Europe/Vienna.")
@click.option("--populator", "has_populator", is_flag=True, help="The kind Restore, and who fills claims.")
@click.option(
    "--populator-secret", default=POPULATOR, metavar="NAME", help="With its key; `pvc connect --role`."
)
@click.option("--image", metavar="IMAGE", help="Of the nightly run and the populator.")
@click.option("--backup-option", "words", multiple=True, metavar="WORD", help="For its `pvback pvc backup`.")
@click.option(
    "--populator-option", "populator_words", multiple=True, metavar="WORD", help="For `pvback pvc populate`."
)
@click.option("--apply", "is_applied", is_flag=True, help="Make the objects, in place of printing them.")
@cluster_options
@global_options()
@pass_invocation
def install(
    invocation: Invocation,
    /,
    *,
    namespace: str,
    secret: str,
    is_applied: bool,
    kubeconfig: str | None,
    context: str | None,
    **given: object,
) -> int:
    """Print, as YAML, what a namespace needs for backups of its own: accounts, the smallest role, a CronJob.

    The account `pvback` may do what `pvback pvc` does in this one namespace, and nothing in the cluster, but
    for volumes with `--replace`. With `--cluster` it may do so in all namespaces, and movers have a priority
    below everything else. `pvback pvc connect` gives each namespace its secret. With `--populator` there is a
    Deployment that fills claims which name a Restore; the kind and the right on volumes are the cluster's.
    """
    options = InstallOptions(namespace=namespace, secret=secret, **given)  # type: ignore[arg-type]
    if (options.schedule is not None or options.has_populator) and not options.image:
        who = "a nightly run" if options.schedule is not None else "a populator"
        raise UsageError(f"{who} needs an image", hint="use `--image`")
    objects = install_objects(options)
    output = invocation.output
    if is_applied:
        cluster = connect_cluster(kubeconfig, context)
        for kind, body in objects:
            cluster.apply(kind, body)
            where = f"{namespace}/" if kind.is_namespaced else ""
            output.line(f"{kind.name} {where}{body['metadata']['name']}")
        return 0
    if output.is_json:
        output.document([body for _, body in objects])
        return 0
    # Loaded here, with the extra `kubernetes`: only this needs it.
    import yaml  # noqa: PLC0415

    for line in yaml.safe_dump_all([dict(body) for _, body in objects], sort_keys=False).splitlines():
        output.line(line)
    return 0
