"""How work on claims is shown: a bar for each on a terminal, JSON lines, or warnings only."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pvback.cli.output import Output
from pvback.cli.progress import stopping
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.runtime import Cancel, Counters, NoProgress, Progress, SystemClock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["NamedProgress", "working", "working_on_many"]


class NamedProgress:
    """JSON lines or warnings that say which claim they are about."""

    def __init__(self, output: Output, claim: str) -> None:
        self._output, self._claim = output, claim

    def update(self, counters: Counters) -> None:
        """See `Progress.update`."""
        if self._output.is_json:
            self._output.message("status", {"claim": self._claim, "counters": counters})

    def warn(self, what: str) -> None:
        """See `Progress.warn`."""
        self._output.warn(f"{self._claim}: {what}")


@contextmanager
def working(output: Output, cluster: "Cluster", *, claim: str) -> Iterator[ClaimWork]:
    """Work on one claim."""
    with working_on_many(output, cluster, claims=[claim]) as (work, progress_of):
        namespace, _, name = claim.partition("/")
        yield ClaimWork(
            cluster=work.cluster,
            progress=progress_of(Claim(namespace, name)),
            cancel=work.cancel,
            clock=work.clock,
        )


@contextmanager
def working_on_many(
    output: Output, cluster: "Cluster", *, claims: Sequence[str]
) -> Iterator[tuple[ClaimWork, Callable[[Claim], Progress]]]:
    """Work on many, and the progress of each."""

    def plain(claim: Claim) -> Progress:
        return NamedProgress(output, str(claim))

    def work(cancel: Cancel) -> ClaimWork:
        return ClaimWork(cluster=cluster, progress=NoProgress(), cancel=cancel, clock=SystemClock())

    if output.is_json or output.is_quiet or not sys.stderr.isatty():
        with stopping() as cancel:
            yield work(cancel), plain
        return
    # Loaded here: only a terminal is worth it.
    from pvback.cli.bar import drawing_many  # noqa: PLC0415

    with drawing_many(claims) as bars, stopping() as cancel:
        # A group may have got another claim meanwhile.
        yield work(cancel), lambda claim: bars.get(str(claim)) or NoProgress()
