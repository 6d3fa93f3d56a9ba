"""Commit and prune on a store without conditional writes: what conditions would decide, waiting decides.

Assumed of the store, the network and the machines, with generous bounds:

- A request that was sent lands within a bounded time or never, and a list shows it within a bounded time.
- No process sleeps for longer than a bounded time between looking at its clock and sending a request.
- Clocks run at about the same rate, and exactly one prune is configured for the repository.

A session commits only when it has read `gc/state` within `TIMED_VIEW_SECONDS`, and believes itself to be
committed only when it then finds its register valid. A prune waits for `TIMED_WAIT_SECONDS`, which is longer
than all these bounds together, after each step that others may not have noticed: after it has published a
generation, after it has fenced a session, and after it has named what is dead. So the old views have died
out, and every write that was decided from one of them has landed and is seen. It does not sleep: it ends,
and the next run goes on where enough time has passed by the store's clock.

Where a suspended pod or a proxy outlasts the bounds, a snapshot may lose chunks. `pvback check` finds that.
"""

from datetime import datetime, timedelta

from pvback import limits
from pvback.repository.layout import GC_STATE_NAME
from pvback.repository.sealed import ScopeObjects

__all__ = ["WAIT", "is_timed", "state_wait"]

WAIT = timedelta(seconds=limits.TIMED_WAIT_SECONDS)


def is_timed(objects: ScopeObjects) -> bool:
    """Whether the store leaves everything to time."""
    capabilities = objects.store.capabilities
    return not (capabilities.can_create and capabilities.can_swap)


def state_wait(objects: ScopeObjects, now: datetime) -> datetime | None:
    """When enough time has passed since `gc/state` was written; None when it has, at the store's `now`."""
    until = objects.store.head(objects.layout.key(GC_STATE_NAME)).mtime + WAIT
    return until if now < until else None
