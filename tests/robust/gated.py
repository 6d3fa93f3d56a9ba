"""The program with a store that waits, or a process that dies, at a chosen moment.

`python -m tests.robust.gated PLAN WORDS...`; the plan is JSON: `at` (`create`, `swap`, `read_into`, or
`system` for the calls that change files), `match` (part of the key), `count` (which of them; 1 is the
first), `do` (`wait`, `kill`, `fail`, `count`, `peak`). `wait` writes a byte to the descriptor `tell`, and
goes on when one can be read from `hear`, and with `until_asked` when the job was asked to stop as well;
meanwhile all requests like it wait, too. `flip` changes a byte of what `read` or `read_into` gives. `then` is
a second such moment, which counts from the first one on. When the program ends, `count` writes to `tell` how
many there were, `peak` how many KiB of memory it had at most. `pack_bytes`, `checkpoint_seconds`,
`journal_seconds`, `list_seconds` and `poll_seconds` set limits.
"""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pvback import limits
from pvback.cli import main
from pvback.datapath import DataJob
from pvback.storage.local import LocalStore

_SYSTEM = ("rename", "fsync", "write", "unlink", "mkdir")


class Gate:
    """Counts, and acts once."""

    def __init__(self, plan: dict[str, Any], *, after: "Gate | None" = None) -> None:
        self._plan, self._after = plan, after
        self._lock = threading.Lock()
        self.count = 0
        self.has_acted = False
        self.asked = threading.Event()

    def wrap(self, real: Callable[..., Any], *, is_method: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            what = arguments[1] if is_method else ""
            is_its_turn = self._plan.get("match", "") in what and self.arrive(real, arguments)
            done = real(*arguments, **named)
            return flipped(done, arguments) if is_its_turn and self._plan["do"] == "flip" else done

        return call

    def listen(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Note that the job was asked for a checkpoint, or to end."""

        def call(*arguments: Any) -> Any:
            self.asked.set()
            return real(*arguments)

        return call

    def arrive(self, real: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
        """Whether it was the one that the plan names, when that is over."""
        with self._lock:
            if self._after is not None and not self._after.has_acted:
                return False
            self.count += 1
            if self.count != self._plan.get("count"):
                return False
            self.has_acted = True
            if self._plan["do"] == "wait":
                os.write(self._plan["tell"], b"!")
                os.read(self._plan["hear"], 1)
                if self._plan.get("until_asked"):
                    assert self.asked.wait(50), "nobody asked the job to stop"
            elif self._plan["do"] == "fail":
                raise OSError(errno.EIO, "the disk failed")
            elif self._plan["do"] == "kill":
                if real.__name__ == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return True


def flipped(answer: Any, arguments: tuple[Any, ...]) -> Any:
    """What `read` or `read_into` gives, with a byte in the middle that is not what it was."""
    if isinstance(answer, int):
        memoryview(arguments[2]).cast("B")[answer // 2] ^= 1
        return answer
    data = bytearray(answer.data)
    data[len(data) // 2] ^= 1
    return replace(answer, data=bytes(data))


def run(plan: dict[str, Any], words: list[str]) -> None:
    limits.PACK_BYTES_DEFAULT = plan.get("pack_bytes", limits.PACK_BYTES_DEFAULT)
    limits.CHECKPOINT_SECONDS = plan.get("checkpoint_seconds", limits.CHECKPOINT_SECONDS)
    limits.GENERATION_POLL_SECONDS = plan.get("poll_seconds", limits.GENERATION_POLL_SECONDS)
    limits.RESTORE_JOURNAL_SECONDS = plan.get("journal_seconds", limits.RESTORE_JOURNAL_SECONDS)
    limits.BROWSE_LIST_SECONDS = plan.get("list_seconds", limits.BROWSE_LIST_SECONDS)
    gate = Gate(plan)
    write = os.write
    if then := plan.get("then"):
        second = Gate({**plan, **then}, after=gate)
        setattr(LocalStore, then["at"], second.wrap(getattr(LocalStore, then["at"]), is_method=True))
    if plan.get("at") == "system":
        for name in _SYSTEM:
            setattr(os, name, gate.wrap(getattr(os, name), is_method=False))
    elif "at" in plan:
        setattr(LocalStore, plan["at"], gate.wrap(getattr(LocalStore, plan["at"]), is_method=True))
    # Replaced on purpose: the program under test is otherwise as it is.
    DataJob.cancel = gate.listen(DataJob.cancel)  # type: ignore[method-assign]
    DataJob.command = gate.listen(DataJob.command)  # type: ignore[method-assign]
    try:
        main(words)
    finally:
        if plan.get("do") == "count":
            write(plan["tell"], b"%d" % gate.count)
        if plan.get("do") == "peak":
            # Of this program alone: what wait4 says of a child begins with the size of its parent.
            status = Path("/proc/self/status").read_text()
            write(plan["tell"], status.split("VmHWM:")[1].split()[0].encode())


if __name__ == "__main__":
    run(json.loads(sys.argv[1]), sys.argv[2:])
