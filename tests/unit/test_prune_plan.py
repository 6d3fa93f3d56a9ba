"""Which packs a prune chooses."""

from datetime import UTC, datetime, timedelta

from pvback.repository.index_work import PackUse, Usage
from pvback.repository.prune_plan import ListedPack, PruneOptions, PrunePlan, plan_prune

NOW = datetime(2026, 11, 29, tzinfo=UTC)
OLD = NOW - timedelta(days=3)
MIB = 1 << 20
NEVER = PruneOptions(unused_share_max=1.0)


def use(
    name: str, used: int, total: int = 32 * MIB, *, is_spared: bool = False, kind: str = "data"
) -> PackUse:
    return PackUse(
        name=name,
        kind="data" if kind == "data" else "meta",
        object_bytes=total,
        entry_count=64,
        entry_bytes=total,
        used_count=64 if used else 0,
        used_bytes=used,
        is_spared=is_spared,
    )


def plan(
    *uses: PackUse,
    options: PruneOptions | None = None,
    listed: dict[str, datetime] | None = None,
    dead: frozenset[str] = frozenset(),
) -> PrunePlan:
    times = {one.name: OLD for one in uses} if listed is None else listed
    packs = {name: ListedPack(f"data/{name}", 32 * MIB, time) for name, time in times.items()}
    return plan_prune(
        Usage(packs={one.name: one for one in uses}),
        packs,
        dead=dead,
        now=NOW,
        options=options or PruneOptions(),
        pack_bytes=32 * MIB,
    )


def test_what_nothing_needs_goes() -> None:
    made = plan(use("a", 0), use("b", 32 * MIB))
    assert (made.unused, made.repack) == (["a"], [])
    assert made.condemned == {"a"}
    assert made.unused_bytes == 32 * MIB


def test_young_packs_and_those_of_sessions_stay() -> None:
    times = {"young": NOW - timedelta(hours=23), "spared": OLD, "orphan": OLD, "fresh": NOW}
    made = plan(use("young", 0), use("spared", 0, is_spared=True), listed=times)
    assert (made.unused, made.orphans, made.young_count) == ([], ["orphan"], 3)
    assert plan(use("young", 0), listed=times, options=PruneOptions(unused_seconds=0)).unused == ["young"]


def test_dead_packs_are_no_orphans() -> None:
    made = plan(listed={"gone": OLD, "other": OLD}, dead=frozenset({"gone"}))
    assert made.orphans == ["other"]


def test_the_emptiest_packs_are_written_again_until_it_is_enough() -> None:
    packs = [use("a", 1 * MIB), use("b", 8 * MIB), use("c", 31 * MIB), use("d", 32 * MIB)]
    made = plan(*packs, options=PruneOptions(unused_share_max=0.05))
    assert set(made.repack) == {"a", "b"}
    assert made.remaining_bytes == 1 * MIB
    assert made.wasted_bytes == 31 * MIB + 24 * MIB
    assert plan(*packs, options=NEVER).repack == []
    assert set(plan(*packs, options=PruneOptions(unused_share_max=0)).repack) == {"a", "b", "c"}


def test_no_more_than_allowed_is_copied() -> None:
    packs = [use("a", 4 * MIB), use("b", 6 * MIB), use("c", 8 * MIB)]
    made = plan(*packs, options=PruneOptions(unused_share_max=0, repack_bytes_max=11 * MIB))
    assert set(made.repack) == {"a", "b"}
    assert made.repack_bytes == 10 * MIB
    assert plan(*packs, options=PruneOptions(unused_share_max=0, repack_bytes_max=0)).repack == []


def test_many_small_packs_are_put_together() -> None:
    small = [use(f"s{number}", MIB, MIB) for number in range(8)]
    assert len(plan(*small).repack) == 8
    assert plan(*small[:7]).repack == []
    mixed = [*small[:7], use("m", MIB, MIB, kind="meta")]
    assert plan(*mixed).repack == [], "data and metadata never share a pack"


def test_packs_that_are_not_there() -> None:
    made = plan(use("needed", MIB), use("idle", 0), listed={})
    assert (made.lost, made.gone) == (["needed"], ["idle"])
    assert made.condemned == {"idle"}


def test_what_is_written_again_is_in_order_of_the_newest() -> None:
    times = {"a": OLD, "b": OLD + timedelta(hours=2), "c": OLD + timedelta(hours=1)}
    made = plan(*(use(name, MIB) for name in times), listed=times, options=PruneOptions(unused_share_max=0))
    assert made.repack == ["b", "c", "a"]
