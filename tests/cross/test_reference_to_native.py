"""What the tests' own writer makes from the document, the native core opens."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pvback import _native as native
from pvback.errors import DamagedError, WrongKeyError
from pvback.reference import RawSecret, Repository, restore, verify
from tests.support.native_repository import MemoryObjects, run_job
from tests.support.reference_torture import plain_file, torture
from tests.support.reference_writer import (
    MAINTAINER,
    OWNER,
    RESTORER,
    WRITER,
    Principal,
    RepositoryWriter,
    Session,
)
from tests.support.tree_facts import TreeFacts, differences

REGISTER, RECORD, GC_STATE, GC_LIST = 5, 6, 7, 8
Json = dict[str, Any]


class Written:
    """A repository of the writer, its objects in memory for the native side."""

    def __init__(self, root: Path, seed: int) -> None:
        self.writer = RepositoryWriter(root, random.Random(seed).randbytes).init()
        self.scope = self.writer.scope.hex()

    def objects(self) -> MemoryObjects:
        store, root = MemoryObjects(), self.writer.root
        store.objects = {
            one.relative_to(root).as_posix(): one.read_bytes() for one in root.rglob("*") if one.is_file()
        }
        return store

    def unlock(self, principal: Principal, method: Any = "secret", secret: bytes = b"") -> native.Keyring:
        store = self.objects()
        keys = [(key, store.get(key)) for key in store.list("keys/")]
        return native.Keyring.unlock(store.get("config"), keys, method, secret or principal.secret)

    def open_json(self, keyring: native.Keyring, kind: int, name: str) -> Any:
        data = self.objects().get(f"s/{self.scope}/{name}")
        return json.loads(keyring.open_json(self.scope, kind, name, data))

    def job(self, verb: str, keyring: native.Keyring, options: Json) -> tuple[Json, list[tuple[str, bytes]]]:
        store = self.objects()
        prefix = f"s/{self.scope}/index/"
        runs = [{"name": key.removeprefix(prefix), "size": len(store.get(key))} for key in store.list(prefix)]
        common = {"scope": self.scope, "memory_bytes": 64 << 20, "index": {"runs": runs}}
        return run_job(verb, keyring, common | options, store)

    def backup(self, keyring: native.Keyring, session: Session, source: Path) -> Json:
        """A native backup with the session's snapshot as its parent."""
        detail = self.detail(keyring, session)
        options = {
            "kind": "directory", "snapshot": native.random_id(), "gen": 1, "source_id": session.source.hex(),
            "path_b64": encode(bytes(source)), "parent": {"root": detail["root"], "started_ns": 0},
        }  # fmt: skip
        return self.job("backup", keyring, options)[0]

    def rows(self, keyring: native.Keyring, session: Session) -> list[Json]:
        """All nodes, as the native core lists them."""
        root = self.detail(keyring, session)["root"]
        options = {"source_id": session.source.hex(), "root": root, "recursive": True}
        _, outputs = self.job("list", keyring, options)
        lines = b"".join(data for kind, data in outputs if kind == "rows").splitlines()
        return [json.loads(line) for line in lines]

    def detail(self, keyring: native.Keyring, session: Session) -> Any:
        snapshot, source = session.snapshot.hex(), session.source.hex()
        record = self.open_json(keyring, RECORD, f"records/{snapshot}")
        opened = keyring.open_record(
            self.scope, source, snapshot, record["suite"], record["epoch"], record["sealed"]
        )
        return json.loads(opened)


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def written(tmp_path: Path, seed: int) -> Written:
    return Written(tmp_path / "repository", seed)


@pytest.mark.parametrize("role", [OWNER, RESTORER, WRITER, MAINTAINER])
def test_roles(written: Written, role: str) -> None:
    writer = written.writer
    principal = writer.owner if role == OWNER else writer.add_principal(role)
    keyring = written.unlock(principal)
    assert (keyring.role, keyring.principal) == (role, principal.id.hex())
    assert keyring.repository == writer.repository.hex()
    assert keyring.scopes() == [(written.scope, "" if role == MAINTAINER else "default")]
    assert written.open_json(keyring, GC_STATE, "gc/state")["n"] == 1


