"""The command line: the only part of pvback that prints or exits."""

import importlib

import click

from pvback.cli.context import exit_codes, global_options
from pvback.cli.program import Program

__all__ = ["main"]

# Where each command lives. It is loaded when it is asked for: a nightly job starts one of them.
_COMMANDS = {
    "init": "maintain",
    "backup": "backup",
    "snapshots": "look",
    "ls": "look",
    "find": "look",
    "diff": "look",
    "stats": "look",
    "restore": "restore",
    "dump": "restore",
    "mount": "mount",
    "check": "maintain",
    "copy": "copy",
    "forget": "lifecycle",
    "undelete": "lifecycle",
    "prune": "lifecycle",
    "repair": "repair",
    "key": "key",
    "pvc": "pvc",
    "mover": "mover",
    "install": "install",
    "export": "export",
    "bench": "maintain",
    "completion": "completion",
}


class Commands(Program):
    """The commands, by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as the help shows them."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, loaded now."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"pvback.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exit_codes(3, 11),
)
@click.version_option(package_name="pvback", message="pvback %(version)s")
@global_options(is_hidden=False)
def main() -> None:
    """Back up and restore Kubernetes persistent volumes.

    The options below are accepted before and after the command. Each has a variable: PVBACK_REPOSITORY,
    PVBACK_PASSWORD, PVBACK_PASSWORD_FILE, PVBACK_PASSWORD_COMMAND, PVBACK_KEY_FILE, PVBACK_CACHE_DIR,
    PVBACK_MEMORY, PVBACK_S3_ENDPOINT, PVBACK_LIMIT_UPLOAD, PVBACK_LIMIT_DOWNLOAD.
    """
