"""How many movers work beside each other: counted while as many are held as may be. No Kubernetes.

Movers here end only when nobody else can begin: each worker is in a mover, or waits for a place. So a limit
that is not kept is seen every time, and one that is too strict never ends.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pvback.cluster.claims import ClaimFacts, facts_of
from pvback.cluster.grouping import ClaimGroup
from pvback.cluster.kinds import CLAIM, POD
from pvback.model import Claim
from pvback.ops import claim_backups
from pvback.ops.claim_backups import ChosenClaims, Pace, backup_claims
from pvback.ops.claim_jobs import ClaimBackupOptions, ClaimOutcome
from pvback.ops.claim_mover import ClaimWork
from pvback.runtime import Cancel, NoProgress, SystemClock

WAIT_SECONDS_MAX = 20


def on(node: str | None, name: str) -> ClaimFacts:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1"}}}
    body = CLAIM.body(name, "ns", metadata={"uid": name}, spec=spec)
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": name}}
    pod = POD.body(f"app-{name}", "ns", spec={"nodeName": node, "volumes": [volume], "containers": []})
    return facts_of(body, pods=[pod] if node else [], storage_class=None, volume=None)


class Movers(Cancel):
    """Who moves on which node; and, as the token that those ask who wait for a place, who waits."""

    def __init__(self, worker_count: int) -> None:
        super().__init__()
        self.most: Counter[str] = Counter()
        self.most_of_all = 0
        self._worker_count = worker_count
        self._moving: Counter[str] = Counter()
        self._inside: set[int] = set()
        self._waiting: set[int] = set()
        self._changed = threading.Condition()
        self._were_settled = False

    @property
    def is_set(self) -> bool:
        with self._changed:
            self._waiting.add(threading.get_ident())
            self._changed.notify_all()
        return False

    @contextmanager
    def moving(self, *nodes: str) -> Iterator[None]:
        """Movers on these nodes, from their begin to their end."""
        me = threading.get_ident()
        with self._changed:
            self._inside.add(me)
            self._waiting.discard(me)
            self._moving.update(nodes)
            self.most |= self._moving
            self.most_of_all = max(self.most_of_all, self._moving.total())
            self._changed.notify_all()
            settled = self._changed.wait_for(self._is_settled, WAIT_SECONDS_MAX)
            assert settled, "somebody neither moves nor waits"
            # What follows is only counted.
            self._were_settled = True
            self._changed.notify_all()
        yield
        with self._changed:
            self._moving.subtract(nodes)
            self._inside.discard(me)

    def _is_settled(self) -> bool:
        return self._were_settled or len(self._inside | self._waiting) >= self._worker_count


def counted(
    monkeypatch: pytest.MonkeyPatch, chosen: ChosenClaims, pace: Pace, *, worker_count: int
) -> Movers:
    """Back all up, each by a mover that only is where its claim's pod is."""
    movers = Movers(worker_count)
    node_of = {one.claim: one.consumers[0].node for one in chosen.claims if one.consumers}
    members_of = dict(chosen.groups)
    nothing: Any = None
    work = ClaimWork(cluster=nothing, progress=NoProgress(), cancel=movers, clock=SystemClock())

    def one(_: ClaimWork, claim: Claim, **__: Any) -> ClaimOutcome:
        with movers.moving(node_of.get(claim) or "nowhere"):
            return ClaimOutcome(claim=str(claim), state="done")

    def group(_: ClaimWork, task: Any, **__: Any) -> list[ClaimOutcome]:
        (node,) = {one.consumers[0].node for one in members_of[task.group]}
        with movers.moving(*[str(node)] * task.at_once):
            return [ClaimOutcome(claim=str(task.group), state="done")]

    monkeypatch.setattr(claim_backups, "backup_claim", one)
    monkeypatch.setattr(claim_backups, "backup_group", group)
    options = ClaimBackupOptions(settings=nothing)
    outcomes = backup_claims(work, chosen, options=options, progress_of=lambda _: NoProgress(), pace=pace)
    assert {found.state for found in outcomes} == {"done"}
    return movers


def test_so_many_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [on(node, f"{node}-{number}") for number in range(5) for node in ("n1", "n2", "n3")]
    movers = counted(monkeypatch, ChosenClaims(claims=claims), Pace(at_once=12, per_node=2), worker_count=12)
    assert movers.most == {"n1": 2, "n2": 2, "n3": 2}


def test_so_many_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of no node, for no pod has their claim, count as well."""
    claims = [on(f"n{number}", f"c{number}") for number in range(6)] + [on(None, f"d{n}") for n in range(6)]
    movers = counted(monkeypatch, ChosenClaims(claims=claims), Pace(at_once=5, per_node=2), worker_count=5)
    assert movers.most_of_all == 5


def group_on(node: str) -> tuple[ClaimGroup, list[ClaimFacts]]:
    return ClaimGroup("ns", (("app", node),)), [on(node, f"{node}-{number}") for number in range(4)]


def test_a_group_has_the_places_of_all_its_movers_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ChosenClaims(claims=[on("n1", "alone")], groups=[group_on("n1")])
    movers = counted(monkeypatch, chosen, Pace(at_once=6, per_node=3), worker_count=2)
    assert movers.most == {"n1": 3}


def test_a_group_has_the_places_of_all_its_movers_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ChosenClaims(claims=[], groups=[group_on("n1"), group_on("n2")])
    movers = counted(monkeypatch, chosen, Pace(at_once=4, per_node=3), worker_count=2)
    assert movers.most == {"n1": 3, "n2": 3}
    assert movers.most_of_all == 3
