"""`pvback completion`."""

import click
from click.shell_completion import get_completion_class

from pvback.cli.context import exit_codes
from pvback.errors import UsageError

__all__ = ["completion"]


@click.command(epilog=exit_codes(has_repository=False))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script that completes commands and options.

    For bash: `eval "$(pvback completion bash)"` in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "pvback", "_PVBACK_COMPLETE").source())
    return 0
