"""Clients whose clock is really wrong by days: what sorts and what ages is by the store's clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.robust.world import Done, World
from tests.support.wrong_clock import wrong_clock

pytestmark = pytest.mark.timeout(300)
DAYS = 30


def by(span: str, world: World, *words: object) -> Done:
    return world.process(*words, before=wrong_clock(span)).ended(0)


def started(snapshot: dict[str, str]) -> timedelta:
    """How far off the clock was that a backup began by."""
    return datetime.fromisoformat(snapshot["started"]) - datetime.now(UTC)


def test_what_is_forgotten_keeps_its_grace(world: World, tmp_path: Path) -> None:
    """A month is longer than the grace: by its own clock, prune would end it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "old").write_bytes(b"old" * 100_000)
    world.good("backup", source)
    (source / "old").unlink()
    (source / "new").write_bytes(b"new" * 100_000)
    world.good("backup", source)
    first, second = (one["id"] for one in world.snapshots())
    for span in (f"+{DAYS}d", f"-{DAYS}d"):
        by(span, world, "forget", first)
        assert [one["id"] for one in world.snapshots()] == [second]
        done = by(span, world, "prune", "--force", "--max-unused", "0")
        assert "0 forgotten snapshots ended" in done.text
        by(span, world, "undelete", first)
        target = tmp_path / f"target{span}"
        world.good("restore", first, "--target", target)
        assert (target / "old").read_bytes() == b"old" * 100_000
    assert "sound" in world.good("check", "--read-data").text


def test_snapshots_are_sorted_and_kept_by_the_stores_clock(world: World, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    made = []
    for number, span in enumerate((f"+{DAYS}d", f"-{DAYS}d", "+0")):
        (source / "file").write_text(str(number))
        by(span, world, "backup", source)
        made.append(next(one["id"] for one in world.snapshots() if one["id"] not in made))
    found = world.snapshots()
    assert [one["id"] for one in found] == made
    off = [round(started(one) / timedelta(days=1)) for one in found]
    assert off == [DAYS, -DAYS, 0], "the clocks were not wrong"
    times = [datetime.fromisoformat(one["time"]) for one in found]
    assert times == sorted(times)
    assert times[-1] - times[0] < timedelta(hours=1)
    world.good("restore", "latest", "--target", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "2"
    by(f"+{DAYS}d", world, "forget", "--keep-within", "1d", "--force")
    assert [one["id"] for one in world.snapshots()] == made
    by(f"-{DAYS}d", world, "forget", "--keep-last", "1", "--force")
    assert [one["id"] for one in world.snapshots()] == made[-1:]
