"""Which worker begins with which tests, so that none is alone at the end with one that takes minutes.

Workers are given one stretch each of the tests in their order, and take from each other's ends when they have
nothing left (`--dist worksteal`). So each stretch begins with its share of the long ones; the others stay in
order, for tests of one module share what they have set up.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], *, is_long: Callable[[T], bool], workers: int) -> list[T]:
    """`items` in the order in which `workers` should be given them, each its stretch."""
    longs = [one for one in items if is_long(one)]
    others = iter([one for one in items if not is_long(one)])
    ordered: list[T] = []
    for number in range(workers):
        # As the scheduler divides what is left by the workers that are left.
        size = (len(items) - len(ordered)) // (workers - number)
        own = longs[number::workers][:size]
        ordered += own + list(islice(others, size - len(own)))
    left = [one for number in range(workers) for one in longs[number::workers] if one not in ordered]
    return ordered + left + list(others)
