"""The command line: the only part of pvback that prints or exits."""

import click

from pvback.cli import backup, completion, look, maintain, restore
from pvback.cli.context import exit_codes, global_options
from pvback.cli.program import Program

__all__ = ["main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]}, epilog=exit_codes(3, 11))
@click.version_option(package_name="pvback", message="pvback %(version)s")
@global_options(is_hidden=False)
def main() -> None:
    """Back up and restore Kubernetes persistent volumes.

    The options below are accepted before and after the command. Each has a variable: PVBACK_REPOSITORY,
    PVBACK_PASSWORD, PVBACK_PASSWORD_FILE, PVBACK_PASSWORD_COMMAND, PVBACK_KEY_FILE, PVBACK_CACHE_DIR,
    PVBACK_MEMORY, PVBACK_S3_ENDPOINT, PVBACK_LIMIT_UPLOAD, PVBACK_LIMIT_DOWNLOAD.
    """


for command in (
    maintain.init,
    backup.backup,
    look.snapshots,
    look.ls,
    look.find,
    look.diff,
    look.stats,
    restore.restore,
    restore.dump,
    maintain.check,
    maintain.key,
    maintain.bench,
    completion.completion,
):
    main.add_command(command)
