"""Seeds of commit and prune; `make simulate` runs more of them, `python -m tests.simulation SEED` one."""

import pytest

from tests.simulation.canaries import CANARIES, Canary
from tests.simulation.scopes import SCOPES, Scope
from tests.simulation.simulate import simulate

SEEDS = 25
"""Of each scope; a few seconds together."""


@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
def test_no_promise_is_broken(scope: Scope) -> None:
    for seed in range(SEEDS):
        outcome = simulate(seed, scope)
        assert outcome.failure is None, f"python -m tests.simulation {seed} --scope {scope.name}"


def test_a_seed_is_replayed_exactly() -> None:
    for seed in range(len(SCOPES)):
        first, second = simulate(seed), simulate(seed)
        assert first.trace == second.trace
        assert first.trace_hash == second.trace_hash
    assert simulate(0).trace_hash != simulate(len(SCOPES)).trace_hash


def test_everything_happens() -> None:
    """A simulation in which nothing goes wrong shows nothing."""
    seen: dict[str, int] = {}
    for seed in range(160):
        for name, count in simulate(seed).counts.items():
            seen[name] = seen.get(name, 0) + count
    faults = ("refused", "late", "lost", "doubled", "conflict", "stale")
    assert all(seen[f"fault {name}"] for name in faults), seen
    assert seen["given up SessionFencedError"] > 10, seen
    assert seen["restored"] > 160, seen


# What was found, with the breakage in the commit that mends it. Seeds change their course when the code asks
# the store for something else; the breakages themselves are looked for by all seeds.
@pytest.mark.parametrize(
    ("seed", "scope"),
    [
        pytest.param(1, "calm", id="a run that a session merged away was taken for damage"),
        pytest.param(4, "forget", id="lists of the condemned version were left"),
        pytest.param(38, "lag", id="runs of what was just committed were not listed yet"),
        pytest.param(190, "lag", id="packs of what was just committed were not listed yet"),
        pytest.param(1028, "forget", id="a snapshot forgotten anew died by its first grace"),
        pytest.param(235, "prunes", id="an own run that had been merged failed the backup"),
    ],
)
def test_what_was_found_once(seed: int, scope: str) -> None:
    assert simulate(seed, next(one for one in SCOPES if one.name == scope)).failure is None


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_a_breakage_is_found(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    canary.apply(monkeypatch)
    for seed in range(canary.seeds_max):
        if canary.is_found(simulate(seed, canary.scope).failure):
            return
    pytest.fail(f"{canary.seeds_max} seeds of {canary.scope.name} do not show it: {canary.apply.__doc__}")
