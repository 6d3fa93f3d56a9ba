"""A store of which the next questions are asked before somebody needs the answers.

To open a repository takes requests one after the other, and in between a password is turned into a key: a
good part of a second in which a remote store idles. Who knows what will be asked next says so, and one thread
asks it meanwhile, in the same order.

Guarantee: the store sees the requests in the order in which the caller makes them, only earlier. An answer is
handed out once, to the request that it is for, when that comes next; any other request, a write before all,
drops what is left of the answers. A failure is raised to who asks, and to nobody when nobody does.
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

Question = tuple[Literal["read", "list"], str]
"""A whole object, or all that a prefix has."""


class AheadStore(WrappedStore):
    """Asks ahead what it is told to, while the caller does something else."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._asked: deque[tuple[Question, Future[Any]]] = deque()

    def ask_ahead(self, questions: Sequence[Question]) -> None:
        """Ask these in a thread of their own, one after the other. What was asked before is dropped."""
        self.drop()
        asked = [(one, Future[Any]()) for one in questions]
        self._asked = deque(asked)
        thread = threading.Thread(target=_answer, args=(self._inner, asked), name="pvback-ahead", daemon=True)
        thread.start()

    def drop(self) -> None:
        """Forget what was asked ahead; what was not begun is not asked any more."""
        dropped, self._asked = self._asked, deque()
        for _, answer in dropped:
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
        """The answer to this if it is what was expected next; else None, and all answers are dropped."""
        if self._asked and self._asked[0][0] == question:
            with contextlib.suppress(CancelledError):
                return self._asked.popleft()[1].result()
        self.drop()
        return None

    def _request(self, kind: Request, key: str, act: Callable[[], T]) -> T:
        self.drop()
        return act()

    def close(self) -> None:
        """See `ObjectStore.close`."""
        self.drop()
        super().close()


def _answer(store: ObjectStore, asked: Sequence[tuple[Question, Future[Any]]]) -> None:
    for (kind, name), answer in asked:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(store.read(name) if kind == "read" else list(store.list_objects(name)))
        except BaseException as exc:  # noqa: BLE001 -- raised where it was asked for
            answer.set_exception(exc)
            break
    for _, answer in asked:
        answer.cancel()
