"""A freeze and its guard, with a volume that only counts: real processes, real sockets, nothing frozen."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pvback.errors import FileError
from pvback.ops.freezing import Guard, hold_frozen
from pvback.runtime import Cancel, SystemClock

CLOCK = SystemClock()
WAIT_SECONDS_MAX = 20.0


class Volume:
    """Frozen when a file is there, which outlives who made it, as a frozen file system does."""

    def __init__(self, folder: Path, *, failure: int | None = None, seconds: float = 0.0) -> None:
        self._file, self._failure, self._seconds = folder / "is-frozen", failure, seconds
        self.log = folder / "log"

    def is_frozen(self) -> bool:
        return self._file.exists()

    def _note(self, what: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{what}\n")

    def sync(self) -> None:
        self._note("sync")

    def freeze(self) -> None:
        if self._failure is not None:
            raise OSError(self._failure, os.strerror(self._failure))
        if self._seconds:
            # A freeze that is under way cannot be told to stop, as in the kernel.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(self._seconds)
        self._note("freeze")
        self._file.touch()

    def thaw(self) -> bool:
        was_frozen = self.is_frozen()
        if was_frozen:
            self._note("thaw")
        self._file.unlink(missing_ok=True)
        return was_frozen


def wait_for(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@contextmanager
def guarding(volume: Volume, folder: Path) -> Iterator[Cancel]:
    cancel = Cancel()
    thread = threading.Thread(target=Guard(volume, folder=folder, clock=CLOCK).serve, args=[cancel])
    thread.start()
    try:
        yield cancel
    finally:
        cancel.set()
        thread.join(WAIT_SECONDS_MAX)
        assert not thread.is_alive()


PROGRAM = """
import sys
from pathlib import Path
from pvback.ops.freezing import hold_frozen
from pvback.runtime import SystemClock
from tests.unit.test_freezing import Volume
folder, lease, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
say = lambda: print("frozen", flush=True)
volume = Volume(folder, seconds=seconds)
print(hold_frozen(volume, folder, lease_seconds=lease, say=say, clock=SystemClock()))
"""


@contextmanager
def freezing(folder: Path, *, lease: float = 60, seconds: float = 0) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own, which freezes."""
    argv = [sys.executable, "-c", PROGRAM, str(folder), str(lease), str(seconds)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def frozen(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "frozen\n"


def test_until_its_input_ends(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path), freezing(tmp_path) as process:
        frozen(process)
        assert volume.is_frozen()
        assert (tmp_path / "frozen").exists(), "the mark is there before"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(WAIT_SECONDS_MAX) == 0
        assert process.stdout is not None
        assert 0 < float(process.stdout.read()) < WAIT_SECONDS_MAX
        assert not volume.is_frozen()
        wait_for(lambda: not (tmp_path / "frozen").exists(), "the mark stays")
    assert volume.log.read_text().split() == ["sync", "freeze", "thaw"]


def test_killed(tmp_path: Path) -> None:
    """Who froze is gone, and its guard thaws."""
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path), freezing(tmp_path) as process:
        frozen(process)
        began = time.monotonic()
        process.kill()
        wait_for(lambda: not volume.is_frozen(), "it stays frozen")
        print(f"thawed after {time.monotonic() - began:.3f} s")


def test_stopped_beyond_its_lease(tmp_path: Path) -> None:
    """Who froze does nothing any more, and has not ended."""
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path), freezing(tmp_path, lease=1) as process:
        frozen(process)
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: not volume.is_frozen(), "it stays frozen")
        print(f"thawed after {time.monotonic() - began:.3f} s")
        process.send_signal(signal.SIGCONT)


def test_the_lease(tmp_path: Path) -> None:
    """By the clock of who froze: it says so, and is no success."""
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path):
        inside, outside = os.pipe()
        try:
            with pytest.raises(FileError, match="its lease is over"):
                hold_frozen(volume, tmp_path, lease_seconds=0.3, say=lambda: None, clock=CLOCK, source=inside)
        finally:
            os.close(inside)
            os.close(outside)
    assert volume.log.read_text().split() == ["sync", "freeze", "thaw"]


def test_the_guard_is_told_to_stop(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path) as cancel, freezing(tmp_path) as process:
        frozen(process)
        cancel.set()
        wait_for(lambda: not volume.is_frozen(), "it stays frozen")
        assert process.wait(WAIT_SECONDS_MAX) == -signal.SIGKILL


def test_told_to_stop_when_the_other_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to be ended any more, and it is thawed all the same."""
    volume = Volume(tmp_path)

    def gone(pid: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr("pvback.ops.freezing.os.kill", gone)
    with guarding(volume, tmp_path) as cancel, freezing(tmp_path) as process:
        frozen(process)
        cancel.set()
        wait_for(lambda: not volume.is_frozen(), "it stays frozen")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_freeze_that_is_under_way(tmp_path: Path, how: str) -> None:
    """The guard waits until it is sure that nothing will be frozen any more."""
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path) as cancel, freezing(tmp_path, seconds=0.5) as process:
        wait_for((tmp_path / "frozen").exists, "no mark")
        if how == "stop":
            cancel.set()
        else:
            process.kill()
        process.wait(WAIT_SECONDS_MAX)
    assert not volume.is_frozen()
    assert not (tmp_path / "frozen").exists()


def test_a_guard_that_is_started_again(tmp_path: Path) -> None:
    """It thaws what was frozen under its mark, and nothing that others have frozen."""
    volume = Volume(tmp_path)
    volume.freeze()
    with guarding(volume, tmp_path):
        wait_for((tmp_path / "guard.sock").exists, "no guard")
    assert volume.is_frozen()
    (tmp_path / "frozen").touch()
    with guarding(volume, tmp_path):
        wait_for(lambda: not volume.is_frozen(), "it stays frozen")
    assert not (tmp_path / "frozen").exists()


@pytest.mark.parametrize(("number", "words"), [(errno.EBUSY, "by somebody else"), (errno.EPERM, "permitted")])
def test_it_cannot_be_frozen(tmp_path: Path, number: int, words: str) -> None:
    """What others have frozen is theirs: it is not thawed."""
    volume = Volume(tmp_path)
    volume.freeze()
    with guarding(volume, tmp_path):
        broken = Volume(tmp_path, failure=number)
        with pytest.raises(FileError, match=words):
            hold_frozen(broken, tmp_path, lease_seconds=10, say=lambda: None, clock=CLOCK)
        wait_for(lambda: not (tmp_path / "frozen").exists(), "the mark stays")
    assert volume.is_frozen()


def test_nobody_guards(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    with pytest.raises(FileError, match="nobody would thaw it"):
        hold_frozen(volume, tmp_path, lease_seconds=0.2, say=lambda: None, clock=CLOCK)
    assert not volume.log.exists()


def test_somebody_else_thaws_it(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    with guarding(volume, tmp_path):
        inside, outside = os.pipe()

        def say() -> None:
            volume.thaw()
            os.close(outside)

        with pytest.raises(FileError, match="somebody else has thawed it"):
            hold_frozen(volume, tmp_path, lease_seconds=10, say=say, clock=CLOCK, source=inside)
        os.close(inside)


def test_who_cannot_say_so_thaws(tmp_path: Path) -> None:
    volume = Volume(tmp_path)

    def say() -> None:
        raise BrokenPipeError

    with guarding(volume, tmp_path), pytest.raises(BrokenPipeError):
        hold_frozen(volume, tmp_path, lease_seconds=10, say=say, clock=CLOCK)
    assert volume.log.read_text().split() == ["sync", "freeze", "thaw"]
