"""Index merge by an open session, straight from the protocol: `repository` has none yet."""

from pvback.errors import ObjectNotFound
from pvback.repository.gcstate import IndexView, list_index, read_gc_state
from pvback.repository.index_work import IndexWork
from pvback.repository.sealed import ScopeObjects
from pvback.repository.session import WriterSession

__all__ = ["merge_runs"]


def merge_runs(objects: ScopeObjects, work: IndexWork, session: WriterSession) -> None:
    """Replace runs that no `gc/state` names by some of the session's own generation."""
    state = read_gc_state(objects)
    ack = session.register.ack
    view = list_index(objects, state)
    inputs = tuple(
        (name, size)
        for name, size in view.runs
        if name not in state.base | state.known and int(name[:16], 16) <= ack
    )
    if len(inputs) < 2:
        return
    try:
        work.merge(IndexView(inputs, view.dead, view.condemned), drop=frozenset(), generation=ack)
    except ObjectNotFound:
        return
    objects.store.delete_many([objects.layout.key(f"index/{name}") for name, _ in inputs])
