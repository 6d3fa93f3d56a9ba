"""Killed at any moment, a restore is brought to its end by the next one, and nothing of it is left behind."""

import ctypes
import itertools
import os
import random
import select
import shutil
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.robust.trees import Image, age, differences, image, make_tree
from tests.robust.world import SECONDS_MAX, Mount, World

JOURNAL = ".pvback-restore"
WINDOW_FILES = 2 * 1024
"""So many entries are planned together at first; the journal knows whole windows."""

_IN_CLOSE_WRITE, _IN_MOVED_TO, _IN_CREATE = 0x8, 0x80, 0x100
_HEAD = struct.Struct("iIII")


class Events:
    """What happens to the names in a directory, from the kernel, in order."""

    def __init__(self, top: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_CLOEXEC)
        assert self._fd >= 0
        for directory in (top, *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())):
            mask = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_CREATE
            assert self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) >= 0

    def close(self) -> None:
        os.close(self._fd)

    def until(self, ended: int) -> Iterator[str]:
        """Names, once for each event, until the process with the descriptor `ended` has come to its end."""
        while self._fd in select.select([self._fd, ended], [], [], SECONDS_MAX)[0]:
            data = os.read(self._fd, 64 * 1024)
            while data:
                _, _, _, length = _HEAD.unpack_from(data)
                name, data = data[_HEAD.size : _HEAD.size + length], data[_HEAD.size + length :]
                yield os.fsdecode(name.rstrip(b"\0"))


@contextmanager
def watching(top: Path) -> Iterator[Events]:
    events = Events(top)
    try:
        yield events
    finally:
        events.close()


def restore_killed_at(world: World, target: Path, *words: str, count: int, of: str = "") -> int:
    """Restore, and kill it at the event of this number among names that begin with `of`; how it ended."""
    plan = {"journal_seconds": 0}
    with (
        watching(target) as events,
        world.start("restore", "latest", "--target", target, *words, plan=plan) as running,
    ):
        ended = os.pidfd_open(running.process.pid)
        try:
            fitting = (name for name in events.until(ended) if name.startswith(of))
            for _ in itertools.islice(fitting, count):
                pass
        finally:
            os.close(ended)
        running.process.send_signal(signal.SIGKILL)
        return running.finish().code


def leftovers(target: Path) -> list[str]:
    return sorted(str(path.relative_to(target)) for path in target.rglob(".pvback*"))


def make_target(source: Path, target: Path, rng: random.Random) -> None:
    """The directories of the source, so that all of them can be watched, and other files in them."""
    for path in (source, *source.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            (target / path.relative_to(source)).mkdir(parents=True)
    shutil.copyfile(source / "large", target / "large")
    with (target / "large").open("r+b") as file:
        file.write(rng.randbytes(200_000))
    # A name outside of what is restored: the file is copied before it is written to.
    os.link(target / "large", target.parent / f"outside-{target.name}")


@pytest.mark.parametrize("rounds", [12, pytest.param(150, marks=[pytest.mark.slow])])
@pytest.mark.timeout(1800)
def test_killed_at_any_moment(world: World, tmp_path: Path, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    source = tmp_path / "source"
    make_tree(source, rng, files=60, large_bytes=4_000_000)
    world.good("backup", source)
    wanted = image(source)
    killed = left = 0
    for number in range(rounds):
        target = tmp_path / f"target{number}"
        make_target(source, target, rng)
        outside = (tmp_path / f"outside-target{number}").read_bytes()
        overwrite = rng.choice(["always", "if-changed", "never"])
        if overwrite == "never":
            (target / "large").unlink()
        for _ in range(rng.randrange(1, 4)):
            words = ("--overwrite", overwrite, *rng.choice([(), ("--delete",)]))
            code = restore_killed_at(world, target, *words, count=rng.randrange(1, 90))
            assert code in (0, -9), code
            killed += code != 0
            left += len(leftovers(target)) > 0
        last = rng.choice([overwrite, "always"])
        world.good("restore", "latest", "--target", target, "--overwrite", last)
        assert not differences(seen_as(wanted, last), seen_as(image(target), last)), (overwrite, last)
        assert leftovers(target) == []
        assert (tmp_path / f"outside-target{number}").read_bytes() == outside
        shutil.rmtree(target)
    assert killed > rounds // 2, "hardly any was killed"
    assert left, "none left anything that could have stayed"


def seen_as(one: Image, overwrite: str) -> Image:
    """Without which names are one file, where a name that an earlier run has completed is left alone."""
    if overwrite != "never":
        return one
    return {name: (*facts[:7], *facts[8:]) if len(facts) == 9 else facts for name, facts in one.items()}


@pytest.mark.timeout(300)
def test_it_goes_on_where_the_journal_says(world: World, mount: Mount) -> None:
    top = mount(2**29)
    source, target = top / "source", top / "target"
    for number in range(12):
        (source / f"{number:02}").mkdir(parents=True)
        for file in range(4_400):
            (source / f"{number:02}/{file:04}").write_text(f"{number:02}{file:010}")
    age(source)
    world.good("backup", source)
    target.mkdir()
    # The first journal says nothing, the second one that the first window is complete. Each is made, closed
    # and renamed.
    code = restore_killed_at(world, target, count=2 * 3, of=JOURNAL)
    assert code == -9, "it ended before it was killed"
    assert (target / JOURNAL).stat().st_size > 80, "there is no mark in the journal"
    # An edit that shows in neither size nor time: who looked would see it.
    unseen, seen = target / "00/0007", target / "00/0008"
    when = unseen.stat().st_mtime_ns
    unseen.write_text("!" * 12)
    os.utime(unseen, ns=(when, when))
    seen.write_text("of another size")
    stats = world.good("restore", "latest", "--target", target, "--json").summary()["stats"]
    assert unseen.read_text() == "!" * 12, "what was finished was looked at again"
    assert seen.read_text() == f"{8:012}", "what has changed since was not looked at"
    assert stats["files_unchanged"] >= WINDOW_FILES - 13 - 1
    assert leftovers(target) == []
    # Without a journal everything is compared.
    world.good("restore", "latest", "--target", target)
    assert unseen.read_text() == f"{7:012}"
    assert not differences(image(source), image(target))
