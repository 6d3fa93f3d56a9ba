"""What a mover does in its pod: one backup or restore of what is mounted there, as its specification says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from pvback import limits
from pvback.errors import PvbackError, UsageError
from pvback.model import Claim, Consistency
from pvback.ops.backup import BackupOptions, BackupResult, backup
from pvback.ops.mover_word import WORD_FOLDER, wait_for_word
from pvback.ops.reading import find_in
from pvback.ops.restore import RestoreOptions, RestoreResult, restore
from pvback.ops.sources import claim_source
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, Progress

__all__ = ["MoverSpec", "end_message", "move_backup", "move_restore", "read_spec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverSpec:
    """What a mover is told.

    Attributes:
        cluster, namespace, claim: Whose bytes these are.
        where: The folder or device.
        scope: Of the repository; None: the only one that its key opens.
        snapshot: What is restored.
        taken: The instant of what is mounted, RFC 3339; None where it is the volume itself.
        held_grade: What the copy is worth where somebody says that others held still until all was read; the
            mover waits for that word. None: it waits for nobody.
        options: Of the backup or restore, by the names of `BackupOptions` or `RestoreOptions`.
        manifests: Stored with the snapshot.
    """

    cluster: str
    namespace: str
    claim: str
    where: str
    scope: str | None = None
    snapshot: str | None = None
    taken: str | None = None
    held_grade: str | None = None
    options: Mapping[str, Any]
    manifests: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As `read_spec` reads it."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def read_spec(path: Path) -> MoverSpec:
    """Raises UsageError."""
    try:
        raw = json.loads(path.read_bytes())
        return MoverSpec(**raw)
    except (OSError, ValueError, TypeError) as exc:
        raise UsageError(f"not a mover's specification: {exc}", key=str(path)) from exc


def move_backup(
    access: RepositoryAccess,
    spec: MoverSpec,
    *,
    progress: Progress,
    cancel: Cancel,
    say_read: Callable[[str], None],
    words: Path = WORD_FOLDER,
) -> BackupResult:
    """`say_read` tells those who hold still that all is read, for this snapshot id. Raises as `backup`."""
    source = claim_source(Path(spec.where), Claim(spec.namespace, spec.claim), cluster=spec.cluster)
    given = dict(spec.options)
    grade = given.pop("grade", None)
    wanted = Consistency(spec.held_grade) if spec.held_grade else None

    def judge(snapshot: str, unstable_count: int) -> Consistency:
        say_read(snapshot)
        word = wait_for_word(snapshot, folder=words, clock=access.clock, cancel=cancel)
        why = _why_doubt(word, wanted=str(wanted), unstable_count=unstable_count)
        if wanted is not None and why is None:
            return wanted
        progress.warn(f"{why}: the snapshot is worth what any live read is")
        return Consistency.FUZZY

    options = BackupOptions(
        **given,
        grade=Consistency(grade) if grade else None,
        judge=judge if wanted is not None else None,
        taken=datetime.fromisoformat(spec.taken) if spec.taken else None,
        manifests=spec.manifests,
    )
    return backup(access, source, options=options, progress=progress, cancel=cancel)


def _why_doubt(word: str | None, *, wanted: str, unstable_count: int) -> str | None:
    """Why a copy is not worth what is wanted of it; None where it is."""
    if word is None:
        return "nobody has said that others held still until all was read"
    if word != wanted:
        return "others did not surely hold still until all was read"
    if unstable_count:
        return f"{unstable_count} files changed while they were read, although others were to hold still"
    return None


def move_restore(
    access: RepositoryAccess, spec: MoverSpec, *, progress: Progress, cancel: Cancel
) -> RestoreResult:
    """Raises as `restore`."""
    if spec.snapshot is None:
        raise UsageError("the specification names no snapshot")
    found = find_in(access, spec.snapshot)
    options = RestoreOptions(**spec.options)
    return restore(access, found, target=spec.where, options=options, progress=progress, cancel=cancel)


def end_message(code: int, *, result: Mapping[str, Any] | None, error: PvbackError | None) -> bytes:
    """A termination message: JSON that fits what the kubelet keeps.

    Long texts of the error are cut. Of the result the examples go first, then what the store was asked; which
    snapshot it is, and its statistics, stay.
    """
    facts = {
        name: _cut(value, limits.MESSAGE_BYTES_MAX // 5) if isinstance(value, str) else value
        for name, value in (error.as_dict() if error is not None else {}).items()
    }
    kept = dict(result or {})
    for spare in ("examples", "store", None):
        data = _encode({"exit_code": code, "result": kept, "error": facts or None})
        if len(data) <= limits.MESSAGE_BYTES_MAX:
            return data
        kept = {name: value for name, value in kept.items() if name != spare}
    return _encode({"exit_code": code, "result": {}, "error": facts or None})


def _encode(value: Any) -> bytes:  # noqa: ANN401 -- what JSON can say
    """Letters as themselves, for escaped they are up to three times as long; what is none is escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _cut(text: str, size: int) -> str:
    """As much of it as fits when it is encoded."""
    while (length := len(_encode(text))) > size:
        text = text[: len(text) * size // length]
    return text
