"""Damage to any object: an error, or the very same result. Never wrong bytes, never another exception."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pvback.reference import (
    DamagedError,
    DirectoryStore,
    NotFoundError,
    Passphrase,
    RawSecret,
    ReadError,
    Repository,
    UnsupportedError,
    WrongKeyError,
    restore,
    verify,
)
from pvback.reference.pages import Extent
from tests.support.reference_torture import directory, plain_file
from tests.support.reference_writer import RepositoryWriter

SEED = 20260102
STRIDE = 61  # a prime; with another start in each object
Result = dict[bytes, tuple[object, bytes]]


class MemoryStore:
    """A repository in memory, one object of which can be replaced."""

    def __init__(self, root: Path) -> None:
        self.objects = {
            one.relative_to(root).as_posix(): one.read_bytes() for one in root.rglob("*") if one.is_file()
        }

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFoundError(key)
        return self.objects[key]

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[RepositoryWriter, MemoryStore]:
    writer = RepositoryWriter(tmp_path_factory.mktemp("tiny"), random.Random(SEED).randbytes).init()
    session = writer.session()
    extents = [*session.data(b"x" * 500, b"y" * 700), Extent(10, 1), *session.data(b"1", b"2", b"3")]
    nodes = [directory(""), directory("d"), plain_file(session, "d/f", *extents), plain_file(session, "g")]
    session.commit(nodes)
    return writer, MemoryStore(writer.root)


def read_all(store: MemoryStore, secret: bytes) -> Result:
    """Everything that a snapshot says, with content."""
    repository = Repository.open(store, RawSecret(secret))
    found: Result = {}
    for snapshot in repository.snapshots():
        for node in repository.walk(snapshot):
            content = b""
            if node.kind == 1:
                pieces = repository.pieces(snapshot, node)
                content = b"".join(bytes(one.length) if one.data is None else one.data for one in pieces)
            found[snapshot.id + node.key] = node, content
    return found


def test_a_sound_repository_verifies(tiny: tuple[RepositoryWriter, MemoryStore]) -> None:
    writer, store = tiny
    report = verify(Repository.open(store, RawSecret(writer.owner.secret)))
    assert report.findings == []
    assert (report.snapshots, report.nodes, report.chunks, report.packs) == (1, 4, 5, 2)
    assert len(read_all(store, writer.owner.secret)) == 4
    assert len(store.objects) == 9


def damaged_reads(
    tiny: tuple[RepositoryWriter, MemoryStore], key: str, changes: list[bytes]
) -> tuple[int, int]:
    """(refused, unharmed) over all replacements of one object."""
    writer, store = tiny
    original, expected = store.objects[key], read_all(store, writer.owner.secret)
    refused = unharmed = 0
    try:
        for changed in changes:
            store.objects[key] = changed
            try:
                found = read_all(store, writer.owner.secret)
            except ReadError:
                refused += 1
                continue
            assert found == expected
            unharmed += 1
    finally:
        store.objects[key] = original
    return refused, unharmed


def flips(data: bytes, places: range | list[int]) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << (at % 8)]) + data[at + 1 :] for at in places]


def interesting(data: bytes) -> list[int]:
    """Headers and ends whole, the sealed middle in strides."""
    middle = range(160, len(data) - 32, STRIDE)
    return [*range(min(160, len(data))), *middle, *range(max(160, len(data) - 32), len(data))]


def is_read(key: str) -> bool:
    return "/refs/" not in key  # only verify needs those


@pytest.mark.parametrize("number", range(9))
def test_flips_and_cuts(tiny: tuple[RepositoryWriter, MemoryStore], number: int) -> None:
    key = sorted(tiny[1].objects)[number]
    data = tiny[1].objects[key]
    refused, unharmed = damaged_reads(tiny, key, flips(data, interesting(data)))
    cuts = [data[:length] for length in interesting(data)] + [b"", data + b"\0", data * 2]
    refused_cuts, unharmed_cuts = damaged_reads(tiny, key, cuts)
    if key == "config" or (key.startswith("s/") and is_read(key)):
        assert (unharmed, unharmed_cuts) == (0, 0)
    if is_read(key):
        assert refused > 0
        assert refused_cuts > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(9))
def test_every_flip(tiny: tuple[RepositoryWriter, MemoryStore], number: int) -> None:
    key = sorted(tiny[1].objects)[number]
    data = tiny[1].objects[key]
    _, unharmed = damaged_reads(tiny, key, flips(data, range(len(data))))
    assert not unharmed or key.startswith("keys/") or not is_read(key)


def test_verify_sees_every_damaged_object(tiny: tuple[RepositoryWriter, MemoryStore]) -> None:
    writer, store = tiny
    for key in [one for one in store.objects if one.startswith("s/")]:
        original = store.objects[key]
        for changed in (flips(original, [len(original) // 2])[0], original[:-1], None):
            if changed is None:
                del store.objects[key]
            else:
                store.objects[key] = changed
            report = verify(Repository.open(store, RawSecret(writer.owner.secret)))
            store.objects[key] = original
            if (
                changed is not None or "/snapshots/" not in key
            ):  # a register that is gone is a snapshot that is gone
                assert report.findings, key


def test_objects_cannot_stand_for_each_other(tiny: tuple[RepositoryWriter, MemoryStore]) -> None:
    store = tiny[1]
    keys = sorted(store.objects)
    for key in keys:
        others = [store.objects[other] for other in keys if other != key]
        _, unharmed = damaged_reads(tiny, key, others)
        assert not unharmed or not is_read(key)


def test_objects_of_another_repository(tiny: tuple[RepositoryWriter, MemoryStore], tmp_path: Path) -> None:
    """The same scope, keys and names, but another repository id."""
    writer, store = tiny
    other = RepositoryWriter(tmp_path, random.Random(1).randbytes)
    other.master, other.write, other.restore = writer.master, writer.write, writer.restore
    other.owner_seed, other.owner_vk, other.scope = writer.owner_seed, writer.owner_vk, writer.scope
    other.owner = replace(writer.owner)
    other.write_gc_state()
    state = f"s/{writer.scope.hex()}/gc/state"
    assert damaged_reads(tiny, state, [(tmp_path / state).read_bytes()]) == (1, 0)
    assert damaged_reads(tiny, state, [store.objects[state]]) == (0, 1)


@pytest.mark.parametrize("gone", ["config", "keys/", "gc/", "index/", "data/", "meta/", "records/"])
def test_missing_objects(tiny: tuple[RepositoryWriter, MemoryStore], gone: str) -> None:
    writer, store = tiny
    kept = dict(store.objects)
    for key in kept:
        if gone in key:
            del store.objects[key]
    with pytest.raises(NotFoundError):
        read_all(store, writer.owner.secret)
    store.objects.update(kept)


def test_lost_runs_are_rebuilt_from_packs(tiny: tuple[RepositoryWriter, MemoryStore]) -> None:
    writer, store = tiny
    key = next(one for one in store.objects if "/index/" in one)
    original = store.objects.pop(key)
    repository = Repository.open(store, RawSecret(writer.owner.secret))
    assert repository.scope.rebuild_index() == []
    snapshot = repository.snapshot("latest")
    node = repository.find(snapshot, b"d/f")
    assert sum(one.length for one in repository.pieces(snapshot, node)) == node.size
    store.objects[key] = original


def test_a_lost_chunk_costs_its_file(tmp_path: Path) -> None:
    writer = RepositoryWriter(tmp_path / "repo", random.Random(SEED).randbytes).init()
    session = writer.session()
    bad = plain_file(session, "bad", *session.data(b"lost"), link_group=1)
    session.upload()
    good = plain_file(session, "good", *session.data(b"kept"))
    session.commit([directory(""), bad, good, replace(bad, key=b"z")])
    pack = session.packs[0].name.hex()
    (tmp_path / "repo" / "s" / writer.scope.hex() / "data" / pack[:2] / pack).unlink()
    repository = Repository.open(DirectoryStore(writer.root), RawSecret(writer.owner.secret))
    summary = restore(repository, repository.snapshot("latest"), str(tmp_path / "out"))
    assert [line.partition(":")[0] for line in summary.lost] == ["'bad'", "'z'"]
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["good"]


def test_second_copy_is_used(tmp_path: Path) -> None:
    writer = RepositoryWriter(tmp_path, random.Random(SEED).randbytes).init()
    session = writer.session()
    file = plain_file(session, "f", *session.data(b"twice"))
    chunks = dict(session.chunks)
    session.upload()
    session.chunks = chunks
    session.commit([directory(""), file])
    for pack in (one for one in session.packs if one.kind == 1):
        path = tmp_path / "s" / writer.scope.hex() / "data" / pack.name.hex()[:2] / pack.name.hex()
        sound = path.read_bytes()
        path.write_bytes(sound[:-1])
        assert b"twice" in {one[1] for one in read_all(MemoryStore(tmp_path), writer.owner.secret).values()}
        path.write_bytes(sound)


def test_chunk_under_a_wrong_id(tmp_path: Path) -> None:
    """Poison from someone with a writer's keys: every seal holds, the id does not."""
    writer = RepositoryWriter(tmp_path, random.Random(SEED).randbytes).init()
    session = writer.session()
    file = plain_file(session, "f", *session.data(b"right"))
    session.chunks[file.content[0].chunk] = b"wrong"  # type: ignore[union-attr]
    session.commit([directory(""), file])
    with pytest.raises(DamagedError, match="has the id"):
        read_all(MemoryStore(tmp_path), writer.owner.secret)


