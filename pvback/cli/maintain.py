"""`pvback init`, `check`, `key` and `bench`."""

from pathlib import Path

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.progress import stopping, watching
from pvback.cli.values import parse_percent
from pvback.config import load_config, load_password, parse_size
from pvback.errors import DamagedError, UsageError
from pvback.model import Finding
from pvback.ops import keys
from pvback.ops.bench import measure_limits
from pvback.ops.check import check as run_check
from pvback.ops.init import init as run_init

__all__ = ["bench", "check", "init", "key"]


@click.command(epilog=exit_codes(11))
@click.option("--label", default="default", metavar="NAME", help="Name of the first scope.")
@click.option("--chunk-size", metavar="SIZE", help="Average size of chunks; default: 512KiB.")
@global_options()
@pass_invocation
def init(invocation: Invocation, *, label: str, chunk_size: str | None) -> int:
    """Make a repository.

    There is no way into it without its password or a key that was added: keep a copy somewhere else.
    """
    output = invocation.output
    size = parse_size(chunk_size, what="`--chunk-size`") if chunk_size else None
    made = run_init(invocation.config(confirm_password=True), label=label, chunk_bytes=size)
    if output.is_json:
        output.document(made)
    output.line(f"repository {made.repository} at {made.address}")
    return 0


@click.command(epilog=exit_codes())
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="100%",
    metavar="[N%]",
    help="Read and open all packs, or a share of them.",
)
@click.option("--seed", type=int, metavar="N", help="Choose the same share as another time.")
@global_options()
@pass_invocation
def check(invocation: Invocation, *, read_data: str | None, seed: int | None) -> int:
    """Examine the repository; the exit code is 20 when something is lost or needs repair.

    Every object is listed and every snapshot's tree is followed; contents are read with `--read-data` only.
    """
    output = invocation.output
    share = parse_percent(read_data)
    with invocation.repository() as access, watching(output) as progress, stopping() as cancel:
        result = run_check(access, read_percent=share, seed=seed, progress=progress, cancel=cancel)
    for finding in result.findings:
        if output.is_json:
            output.message("finding", finding)
        output.line(_show_finding(finding))
    if output.is_json:
        facts = {
            "snapshot_count": result.snapshot_count,
            "object_count": result.object_count,
            "counts": result.counts,
            "is_sound": result.is_sound,
        }
        output.message("summary", facts)
    output.line(
        f"{result.snapshot_count} snapshots, {result.object_count} objects: "
        f"{'sound' if result.is_sound else 'NOT SOUND'}"
    )
    return 0 if result.is_sound else DamagedError.exit_code


def _show_finding(finding: Finding) -> str:
    place = f"{finding.key}: " if finding.key else ""
    return f"{finding.severity}: {finding.kind}: {place}{finding.what}"


@click.group(epilog=exit_codes(11))
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
@click.option("--label", default="", metavar="TEXT", help="Whose it is.")
@click.option(
    "--self", "is_self", is_flag=True, help="No new key, but one more way to unlock the one in use."
)
@click.option("--new-password-file", metavar="FILE", help="Its first line is the new password.")
@click.option("--recipient", metavar="HEX", help="Seal it to this X25519 public key.")
@global_options()
@pass_invocation
def key_add(
    invocation: Invocation,
    *,
    role: str,
    label: str,
    is_self: bool,
    new_password_file: str | None,
    recipient: str | None,
) -> int:
    """Let somebody in: with a password of their own, or with a private key that they hold."""
    method, secret = _new_secret(new_password_file, recipient)
    output = invocation.output
    with invocation.repository(is_writer=True) as access:
        if is_self:
            keys.add_way_to_unlock(access, method=method, secret=secret)
            principal = access.keyring.principal
        else:
            principal = keys.add_key(access, role=role, label=label, method=method, secret=secret)
    if output.is_json:
        output.document({"principal": principal})
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


@click.group(epilog=exit_codes())
@global_options()
def bench() -> None:
    """Measure."""


@bench.command("limits", epilog=exit_codes())
@click.option("--path", metavar="FILE", help="Take the data from this file; default: made up.")
@global_options()
@pass_invocation
def bench_limits(invocation: Invocation, *, path: str | None) -> int:
    """Measure each stage of the data path alone: what a backup can at best reach here."""
    output = invocation.output
    with invocation.repository() as access:
        rates = measure_limits(access, path=path)
    if output.is_json:
        output.document(rates)
    else:
        columns = list(dict.fromkeys(name for stage in rates.values() for name in stage))
        header = ("STAGE", *(f"GB/s, {name}" for name in columns))
        rows = [
            (stage, *(f"{found[name]:.2f}" if name in found else "" for name in columns))
            for stage, found in rates.items()
        ]
        output.table(header, rows)
    return 0


def _new_secret(password_file: str | None, recipient: str | None) -> tuple[keys.SlotMethod, bytes]:
    if (password_file is None) == (recipient is None):
        raise UsageError("give one of `--new-password-file` and `--recipient`")
    if recipient is not None:
        try:
            public = bytes.fromhex(recipient)
        except ValueError:
            public = b""
        if len(public) != 32:
            raise UsageError("a recipient is an X25519 public key of 32 bytes in hex")
        return "x25519", public
    assert password_file is not None, "one of the two was given"
    password = load_password(load_config({"password_file": Path(password_file)}, environment={}))
    assert password is not None, "a password file has a password, or raises"
    return "passphrase", password.reveal().encode()
