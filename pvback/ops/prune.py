"""Pruning: removing what no snapshot needs. See `pvback.repository.prune` for what is guaranteed."""

from pvback.errors import WrongKeyError
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.prune import PruneReport, PruneSeams, plan_only, run_prune
from pvback.repository.prune_plan import PruneOptions, PrunePlan
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, NoProgress, Progress

__all__ = ["PruneOptions", "PrunePlan", "PruneReport", "plan_prune", "prune"]


def prune(
    access: RepositoryAccess,
    *,
    options: PruneOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> PruneReport:
    """Remove what no snapshot needs, beside whatever else goes on. Raises as `run_prune`, WrongKeyError."""
    if access.keyring.role not in ("owner", "maintainer"):
        raise WrongKeyError(
            f"a {access.keyring.role}'s key may not prune", hint="use an owner's or a maintainer's key"
        )
    return run_prune(access.objects, _seams(access, progress, cancel), options=options or PruneOptions())


def plan_prune(
    access: RepositoryAccess, *, options: PruneOptions | None = None, cancel: Cancel | None = None
) -> PrunePlan:
    """What `prune` would do now. Writes nothing."""
    return plan_only(access.objects, _seams(access, None, cancel), options=options or PruneOptions())


def _seams(access: RepositoryAccess, progress: Progress | None, cancel: Cancel | None) -> PruneSeams:
    return PruneSeams(
        work=NativeIndexWork(access),
        clock=access.clock,
        cancel=cancel or Cancel(),
        progress=progress or NoProgress(),
    )
