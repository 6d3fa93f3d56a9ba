"""All claims that wait to be filled: one pass over them, or again and again until it is stopped.

A claim that could not be filled is tried again after a pause that doubles, or at once when its Restore is
another one; where files could not be restored, only then. What an API server that is away makes impossible
is tried again when it is back.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from pvback import limits
from pvback.cluster.kinds import CLAIM, RESTORE, STORAGE_CLASS, Body
from pvback.cluster.populating import restore_of
from pvback.cluster.restores import state_of
from pvback.errors import ClusterError, ClusterObjectMissing, Interrupted, PartlyDone
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_populate import Attended, OpenRepository, PopulateOptions, Scene, attend_claim
from pvback.runtime import Progress

__all__ = ["Populator"]

_Key = tuple[str, str]


@dataclass(slots=True)
class _Pause:
    """Until when a claim is left alone, and after how many failures."""

    failure_count: int = 0
    until: float = 0.0


class Populator:
    """Fills claims of a namespace, or of all (None)."""

    def __init__(
        self,
        work: ClaimWork,
        *,
        namespace: str | None,
        options: PopulateOptions,
        open_repository: OpenRepository,
        progress_of: Callable[[Claim], Progress],
        at_once: int = limits.MOVERS_AT_ONCE,
    ) -> None:
        self._work, self._namespace, self._options = work, namespace, options
        self._open_repository, self._progress_of, self._at_once = open_repository, progress_of, at_once
        self._running: dict[_Key, Future[Attended | None]] = {}
        self._pauses: dict[_Key, _Pause] = {}

    def find(self) -> list[Scene]:
        """Claims for which there is something to do or to say. Raises ClusterError."""
        cluster, namespace = self._work.cluster, self._namespace
        try:
            restores = cluster.list(RESTORE, namespace=namespace)
        except ClusterObjectMissing as exc:
            raise ClusterObjectMissing(
                "the cluster does not know the kind Restore",
                key=RESTORE.group,
                hint="an administrator runs `pvback install --populator`",
            ) from exc
        known = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in restores}
        classes: dict[str, Body | None] = {}
        found = []
        for claim in cluster.list(CLAIM, namespace=namespace):
            name = restore_of(claim)
            if name is None:
                continue
            storage_class = claim["spec"].get("storageClassName")
            if storage_class and storage_class not in classes and not claim["spec"].get("volumeName"):
                classes[storage_class] = cluster.find(STORAGE_CLASS, storage_class)
            found.append(
                Scene(
                    claim=claim,
                    restore=known.get((claim["metadata"]["namespace"], name)),
                    storage_class=classes.get(storage_class or ""),
                )
            )
        return [one for one in found if one.plan.action != "nothing"]

    def once(self) -> list[Attended]:
        """One pass over what is there, by name. Raises ClusterError, Interrupted."""
        scenes = sorted(self.find(), key=lambda one: one.name)
        with ThreadPoolExecutor(max_workers=max(1, min(self._at_once, len(scenes)))) as pool:
            attended = [one for one in pool.map(self._attend, scenes) if one is not None]
        self._work.cancel.check()
        return attended

    def watch(self, *, seconds: float, tell: Callable[[Attended], None]) -> None:
        """Look again and again, until stopping is asked for; what is under way then ends in order."""
        work = self._work
        with ThreadPoolExecutor(max_workers=self._at_once) as pool:
            try:
                while not work.cancel.is_set:
                    self._look(pool)
                    self._settle(seconds, tell)
                    work.clock.sleep(seconds, work.cancel)
            except Interrupted:
                pass
            finally:
                # Whatever ended it: nobody would hear of what is under way.
                work.cancel.set("the populator ends")
        self._settle(seconds, tell)

    def _look(self, pool: ThreadPoolExecutor) -> None:
        """Begin with all claims for which it is time."""
        try:
            scenes = {_key_of(one): one for one in self.find()}
        except ClusterError as exc:
            self._work.progress.warn(f"claims could not be looked at: {exc}")
            return
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in scenes}
        now = self._work.clock.monotonic()
        for key, scene in scenes.items():
            pause = self._pauses.get(key)
            is_paused = pause is not None and now < pause.until
            if key not in self._running and not is_paused and not _is_told(scene):
                self._running[key] = pool.submit(self._attend, scene)

    def _settle(self, seconds: float, tell: Callable[[Attended], None]) -> None:
        """Hear of those that have ended, and say when they are tried again."""
        now = self._work.clock.monotonic()
        for key, future in [*self._running.items()]:
            if not future.done():
                continue
            del self._running[key]
            attended = future.result()
            if attended is None:
                continue
            tell(attended)
            pause = self._pauses.setdefault(key, _Pause())
            pause.failure_count += attended.state == "failed"
            if isinstance(attended.error, PartlyDone):
                # It would be the same again, and may take hours.
                pause.until = math.inf
                continue
            wait = seconds * 2 ** min(pause.failure_count, 16)
            pause.until = now + min(wait, max(seconds, limits.POPULATE_RETRY_SECONDS_MAX))

    def _attend(self, scene: Scene) -> Attended | None:
        work = replace(self._work, progress=self._progress_of(scene.name))
        return attend_claim(work, scene, options=self._options, open_repository=self._open_repository)


def _key_of(scene: Scene) -> _Key:
    return scene.uid, scene.restore["metadata"]["uid"] if scene.restore is not None else ""


def _is_told(scene: Scene) -> bool:
    """Whether it waits, and that is said already."""
    state, plan = state_of(scene.restore, scene.claim), scene.plan
    return (
        plan.action == "wait" and state is not None and (state.phase, state.message) == ("Waiting", plan.why)
    )
