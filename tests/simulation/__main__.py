"""`python -m tests.simulation SEED` replays one seed with its trace; `--count N` runs many on all cores."""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count

from tests.simulation.scopes import SCOPES
from tests.simulation.simulate import Outcome, simulate

_BATCH = 50


def main() -> int:
    """The number of the first seed that fails is printed, with how to see it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--count", type=int, default=10_000, help="seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--scope", choices=[one.name for one in SCOPES], help="instead of all in turn")
    parser.add_argument("--jobs", type=int, default=None, help="processes; all cores unless given")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.scope)
    return run_many(options.first, options.count, scope=options.scope, jobs=options.jobs)


def replay(seed: int, scope: str | None) -> int:
    """With everything that happened."""
    outcome = run_one(seed, scope)
    print("\n".join(outcome.trace))
    print(f"seed {seed}, scope {outcome.scope}, trace {outcome.trace_hash}, {outcome.counts}")
    print(outcome.failure or "no promise was broken")
    return 1 if outcome.failure else 0


def run_one(seed: int, scope: str | None) -> Outcome:
    """In the scope of that name, or the one that the seed chooses."""
    return simulate(seed, next((one for one in SCOPES if one.name == scope), None))


def run_batch(first: int, seeds: int, scope: str | None) -> tuple[list[Outcome], dict[str, int]]:
    """Those that failed, and what was counted."""
    failed: list[Outcome] = []
    total: dict[str, int] = {}
    for seed in range(first, first + seeds):
        outcome = run_one(seed, scope)
        if outcome.failure:
            failed.append(outcome)
        for name, number in outcome.counts.items():
            total[name] = total.get(name, 0) + number
    return failed, total


def run_many(first: int, seeds: int, *, scope: str | None, jobs: int | None) -> int:
    """All of them, in batches."""
    began = time.monotonic()
    failed: list[Outcome] = []
    total: dict[str, int] = {}
    starts = list(range(first, first + seeds, _BATCH))
    sizes = [min(_BATCH, first + seeds - start) for start in starts]
    with ProcessPoolExecutor(jobs) as pool:
        for number, (bad, counts) in zip(count(1), pool.map(run_batch, starts, sizes, [scope] * len(starts))):
            failed += bad
            for name, value in counts.items():
                total[name] = total.get(name, 0) + value
            if sys.stderr.isatty():
                print(f"\r{min(seeds, number * _BATCH)} of {seeds} seeds", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{seeds} seeds in {seconds:.0f} s, {seeds / seconds:.1f} a second")
    print(", ".join(f"{name}: {value}" for name, value in sorted(total.items())))
    for outcome in failed[:10]:
        print(f"FAILED seed {outcome.seed} (scope {outcome.scope}): {outcome.failure}")
    if failed:
        print(f"{len(failed)} failed; `python -m tests.simulation {failed[0].seed}` shows the first")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
