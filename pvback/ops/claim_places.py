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
        """Wait for a place on each of them, or until all is over."""
        with self._free:
            while any(self._taken[one] >= self._count for one in names) and not is_over():
                self._free.wait(limits.CLUSTER_POLL_SECONDS)
            self._taken.update(names)

    def leave(self, names: Sequence[str]) -> None:
        """Give the places back."""
        with self._free:
            self._taken.subtract(names)
            self._free.notify_all()
