"""Which snapshots a policy keeps, and why. Pure; times are the store's, in UTC.

Snapshots are judged source by source, newest first. A rule such as `daily=7` keeps the newest snapshot of
each of the last seven days that have one. What no rule keeps is to be forgotten.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile

from pvback import limits

__all__ = ["Candidate", "Decision", "Policy", "Shrunk", "find_shrunk", "plan_retention"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot, as far as a policy needs it."""

    id: str
    source: str
    time: datetime
    """When the store got it."""
    tags: Mapping[str, str] | None
    """None when the key in use may not read them."""
    seq: int = 0
    """Its place among its source's: some stores know the time to a second only."""
    node_count: int | None = None
    """Files and folders, likewise None."""
    byte_count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to keep; a snapshot stays when any rule keeps it. Counts of 0 keep nothing."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    """By ISO weeks, which begin on Monday."""
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    """Everything that is no older than this before the newest snapshot of its source."""
    tags: Sequence[Mapping[str, str | None]] = field(default_factory=tuple)
    """Everything that has all tags of one of these; None as the value: any value."""

    @property
    def is_empty(self) -> bool:
        """Whether it keeps nothing at all."""
        return self == Policy()


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a snapshot."""

    candidate: Candidate
    reasons: tuple[str, ...]
    """Why it is kept, such as `last` or `daily 2026-11-29`; none: it is to be forgotten."""

    @property
    def is_kept(self) -> bool:
        """Whether any rule keeps it."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A source whose newest snapshot has next to nothing of what an earlier one had."""

    source: str
    newest: str
    since: str
    """The newest snapshot of those that had so much more."""


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"


def _week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year}-W{week:02}"


_PERIODS: Mapping[str, Callable[[datetime], str]] = {
    "hourly": lambda time: f"{time:%Y-%m-%d %H}h",
    "daily": _day,
    "weekly": _week,
    "monthly": lambda time: f"{time:%Y-%m}",
    "yearly": lambda time: f"{time:%Y}",
}


def find_shrunk(candidates: Iterable[Candidate], *, acknowledged: Collection[str] = ()) -> list[Shrunk]:
    """Sources that have lost more than `limits.SHRINK_SHARE_MAX` of their files or bytes.

    It may be a volume that came up empty, and then the earlier snapshots are all that there is. Those before
    an acknowledged one are not compared with: since then it is meant to be so small.
    """
    found = []
    for source, newest_first in _by_source(candidates):
        newest = newest_first[0]
        known = list(takewhile(lambda one: one.id not in acknowledged, newest_first))
        base = newest_first[: len(known) + 1]
        since = next((one for one in base if _has_shrunk(one, newest)), None)
        if since is not None and newest.id not in acknowledged:
            found.append(Shrunk(source, newest.id, since.id))
    return found


def _has_shrunk(before: Candidate, now: Candidate) -> bool:
    pairs = (
        (before.node_count, now.node_count, limits.SHRINK_NODES_MIN),
        (before.byte_count, now.byte_count, limits.SHRINK_BYTES_MIN),
    )
    left = 1 - limits.SHRINK_SHARE_MAX
    return any(a is not None and b is not None and a >= least and b < a * left for a, b, least in pairs)


def plan_retention(
    candidates: Iterable[Candidate], policy: Policy, *, frozen: Collection[str] = ()
) -> list[Decision]:
    """A decision for each candidate, by source and then newest first. Of a frozen source nothing goes.

    Candidates without readable tags are never kept by a rule about tags: callers refuse such a policy.
    """
    decisions: list[Decision] = []
    for source, newest_first in _by_source(candidates):
        judged = _judge(newest_first, policy)
        if source in frozen:
            judged = [replace(one, reasons=(*one.reasons, "shrunk")) for one in judged]
        decisions += judged
    return decisions


def _by_source(candidates: Iterable[Candidate]) -> list[tuple[str, list[Candidate]]]:
    """Sources and their snapshots, newest first."""
    by_source: dict[str, list[Candidate]] = {}
    for one in candidates:
        by_source.setdefault(one.source, []).append(one)
    return [
        (source, sorted(by_source[source], key=lambda one: (one.time, one.seq, one.id), reverse=True))
        for source in sorted(by_source)
    ]


def _judge(newest_first: Sequence[Candidate], policy: Policy) -> list[Decision]:
    reasons: dict[str, list[str]] = {one.id: [] for one in newest_first}
    for one in newest_first[: policy.last]:
        reasons[one.id].append("last")
    for rule, period_of in _PERIODS.items():
        seen: set[str] = set()
        for one in newest_first:
            period = period_of(one.time)
            if len(seen) < getattr(policy, rule) and period not in seen:
                seen.add(period)
                reasons[one.id].append(f"{rule} {period}")
    for one in newest_first:
        if policy.within is not None and one.time >= newest_first[0].time - policy.within:
            reasons[one.id].append("within")
        if any(_has_tags(one, wanted) for wanted in policy.tags):
            reasons[one.id].append("tag")
    return [Decision(one, tuple(reasons[one.id])) for one in newest_first]


def _has_tags(candidate: Candidate, wanted: Mapping[str, str | None]) -> bool:
    tags = candidate.tags
    return tags is not None and all(
        key in tags and value in (None, tags[key]) for key, value in wanted.items()
    )
