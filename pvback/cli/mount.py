"""`pvback mount`."""

import os
from typing import TYPE_CHECKING

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.values import parse_tag_filters
from pvback.errors import UsageError
from pvback.fuse.files import MountOptions
from pvback.ops.browse import Browser
from pvback.ops.reading import find_in, split_snapshot_path
from pvback.ops.shelf import Place, Shelves, Spot, single_shelf
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import SnapshotFilter
from pvback.runtime import SystemClock

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["mount"]


@click.command(epilog=exit_codes())
@click.argument("directory", metavar="DIR")
@click.argument("snapshot", metavar="[SNAP[:PATH]]", required=False)
@click.option(
    "--source", metavar="SOURCE", help="Only of this source: its string, path or name; whose `latest`."
)
@click.option("--host", metavar="NAME", help="Only of this machine.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only with this tag.")
@click.option(
    "--allow-other", is_flag=True, help="Other users may look, too, as the modes of files let them."
)
@global_options()
@pass_invocation
def mount(
    invocation: Invocation,
    /,
    directory: str,
    *,
    snapshot: str | None,
    source: str | None,
    host: str | None,
    tags: tuple[str, ...],
    allow_other: bool,
) -> int:
    """Show snapshots as files, read-only, until DIR is unmounted or Ctrl-C.

    Without SNAP there is a directory for each snapshot in DIR/snapshots, and links to them by id and by
    source; new snapshots appear. With SNAP, the beginning of an id or `latest`, DIR shows what it holds, or
    what is below PATH. Needs FUSE: `fuse3` of the system, and `pip install 'pvback[mount]'`.
    """
    if snapshot is not None and (host is not None or tags):
        raise UsageError("`--host` and `--tag` choose among snapshots", hint="name a snapshot, or choose")
    if not os.path.isdir(directory):  # noqa: PTH112 - paths of raw bytes, which path objects do not hold
        raise UsageError(f"not a directory: {directory}", hint="make it first; it should be empty")
    session = _load_session()
    output = invocation.output
    clock = SystemClock()
    wanted = SnapshotFilter(source=source, host=host, tags=parse_tag_filters(tags))
    with invocation.repository() as access, Browser(access) as browser:
        if snapshot is None:
            top: Shelves | Place = Shelves(
                access, wanted=wanted, clock=clock, tell=lambda exc: output.warn(str(exc))
            )
            assert isinstance(top, Shelves), "made above"
            top.top()
        else:
            top = single_shelf(browser, _spot(access, snapshot, source))
        options = MountOptions(
            allow_other=allow_other,
            on_ready=lambda: output.remark(f"mounted at {directory}; Ctrl-C unmounts it"),
            on_problem=output.warn,
        )
        session.mount(directory, browser, top=top, clock=clock, options=options)
    return 0


def _spot(access: RepositoryAccess, text: str, source: str | None) -> Spot:
    name, path = split_snapshot_path(text)
    return Spot(find_in(access, name, source=source), os.fsencode(path))


def _load_session() -> "ModuleType":
    """The face that needs an extra package and a library of the system. Raises UsageError without them."""
    try:
        # Loaded here: it is an extra, and it loads libfuse.
        from pvback.fuse import session  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise UsageError(
            "the FUSE binding is not installed", hint="run `pip install 'pvback[mount]'`"
        ) from exc
    except OSError as exc:
        raise UsageError(f"libfuse does not load: {exc}", hint="install `fuse3`") from exc
    return session
