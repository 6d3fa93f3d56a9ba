"""The program around the commands: what errors look like, and how it ends."""

import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from pvback.cli.context import Invocation
from pvback.cli.output import print_error
from pvback.config import is_debugging
from pvback.errors import InternalError, Interrupted, PvbackError, UsageError

__all__ = ["Program"]


class Program(click.Group):
    """A group whose errors are ours: one line, a hint, an exit code, and never a traceback without a bug."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,  # noqa: ANN401 - click's own
    ) -> NoReturn:
        """Run one command and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        invocation = Invocation(is_json=_wants_json(words))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        extra["standalone_mode"] = False
        old = signal.signal(signal.SIGTERM, _terminate)
        try:
            result = super().main(words, "pvback", obj=invocation, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) else 0
        except BaseException as exc:  # noqa: BLE001 - the last resort of the program
            code = _report(exc, invocation)
        finally:
            signal.signal(signal.SIGTERM, old)
        sys.exit(code)


def _report(exc: BaseException, invocation: Invocation) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(exc, BrokenPipeError):
        # Whoever read our output has seen enough. What Python would still flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, click.ClickException):
        error: PvbackError = _usage_error(exc)
    elif isinstance(exc, click.Abort | KeyboardInterrupt):
        error = Interrupted("interrupted")
    elif isinstance(exc, PvbackError):
        error = exc
    elif isinstance(exc, SystemExit):
        return exc.code if isinstance(exc.code, int) else 1
    else:
        error = InternalError(
            f"{type(exc).__name__}: {exc}",
            hint="this is a bug; run again with `-v` and report what it prints",
        )
    if (invocation.is_verbose or is_debugging()) and not isinstance(exc, click.ClickException):
        import traceback  # noqa: PLC0415 - loaded here: only somebody who looks for a fault needs it

        traceback.print_exception(exc)
    print_error(error, is_json=invocation.is_json)
    return error.exit_code


def _usage_error(exc: click.ClickException) -> UsageError:
    context = getattr(exc, "ctx", None)
    command = context.command_path if context is not None else "pvback"
    message = " ".join(exc.format_message().split())
    hint = _hint_for(message, command) or f"`{command} --help` says more"
    return UsageError(message[:1].lower() + message[1:].rstrip("."), hint=hint)


# What is called otherwise elsewhere.
_CALLED_HERE = {
    "cat": "pvback dump",
    "create": "pvback backup",
    "extract": "pvback restore",
    "help": "pvback --help",
    "info": "pvback stats",
    "list": "pvback snapshots",
    "passwd": "pvback key add --self",
    "rcreate": "pvback init",
    "repo-create": "pvback init",
    "repo-list": "pvback snapshots",
    "rlist": "pvback snapshots",
    "snapshot": "pvback snapshots",
    "verify": "pvback check --read-data",
    "version": "pvback --version",
}
_TOO_MUCH = {
    "pvback init": "name the repository with `--repository`",
    **dict.fromkeys(
        ("pvback dump", "pvback ls", "pvback restore"), "a path is written behind the snapshot: SNAP:PATH"
    ),
}


def _hint_for(message: str, command: str) -> str | None:
    """What somebody who comes from another program may have meant."""
    if message.startswith("Got unexpected extra argument"):
        return _TOO_MUCH.get(command)
    if message.startswith("Missing command"):
        return f"`{command} --help` lists the commands"
    unknown = re.match(r"No such command '(.+?)'", message)
    if unknown is None:
        return None
    if unknown[1] in _CALLED_HERE:
        return f"that is `{_CALLED_HERE[unknown[1]]}` here"
    return f"`{command} --help` lists the commands"


def _wants_json(words: Sequence[str]) -> bool:
    """Whether errors of parsing itself should be JSON, too."""
    before = words[: words.index("--")] if "--" in words else words
    return "--json" in before


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
