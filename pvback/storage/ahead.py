"""A store of which the next questions are asked before somebody needs the answers.

To open a repository takes requests one after the other, and in between a password is turned into a key: a
good part of a second in which a remote store idles. Who knows what will be asked next says so, and threads
ask it meanwhile, in the same order.

Guarantee: the store sees the requests in the order in which the caller makes them, only earlier; those of one
group in any. An answer is handed out once, to the request that it is for, when that comes next; any other
request, a write before all, drops what is left of the answers. A failure is raised to who asks, and to nobody
when nobody does.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Literal, TypeVar, cast

from pvback.storage.base import ObjectInfo, ObjectStore, StoredObject
from pvback.storage.wrap import Request, WrappedStore

__all__ = ["AheadStore", "Question"]

T = TypeVar("T")

_THREAD = "pvback-ahead"
Question = tuple[Literal["read", "list"], str]
"""A whole object, or all that a prefix has."""


class AheadStore(WrappedStore):
    """Asks ahead what it is told to, while the caller does something else."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._asked: deque[dict[Question, Future[Any]]] = deque()

    def ask_ahead(self, groups: Sequence[Sequence[Question]]) -> None:
        """Ask these one group after the other, all of a group at once. What was asked before is dropped."""
        self.drop()
        asked = [{one: Future[Any]() for one in group} for group in groups]
        with self._lock:
            # The answers are taken out of these, but asked for by what is in them now.
            self._asked = deque(dict(group) for group in asked)
        thread = threading.Thread(target=_answer, args=(self._inner, asked), name=_THREAD, daemon=True)
        thread.start()

    @property
    def is_asked(self) -> bool:
        """Whether there are answers that nobody has taken yet."""
        with self._lock:
            return bool(self._asked)

    def drop(self) -> None:
        """Forget what was asked ahead; what was not begun is not asked any more."""
        with self._lock:
            dropped, self._asked = self._asked, deque()
        for group in dropped:
            for answer in group.values():
                answer.cancel()

    def read(self, key: str) -> StoredObject:
        """See `ObjectStore.read`."""
        known = self._take(("read", key))
        return super().read(key) if known is None else cast("StoredObject", known)

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list_objects`."""
        if after:
            self.drop()
            return self._inner.list_objects(prefix, after=after)
        known = self._take(("list", prefix))
        return self._inner.list_objects(prefix) if known is None else iter(known)

    def _take(self, question: Question) -> Any | None:  # noqa: ANN401 -- what the question asks for
        """The answer to this if it is one that was expected next; else None, and all answers are dropped."""
        with self._lock:
            answer = self._asked[0].pop(question, None) if self._asked else None
            if answer is not None and not self._asked[0]:
                self._asked.popleft()
        if answer is not None:
            with contextlib.suppress(CancelledError):
                return answer.result()
        self.drop()
        return None

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        self.drop()
        return act()

    def close(self) -> None:
        """See `ObjectStore.close`."""
        self.drop()
        super().close()


def _answer(store: ObjectStore, groups: Sequence[dict[Question, Future[Any]]]) -> None:
    for group in groups:
        # All but the first have threads of their own.
        (own, answer), *others = group.items()
        threads = [
            threading.Thread(target=_ask, args=(store, *one), name=_THREAD, daemon=True) for one in others
        ]
        for thread in threads:
            thread.start()
        _ask(store, own, answer)
        for thread in threads:
            thread.join()
        if any(one.cancelled() or one.exception() is not None for one in group.values()):
            break
    for group in groups:
        for one in group.values():
            one.cancel()


def _ask(store: ObjectStore, question: Question, answer: Future[Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    kind, name = question
    try:
        answer.set_result(store.read(name) if kind == "read" else list(store.list_objects(name)))
    except BaseException as exc:  # noqa: BLE001 -- raised where it was asked for
        answer.set_exception(exc)
