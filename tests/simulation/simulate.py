"""One seed: users at once, then everybody stops, prunes drain, and all that was promised is looked at."""

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pvback import limits
from pvback.errors import (
    ConflictError,
    DamagedError,
    ObjectNotFound,
    SessionFencedError,
    StorageError,
    StorageUnavailable,
)
from pvback.repository import forget, mend_state, merging, prune, successors
from pvback.repository.layout import ScopeLayout
from pvback.repository.prune import PruneSeams
from pvback.repository.prune_plan import PruneOptions
from pvback.repository.records import Repaired
from pvback.repository.registers import RegisterState
from pvback.repository.sealed import ScopeObjects
from pvback.repository.session import WriterSession
from pvback.repository.snapshots import CommittedSnapshot, load_catalog
from pvback.storage.base import ObjectStore
from pvback.storage.retry import RetryingStore
from pvback.storage.unconditional import UnconditionalStore
from tests.simulation import mending, writer
from tests.simulation.bucket import Bucket, ClientStore
from tests.simulation.ledger import Ledger
from tests.simulation.oracle import Oracle
from tests.simulation.parts import SCOPE, SOURCES, ClientPatience, first_state, installed, make_objects
from tests.simulation.reader import LostError, restore
from tests.simulation.scopes import SCOPES, Scope
from tests.simulation.work import LIAR, ModelIndexWork
from tests.simulation.world import Process, World

__all__ = ["Outcome", "Simulation", "simulate"]

_DRAIN_PRUNES = 3
_TIMED_RUNS = 6
"""That many runs of a prune make one cycle where it waits between the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one seed."""

    seed: int
    scope: str
    failure: str | None
    """The first promise that was broken."""
    trace: list[str]
    trace_hash: str
    counts: dict[str, int]


def simulate(seed: int, scope: Scope | None = None) -> Outcome:
    """Run a seed; without a scope the seed chooses one."""
    return Simulation(seed, scope or SCOPES[seed % len(SCOPES)]).run()


