"""`python -m tests.simulation SEED` replays one seed with its trace; without one, many seeds on all cores.

Then every canary is looked for: what is broken on purpose has to be found.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from types import FrameType

from tests.simulation.likely import load_likely, save_likely
from tests.simulation.repair_canaries import CANARIES
from tests.simulation.scopes import SCOPES
from tests.simulation.simulate import Outcome, simulate

_BATCH = 50
SEED_SECONDS_MAX = 60.0
"""One takes some hundredths of a second; a machine may be busy."""


CANARY_SECONDS_MAX = 3600.0
"""For all seeds of one canary, on a busy machine."""


class SlowError(BaseException):
    """Something did not come to an end. Passes through the handlers of what is simulated."""


def main() -> int:
    """The number of the first seed that fails is printed, with how to see it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--count", type=int, default=10_000, help="seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--scope", choices=[one.name for one in SCOPES], help="instead of all in turn")
    parser.add_argument("--jobs", type=int, default=None, help="processes; all cores unless given")
    parser.add_argument(
        "--canary", action="append", choices=[one.name for one in CANARIES], help="look for this one only"
    )
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.scope)
    names = options.canary or [one.name for one in CANARIES]
    with ProcessPoolExecutor(options.jobs) as pool:
        is_whole = run_many(pool, options.first, 0 if options.canary else options.count, scope=options.scope)
        is_watched = look_for(pool, names)
    return 0 if is_whole and is_watched else 1


def replay(seed: int, scope: str | None) -> int:
    """With everything that happened."""
    outcome = run_one(seed, scope)
    print("\n".join(outcome.trace))
    print(f"seed {seed}, scope {outcome.scope}, trace {outcome.trace_hash}, {outcome.counts}")
    print(outcome.failure or "no promise was broken")
    return 1 if outcome.failure else 0


def run_one(seed: int, scope: str | None) -> Outcome:
    """In the scope of that name, or the one that the seed chooses. One that does not end has failed."""
    chosen = next((one for one in SCOPES if one.name == scope), SCOPES[seed % len(SCOPES)])
    try:
        with _limited(SEED_SECONDS_MAX):
            return simulate(seed, chosen)
    except SlowError as exc:
        return Outcome(
            seed=seed, scope=chosen.name, failure=f"SlowError: {exc}", trace=[], trace_hash="", counts={}
        )


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises SlowError where the main thread is. A timer that was set goes on afterwards."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SlowError(f"it takes more than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def run_batch(first: int, seeds: int, scope: str | None) -> tuple[list[Outcome], Counter[str]]:
    """Those that failed, and what was counted."""
    failed: list[Outcome] = []
    total: Counter[str] = Counter()
    for seed in range(first, first + seeds):
        outcome = run_one(seed, scope)
        if outcome.failure:
            failed.append(outcome)
        total.update(outcome.counts)
    return failed, total


def run_many(pool: Executor, first: int, seeds: int, *, scope: str | None) -> bool:
    """All of them, in batches; whether no promise was broken."""
    if not seeds:
        return True
    began = time.monotonic()
    failed: list[Outcome] = []
    total: Counter[str] = Counter()
    starts = range(first, first + seeds, _BATCH)
    sizes = [min(_BATCH, first + seeds - start) for start in starts]
    for number, (bad, counts) in enumerate(pool.map(run_batch, starts, sizes, [scope] * len(starts)), 1):
        failed += bad
        total.update(counts)
        if sys.stderr.isatty():
            print(f"\r{min(seeds, number * _BATCH)} of {seeds} seeds", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{seeds} seeds in {seconds:.0f} s, {seeds / seconds:.1f} a second")
    print(", ".join(f"{name}: {value}" for name, value in sorted(total.items())))
    for outcome in failed[:10]:
        print(f"FAILED seed {outcome.seed} (scope {outcome.scope}): {outcome.failure}")
    if failed:
        print(f"{len(failed)} failed; `python -m tests.simulation {_how(failed[0], scope)}` shows the first")
    sys.stdout.flush()
    return not failed


def _how(outcome: Outcome, scope: str | None) -> str:
    return f"{outcome.seed} --scope {scope}" if scope else str(outcome.seed)


def look_for(pool: Executor, names: list[str]) -> bool:
    """Canaries, each in one process; whether all were found."""
    began = time.monotonic()
    likely = load_likely()
    running: dict[Future[int | None], str] = {
        pool.submit(find, name, likely.get(name)): name for name in names
    }
    found: dict[str, int] = {}
    for future in as_completed(running):
        name, seed = running[future], future.result()
        if seed is None:
            print(f"SURVIVED canary {name}: `python -m tests.simulation --canary {name}`", flush=True)
        else:
            found[name] = seed
    save_likely(found)
    rarest = sorted(found.items(), key=lambda one: -one[1])[:5]
    anew = sum(likely.get(name) != seed for name, seed in found.items())
    seconds = time.monotonic() - began
    print(f"{len(found)} of {len(names)} canaries found in {seconds:.0f} s, {anew} by new seeds; the rarest:")
    print(", ".join(f"{name} by seed {seed}" for name, seed in rarest))
    return len(found) == len(names)


def find(name: str, likely: int | None) -> int | None:
    """The first seed that shows a canary, `likely` before all; None too when it takes too long."""
    try:
        with _limited(CANARY_SECONDS_MAX):
            return next(one for one in CANARIES if one.name == name).find(likely)
    except SlowError:
        return None


if __name__ == "__main__":
    sys.exit(main())