def test_extent_beyond_its_chunk(tmp_path: Path) -> None:
    for length, offset in ((6, 0), (5, 1), (5, 2**23)):
        writer = RepositoryWriter(tmp_path / str(length + offset), random.Random(SEED).randbytes).init()
        session = writer.session()
        one = replace(session.data(b"12345")[0], length=length, offset=offset)
        session.commit([directory(""), plain_file(session, "f", one)])
        with pytest.raises(DamagedError, match="beyond chunk"):
            read_all(MemoryStore(writer.root), writer.owner.secret)


def broken(
    change: Callable[[RepositoryWriter], object],
) -> Callable[[Path], tuple[RepositoryWriter, MemoryStore]]:
    def make(root: Path) -> tuple[RepositoryWriter, MemoryStore]:
        writer = RepositoryWriter(root, random.Random(SEED).randbytes).init()
        writer.session().commit([directory("")])
        change(writer)
        return writer, MemoryStore(root)

    return make


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda one: one.write_config(min_reader=2, format=2), UnsupportedError),
        (lambda one: one.write_config(features=["later"]), UnsupportedError),
        (lambda one: one.write_config(owner_vk="00" * 32), DamagedError),
        (lambda one: one.write_config(repository="00" * 16), DamagedError),
        (lambda one: one.write_config(scopes=[]), NotFoundError),
        (lambda one: one.write_gc_state(v=2), UnsupportedError),
        (lambda one: one.write_gc_state(phase="ELSE"), DamagedError),
        (lambda one: one.write_gc_state(base=["0" * 16 + "-" + "1" * 32]), NotFoundError),
        (lambda one: one.write_gc_state(dead={"name": "../../config", "hash": "00" * 32}), DamagedError),
        (lambda one: one.write_gc_state(dead=["zz"]), DamagedError),
        (lambda one: one.write_gc_state(roster=[1]), DamagedError),
    ],
)
def test_signed_but_not_acceptable(
    tmp_path: Path, change: Callable[[RepositoryWriter], object], error: type[ReadError]
) -> None:
    writer, store = broken(change)(tmp_path)
    with pytest.raises(error):
        read_all(store, writer.owner.secret)


def test_unknown_config_keys_are_ignored(tmp_path: Path) -> None:
    writer, store = broken(lambda one: one.write_config(later=1, min_writer=9))(tmp_path)
    assert len(read_all(store, writer.owner.secret)) == 1


def test_wrong_secrets(tmp_path: Path) -> None:
    writer = RepositoryWriter(tmp_path, random.Random(SEED).randbytes).init("right")
    store = DirectoryStore(tmp_path)
    assert Repository.open(store, Passphrase("right")).scope.keyring.role == "owner"
    secret = writer.owner.secret
    for unlocker in (
        Passphrase("wrong"),
        Passphrase(""),
        RawSecret(bytes(80)),
        RawSecret(bytes(32) + secret[32:]),
    ):
        with pytest.raises(WrongKeyError):
            Repository.open(store, unlocker)
    with pytest.raises(DamagedError):  # another owner than the bundle's
        Repository.open(store, RawSecret(secret[:32] + bytes(32) + secret[64:]))
    with pytest.raises(WrongKeyError):
        RawSecret(bytes(79))
