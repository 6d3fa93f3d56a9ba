"""`pvback key`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from pvback.cli.asking import ask_new_password
from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.output import Output
from pvback.cli.recovery import offering, recovery_options
from pvback.config import load_config, load_password
from pvback.errors import DamagedError, UsageError
from pvback.ops import keys

__all__ = ["key"]


@click.group(no_args_is_help=False, epilog=exit_codes(11))
@global_options()
def key() -> None:
    """Show and change who can open the repository."""


@key.command("list", epilog=exit_codes())
@global_options()
@pass_invocation
def key_list(invocation: Invocation) -> int:
    """List keys; `*` marks the one in use."""
    output = invocation.output
    with invocation.repository() as access:
        found = keys.list_keys(access)
    damaged = [one for one in found if one.problem is not None]
    for one in damaged:
        output.warn(f"key {one.principal}: {one.problem}")
    code = DamagedError.exit_code if damaged else 0
    if output.is_json:
        output.document(found)
        return code
    rows = [
        (
            f"{'*' if one.is_current else ' '} {one.principal}",
            one.role or "?",
            one.label or "",
            ",".join(one.unlock),
        )
        for one in found
    ]
    output.table(("  ID", "ROLE", "LABEL", "UNLOCKED BY"), rows)
    return code


@key.command("add", epilog=exit_codes(11))
@click.option("--role", type=click.Choice(keys.ROLES), default="owner", help="What it may do; default: all.")
@click.option("--label", metavar="TEXT", help="Whose it is.")
@click.option(
    "--self", "is_self", is_flag=True, help="No new key, but one more way to unlock the one in use."
)
@click.option("--new-password-file", metavar="FILE", help="Its first line is the new password.")
@click.option("--recipient", metavar="HEX", help="Seal it to this X25519 public key.")
@recovery_options
@global_options()
@pass_invocation
def key_add(
    invocation: Invocation, /, *, role: str, label: str | None, is_self: bool, **way: str | bool | None
) -> int:
    """Let somebody in: with a password of their own, or with a private key that they hold.

    The new password is asked for on a terminal when no option says where it is. A recovery key is a
    password that is made here, to be written down.
    """
    # click has checked what it passes on; here it is just named values.
    chosen = _NewWay.from_options(**way)  # type: ignore[arg-type]
    output = invocation.output
    with invocation.repository(is_writer=True) as access, chosen.offering_secret(output) as secret:
        if is_self:
            keys.add_way_to_unlock(access, method=chosen.method, secret=secret)
            principal = access.keyring.principal
        else:
            used = label if label is not None else chosen.label
            principal = keys.add_key(access, role=role, label=used, method=chosen.method, secret=secret)
        if output.is_json:
            output.document({"principal": principal, "recovery_key_file": chosen.recovery_key_file})
        output.line(f"key {principal}")
    return 0


@key.command("remove", epilog=exit_codes(11))
@click.argument("principal", metavar="ID")
@global_options()
@pass_invocation
def key_remove(invocation: Invocation, principal: str) -> int:
    """Remove a key. A kept copy of it still opens what was stored before."""
    output = invocation.output
    with invocation.repository(is_writer=True) as access:
        removed = keys.remove_key(access, principal)
    if output.is_json:
        output.document({"principal": removed})
    output.line(f"removed key {removed}")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewWay:
    """How a new key, or one more way into one, will be unlocked."""

    secret: bytes | None
    """None: asked for, or made."""
    method: keys.SlotMethod
    is_recovery: bool
    recovery_key_file: str | None

    @classmethod
    def from_options(
        cls,
        *,
        new_password_file: str | None,
        recipient: str | None,
        recovery_key: bool,
        recovery_key_file: str | None,
    ) -> "_NewWay":
        """What the options say. Raises UsageError."""
        is_recovery = recovery_key or recovery_key_file is not None
        count = (new_password_file is not None) + (recipient is not None) + is_recovery
        if count > 1 or (count == 0 and not Output.can_ask()):
            raise UsageError("give one of `--new-password-file`, `--recipient` and `--recovery-key`")
        secret = None
        if recipient is not None:
            secret = _parse_recipient(recipient)
        elif new_password_file is not None:
            secret = _load_new_password(new_password_file)
        return cls(
            secret=secret,
            method="x25519" if recipient is not None else "passphrase",
            is_recovery=is_recovery,
            recovery_key_file=recovery_key_file,
        )

    @property
    def label(self) -> str:
        """What the key is called when nobody says."""
        return "recovery key" if self.is_recovery else ""

    @contextlib.contextmanager
    def offering_secret(self, output: Output) -> Iterator[bytes]:
        """The secret; what was made is given to the user on leaving, unless that is by an error."""
        with offering(output, is_wanted=self.is_recovery, path=self.recovery_key_file) as recovery:
            if recovery is not None:
                yield recovery.reveal().encode()
            elif self.secret is not None:
                yield self.secret
            else:
                yield ask_new_password("New password").reveal().encode()


def _parse_recipient(recipient: str) -> bytes:
    try:
        public = bytes.fromhex(recipient)
    except ValueError:
        public = b""
    if len(public) != 32:
        raise UsageError("a recipient is an X25519 public key of 32 bytes in hex")
    return public


def _load_new_password(path: str) -> bytes:
    password = load_password(load_config({"password_file": Path(path)}, environment={}))
    assert password is not None, "a password file has a password, or raises"
    return password.reveal().encode()
