"""How versions become what was there at a moment: every history of one key, against a plain replay."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pvback.ops.versions import VersionPlan, apply_versions, plan_versions
from pvback.runtime import Cancel
from pvback.storage import ObjectVersion

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
Event = tuple[int, str | None]
"""(second, what was written; None: deleted)."""


class Bucket:
    """A bucket with versions, as little of it as the plan needs."""

    def __init__(self) -> None:
        self.versions: dict[str, list[tuple[datetime, str | None, str]]] = {}
        self.second = 0
        self.count = 0

    def write(self, key: str, content: str | None) -> None:
        self.second += 1
        self.count += 1
        moment = BEGAN + timedelta(seconds=self.second)
        self.versions.setdefault(key, []).append((moment, content, f"v{self.count}"))

    def now(self) -> dict[str, str]:
        return {
            key: found[-1][1] for key, found in self.versions.items() if found and found[-1][1] is not None
        }

    def list_versions(self) -> Iterator[ObjectVersion]:
        yield from [
            ObjectVersion(
                key=key, version=version, mtime=moment, size=len(content or ""), is_marker=content is None,
                is_latest=(moment, content, version) is found[-1], etag=content or "",
            )
            for key, found in self.versions.items()
            for moment, content, version in found
        ]  # fmt: skip

    def bring_back(self, version: ObjectVersion) -> None:
        content = next(one[1] for one in self.versions[version.key] if one[2] == version.version)
        self.write(version.key, content)

    def hide(self, version: ObjectVersion) -> None:
        self.write(version.key, None)

    def remove_marker(self, version: ObjectVersion) -> None:
        assert version.is_marker
        self.versions[version.key] = [one for one in self.versions[version.key] if one[2] != version.version]

    def close(self) -> None:
        pass


def test_every_short_history_comes_back() -> None:
    """All sequences of up to five writes and deletions of one key, at each moment of each."""
    for length in range(6):
        for history in itertools.product(("a", "b", None), repeat=length):
            for moment in range(length + 1):
                bucket = Bucket()
                states = [bucket.now()]
                for content in history:
                    bucket.write("k", content)
                    states.append(bucket.now())
                kept = {version for _, content, version in bucket.versions.get("k", []) if content}
                before = BEGAN + timedelta(seconds=moment + 1)
                plan = plan_versions(bucket.list_versions(), before)
                apply_versions(bucket, plan, cancel=Cancel())
                assert bucket.now() == states[moment], (history, moment)
                assert kept <= {one[2] for one in bucket.versions.get("k", [])}, "a version was removed"
                again = plan_versions(bucket.list_versions(), before)
                assert again.change_count == 0, (history, moment)


@pytest.mark.parametrize(
    ("history", "does"),
    [
        (["a"], "unchanged"), (["a", None], "revealed"), (["a", None, None], "revealed"),
        (["a", "b"], "restored"), (["a", None, "b"], "restored"), (["a", "b", None], "restored"),
        (["a", "a"], "unchanged"), ([None, "b"], "hidden"),
    ],
)  # fmt: skip
def test_the_cheapest_way_is_taken(history: list[str | None], does: str) -> None:
    bucket = Bucket()
    for content in history:
        bucket.write("k", content)
    plan = plan_versions(bucket.list_versions(), BEGAN + timedelta(seconds=2))
    assert {"revealed": plan.revealed, "restored": plan.restored, "hidden": plan.hidden}.get(
        does, plan.unchanged_count
    )
    assert plan.change_count + plan.unchanged_count == 1


def test_cancelled() -> None:
    bucket = Bucket()
    bucket.write("k", "a")
    plan = VersionPlan(hidden=list(bucket.list_versions()))
    cancel = Cancel()
    cancel.set()
    with pytest.raises(BaseException, match="interrupted"):
        apply_versions(bucket, plan, cancel=cancel)
    assert bucket.now() == {"k": "a"}


def test_the_second_of_the_first_deletion_is_undone_whole() -> None:
    """As the procedure in docs/security.md says it: `before` is the time of the first delete marker."""
    bucket = Bucket()
    for key in ("a", "b"):
        bucket.write(key, "good")
    for key in ("a", "b"):
        bucket.second = 7
        bucket.write(key, None)
    moment = min(one.mtime for one in bucket.list_versions() if one.is_marker)
    apply_versions(bucket, plan_versions(bucket.list_versions(), moment), cancel=Cancel())
    assert bucket.now() == {"a": "good", "b": "good"}
