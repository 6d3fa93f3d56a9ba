"""Who moves next: processes as greenlets, a seeded scheduler, time that only the scheduler moves.

A task gives way before each request and whenever it sleeps or waits; nothing else can come between. So one
step of the simulation is what happens between two requests of one process, and the seed decides the order of
the steps, the faults, the kills, and how long everything takes.
"""

import hashlib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from greenlet import getcurrent, greenlet

from pvback.runtime import Cancel

__all__ = ["Killed", "Lock", "Process", "ProcessRandom", "StuckError", "Task", "World"]

START = datetime(2026, 1, 1, tzinfo=UTC)
_STEPS_MAX = 60_000


class Killed(BaseException):
    """The process is gone. Passes through every handler of errors; no request is made on its way."""


class StuckError(Exception):
    """Everybody waits for somebody, or nobody comes to an end."""


class Task:
    """One thread of a process."""

    __slots__ = ("error", "flow", "has_ended", "in_flight", "is_ready", "looked", "name", "process", "wake")

    def __init__(self, process: "Process", name: str) -> None:
        self.process = process
        self.name = name
        self.flow: greenlet
        self.wake: float | None = None
        self.looked: float | None = None
        """When it read a clock last, if it has neither slept nor written since."""
        self.is_ready: Callable[[], bool] | None = None
        self.in_flight: Callable[[], None] | None = None
        """What the store would do with the request under way, should it arrive after all."""
        self.has_ended = False
        self.error: BaseException | None = None


class Process:
    """What is killed at once. Also its clock: rates agree, and all processes share the scheduler's time."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.is_dead = False
        self.weight = 1.0
        self.condemn_share = 0.0
        """Of the packs that are needed, how many its prunes condemn all the same: a mark may be wrong."""
        self.repack_share = 0.0
        """And how many they write again."""
        self.tasks: list[Task] = []
        self.random = ProcessRandom(random.Random(world.random.getrandbits(64)))

    def now(self) -> datetime:
        """See `pvback.runtime.Clock`."""
        return START + timedelta(seconds=self.world.now)

    def monotonic(self) -> float:
        """See `pvback.runtime.Clock`. What is decided by it is sent within a bounded time, or never."""
        if self.world.current is not None:
            self.world.current.looked = self.world.now
        return self.world.now

    @property
    def timer(self) -> "Timer":
        """The same clock for whoever decides nothing by it that others rely on."""
        return Timer(self)

    def sleep(self, seconds: float, cancel: Cancel | None = None) -> None:
        """See `pvback.runtime.Clock`."""
        self.world.pause(wake=self.world.now + seconds)
        if cancel is not None:
            cancel.check()

    def start(self, name: str, work: Callable[[], None]) -> Task:
        """One more thread of this process."""
        return self.world.start_task(self, name, work)

    def wait_for(self, task: Task) -> None:
        """Until a task has ended; raises what it raised."""
        self.world.pause(is_ready=lambda: task.has_ended)
        if task.error is not None:
            raise task.error


class Timer:
    """See `Process.timer`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.now = process.now
        self.sleep = process.sleep

    def monotonic(self) -> float:
        """See `pvback.runtime.Clock`."""
        return self._process.world.now


class ProcessRandom:
    """See `pvback.runtime.Random`."""

    def __init__(self, source: random.Random) -> None:
        self.source = source

    def bytes(self, count: int) -> bytes:
        """`count` bytes."""
        return self.source.randbytes(count)

    def below(self, bound: int) -> int:
        """In [0, bound)."""
        return self.source.randrange(bound)

    def fraction(self) -> float:
        """In [0, 1)."""
        return self.source.random()


