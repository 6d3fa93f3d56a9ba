"""Merging index runs on the way of a backup, so that their number does not grow from prune to prune.

A session merges what lies on top of the base: runs that no prune has merged or announced, of generations that
the session has acknowledged. Order: the merged runs are durable, and in every list, before the first of the
inputs is removed, and their names sort after all of them, so that whoever lists runs meanwhile sees the one
or the other. Entries of condemned packs stay, for a prune that begins meanwhile may yet find that they are
needed. While one is under way nothing is merged: what it has merged looks like any run until the doom makes
it the base (docs/adr/0011).
"""

from pvback import limits
from pvback.errors import ObjectNotFound, StorageError
from pvback.repository.gcstate import IndexView
from pvback.repository.index_work import IndexWork
from pvback.repository.layout import Area, split_generation
from pvback.repository.sealed import ScopeObjects
from pvback.repository.session import WriterSession
from pvback.runtime import Clock

__all__ = ["merge_runs"]


def merge_runs(
    objects: ScopeObjects,
    work: IndexWork,
    *,
    session: WriterSession,
    view: IndexView,
    clock: Clock,
    count_min: int = limits.RUN_MERGE_COUNT,
) -> int:
    """Merge the runs on top of the base if there are at least `count_min`, and return how many went.

    `view` is what the session may dedup against, listed since it began. For a session whose own runs are not
    being written, with a key that may remove: an owner's. A run that is gone or cannot be removed is
    somebody else's business; nothing is lost by it. Raises DamagedError, StorageError.
    """
    state, ack = session.state, session.register.ack
    if state.is_condemning:
        return 0
    inputs = tuple(
        (name, size)
        for name, size in view.runs
        if name not in state.base and name not in state.known and _generation(name) <= ack
    )
    if len(inputs) < max(count_min, 2):
        return 0
    try:
        work.merge(IndexView(inputs, view.dead, view.condemned), drop=frozenset(), generation=ack)
    except ObjectNotFound:
        # Another session or a prune was faster.
        return 0
    lag = objects.store.capabilities.list_lag_seconds
    if lag:
        clock.sleep(lag)
    try:
        objects.store.delete_many([objects.layout.key(f"{Area.INDEX}/{name}") for name, _ in inputs])
    except StorageError:
        # Both the inputs and what they became list the same: only the next prune has more to read.
        return 0
    return len(inputs)


def _generation(name: str) -> int:
    parts = split_generation(name)
    assert parts is not None, "listed names were classified"
    return parts[0]
