"""Recovery keys, handed over once: on a terminal or in a file, never in JSON, a log or a message."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from pvback.cli.output import Output, is_terminal
from pvback.config import Secret
from pvback.errors import FileError, UsageError
from pvback.ops.keys import new_recovery_key

__all__ = ["offering", "recovery_options"]

F = TypeVar("F", bound=Callable[..., Any])


def recovery_options(function: F) -> F:
    """The options of commands that can make a recovery key."""
    function = click.option(
        "--recovery-key-file", metavar="FILE", help="Write a recovery key to this new file."
    )(function)
    return click.option("--recovery-key", is_flag=True, help="Show a recovery key on the terminal.")(function)


@contextlib.contextmanager
def offering(output: Output, *, is_wanted: bool, path: str | None) -> Iterator[Secret | None]:
    """A new recovery key, or None when none is wanted: in a file from the beginning, or shown at the end.

    What opens nothing is not left behind: the file goes when the block fails, and nothing is shown. Raises
    UsageError where it would have to be shown and there is no terminal, FileError when `path` is not new.
    """
    if path is not None:
        secret = new_recovery_key()
        _write_new(Path(path), secret)
        try:
            yield secret
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
        output.remark(f"recovery key written to {path}: lock it away, it opens what the password opens")
        return
    if not is_wanted:
        yield None
        return
    if output.is_json or not is_terminal():
        raise UsageError(
            "a recovery key is shown on a terminal only", hint="let `--recovery-key-file` write it to a file"
        )
    secret = new_recovery_key()
    yield secret
    output.line(f"recovery key {secret.reveal()}")
    output.remark("write it down and lock it away: it opens what the password opens, and is not shown again")


def _write_new(path: Path, secret: Secret) -> None:
    """Durably, for the owner's eyes."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise FileError("recovery key file: there is a file already", key=str(path)) from None
    except OSError as exc:
        raise FileError(f"recovery key file: {exc.strerror}", key=str(path)) from exc
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise FileError(f"recovery key file: {exc.strerror}", key=str(path)) from exc
