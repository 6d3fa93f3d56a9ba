"""Giving up a read whose answer is no longer wanted, without touching its buffer afterwards.

A wrapper that may want that runs the read under a ticket. A store that can give up says `defer` before it
sends the request, `begin` before the first byte goes into the caller's buffer, and is told to stop by the
callback that it hands over. A store that knows no tickets is waited for: that is slow, and safe.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from pvback.errors import StorageUnavailable

__all__ = ["ReadTicket", "current_ticket", "reading_under"]


class ReadTicket:
    """One read. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._may_write = True
        self._stop: Callable[[], None] | None = None

    def defer(self) -> None:
        """The store promises not to touch the buffer before `begin`."""
        with self._lock:
            self._may_write = False

    def begin(self, stop: Callable[[], None], *, key: str) -> None:
        """The store is about to write into the buffer; `stop` makes it fail soon, from any thread.

        Raises StorageUnavailable when the read has been given up.
        """
        with self._lock:
            if self._is_abandoned:
                raise StorageUnavailable("the read was given up", key=key)
            self._may_write = True
            self._stop = stop

    def abandon(self) -> bool:
        """Give up. Returns whether the buffer is free at once; else it is when the read has ended."""
        with self._lock:
            self._is_abandoned = True
            if self._may_write and self._stop is not None:
                self._stop()
            return not self._may_write


_TICKET: ContextVar[ReadTicket | None] = ContextVar("pvback_read_ticket", default=None)


def current_ticket() -> ReadTicket:
    """The ticket that this thread reads under; one of its own that nobody abandons when there is none."""
    return _TICKET.get() or ReadTicket()


@contextmanager
def reading_under(ticket: ReadTicket) -> Generator[None, None, None]:
    """Reads of this thread are the ticket's."""
    token = _TICKET.set(ticket)
    try:
        yield
    finally:
        _TICKET.reset(token)
