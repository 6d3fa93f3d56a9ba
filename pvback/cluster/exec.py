"""Commands in containers of pods: exec over a WebSocket, believed only where the cluster says how it ended.

Guarantee: a command has succeeded when a Status came that says Success, and not otherwise; a connection that
is closed before is a failure, whatever was printed. Output is handed on as it comes and never kept. A command
whose connection is closed goes on in its container; only its standard input ends.

The protocol: `v4.channel.k8s.io`, or `v5`, which is the same with a way to end standard input, where there is
one. An API server that is asked by v5 speaks to the node in its own name, and takes a connection that breaks
off there for a command that ended well: docs/adr/0029. The first byte of each message says which stream it is
of (k8s.io/apimachinery, util/remotecommand).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pvback import limits
from pvback.cluster.kinds import POD
from pvback.cluster.websockets import WebSocket
from pvback.errors import ClusterError
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["STDERR", "STDOUT", "CommandEnd", "ExecStream", "ExecTarget", "ended_well", "run_command"]

STDIN, STDOUT, STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_NONE = -1
"""Of a message whose first byte has not come."""
_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecTarget:
    """Where a command runs. Without a container the pod must have one only, or a default."""

    namespace: str
    pod: str
    container: str | None = None

    def __str__(self) -> str:
        within = f", container {self.container}" if self.container else ""
        return f"pod {self.namespace}/{self.pod}{within}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """How a command ended.

    Attributes:
        exit_code: None where it never ran, or nobody knows.
        message: The cluster's words where it did not succeed.
        stdout, stderr: The last of what it printed, where somebody kept it.
    """

    is_success: bool
    exit_code: int | None
    message: str = ""
    stdout: bytes = b""
    stderr: bytes = b""


class ExecStream:
    """A command that runs, from `open` to its end. For one thread at a time."""

    def __init__(self, connection: WebSocket, *, what: str) -> None:
        self.last_errors = b""
        """Of standard error, what `read_stdout` has kept."""
        self.end: CommandEnd | None = None
        """How it ended, once the cluster has said so; more output may come until `is_over`."""
        self._connection, self._what = connection, what
        self._channel = _NONE
        self._status = bytearray()
        self._backlog: list[tuple[int, bytes]] = []
        self._backlog_bytes = 0

    @classmethod
    def open(
        cls, cluster: "Cluster", target: ExecTarget, *, argv: Sequence[str], has_input: bool = False
    ) -> Self:
        """Start `argv`, no shell. With input only where that can be ended again (Kubernetes 1.30 or newer).

        Raises ClusterError and its classes: no such pod or container, no right to.
        """
        query = [("command", one) for one in argv]
        query += [(name, "true") for name in ("stdout", "stderr", *(("stdin",) if has_input else ()))]
        query += [("container", target.container)] if target.container else []
        path = POD.path(target.namespace, target.pod, subresource="exec")
        # Where standard input cannot be ended, a command that waits for that must not start.
        # And what it ends well by must be the node's own word where that can be had.
        protocols = (_V5,) if has_input else (_V4,)
        connection = cluster.dial(path, query=query, protocols=protocols, what=str(target))
        return cls(connection, what=str(target))

    @property
    def is_over(self) -> bool:
        """Whether no more output will come."""
        return self._connection.is_over and not self._backlog

    @property
    def protocol(self) -> str:
        """As it was agreed."""
        return self._connection.protocol

    def poll(self, seconds: float) -> list[tuple[int, bytes]]:
        """What has been printed, as (STDOUT or STDERR, bytes); waits at most so long for the first of it.

        Raises ClusterError where the stream breaks before its Status.
        """
        return self.take_backlog() or self._pump(seconds)

    def take_backlog(self) -> list[tuple[int, bytes]]:
        """What it has printed while it was written to, and nobody has read yet; also when it is over."""
        found, self._backlog, self._backlog_bytes = self._backlog, [], 0
        return found

    def write(self, data: bytes, *, deadline: float, clock: Clock, cancel: Cancel | None = None) -> None:
        """Into its standard input. What it prints meanwhile is kept for `poll`, up to a bound.

        Raises ClusterError where it ends, prints too much or takes too long; Interrupted.
        """
        for at in range(0, len(data), limits.EXEC_SEND_BYTES):
            self._connection.send(bytes([STDIN]) + data[at : at + limits.EXEC_SEND_BYTES])
            self._push(deadline=deadline, clock=clock, cancel=cancel)

    def close_input(self, *, deadline: float, clock: Clock) -> None:
        """End its standard input. Raises ClusterError where the server's protocol has no way to."""
        if self._connection.protocol != _V5:
            raise ClusterError(
                f"standard input cannot be ended by {self._connection.protocol}",
                key=self._what,
                hint="Kubernetes 1.30 and newer can",
            )
        if self.end is None and not self._connection.is_over:
            self._connection.send(bytes([_CLOSE, STDIN]))
            self._push(deadline=deadline, clock=clock, cancel=None)

    def require_end(self) -> CommandEnd:
        """How it ended, when it `is_over`. Raises ClusterError where nobody has said so."""
        if self.end is None:
            raise ClusterError("the command's stream was closed without a status", key=self._what)
        return self.end

    def read_stdout(self, *, seconds: float, clock: Clock, cancel: Cancel) -> Iterator[bytes]:
        """Its standard output to its end, which is checked: only after Success the iterator ends well.

        For what is to be stored: nothing of it may count before this has ended. Raises ClusterError,
        Interrupted.
        """
        deadline = clock.monotonic() + seconds
        errors = bytearray()
        while not self.is_done(deadline, clock):
            cancel.check()
            for stream, data in self.poll(limits.EXEC_POLL_SECONDS):
                if stream == STDOUT:
                    yield data
                else:
                    _keep_last(errors, data)
        self.last_errors = bytes(errors)
        end = self.require_end()
        if not end.is_success:
            raise ClusterError(_why(end, bytes(errors)), key=self._what)

    def is_done(self, deadline: float, clock: Clock) -> bool:
        """Whether it is over. Raises ClusterError when it is too late."""
        if self.is_over:
            return True
        if clock.monotonic() < deadline:
            return False
        if self.end is not None and not self._backlog:
            # The cluster has said how it ended, and does not close: that is enough.
            return True
        raise ClusterError("the command takes too long; it may go on in its container", key=self._what)

    def close(self) -> None:
        """End the connection; with it the command's standard input, but not the command."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _push(self, *, deadline: float, clock: Clock, cancel: Cancel | None) -> None:
        """Send what is to be sent, and keep what comes."""
        while self._connection.unsent_bytes:
            if cancel is not None:
                cancel.check()
            for stream, data in self._pump(limits.EXEC_POLL_SECONDS):
                self._backlog.append((stream, data))
                self._backlog_bytes += len(data)
            if self.end is not None or self._connection.is_over:
                raise ClusterError("the command ended before its input did", key=self._what)
            if self._backlog_bytes > limits.EXEC_BACKLOG_BYTES_MAX:
                raise ClusterError("the command prints more than it takes", key=self._what)
            if clock.monotonic() >= deadline:
                raise ClusterError("the command does not take its input", key=self._what)

    def _pump(self, seconds: float) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        try:
            pieces = self._connection.pump(seconds)
        except ClusterError as exc:
            if self.end is not None:
                # How a connection goes whose work is done says nothing of the work.
                return found
            raise ClusterError(
                f"the command's stream was closed without a status: {exc.what}", key=self._what
            ) from exc
        for piece in pieces:
            data = piece.payload
            if piece.is_first:
                self._channel = _NONE
            if self._channel == _NONE and data:
                self._channel, data = data[0], data[1:]
            if self._channel == _STATUS:
                self._hear_status(data, is_last=piece.is_last)
            elif self._channel in (STDOUT, STDERR):
                found += [(self._channel, data)] if data else []
            elif self._channel != _NONE:
                raise ClusterError(f"the stream is broken: channel {self._channel}", key=self._what)
        return found

    def _hear_status(self, data: bytes, *, is_last: bool) -> None:
        self._status += data
        if len(self._status) > limits.EXEC_STATUS_BYTES_MAX:
            raise ClusterError("the stream is broken: its status is too long", key=self._what)
        if is_last and self._status:
            self.end = _parse_status(bytes(self._status), self._what)
            self._status.clear()


def run_command(
    cluster: "Cluster",
    target: ExecTarget,
    *,
    argv: Sequence[str],
    seconds: float,
    clock: Clock,
    cancel: Cancel,
) -> CommandEnd:
    """Run a command to its end, with the last of what it printed. It may fail; see `ended_well`.

    Raises ClusterError where it cannot be started, its end is not known, or it takes longer than `seconds`;
    Interrupted.
    """
    kept = {STDOUT: bytearray(), STDERR: bytearray()}
    deadline = clock.monotonic() + seconds
    with ExecStream.open(cluster, target, argv=argv) as stream:
        while not stream.is_done(deadline, clock):
            cancel.check()
            for channel, data in stream.poll(limits.EXEC_POLL_SECONDS):
                _keep_last(kept[channel], data)
            if stream.end is not None:
                deadline = min(deadline, clock.monotonic() + limits.EXEC_CLOSE_SECONDS)
        end = stream.require_end()
    return CommandEnd(
        is_success=end.is_success,
        exit_code=end.exit_code,
        message=end.message,
        stdout=bytes(kept[STDOUT]),
        stderr=bytes(kept[STDERR]),
    )


def ended_well(end: CommandEnd, *, what: str) -> CommandEnd:
    """The end itself. Raises ClusterError where it is no success, with the command's last words."""
    if not end.is_success:
        raise ClusterError(_why(end, end.stderr or end.stdout), key=what)
    return end


def _why(end: CommandEnd, said: bytes) -> str:
    words = said.decode("utf-8", "replace").strip()[-limits.EXEC_WORDS_MAX :]
    how = end.message if end.exit_code is None else f"the command ended with code {end.exit_code}"
    return f"{how}: {words}" if words else how


def _keep_last(kept: bytearray, data: bytes) -> None:
    kept += data
    del kept[: -limits.EXEC_KEPT_BYTES]


def _parse_status(data: bytes, what: str) -> CommandEnd:
    """What a Status says. One that cannot be read is no success, and no end either."""
    try:
        said: Any = json.loads(data)
        is_success = said["status"] == "Success"
        causes = (said.get("details") or {}).get("causes") or ()
        codes = [int(one["message"]) for one in causes if one.get("reason") == "ExitCode"]
        message = str(said.get("message") or said.get("reason") or "")
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ClusterError("the stream is broken: its status cannot be read", key=what) from exc
    if is_success:
        return CommandEnd(is_success=True, exit_code=0)
    return CommandEnd(
        is_success=False,
        exit_code=codes[0] if codes else None,
        message=message or "the cluster does not say why the command failed",
    )
