"""What the native core backs up, the reference reader restores, and finds nothing wrong with."""

import os
import random
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvback.reference import dump, restore, verify
from pvback.reference.pages import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SOCKET,
    SYMLINK,
    Node,
)
from tests.support.native_repository import NativeRepository, NativeSnapshot
from tests.support.torture_tree import TortureTree
from tests.support.tree_facts import FLAGS_COMPARED, Facts, TreeFacts, differences, remove_tree

FORMATS = {FILE: stat.S_IFREG, DIRECTORY: stat.S_IFDIR, SYMLINK: stat.S_IFLNK, FIFO: stat.S_IFIFO,
           SOCKET: stat.S_IFSOCK, CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}  # fmt: skip
SMALL_BYTES = 2048
AVERAGE = 4096
# Written zeros come back allocated but unwritten, which SEEK_DATA takes for a hole.
WRITTEN_ZEROS = b"zeros written"


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for one in tmp_path.iterdir():
        if one.is_dir() and not one.is_symlink():
            remove_tree(one)


def node_differences(node: Node, facts: Facts, top: TreeFacts) -> list[str]:
    """What a node does not say as the file system does."""
    inode = top.inodes[node.key]
    said = {
        "mode": FORMATS[node.kind] | node.mode, "uid": node.uid, "gid": node.gid,
        "mtime": node.mtime[0] * 10**9 + node.mtime[1], "ctime": node.ctime[0] * 10**9 + node.ctime[1],
        "ino": node.ino, "xattrs": node.xattrs, "flags": node.flags & FLAGS_COMPARED,
        "size": node.size, "target": node.target, "device": node.device,
        "linked": node.link_group is not None, "marks": node.changed or node.unreadable or node.partial,
    }  # fmt: skip
    seen = {
        "mode": facts.mode, "uid": facts.uid, "gid": facts.gid, "mtime": facts.mtime_ns,
        "ctime": inode.ctime_ns, "ino": inode.number, "xattrs": facts.xattrs, "flags": facts.flags,
        "size": facts.size, "target": facts.target, "device": facts.device,
        "linked": bool(facts.names), "marks": False,
    }  # fmt: skip
    return [
        f"{node.path[:60]!r}: {name}: {said[name]} for {seen[name]}"
        for name in said
        if said[name] != seen[name]
    ]


def assert_restores(
    made: NativeRepository, snapshot: NativeSnapshot, source: TreeFacts, target: Path
) -> None:
    repository = made.reference()
    report = verify(repository)
    assert report.findings == []
    found = repository.snapshot(snapshot.id)
    nodes = list(repository.walk(found))
    assert [node.key for node in nodes] == sorted(source.facts)
    assert found.root.nodes == len(nodes)
    wrong = [one for node in nodes for one in node_differences(node, source.facts[node.key], source)]
    assert wrong == []
    summary = restore(repository, found, str(target))
    assert summary.is_complete, summary.lost
    restored = TreeFacts(target)
    for tree in (source, restored):
        if WRITTEN_ZEROS in tree.facts:
            tree.facts[WRITTEN_ZEROS] = tree.facts[WRITTEN_ZEROS].without_holes
    assert differences(source, restored, hole_size_min=SMALL_BYTES) == []


def test_torture_tree(scratch: Path, seed: int) -> None:
    tree = TortureTree(scratch / "source", seed)
    print("left out:", tree.left_out)
    if os.geteuid() == 0:
        assert tree.left_out == [], "root on the usual file systems can make all of it"
    made = NativeRepository(average=AVERAGE)
    source = TreeFacts(tree.top.decode())
    assert max(map(len, source.facts)) > 4096
    snapshot = made.backup(scratch / "source")
    assert snapshot.problems == []
    assert_restores(made, snapshot, source, scratch / "target")


def test_torture_tree_again(scratch: Path, seed: int) -> None:
    """The second backup reads nothing and says the same; one with --force reads all and stores nothing."""
    TortureTree(scratch / "source", seed)
    # Where data lies in a sparse file is settled only when it has been written back.
    os.sync()
    made = NativeRepository(average=AVERAGE)
    source = TreeFacts(scratch / "source")
    first = made.backup(scratch / "source")
    before = set(made.store.objects)
    for force in (False, True):
        again = made.backup(scratch / "source", parent=first, force=force)
        assert again.root == first.root
        new = {key.split("/")[2] for key in set(made.store.objects) - before if key.startswith("s/")}
        assert new == {"refs", "records", "snapshots"}
    assert_restores(made, again, source, scratch / "target")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 5_000_001])
def test_single_file(scratch: Path, seed: int, size: int) -> None:
    data = bytes(size // 2) + random.Random(seed).randbytes(size - size // 2)
    (scratch / "image").write_bytes(data)
    made = NativeRepository(average=AVERAGE)
    for chunker in ("fixed", "argmin"):
        snapshot = made.backup(scratch / "image", kind="file", chunker=chunker)
        assert dumped(made, snapshot) == data
    assert verify(made.reference()).findings == []


@pytest.mark.parametrize("size", [0, 3_000_000, 16_000_000])
def test_stream(seed: int, size: int) -> None:
    data = random.Random(seed).randbytes(size)
    made = NativeRepository(average=AVERAGE)
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    snapshot = made.backup("stdin", kind="stream", fd=reader)
    feeder.join()
    os.close(reader)
    assert dumped(made, snapshot) == data
    assert verify(made.reference()).findings == []


def dumped(made: NativeRepository, snapshot: NativeSnapshot) -> bytes:
    """The only file of a snapshot, through the reference reader."""
    repository, parts = made.reference(), list[bytes]()
    dump(repository, repository.snapshot(snapshot.id), b"", parts.append)
    return b"".join(parts)
