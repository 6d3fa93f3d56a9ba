"""Which packs a prune gives up, and which it writes again. Pure: nothing here reads or writes.

A plan may be wrong in either direction without harm: what is needed is established again after every session
has ended or taken note, and packs that hold the only copy of something are spared then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pvback import limits
from pvback.errors import DamagedError
from pvback.repository.index_work import PackUse, Usage

__all__ = ["ListedPack", "PruneOptions", "PrunePlan", "plan_prune", "require_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How to prune. Seconds are by the store's clock, but for the fences, which are waited for."""

    unused_share_max: float = limits.PRUNE_UNUSED_SHARE_MAX
    """Packs are written again until no more than this share of what is stored is unused."""
    repack_bytes_max: int | None = None
    """No more than this is copied; None: no bound. 0: nothing is written again."""
    unused_seconds: float = limits.UNUSED_PACK_SECONDS
    """Packs that nothing needs are given up when they are older."""
    grace_seconds: float = limits.FORGET_GRACE_SECONDS
    """Forgotten snapshots can be brought back for so long."""
    fence_seconds: float = limits.FENCE_SECONDS_MIN
    """How long a session that does not take note is waited for."""
    is_forced: bool = False
    """Go through a whole cycle although there seems to be nothing to do."""
    is_alone: bool = False
    """No other prune of this repository is ever configured: asked for where a store has no conditional
    writes.
    """


@dataclass(frozen=True, slots=True)
class ListedPack:
    """A pack as the store lists it."""

    key: str
    size: int
    mtime: datetime
    is_locked: bool = False
    """It cannot be removed yet, and is left as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What to give up and what to write again, by name of pack, each in the order in which it is done."""

    unused: Sequence[str] = ()
    """Listed in the index, and nothing needs them."""
    orphans: Sequence[str] = ()
    """In no index run that counts."""
    repack: Sequence[str] = ()
    """Mostly unused, or small: what is needed of them is copied."""
    lost: Sequence[str] = ()
    """Needed, and not in the store: nothing may be deleted before that is mended."""
    gone: Sequence[str] = ()
    """Not needed, and not in the store."""
    unused_bytes: int = 0
    """Of unused packs and orphans, as objects."""
    repack_bytes: int = 0
    """Of what is copied."""
    wasted_bytes: int = 0
    """Of what is unused inside the packs that are written again."""
    remaining_bytes: int = 0
    """Unused bytes that stay, in packs that are used."""
    locked: Sequence[str] = ()
    """Would go, but are locked: they would cost as much as before."""
    locked_bytes: int = 0
    """Of these, as objects."""
    young_count: int = 0
    """Packs that nothing needs, but that are too young to be given up, or are a session's."""
    total_bytes: int = 0
    """Of all packs that are listed."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why each pack is written again."""

    @property
    def condemned(self) -> frozenset[str]:
        """Everything that goes."""
        return frozenset((*self.unused, *self.orphans, *self.repack, *self.gone))


def plan_prune(
    usage: Usage,
    listed: Mapping[str, ListedPack],
    *,
    dead: frozenset[str],
    now: datetime,
    options: PruneOptions,
    pack_bytes: int,
) -> PrunePlan:
    """The plan for an index, joined with what is needed, and a list of packs that was made after it.

    `dead` are given up already; `now` is the store's time; `pack_bytes` the usual size of a pack.
    """
    locked = {name for name, pack in listed.items() if pack.is_locked}
    old = now - timedelta(seconds=options.unused_seconds)
    unused, young = [], 0
    for name, use in usage.packs.items():
        if use.used_count == 0 and name in listed:
            if use.is_spared or listed[name].mtime > old:
                young += 1
            elif name not in locked:
                unused.append(name)
    orphans = [name for name in listed if name not in usage.packs and name not in dead]
    young += sum(listed[name].mtime > old for name in orphans)
    orphans = [name for name in orphans if listed[name].mtime <= old and name not in locked]
    used = [use for use in usage.packs.values() if use.used_count and use.name in listed]
    free = [use for use in used if use.name not in locked]
    reasons = _choose_repacks(free, options=options, pack_bytes=pack_bytes)
    chosen = [usage.packs[name] for name in reasons]
    stays = [use for use in used if use.name not in reasons]
    absent = [use for name, use in usage.packs.items() if name not in listed]
    return PrunePlan(
        unused=sorted(unused, key=lambda name: listed[name].mtime),
        orphans=sorted(orphans),
        repack=sorted(reasons, key=lambda name: (listed[name].mtime, name), reverse=True),
        lost=sorted(use.name for use in absent if use.used_count),
        gone=sorted(use.name for use in absent if not use.used_count),
        unused_bytes=sum(listed[name].size for name in (*unused, *orphans)),
        repack_bytes=sum(use.used_bytes for use in chosen),
        wasted_bytes=sum(use.entry_bytes - use.used_bytes for use in chosen),
        remaining_bytes=sum(use.entry_bytes - use.used_bytes for use in stays),
        locked=sorted(locked),
        locked_bytes=sum(listed[name].size for name in locked),
        young_count=young,
        total_bytes=sum(pack.size for pack in listed.values()),
        reasons=reasons,
    )


def _choose_repacks(used: Iterable[PackUse], *, options: PruneOptions, pack_bytes: int) -> dict[str, str]:
    """Pack -> why it is written again: the emptiest first, then small ones, as far as the bounds allow."""
    candidates = [use for use in used if not use.is_spared]
    wasted = sum(use.entry_bytes - use.used_bytes for use in candidates)
    allowed = options.unused_share_max * sum(use.entry_bytes for use in candidates)
    room = options.repack_bytes_max
    chosen: dict[str, str] = {}

    def take(use: PackUse, why: str) -> bool:
        nonlocal room
        if room is not None:
            if use.used_bytes > room:
                return False
            room -= use.used_bytes
        chosen[use.name] = why
        return True

    for use in sorted(candidates, key=lambda one: (one.used_bytes / one.entry_bytes, one.name)):
        if wasted <= allowed or use.used_bytes == use.entry_bytes:
            break
        if take(use, f"{1 - use.used_bytes / use.entry_bytes:.0%} unused"):
            wasted -= use.entry_bytes - use.used_bytes
    for kind in ("data", "meta"):
        small = [
            use
            for use in candidates
            if use.kind == kind and use.name not in chosen and use.object_bytes < pack_bytes // 4
        ]
        if len(small) >= limits.PRUNE_SMALL_PACK_COUNT:
            for use in small:
                take(use, "small")
    return chosen


def require_all(usage: Usage) -> None:
    """Raises DamagedError when something that is needed is nowhere: then nothing may be removed."""
    if usage.missing_count:
        raise DamagedError(
            f"{usage.missing_count} chunks or pages that snapshots need are in no pack of the index: "
            + ", ".join(usage.missing_examples),
            hint="nothing was removed; `pvback check` says what is affected, `pvback repair` mends it",
        )
