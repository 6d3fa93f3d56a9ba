"""Round trips: what the test writer stores by the document, the reference reader restores exactly."""

# Names here are bytes.
# ruff: noqa: PTH115, PTH116, PTH118, PTH123, PTH208

import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pvback.reference import (
    DirectoryStore,
    NotFoundError,
    RawSecret,
    ReadError,
    Repository,
    dump,
    restore,
    verify,
)
from pvback.reference.pages import FILE, HOLE, SYMLINK, Extent, Node
from tests.support.reference_torture import deep, directory, plain_file, torture
from tests.support.reference_writer import RepositoryWriter, Session

SEED = 20260101
is_root = os.geteuid() == 0
KINDS = {
    1: stat.S_IFREG,
    2: stat.S_IFDIR,
    3: stat.S_IFLNK,
    4: stat.S_IFIFO,
    5: stat.S_IFSOCK,
    6: stat.S_IFCHR,
}


@pytest.fixture
def writer(tmp_path: Path) -> RepositoryWriter:
    return RepositoryWriter(tmp_path / "repo", random.Random(SEED).randbytes).init()


def opened(writer: RepositoryWriter) -> Repository:
    return Repository.open(DirectoryStore(writer.root), RawSecret(writer.owner.secret))


def stored(writer: RepositoryWriter, session: Session, nodes: list[Node]) -> Repository:
    session.commit(nodes)
    repository = opened(writer)
    assert verify(repository).findings == []
    return repository


def check_node(path: bytes, node: Node) -> None:
    found = os.lstat(path)
    assert stat.S_IFMT(found.st_mode) == KINDS[node.kind]
    if is_root:
        assert (found.st_uid, found.st_gid) == (node.uid, node.gid)
    if node.kind != SYMLINK:
        assert stat.S_IMODE(found.st_mode) == node.mode
    else:
        assert os.readlink(path) == node.target
    if abs(node.mtime[0]) < 2**31:
        assert found.st_mtime_ns == node.mtime[0] * 10**9 + node.mtime[1]
    if node.kind == 6:
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == node.device
    for name, value in node.xattrs:
        assert os.getxattr(path, name, follow_symlinks=False) == value


