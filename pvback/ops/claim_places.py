"""Who may begin, where only so many may at a time."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from pvback import limits

__all__ = ["Places"]


class Places:
    """So many at most at each place: a node, or a pod."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: Counter[str] = Counter()
        self._free = threading.Condition()

    def take(self, names: Sequence[str], is_over: Callable[[], bool]) -> None:
        """Wait for a place for each name, as often as it is there, or until all is over."""
        wanted = Counter(names)
        assert all(count <= self._count for count in wanted.values()), "there will be so many"
        with self._free:
            while any(self._taken[one] + wanted[one] > self._count for one in wanted) and not is_over():
                self._free.wait(limits.CLUSTER_POLL_SECONDS)
            self._taken.update(names)

    def leave(self, names: Sequence[str]) -> None:
        """Give the places back."""
        with self._free:
            self._taken.subtract(names)
            self._free.notify_all()
