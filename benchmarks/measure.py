"""Run one command and account for it and everything it started.

What is measured, and how:

- wall seconds: monotonic clock around the process, from before the fork to after the wait;
- CPU seconds: user + system of the process and of its waited-for descendants (``wait4``);
- peak memory: the larger of the highest sampled sum of resident sizes over the process tree and the
  kernel's own high-water mark of any single process in it (``VmHWM``), so that a short peak between
  two samples is not lost in the usual case of one process. ``ru_maxrss`` is not used: it is
  inherited across fork and so starts at the size of this interpreter;
- sync seconds: how long the kernel needs afterwards to bring the written bytes to the disk. Tools
  that do not fsync look faster than they are without this column.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SAMPLE_SECONDS = 0.02
"""Pause between two samples of the process tree; costs less than 1 % of a core."""

OUTPUT_TAIL_BYTES = 4000


class CommandFailed(Exception):
    """A measured command ended with an exit code other than 0."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one command cost."""

    wall_seconds: float
    cpu_seconds: float
    memory_bytes_peak: int
    sync_seconds: float
    output: str
    """Standard output of the command, decoded leniently."""


def run_measured(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    is_settled: bool = True,
) -> Usage:
    """Run ``argv`` to its end and return its cost.

    Unless ``is_settled`` is false, dirty pages of earlier steps are written back first, so that no
    command pays for another; that takes long where other programs write much to the same disk.
    Raises CommandFailed with the end of the command's error output when its exit code is not 0.
    """
    if is_settled:
        os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        sampler = _MemorySampler(process.pid)
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - started
        except BaseException:  # An interrupted measurement leaves nothing running behind it.
            process.kill()
            process.wait()
            raise
        finally:
            sampler.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        started = time.monotonic()
        if is_settled:
            os.sync()
        sync = time.monotonic() - started
        if process.returncode != 0:
            tail = (_tail(err) or _tail(out)).strip()
            raise CommandFailed(f"`{' '.join(map(str, argv[:4]))}` ended with {process.returncode}:\n{tail}")
        out.seek(0)
        return Usage(
            wall_seconds=wall,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            memory_bytes_peak=sampler.bytes_peak,
            sync_seconds=sync,
            output=out.read().decode(errors="replace"),
        )


def exit_on_terminate() -> None:
    """Make SIGTERM end this program by an exception, so that scratch directories are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def disk_bytes(root: Path) -> tuple[int, int]:
    """Bytes and number of regular files below ``root``: the size of a repository as stored.

    Apparent sizes are used, because an object store bills those.
    """
    total = count = 0
    for directory, _, names in os.walk(root):
        for name in names:
            total += Path(directory, name).lstat().st_size
            count += 1
    return total, count


class _MemorySampler(threading.Thread):
    """Watches the resident memory of a process and its descendants until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory-sampler", daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.bytes_peak = 0

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self) -> None:
        resident_sum = 0
        for pid in _process_tree(self._pid):
            resident, peak = _resident_bytes(pid)
            resident_sum += resident
            self.bytes_peak = max(self.bytes_peak, peak)
        self.bytes_peak = max(self.bytes_peak, resident_sum)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _process_tree(root: int) -> list[int]:
    """Process ids of ``root`` and its live descendants; those that just ended are left out."""
    found = [root]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                children = (task / "children").read_text()
                found.extend(int(child) for child in children.split())
        except OSError:
            continue
    return found


def _resident_bytes(pid: int) -> tuple[int, int]:
    """Resident size and its high-water mark in bytes; zeros when the process has ended."""
    resident = peak = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            resident = int(line.split()[1]) * 1024
        elif line.startswith("VmHWM:"):
            peak = int(line.split()[1]) * 1024
    return resident, peak


def _tail(stream: IO[bytes]) -> str:
    """End of a binary temporary file as text."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - OUTPUT_TAIL_BYTES))
    return stream.read().decode(errors="replace")
