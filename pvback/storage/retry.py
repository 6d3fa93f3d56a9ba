"""A store that asks again when a retry may help, and never when it could do harm."""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from pvback import limits
from pvback.errors import StorageError, StorageUnavailable
from pvback.retrying import plan_pause
from pvback.runtime import Cancel, Clock, Random, SystemClock, SystemRandom
from pvback.storage.base import ObjectInfo, ObjectStore
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["RetryingStore"]

T = TypeVar("T")


class RetryingStore(WrappedStore):
    """Repeats what failed with StorageUnavailable, except `create` and `swap`.

    Those two are answered differently the second time, and only the caller, who knows the nonce that it
    wrote, can tell its own first success from somebody else's. A store that has never answered is given
    up sooner: its address may be wrong.

    Args:
        inner: The store to ask.
        clock: Sleeps between attempts.
        random: Spreads them.
        cancel: Asked before each attempt and during each pause; Interrupted is raised then.
        on_retry: Told before each pause: the error, and how long it will be in seconds.
        deadline_seconds: No attempt begins later than that after the first one.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        cancel: Cancel | None = None,
        on_retry: Callable[[StorageUnavailable, float], None] | None = None,
        deadline_seconds: float = limits.RETRY_DEADLINE_SECONDS,
    ) -> None:
        super().__init__(inner)
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._cancel = cancel or Cancel()
        self._on_retry = on_retry
        self._deadline_seconds = deadline_seconds
        self._has_answered = False
        self._lock = threading.Lock()
        self.retry_count = 0
        """Attempts that failed and are made again, of all requests; by callers for `create`, `swap`."""

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        attempt, began = 0, self._clock.monotonic()
        while True:
            self._cancel.check()
            try:
                result = act()
            except StorageUnavailable as exc:
                if not kind.is_repeatable:
                    self._count()
                    raise
                self._pause_or_raise(exc, attempt, began)
            except StorageError:
                self._has_answered = True
                raise
            else:
                self._has_answered = True
                return result
            attempt += 1

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Goes on after the last key; attempts count anew from each."""
        attempt, began = 0, self._clock.monotonic()
        while True:
            self._cancel.check()
            try:
                for info in self._inner.list_objects(prefix, after=after):
                    after, self._has_answered = info.key, True
                    yield info
                    attempt, began = 0, self._clock.monotonic()
            except StorageUnavailable as exc:
                self._pause_or_raise(exc, attempt, began)
                attempt += 1
            else:
                return

    def _count(self) -> None:
        with self._lock:
            self.retry_count += 1

    def _pause_or_raise(self, exc: StorageUnavailable, attempt: int, began: float) -> None:
        """Wait before the next attempt, or raise `exc` when there is to be none."""
        count_max = limits.RETRY_COUNT_MAX if self._has_answered else limits.RETRY_COUNT_FIRST_MAX
        seconds = plan_pause(attempt, self._random.fraction(), least=exc.pause_seconds)
        left = began + self._deadline_seconds - self._clock.monotonic()
        if attempt >= count_max or seconds >= left:
            raise exc
        self._count()
        if self._on_retry is not None:
            self._on_retry(exc, seconds)
        self._clock.sleep(seconds, self._cancel)
