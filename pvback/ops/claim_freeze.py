"""The file systems of claims frozen while they are cut: planned before anything is made, then started."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.freezing import Freezer, FreezeWork, freeze_hook, node_of_freeze, start_freezer
from pvback.cluster.hooks import PlannedHook
from pvback.cluster.kinds import POD
from pvback.cluster.mover import MoverSettings
from pvback.errors import ClusterError, UsageError
from pvback.ops.claim_jobs import ClaimBackupOptions
from pvback.ops.claim_mover import ClaimWork, require_privileged

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["AT_REST", "end_freezers", "plan_freezers", "require_freezable", "start_freezers"]

AT_REST = "no pod has it: there is nothing to freeze"


def plan_freezers(
    cluster: "Cluster", claims: Sequence[ClaimFacts], *, run: str, settings: MoverSettings
) -> list[Freezer]:
    """Who freezes which of them; those that no pod has are at rest. The cluster has judged their pods.

    Raises UsageError where the namespace does not allow it, ClusterError.
    """
    if not claims:
        return []
    (namespace,) = {one.claim.namespace for one in claims}
    require_privileged(cluster, namespace, what="a pod that freezes")
    freezers = []
    for one in claims:
        node = node_of_freeze(one)
        if node is None:
            continue
        freezer = Freezer(facts=one, node=node, run=run, settings=settings)
        try:
            cluster.create(POD, freezer.pod_body(), dry_run=True)
        except ClusterError as exc:
            raise ClusterError(
                f"the pod that freezes would be refused: {exc.what}",
                key=str(one.claim),
                hint=exc.hint or "it needs CAP_SYS_ADMIN, which pod security has to admit",
            ) from exc
        freezers.append(freezer)
    return freezers


def require_freezable(method: str, claim: str) -> None:
    """Raise UsageError for a way of reading during which nothing can be frozen."""
    if method != "snapshot":
        raise UsageError(
            f"a file system is frozen for a volume snapshot only, and this claim would be read by {method}",
            key=claim,
            hint="choose `--method snapshot`",
        )


def start_freezers(
    work: ClaimWork, run: ClaimRun, *, freezers: Sequence[Freezer], options: ClaimBackupOptions
) -> list[PlannedHook]:
    """The hook that freezes, when its pods run; none where there is nothing to freeze."""
    if not freezers:
        return []
    assert options.freeze_seconds is not None, "they were planned for it"
    needs = FreezeWork(
        cluster=work.cluster,
        run=run,
        clock=work.clock,
        cancel=work.cancel,
        seconds=options.wedged_seconds,
    )
    targets = [start_freezer(replace(needs, run=run.of(one.facts.claim)), one) for one in freezers]
    return [freeze_hook(targets, lease_seconds=options.freeze_seconds)]


def end_freezers(work: ClaimWork, hooks: Sequence[PlannedHook], *, namespace: str) -> None:
    """Let their pods go as soon as they are not needed. What is left goes with the run."""
    for one in hooks:
        for target in one.targets if one.hook.is_built_in else ():
            with suppress(ClusterError):
                work.cluster.delete(
                    POD, {"metadata": {"name": target.pod, "namespace": namespace, "uid": target.uid}}
                )