def test_writer_of_one_source(written: Written) -> None:
    session = written.writer.session()
    nodes, _ = torture(session)
    session.commit(nodes)
    mine = written.unlock(written.writer.add_principal(WRITER, source=session.source))
    assert written.detail(mine, session)["root"]["nodes"] == len(nodes)
    other = written.unlock(written.writer.add_principal(WRITER, source=bytes(15) + b"\1"))
    with pytest.raises(WrongKeyError):
        written.detail(other, session)


def test_slots(written: Written) -> None:
    private = X25519PrivateKey.from_private_bytes(written.writer.random(32))
    public = private.public_key().public_bytes_raw()
    principal = written.writer.add_principal(RESTORER, passphrase="pässword", recipient=public)
    for method, secret in (("passphrase", "pässword".encode()), ("x25519", private.private_bytes_raw())):
        assert written.unlock(principal, method, secret).principal == principal.id.hex()
    with pytest.raises(WrongKeyError):
        written.unlock(principal, "passphrase", b"password")


@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("role", [OWNER, WRITER])
def test_snapshot_is_read_and_continued(written: Written, tmp_path: Path, role: str, suite: int) -> None:
    """Records, registers, runs and pages: a native backup compares with the writer's tree."""
    written.writer.suite = suite
    principal = written.writer.owner if role == OWNER else written.writer.add_principal(role)
    session = written.writer.session(signer=principal)
    nodes, _ = torture(session)
    session.commit(nodes)
    assert verify(Repository.open(written.objects(), RawSecret(written.writer.owner.secret))).findings == []
    keyring = written.unlock(principal)
    register = written.open_json(keyring, REGISTER, f"snapshots/{1:016x}-{session.snapshot.hex()}")
    assert (register["state"], register["seq"]) == ("COMMITTED", 1)
    assert written.detail(keyring, session)["root"]["nodes"] == len(nodes)
    source = tmp_path / "source"
    source.mkdir()
    (source / "text").write_bytes(b"hello\n" * 5)
    stats = written.backup(keyring, session, source)["stats"]
    assert (stats["files_changed"], stats["files_new"]) == (1, 0), "the parent's pages were read"


def test_native_list(written: Written) -> None:
    session = written.writer.session()
    nodes, _ = torture(session)
    session.commit(nodes)
    rows = written.rows(written.unlock(written.writer.owner), session)
    nodes.sort(key=lambda node: node.key)
    assert [base64.b64decode(row["path_b64"]) for row in rows] == [node.path for node in nodes]
    for row, node in zip(rows, nodes, strict=True):
        said = {name: row[name] for name in ("mode", "uid", "gid", "size", "mtime_ns")}
        assert said == {
            "mode": node.mode, "uid": node.uid, "gid": node.gid, "size": node.size,
            "mtime_ns": node.mtime[0] * 10**9 + node.mtime[1],
        }  # fmt: skip
        assert base64.b64decode(row.get("target_b64") or "") == node.target


def test_native_check(written: Written) -> None:
    session = written.writer.session()
    nodes, _ = torture(session)
    session.commit(nodes)
    keyring = written.unlock(written.writer.owner)
    register = written.open_json(keyring, REGISTER, f"snapshots/{1:016x}-{session.snapshot.hex()}")
    store, prefix = written.objects(), f"s/{written.scope}/"
    packs = [key for kind in ("data", "meta") for key in store.list(f"{prefix}{kind}/")]
    snapshot = {
        "snapshot": session.snapshot.hex(), "source_id": session.source.hex(), "refs": register["refs"],
        "root": written.detail(keyring, session)["root"],
    }  # fmt: skip
    options = {
        "snapshots": [snapshot], "packs": [{"key": key, "size": len(store.get(key))} for key in packs],
        "read_data": 100, "directories": True,
    }  # fmt: skip
    result, outputs = written.job("check", keyring, options)
    assert {kind for kind, _ in outputs} == {"read"}, "packs that were read, and no findings"
    assert result["findings"] == 0, result


