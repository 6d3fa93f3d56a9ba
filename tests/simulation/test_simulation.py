"""Some seeds of commit and prune, and the breakages that few seeds show: half a minute.

`make simulate` runs more, and looks for every breakage; `python -m tests.simulation SEED` shows one seed.
"""

import pytest

from tests.simulation import __main__ as runner
from tests.simulation import canaries
from tests.simulation.canaries import Canary
from tests.simulation.repair_canaries import CANARIES
from tests.simulation.scopes import SCOPES, Scope
from tests.simulation.simulate import Outcome, simulate

SEEDS = 10
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
    for seed in range(80):
        for name, count in simulate(seed).counts.items():
            seen[name] = seen.get(name, 0) + count
    faults = ("refused", "late", "lost", "doubled", "conflict", "stale")
    assert all(seen[f"fault {name}"] for name in faults), seen
    assert seen["given up SessionFencedError"] > 5, seen
    assert seen["restored"] > 80, seen


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
        pytest.param(975, "lag", id="what prune had just merged was taken for lost"),
        pytest.param(3550, "lag", id="packs of a run that was listed early were not listed yet"),
        pytest.param(7918, "lag", id="runs were removed before what they were merged into was listed"),
        pytest.param(2494, "lag", id="a register that came back after its end was taken for a commit"),
        pytest.param(235, "prunes", id="an own run that had been merged failed the backup"),
    ],
)
def test_what_was_found_once(seed: int, scope: str) -> None:
    assert simulate(seed, next(one for one in SCOPES if one.name == scope)).failure is None


@pytest.mark.parametrize("canary", [one for one in CANARIES if one.is_quick], ids=lambda canary: canary.name)
def test_a_breakage_is_found(canary: Canary) -> None:
    assert canary.find() is not None, f"{canary.seeds_max} seeds do not show it: {canary.apply.__doc__}"


def test_a_whole_protocol_is_no_breakage() -> None:
    """What looks for canaries must not take anything for one."""
    whole = Canary("nothing", lambda _patch: None, SCOPES[0], seeds_max=10)
    assert whole.find() is None
    assert not whole.is_found("TypeError: broken by a change of the code")


def test_a_likely_seed_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no seed beyond what has to be enough."""
    tried: list[int] = []

    def fail_at_seven(seed: int, _scope: Scope) -> Outcome:
        tried.append(seed)
        failure = "LostError: it is" if seed == 7 else None
        return Outcome(seed=seed, scope="", failure=failure, trace=[], trace_hash="", counts={})

    monkeypatch.setattr(canaries, "simulate", fail_at_seven)
    broken = Canary("broken", lambda _patch: None, SCOPES[0], seeds_max=10)
    assert [broken.find(one) for one in (7, 3, 10, None)] == [7] * 4
    assert tried == [7, 3, *range(8), *range(8), *range(8)]


def test_a_seed_that_does_not_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SEED_SECONDS_MAX", 0.01)
    monkeypatch.setattr(runner, "simulate", lambda *_: _spin())
    outcome = runner.run_one(7, "calm")
    assert outcome.seed == 7
    assert "0.01 s" in (outcome.failure or "")


def _spin() -> None:
    while True:
        pass
