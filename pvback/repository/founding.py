"""Where a repository may be made, and the moment at which it is there.

An `init` that was killed leaves key objects, a `gc/state`, or keys of the probe; without a `config` they are
nobody's. They are removed by the next one, but only after it has won: an `init` that still runs may be
theirs, and whose `config` is created first cannot be known before.
"""

import contextlib
import json
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from pvback import limits
from pvback.errors import ConflictError, ObjectExists, ObjectNotFound, StorageError, StorageUnavailable
from pvback.repository.layout import CONFIG_KEY, COPIES_PREFIX, copy_key, is_key_object
from pvback.retrying import Patience, create_own
from pvback.runtime import Clock
from pvback.storage import ObjectStore
from pvback.storage.probe import PROBE_PREFIX, probe_conditions

__all__ = ["find_conditions", "find_free_place", "found_repository"]

_FOLDERS = frozenset({".lock", "copies", "keys", "s"})
_FIRST_STATE = re.compile("s/[0-9a-f]{32}/gc/state")


def find_free_place(store: ObjectStore, where: str, *, folder: Path | None = None) -> list[str]:
    """What is left of an `init` that did not end. Raises ConflictError when there is anything else.

    `folder` is the directory that the store lies in, if it does: other files there are looked at, too.
    """
    if _is_repository(store):
        raise ConflictError(
            f"there is a repository at `{where}` already", hint="choose another place, or use that one"
        )
    if folder is not None:
        _refuse_foreign_files(folder, where)
    found = [one.key for one in islice(store.list_objects(""), limits.INIT_LEFT_OVER_COUNT_MAX + 1)]
    foreign = [key for key in found if not _is_left_over(key)]
    if foreign or len(found) > limits.INIT_LEFT_OVER_COUNT_MAX:
        key = (foreign or found)[0]
        raise ConflictError(f"`{where}` is not empty", key=key, hint="choose an empty place")
    return found


def found_repository(
    store: ObjectStore,
    first: Mapping[str, bytes],
    *,
    config: bytes,
    where: str,
    clock: Clock,
    patience: Patience | None = None,
) -> None:
    """Write the `first` objects in order, then `config`, then its copy.

    Raises ConflictError when somebody else has been faster, and leaves nothing of its own then; StorageError.
    """
    for key, data in first.items():
        create_own(store, key, data=data, clock=clock, patience=patience)
    try:
        create_own(store, CONFIG_KEY, data=config, clock=clock, patience=patience)
    except ObjectExists:
        with contextlib.suppress(StorageError):
            store.delete_many(list(first))
        raise ConflictError("somebody else has made a repository here just now", key=where) from None
    with contextlib.suppress(ObjectExists):
        create_own(store, copy_key(CONFIG_KEY), data=config, clock=clock, patience=patience)


def find_conditions(
    store: ObjectStore, *, clock: Clock, is_needed: bool, patience: Patience | None = None
) -> bool:
    """Whether the store keeps its promise about conditional writes. StorageError if not, when it `is_needed`.

    Some servers accept the conditions and ignore them; commit and prune rest on them. A probe in which too
    many answers were missing says nothing, and is done again.
    """
    attempts = (patience or Patience()).begin(clock)
    while True:
        try:
            found = probe_conditions(store)
            break
        except StorageUnavailable as exc:
            if not attempts.wait(exc, count_max=limits.RETRY_COUNT_FIRST_MAX):
                raise
    if is_needed and not found.hold:
        raise StorageError(
            f"the store ignores conditions on writes ({'; '.join(found.broken)})",
            key=store.address,
            hint="use a service with conditional writes (If-None-Match and If-Match), or read in "
            "docs/operations.md what `--allow-unconditional` takes and costs",
        )
    return found.hold


def _is_left_over(key: str) -> bool:
    is_key = is_key_object(key.removeprefix(COPIES_PREFIX))
    return is_key or key.startswith(PROBE_PREFIX) or _FIRST_STATE.fullmatch(key) is not None


def _is_repository(store: ObjectStore) -> bool:
    for key in (CONFIG_KEY, copy_key(CONFIG_KEY)):
        try:
            line = store.read(key).data.split(b"\n", 1)[0]
            if json.loads(line).get("pvback") == "config":
                return True
        except (ObjectNotFound, ValueError, AttributeError):
            continue
    return False


def _refuse_foreign_files(folder: Path, where: str) -> None:
    """Also files whose names are no keys make a directory somebody else's."""
    for entry in folder.iterdir():
        is_ours = entry.name in _FOLDERS or entry.name.startswith((".tmp-", PROBE_PREFIX))
        if not is_ours:
            raise ConflictError(f"`{where}` is not empty", key=entry.name, hint="choose an empty place")
