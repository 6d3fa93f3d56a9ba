"""A store that asks again when a retry may help, and never when it could do harm."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from pvback import limits
from pvback.errors import StorageError, StorageUnavailable
from pvback.retrying import Attempts, Patience
from pvback.runtime import Clock, SystemClock
from pvback.storage.base import ObjectInfo, ObjectStore
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["Retries", "RetryingStore"]

T = TypeVar("T")


class Retries:
    """Repeats requests to one store, from several threads. See `RetryingStore` for the rules."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        patience: Patience | None = None,
        on_retry: Callable[[StorageUnavailable, float], None] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._on_retry = on_retry
        self._has_answered = False
        self._lock = threading.Lock()
        self.count = 0
        """Attempts that failed and are made again."""

    def ask(self, kind: Request, act: Callable[[], T]) -> T:
        """What `act` returns, which makes one request of that kind."""
        attempts = self.begin()
        while True:
            try:
                result = act()
            except StorageUnavailable as exc:
                if not kind.is_repeatable:
                    self._count()
                    raise
                self.pause_or_raise(attempts, exc)
            except StorageError:
                self.note_answer()
                raise
            else:
                self.note_answer()
                return result

    def begin(self) -> Attempts:
        """Before the first attempt of a request. Raises Interrupted when nobody waits for it any more."""
        self._patience.check()
        return self._patience.begin(self._clock)

    def note_answer(self) -> None:
        """The store is there."""
        self._has_answered = True

    def pause_or_raise(self, attempts: Attempts, exc: StorageUnavailable) -> None:
        """Wait before the next attempt, or raise `exc` when there is to be none."""
        count_max = limits.RETRY_COUNT_MAX if self._has_answered else limits.RETRY_COUNT_FIRST_MAX
        seconds = attempts.plan(exc, count_max=count_max)
        if seconds is None:
            raise exc
        self._count()
        if self._on_retry is not None:
            self._on_retry(exc, seconds)
        attempts.sleep(seconds)

    def _count(self) -> None:
        with self._lock:
            self.count += 1


class RetryingStore(WrappedStore):
    """Repeats what failed with StorageUnavailable, except `create` and `swap`.

    Those two are answered differently the second time, and only the caller, who knows the nonce that it
    wrote, can tell its own first success from somebody else's. A store that has never answered is given
    up sooner: its address may be wrong.

    Args:
        inner: The store to ask.
        clock: Sleeps between attempts.
        patience: How many there are, and how far apart.
        on_retry: Told before each pause: the error, and how long it will be in seconds.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        clock: Clock | None = None,
        patience: Patience | None = None,
        on_retry: Callable[[StorageUnavailable, float], None] | None = None,
    ) -> None:
        super().__init__(inner)
        self._retries = Retries(clock=clock, patience=patience, on_retry=on_retry)

    @property
    def retry_count(self) -> int:
        """Attempts that failed and are made again, of all requests; by callers for `create`, `swap`."""
        return self._retries.count

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        return self._retries.ask(kind, act)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Goes on after the last key; attempts count anew from each."""
        attempts = self._retries.begin()
        while True:
            try:
                for info in self._inner.list_objects(prefix, after=after):
                    after = info.key
                    self._retries.note_answer()
                    yield info
                    attempts = self._retries.begin()
            except StorageUnavailable as exc:
                self._retries.pause_or_raise(attempts, exc)
            else:
                return
