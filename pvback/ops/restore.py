"""Restoring a snapshot, or a part of it, to a directory, a file or a device."""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvback import limits
from pvback.datapath import Listeners
from pvback.errors import UsageError
from pvback.ops.reading import run_reading, tree_options
from pvback.ops.rows import Problem, decode_path, encode_path, parse_problem
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot
from pvback.runtime import Cancel, NoProgress, Progress

__all__ = ["OVERWRITE", "Denied", "LostRange", "RestoreOptions", "RestoreResult", "restore"]

OVERWRITE = ("always", "if-changed", "never")
_PROBLEM_COUNT_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How to restore.

    Attributes:
        path: What to restore, relative to the source; empty: all of it.
        includes: Patterns of paths; when there are any, only what fits one is restored, with its directories.
        excludes: Patterns of paths that are not restored.
        delete: Remove from the target what is not in the snapshot.
        overwrite: What is there: `always` compares its content and fetches what differs, `if-changed` trusts
            size and mtime, `never` leaves it.
        dry_run: Say what would be done, and do nothing.
        verify: Read everything back and compare.
        use_journal: Note what is done, so that an interrupted restore goes on where it was.
    """

    path: str = ""
    includes: Sequence[str] = ()
    excludes: Sequence[str] = ()
    delete: bool = False
    overwrite: str = "always"
    dry_run: bool = False
    verify: bool = False
    use_journal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """One kind of attribute that the system did not let us set."""

    category: str
    count: int
    examples: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRange:
    """Paths of which nothing is known: a page of the tree that names them could not be read.

    The order is that of `pvback ls -R`: a directory, then what is in it, names by their bytes.
    """

    after: str | None
    """The last path before them; None: they begin with the first."""
    before: str | None
    """The first path after them; None: they go on to the end."""
    message: str

    def __str__(self) -> str:
        bounds = (f"after {self.after}" if self.after else "", f"before {self.before}" if self.before else "")
        return f"paths lost: everything {' and '.join(filter(None, bounds)) or 'below'}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What was done."""

    snapshot: str
    target: str
    stats: Mapping[str, Any]
    error_count: int
    """Files that are not as they were, each of them a problem."""
    denied: Sequence[Denied]
    lost: Sequence[LostRange]
    """What could not even be named, and was not deleted for that either; each range is a problem, too."""
    problems: Sequence[Problem]
    """The first thousand."""


def restore(
    access: RepositoryAccess,
    snapshot: CommittedSnapshot,
    *,
    target: str | os.PathLike[str],
    options: RestoreOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> RestoreResult:
    """Make `target` the image of what was backed up, or of a path below it.

    Every chunk's id is checked before its bytes count. A missing or damaged chunk costs the files that hold
    it, not the restore; a page of the tree costs the paths that only it names. Raises UsageError, FileError
    when the target is not usable, Interrupted, DamagedError when the tree's root is not readable,
    StorageError.
    """
    used, heard = options or RestoreOptions(), progress or NoProgress()
    if used.overwrite not in OVERWRITE:
        raise UsageError(f"no such way to overwrite: {used.overwrite}", hint=f"one of {', '.join(OVERWRITE)}")
    problems: list[Problem] = []

    def on_output(kind: str, data: memoryview) -> None:
        if kind == "problem":
            problem = parse_problem(data)
            if len(problems) < _PROBLEM_COUNT_MAX:
                problems.append(problem)
            heard.warn(str(problem))

    absolute = Path(target).absolute()
    result = run_reading(
        access,
        "restore",
        options={
            **tree_options(snapshot),
            **_options_json(used, absolute),
            "subtree_b64": encode_path(used.path),
        },
        listeners=Listeners(on_output=on_output, on_counters=heard.update, cancel=cancel or Cancel()),
        tells_losses=True,
    )
    return RestoreResult(
        snapshot=snapshot.id,
        target=str(absolute),
        stats=result.get("stats", {}),
        error_count=int(result.get("errors", 0)),
        denied=[_denied(one) for one in result.get("denied", ())],
        lost=[_lost(one) for one in result.get("lost", ())],
        problems=problems,
    )


def _options_json(options: RestoreOptions, target: Path) -> dict[str, object]:
    return {
        "target_b64": base64.b64encode(os.fsencode(target)).decode(),
        "includes": list(options.includes),
        "excludes": list(options.excludes),
        "delete": options.delete,
        "overwrite": options.overwrite,
        "dry_run": options.dry_run,
        "verify": options.verify,
        "journal_seconds": limits.RESTORE_JOURNAL_SECONDS,
        "journal": options.use_journal and not options.dry_run,
    }


def _lost(raw: Mapping[str, Any]) -> LostRange:
    after, before = raw.get("after_b64"), raw.get("before_b64")
    return LostRange(
        after=None if after is None else decode_path(after),
        before=None if before is None else decode_path(before),
        message=str(raw.get("message", "")),
    )


def _denied(raw: Mapping[str, Any]) -> Denied:
    return Denied(
        category=str(raw["category"]),
        count=int(raw["count"]),
        examples=[str(one) for one in raw.get("examples", ())],
        message=str(raw.get("message", "")),
    )
