"""Filling one claim that names a Restore as its `dataSourceRef`, from a look at it to its end.

Guarantees: the claim stays unbound until a volume is whole that is then given to it; the snapshot is pinned
before the first byte is written; what stands in the way is said in the cluster; nothing of a try that failed
is left. Killed at any moment, the next look completes it, or begins anew when the dead run's time is over.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from pvback import datapath, limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import ClaimFacts, load_claim
from pvback.cluster.kinds import CLAIM, Body
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.cluster.names import object_name
from pvback.cluster.populating import Plan, is_gone, plan_claim, plan_volume, restore_of
from pvback.cluster.prime_claims import PrimeVolume, is_given, prime_body, wait_bound
from pvback.cluster.restores import ClaimState, Wish, parse_wish
from pvback.cluster.secrets import load_repository_secret
from pvback.cluster.watching import MoverEnd
from pvback.errors import (
    ClusterError,
    ClusterObjectMissing,
    ConflictError,
    Interrupted,
    PartlyDone,
    PvbackError,
)
from pvback.model import Claim
from pvback.ops.claim_list import find_snapshots
from pvback.ops.claim_mover import ClaimWork, move, settings_for, try_pod
from pvback.ops.claim_restore import choose_snapshot, moment_of, not_set
from pvback.ops.claim_scopes import ScopeChoice
from pvback.ops.claim_targets import made_claim
from pvback.ops.claim_telling import pin_snapshot, tell
from pvback.ops.restore_mover import Target, check_kind, check_size, plan_job, restorer_key
from pvback.ops.sources import claim_string
from pvback.repository.config_object import check_writable
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["Attended", "OpenRepository", "PopulateOptions", "Scene", "attend_claim"]

OpenRepository = Callable[[], AbstractContextManager[RepositoryAccess]]
"""Opens it anew for each claim: it may have been out of reach a moment ago."""

_DELETED = "the claim was deleted meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulateOptions:
    """How claims are filled.

    Attributes:
        cluster_name: Of this cluster in snapshots.
        settings: Of movers.
        wedged_seconds: How long a mover may take until it runs.
    """

    cluster_name: str
    settings: MoverSettings
    wedged_seconds: float = limits.MOVER_WEDGED_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A claim as it was found, with what it names."""

    claim: Body
    restore: Body | None
    storage_class: Body | None

    @property
    def plan(self) -> Plan:
        """What there is to do."""
        return plan_claim(self.claim, restore=self.restore, storage_class=self.storage_class)

    @property
    def name(self) -> Claim:
        """The claim's."""
        metadata = self.claim["metadata"]
        return Claim(metadata["namespace"], metadata["name"])

    @property
    def uid(self) -> str:
        """Likewise."""
        return str(self.claim["metadata"]["uid"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """What became of a look at a claim.

    Attributes:
        claim: `NAMESPACE/NAME`.
        restore: What its Restore is called.
        state: `filled`; `waits` for somebody else; `busy`: another run has it; `left` as it is; `failed`.
        snapshot, taken: Of `filled`: what it was filled from, and the moment that this is of.
        note: Why, of what has not failed.
        error: Why, of what has.
    """

    claim: str
    restore: str
    state: str
    snapshot: str | None = None
    taken: datetime | None = None
    note: str = ""
    error: PvbackError | None = None
    seconds: float = 0.0


_ACCEPT = "`acceptPartial` in a Restore takes what there is"


class _Aside(Exception):
    """There is nothing to do for the claim just now, and that is no failure."""

    def __init__(self, why: str, *, state: str = "left", is_gone: bool = False) -> None:
        super().__init__(why)
        self.why, self.state, self.is_gone = why, state, is_gone


def attend_claim(
    work: ClaimWork, scene: Scene, *, options: PopulateOptions, open_repository: OpenRepository
) -> Attended | None:
    """Do what there is to do for one claim, and say what became of it, here and in the cluster.

    Raises nothing that is about the claim or the repository; None: there was nothing to do.
    """
    plan = scene.plan
    made = Attended(claim=str(scene.name), restore=restore_of(scene.claim) or "", state="waits")
    if plan.action == "nothing":
        return None
    began = work.clock.monotonic()
    filling = _Filling(work, scene, options)
    try:
        if plan.action == "wait":
            _tell(work, scene, filling.state("Waiting", plan.why))
            return replace(made, note=plan.why)
        if plan.action == "warn":
            _tell(work, scene, filling.state("NotFilled", plan.why))
            return replace(made, state="left", note=plan.why)
        if plan.action == "refuse":
            raise ClusterError(plan.why, key=made.claim)
        snapshot = filling.fill(plan, open_repository)
    except _Aside as exc:
        # Who has bound it, or works on it, says so.
        if exc.is_gone:
            _say(work, scene, None)
        return replace(made, state=exc.state, note=exc.why)
    except Interrupted as exc:
        _say(work, scene, filling.state("Waiting", "pvback was stopped meanwhile"))
        return replace(made, state="failed", error=exc)
    except PvbackError as exc:
        # Who has made the Restore may see nothing but what the cluster says.
        how = f"; {_ACCEPT}" if isinstance(exc, PartlyDone) else ""
        _say(work, scene, filling.state("Failed", f"{exc}{how}"))
        return replace(made, state="failed", error=exc)
    seconds = round(work.clock.monotonic() - began, 3)
    if snapshot is None:
        return replace(made, state="filled", note="a run that was killed had filled it", seconds=seconds)
    return replace(
        made,
        state="filled",
        snapshot=snapshot.id,
        taken=moment_of(snapshot),
        note=filling.note,
        seconds=seconds,
    )


def _what_is_missing(end: MoverEnd) -> str:
    """Files that the mover could not restore, by its own account."""
    result = end.message.get("result") or {}
    count = result.get("error_count")
    what = "a file" if count == 1 else f"{count or ''} files".strip()
    examples = "; ".join(result.get("examples") or ())
    return f"{what} could not be restored" + (f" ({examples})" if examples else "")


def _tell(work: ClaimWork, scene: Scene, state: ClaimState | None) -> None:
    tell(work.cluster, scene.claim, restore=scene.restore, state=state)


def _say(work: ClaimWork, scene: Scene, state: ClaimState | None) -> None:
    """Likewise, where something else is what matters."""
    try:
        _tell(work, scene, state)
    except ClusterError as exc:
        work.progress.warn(f"it could not be said in the cluster: {exc}")


@dataclass(slots=True)
class _Filling:
    """One claim that is being filled."""

    work: ClaimWork
    scene: Scene
    options: PopulateOptions
    volume: str = ""
    """What is to be given to it, or is; said with all that is said from then on."""
    note: str = ""
    """What is to be known of it once it is filled."""

    def state(self, phase: str, message: str = "") -> ClaimState:
        """How far it is."""
        return ClaimState(uid=self.scene.uid, phase=phase, message=message, volume=self.volume)

    def fill(self, plan: Plan, open_repository: OpenRepository) -> CommittedSnapshot | None:
        """The snapshot that it was filled from; None: a dead run had done that. Raises what went wrong."""
        scene = self.scene
        # Else that run died before it gave the volume, which went with it.
        if plan.action == "complete" and is_given(self.work.cluster, plan.volume, uid=scene.uid):
            self.volume = plan.volume
            with self._run(datapath.random_id()[:16], "completing what a killed run has filled"):
                self._wait_bound()
            self._tell("Restored")
            return None
        assert scene.restore is not None, "a claim is filled from a Restore"
        wish = parse_wish(scene.restore)
        with open_repository() as access:
            if access.keyring.role == "owner":
                # It makes a key for each mover.
                check_writable(access.facts)
            scoped, snapshot = self._choose(access, wish)
            job = self._plan_job(snapshot, wish)
            try_pod(self.work.cluster, job)
            with (
                self._run(job.run, f"filling from snapshot {snapshot.id[:8]}") as run,
                restorer_key(self.work, run, access=scoped) as key_secret,
            ):
                self._restore(run, replace(job, key_secret=key_secret), snapshot, wish)
        # The last of all: whoever finds it unsaid looks for what a killed run has left.
        self._tell("Restored", self.note)
        return snapshot

    def _choose(self, access: RepositoryAccess, wish: Wish) -> tuple[RepositoryAccess, CommittedSnapshot]:
        """The snapshot that is pinned, or the one that is asked for. Of this namespace's claims, always."""
        namespace = self.scene.name.namespace
        source = claim_string(Claim(namespace, wish.claim or ""), cluster=self.options.cluster_name)
        wanted = wish.pinned or wish.snapshot

        def is_wanted(one: CommittedSnapshot) -> bool:
            found = one.require_details().source.string
            is_of_source = found == source if wish.claim is not None else found.startswith(source)
            return is_of_source and one.id.startswith(wanted or "")

        choice = ScopeChoice(self.work.cluster, access, secret=self.options.settings.secret)
        scoped = choice.require(namespace)
        known = find_snapshots(scoped, is_wanted)
        return scoped, choose_snapshot(known, wanted=wanted, as_of=None if wanted else wish.as_of)

    def _plan_job(self, snapshot: CommittedSnapshot, wish: Wish) -> MoverJob:
        """The mover, whose claim is still to be made. Raises UsageError for what does not fit."""
        work, target = self.work, self.scene.name
        facts = self._facts()
        details = snapshot.require_details()
        check_kind(details, is_block=facts.is_block, where=str(target))
        check_size(details, facts.request_bytes, where=str(target))
        wanted = replace(self.options.settings, is_privileged=wish.is_privileged)
        secret = load_repository_secret(work.cluster, target.namespace, name=wanted.secret)
        settings = settings_for(work.cluster, target.namespace, settings=wanted, secret=secret)
        run = datapath.random_id()[:16]
        return plan_job(
            snapshot,
            secret,
            target=Target(
                claim=target,
                mounted=object_name("prime", target.name, run=run),
                tolerations=facts.tolerations,
            ),
            settings=settings,
            run=run,
        )

    @contextmanager
    def _run(self, run: str, what: str) -> Iterator[ClaimRun]:
        """Have the claim. What a dead run has left of it goes first, and what this one has in the end."""
        work = self.work
        try:
            begun = ClaimRun.begin(work.cluster, self.scene.name, run=run, what=what, clock=work.clock)
        except ConflictError as exc:
            raise _Aside(exc.what, state="busy") from exc
        try:
            yield begun
        finally:
            for one in begun.end():
                work.progress.warn(f"left behind: {one}")

    def _restore(self, run: ClaimRun, job: MoverJob, snapshot: CommittedSnapshot, wish: Wish) -> None:
        """Restore into a prime claim, and give its volume to the claim. What is missing then is noted."""
        work, claim = self.work, self._require_wanted()
        # As it is by now: who has to wait for a place among many movers waits for hours.
        plan = plan_volume(claim, self.scene.storage_class)
        if plan.action != "fill":
            raise _Aside(plan.why, state="waits")
        self._pin(snapshot)
        self._tell("Restoring", f"from snapshot {snapshot.id}, as of {moment_of(snapshot).isoformat()}")
        body = prime_body(claim, job.mounted, metadata=run.metadata("prime"), node=plan.node)
        with made_claim(work, body) as prime:
            volume = PrimeVolume(cluster=work.cluster, prime=prime)
            check = partial(self._check, volume)
            end = move(work, run, job=job, wedged_seconds=self.options.wedged_seconds, check=check)
            if end.exit_code != 0 and not wish.accepts_partial:
                raise PartlyDone(
                    f"{_what_is_missing(end)}, so the claim is not given its volume",
                    key=str(self.scene.name),
                    hint=_ACCEPT,
                )
            missing = [] if end.exit_code == 0 else [f"{_what_is_missing(end)}; the rest was"]
            self.note = "; ".join((*missing, *not_set(end.message.get("result") or {})))
            run.end_pods()
            volume.spend()
            assert volume.name is not None, "a mover has had it"
            self.volume = volume.name
            self._tell("Binding")
            run.check()
            volume.give(self._require_wanted())
            self._wait_bound()

    def _check(self, volume: PrimeVolume) -> None:
        self._require_wanted()
        volume.spend()

    def _wait_bound(self) -> None:
        work, claim = self.work, self.scene.claim
        try:
            wait_bound(work.cluster, claim, volume=self.volume, clock=work.clock, cancel=work.cancel)
        except ConflictError:
            self._require_wanted()
            raise

    def _pin(self, snapshot: CommittedSnapshot) -> None:
        assert self.scene.restore is not None
        pinned = pin_snapshot(
            self.work.cluster,
            self.scene.restore,
            snapshot=snapshot.id,
            source=snapshot.require_details().source.string,
            taken=moment_of(snapshot).isoformat(),
        )
        if pinned != snapshot.id:
            raise _Aside(f"another claim of the Restore has pinned snapshot {pinned}", state="busy")

    def _tell(self, phase: str, message: str = "") -> None:
        _tell(self.work, self.scene, self.state(phase, message))

    def _facts(self) -> ClaimFacts:
        try:
            return load_claim(self.work.cluster, self.scene.name)
        except ClusterObjectMissing as exc:
            raise _Aside(_DELETED, is_gone=True) from exc

    def _require_wanted(self) -> Body:
        """The claim as it is now. Raises when it is not to be filled any more."""
        name = self.scene.name
        try:
            found: Body | None = self.work.cluster.get(CLAIM, name.name, namespace=name.namespace)
        except ClusterObjectMissing:
            found = None
        if found is None or is_gone(found, self.scene.uid):
            raise _Aside(_DELETED, is_gone=True)
        volume = found["spec"].get("volumeName")
        if volume:
            raise _Aside(f"the claim was bound to volume {volume} meanwhile")
        return found
