"""Many claims at once: so many in all, so many on a node, and an account of each of them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pvback import limits
from pvback.cluster.claims import ClaimFacts
from pvback.errors import Interrupted, PvbackError
from pvback.model import Claim
from pvback.ops.claim_backup import ClaimBackupOptions, ClaimOutcome, HookShare, backup_claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_places import Places
from pvback.runtime import Progress

__all__ = ["backup_claims"]


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

    Those whose hooks run in one pod take turns: what one has undone in the end must not be undone of another.
    Those that were not begun when stopping was asked for are `failed` as interrupted.
    """
    places, turns = Places(per_node), Places(1)

    def one(facts: ClaimFacts) -> ClaimOutcome:
        nodes = sorted({pod.node for pod in facts.consumers if pod.node is not None})
        places.take(nodes, lambda: work.cancel.is_set)
        share = HookShare(turns=turns)
        try:
            work.cancel.check()
            own = replace(work, progress=progress_of(facts.claim))
            return backup_claim(own, facts.claim, options=options, share=share)
        except PvbackError as exc:
            return ClaimOutcome(claim=str(facts.claim), state="failed", error=exc, hooks=tuple(share.results))
        finally:
            places.leave(nodes)

    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(claims)))) as pool:
        outcomes = list(pool.map(one, claims))
    if work.cancel.is_set and all(isinstance(found.error, Interrupted) for found in outcomes):
        work.cancel.check()
    return outcomes
