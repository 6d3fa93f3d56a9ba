"""Every test is run once, and each worker begins with its share of the long ones."""

import pytest

from tests.cluster.spreading import spread


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("longs", [set(), {7}, {0, 3, 8, 9, 11, 19}, set(range(20))])
def test_all_once(workers: int, longs: set[int]) -> None:
    items = list(range(20))
    ordered = spread(items, is_long=longs.__contains__, workers=workers)
    assert sorted(ordered) == items
    others = [one for one in ordered if one not in longs]
    assert others == sorted(others)
    assert workers > 1 or not longs or ordered[: len(longs)] == sorted(longs)


def test_each_begins_with_its_share() -> None:
    ordered = spread(range(14), is_long=lambda one: one >= 9, workers=3)
    assert ordered == [9, 12, 0, 1, 10, 13, 2, 3, 4, 11, 5, 6, 7, 8]
