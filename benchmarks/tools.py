"""One adapter per program: how it makes a repository, backs up, and restores.

All run with encryption, at their own default compression, against a repository in a local
directory; caches, configuration and logs go into a directory of their own, passwords through the
environment. kopia compresses nothing by default, so it runs twice: as it is, and with zstd. Where
a program needs an option to do the work that is asked for (delete what is not in the snapshot,
write holes), it gets it; everything else stays at its defaults.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Command:
    """One invocation: arguments and working directory. Exit code 0 means done."""

    argv: list[str]
    cwd: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Restore:
    """What a restore is asked to do."""

    source: Path
    """The path that was backed up."""
    target: Path
    in_place: bool = False
    """The target holds an older, damaged copy; what is not in the snapshot must go."""
    is_sparse: bool = False
    """Holes must stay holes."""


@dataclass(frozen=True)
class Tool:
    """A program with a repository of its own below ``home``."""

    label: str
    program: Path
    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    deletes_extra = True
    """Whether a restore can remove what is not in the snapshot."""

    @property
    def repository(self) -> Path:
        """Directory of the repository; nothing else lies in it."""
        return self.home / "repository"

    def env(self) -> dict[str, str]:
        """The complete environment of every command of this tool."""
        base = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        return base | {name: self._expand(text) for name, text in self.variables.items()}

    def init(self) -> list[Command]:
        """Make the repository."""
        raise NotImplementedError

    def backup(self, source: Path, *, force: bool = False) -> Command:
        """Back up ``source``; with ``force`` every byte is read again."""
        raise NotImplementedError

    def restore(self, order: Restore) -> Command:
        """Restore the newest snapshot."""
        raise NotImplementedError

    def _run(self, *args: str | Path, cwd: Path | None = None) -> Command:
        return Command([str(self.program), *map(str, args)], cwd)

    def _expand(self, text: str) -> str:
        return text.format(home=self.home, repository=self.repository, password=PASSWORD)


class Pvback(Tool):
    """This project."""

    def init(self) -> list[Command]:
        return [self._run("init")]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        return self._run("-q", "backup", source, *(["--force"] if force else []))

    def restore(self, order: Restore) -> Command:
        delete = ["--delete"] if order.in_place else []
        return self._run("-q", "restore", "latest", "--target", order.target, *delete)


class Restic(Tool):
    """restic: one program, repository format 2, zstd by default."""

    def init(self) -> list[Command]:
        return [self._run("init")]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        return self._run("backup", "-q", source, *(["--force"] if force else []))

    def restore(self, order: Restore) -> Command:
        options = ["--delete"] if order.in_place else []
        options += ["--sparse"] if order.is_sparse else []
        return self._run("restore", f"latest:{order.source}", "--target", order.target, *options)


class Rustic(Tool):
    """rustic: restic's format in Rust."""

    def init(self) -> list[Command]:
        return [self._run("init", "--log-level", "error")]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        return self._run("backup", *self._quiet, source, *(["--force"] if force else []))

    def restore(self, order: Restore) -> Command:
        options = ["--delete"] if order.in_place else []
        return self._run("restore", *self._quiet, *options, f"latest:{order.source}", order.target)

    @property
    def _quiet(self) -> list[str]:
        return ["--no-progress", "--log-level", "error"]


@dataclass(frozen=True)
class Kopia(Tool):
    """kopia: ``compression`` is a policy; its own default is none."""

    compression: str = "none"

    def init(self) -> list[Command]:
        return [
            self._run("repository", "create", "filesystem", "--path", self.repository),
            self._run("policy", "set", "--global", f"--compression={self.compression}"),
        ]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        options = ["--force-hash=100"] if force else []
        return self._run("snapshot", "create", "--no-progress", source, *options)

    def restore(self, order: Restore) -> Command:
        options = ["--delete-extra"] if order.in_place else []
        options += ["--write-sparse-files"] if order.is_sparse else []
        return self._run("restore", "--no-progress", order.source, order.target, *options)


@dataclass(frozen=True)
class Borg(Tool):
    """borg 1.4: paths are relative to the working directory; a restore removes nothing.

    It has no name for the newest archive, so the adapter remembers the names that it gave.
    """

    archives: list[str] = field(default_factory=list)

    deletes_extra = False

    def init(self) -> list[Command]:
        return [self._run("init", "-e", "repokey-blake2")]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        self.archives.append(f"a{len(self.archives)}")
        options = ["--files-cache=disabled"] if force else []
        return self._run("create", *options, f"::{self.archives[-1]}", ".", cwd=source)

    def restore(self, order: Restore) -> Command:
        options = ["--sparse"] if order.is_sparse else []
        return self._run("extract", *options, f"::{self.archives[-1]}", cwd=order.target)


KOPIA_VARIABLES = {
    "KOPIA_PASSWORD": "{password}",
    "KOPIA_CONFIG_PATH": "{home}/config/repository.config",
    "KOPIA_CACHE_DIRECTORY": "{home}/cache",
    "KOPIA_LOG_DIR": "{home}/logs",
    "KOPIA_CHECK_FOR_UPDATES": "false",
    "KOPIA_PERSIST_CREDENTIALS_ON_CONNECT": "true",
    "KOPIA_USE_KEYRING": "false",
}
"""Environment of kopia; ``{...}`` stands for parts of a `Tool`."""


def make_tools(programs: Mapping[str, Path], home: Path) -> list[Tool]:
    """Adapters for the programs that are there, in the order of the report.

    Each gets an empty directory below ``home``; kopia gets two adapters.
    """
    tools: list[Tool] = []
    for name, program in programs.items():
        match name:
            case "pvback":
                variables = {
                    "PVBACK_REPOSITORY": "{repository}",
                    "PVBACK_PASSWORD": "{password}",
                    "PVBACK_CACHE_DIR": "{home}/cache",
                }
                tools.append(Pvback(name, program, home / name, variables))
            case "restic" | "rustic":
                prefix = name.upper()
                variables = {
                    f"{prefix}_REPOSITORY": "{repository}",
                    f"{prefix}_PASSWORD": "{password}",
                    f"{prefix}_CACHE_DIR": "{home}/cache",
                }
                kind = Restic if name == "restic" else Rustic
                tools.append(kind(name, program, home / name, variables))
            case "kopia":
                tools.append(Kopia(name, program, home / name, KOPIA_VARIABLES))
                label = "kopia+zstd"
                tools.append(Kopia(label, program, home / label, KOPIA_VARIABLES, compression="zstd"))
            case "borg":
                variables = {
                    "BORG_REPO": "{repository}",
                    "BORG_PASSPHRASE": "{password}",
                    "BORG_BASE_DIR": "{home}/base",
                }
                tools.append(Borg(name, program, home / name, variables))
            case _:
                raise ValueError(f"no adapter for `{name}`")
    for tool in tools:
        tool.home.mkdir(parents=True)
    return tools
