"""Keys that the native core issues open for the reference reader, and hold what their role may have."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pvback.errors import WrongKeyError
from pvback.reference import Passphrase, PrivateKey, Repository, verify
from pvback.reference import WrongKeyError as NoSuchKeyError
from pvback.repository.key_objects import issue_key
from tests.support.native_repository import LEAST_ARGON2, NativeRepository

ROLES = ("restorer", "writer", "maintainer", "owner")


@pytest.fixture
def made(tmp_path: Path) -> NativeRepository:
    source = tmp_path / "source"
    source.mkdir()
    (source / "secret name").write_bytes(os.urandom(20_000))
    made = NativeRepository()
    made.backup(source)
    return made


def add_key(made: NativeRepository, role: str, passphrase: str) -> None:
    scopes = [] if role == "owner" else [{"scope": made.scope, "sources": None}]
    name, data = issue_key(made.keyring, {"role": role, "label": role, "scopes": scopes})
    data = made.keyring.add_slot(data, "passphrase", passphrase.encode(), LEAST_ARGON2)
    made.store.create(name, data)


@pytest.mark.parametrize("role", ROLES)
def test_role_reads_what_it_may(made: NativeRepository, role: str) -> None:
    add_key(made, role, "of the role")
    repository = made.reference(Passphrase("of the role"))
    assert repository.scope.keyring.role == role
    report = verify(repository)
    assert report.runs == 1
    assert report.packs == 2
    if role == "maintainer":
        assert (report.chunks, report.pages) == (0, 0)
        with pytest.raises(NoSuchKeyError):
            repository.snapshots()
        return
    assert report.findings == []
    assert [node.path for node in repository.walk(repository.snapshot("latest"))] == [b"", b"secret name"]
    if role == "writer":
        assert report.chunks == 0
        assert report.chunks_not_opened > 0
    else:
        assert report.chunks > 0


@pytest.mark.parametrize("role", ROLES)
def test_scope_has_its_label(made: NativeRepository, role: str) -> None:
    add_key(made, role, "of the role")
    unlocker = Passphrase("of the role")
    assert Repository.open(made.store, unlocker, made.scope).scope.id.hex() == made.scope
    if role != "maintainer":
        assert Repository.open(made.store, unlocker, "default").scope.id.hex() == made.scope


def test_private_key_opens_a_slot(made: NativeRepository) -> None:
    private = X25519PrivateKey.generate()
    key = next(iter(made.store.list("keys/")))
    public = private.public_key().public_bytes_raw()
    changed = made.keyring.add_slot(made.store.get(key), "x25519", public, LEAST_ARGON2)
    made.store.objects[key] = changed
    assert verify(made.reference(PrivateKey(private.private_bytes_raw()))).findings == []
    assert verify(made.reference()).findings == []
    with pytest.raises(NoSuchKeyError):
        made.reference(PrivateKey(bytes(31) + b"\x40"))


def test_writer_backs_up(made: NativeRepository, tmp_path: Path) -> None:
    add_key(made, "writer", "of the writer")
    writer = made.unlock("of the writer")
    (tmp_path / "source" / "more").write_bytes(b"of the writer")
    snapshot = made.backup(tmp_path / "source", keyring=writer)
    repository = made.reference()
    assert verify(repository).findings == []
    found = repository.snapshot(snapshot.id)
    assert found.signer.principal.hex() == writer.principal
    pieces = repository.pieces(found, repository.find(found, b"more"))
    assert b"".join(piece.data or b"" for piece in pieces) == b"of the writer"


@pytest.mark.parametrize("role", ["restorer", "maintainer"])
def test_who_may_not_back_up(made: NativeRepository, tmp_path: Path, role: str) -> None:
    add_key(made, role, "of the role")
    before = dict(made.store.objects)
    with pytest.raises(WrongKeyError):
        made.backup(tmp_path / "source", keyring=made.unlock("of the role"))
    assert made.store.objects == before
