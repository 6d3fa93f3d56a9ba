"""The Python API: one class with the verbs of the command line. Exported by `import pvback`."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Self

from pvback.config import Config, Secret, load_config
from pvback.model import StoreUsage
from pvback.ops import backup as backups
from pvback.ops import check as checks
from pvback.ops import copy as copies
from pvback.ops import diff, dump, find, init, keys, ls, stats
from pvback.ops import restore as restores
from pvback.ops import snapshots as lists
from pvback.ops.copy_plan import CopyOptions
from pvback.ops.reading import find_in, split_snapshot_path
from pvback.ops.rows import Change, Node
from pvback.ops.sources import Source, path_source
from pvback.repository.repository import RepositoryAccess, open_repository_access
from pvback.runtime import Cancel, Progress

__all__ = ["Repository", "init_repository", "open_repository"]


def init_repository(
    address: str | os.PathLike[str],
    password: str,
    *,
    chunk_bytes: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_unconditional: bool = False,
) -> "Repository":
    """Make a repository and open it.

    Args:
        address: A path, `file:///path` or `s3://bucket/prefix`. A local directory's parent has to exist.
        password: Opens it from now on; nobody can reset it.
        chunk_bytes: Average size of chunks, a multiple of 4 KiB; None: 512 KiB.
        cache_dir: Where to remember what was seen; None: the user's cache directory.
        allow_unconditional: A store that ignores conditions on writes will do; see docs/operations.md.

    Raises ConflictError when something is there already, UsageError, StorageError.
    """
    config = _config(address, password, cache_dir)
    init.init(config, chunk_bytes=chunk_bytes, allow_unconditional=allow_unconditional)
    return Repository(open_repository_access(config, is_writer=True))


def open_repository(
    address: str | os.PathLike[str],
    password: str | None = None,
    *,
    key_file: str | os.PathLike[str] | None = None,
    scope: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> "Repository":
    """Open a repository with a password or a key file; without either, as the environment says.

    Raises RepositoryNotFound, WrongKeyError, UnsupportedFormatError, DamagedError, UsageError, StorageError.
    """
    return Repository(open_repository_access(_config(address, password, cache_dir, key_file), scope=scope))


class Repository:
    """An open repository. Its methods block; use it from one thread at a time, and close it or use `with`.

    A snapshot is named by the first digits of its id or by `latest`; sizes are bytes, times UTC. All methods
    raise StorageError when the store fails, and DamagedError when stored bytes are not what was written
    or the repository was rolled back.
    """

    def __init__(self, access: RepositoryAccess) -> None:
        self._access = access

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections. Repeats do nothing."""
        self._access.close()

    @property
    def id(self) -> str:
        """32 digits, for life."""
        return self._access.facts.repository

    @property
    def role(self) -> str:
        """`owner`, `restorer`, `writer` or `maintainer`."""
        return self._access.keyring.role

    def usage(self) -> StoreUsage:
        """Requests and bytes, both ways, since the repository was opened."""
        return self._access.usage()

    def backup(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        options: backups.BackupOptions | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> backups.BackupResult:
        """Back up a path, or a source from `stdin_source` or `command_source`, as one snapshot.

        Single files that cannot be read are in the result's `problems`. Raises FileError, UsageError,
        WrongKeyError, ConflictError, Interrupted.
        """
        used = source if isinstance(source, Source) else path_source(source)
        return backups.backup(self._access, used, options=options, progress=progress, cancel=cancel)

    def snapshots(
        self,
        *,
        source: str | None = None,
        host: str | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> Sequence[lists.SnapshotInfo]:
        """Snapshots that fit, oldest first. Raises the first damage when there is nothing else to show."""
        wanted = lists.SnapshotFilter(source=source, host=host, tags=tags or {})
        found = lists.list_snapshots(self._access, wanted=wanted)
        if found.damaged and not found.snapshots:
            raise found.damaged[0]
        return found.snapshots

    def ls(self, snapshot: str, *, source: str | None = None, recursive: bool = False) -> Iterator[Node]:
        """The nodes of `SNAP[:PATH]`, in path order, as they are read. Raises PvbackError, UsageError."""
        name, path = split_snapshot_path(snapshot)
        found = find_in(self._access, name, source=source)
        return ls.list_nodes(self._access, found, path=path, recursive=recursive)

    def find(self, patterns: Sequence[str], *, source: str | None = None) -> Iterator[find.Match]:
        """Files whose names fit a glob pattern, in all snapshots, or those of a source. Raises UsageError."""
        wanted = lists.SnapshotFilter(source=source)
        fitting = [one for one in self._access.catalog().snapshots if one.details and wanted.matches(one)]
        return find.find_nodes(self._access, fitting, patterns=patterns)

    def diff(self, old: str, new: str) -> Iterator[Change]:
        """What changed from one snapshot to another, in path order. Raises PvbackError, UsageError."""
        before, after = find_in(self._access, old), find_in(self._access, new)
        return diff.diff_snapshots(self._access, old=before, new=after)

    def stats(self, *, mode: str | None = None) -> stats.RepositoryStats:
        """What is stored. A mode, `restore-size` or `raw-data`, also reads the trees."""
        return stats.repository_stats(self._access, self._access.catalog().snapshots, mode=mode)

    def restore(
        self,
        snapshot: str,
        target: str | os.PathLike[str],
        *,
        source: str | None = None,
        options: restores.RestoreOptions | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> restores.RestoreResult:
        """Make `target` the image of `SNAP[:PATH]`; `source` says whose `latest`.

        Single files that cannot be restored are in the result's `problems`. Raises FileError, UsageError,
        PvbackError, Interrupted.
        """
        name, path = split_snapshot_path(snapshot)
        found = find_in(self._access, name, source=source)
        used = options or restores.RestoreOptions()
        used = dataclasses.replace(used, path=path) if path else used
        return restores.restore(
            self._access, found, target=target, options=used, progress=progress, cancel=cancel
        )

    def dump(self, snapshot: str, output: BinaryIO, *, source: str | None = None) -> int:
        """Write the file `SNAP:PATH` to `output`; returns how many bytes. Raises PvbackError, UsageError."""
        name, path = split_snapshot_path(snapshot)
        found = find_in(self._access, name, source=source)
        return dump.dump_file(self._access, found, path=path, output=output)

    def check(
        self,
        *,
        read_percent: float | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> checks.CheckResult:
        """Examine the repository; a `read_percent` of 100 opens all that is stored. Raises UsageError."""
        options = checks.CheckOptions(read_percent=read_percent)
        return checks.check(self._access, options=options, progress=progress, cancel=cancel)

    def copy_from(
        self,
        source: "Repository",
        *,
        options: CopyOptions | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> copies.CopyResult:
        """Copy snapshots of another repository into this one, those that it does not have.

        What could not be copied is in the result's `failures`, and files that could not be read in the
        `problems` of each copy. Raises ConflictError, WrongKeyError, UsageError, Interrupted.
        """
        other = source._access  # noqa: SLF001 - one of our own class
        return copies.copy_snapshots(other, self._access, options=options, progress=progress, cancel=cancel)

    def list_keys(self) -> Sequence[keys.KeyInfo]:
        """Who can open the repository."""
        return keys.list_keys(self._access)

    def add_key(self, role: str, *, label: str, password: str) -> str:
        """Let somebody in, with a password of their own; returns the id. Raises WrongKeyError, UsageError."""
        return keys.add_key(
            self._access,
            role=role,
            label=label,
            way=keys.NewWay(method="passphrase", secret=Secret(password)),
        )

    def remove_key(self, principal: str) -> str:
        """Revoke somebody's signatures; see `remove_key` in `pvback.repository.revoking`. Returns the id."""
        return keys.remove_key(self._access, principal).principal


def _config(
    address: str | os.PathLike[str],
    password: str | None,
    cache_dir: str | os.PathLike[str] | None,
    key_file: str | os.PathLike[str] | None = None,
) -> Config:
    flags: dict[str, object] = {"repository": os.fspath(address)}
    if password is not None:
        flags["password"] = Secret(password)
    if cache_dir is not None:
        flags["cache_dir"] = os.fspath(cache_dir)
    if key_file is not None:
        flags["key_file"] = os.fspath(key_file)
    return load_config(flags)
