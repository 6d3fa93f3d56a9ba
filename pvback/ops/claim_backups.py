"""Many claims at once: so many in all, so many on a node, and an account of each of them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from pvback import limits
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.grouping import ClaimGroup
from pvback.errors import Interrupted, PvbackError
from pvback.model import Claim
from pvback.ops.claim_backup import backup_claim
from pvback.ops.claim_jobs import ClaimBackupOptions, ClaimOutcome, HookShare
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_places import Places
from pvback.ops.group_backup import GroupTask, backup_group
from pvback.runtime import Progress

__all__ = ["ChosenClaims", "Pace", "backup_claims"]

_ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenClaims:
    """What is to be backed up.

    Attributes:
        claims: One by one.
        groups: Together, each with the claims that it has by now.
        missing: Accounts of those that were named and are not there.
    """

    claims: Sequence[ClaimFacts]
    groups: Sequence[tuple[ClaimGroup, Sequence[ClaimFacts]]] = ()
    missing: Sequence[ClaimOutcome] = ()

    @property
    def names(self) -> list[str]:
        """Of all claims that are there, in order."""
        members = [one for _, claims in self.groups for one in claims]
        return [str(one.claim) for one in (*self.claims, *members)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """So many movers at once, in all and on a node."""

    at_once: int = limits.MOVERS_AT_ONCE
    per_node: int = limits.MOVERS_PER_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crowd:
    """Who works beside each other. Places are taken in this order: nobody waits in a circle."""

    work: ClaimWork
    options: ClaimBackupOptions
    progress_of: Callable[[Claim], Progress]
    pace: Pace
    everywhere: Places
    nodes: Places
    turns: Places = field(default_factory=lambda: Places(1))

    def take(self, claims: Sequence[ClaimFacts], count: int) -> Callable[[], None]:
        """Wait for places of so many movers. What gives them back."""
        nodes = sorted({pod.node for one in claims for pod in one.consumers if pod.node is not None})
        each = [name for name in nodes for _ in range(min(count, self.pace.per_node))]
        self.everywhere.take([_ALL] * count, lambda: self.work.cancel.is_set)
        self.nodes.take(each, lambda: self.work.cancel.is_set)

        def leave() -> None:
            self.nodes.leave(each)
            self.everywhere.leave([_ALL] * count)

        return leave


def backup_claims(
    work: ClaimWork,
    chosen: ChosenClaims,
    *,
    options: ClaimBackupOptions,
    progress_of: Callable[[Claim], Progress],
    pace: Pace | None = None,
) -> list[ClaimOutcome]:
    """Back up all of them; one that fails does not keep the others. In the order in which they were given.

    Those whose hooks run in one pod take turns: what one has undone in the end must not be undone of another.
    Those that were not begun when stopping was asked for are `failed` as interrupted.
    """
    pace = pace or Pace()
    crowd = _Crowd(
        work=work,
        options=options,
        progress_of=progress_of,
        pace=pace,
        everywhere=Places(pace.at_once),
        nodes=Places(pace.per_node),
    )
    tasks: list[Callable[[], list[ClaimOutcome]]] = [
        *(partial(_single, crowd, one) for one in chosen.claims),
        *(partial(_group, crowd, group=group, claims=claims) for group, claims in chosen.groups),
    ]
    with ThreadPoolExecutor(max_workers=max(1, min(pace.at_once, len(tasks)))) as pool:
        outcomes = [one for found in pool.map(lambda task: task(), tasks) for one in found]
    if work.cancel.is_set and all(isinstance(found.error, Interrupted) for found in outcomes):
        work.cancel.check()
    return outcomes


def _single(crowd: _Crowd, facts: ClaimFacts) -> list[ClaimOutcome]:
    work, share = crowd.work, HookShare(turns=crowd.turns)
    leave = crowd.take([facts], 1)
    try:
        work.cancel.check()
        own = replace(work, progress=crowd.progress_of(facts.claim))
        return [backup_claim(own, facts.claim, options=crowd.options, share=share)]
    except PvbackError as exc:
        return [_failed(facts, exc, share)]
    finally:
        leave()


def _group(crowd: _Crowd, *, group: ClaimGroup, claims: Sequence[ClaimFacts]) -> list[ClaimOutcome]:
    work, share = crowd.work, HookShare(turns=crowd.turns)
    count = min(len(claims), crowd.pace.at_once, crowd.pace.per_node)
    leave = crowd.take(claims, count)
    try:
        work.cancel.check()
        own = replace(work, progress=crowd.progress_of(claims[0].claim))
        task = GroupTask(group=group, at_once=count, progress_of=crowd.progress_of)
        return backup_group(own, task, options=crowd.options, share=share)
    except PvbackError as exc:
        return [_failed(facts, exc, share) for facts in claims]
    finally:
        leave()


def _failed(facts: ClaimFacts, error: PvbackError, share: HookShare) -> ClaimOutcome:
    return ClaimOutcome(claim=str(facts.claim), state="failed", error=error, hooks=tuple(share.results))
