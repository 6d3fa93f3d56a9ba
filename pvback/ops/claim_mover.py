"""Running a mover beside a claim, from its trial to its verdict."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.kinds import CONFIG_MAP, JOB, NAMESPACE, POD
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.cluster.names import PRIVILEGED
from pvback.cluster.secrets import RepositorySecret
from pvback.cluster.watching import MoverEnd, MoverWatch
from pvback.errors import ClusterError, PartlyDone, PvbackError, UsageError
from pvback.runtime import Cancel, Clock, Counters, Progress

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ClaimWork", "move", "require_privileged", "settings_for", "try_pod"]

_COUNTERS = tuple(item.name for item in fields(Counters))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimWork:
    """What all work on a claim needs. `progress` may be called from two threads."""

    cluster: "Cluster"
    progress: Progress
    cancel: Cancel
    clock: Clock


def settings_for(
    cluster: "Cluster", namespace: str, *, settings: MoverSettings, secret: RepositorySecret
) -> MoverSettings:
    """The settings with an image. Raises UsageError without one, or where more rights are not allowed."""
    image = settings.image or secret.image
    if not image:
        raise UsageError(
            "no image for movers is named", hint="use `--image`, here or with `pvback pvc connect`"
        )
    if settings.is_privileged:
        require_privileged(cluster, namespace, what="movers")
    return replace(settings, image=image)


def require_privileged(cluster: "Cluster", namespace: str, *, what: str) -> None:
    """Raise UsageError where the namespace's owner has not allowed more rights.

    ClusterError where that is not to be learned.
    """
    annotations = cluster.get(NAMESPACE, namespace)["metadata"].get("annotations") or {}
    if annotations.get(PRIVILEGED) != "true":
        raise UsageError(
            f"namespace {namespace} does not allow {what} more rights",
            hint=f"its owner runs `kubectl annotate namespace {namespace} {PRIVILEGED}=true`",
        )


def try_pod(cluster: "Cluster", job: MoverJob) -> None:
    """Have the mover's pod judged, as if it were made. Raises ClusterError with what is against it."""
    try:
        cluster.create(POD, job.pod_body(), dry_run=True)
    except ClusterError as exc:
        raise ClusterError(
            f"the mover would be refused: {exc.what}", key=str(job.claim), hint=exc.hint
        ) from exc


def move(
    work: ClaimWork,
    run: ClaimRun,
    *,
    job: MoverJob,
    wedged_seconds: float,
    check: Callable[[], None] = lambda: None,
    on_read: Callable[[str], None] = lambda _: None,
) -> MoverEnd:
    """Run a mover to its end; its exit code is 0 or 3. Raises what it failed with, ClusterError, Interrupted.

    A mover that goes on after that is ended with its run. `check` is asked again and again, and may raise.
    `on_read` hears, from another thread, of which snapshot all is read.
    """

    def check_all() -> None:
        run.check()
        check()

    def hear(line: str) -> None:
        _hear(line, work.progress, on_read)

    work.cluster.create(CONFIG_MAP, job.spec_body(run.owner))
    work.cluster.create(JOB, job.job_body(run.owner))
    watch = MoverWatch(work.cluster, job, clock=work.clock, on_line=hear)
    end = watch.wait(check=check_all, cancel=work.cancel, wedged_seconds=wedged_seconds)
    if end.exit_code not in (0, PartlyDone.exit_code):
        raise _as_error(end, job)
    if not end.message:
        what = "the mover ended well, and its word of what it did was lost"
        raise ClusterError(what, key=str(job.claim), hint="`pvback snapshots` shows whether it was stored")
    return end


def _hear(line: str, progress: Progress, on_read: Callable[[str], None]) -> None:
    """One line of a mover's log."""
    try:
        said = json.loads(line)
    except ValueError:
        return
    if not isinstance(said, dict):
        return
    if said.get("message_type") == "warning":
        progress.warn(str(said.get("what")))
    elif said.get("message_type") == "read":
        on_read(str(said.get("snapshot")))
    elif said.get("message_type") == "status":
        progress.update(Counters(**{name: said[name] for name in _COUNTERS if name in said}))


def _as_error(end: MoverEnd, job: MoverJob) -> PvbackError:
    """The mover's own words, in the class whose exit code it ended with."""
    said = end.message.get("error") or {}
    what = said.get("what") or f"the mover ended with code {end.exit_code} and left no word"
    kinds = {one.exit_code: one for one in _classes(PvbackError)}
    place = f"{said['key']}: " if said.get("key") else ""
    kind = kinds.get(end.exit_code, ClusterError)
    return kind(f"in the mover: {place}{what}", key=str(job.claim), hint=said.get("hint"))


def _classes(top: type[PvbackError]) -> list[type[PvbackError]]:
    """The classes of the tree; of those that share a code, the topmost is the last."""
    below = [one for child in top.__subclasses__() for one in _classes(child)]
    return [*below, top]
