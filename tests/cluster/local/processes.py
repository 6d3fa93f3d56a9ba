"""Processes that outlive the program that starts them, each with a record in a file.

A record names the process by its id and its start time: an id that somebody else has got since is left alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.cluster.local.layout import LOGS, PROCESSES
from tests.support.go import THRIFTY

T = TypeVar("T")

STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05


def start(
    name: str,
    argv: Sequence[str],
    *,
    inside: str = "",
    forks: bool = False,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Start a process, in the namespaces of the one called `inside` if it is named; its words go to logs/.

    One that `forks` is only there to make another, which the record is of.
    """
    PROCESSES.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    command = [*argv]
    if inside:
        command = ["nsenter", "-t", str(running(inside)), "-m", "-n", "-p", "-u", "--", *argv]
    with (LOGS / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **THRIFTY, **(variables or {})},
            start_new_session=True,
            cwd="/",
        )
    pid = process.pid
    if inside or forks:
        # nsenter stays outside and waits for the one that it has sent in; so does unshare.
        pid = wait_for(lambda: _child(process.pid), f"{name} did not start:\n{log_end(name)}", seconds=10)
    how = {"argv": [*argv], "inside": inside, "forks": forks, "variables": dict(variables or {})}
    record = {"pid": pid, "ticks": _ticks(pid), "how": how}
    (PROCESSES / f"{name}.json").write_text(json.dumps(record))


def running(name: str) -> int | None:
    """The id of the process of this name, None when it has ended."""
    try:
        record = json.loads((PROCESSES / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    pid = int(record["pid"])
    return pid if _ticks(pid) == record["ticks"] else None


def stop(name: str, *, kill: bool = False) -> None:
    """End a process: kindly, and after 20 s or with `kill` not; its record stays, see `again`."""
    pid = running(name)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
    if not _ended(name, STOP_SECONDS_MAX):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if not _ended(name, STOP_SECONDS_MAX):
            raise TimeoutError(f"{name} ({pid}) does not end")


def again(name: str) -> None:
    """Start what was stopped, as it was."""
    record = json.loads((PROCESSES / f"{name}.json").read_text())
    how = record["how"]
    start(name, how.pop("argv"), **how)


def restart(name: str) -> None:
    """What a crash does to a process that somebody starts again."""
    stop(name, kill=True)
    again(name)


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """A process that hangs meanwhile: it keeps its connections, and answers nobody."""
    pid = running(name)
    if pid is None:
        raise RuntimeError(f"{name} does not run")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def names() -> Iterator[str]:
    """Everything that was started, the youngest first."""
    records = sorted(PROCESSES.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return (path.stem for path in records)


def wait_for(look: Callable[[], T | None], what: str, *, seconds: float) -> T:
    """What `look` finds. Raises TimeoutError with the words."""
    end = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(POLL_SECONDS)


def log_end(name: str, *, lines: int = 20) -> str:
    """The last words of a process."""
    path = LOGS / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _ended(name: str, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        return wait_for(lambda: running(name) is None, "", seconds=seconds)
    return False


def _ticks(pid: int) -> int | None:
    """When the process started, None when there is none or only what is left of it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _child(pid: int) -> int | None:
    # Read by path: the child may be sent in between, and is found the next time.
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None
