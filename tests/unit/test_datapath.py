"""Serving jobs: order, errors and ends."""

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pvback import datapath
from pvback.datapath import DataJob, Listeners, run_job
from pvback.errors import (
    DamagedError,
    InternalError,
    Interrupted,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
)
from pvback.ops.reading import stream_reading
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, SystemClock
from pvback.storage.base import WriteBuffer
from pvback.storage.memory import MemoryStore
from pvback.storage.retry import RetryingStore
from tests.support import fake_native

OPTIONS: dict[str, object] = {"scope": "0" * 32, "gets": 3, "puts": 2}


@pytest.fixture
def keyring(access: RepositoryAccess) -> Any:
    return access.keyring


def play(native: SimpleNamespace, verb: Any) -> None:
    native.verbs["play"] = verb


def test_a_module_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pvback._native", None)
    with pytest.raises(InternalError, match="does not load"):
        datapath.native_version()


def test_requests_are_served_at_once(native: SimpleNamespace, keyring: Any) -> None:
    together = threading.Barrier(3, timeout=30)

    class Slow(MemoryStore):
        def read_into(self, key: str, buffer: WriteBuffer, *, offset: int) -> int:
            together.wait()
            return 1

    def verb(job: fake_native.Job) -> dict[str, Any]:
        threads = [threading.Thread(target=job.ask, args=("get", "a"), kwargs={"length": 1}) for _ in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return {"done": True}

    play(native, verb)
    assert run_job("play", keyring, options=OPTIONS, store=Slow()) == {"done": True}


def test_outputs_come_one_at_a_time(native: SimpleNamespace, keyring: Any) -> None:
    inside, worst = 0, 0

    def on_output(kind: str, data: memoryview) -> None:
        nonlocal inside, worst
        inside += 1
        worst = max(worst, inside)
        threading.Event().wait(0.001)
        inside -= 1

    def verb(job: fake_native.Job) -> dict[str, Any]:
        threads = [threading.Thread(target=job.ask, args=("output", "rows", b"1")) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return {}

    play(native, verb)
    run_job("play", keyring, options=OPTIONS, store=MemoryStore(), listeners=Listeners(on_output=on_output))
    assert worst == 1


def test_the_stores_own_exception_is_raised(native: SimpleNamespace, keyring: Any) -> None:
    play(native, lambda job: job.ask("get", "absent") and {})
    with pytest.raises(ObjectNotFound, match="object not found") as caught:
        run_job("play", keyring, options=OPTIONS, store=MemoryStore())
    assert "echo" not in str(caught.value)


def test_an_error_that_the_job_lived_with_is_not_raised(native: SimpleNamespace, keyring: Any) -> None:
    def verb(job: fake_native.Job) -> dict[str, Any]:
        with pytest.raises(ObjectNotFound):
            job.ask("get", "absent")
        return {"lived": True}

    def damaged(job: fake_native.Job) -> dict[str, Any]:
        verb(job)
        raise DamagedError("something else")

    play(native, verb)
    assert run_job("play", keyring, options=OPTIONS, store=MemoryStore()) == {"lived": True}
    play(native, damaged)
    with pytest.raises(DamagedError):
        run_job("play", keyring, options=OPTIONS, store=MemoryStore())


def test_what_a_receiver_raises_ends_the_job(native: SimpleNamespace, keyring: Any) -> None:
    def refuse(kind: str, data: memoryview) -> None:
        raise BrokenPipeError

    play(native, lambda job: job.ask("output", "bytes", b"x") and {})
    with pytest.raises(BrokenPipeError):
        run_job("play", keyring, options=OPTIONS, store=MemoryStore(), listeners=Listeners(on_output=refuse))


def test_a_put_whose_answer_was_lost(native: SimpleNamespace, keyring: Any) -> None:
    class Silent(MemoryStore):
        calls = 0

        def create(self, key: str, data: Any) -> str:
            etag = super().create(key, data)
            self.calls += 1
            if self.calls == 1:
                raise StorageUnavailable("no answer", key=key)
            return etag

    store = Silent()

    def verb(job: fake_native.Job) -> dict[str, Any]:
        job.ask("put", "a/b", b"content")
        return {}

    play(native, verb)
    run_job("play", keyring, options=OPTIONS, store=store)
    assert store.read("a/b").data == b"content"


def test_a_put_over_something_else(native: SimpleNamespace, keyring: Any) -> None:
    store = MemoryStore()
    store.create("a/b", b"another")

    def verb(job: fake_native.Job) -> dict[str, Any]:
        job.ask("put", "a/b", b"content")
        return {}

    play(native, verb)
    with pytest.raises(ObjectExists):
        run_job("play", keyring, options=OPTIONS, store=store)


def test_cancel_ends_a_job(native: SimpleNamespace, keyring: Any) -> None:
    cancel = Cancel()

    def verb(job: fake_native.Job) -> dict[str, Any]:
        cancel.set()
        assert job.is_cancelled.wait(30)
        raise Interrupted("cancelled")

    play(native, verb)
    with pytest.raises(Interrupted):
        run_job("play", keyring, options=OPTIONS, store=MemoryStore(), listeners=Listeners(cancel=cancel))


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize("is_orderly", [True, False])
def test_a_job_that_is_given_up_does_not_wait_for_its_store(
    native: SimpleNamespace, keyring: Any, way: str, is_orderly: bool
) -> None:
    """Cancelled by a wish that has been waited for, or by a second one, which the listener raises."""
    is_away, cancel = threading.Event(), Cancel()

    class Away(MemoryStore):
        def create(self, key: str, data: Any) -> str:
            raise self._lost(key)

        def read(self, key: str) -> Any:
            raise self._lost(key)

        def _lost(self, key: str) -> StorageUnavailable:
            is_away.set()
            return StorageUnavailable("no connection", key=key, pause_seconds=200.0)

    def verb(job: fake_native.Job) -> dict[str, Any]:
        job.ask(way, "a", *([b"content"] if way == "put" else []))
        return {}

    def on_tick(_: Any) -> None:
        if is_away.is_set() and is_orderly:
            cancel.set("by the user")
        elif is_away.is_set():
            raise Interrupted("twice")

    play(native, verb)
    store = RetryingStore(Away())
    before = SystemClock().monotonic()
    with pytest.raises(Interrupted, match="by the user" if is_orderly else "twice"):
        run_job(
            "play",
            keyring,
            options=OPTIONS,
            store=store,
            listeners=Listeners(on_tick=on_tick, cancel=cancel),
        )
    assert SystemClock().monotonic() - before < 60


def test_no_thread_is_left(native: SimpleNamespace, keyring: Any) -> None:
    before = threading.active_count()

    def fail(job: fake_native.Job) -> dict[str, Any]:
        raise StorageError("full")

    play(native, fail)
    with pytest.raises(StorageError):
        DataJob("play", keyring, options=OPTIONS, store=MemoryStore()).run(Listeners())
    assert threading.active_count() == before


def test_a_stream_that_nobody_reads_to_its_end(native: SimpleNamespace, access: RepositoryAccess) -> None:
    stopped = threading.Event()

    def endless(job: fake_native.Job) -> dict[str, Any]:
        try:
            while True:
                job.ask("output", "rows", b"{}")
        finally:
            stopped.set()

    native.verbs["list"] = endless
    outputs = stream_reading(access, "list", options={})
    assert next(outputs) == ("rows", b"{}")
    outputs.close()  # type: ignore[attr-defined]
    assert stopped.wait(30)


def test_a_stream_raises_after_what_it_said(native: SimpleNamespace, access: RepositoryAccess) -> None:
    def broken(job: fake_native.Job) -> dict[str, Any]:
        job.ask("output", "rows", b"{}")
        raise DamagedError("torn")

    native.verbs["list"] = broken
    outputs = stream_reading(access, "list", options={})
    assert next(outputs) == ("rows", b"{}")
    with pytest.raises(DamagedError, match="torn"):
        next(outputs)


def test_reading_begins_again_when_prune_has_moved_something(
    native: SimpleNamespace, access: RepositoryAccess
) -> None:
    runs = []

    def moved(job: fake_native.Job) -> dict[str, Any]:
        runs.append(job.options["index"])
        if len(runs) < 3:
            job.ask("get", job.key("index/0000000000000001-" + "a" * 32))
        job.ask("output", "rows", b"{}")
        return {}

    native.verbs["list"] = moved
    assert list(stream_reading(access, "list", options={})) == [("rows", b"{}")]
    assert len(runs) == 3
