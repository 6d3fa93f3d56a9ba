r"""What can be backed up, and what it is called.

A source string names a source for life: the chain of its snapshots, its parent and its checkpoints are found
by it. It is `<host>:<absolute path>` for directories, files and devices, and `<host>:stdin/<name>` or
`<host>:command/<name>` for streams, which no path collides with. Backslashes and bytes that are not UTF-8 are
written as `\\` and `\xff`, so that different paths never have the same string.
"""

import base64
import contextlib
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pvback.errors import FileError, PvbackError, UsageError
from pvback.model import Claim
from pvback.repository.records import SourceIdentity

__all__ = [
    "Source",
    "check_cluster_name",
    "claim_source",
    "claim_string",
    "command_source",
    "escape_path",
    "export_source",
    "export_string",
    "path_source",
    "stdin_source",
    "stream_source",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something to back up.

    Attributes:
        identity: What it is called, in records and for people.
        job_kind: What the data path has to do with it.
        path: Where it is; None for streams.
        descriptor: An open file descriptor that is read to its end, of the caller; None for the others.
        command: The program whose standard output is read, with its arguments.
        producer: Opens a descriptor that is read to its end, and raises on leaving when that was not all.
        is_fixed: Whether it is cut in pages rather than by content: devices, where updates are in place.
        is_plain: Whether its files were made up: nothing is kept of them but mode, mtime and content.
    """

    identity: SourceIdentity
    job_kind: Literal["directory", "file", "stream"]
    path: Path | None = None
    descriptor: int | None = None
    command: tuple[str, ...] | None = None
    producer: Callable[[], AbstractContextManager[int]] | None = None
    is_fixed: bool = False
    is_plain: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be read again from its beginning."""
        return self.path is not None


def path_source(path: str | os.PathLike[str], *, host: str | None = None) -> Source:
    """A directory, file or block device. Links that lead there are followed, links below are not.

    Raises FileError when it is not there or not readable, UsageError for sockets, pipes and the like.
    """
    # Not resolved: the name that the user gives is the name that stays the same.
    absolute = Path(os.path.normpath(Path(path).absolute()))
    try:
        mode = absolute.stat().st_mode
    except OSError as exc:
        raise FileError(f"source: {exc.strerror}", key=str(absolute)) from exc
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISREG, "file"), (stat.S_ISBLK, "device"))
    kind = next((name for is_kind, name in kinds if is_kind(mode)), None)
    if kind is None:
        raise UsageError(
            "neither a directory, a file nor a block device",
            key=str(absolute),
            hint="pipe it into standard input",
        )
    used_host = host or platform.node()
    identity = SourceIdentity(
        kind=kind,
        host=used_host,
        path=str(absolute),
        name=None if kind == "directory" else absolute.name,
        string=f"{used_host}:{escape_path(absolute)}",
    )
    return Source(
        identity=identity,
        job_kind="directory" if kind == "directory" else "file",
        path=absolute,
        is_fixed=kind == "device",
    )


def claim_source(where: Path, claim: Claim, *, cluster: str) -> Source:
    """A claim whose volume is mounted, or is a device, at `where`: called after the claim, wherever that is.

    Raises as `path_source`, UsageError for a name of a cluster that is none.
    """
    string = claim_string(claim, cluster=cluster)
    found = path_source(where, host=cluster)
    identity = replace(
        found.identity,
        host=f"{cluster}/{claim.namespace}",
        path=None,
        name=claim.name,
        string=string,
    )
    return replace(found, identity=identity)


def claim_string(claim: Claim, *, cluster: str) -> str:
    """The source string of a claim, for life. No path or stream has one like it.

    Raises UsageError for a name of a cluster that is none.
    """
    check_cluster_name(cluster)
    return f"pvc:{cluster}/{claim}"


