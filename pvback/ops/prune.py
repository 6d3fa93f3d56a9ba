"""Pruning: removing what no snapshot needs. See `pvback.repository.prune` for what is guaranteed."""

from pvback import limits
from pvback.errors import ConflictError, UsageError, WrongKeyError
from pvback.ops.index_work import NativeIndexWork
from pvback.repository.prune import PruneReport, PruneSeams, plan_only, run_prune
from pvback.repository.prune_plan import PruneOptions, PrunePlan
from pvback.repository.repository import RepositoryAccess
from pvback.repository.timing import is_timed
from pvback.runtime import Cancel, NoProgress, Progress

__all__ = ["PruneOptions", "PrunePlan", "PruneReport", "plan_prune", "prune", "require_time"]


def prune(
    access: RepositoryAccess,
    *,
    options: PruneOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> PruneReport:
    """Remove what no snapshot needs, beside whatever else goes on. Raises as `run_prune`, WrongKeyError.

    On a store without conditional writes ConflictError, unless the options say that no other prune ever runs.
    """
    if access.keyring.role not in ("owner", "maintainer"):
        raise WrongKeyError(
            f"a {access.keyring.role}'s key may not prune", hint="use an owner's or a maintainer's key"
        )
    used = options or PruneOptions()
    if is_timed(access.objects):
        require_time(used)
    return run_prune(access.objects, _seams(access, progress, cancel), options=used)


def plan_prune(
    access: RepositoryAccess, *, options: PruneOptions | None = None, cancel: Cancel | None = None
) -> PrunePlan:
    """What `prune` would do now. Writes nothing."""
    return plan_only(access.objects, _seams(access, None, cancel), options=options or PruneOptions())


def require_time(options: PruneOptions) -> None:
    """What nobody but the operator can know, and what bringing back relies on."""
    if not options.is_alone:
        raise ConflictError(
            "this store has no conditional writes, so that two prunes would destroy each other's work",
            hint="see that exactly one prune is ever configured for it, and is `pvback prune --alone`",
        )
    if options.grace_seconds < limits.FORGET_GRACE_SECONDS:
        raise UsageError("the grace cannot be shortened on a store without conditional writes")


def _seams(access: RepositoryAccess, progress: Progress | None, cancel: Cancel | None) -> PruneSeams:
    return PruneSeams(
        work=NativeIndexWork(access),
        clock=access.clock,
        cancel=cancel or Cancel(),
        progress=progress or NoProgress(),
    )
