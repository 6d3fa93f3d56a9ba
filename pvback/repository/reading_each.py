"""Reading many small objects, or two things: beside each other where a request costs more than a thread."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pvback import limits
from pvback.storage import ObjectStore

__all__ = ["beside", "read_each"]

T = TypeVar("T")
R = TypeVar("R")

# Up to here one after the other is faster than to start threads, for a store without a network.
_ONE_BY_ONE_COUNT_MAX = 32


def read_each(store: ObjectStore, items: Sequence[T], *, work: Callable[[T], R]) -> list[R]:
    """What `work` makes of each, in order: beside each other where that is faster."""
    is_remote = store.capabilities.is_remote
    if len(items) <= (1 if is_remote else _ONE_BY_ONE_COUNT_MAX):
        return [work(one) for one in items]
    # Loaded here: with what it brings it takes longer than to read the objects of a small repository.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    threads = limits.READS_IN_FLIGHT if is_remote else limits.READS_IN_FLIGHT_LOCAL
    with ThreadPoolExecutor(threads, thread_name_prefix="pvback-catalog") as pool:
        return list(pool.map(work, items))


def beside(store: ObjectStore, *, first: Callable[[], T], second: Callable[[], R]) -> tuple[T, R]:
    """What both return; neither may need the other's requests to come before its own.

    Where a request costs less than a thread, `second` is called before `first`: what may come in any order
    then comes in the one that nobody would choose, and every test shows whether that does harm.
    """
    if not store.capabilities.is_remote:
        found = second()
        return first(), found
    # Loaded here, as above.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1, thread_name_prefix="pvback-beside") as pool:
        other = pool.submit(second)
        return first(), other.result()
