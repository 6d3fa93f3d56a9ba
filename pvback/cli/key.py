"""`pvback key`."""

import json

import click

from pvback.cli.context import Invocation, exit_codes, global_options, pass_invocation
from pvback.cli.new_way import WayOptions, way_options
from pvback.cli.output import format_count
from pvback.cli.values import parse_time
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
    for one in found:
        if one.is_behind:
            output.warn(f"key {one.principal}: older than the last rotation; see `pvback key rotate`")
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
    "--source",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="Limit a writer to this source string; may be repeated.",
)
@click.option(
    "--self", "is_self", is_flag=True, help="No new key, but one more way to unlock the one in use."
)
@way_options
@global_options()
@pass_invocation
def key_add(
    invocation: Invocation,
    /,
    *,
    role: str,
    label: str | None,
    sources: tuple[str, ...],
    is_self: bool,
    **way: str | bool | None,
) -> int:
    """Let somebody in: with a password of their own, a private key, or a command that seals for them.

    The new password is asked for on a terminal when no option says where it is. A recovery key is a
    password that is made here, to be written down.
    """
    # click has checked what it passes on; here it is just named values.
    chosen = WayOptions.parse(**way)  # type: ignore[arg-type]
    output = invocation.output
    with invocation.repository(is_writer=True) as access, chosen.offering_way(output) as new:
        if is_self:
            keys.add_way_to_unlock(access, way=new)
            principal = access.keyring.principal
        else:
            used = label if label is not None else chosen.label
            principal = keys.add_key(access, role=role, label=used, way=new, sources=sources)
        if output.is_json:
            output.document({"principal": principal, "recovery_key_file": chosen.recovery_key_file})
        output.line(f"key {principal}")
    return 0


@key.command("remove", epilog=exit_codes(11))
@click.argument("principal", metavar="ID")
@click.option(
    "--not-after",
    metavar="TIME",
    help="Its snapshots after this time do not count either, such as 2026-03-01T12:00:00+00:00.",
)
@global_options()
@pass_invocation
def key_remove(invocation: Invocation, principal: str, *, not_after: str | None) -> int:
    """Revoke a key: nothing that it signs from now on counts.

    Its snapshots still do. It does not revoke what the key could read: a kept copy of it still opens what was
    stored before (`pvback key rotate` closes what comes after), nor the credentials of the store: take
    those away first. An owner's key cannot be revoked: see `pvback key rotate --level repository`.
    """
    output = invocation.output
    until = parse_time(not_after)
    with invocation.repository(is_writer=True) as access:
        done = keys.remove_key(access, principal, not_after=until)
    if output.is_json:
        output.document(done)
    output.line(f"removed key {done.principal}")
    output.remark(f"{format_count(done.snapshot_count, 'snapshot')} signed with it still count")
    return 0


@key.command("check", epilog=exit_codes())
@global_options()
@pass_invocation
def key_check(invocation: Invocation) -> int:
    """Prove that the given password, key file or key command opens the repository, and say as whom."""
    output = invocation.output
    with invocation.repository() as access:
        found = keys.check_key(access)
    if output.is_json:
        output.document(found)
    output.line(f"key {found.principal}, {found.role}, opened by {found.way}")
    if found.writes in ("behind", "revoked"):
        what = "was revoked" if found.writes == "revoked" else "is older than the last rotation"
        output.warn(f"it {what}: it reads what is older, and writes nothing that counts")
    return 0


@key.command("repair", epilog=exit_codes(11))
@global_options()
@pass_invocation
def key_repair(invocation: Invocation) -> int:
    """Mend `config` and key objects: what is missing, damaged or behind is written anew from its twin."""
    output = invocation.output
    with invocation.repository(is_writer=True) as access:
        done = keys.repair_copies(access)
        access.warnings.clear()
    if output.is_json:
        output.document(done)
    for line in done.mended:
        output.line(line)
    for problem in done.lost:
        output.warn(f"{problem.key}: {problem.what}")
    output.line(f"{format_count(len(done.mended), 'object')} mended, {len(done.lost)} lost")
    return DamagedError.exit_code if done.lost else 0


@key.command("policy", epilog=exit_codes())
@click.option("--role", type=click.Choice(keys.ROLES), required=True, help="For whose credentials.")
@click.option(
    "--bucket-style",
    type=click.Choice(keys.BUCKET_STYLES),
    default="aws",
    help="Which conditions the service knows; default: aws.",
)
@global_options()
@pass_invocation
def key_policy(invocation: Invocation, *, role: str, bucket_style: keys.BucketStyle) -> int:
    """Print the S3 policy for the credentials of a role: bucket, prefix and scope are the repository's."""
    with invocation.repository() as access:
        policy = keys.plan_policy(access, role, style=bucket_style)
    if invocation.output.is_json:
        invocation.output.document(policy)
    else:
        click.echo(json.dumps(policy, indent=2))
    return 0


@key.command("rotate", epilog=exit_codes(3, 11))
@click.option(
    "--level",
    type=click.Choice([*keys.LEVELS, *keys.OTHER_LEVELS]),
    default="epoch",
    help="How much; default: epoch.",
)
@click.option("--all-scopes", is_flag=True, help="Every scope, not only the one in use.")
@way_options
@global_options()
@pass_invocation
def key_rotate(invocation: Invocation, /, *, level: str, all_scopes: bool, **way: str | bool | None) -> int:
    r"""Change keys, and say what that revokes.

    \b
    password    another way to unlock the key in use, in place of the one in use.
                Revokes nothing from who has kept the old object and password.
    epoch       new keys for what is written from now on; everybody who stays gets
                them, without a password. Revokes what is written later, not what
                was stored before. Remove the key that leaked first.
    bundles     gives out the current keys again, where `epoch` was broken off.
    reseal, scope, repository
                are not done here: they say what has to be done.
    """
    if level in keys.OTHER_LEVELS:
        raise keys.refuse_other_level(level)
    if level != "password" and any(way.values()):
        raise UsageError(f"`--level {level}` needs no new password", hint="see `--level password`")
    if level == "password":
        _rotate_password(invocation, WayOptions.parse(**way))  # type: ignore[arg-type]  # as in `key add`
        return 0
    output = invocation.output
    with invocation.repository(is_writer=True) as access:
        if level == "epoch":
            done = keys.rotate(access, is_every_scope=all_scopes)
        else:
            done = keys.reissue_bundles(access)
    if output.is_json:
        output.document(done)
    for scope, epoch in done.epochs.items():
        output.line(f"scope {scope} is in epoch {epoch}")
    output.line(f"{format_count(len(done.reissued), 'key')} issued again")
    for principal, why in done.failed.items():
        output.warn(f"key {principal} was not issued again: {why}")
    output.remark(f"this {keys.LEVELS[level]}")
    return 3 if done.failed else 0


def _rotate_password(invocation: Invocation, chosen: WayOptions) -> None:
    output = invocation.output
    with invocation.repository(is_writer=True) as access, chosen.offering_way(output) as new:
        keys.replace_way_to_unlock(access, way=new)
        if output.is_json:
            output.document({"principal": access.keyring.principal})
        output.line(f"key {access.keyring.principal} is unlocked by the new {new.method}")
    output.remark(f"this {keys.LEVELS['password']}")
