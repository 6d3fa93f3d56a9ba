"""`pvback mover`: what runs in the pods beside volumes. Not for people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import to_json
from pvback.cli.progress import JsonProgress, stopping
from pvback.errors import InternalError, PartlyDone, PvbackError
from pvback.ops.backup import BackupResult
from pvback.ops.mover import MoverSpec, end_message, move_backup, move_restore, read_spec
from pvback.ops.restore import RestoreResult
from pvback.repository.repository import RepositoryAccess

__all__ = ["mover"]

Work = Callable[..., BackupResult | RestoreResult]


@click.group(hidden=True, epilog=exit_codes(3, 11))
@global_options()
def mover() -> None:
    """Run in a pod beside a volume, as its Job says."""


def _command(name: str, work: Work, help_text: str) -> None:
    @mover.command(name, epilog=exit_codes(3, 11), help=help_text)
    @click.argument("spec", type=click.Path(path_type=Path), metavar="SPEC")
    @click.option(
        "--end-message",
        "message_path",
        type=click.Path(path_type=Path),
        default="/dev/termination-log",
        metavar="FILE",
        help="Where the outcome is left.",
    )
    @global_options()
    @pass_invocation
    def run(invocation: Invocation, /, spec: Path, *, message_path: Path) -> int:
        invocation.is_json = True
        code, result, error = 70, None, None
        try:
            code, result = _run(invocation, read_spec(spec), work)
        except PvbackError as exc:
            code, error = exc.exit_code, exc
            raise
        except Exception as exc:
            error = InternalError(f"{type(exc).__name__}: {exc}")
            raise
        finally:
            # Opened before only where the kubelet made it; a name of the caller's is made.
            message_path.write_bytes(end_message(code, result=result, error=error))
        if code == PartlyDone.exit_code:
            raise PartlyDone("files could not be moved; the rest was")
        return code


def _run(invocation: Invocation, spec: MoverSpec, work: Work) -> tuple[int, dict[str, Any]]:
    invocation.scope = spec.scope
    output = invocation.output
    with invocation.repository(is_writer=work is move_backup) as access:
        result = _move(access, spec, work, invocation)
        usage = access.usage()
    output.summary(result, usage)
    facts = {name: value for name, value in to_json(result).items() if name not in ("problems", "lost")}
    examples = [str(one)[:200] for one in result.problems[:5]]
    facts |= {"examples": examples, "store": to_json(usage)}
    return PartlyDone.exit_code if result.error_count else 0, facts


def _move(
    access: RepositoryAccess, spec: MoverSpec, work: Work, invocation: Invocation
) -> BackupResult | RestoreResult:
    with stopping() as cancel:
        return work(access, spec, progress=JsonProgress(invocation.output), cancel=cancel)


_command("backup", move_backup, "Back up what is mounted.")
_command("restore", move_restore, "Restore to what is mounted.")
