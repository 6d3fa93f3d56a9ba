"""Post hooks that are owed: written into the run's own object before the command that they undo is started.

A run that is killed leaves word of them, and `pvback pvc cleanup` and the next run on the claim pay. Who may
write ConfigMaps of a namespace can have commands run in its pods by this, as who may annotate its claims can:
docs/kubernetes.md says so.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from pvback import limits
from pvback.cluster.exec import ExecTarget, ended_well, run_command
from pvback.cluster.kinds import CONFIG_MAP, POD, Body
from pvback.errors import ClusterError, ClusterRefusal
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["DEBTS", "Debt", "as_text", "debts_of", "owed_words", "pay_debts", "run_post"]

DEBTS = "hooks"
"""Of the run's object, in its data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """A post hook that has to be run. `tried` counts how often others than its run have tried."""

    hook: str
    pod: str
    uid: str
    container: str
    argv: tuple[str, ...]
    seconds: float
    tried: int = 0

    def __str__(self) -> str:
        return f"post hook {self.hook} in pod {self.pod}, container {self.container}"


def as_text(debts: Iterable[Debt]) -> str:
    """As it is kept."""
    return json.dumps([asdict(one) for one in debts], separators=(",", ":"))


def debts_of(body: Body) -> list[Debt]:
    """What a run's object says is owed. Raises ClusterError where that cannot be read."""
    metadata = body["metadata"]
    text = (body.get("data") or {}).get(DEBTS) or "[]"
    try:
        return [Debt(**{**one, "argv": tuple(one["argv"])}) for one in json.loads(text)]
    except (ValueError, TypeError, KeyError) as exc:
        raise ClusterError(
            "the post hooks that it owes cannot be read",
            key=f"ConfigMap {metadata['namespace']}/{metadata['name']}",
            hint="look at it, and delete it",
        ) from exc


def owed_words(body: Body) -> str:
    """What a run's object says is owed, to follow its name; empty where that is nothing."""
    try:
        debts = debts_of(body)
    except ClusterError as exc:
        return f": {exc.what}"
    return f", after {', '.join(map(str, debts))}" if debts else ""


def run_post(cluster: "Cluster", debt: Debt, *, namespace: str, clock: Clock) -> None:
    """Run it once, whoever has asked to stop. Raises ClusterError when it did not succeed."""
    target = ExecTarget(namespace=namespace, pod=debt.pod, container=debt.container)
    end = run_command(cluster, target, argv=debt.argv, seconds=debt.seconds, clock=clock, cancel=Cancel())
    ended_well(end, what=str(target))


def pay_debts(cluster: "Cluster", body: Body, *, clock: Clock) -> list[str]:
    """Run the post hooks that a dead run owes. Those that failed, in words.

    One fails so often before it is given up, for else its claim could never be backed up again; to lack the
    right to run it does not count. What a pod that is gone is owed is owed to nobody.
    """
    try:
        debts = debts_of(body)
    except ClusterError as exc:
        return [str(exc)]
    metadata = body["metadata"]
    failed: list[str] = []
    left: list[Debt] = []
    for debt in reversed(debts):
        if not _is_there(cluster, debt, metadata["namespace"]):
            continue
        try:
            run_post(cluster, debt, namespace=metadata["namespace"], clock=clock)
        except ClusterError as exc:
            tried = debt.tried + (not isinstance(exc, ClusterRefusal))
            is_given_up = tried >= limits.HOOK_DEBT_TRIES
            failed.append(f"{debt}: {exc.what}{', and it is given up' if is_given_up else ''}")
            left += [] if is_given_up else [replace(debt, tried=tried)]
    if debts:
        change = {"metadata": {"uid": metadata["uid"]}, "data": {DEBTS: as_text(reversed(left))}}
        try:
            cluster.patch(CONFIG_MAP, metadata["name"], change=change, namespace=metadata["namespace"])
        except ClusterError as exc:
            failed.append(f"post hooks that were run are written down as owed still: {exc.what}")
    return failed


def _is_there(cluster: "Cluster", debt: Debt, namespace: str) -> bool:
    """Whether the very pod still runs."""
    found = cluster.list(POD, namespace=namespace, fields=f"metadata.name={debt.pod}")
    return any(
        one["metadata"]["uid"] == debt.uid and one.get("status", {}).get("phase") == "Running"
        for one in found
    )
