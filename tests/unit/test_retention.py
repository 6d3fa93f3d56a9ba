"""Which snapshots a policy keeps."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback.cli.values import parse_span
from pvback.errors import UsageError
from pvback.repository.retention import Candidate, Policy, find_shrunk, plan_retention

NOW = datetime(2026, 11, 29, 3, tzinfo=UTC)


def nightly(count: int, *, source: str = "a") -> list[Candidate]:
    """One a night, the newest one now; ids count back from it."""
    return [
        Candidate(f"{source}{n}", source, NOW - timedelta(days=n), {"n": str(n % 7)}) for n in range(count)
    ]


def kept(candidates: list[Candidate], policy: Policy) -> list[str]:
    return [one.candidate.id for one in plan_retention(candidates, policy) if one.is_kept]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(last=2), [0, 1]),
        (Policy(daily=3), [0, 1, 2]),
        (Policy(within=timedelta(days=2)), [0, 1, 2]),
        # 29 November 2026 is a Sunday: weeks end at 0, 7, 14.
        (Policy(weekly=3), [0, 7, 14]),
        (Policy(monthly=3), [0, 29, 60]),
        (Policy(yearly=2), [0, 333]),
        (Policy(daily=2, monthly=2), [0, 1, 29]),
        (Policy(tags=({"n": "6"},), last=1), [0, 6, 13, 20]),
        (Policy(tags=({"m": None},)), []),
        (Policy(), []),
    ],
)
def test_what_a_rule_keeps(policy: Policy, expected: list[int]) -> None:
    count = 400 if policy.yearly else 80 if not policy.tags else 25
    assert kept(nightly(count), policy) == [f"a{n}" for n in expected]


def test_the_newest_of_a_period_stays() -> None:
    candidates = [Candidate(str(hour), "a", NOW.replace(hour=hour), {}) for hour in range(4)]
    assert kept(candidates, Policy(daily=1)) == ["3"]
    assert kept(candidates, Policy(hourly=2)) == ["3", "2"]
    (newest, *_) = plan_retention(candidates, Policy(daily=1, hourly=1, last=1))
    assert newest.reasons == ("last", "hourly 2026-11-29 03h", "daily 2026-11-29")


def test_periods_without_a_snapshot_do_not_count() -> None:
    candidates = [Candidate("old", "a", NOW - timedelta(days=300), {}), *nightly(2)]
    assert kept(candidates, Policy(daily=3)) == ["a0", "a1", "old"]


def test_weeks_are_those_of_the_iso_year() -> None:
    days = [
        datetime(2026, 12, 31, tzinfo=UTC),
        datetime(2027, 1, 3, tzinfo=UTC),
        datetime(2027, 1, 4, tzinfo=UTC),
    ]
    candidates = [Candidate(f"{day:%m%d}", "a", day, {}) for day in days]
    assert kept(candidates, Policy(weekly=9)) == ["0104", "0103"]


def test_sources_are_judged_apart() -> None:
    candidates = nightly(5) + nightly(3, source="b")
    assert kept(candidates, Policy(last=1)) == ["a0", "b0"]


def test_tags_that_cannot_be_read_keep_nothing() -> None:
    assert kept([Candidate("x", "a", NOW, None)], Policy(tags=({"n": None},))) == []


FIRST, LAST = datetime(2024, 1, 1), datetime(2027, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
times = st.datetimes(min_value=FIRST, max_value=LAST, timezones=st.just(UTC))
counts = st.integers(0, 6)


@given(
    st.lists(times, max_size=40), st.builds(Policy, last=counts, daily=counts, weekly=counts, monthly=counts)
)
def test_each_rule_adds(moments: list[datetime], policy: Policy) -> None:
    """A policy keeps what its rules keep one by one, whatever the order; no more than they count."""
    candidates = [Candidate(f"{number:02}", "a", time, {}) for number, time in enumerate(moments)]
    alone = (
        Policy(last=policy.last),
        Policy(daily=policy.daily),
        Policy(weekly=policy.weekly),
        Policy(monthly=policy.monthly),
    )
    together = set(kept(candidates, policy))
    assert together == {one for rule in alone for one in kept(candidates, rule)}
    assert together == set(kept(candidates[::-1], policy))
    assert len(together) <= policy.last + policy.daily + policy.weekly + policy.monthly
    if moments and not policy.is_empty:
        assert max(candidates, key=lambda one: (one.time, one.id)).id in together


@pytest.mark.parametrize(
    ("text", "hours"), [("12h", 12), ("7d", 168), ("1d12h", 36), ("2w", 336), ("90m", 1.5), ("1y", 8760)]
)
def test_spans(text: str, hours: float) -> None:
    assert parse_span(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5d", "1d 2h", "9999999999999y"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UsageError):
        parse_span(text)


def sized(*sizes: tuple[int, int]) -> list[Candidate]:
    """Nightly snapshots of so many nodes and bytes, the newest first."""
    pairs = zip(nightly(len(sizes)), sizes, strict=True)
    return [replace(one, node_count=n, byte_count=b) for one, (n, b) in pairs]


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "since"),
    [
        ([(1, 0), (100, 50 * MIB)], "a1"),
        ([(9, 50 * MIB), (100, 50 * MIB)], "a1"),
        ([(100, 4 * MIB), (100, 50 * MIB)], "a1"),
        # A tenth is left, or there was not much.
        ([(10, 5 * MIB), (100, 50 * MIB)], None),
        ([(1, 0), (9, 1000)], None),
        ([(1, 0)], None),
        # However long ago, whatever came between; but a source that has grown again has not shrunk.
        ([(1, 0), (1, 0), (30, 20 * MIB), (100, 50 * MIB)], "a2"),
        ([(100, 50 * MIB), (1, 0), (100, 50 * MIB)], None),
    ],
)
def test_a_source_that_has_shrunk_is_kept_whole(sizes: list[tuple[int, int]], since: str | None) -> None:
    candidates = [*sized(*sizes), *nightly(3, source="b")]
    found = find_shrunk(candidates)
    expected = [] if since is None else [("a", "a0", since)]
    assert [(one.source, one.newest, one.since) for one in found] == expected
    decisions = plan_retention(candidates, Policy(last=1), frozen={one.source for one in found})
    of_a = [one for one in decisions if one.candidate.source == "a"]
    assert all(one.is_kept for one in of_a) == (since is not None or len(of_a) == 1)
    assert [one.is_kept for one in decisions if one.candidate.source == "b"] == [True, False, False]


def test_acknowledged_it_is_so_small_from_then_on() -> None:
    candidates = sized((1, 0), (1, 0), (100, 50 * MIB))
    assert find_shrunk(candidates)
    assert find_shrunk(candidates, acknowledged={"a1"}) == []
    assert find_shrunk(candidates, acknowledged={"a0"}) == []
    later = sized((1, 0), (50, 20 * MIB), (5, 0), (100, 50 * MIB))
    assert [one.since for one in find_shrunk(later, acknowledged={"a2"})] == ["a1"], "it may shrink again"


def test_sizes_that_cannot_be_read_freeze_nothing() -> None:
    assert find_shrunk(nightly(3)) == []
