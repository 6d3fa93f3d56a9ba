"""A quiesce that holds: one process, which says that it does, and undoes it when its standard input ends.

Guarantee: what is copied between `begin` and a `check` that raises nothing was copied while the process held,
as far as the process keeps its own lease. When we die or are cut off its standard input ends, and it undoes
itself; when the API server hangs its lease does.
"""

import contextlib
from typing import TYPE_CHECKING, Self

from pvback import limits
from pvback.cluster.exec import STDOUT, ExecStream, ExecTarget
from pvback.cluster.hooks import Quiesce
from pvback.errors import ClusterError
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["Quiescence"]

_POLLS_MAX = 64
"""How much of what a process prints is read at one look: it must not keep us from looking elsewhere."""


class Quiescence:
    """A process that holds still what it is in front of. For one thread at a time."""

    def __init__(self, stream: ExecStream, *, quiesce: Quiesce, until: float, clock: Clock) -> None:
        self.is_lost = False
        """Whether it is known to hold no more."""
        self._stream, self._quiesce, self._until, self._clock = stream, quiesce, until, clock
        self._said = bytearray()

    @classmethod
    def begin(
        cls, cluster: "Cluster", target: ExecTarget, *, quiesce: Quiesce, clock: Clock, cancel: Cancel
    ) -> Self:
        """Start it, and wait until it says that it holds. Raises ClusterError, Interrupted.

        Its lease is counted from before its start, so that ours ends first.
        """
        until = clock.monotonic() + quiesce.lease_seconds
        stream = ExecStream.open(cluster, target, argv=quiesce.argv, has_input=True)
        begun = cls(stream, quiesce=quiesce, until=until, clock=clock)
        try:
            begun._wait_ready(cancel)
        except BaseException:
            stream.close()
            raise
        return begun

    def check(self) -> None:
        """Raise ClusterError when it may not hold any more."""
        try:
            for _ in range(_POLLS_MAX):
                printed = self._stream.poll(0)
                if not printed:
                    break
                self._keep(b"".join(data for _, data in printed))
        except ClusterError:
            self.is_lost = True
            raise
        if self._stream.end is not None or self._stream.is_over:
            self.is_lost = True
            raise ClusterError(f"it ended by itself{self._words()}")
        if self._clock.monotonic() >= self._until:
            raise ClusterError(f"its lease of {self._quiesce.lease_seconds:g} s is over")

    def ask(self) -> None:
        """Have it undo itself. What goes wrong with that, `end` tells."""
        deadline = self._clock.monotonic() + limits.EXEC_CLOSE_SECONDS
        self._said.clear()
        with contextlib.suppress(ClusterError):
            self._stream.close_input(deadline=deadline, clock=self._clock)

    def end(self) -> None:
        """Wait until it has, after `ask`. Raises ClusterError when it does not say that it did."""
        deadline = self._clock.monotonic() + limits.HOOK_THAW_SECONDS
        try:
            while self._stream.end is None and not self._stream.is_over:
                if self._clock.monotonic() >= deadline:
                    raise ClusterError("it does not undo itself, or does not say so")
                for _, data in self._stream.poll(limits.EXEC_POLL_SECONDS):
                    self._keep(data)
            for _, data in self._stream.take_backlog():
                self._keep(data)
            if not self._stream.require_end().is_success:
                raise ClusterError(f"it ended{self._words()}")
        finally:
            self._stream.close()

    @property
    def last_words(self) -> str:
        """What it has said since it was asked to undo itself."""
        return bytes(self._said).decode("utf-8", "replace").strip()

    def close(self) -> None:
        """End the connection alone."""
        self._stream.close()

    def _wait_ready(self, cancel: Cancel) -> None:
        wanted = self._quiesce.ready.strip().encode()
        deadline = min(self._clock.monotonic() + self._quiesce.seconds, self._until)
        line = bytearray()
        while True:
            cancel.check()
            for stream, data in self._stream.poll(limits.EXEC_POLL_SECONDS):
                self._keep(data)
                if stream != STDOUT:
                    continue
                *lines, rest = bytes(line + data).split(b"\n")
                if any(one.strip() == wanted for one in lines):
                    return
                line = bytearray(rest[-limits.EXEC_KEPT_BYTES :])
            if self._stream.end is not None or self._stream.is_over:
                raise ClusterError(f"it ended before it held{self._words()}")
            if self._clock.monotonic() >= deadline:
                raise ClusterError(f"it does not say that it holds{self._words()}")

    def _keep(self, data: bytes) -> None:
        self._said += data
        del self._said[: -limits.EXEC_KEPT_BYTES]

    def _words(self) -> str:
        """How it ended and what it said last."""
        end = self._stream.end
        code = f", with code {end.exit_code}" if end is not None and end.exit_code is not None else ""
        said = bytes(self._said).decode("utf-8", "replace").strip()[-limits.EXEC_WORDS_MAX :]
        return f"{code}: {said}" if said else code
