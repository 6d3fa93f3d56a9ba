"""A volume's file system frozen for a moment, by two processes: each thaws it, whatever becomes of the other.

One freezes, says so, and thaws when its standard input or its lease ends. A frozen file system outlives who
froze it, so the guard, which is the main process of the container, thaws when that process is gone, when the
lease is over, when it is itself told to stop, and when it starts and finds the mark of a freeze that nobody
has ended. Nothing that either of them needs is on the volume: each has opened it before.

    freezing process                       guard
      |-- lease ------------------------->  writes the mark, starts its own clock
      |<------------------------- watching
      freezes, waits, thaws
      |-- done, or failed: nothing frozen->  removes the mark
      x its end without a word             thaws, removes the mark
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pvback import limits
from pvback.errors import FileError
from pvback.runtime import Cancel, Clock

__all__ = ["FileSystem", "Freezable", "Guard", "hold_frozen"]

_FREEZE, _THAW = 0xC0045877, 0xC0045878
"""FIFREEZE and FITHAW of linux/fs.h."""
_SOCKET, _MARK = "guard.sock", "frozen"
_WATCHING, _DONE, _FAILED = b"watching\n", b"done\n", b"failed\n"


class Freezable(Protocol):
    """What can be frozen. Methods raise OSError."""

    def sync(self) -> None:
        """Write out what is dirty, so that freezing is short."""
        ...

    def freeze(self) -> None:
        """Return when nobody can write any more; EBUSY: it is frozen already."""
        ...

    def thaw(self) -> bool:
        """Whether it was frozen."""
        ...


class FileSystem:
    """The file system of an open folder."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def sync(self) -> None:
        """See `Freezable.sync`."""
        if ctypes.CDLL(None, use_errno=True).syncfs(self._descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def freeze(self) -> None:
        """See `Freezable.freeze`."""
        fcntl.ioctl(self._descriptor, _FREEZE, 0)

    def thaw(self) -> bool:
        """See `Freezable.thaw`."""
        try:
            fcntl.ioctl(self._descriptor, _THAW, 0)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return False
        return True


class Guard:
    """Thaws what a process that it watches has frozen and does not thaw itself."""

    def __init__(self, volume: Freezable, *, folder: Path, clock: Clock) -> None:
        self._volume, self._clock = volume, clock
        self._mark, self._address = folder / _MARK, folder / _SOCKET

    def serve(self, cancel: Cancel) -> None:
        """Thaw what is left from before; then watch one process after the other, until it is told to stop."""
        self._end_freeze()
        self._address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._address))
            listener.listen()
            listener.settimeout(limits.FREEZE_POLL_SECONDS)
            while not cancel.is_set:
                try:
                    peer, _ = listener.accept()
                except TimeoutError:
                    continue
                with peer:
                    self._watch(peer, cancel)

    def _watch(self, peer: socket.socket, cancel: Cancel) -> None:
        """Until the process has ended: only then is it sure that it will not freeze any more."""
        peer.settimeout(limits.FREEZE_POLL_SECONDS)
        until: float | None = None
        while True:
            # Before it is heard: what it had said when we were told to stop counts.
            is_over = cancel.is_set
            try:
                said = peer.recv(64)
            except TimeoutError:
                said = None
            except ConnectionError:
                said = b""
            if said == b"":
                break
            if said in (_DONE, _FAILED):
                self._mark.unlink(missing_ok=True)
                until = None
            elif said:
                until = self._clock.monotonic() + float(said) + limits.FREEZE_LATE_SECONDS
                self._mark.touch()
                with contextlib.suppress(ConnectionError):
                    peer.sendall(_WATCHING)
            if not self._mark.exists():
                if is_over:
                    # It has not been told that it is watched, or is done: it will not freeze.
                    break
                continue
            if is_over:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(_pid_of(peer), signal.SIGKILL)
            if is_over or (until or 0) <= self._clock.monotonic():
                self._volume.thaw()
        self._end_freeze()

    def _end_freeze(self) -> None:
        """Thaw what has been frozen under our mark."""
        if self._mark.exists():
            self._volume.thaw()
            self._mark.unlink()


def _pid_of(peer: socket.socket) -> int:
    pid, _, _ = struct.unpack(
        "3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return int(pid)


def hold_frozen(
    volume: Freezable,
    folder: Path,
    *,
    lease_seconds: float,
    say: Callable[[], None],
    clock: Clock,
    source: int = 0,
) -> float:
    """Freeze the volume, say so, and thaw it when the input `source` ends. For how many seconds it was.

    Raises FileError when it cannot be frozen, when it was thawed before that, by its lease or anybody else,
    and when there is no guard: then nothing is frozen.
    """
    until = clock.monotonic() + lease_seconds
    with _reach_guard(folder, clock=clock, until=until) as guard:
        volume.sync()
        _begin(guard, left=until - clock.monotonic())
        # Whoever writes waits from the beginning of this, while what was written is written out.
        began = clock.monotonic()
        try:
            volume.freeze()
        except OSError as exc:
            guard.sendall(_FAILED)
            by_others = " already, by somebody else" if exc.errno == errno.EBUSY else ""
            raise FileError(f"cannot be frozen{by_others}: {exc.strerror}") from exc
        try:
            say()
            why = _wait(source, guard, clock=clock, until=until)
        finally:
            was_frozen = volume.thaw()
            seconds = clock.monotonic() - began
            guard.sendall(_DONE)
        if why is None and not was_frozen:
            why = "somebody else has thawed it"
        if why is not None:
            raise FileError(f"not frozen to the end: {why}")
        return seconds


def _reach_guard(folder: Path, *, clock: Clock, until: float) -> socket.socket:
    """A connection to the guard, which may be about to start."""
    while True:
        guard = socket.socket(socket.AF_UNIX)
        try:
            guard.connect(str(folder / _SOCKET))
        except OSError as exc:
            guard.close()
            if clock.monotonic() >= until:
                raise FileError(f"nobody would thaw it: {exc.strerror}", key=str(folder)) from exc
            clock.sleep(limits.FREEZE_POLL_SECONDS)
        else:
            return guard


def _begin(guard: socket.socket, *, left: float) -> None:
    """Have the guard watch. Raises FileError when it does not say that it does."""
    if left <= 0:
        raise FileError("writing out took as long as the lease is")
    guard.settimeout(left)
    guard.sendall(f"{left:.3f}".encode())
    try:
        answer = guard.recv(64)
    except TimeoutError:
        answer = b""
    if answer != _WATCHING:
        raise FileError("nobody would thaw it: the guard does not answer")


def _wait(source: int, guard: socket.socket, *, clock: Clock, until: float) -> str | None:
    """Why it ends before its input does; None when it is that. What comes in is of no interest."""
    while (left := until - clock.monotonic()) > 0:
        ready, _, _ = select.select([source, guard.fileno()], [], [], left)
        if guard.fileno() in ready:
            return "the guard is gone"
        if source in ready and not os.read(source, 4096):
            return None
    return "its lease is over"
