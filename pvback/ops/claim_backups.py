"""Many claims at once: so many in all, so many on a node, and an account of each of them."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pvback import limits
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.hook_runs import HookResult
from pvback.errors import Interrupted, PvbackError
from pvback.model import Claim
from pvback.ops.claim_backup import ClaimBackupOptions, ClaimOutcome, backup_claim
from pvback.ops.claim_mover import ClaimWork
from pvback.runtime import Progress

__all__ = ["backup_claims"]


class _Places:
    """Who may begin: at most so many on each node. Where a claim is not mounted its node is not known."""

    def __init__(self, per_node: int) -> None:
        self._per_node = per_node
        self._taken: Counter[str] = Counter()
        self._free = threading.Condition()

    def take(self, nodes: Sequence[str], is_over: Callable[[], bool]) -> None:
        """Wait for a place on each of the nodes, or until all is over."""
        with self._free:
            while any(self._taken[node] >= self._per_node for node in nodes) and not is_over():
                self._free.wait(limits.CLUSTER_POLL_SECONDS)
            self._taken.update(nodes)

    def leave(self, nodes: Sequence[str]) -> None:
        """Give the places back."""
        with self._free:
            self._taken.subtract(nodes)
            self._free.notify_all()


def backup_claims(
    work: ClaimWork,
    claims: Sequence[ClaimFacts],
    *,
    options: ClaimBackupOptions,
    progress_of: Callable[[Claim], Progress],
    at_once: int = limits.MOVERS_AT_ONCE,
    per_node: int = limits.MOVERS_PER_NODE,
) -> list[ClaimOutcome]:
    """Back up all of them; one that fails does not keep the others. In the order in which they were given.

    Those that were not begun when stopping was asked for are `failed` as interrupted.
    """
    places = _Places(per_node)

    def one(facts: ClaimFacts) -> ClaimOutcome:
        nodes = sorted({pod.node for pod in facts.consumers if pod.node is not None})
        places.take(nodes, lambda: work.cancel.is_set)
        did: list[HookResult] = []
        try:
            work.cancel.check()
            own = replace(work, progress=progress_of(facts.claim))
            return backup_claim(own, facts.claim, options=options, hook_results=did)
        except PvbackError as exc:
            return ClaimOutcome(claim=str(facts.claim), state="failed", error=exc, hooks=tuple(did))
        finally:
            places.leave(nodes)

    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(claims)))) as pool:
        outcomes = list(pool.map(one, claims))
    if work.cancel.is_set and all(isinstance(found.error, Interrupted) for found in outcomes):
        work.cancel.check()
    return outcomes
