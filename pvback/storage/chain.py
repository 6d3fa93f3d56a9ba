"""The stores around a store, in the one order that is right.

From the inside out: rates delay a request, the meter counts what is asked, late reads are asked twice, and
what failed is asked again. So the meter sees each attempt and each second question, as the bill does, and a
hedged read is one attempt for the retries.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvback import limits
from pvback.model import StoreUsage
from pvback.runtime import Clock
from pvback.storage.base import ObjectStore
from pvback.storage.metered import MeteredStore
from pvback.storage.paced import PacedStore
from pvback.storage.retry import RetryingStore
from pvback.storage.unconditional import UnconditionalStore

if TYPE_CHECKING:
    from pvback.storage.hedged import HedgedStore

__all__ = ["StoreChain", "chain_stores", "without_conditions"]


@dataclass(frozen=True, slots=True)
class StoreChain:
    """A store, and what was asked of the one at its core."""

    store: RetryingStore
    """The outermost; closing it closes all."""
    meter: MeteredStore
    hedged: "HedgedStore | None" = None

    def usage(self) -> StoreUsage:
        """The counts of this moment. A lock is taken for each request, none for what is in it."""
        counted = self.meter.usage()
        return StoreUsage(
            requests={kind.value: count for kind, count in counted.requests.items()},
            request_count=counted.request_count,
            retry_count=self.store.retry_count,
            hedge_count=self.hedged.hedge_count if self.hedged else 0,
            sent_bytes=counted.sent_bytes,
            received_bytes=counted.received_bytes,
        )


def without_conditions(
    chain: StoreChain, *, retry_seconds: float = limits.RETRY_DEADLINE_SECONDS, clock: Clock | None = None
) -> StoreChain:
    """The same chain for a store that ignores conditions: each look and each write is one attempt."""
    inner = UnconditionalStore(chain.hedged or chain.meter)
    return replace(chain, store=RetryingStore(inner, clock=clock, deadline_seconds=retry_seconds))


def chain_stores(
    inner: ObjectStore,
    *,
    upload_bytes_per_second: int | None = None,
    download_bytes_per_second: int | None = None,
    retry_seconds: float = limits.RETRY_DEADLINE_SECONDS,
    clock: Clock | None = None,
) -> StoreChain:
    """Put rates, a meter, hedges and retries around `inner`; a local store gets no hedges."""
    up, down = upload_bytes_per_second, download_bytes_per_second
    paced = inner
    if up is not None or down is not None:
        paced = PacedStore(inner, upload_bytes_per_second=up, download_bytes_per_second=down)
    meter = MeteredStore(paced)
    if not inner.capabilities.is_remote:
        return StoreChain(RetryingStore(meter, clock=clock, deadline_seconds=retry_seconds), meter)
    # Loaded here: a local repository needs no threads for this.
    from pvback.storage.hedged import HedgedStore  # noqa: PLC0415

    hedged = HedgedStore(meter, clock=clock)
    return StoreChain(RetryingStore(hedged, clock=clock, deadline_seconds=retry_seconds), meter, hedged)
