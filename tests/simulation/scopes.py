"""What is simulated together, and how bad its store is."""

from dataclasses import dataclass, field

from pvback import limits
from tests.simulation.bucket import Rates

__all__ = ["SCOPES", "Scope"]

_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How many of whom, and what may go wrong."""

    name: str
    writers: int = 2
    backups: int = 2
    """Of each writer, one after the other."""
    pruners: int = 1
    prunes: int = 2
    """Of each pruner."""
    forgetters: int = 1
    forgets: int = 2
    readers: int = 1
    restores: int = 2
    menders: int = 0
    """Each loses registers, and repairs."""
    losses: int = 2
    """Of each mender."""
    reopeners: int = 0
    """Each sees registers lost that come back as they were created."""
    state_losers: int = 0
    """Each loses `gc/state` once, and makes it anew."""
    lies: int = 0
    """Contents in place of which somebody stored garbage, in a snapshot that counts, and was revoked before
    all others began.
    """
    chunk_universe: int = 6
    """So many contents are there: the fewer, the more is shared."""
    chunks_max: int = 5
    kill_rate: float = 0.0
    restart_share: float = 0.7
    """How many of the killed processes are started again."""
    merge_share: float = 0.3
    """Of the backups, how many merge runs before they commit."""
    rates: Rates = field(default_factory=Rates)
    fence_seconds: float = 900.0
    grace_seconds: float = 3000.0
    condemn_share_max: float = 0.6
    repack_share_max: float = 0.5
    pauses: tuple[float, ...] = (0.0, 60.0, 600.0)
    """How long a pruner sleeps before each run; on a store without conditions, a writer too."""
    looks: tuple[float, ...] = (0.0, 60.0, 400.0)
    """How long forgetters and readers sleep before each step."""

    @property
    def is_timed(self) -> bool:
        """Whether conditions are not kept, so that waiting decides."""
        return not self.rates.can_condition


SCOPES = (
    Scope(name="all"),
    Scope(name="calm", rates=Rates().quiet(), writers=3),
    Scope(name="kills", kill_rate=0.01, writers=2, backups=3),
    Scope(name="prunes", pruners=3, prunes=2, writers=2, backups=2, readers=1, kill_rate=0.002),
    Scope(name="forget", forgetters=2, forgets=3, grace_seconds=300.0, writers=2, backups=2, kill_rate=0.002),
    Scope(
        name="storm",
        rates=Rates(refused=0.05, conflict=0.03, lost=0.06, late=0.06, doubled=0.06),
        kill_rate=0.004,
        writers=2,
        backups=2,
    ),
    Scope(name="lag", rates=Rates(list_lag_seconds=120.0), kill_rate=0.002),
    Scope(name="long", writers=1, backups=2, pruners=2, prunes=4, chunks_max=12, chunk_universe=10),
    Scope(
        name="timed",
        rates=Rates(can_condition=False, list_lag_seconds=120.0),
        kill_rate=0.002,
        backups=3,
        prunes=8,
        forgets=3,
        restores=3,
        grace_seconds=limits.FORGET_GRACE_SECONDS,
        pauses=(0.0, 3600.0, _DAY, 4 * _DAY),
        looks=(0.0, 60.0, 3600.0, _DAY, 7.5 * _DAY, 9 * _DAY),
    ),
    # A create that lands again makes a second register of what was made anew. No canary shows by that
    # alone: it takes a loss before it lands, and a prune after it (`test_a_snapshot_of_two_registers`).
    Scope(
        name="repairs",
        menders=2,
        losses=3,
        pruners=2,
        backups=3,
        forgetters=0,
        kill_rate=0.001,
        rates=Rates(doubled=0.04),
    ),
    Scope(name="reopened", reopeners=2, losses=3, pruners=2, prunes=3, backups=3, kill_rate=0.002),
    Scope(name="reopened-repairs", reopeners=2, menders=1, losses=3, pruners=2, backups=3, kill_rate=0.001),
    Scope(name="reopened-state", reopeners=2, state_losers=1, pruners=2, backups=3, forgetters=1),
    Scope(name="revoked", lies=4, pruners=2, prunes=3, backups=3, kill_rate=0.001, repack_share_max=0.8),
    Scope(
        name="lost-state-kills",
        state_losers=1,
        pruners=2,
        backups=3,
        forgetters=1,
        kill_rate=0.01,
        rates=Rates(late=0.08),
    ),
    Scope(name="lost-state", state_losers=1, pruners=2, backups=3, forgetters=1, kill_rate=0.001),
)
