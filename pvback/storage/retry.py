"""A store that asks again when a retry may help, and never when it could do harm."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from pvback import limits
from pvback.errors import StorageUnavailable
from pvback.runtime import Cancel, Clock, Random, SystemClock, SystemRandom
from pvback.storage.base import ObjectInfo, ObjectStore
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["RetryingStore", "plan_pause"]

T = TypeVar("T")


def plan_pause(attempt: int, fraction: float) -> float:
    """Seconds to wait after the failed attempt number `attempt`, counted from 0.

    Doubles from `RETRY_SECONDS_MIN` to `RETRY_SECONDS_MAX`; `fraction` in [0, 1) places it in the upper half
    of that, so that clients which failed together do not come back together.
    """
    ceiling = min(limits.RETRY_SECONDS_MAX, limits.RETRY_SECONDS_MIN * 2.0 ** min(attempt, 30))
    return ceiling * (1.0 + fraction) / 2


class RetryingStore(WrappedStore):
    """Repeats what failed with StorageUnavailable, except `create` and `swap`.

    Those two are answered differently the second time, and only the caller, who knows the nonce that it
    wrote, can tell its own first success from somebody else's.

    Args:
        inner: The store to ask.
        clock: Sleeps between attempts.
        random: Spreads them.
        cancel: Asked before each attempt and during each pause; Interrupted is raised then.
        on_retry: Told before each pause: the error, and how long it will be in seconds.
    """

    def __init__(
        self,
        inner: ObjectStore,
        *,
        clock: Clock | None = None,
        random: Random | None = None,
        cancel: Cancel | None = None,
        on_retry: Callable[[StorageUnavailable, float], None] | None = None,
    ) -> None:
        super().__init__(inner)
        self._clock = clock or SystemClock()
        self._random = random or SystemRandom()
        self._cancel = cancel or Cancel()
        self._on_retry = on_retry

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        attempt = 0
        while True:
            self._cancel.check()
            try:
                return act()
            except StorageUnavailable as exc:
                if not kind.is_repeatable or attempt >= limits.RETRY_COUNT_MAX:
                    raise
                self._pause(attempt, exc)
            attempt += 1

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`. Goes on after the last key; attempts count anew from each."""
        attempt = 0
        while True:
            self._cancel.check()
            try:
                for info in self._inner.list_objects(prefix, after=after):
                    after, attempt = info.key, 0
                    yield info
            except StorageUnavailable as exc:
                if attempt >= limits.RETRY_COUNT_MAX:
                    raise
                self._pause(attempt, exc)
                attempt += 1
            else:
                return

    def _pause(self, attempt: int, exc: StorageUnavailable) -> None:
        seconds = plan_pause(attempt, self._random.fraction())
        if self._on_retry is not None:
            self._on_retry(exc, seconds)
        self._clock.sleep(seconds, self._cancel)