class Simulation:
    """The parts of one run."""

    def __init__(self, seed: int, scope: Scope) -> None:
        self.seed = seed
        self.scope = scope
        self.world = World(seed, kill_rate=scope.kill_rate)
        self.bucket = Bucket(self.world, scope.rates)
        self.ledger = Ledger()
        self.oracle = Oracle(
            self.bucket,
            self.ledger,
            prefix=ScopeLayout(SCOPE).prefix,
            grace_seconds=scope.grace_seconds,
            is_timed=scope.is_timed,
        )
        if scope.is_timed:
            self.world.land_seconds_max = limits.TIMED_LATE_SECONDS - 1
            self.world.send_seconds_max = limits.TIMED_SEND_SECONDS
        self._failure: str | None = None
        self._restarts: dict[str, Callable[[Process], None]] = {}
        self.world.on_killed = self._restart
        self.world.is_over = lambda: self.oracle.failure is not None

    def run(self) -> Outcome:
        """From an empty repository to the end."""
        with installed(self.world):
            try:
                self._prepare()
                self._play()
                self._drain()
            except Exception as exc:  # noqa: BLE001 - whatever a client did not expect is a finding
                self._failure = f"{type(exc).__name__}: {exc}"
                self.world.note("".join(traceback.format_exception(exc)))
        return Outcome(
            seed=self.seed,
            scope=self.scope.name,
            failure=self.oracle.failure or self._failure,
            trace=self.world.trace,
            trace_hash=self.world.trace_hash(),
            counts={
                "requests": sum(self.bucket.requests.values()),
                "checks": self.oracle.check_count,
                "saved": len(self.ledger.contents),
                "restored": self.ledger.restored_count,
                **self.ledger.happened,
                **{f"fault {name}": count for name, count in self.bucket.injected.items()},
                **{f"given up {name}": count for name, count in self.ledger.given_up.items()},
            },
        )

    # --- the parts

    def _prepare(self) -> None:
        objects = make_objects(ClientStore(self.bucket, Process(self.world, "init")), ClientPatience())
        self.bucket.write(objects.layout.key("gc/state"), first_state(objects))
        if self.scope.lies:
            self.world.kill_rate, self.bucket.rates = 0.0, self.scope.rates.quiet()
            self.world.spawn("liar", self._lie)
            self.world.run()
            self.world.kill_rate, self.bucket.rates = self.scope.kill_rate, self.scope.rates

    def _play(self) -> None:
        scope = self.scope
        for number in range(scope.writers):
            self._spawn(f"writer-{number}", self._write)
        for number in range(scope.pruners):
            self._spawn(f"prune-{number}", self._prune)
        for number in range(scope.forgetters):
            self._spawn(f"forget-{number}", self._forget)
        for number in range(scope.readers):
            self._spawn(f"reader-{number}", self._read)
        for number in range(scope.menders):
            self._spawn(f"mender-{number}", self._mend)
        for number in range(scope.reopeners):
            self._spawn(f"reopener-{number}", self._reopen)
        for number in range(scope.state_losers):
            self._spawn(f"loser-{number}", self._lose_state)
        self.world.run()

    def _spawn(self, name: str, work: Callable[[Process], None]) -> None:
        self._restarts[name] = work
        self.world.spawn(name, work)

    def _restart(self, process: Process) -> None:
        """Another pod, with nothing in its memory."""
        if self.world.random.random() < self.scope.restart_share:
            self.world.spawn(process.name, self._restarts[process.name])

    def objects(self, process: Process) -> ScopeObjects:
        """A client's view, with the retries that every client has."""
        store: ObjectStore = ClientStore(self.bucket, process)
        if self.scope.is_timed:
            store = UnconditionalStore(store)
        patience = ClientPatience(random=process.random)
        return make_objects(RetryingStore(store, clock=process.timer, patience=patience), patience)

    def work(self, process: Process, objects: ScopeObjects) -> ModelIndexWork:
        """Bulk work through the same store."""
        return ModelIndexWork(objects, clock=process, random_id=self.world.random_id)

    # --- who takes part

    def _write(self, process: Process) -> None:
        for _ in range(self.scope.backups):
            if self.scope.is_timed:
                process.sleep(process.random.source.choice(self.scope.pauses))
            plan = self._plan(process.random.source)
            for _ in range(4):
                try:
                    with self._surviving(process):
                        self._back_up(process, plan)
                    break
                except SessionFencedError as exc:
                    self.ledger.give_up(exc)
                except StorageError as exc:
                    self.ledger.give_up(exc)
                    break

    def _back_up(self, process: Process, plan: writer.BackupPlan) -> str:
        objects = self.objects(process)
        work = self.work(process, objects)

        def merge(session: WriterSession) -> None:
            view = session.index_view()
            merging.merge_runs(objects, work, session=session, view=view, clock=process, count_min=2)

        is_merging = process.random.fraction() < self.scope.merge_share
        return writer.back_up(process, objects, plan, ledger=self.ledger, merge=merge if is_merging else None)

    def _lie(self, process: Process) -> None:
        texts = tuple(f"chunk {number}" for number in range(self.scope.lies))
        plan = replace(self._plan(process.random.source), source=SOURCES[0], texts=texts, by=LIAR)
        writer.back_up(process, self.objects(process), plan, ledger=self.ledger)

    def _plan(self, chance: random.Random) -> writer.BackupPlan:
        count = chance.randint(1, self.scope.chunks_max)
        return writer.BackupPlan(
            source=chance.choice(SOURCES),
            texts=tuple(f"chunk {chance.randrange(self.scope.chunk_universe)}" for _ in range(count)),
            blobs_per_pack=chance.randint(1, 3),
            packs_per_run=chance.randint(1, 2),
            checkpoint_after=chance.choice((0, 2, 3)),
            doubles=chance.random() < 0.2,
        )

    def _prune(self, process: Process) -> None:
        for _ in range(self.scope.prunes):
            chance = process.random.source
            process.sleep(chance.choice(self.scope.pauses))
            process.condemn_share = chance.choice((0.0, self.scope.condemn_share_max))
            process.repack_share = chance.choice((0.0, self.scope.repack_share_max))
            options = PruneOptions(
                unused_share_max=chance.choice((0.0, 0.3)),
                repack_bytes_max=chance.choice((None, 0, 20)),
                unused_seconds=chance.choice((0.0, 300.0)),
                grace_seconds=self.scope.grace_seconds,
                fence_seconds=chance.choice((0.0, 120.0, self.scope.fence_seconds)),
                is_forced=chance.random() < 0.5,
            )
            try:
                with self._surviving(process):
                    self._prune_once(process, options)
            except (ConflictError, StorageUnavailable) as exc:
                self.ledger.give_up(exc)

    def _prune_once(self, process: Process, options: PruneOptions) -> None:
        objects = self.objects(process)
        seams = PruneSeams(work=self.work(process, objects), clock=process)
        report = prune.run_prune(objects, seams, options=options)
        if report.waits_until is not None and process.random.fraction() < 0.9:
            process.sleep((report.waits_until - process.now()).total_seconds())

    def _forget(self, process: Process) -> None:
        objects = self.objects(process)
        for _ in range(self.scope.forgets):
            process.sleep(process.random.source.choice(self.scope.looks))
            try:
                with self._surviving(process):
                    self._forget_one(process, objects)
            except StorageUnavailable as exc:
                self.ledger.give_up(exc)

    def _forget_one(self, process: Process, objects: ScopeObjects) -> None:
        catalog = load_catalog(objects, with_records=False)
        chance = process.random.source
        wanted = RegisterState.FORGOTTEN if chance.random() < 0.4 else RegisterState.COMMITTED
        names = [one.name for one, _ in catalog.registers if one.state is wanted]
        if not names:
            return
        name = chance.choice(names)
        if wanted is RegisterState.FORGOTTEN:
            with contextlib.suppress(ConflictError):
                if forget.undelete_snapshots(objects, [name], clock=process).changed:
                    self.ledger.report_undeleted(name[17:])
        else:
            self.ledger.begin_forgetting(name[17:])
            forget.forget_snapshots(objects, [name], clock=process)
            self.ledger.end_forgetting(name[17:])

    def _read(self, process: Process) -> None:
        objects = self.objects(process)
        for _ in range(self.scope.restores):
            process.sleep(process.random.source.choice(self.scope.looks))
            try:
                with self._surviving(process):
                    catalog = load_catalog(objects)
                    if catalog.snapshots:
                        self._restore(process, objects, process.random.source.choice(catalog.snapshots))
            except StorageUnavailable as exc:
                self.ledger.give_up(exc)

    def _restore(self, process: Process, objects: ScopeObjects, snapshot: CommittedSnapshot) -> bool:
        if snapshot.id in self.ledger.lying:
            return True
        lag = self.scope.rates.list_lag_seconds
        texts = restore(process, objects, snapshot, lag_seconds=lag)
        if texts is None:
            return False
        if texts != self.ledger.contents[snapshot.id]:
            raise LostError(f"snapshot {snapshot.id} gives back something else")
        self.ledger.restored_count += 1
        return True

    def _mend(self, process: Process) -> None:
        for _ in range(self.scope.losses):
            objects = self.objects(process)
            process.sleep(process.random.source.choice(self.scope.looks))
            mending.lose_register(process, self.bucket, self.ledger, objects)
            process.sleep(process.random.source.choice((0.0, 0.0, 60.0)))
            self._mend_all(process)

            if process.random.fraction() < 0.4:
                self._rewrite(process)

    def _reopen(self, process: Process) -> None:
        for _ in range(self.scope.losses):
            process.world.pause(wake=process.world.now + 3000, is_ready=lambda: bool(self.ledger.saved))
            process.sleep(process.random.source.choice((0.0, 60.0, 600.0)))
            mending.reopen_register(process, self.bucket, self.ledger, self.objects(process))

    def _rewrite(self, process: Process) -> None:
        """A snapshot written anew, as a repair does it: a cycle under way is abandoned before."""
        chance, objects = process.random.source, self.objects(process)
        if not self.ledger.saved:
            return
        # Few, so that several repairs choose the same.
        damaged = chance.choice(sorted(self.ledger.saved)[:2])
        repaired = Repaired(snapshot=damaged, time=process.now())
        plan = replace(self._plan(chance), texts=self.ledger.contents[damaged], repaired=repaired)
        try:
            with self._surviving(process):
                mend_state.change_gc_state(objects, mend_state.abandoned, clock=process)
                if successors.choose_successor(load_catalog(objects), damaged).chosen is not None:
                    return
                snapshot = self._back_up(process, plan)
                mending.settle(process, objects, damaged, ledger=self.ledger)
                self.ledger.successors.setdefault(damaged, set()).add(snapshot)
        except (ConflictError, SessionFencedError, StorageError) as exc:
            self.ledger.give_up(exc)

    def _lose_state(self, process: Process) -> None:
        count = process.random.below(5)
        process.world.pause(wake=process.world.now + 5000, is_ready=lambda: len(self.ledger.saved) >= count)
        process.sleep(process.random.source.choice((0.0, 60.0, 600.0)))
        mending.lose_state(process, self.bucket, self.ledger, self.objects(process))
        process.sleep(process.random.source.choice((0.0, 0.0, 60.0)))
        self._mend_state(process)

    def _mend_state(self, process: Process) -> None:
        for _ in range(6):
            objects = self.objects(process)
            if mending.mend_state(process, objects, self.work(process, objects), ledger=self.ledger):
                return
            process.sleep(60)

    @contextlib.contextmanager
    def _surviving(self, process: Process) -> Iterator[None]:
        """What is lost may be met by everybody, until it is mended."""
        try:
            yield
        except (DamagedError, ObjectNotFound) as exc:
            if not self.ledger.is_anything_lost:
                raise
            self.ledger.give_up(exc)
            process.sleep(120.0)

    def _mend_all(self, process: Process) -> None:
        objects = self.objects(process)
        mending.mend_all(process, objects, self.work(process, objects), ledger=self.ledger)

    # --- the end

    def _drain(self) -> None:
        """Late requests land or do not; then prunes that nothing disturbs; then everything is restored."""
        if self.oracle.failure is not None:
            return
        world = self.world
        world.kill_rate = 0.0
        self.bucket.rates = self.scope.rates.quiet()
        self._restarts.clear()
        while world.pending:
            if world.random.random() < 0.5:
                world.land_one()
            else:
                world.pending.pop()
        world.now += self.scope.rates.list_lag_seconds
        world.note("all have stopped")
        if self.ledger.is_state_lost:
            world.spawn("last state mender", self._mend_state)
            world.run()
        if self.scope.menders:
            self.oracle.check_successors()
            world.spawn("last mender", self._mend_all)
            world.run()
        world.spawn("drain", self._drain_prunes)
        world.run()
        if self.oracle.failure is None:
            self.oracle.check_drained()
            world.spawn("last", self._restore_all)
            world.run()

    def _drain_prunes(self, process: Process) -> None:
        options = PruneOptions(
            unused_share_max=0.3, unused_seconds=300.0, grace_seconds=self.scope.grace_seconds
        )
        is_timed = self.scope.is_timed
        for number in range(_DRAIN_PRUNES * (_TIMED_RUNS if is_timed else 1)):
            process.sleep((limits.TIMED_WAIT_SECONDS if is_timed else limits.FENCE_QUIET_SECONDS) + 1)
            if is_timed and number >= _TIMED_RUNS:
                # A cycle is not over within one run, so none may be begun for small packs only.
                options = replace(options, repack_bytes_max=0)
            self._prune_once(process, options)

    def _restore_all(self, process: Process) -> None:
        objects = self.objects(process)
        left = self.ledger.saved | self.ledger.reopened.keys()
        for snapshot in load_catalog(objects).snapshots:
            if not self._restore(process, objects, snapshot):
                raise LostError(f"snapshot {snapshot.id} does not come back")
            left.discard(snapshot.id)
        if left:
            raise LostError(f"snapshots {sorted(left)} are gone")
