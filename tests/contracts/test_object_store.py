"""One suite for every object store. A new store is one line in FACTORIES."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback import limits
from pvback.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
)
from pvback.runtime import SeededRandom
from pvback.storage import ObjectStore, ReadBuffer
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.local import LocalStore
from pvback.storage.memory import MemoryStore
from pvback.storage.metered import MeteredStore
from tests.contracts.stores import settling

Factory = Callable[[Path, int], ObjectStore]
FACTORIES: dict[str, Factory] = {
    "memory": lambda _, __: MemoryStore(),
    "memory-small-pages": lambda _, __: MemoryStore(page_count=3),
    "local": lambda path, _: LocalStore(path),
    "faulty-off": lambda _, seed: FaultyStore(MemoryStore(), seed=seed, rates=FaultRates()),
    "faulty-on": lambda _, seed: settling(MemoryStore(), seed),
    "faulty-on-local": lambda path, seed: settling(LocalStore(path), seed),
    "metered": lambda _, __: MeteredStore(MemoryStore()),
}


@pytest.fixture(params=FACTORIES, ids=str)
def store(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[ObjectStore]:
    made = FACTORIES[request.param](tmp_path, seed)
    yield made
    made.close()


def keys_of(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key for info in store.list_objects(prefix, after=after)]


@pytest.mark.parametrize("size", [0, 1, 65_537, 3_000_000])
def test_what_is_put_is_read(store: ObjectStore, size: int, seed: int) -> None:
    data = SeededRandom(seed).bytes(size)
    store.put("packs/00/a", data)
    assert store.read("packs/00/a").data == data
    assert store.head("packs/00/a").size == size


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_buffer_is_taken(store: ObjectStore, kind: Callable[[bytes], ReadBuffer]) -> None:
    etag = store.create("a", kind(b"one"))
    etag = store.swap("a", kind(b"two"), etag=etag)
    store.put("b", kind(b"three"))
    assert (store.read("a").data, store.read("b").data) == (b"two", b"three")
    assert store.read("a").etag == etag


def test_the_callers_buffer_is_copied(store: ObjectStore) -> None:
    buffer = bytearray(b"before")
    store.put("a", buffer)
    buffer[:] = b"after!"
    assert store.read("a").data == b"before"


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"a longer first one")
    store.put("a", b"second")
    assert store.read("a").data == b"second"


def test_create_refuses_what_is_there(store: ObjectStore) -> None:
    etag = store.create("a", b"first")
    with pytest.raises(ObjectExists):
        store.create("a", b"second")
    found = store.read("a")
    assert (found.data, found.etag) == (b"first", etag)


def test_create_after_delete(store: ObjectStore) -> None:
    store.create("a", b"first")
    store.delete("a")
    store.create("a", b"second")
    assert store.read("a").data == b"second"


def test_swap_needs_the_etag_of_what_is_there(store: ObjectStore) -> None:
    first = store.create("a", b"first")
    second = store.swap("a", b"second", etag=first)
    assert second != first
    with pytest.raises(ObjectChanged):
        store.swap("a", b"third", etag=first)
    assert store.read("a").data == b"second"
    store.swap("a", b"fourth", etag=second)
    assert store.read("a").data == b"fourth"


def test_swap_of_nothing_fails(store: ObjectStore) -> None:
    etag = store.create("a", b"first")
    store.delete("a")
    for key in ("a", "b", "c/d"):
        with pytest.raises(ObjectChanged):
            store.swap(key, b"second", etag=etag)
    assert keys_of(store) == []


def test_one_of_many_creates_wins(store: ObjectStore) -> None:
    barrier = threading.Barrier(8)

    def attempt(index: int) -> bool:
        barrier.wait()
        try:
            store.create("race", b"%d" % index)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert won.count(True) == 1
    assert store.read("race").data == b"%d" % won.index(True)


def test_no_swap_is_lost(store: ObjectStore) -> None:
    # The object lists all who ever won: after a lost answer, what was written last may be somebody else's.
    store.create("log", b"start")

    def add(worker: int) -> None:
        for step in range(10):
            mark = b"%d-%d" % (worker, step)
            while mark not in (found := store.read("log")).data.split():
                with contextlib.suppress(ObjectChanged):
                    store.swap("log", found.data + b" " + mark, etag=found.etag)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    marks = store.read("log").data.split()[1:]
    assert sorted(marks) == sorted(b"%d-%d" % (worker, step) for worker in range(4) for step in range(10))


def test_ranges(store: ObjectStore) -> None:
    store.put("a", bytes(range(100)))
    assert store.read_range("a", offset=10, length=5) == bytes(range(10, 15))
    assert store.read_range("a", offset=95, length=10) == bytes(range(95, 100))
    assert store.read_range("a", offset=0, length=1 << 40) == bytes(range(100))
    for offset, length in ((100, 1), (1000, 1), (10, 0)):
        assert store.read_range("a", offset=offset, length=length) == b""


def test_reads_into_a_buffer(store: ObjectStore) -> None:
    store.put("a", bytes(range(100)))
    buffer = bytearray(30)
    assert store.read_into("a", memoryview(buffer)[5:15], offset=50) == 10
    assert buffer == bytes(5) + bytes(range(50, 60)) + bytes(15)
    assert store.read_into("a", buffer, offset=90) == 10
    assert buffer[:10] == bytes(range(90, 100))
    assert store.read_into("a", buffer, offset=100) == 0


@pytest.mark.parametrize("key", ["a", "x", "x/y", "packs"])
def test_what_is_not_there_is_not_found(store: ObjectStore, key: str) -> None:
    store.put("packs/00/a", b"")
    for call in (
        lambda: store.read(key),
        lambda: store.head(key),
        lambda: store.read_range(key, offset=0, length=1),
        lambda: store.read_into(key, bytearray(1), offset=0),
    ):
        with pytest.raises(ObjectNotFound) as caught:
            call()
        assert caught.value.key == key


def test_times_are_the_stores(store: ObjectStore) -> None:
    store.put("a", b"")
    mtime = store.head("a").mtime
    assert abs(mtime - datetime.now(UTC)) < timedelta(minutes=5)
    assert [info.mtime for info in store.list_objects("")] == [mtime]
    assert store.read("a").mtime == mtime


# "-" and "." sort before "/", "0" and letters after it: order by directory is not order by key.
TRICKY = ["a-b", "a-b/c", "a.b", "a/b", "a/b.c", "a0", "a=", "aa/b/c", "aa/b0", "b", "b_/x", "c/d/e/f"]


def test_lists_in_key_order(store: ObjectStore) -> None:
    keys = [key for key in TRICKY if key != "a-b"]
    for key in reversed(keys):
        store.put(key, key.encode())
    assert keys_of(store) == sorted(keys)
    assert [info.size for info in store.list_objects("")] == [len(key) for key in sorted(keys)]


def test_lists_by_prefix_and_after(store: ObjectStore) -> None:
    keys = sorted(key for key in TRICKY if key != "a-b")
    for key in keys:
        store.put(key, b"")
    for prefix in ["", "a", "a/", "a/b", "aa/b", "aa/b/", "b_", "c/d/e/f", "c/d/e/f/", "d", "x/y/"]:
        for after in ["", "a", "a-b/c", "a/b", "aa", "aa/b/c", "b", "c/d/e", "c/d/e/f", "z"]:
            wanted = [key for key in keys if key.startswith(prefix) and key > after]
            assert keys_of(store, prefix, after) == wanted, (prefix, after)


def test_a_long_list(store: ObjectStore) -> None:
    keys = [f"packs/{index % 7}/{index:05}" for index in range(40)]
    for key in keys:
        store.put(key, b"")
    assert keys_of(store, "packs/") == sorted(keys)


def test_a_list_shows_once_what_is_replaced_meanwhile(store: ObjectStore) -> None:
    keys = [f"snapshots/{index:03}" for index in range(20)]
    etags = {key: store.create(key, b"0") for key in keys}
    nonces = itertools.count(1)
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            for key in keys:
                etags[key] = store.swap(key, b"%d" % next(nonces), etag=etags[key])

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(replace)
        try:
            for _ in range(20):
                assert keys_of(store, "snapshots/") == keys
        finally:
            done.set()
        work.result()


def test_what_is_deleted_meanwhile_is_no_error(store: ObjectStore) -> None:
    for index in range(9):
        store.put(f"a/{index}", b"")
    seen = []
    for info in store.list_objects("a/"):
        seen.append(info.key)
        store.delete_many(["a/5", "a/8"])
    assert seen[:5] == [f"a/{index}" for index in range(5)]
    assert set(seen) >= {"a/6", "a/7"}


def test_delete(store: ObjectStore) -> None:
    for key in ("a", "b", "c/d"):
        store.put(key, b"")
    store.delete("a")
    store.delete("a")
    store.delete("never/was")
    assert keys_of(store) == ["b", "c/d"]
    store.delete_many(["b", "c/d", "never"])
    store.delete_many([])
    assert keys_of(store) == []


BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    "../a",
    ".",
    "./a",
    ".tmp-x",
    "a/.lock",
    "a\0",
    "a b",
]


@pytest.mark.parametrize("key", [*BAD_KEYS, "\xe9", "a\n", "a" * (limits.KEY_BYTES_MAX + 1)])
def test_bad_keys_are_refused(store: ObjectStore, key: str) -> None:
    for call in (
        lambda: store.put(key, b""),
        lambda: store.create(key, b""),
        lambda: store.swap(key, b"", etag="x"),
        lambda: store.read(key),
        lambda: store.read_range(key, offset=0, length=1),
        lambda: store.read_into(key, bytearray(1), offset=0),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.delete_many([key]),
    ):
        with pytest.raises(StorageError) as caught:
            call()
        assert not isinstance(caught.value, ObjectNotFound | ObjectChanged | StorageUnavailable)


@pytest.mark.parametrize("prefix", ["/", "a//", "..", "../", "a/..", ".tmp", "\xe9"])
def test_bad_prefixes_are_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(StorageError):
        list(store.list_objects(prefix))


KEYS = st.sampled_from(["a", "b/c", "b/d", "b-", "e/f/g"])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "create", "swap", "stale", "delete"]), KEYS), max_size=30)


@pytest.mark.parametrize("name", FACTORIES)
@given(steps=STEPS, seed_value=st.integers(0, 2**32))
def test_behaves_like_a_dictionary(
    name: str, steps: list[tuple[str, str]], seed_value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = FACTORIES[name](tmp_path_factory.mktemp("store"), seed_value)
    check_like_a_dictionary(store, steps)
    store.close()


def check_like_a_dictionary(store: ObjectStore, steps: list[tuple[str, str]]) -> None:
    """After each step the store holds what a dictionary would."""
    model: dict[str, bytes] = {}
    for number, (step, key) in enumerate(steps):
        data = b"%d" % number
        etag = store.read(key).etag if key in model and step == "swap" else "none"
        allowed = {"create": key not in model, "swap": key in model, "stale": False}.get(step, True)
        try:
            match step:
                case "put":
                    store.put(key, data)
                case "create":
                    store.create(key, data)
                case "delete":
                    store.delete(key)
                case _:
                    store.swap(key, data, etag=etag)
        except (ObjectExists, ObjectChanged):
            assert not allowed
        else:
            assert allowed
            if step == "delete":
                model.pop(key, None)
            else:
                model[key] = data
        assert {info.key: store.read(info.key).data for info in store.list_objects("")} == model
