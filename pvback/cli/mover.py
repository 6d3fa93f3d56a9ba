"""`pvback mover`: what runs in the pods beside volumes. Not for people."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pvback import limits
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import to_json
from pvback.cli.progress import JsonProgress, stopping
from pvback.errors import FileError, InternalError, PartlyDone, PvbackError
from pvback.ops.backup import BackupResult
from pvback.ops.freezing import FileSystem, Guard, hold_frozen
from pvback.ops.frozen_mounts import open_volume
from pvback.ops.mover import MoverSpec, end_message, move_backup, move_restore, read_spec
from pvback.ops.mover_word import leave_word
from pvback.ops.restore import RestoreResult
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, SystemClock

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
    for denied in facts.get("denied", ()):
        # Of each kind one path, for there are some kinds, and all of it has to fit.
        denied["examples"] = [one[:200] for one in denied["examples"][:1]]
    is_damaged = isinstance(result, BackupResult) and result.is_damage_found
    return PartlyDone.exit_code if result.error_count or is_damaged else 0, facts


def _move(
    access: RepositoryAccess, spec: MoverSpec, work: Work, invocation: Invocation
) -> BackupResult | RestoreResult:
    output = invocation.output
    more: dict[str, Any] = {}
    if work is move_backup:
        more["say_read"] = lambda snapshot: output.message("read", {"snapshot": snapshot})
    with stopping() as cancel:
        return work(access, spec, progress=JsonProgress(output), cancel=cancel, **more)


@mover.command("word", epilog=exit_codes(has_repository=False))
@click.argument("snapshot", type=click.STRING, metavar="ID")
@click.argument("word", type=click.STRING, metavar="GRADE")
@global_options()
def word(snapshot: str, *, word: str) -> None:
    """Tell the mover that runs here what its snapshot is worth."""
    try:
        leave_word(snapshot, word)
    except OSError as exc:
        raise FileError(exc.strerror or "failed", key=exc.filename) from exc


@mover.command("look", epilog=exit_codes(has_repository=False))
@click.argument("volume", type=click.Path(path_type=Path, readable=False), metavar="FOLDER")
@global_options()
@pass_invocation
def look(invocation: Invocation, /, volume: Path) -> None:
    """Say `closed` when a volume's root folder may not be opened, else `open`."""
    try:
        os.close(os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        invocation.output.line("closed")
    except OSError as exc:
        raise FileError(exc.strerror or "failed", key=str(volume)) from exc
    else:
        invocation.output.line("open")


@mover.command("guard", epilog=exit_codes(has_repository=False))
@click.argument("volume", type=click.Path(path_type=Path, readable=False), metavar="FOLDER")
@click.option("--state", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Of its own.")
@global_options()
def guard(volume: Path, *, state: Path) -> None:
    """Wait, and thaw a volume that `freeze` has frozen and does not thaw."""
    cancel = Cancel()
    # As often as it is told: what is frozen is thawed before it ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cancel.set())
    clock = SystemClock()
    try:
        opened = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # Then nobody here can freeze it: `freeze` says so, and needs a container to say it in.
        while not cancel.is_set:
            clock.sleep(limits.FREEZE_POLL_SECONDS)
        return
    Guard(FileSystem(opened), folder=state, clock=clock).serve(cancel)


@mover.command("freeze", epilog=exit_codes(has_repository=False))
@click.argument("volume", type=click.Path(path_type=Path, readable=False), metavar="FOLDER")
@click.option(
    "--state", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="The guard's."
)
@click.option(
    "--lease", type=float, required=True, metavar="SECONDS", help="Until it is thawed at the latest."
)
@global_options()
@pass_invocation
def freeze(invocation: Invocation, /, volume: Path, *, state: Path, lease: float) -> None:
    """Freeze a volume's file system, say `frozen`, thaw it when the input ends, and say how long it was."""
    output = invocation.output
    try:
        opened = open_volume(volume)
        seconds = hold_frozen(
            FileSystem(opened),
            state,
            lease_seconds=lease,
            say=lambda: output.line("frozen"),
            clock=SystemClock(),
        )
    except OSError as exc:
        raise FileError(exc.strerror or "failed", key=str(volume)) from exc
    output.line(f"{seconds:.3f}")


_command("backup", move_backup, "Back up what is mounted.")
_command("restore", move_restore, "Restore to what is mounted.")