def test_native_restore(written: Written, tmp_path: Path) -> None:
    """Both restore the same tree from the same snapshot."""
    session = written.writer.session()
    nodes, _ = torture(session)
    session.commit(nodes)
    keyring = written.unlock(written.writer.owner)
    repository = Repository.open(written.objects(), RawSecret(written.writer.owner.secret))
    by_reference, by_native = tmp_path / "reference", tmp_path / "native"
    assert restore(repository, repository.snapshot("latest"), str(by_reference)).is_complete
    options = {
        "source_id": session.source.hex(), "root": written.detail(keyring, session)["root"],
        "target_b64": encode(bytes(by_native)), "subtree_b64": "", "overwrite": "always", "verify": True,
    }  # fmt: skip
    result, _ = written.job("restore", keyring, options)
    assert result["errors"] == 0, result
    assert differences(TreeFacts(by_reference), TreeFacts(by_native), hole_size_min=1 << 62) == []


def test_dedup_against_the_writers_index(written: Written, tmp_path: Path) -> None:
    session = written.writer.session()
    chunk = written.writer.random(300_000)
    session.commit([*torture(session)[0][:1], *file_of(session, chunk)])
    source = tmp_path / "source"
    source.mkdir()
    (source / "same").write_bytes(chunk)
    stats = written.backup(written.unlock(written.writer.owner), session, source)["stats"]
    assert (stats["chunks_known"], stats["chunks_new"]) == (1, 0)


def file_of(session: Session, data: bytes) -> list[Any]:
    return [plain_file(session, "f", *session.data(data))]


def test_who_signed(written: Written) -> None:
    writer = written.writer
    mover, keeper = writer.add_principal(WRITER), writer.add_principal(MAINTAINER)
    owner = written.unlock(writer.owner)
    for signer, is_allowed in ((keeper, True), (mover, False)):
        name = f"gc/{writer.gc_n:016x}-{signer.role}"
        writer.seal_json(name, GC_LIST, ["00" * 16] * 3, signer)
        if is_allowed:
            assert written.open_json(owner, GC_LIST, name) == ["00" * 16] * 3
        else:
            with pytest.raises((DamagedError, WrongKeyError)):
                written.open_json(owner, GC_LIST, name)


def test_revoked(written: Written) -> None:
    """Up to the sequence that config states for the source, and no further."""
    writer = written.writer
    mover = writer.add_principal(WRITER)
    sessions = []
    for seq in (1, 2):
        sessions.append(writer.session(signer=mover))
        nodes, _ = torture(sessions[-1])
        sessions[-1].commit(nodes, seq=seq)
    source = sessions[0].source.hex()
    writer.revoked = [{"principal": mover.id.hex(), "sequences": {source: 1}}]
    writer.write_config()
    owner = written.unlock(writer.owner)
    names = [f"snapshots/{1:016x}-{session.snapshot.hex()}" for session in sessions]
    assert written.open_json(owner, REGISTER, names[0])["seq"] == 1
    for kind, name in ((REGISTER, names[1]), (RECORD, f"records/{sessions[1].snapshot.hex()}")):
        with pytest.raises((DamagedError, WrongKeyError)):
            written.open_json(owner, kind, name)


@pytest.mark.parametrize("at", [0, 9, 13, 20, 60, 100, -1])
def test_damage_is_seen(written: Written, at: int) -> None:
    owner = written.unlock(written.writer.owner)
    data = bytearray(written.objects().get(f"s/{written.scope}/gc/state"))
    data[at] ^= 1
    with pytest.raises((DamagedError, WrongKeyError)):
        owner.open_json(written.scope, GC_STATE, "gc/state", bytes(data))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"serial":1', '"serial":2'), ('"min_reader":1', '"min_reader":9'), ('"owner_vk":"', '"owner_vk":"A')],
)
def test_config_is_the_owners(written: Written, old: str, new: str) -> None:
    path = written.writer.root / "config"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(Exception, match="config"):
        written.unlock(written.writer.owner)
