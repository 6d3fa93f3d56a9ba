"""`pvback pvc capture`."""

from typing import Any

import click

from pvback import limits
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import format_bytes
from pvback.cli.progress import stopping, watching
from pvback.cli.pvc import cluster_options, connect_cluster, pvc
from pvback.cli.values import parse_tags
from pvback.cluster.exec import ExecTarget
from pvback.errors import UsageError
from pvback.ops.backup import BackupOptions
from pvback.ops.backup import backup as run_backup
from pvback.ops.pod_capture import Capture, pod_source
from pvback.runtime import SystemClock

__all__ = ["capture_command"]


@pvc.command("capture", epilog=exit_codes(11, 40))
@click.argument("pod", metavar="[NAMESPACE/]POD")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
@click.option("--name", required=True, metavar="NAME", help="Of the file that its output becomes.")
@click.option("-c", "--container", metavar="NAME", help="Default: the pod's only one.")
@click.option(
    "--timeout", default=limits.CAPTURE_SECONDS, metavar="SECONDS", help="How long the command may take."
)
@click.option("--no-digest", is_flag=True, help="Do without a digest that is taken in the container.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Stored with the snapshot.")
@click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context.")
@click.option("--cluster-name", default="default", metavar="NAME", help="As `connect` was told.")
@cluster_options
@global_options()
@pass_invocation
def capture_command(
    invocation: Invocation,
    /,
    pod: str,
    *,
    command: tuple[str, ...],
    kubeconfig: str | None,
    context: str | None,
    **given: Any,  # noqa: ANN401 -- click has checked them
) -> int:
    """Store what a command in a pod prints, such as a dump, as a snapshot with one file.

    It becomes one only when the cluster says that the command succeeded, and a digest that was taken in the
    container is that of what came. The bytes pass through this machine.
    """
    cluster = connect_cluster(kubeconfig, context)
    namespace, _, name = pod.rpartition("/")
    if not name:
        raise UsageError(f"not a pod: {pod}")
    where = namespace or given["namespace"] or cluster.namespace
    capture = Capture(
        target=ExecTarget(namespace=where, pod=name, container=given["container"]),
        argv=command,
        seconds=float(given["timeout"]),
        is_digested=not given["no_digest"],
    )
    output = invocation.output
    options = BackupOptions(tags=parse_tags(given["tags"]))
    with (
        invocation.repository(is_writer=True) as access,
        watching(output) as progress,
        stopping() as cancel,
    ):
        source = pod_source(
            cluster,
            capture,
            name=given["name"],
            cluster_name=given["cluster_name"],
            clock=SystemClock(),
        )
        done = run_backup(access, source, options=options, progress=progress, cancel=cancel)
        usage = access.usage()
    if output.is_json:
        output.summary(done, usage)
        return 0
    output.line(f"snapshot {done.snapshot} of {done.source} ({format_bytes(done.stats.source_bytes)})")
    return 0