def export_source(where: Path, namespace: str, *, cluster: str, labels: str | None = None) -> Source:
    """The exported objects of a namespace, written out at `where`: called after the namespace.

    Raises as `claim_source`.
    """
    string = export_string(namespace, cluster=cluster, labels=labels)
    found = path_source(where, host=cluster)
    return replace(
        found, identity=replace(found.identity, path=None, name=namespace, string=string), is_plain=True
    )


def export_string(namespace: str, *, cluster: str, labels: str | None = None) -> str:
    """The source string of a namespace's objects, for life. No path, stream or claim has one like it.

    A selection of them is another source: beside all of them it would look like a loss.

    Raises UsageError for a name of a cluster that is none.
    """
    check_cluster_name(cluster)
    return f"export:{cluster}/namespaces/{namespace}" + (f"?{labels}" if labels else "")


def check_cluster_name(cluster: str) -> None:
    """Raise UsageError for what cannot be part of a source string."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", cluster):
        raise UsageError(f"not a name for a cluster: {cluster!r}", hint="letters, digits, `.`, `_` and `-`")


def stdin_source(name: str, *, descriptor: int = 0, host: str | None = None) -> Source:
    """What can be read from a descriptor until its end, as one file called `name`. Raises UsageError."""
    identity = _stream_identity("stream", "stdin", name, host)
    return Source(identity=identity, job_kind="stream", descriptor=descriptor)


def command_source(command: Sequence[str], *, name: str | None = None, host: str | None = None) -> Source:
    """The standard output of a program, run without a shell, as one file. Raises UsageError.

    Nothing is committed unless the program ends with status 0.
    """
    if not command:
        raise UsageError("there is no command", hint="write it after `--command --`")
    identity = _stream_identity("command", "command", name or Path(command[0]).name, host)
    return Source(identity=identity, job_kind="stream", command=tuple(command))


def stream_source(name: str, *, host: str, producer: Callable[[], AbstractContextManager[int]]) -> Source:
    """What somebody else produces, as one file called `name`. Raises UsageError.

    Nothing is committed when `producer` raises on leaving.
    """
    return Source(
        identity=_stream_identity("command", "command", name, host), job_kind="stream", producer=producer
    )


def escape_path(path: Path) -> str:
    """Printable text from which no two paths are the same."""
    raw = os.fsencode(path).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def _stream_identity(kind: str, folder: str, name: str, host: str | None) -> SourceIdentity:
    if not name or "/" in name or "\0" in name or name in (".", "..") or len(os.fsencode(name)) > 255:
        raise UsageError(f"not a file name: {name!r}", hint="give a plain name of at most 255 bytes")
    used_host = host or platform.node()
    return SourceIdentity(
        kind=kind, host=used_host, name=name, string=f"{used_host}:{folder}/{escape_path(Path(name))}"
    )


@contextlib.contextmanager
def open_source(source: Source) -> Iterator[dict[str, object]]:
    """Where the job reads; on leaving without an error, a command has ended with status 0.

    Raises FileError when the command does not start, PvbackError when it fails.
    """
    if source.path is not None:
        yield {"path_b64": base64.b64encode(os.fsencode(source.path)).decode()}
    elif source.descriptor is not None:
        yield {"fd": source.descriptor}
    elif source.producer is not None:
        with source.producer() as descriptor:
            yield {"fd": descriptor}
    else:
        assert source.command is not None, "a source is a path, a descriptor, a producer or a command"
        with _running(source.command) as descriptor:
            yield {"fd": descriptor}


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[int]:
    # Loaded here: most backups run no program.
    import subprocess  # noqa: PLC0415

    program = command[0]
    try:
        # A session of its own: Ctrl-C is ours to act on, or it would look like the end of the data.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as exc:
        raise FileError(f"the command did not start: {exc.strerror}", key=program) from exc
    assert process.stdout is not None, "the pipe was asked for"
    with process:
        try:
            yield process.stdout.fileno()
        except BaseException:
            process.terminate()
            raise
        status = process.wait()
    if status:
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        raise PvbackError(f"the command ended with {ended}; nothing was committed", key=program)