@pytest.mark.skipif(not is_root, reason="owners and devices need privilege")
def test_torture_tree(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    nodes, expected = torture(session)
    repository = stored(writer, session, nodes)
    snapshot = repository.snapshot("latest")
    assert [node.key for node in repository.walk(snapshot)] == sorted(node.key for node in nodes)
    target = os.fsencode(tmp_path / "out")
    summary = restore(repository, snapshot, target)
    assert summary.is_complete
    assert set(summary.notes) <= {"times: not exact on this file system"}
    for node in nodes:
        path = target + b"/" + node.path
        check_node(path, node)
        if node.kind == FILE:
            with open(path, "rb") as file:
                assert file.read() == expected[node.key]
    found = {os.path.relpath(os.path.join(folder, name), target) for folder, folders, files in os.walk(target)
             for name in folders + files}  # fmt: skip
    assert found == {node.path for node in nodes if node.key}
    linked = {
        os.stat(target + b"/" + name).st_ino for name in (b"dir/linked a", b"dir2/linked b", b"linked c")
    }
    assert len(linked) == 1
    for name, low, high in ((b"hole only", 0, 0), (b"sparse", 4096, 16384), (b"zeros", 300_000, 400_000)):
        assert low <= os.stat(target + b"/" + name).st_blocks * 512 <= high


def extents_on_disk(path: bytes) -> list[tuple[int, int]]:
    with open(path, "rb") as file:
        end, at, found = os.fstat(file.fileno()).st_size, 0, []
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
        return found


def test_holes_stay_where_they_were(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    extents = [
        Extent(1 << 16, HOLE),
        *session.data(b"a" * 8192),
        Extent(1 << 20, HOLE),
        *session.data(b"b" * 4096),
    ]
    repository = stored(writer, session, [directory(""), plain_file(session, "f", *extents)])
    restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    found = extents_on_disk(os.fsencode(tmp_path / "out" / "f"))
    second = (1 << 16) + 8192 + (1 << 20)
    assert found == [(1 << 16, (1 << 16) + 8192), (second, second + 4096)]


def test_paths_longer_than_the_system_allows(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    session.nodes_per_page = 10
    nodes, path = deep(session, 60)
    assert len(path) > 3 * 4096
    repository = stored(writer, session, nodes)
    summary = restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    assert (summary.nodes, summary.lost) == (62, [])
    here = os.open(tmp_path / "out", os.O_RDONLY)
    for name in path.split(b"/")[:-1]:
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        assert os.fstat(inner).st_mtime_ns == 1_700_000_000_123_456_789
        os.close(here)
        here = inner
    bottom = os.stat("bottom", dir_fd=here)
    os.close(here)
    assert (bottom.st_size, bottom.st_nlink) == (5, 2)
    os.system(f"rm -rf '{tmp_path}/out'")


@contextmanager
def without_privilege(home: Path) -> Iterator[None]:
    """Run as another user, who owns `home` and may reach it."""
    if not is_root:
        yield
        return
    for folder in (home, *list(home.parents)[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    os.chown(home, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_privilege(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    nodes, expected = torture(session)
    repository = stored(writer, session, nodes)
    snapshot = repository.snapshot("latest")
    with without_privilege(tmp_path):
        summary = restore(repository, snapshot, str(tmp_path / "out"))
    assert len(summary.lost) == 1
    assert summary.lost[0].startswith("'null':")
    assert any(note.startswith("owner: ") for note in summary.notes)
    assert any("set-id" in note for note in summary.notes)
    assert not os.stat(tmp_path / "out" / "text").st_mode & 0o6000
    for name, content in expected.items():
        path = tmp_path / "out" / os.fsdecode(name.replace(b"\0", b"/"))
        assert not is_root or path.read_bytes() == content


def test_part_of_a_tree_and_single_files(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    nodes, expected = torture(session)
    repository = stored(writer, session, nodes)
    snapshot = repository.snapshot("latest")
    restore(repository, snapshot, str(tmp_path / "part"), b"dir2")
    assert os.listdir(tmp_path / "part") == ["linked b"]
    assert (tmp_path / "part").stat().st_mtime_ns == 1_700_000_000_123_456_789
    restore(repository, snapshot, str(tmp_path / "single"), b"many extents")
    assert (tmp_path / "single").read_bytes() == expected[b"many extents"]
    parts: list[bytes] = []
    assert dump(repository, snapshot, b"/sparse", parts.append) == len(b"".join(parts))
    assert b"".join(parts) == expected[b"sparse"]
    assert [node.path for node in repository.walk(snapshot, b"dir/")] == [
        b"dir",
        b"dir/link",
        b"dir/linked a",
    ]
    for path in (b"di", b"dir/none", b"zzz", b"\x01"):
        with pytest.raises(NotFoundError):
            list(repository.walk(snapshot, path))
    with pytest.raises(NotFoundError):
        dump(repository, snapshot, b"dir", parts.append)


def test_target_must_be_empty(writer: RepositoryWriter, tmp_path: Path) -> None:
    repository = stored(writer, writer.session(), [directory("")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OSError, match="not empty"):
        restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_device_source_is_one_file(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    node = plain_file(session, "", Extent(4096, HOLE), *session.data(b"\1" * 4096))
    repository = stored(writer, session, [node])
    restore(repository, repository.snapshot("latest"), str(tmp_path / "image"))
    assert (tmp_path / "image").read_bytes() == bytes(4096) + b"\1" * 4096


def test_files_that_were_not_whole_when_backed_up(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    whole = plain_file(session, "whole", *session.data(b"1234"), changed=True)
    part = replace(plain_file(session, "part", *session.data(b"5678")), size=100, partial=True)
    gone = Node(b"unreadable", FILE, size=50, unreadable=True)
    repository = stored(writer, session, [directory(""), whole, part, gone])
    summary = restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["part", "whole"]
    assert (tmp_path / "out" / "part").read_bytes() == b"5678"
    assert len(summary.warned) == 2
    assert len(summary.lost) == 1


@pytest.mark.skipif(not is_root, reason="needs the right to set them")
def test_flags_and_links_to_immutable_files(writer: RepositoryWriter, tmp_path: Path) -> None:
    session = writer.session()
    first = plain_file(session, "a/first", *session.data(b"x"), flags=0x50, link_group=1)
    nodes = [
        directory(""),
        directory("a", flags=0x10),
        first,
        directory("b"),
        replace(first, key=b"b\0second"),
    ]
    repository = stored(writer, session, nodes)
    summary = restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    try:
        assert summary.is_complete
        if not any(note.startswith("flags") for note in summary.notes):
            with pytest.raises(PermissionError):
                (tmp_path / "out" / "a" / "first").write_bytes(b"y")
            with pytest.raises(PermissionError):
                (tmp_path / "out" / "a" / "new").touch()
        assert (tmp_path / "out" / "b" / "second").stat().st_nlink == 2
    finally:
        os.system(f"chattr -R -i '{tmp_path}/out'")


def test_node_without_directory(writer: RepositoryWriter, tmp_path: Path) -> None:
    for orphan in ("missing/file", "file/below"):
        session = writer.session()
        nodes = [directory(""), plain_file(session, "file"), plain_file(session, orphan)]
        session.commit(nodes)
        repository = opened(writer)
        with pytest.raises(ReadError, match="no directory above"):
            restore(repository, repository.snapshot(session.snapshot.hex()), str(tmp_path / orphan[:4]))


def test_directories_are_never_followed_out(writer: RepositoryWriter, tmp_path: Path) -> None:
    """A symlink cannot stand above a node: keys below one have no directory above them."""
    session = writer.session()
    link = Node(b"link", SYMLINK, target=os.fsencode(tmp_path))
    session.commit([directory(""), link, plain_file(session, "link/planted")])
    repository = opened(writer)
    with pytest.raises(ReadError):
        restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    assert not (tmp_path / "planted").exists()


def test_same_seed_same_repository(tmp_path: Path) -> None:
    def make(name: str) -> dict[str, bytes]:
        writer = RepositoryWriter(tmp_path / name, random.Random(SEED).randbytes).init("pass")
        session = writer.session()
        session.commit(torture(session)[0])
        return {
            str(one.relative_to(writer.root)): one.read_bytes()
            for one in writer.root.rglob("*")
            if one.is_file()
        }

    assert make("a") == make("b")
