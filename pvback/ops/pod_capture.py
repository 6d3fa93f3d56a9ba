"""What a command in a pod prints, as a source of a backup: a dump, stored without a file in between.

Guarantee: the source ends without an error only where the cluster says that the command succeeded and, unless
that was waived, what came is what the command printed, by a digest that was taken in its container. A backup
whose source ends with an error commits nothing.
"""

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvback import limits
from pvback.cluster.exec import ExecStream, ExecTarget
from pvback.errors import ClusterError
from pvback.ops.sources import Source, stream_source
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["Capture", "pod_source"]

_WITH_DIGEST = (
    # Standard output goes to the reader and to sha256sum, whose word is the last of standard error. Not by
    # opening /dev/stdout again: that belongs to the runtime, and a plain user may not.
    "exec 5>&1; "
    'code=$({ { "$@" 4>&- 5>&-; echo $? >&4; } | tee /dev/fd/3 3>&1 >&5 | sha256sum >&2; } 4>&1); '
    'exit "$code"'
)
_DIGEST = re.compile(rb"(?:^|\n)([0-9a-f]{64}) [ *]-\n$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A command whose output is wanted.

    Attributes:
        target: Where it runs.
        argv: The program and its arguments.
        seconds: How long it may take.
        is_digested: Whether the container takes a digest: it needs `sh`, `tee` and `sha256sum` for that.
    """

    target: ExecTarget
    argv: tuple[str, ...]
    seconds: float
    is_digested: bool = True

    @property
    def command(self) -> tuple[str, ...]:
        """What is run."""
        return ("sh", "-c", _WITH_DIGEST, "sh", *self.argv) if self.is_digested else self.argv


def pod_source(cluster: "Cluster", capture: Capture, *, name: str, cluster_name: str, clock: Clock) -> Source:
    """A source that runs the command when it is read, as one file called `name`. Raises UsageError."""
    return stream_source(
        name,
        host=f"{cluster_name}/{capture.target.namespace}",
        producer=lambda: _running(cluster, capture, clock),
    )


@contextlib.contextmanager
def _running(cluster: "Cluster", capture: Capture, clock: Clock) -> Iterator[int]:
    """A descriptor from which its output is read. On leaving without an error it was all of it."""
    with ExecStream.open(cluster, capture.target, argv=capture.command) as stream:
        reader, writer = os.pipe()
        pump = _Pump(stream, capture, writer=writer, clock=clock)
        pump.start()
        try:
            yield reader
        except BaseException:
            pump.stop()
            raise
        finally:
            # Who still writes learns by that that nobody reads any more.
            os.close(reader)
            pump.join()
        if pump.failure is not None:
            raise pump.failure


class _Pump(threading.Thread):
    """Carries the stream into the pipe, and judges its end."""

    def __init__(self, stream: ExecStream, capture: Capture, *, writer: int, clock: Clock) -> None:
        super().__init__(name="pvback-capture", daemon=True)
        self.failure: BaseException | None = None
        self._stream, self._capture, self._writer = stream, capture, writer
        self._clock, self._unwanted = clock, Cancel()

    def stop(self) -> None:
        """Nobody wants more of it."""
        self._unwanted.set("nobody reads it any more")

    def run(self) -> None:
        """See the class. What goes wrong, whatever it is, is for the thread that reads."""
        try:
            self._carry()
        except BaseException as exc:  # noqa: BLE001 -- told where the source ends
            self.failure = exc
        finally:
            os.close(self._writer)

    def _carry(self) -> None:
        digest = hashlib.sha256()
        count = 0
        what = str(self._capture.target)
        for part in self._stream.read_stdout(
            seconds=self._capture.seconds, clock=self._clock, cancel=self._unwanted
        ):
            digest.update(part)
            count += len(part)
            left = memoryview(part)
            while left:
                try:
                    left = left[os.write(self._writer, left) :]
                except BrokenPipeError as exc:
                    raise ClusterError("its output was not read to the end", key=what) from exc
        if self._capture.is_digested:
            _require_digest(self._stream.last_errors, digest.hexdigest(), count=count, what=what)


def _require_digest(errors: bytes, found: str, *, count: int, what: str) -> None:
    """Raise ClusterError unless the container's digest is ours."""
    match = _DIGEST.search(errors)
    if match is None:
        words = errors.decode("utf-8", "replace").strip()[-limits.EXEC_WORDS_MAX :]
        raise ClusterError(
            f"the container took no digest of the output: {words or 'it says nothing'}",
            key=what,
            hint="it needs `sh`, `tee` and `sha256sum`; `--no-digest` does without",
        )
    if match[1].decode() != found:
        raise ClusterError(f"the {count} bytes that came are not what the command printed", key=what)