class World:
    """One seeded run.

    Args:
        seed: Decides everything.
        kill_rate: How likely a step is to be the last of some process, in [0, 1].
    """

    def __init__(self, seed: int, *, kill_rate: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.ids = random.Random(seed ^ 0x1D5)
        self.kill_rate = kill_rate
        self.now = 0.0
        self.trace: list[str] = []
        self.pending: list[tuple[float, Callable[[], None]]] = []
        """Requests that nobody waits for any longer, with the time by which they land or never do."""
        self.land_seconds_max: float | None = None
        """Tz of a store without conditions; None: they may land at any time."""
        self.send_seconds_max: float | None = None
        """Tp: how long a task may stand still between a look at its clock and what it writes; None: for ever.
        """
        self.is_over: Callable[[], bool] = lambda: False
        """Whether the run is to be broken off."""
        self.on_killed: Callable[[Process], None] = lambda _process: None
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self._hub = getcurrent()
        self._steps = 0

    def trace_hash(self) -> str:
        """The same for every run of the same seed and code."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=16).hexdigest()

    def note(self, what: str) -> None:
        """One more line of the trace."""
        task = self.current
        self.trace.append(f"{self.now:.0f}s {task.name if task else '-'}: {what}")

    def random_id(self) -> str:
        """16 bytes in hex."""
        return f"{self.ids.getrandbits(128):032x}"

    def spawn(self, name: str, work: Callable[[Process], None]) -> Process:
        """A new process whose first thread does `work`."""
        process = Process(self, name)
        process.start(name, lambda: work(process))
        return process

    def start_task(self, process: Process, name: str, work: Callable[[], None]) -> Task:
        """One more thread; it moves when the scheduler says so."""
        task = Task(process, name)

        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except Exception as exc:  # noqa: BLE001 - raised again where the task is waited for
                task.error = exc
            task.has_ended = True

        task.flow = greenlet(run, parent=self._hub)
        self.tasks.append(task)
        process.tasks.append(task)
        return task

    def pause(
        self,
        *,
        wake: float | None = None,
        is_ready: Callable[[], bool] | None = None,
        in_flight: Callable[[], None] | None = None,
    ) -> None:
        """Give way until the scheduler comes back to this task, not before `wake` and `is_ready`."""
        task = self.current
        assert task is not None, "only tasks give way"
        if task.process.is_dead:
            raise Killed
        task.wake, task.is_ready, task.in_flight = wake, is_ready, in_flight
        if wake is not None:
            task.looked = None
        self._hub.switch()
        task.in_flight = None
        if task.process.is_dead:
            raise Killed

    def stop(self, task: Task) -> None:
        """End one thread; its request under way may yet arrive."""
        if task.has_ended:
            return
        if task.in_flight is not None and self.random.random() < 0.5:
            self.defer(task.in_flight)
        before, self.current = self.current, task
        was_dead, task.process.is_dead = task.process.is_dead, True
        if task.flow:
            # It comes back to whoever throws, the hub or another task of this process.
            task.flow.parent = getcurrent()
            task.flow.throw(Killed)
            assert task.flow.dead, "a killed task gave way"
        task.has_ended = True
        task.process.is_dead = was_dead
        self.current = before

    def kill(self, process: Process) -> None:
        """End a process where it stands."""
        self.note(f"{process.name} is killed")
        process.is_dead = True
        for task in process.tasks:
            self.stop(task)
        self.on_killed(process)

    def defer(self, act: Callable[[], None]) -> None:
        """Let a request arrive later, or never."""
        limit = float("inf") if self.land_seconds_max is None else self.now + self.land_seconds_max
        self.pending.append((limit, act))

    def land_one(self) -> None:
        """Let one of the late requests arrive."""
        _, act = self.pending.pop(self.random.randrange(len(self.pending)))
        act()

    def run(self) -> None:
        """Until all tasks have ended. Raises what a task raised that nobody waits for; StuckError."""
        while self._step():
            pass

    def _step(self) -> bool:
        self.tasks = [task for task in self.tasks if not task.has_ended]
        if not self.tasks or self.is_over():
            return False
        self._steps += 1
        if self._steps > _STEPS_MAX:
            raise StuckError(f"{_STEPS_MAX} steps: {[task.name for task in self.tasks]}")
        roll = self.random.random()
        if self.pending and roll < 0.1:
            self.land_one()
        if self.kill_rate and roll > 1 - self.kill_rate:
            self.kill(self.tasks[self.random.randrange(len(self.tasks))].process)
            return True
        if roll < 0.5 and self._steps % 16 == 0:
            # Somebody is slow for a while, or alone.
            for task in self.tasks:
                task.process.weight = float(10 ** self.random.uniform(-2.5, 0))
        self._resume(self._pick())
        return True

    def _pick(self) -> Task:
        ready = [task for task in self.tasks if task.is_ready is None or task.is_ready()]
        # One that waits for an event gives up waiting when its time has come.
        ready += [task for task in self.tasks if task.is_ready is not None and task.wake is not None]
        if not ready:
            raise StuckError(f"all wait: {[task.name for task in self.tasks]}")
        if self.send_seconds_max is not None:
            ready = self._in_time(ready, self.send_seconds_max)
        weights = [task.process.weight * self._eagerness(task) for task in ready]
        point = self.random.random() * sum(weights)
        for task, weight in zip(ready, weights, strict=True):
            point -= weight
            if point < 0:
                return task
        return ready[-1]

    def _in_time(self, ready: list[Task], seconds: float) -> list[Task]:
        """Those with whom time does not go on beyond what one that has looked at its clock may take."""
        limit = min((task.looked + seconds for task in ready if task.looked is not None), default=None)
        if limit is None:
            return ready
        return [task for task in ready if task.looked is not None or (task.wake or 0.0) <= limit]

    def _eagerness(self, task: Task) -> float:
        """Sleepers are woken less, so that others get somewhere; those with days to go much less."""
        left = 0.0 if task.wake is None else task.wake - self.now
        if left <= 0:
            return 1.0
        return 0.2 if self.send_seconds_max is None else 0.2 * min(1.0, 20_000 / left)

    def _resume(self, task: Task) -> None:
        is_event = task.is_ready is not None and task.is_ready()
        if task.wake is not None and task.wake > self.now and not is_event:
            self._advance(task.wake)
        self.current = task
        task.flow.switch()
        self.current = None
        if task.error is not None and task is task.process.tasks[0]:
            raise task.error

    def _advance(self, to: float) -> None:
        due = [one for one in self.pending if one[0] < to]
        for one in due:
            self.pending.remove(one)
            if self.random.random() < 0.5:
                one[1]()
        self.now = to


class Lock:
    """A lock between the tasks of one process that the same task may take again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner: Task | None = None
        self._depth = 0

    def __enter__(self) -> Self:
        me = self._world.current
        if self._owner is not me and self._owner is not None:
            self._world.pause(is_ready=lambda: self._owner is None)
        self._owner = me
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
