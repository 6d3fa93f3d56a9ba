"""The command line: the only part of pvback that prints or exits."""

import click

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pvback", message="pvback %(version)s")
def main() -> None:
    """Back up and restore Kubernetes persistent volumes."""
