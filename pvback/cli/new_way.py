"""The options that say how a key will be unlocked, and what comes of them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from pvback.cli.asking import ask_new_password
from pvback.cli.output import Output
from pvback.cli.recovery import offering, recovery_options
from pvback.config import Secret, load_config, load_password, split_command
from pvback.errors import UsageError
from pvback.ops.keys import NewWay

__all__ = ["WayOptions", "way_options"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--new-password-file", metavar="FILE", help="Its first line is the new password."),
    click.option("--recipient", metavar="HEX", help="Seal it to this X25519 public key."),
    click.option("--command", metavar="CMD", help="Let this command seal it, such as a KMS's."),
    click.option("--command-name", metavar="NAME", help="What the command is called; default: its file's."),
)


def way_options(function: F) -> F:
    """The options of commands that make a way to unlock a key."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return recovery_options(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOptions:
    """What the options say."""

    recipient: bytes | None
    password: Secret | None
    command: tuple[str, ...] | None
    command_name: str
    is_recovery: bool
    recovery_key_file: str | None

    @classmethod
    def parse(
        cls,
        *,
        new_password_file: str | None,
        recipient: str | None,
        command: str | None,
        command_name: str | None,
        recovery_key: bool,
        recovery_key_file: str | None,
    ) -> "WayOptions":
        """Raises UsageError for more than one way, or none where nobody can be asked."""
        is_recovery = recovery_key or recovery_key_file is not None
        given = (new_password_file is not None, recipient is not None, command is not None, is_recovery)
        if sum(given) > 1 or (not any(given) and not Output.can_ask()):
            raise UsageError(
                "give one of `--new-password-file`, `--recipient`, `--command` and `--recovery-key`"
            )
        words = split_command(command, "`--command`")
        return cls(
            recipient=None if recipient is None else _parse_recipient(recipient),
            password=None if new_password_file is None else _load_new_password(new_password_file),
            command=words,
            command_name=command_name or (Path(words[0]).name if words else ""),
            is_recovery=is_recovery,
            recovery_key_file=recovery_key_file,
        )

    @property
    def label(self) -> str:
        """What the key is called when nobody says."""
        return "recovery key" if self.is_recovery else ""

    @contextlib.contextmanager
    def offering_way(self, output: Output) -> Iterator[NewWay]:
        """The way; what was made is given to the user on leaving, unless that is by an error."""
        with offering(output, is_wanted=self.is_recovery, path=self.recovery_key_file) as recovery:
            if recovery is not None:
                yield NewWay(method="passphrase", secret=recovery)
            elif self.recipient is not None:
                yield NewWay(method="x25519", secret=self.recipient)
            elif self.command is not None:
                yield NewWay(method="command", command=self.command, name=self.command_name)
            else:
                yield NewWay(method="passphrase", secret=self.password or ask_new_password("New password"))


def _parse_recipient(recipient: str) -> bytes:
    try:
        public = bytes.fromhex(recipient)
    except ValueError:
        public = b""
    if len(public) != 32:
        raise UsageError("a recipient is an X25519 public key of 32 bytes in hex")
    return public


def _load_new_password(path: str) -> Secret:
    password = load_password(load_config({"password_file": Path(path)}, environment={}))
    assert password is not None, "a password file has a password, or raises"
    return password
