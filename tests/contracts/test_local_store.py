"""What only a directory can get wrong: several processes, kills, flushes, full disks."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pvback.errors import RepositoryNotFound, StorageError, StorageUnavailable
from pvback.model import LocalAddress
from pvback.runtime import SeededRandom
from pvback.storage import durable, open_store
from pvback.storage.local import LocalStore

WORKER = Path(__file__).with_name("local_worker.py")


def start(role: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), role, str(root), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def race(workers: list[subprocess.Popen[str]]) -> list[str]:
    """Let all go at once and return what each printed."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    printed = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers)
    return printed


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_no_swap_is_lost_among_processes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("counter", b"0")
    race([start("add", tmp_path, str(name), "100") for name in range(4)])
    assert int(store.read("counter").data.split()[0]) == 400
    assert files(tmp_path) == {"counter"}


def test_each_create_is_won_by_one_process(tmp_path: Path) -> None:
    printed = race([start("claim", tmp_path, str(name), "100") for name in range(4)])
    won = sorted(int(index) for lines in printed for index in lines.split())
    assert won == list(range(100))
    store = LocalStore(tmp_path)
    for name, lines in enumerate(printed):
        for index in lines.split():
            assert store.read(f"claims/{int(index):03}").data == b"%d" % name


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_kill_leaves_old_or_new(tmp_path: Path, seed: int, size: int) -> None:
    store = LocalStore(tmp_path)
    random = SeededRandom(seed)
    for _ in range(8):
        store.put("victim", b"-" * size)
        worker = start("overwrite", tmp_path, str(size))
        with worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            begun = ["-"] + [worker.stdout.readline().strip() for _ in range(1 + random.below(8))]
            # A moment in the middle of the write that was announced last, measured in our own work.
            for _ in range(random.below(20_000)):
                pass
            worker.kill()
            begun += worker.stdout.read().split()
        data = store.read("victim").data
        assert len(data) == size
        assert data in [letter.encode() * size for letter in begun[-2:]]
        assert [info.key for info in store.list_objects("")] == ["victim"]
        store.sweep()
        assert files(tmp_path) == {"victim"}


def test_leftovers_are_not_objects_and_are_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("packs/aa/one", b"1")
    dead = tmp_path / "packs" / "aa" / ".tmp-dead"
    alive = tmp_path / "packs" / ".tmp-alive"
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with alive.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert [info.key for info in store.list_objects("")] == ["packs/aa/one"]
        assert store.sweep() == 1
        assert not dead.exists()
        assert alive.exists()


def test_flushes_before_it_names_and_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    events: list[str] = []

    def name_of(descriptor: int) -> str:
        path = os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path)
        return "temporary" if ".tmp-" in path else path

    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(f"flush {name_of(descriptor)}")
        real_fsync(descriptor)

    def rename(old: str, new: str) -> None:
        events.append("rename")
        real_rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    store.put("a/b/c", b"1")
    assert events == ["flush .", "flush a", "flush temporary", "rename", "flush a/b"]
    events.clear()
    store.swap("a/b/c", b"2", etag=store.read("a/b/c").etag)
    store.create("a/b/d", b"3")
    assert events == ["flush temporary", "rename", "flush a/b"] * 2


def test_who_comes_during_a_flush_shares_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = durable.DirectorySync(str(tmp_path))
    running, release, waiting = threading.Event(), threading.Event(), threading.Semaphore(0)
    flushes: list[str] = []

    def flush(folder: str) -> None:
        flushes.append(folder)
        running.set()
        assert release.wait(30)

    class Condition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.release()
            return super().wait(timeout)

    monkeypatch.setattr(durable, "_flush_directory", flush)
    monkeypatch.setattr("pvback.storage.durable.threading.Condition", Condition)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(sync.flush, "x")
        assert running.wait(30)
        others = [pool.submit(sync.flush, "x") for _ in range(5)]
        for _ in others:
            assert waiting.acquire(timeout=30)
        release.set()
        for work in [first, *others]:
            work.result()
    assert flushes == ["x", "x"]


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_directories_that_cannot_be_flushed_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_told: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    sync = durable.DirectorySync(str(tmp_path))
    if is_told:
        with pytest.raises(OSError, match="output error"):
            sync.flush(str(tmp_path))
    else:
        sync.flush(str(tmp_path))


def test_a_failed_flush_is_told_to_its_caller_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = durable.DirectorySync(str(tmp_path))
    results = iter([OSError(errno.EIO, "input/output error"), None])

    def flush(_: str) -> None:
        if error := next(results):
            raise error

    monkeypatch.setattr(durable, "_flush_directory", flush)
    with pytest.raises(OSError, match="input/output"):
        sync.flush("x")
    sync.flush("x")


@pytest.mark.parametrize(
    ("call", "number", "error", "says"),
    [
        ("write", errno.ENOSPC, StorageError, "no space left"),
        ("write", errno.EDQUOT, StorageError, "quota"),
        ("write", errno.EIO, StorageUnavailable, "Input/output error"),
        ("fsync", errno.ENOSPC, StorageError, "no space left"),
        ("open", errno.EROFS, StorageError, "read-only"),
        ("rename", errno.EACCES, StorageError, "permission denied"),
    ],
)
def test_system_errors_are_translated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    error: type[StorageError],
    says: str,
) -> None:
    store = LocalStore(tmp_path)
    etag = store.create("a/b", b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for write in (lambda: store.put("a/b", b"new"), lambda: store.swap("a/b", b"new", etag=etag)):
            with pytest.raises(StorageError, match=says) as caught:
                write()
            assert type(caught.value) is error
            assert caught.value.key == "a/b"
    assert store.read("a/b").data == b"old"
    assert files(tmp_path) == {"a/b"}


def test_a_write_that_cannot_be_flushed_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"old")

    def fail(_: str) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(durable, "_flush_directory", fail)
    with pytest.raises(StorageUnavailable, match="may not be durable"):
        store.put("a", b"new")


def test_a_directory_that_went_away_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"1")
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a" / ".lock").unlink()
    (tmp_path / "a").rmdir()
    with pytest.raises(StorageUnavailable):
        store.put("a/b", b"2")
    store.put("a/b", b"3")
    assert store.read("a/b").data == b"3"


def test_a_root_that_went_away_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    store = LocalStore(tmp_path / "r")
    (tmp_path / "r").rmdir()
    with pytest.raises(StorageError):
        list(store.list_objects(""))


def test_open_store(tmp_path: Path) -> None:
    address = LocalAddress(tmp_path / "r")
    with pytest.raises(RepositoryNotFound, match="repository not found at"):
        open_store(address)
    open_store(address, make=True).put("a", b"1")
    assert open_store(address).read("a").data == b"1"
    assert open_store(address, make=True).read("a").data == b"1"
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StorageError, match="file of that name"):
        open_store(LocalAddress(tmp_path / "f"), make=True)
    with pytest.raises(StorageError, match="directory above"):
        open_store(LocalAddress(tmp_path / "x" / "y"), make=True)
