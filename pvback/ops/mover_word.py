"""The word that a mover waits for between its last read and its commit: whether others held still until then.

Only who made them hold still knows that, and only when all is read; the mover cannot ask, for it has no
token. So it says in its log that it has read, and a process run beside it leaves the answer in a file.

Guarantees: a word is for one snapshot id, so that a read that was begun anew never has the word of the one
before; a word is there as a whole or not at all.
"""

from pathlib import Path

from pvback import limits
from pvback.runtime import Cancel, Clock

__all__ = ["WORD_FOLDER", "leave_word", "wait_for_word"]

WORD_FOLDER = Path("/tmp")  # noqa: S108 -- of the container, and nobody else's


def leave_word(snapshot: str, word: str, *, folder: Path = WORD_FOLDER) -> None:
    """Leave it for who waits. Raises OSError."""
    path = _path_of(snapshot, folder)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(word)
    unfinished.replace(path)


def wait_for_word(snapshot: str, *, folder: Path, clock: Clock, cancel: Cancel) -> str | None:
    """The word for this snapshot; None when none has come in time. Raises Interrupted."""
    path = _path_of(snapshot, folder)
    deadline = clock.monotonic() + limits.MOVER_WORD_SECONDS
    while True:
        cancel.check()
        if path.exists():
            return path.read_text()
        if clock.monotonic() >= deadline:
            return None
        clock.sleep(limits.HOOK_POLL_SECONDS, cancel)


def _path_of(snapshot: str, folder: Path) -> Path:
    return folder / f"word-{snapshot}"
