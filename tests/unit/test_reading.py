"""Jobs that read look again for what a list may not show yet, and for what prune has moved."""

from types import SimpleNamespace
from typing import Any

import pytest

from pvback.errors import DamagedError, ObjectNotFound, PvbackError
from pvback.ops.reading import run_reading, stream_reading
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import ManualClock
from pvback.storage.memory import MemoryStore
from tests.contracts.stores import LateLists
from tests.unit.conftest import Open

LAG_SECONDS = 60.0
RUN = f"index/{1:016x}-{'ab' * 16}"
NOT_LISTED = "chunk 01234567 is in no pack of the index"


@pytest.fixture
def late(memory: MemoryStore, clock: ManualClock, open_access: Open) -> RepositoryAccess:
    """A run was written a moment ago."""
    clock.sleep(2 * LAG_SECONDS)
    access = open_access(LateLists(memory, clock, lag_seconds=LAG_SECONDS))
    memory.put(access.objects.layout.key(RUN), b"run")
    return access


def seen_by(native: SimpleNamespace, error: Exception) -> list[int]:
    """How many runs each attempt of `stats` and `list` was given; without one it fails."""
    seen: list[int] = []

    def look(job: Any) -> dict[str, Any]:
        seen.append(len(job.options["index"]["runs"]))
        if not seen[-1]:
            raise error
        return {"runs": seen[-1]}

    native.verbs["stats"] = native.verbs["list"] = look
    return seen


@pytest.mark.parametrize("error", [DamagedError(NOT_LISTED), ObjectNotFound(NOT_LISTED)], ids=type)
def test_what_is_not_listed_yet_is_waited_for(
    late: RepositoryAccess, native: SimpleNamespace, clock: ManualClock, error: Exception
) -> None:
    seen, began = seen_by(native, error), clock.monotonic()
    assert run_reading(late, "stats", options={}) == {"runs": 1}
    assert clock.monotonic() - began == LAG_SECONDS
    assert (seen[0], seen[-1]) == (0, 1)


def test_a_stream_that_has_not_begun_waits_too(late: RepositoryAccess, native: SimpleNamespace) -> None:
    seen = seen_by(native, DamagedError(NOT_LISTED))
    assert list(stream_reading(late, "list", options={})) == []
    assert (seen[0], seen[-1]) == (0, 1)


def test_what_is_in_no_list_at_last_is_damage(
    late: RepositoryAccess, memory: MemoryStore, native: SimpleNamespace, clock: ManualClock
) -> None:
    memory.delete(late.objects.layout.key(RUN))
    seen_by(native, ObjectNotFound(NOT_LISTED))
    began = clock.monotonic()
    with pytest.raises(DamagedError, match="in no pack"):
        run_reading(late, "stats", options={})
    assert clock.monotonic() - began == LAG_SECONDS


@pytest.mark.parametrize("lag_seconds", [0.0, LAG_SECONDS])
def test_damage_under_a_name_is_told_at_once(
    memory: MemoryStore, native: SimpleNamespace, clock: ManualClock, open_access: Open, lag_seconds: float
) -> None:
    clock.sleep(2 * LAG_SECONDS)
    access = open_access(LateLists(memory, clock, lag_seconds=lag_seconds))
    seen = seen_by(native, DamagedError("not what was sealed", key="s/pack"))
    began = clock.monotonic()
    with pytest.raises(DamagedError):
        run_reading(access, "stats", options={})
    assert (len(seen), clock.monotonic()) == (1, began)


def test_lists_without_a_lag_are_believed(
    access: RepositoryAccess, native: SimpleNamespace, clock: ManualClock
) -> None:
    seen, began = seen_by(native, DamagedError(NOT_LISTED)), clock.monotonic()
    with pytest.raises(DamagedError):
        run_reading(access, "stats", options={})
    assert (len(seen), clock.monotonic()) == (1, began)


def test_a_job_that_tells_losses_begins_with_complete_lists(
    late: RepositoryAccess, native: SimpleNamespace
) -> None:
    seen = seen_by(native, AssertionError("it would have told of a loss"))
    run_reading(late, "stats", options={}, tells_losses=True)
    assert seen == [1]


def test_what_prune_moved_is_looked_for_four_times(access: RepositoryAccess, native: SimpleNamespace) -> None:
    seen = seen_by(native, ObjectNotFound("gone", key=access.objects.layout.key("data/ab/cd")))
    with pytest.raises(DamagedError, match="missing"):
        run_reading(access, "stats", options={})
    assert len(seen) == 4


def test_a_path_that_is_not_there_is_no_damage(access: RepositoryAccess, native: SimpleNamespace) -> None:
    seen_by(native, ObjectNotFound("no such path in the snapshot", key="a/b"))
    with pytest.raises(PvbackError, match="no such path") as caught:
        run_reading(access, "stats", options={})
    assert not isinstance(caught.value, DamagedError)
