"""The stores around a store, in the one order that is right.

From the inside out: the meter counts what is asked, late reads are asked twice, rates delay a request, and
what failed is asked again. So the meter sees each attempt and each second question, as the bill does; a read
that waits for its turn is not late; and a hedged read is one attempt for the retries.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvback import limits
from pvback.model import StoreUsage
from pvback.retrying import Patience
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
    core: ObjectStore
    """What the retries are around."""
    meter: MeteredStore
    patience: Patience
    """What the retries, rates, and those who repeat their own writes have. Its `cancel` ends every wait."""
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


def without_conditions(chain: StoreChain, *, clock: Clock | None = None) -> StoreChain:
    """The same chain for a store that ignores conditions: each look and each write is one attempt."""
    core = UnconditionalStore(chain.core)
    return replace(chain, core=core, store=RetryingStore(core, clock=clock, patience=chain.patience))


def chain_stores(
    inner: ObjectStore,
    *,
    upload_bytes_per_second: int | None = None,
    download_bytes_per_second: int | None = None,
    retry_seconds: float = limits.RETRY_DEADLINE_SECONDS,
    clock: Clock | None = None,
) -> StoreChain:
    """Put a meter, hedges, rates and retries around `inner`; a local store gets no hedges."""
    patience = Patience(deadline_seconds=retry_seconds)
    meter = MeteredStore(inner)
    core: ObjectStore = meter
    hedged = None
    if inner.capabilities.is_remote:
        # Loaded here: a local repository needs no threads for this.
        from pvback.storage.hedged import HedgedStore  # noqa: PLC0415

        core = hedged = HedgedStore(meter, clock=clock)
    up, down = upload_bytes_per_second, download_bytes_per_second
    if up is not None or down is not None:
        core = PacedStore(
            core,
            upload_bytes_per_second=up,
            download_bytes_per_second=down,
            clock=clock,
            patience=patience,
        )
    store = RetryingStore(core, clock=clock, patience=patience)
    return StoreChain(store=store, core=core, meter=meter, patience=patience, hedged=hedged)
