"""What a compromised writer signs with its real key, past every check of ours, counts for nobody."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvback.datapath import blake3
from pvback.errors import DamagedError, PvbackError
from pvback.reference import DirectoryStore, PrivateKey, ReadError, Repository
from pvback.reference.keys import parse_key_file
from pvback.reference.sealing import Place, open_small
from pvback.reference.wire import parse_fields
from pvback.repository.body import dump_body
from pvback.repository.gcstate import read_gc_state
from pvback.repository.layout import ObjectType
from tests.robust.team import Members
from tests.robust.world import World
from tests.support.reference_seal import padding, seal_object, signature_block


class Forger:
    """A member's bundle, opened by the document: its keys to objects, its seed and its certificate."""

    def __init__(self, member: World, key_object: Path) -> None:
        name = f"keys/{key_object.name}"
        file = parse_key_file(key_object.read_bytes(), name)
        assert member.key_file is not None
        (secret,) = PrivateKey(member.key_file.read_bytes()).secrets(file)
        bound = file.repository + file.principal + struct.pack("<I", file.serial)
        plaintext = open_small("bundle", secret.ident, bound + file.salt, file.bundle)
        assert plaintext is not None
        bundle = parse_fields(plaintext, "bundle")
        (scope,) = bundle.objects("scopes")
        (epoch,) = scope.objects("epochs")
        (certificate,) = scope.objects("certificates")
        self.repository, self.scope = file.repository, scope.hex("scope", 16)
        self.index = epoch.b64("index", 32)
        self.seed = bundle.b64("seed", 32)
        self.certified = certificate.b64("certificate", 112) + certificate.b64("signature", 64)

    def seal(self, kind: ObjectType, name: str, body: bytes) -> bytes:
        """The object, signed whether or not this principal may."""
        place = Place(self.repository, self.scope, name)
        padded = body + b" " * padding(len(body) + 240)
        block = signature_block(self.certified, self.seed, place, int(kind), padded)
        return seal_object(self.index, place, int(kind), 1, padded + block, salt=os.urandom(32))


@pytest.fixture
def members(world: World, tmp_path: Path) -> Members:
    members = Members(world, tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"what was backed up " * 5000)
    members["writer"].good("backup", source)
    return members


@pytest.fixture
def forge(members: Members) -> Callable[[str, ObjectType, str, dict[str, Any] | list[Any]], bytes]:
    """Seal a body as the object `name` with a role's key, and put it into the store."""

    def act(role: str, kind: ObjectType, name: str, body: dict[str, Any] | list[Any]) -> bytes:
        forger = Forger(members[role], members.key_object(role))
        data = forger.seal(kind, name, json.dumps(body).encode())
        path = members.world.repository / f"s/{forger.scope.hex()}/{name}"
        path.write_bytes(data)
        return data

    return act


Forge = Callable[[str, ObjectType, str, dict[str, Any] | list[Any]], bytes]


def reference(members: Members) -> Repository:
    assert members.world.key_file is not None
    return Repository.open(
        DirectoryStore(members.world.repository), PrivateKey(members.world.key_file.read_bytes())
    )


def body_of(members: Members, kind: ObjectType, name: str) -> dict[str, Any]:
    raw: dict[str, Any] = members.access().objects.read(kind, name).body.raw
    return raw


@pytest.mark.parametrize("state", ["FORGOTTEN", "DEAD", "FENCED", "COMMITTED"])
def test_registers(members: Members, forge: Forge, state: str) -> None:
    (snapshot,) = members.access().catalog().snapshots
    name = snapshot.register.object_name
    body = {**body_of(members, ObjectType.REGISTER, name), "state": state}
    forge("writer", ObjectType.REGISTER, name, body)
    catalog = members.access().catalog()
    if state == "COMMITTED":
        # The same forgery, of what a writer may say: so it is the state that the others fail by.
        assert len(catalog.snapshots) == 1
        return
    assert not catalog.forgotten
    assert not catalog.snapshots
    (problem,) = catalog.damaged
    assert isinstance(problem, DamagedError)
    assert "signed by a writer" in str(problem)
    members.world.run("check").ended(20)
    with pytest.raises(ReadError, match="may not"):
        reference(members).snapshots()
    # A maintainer may say the same, and bring it back; that a session goes on it may not.
    for said in (state, "COMMITTED"):
        forge("maintainer", ObjectType.REGISTER, name, {**body, "state": said})
        assert not members.access().catalog().damaged
    forge("maintainer", ObjectType.REGISTER, name, {**body, "state": "OPEN"})
    assert len(members.access().catalog().damaged) == 1


def test_prunes_state(members: Members, forge: Forge) -> None:
    body = {**body_of(members, ObjectType.GC_STATE, "gc/state"), "n": 9, "floor": 9}
    forge("writer", ObjectType.GC_STATE, "gc/state", body)
    with pytest.raises(DamagedError, match="signed by a writer"):
        read_gc_state(members.access().objects)
    for words in (("snapshots",), ("check",), ("ls", "latest")):
        members.world.run(*words).ended(20)
    with pytest.raises(ReadError, match="may not"):
        reference(members).snapshots()
    forge("maintainer", ObjectType.GC_STATE, "gc/state", body)
    assert read_gc_state(members.access().objects).n == 9


def owners_state(members: Members, **change: object) -> None:
    """`gc/state` as the owner would have it."""
    access = members.access()
    found = access.objects.read(ObjectType.GC_STATE, "gc/state")
    data = access.objects.seal(
        ObjectType.GC_STATE, name="gc/state", data=dump_body({**found.body.raw, **change})
    )
    access.store.swap(access.objects.layout.key("gc/state"), data, etag=found.etag)


def test_prunes_lists(members: Members, forge: Forge) -> None:
    name = f"gc/{1:016x}-roster"
    for role in ("writer", "maintainer"):
        data = forge(role, ObjectType.GC_LIST, name, [])
        owners_state(members, roster={"name": name, "hash": blake3(data)})
        if role == "maintainer":
            assert read_gc_state(members.access().objects).roster == frozenset()
            continue
        with pytest.raises(DamagedError, match="signed by a writer"):
            read_gc_state(members.access().objects)


def test_runs_in_base(members: Members, tmp_path: Path) -> None:
    """They stand in place of all below the floor: with one of its own a writer could hide anything."""
    access = members.access()
    runs = sorted(
        path.name for path in (members.world.repository / f"s/{access.objects.scope}/index").iterdir()
    )
    registers = [register.name for register, _ in access.catalog().registers]
    runs = [name for name in runs if not name.startswith(".")]
    owners_state(members, n=2, floor=2, base=runs, roster=registers)
    done = members.world.run("restore", "latest", "--target", tmp_path / "target")
    assert done.code != 0
    assert "signed by a writer" in done.err
    found = members.world.run("check").ended(20)
    assert "signed by a writer" in found.text
    with pytest.raises(ReadError, match="may not"):
        reference(members).scope.index()
    # Where they stand for themselves only, they are as good as ever.
    owners_state(members, n=2, floor=1, base=[])
    members.world.good("restore", "latest", "--target", tmp_path / "target2")


@pytest.mark.parametrize("role", ["maintainer", "writer"])
def test_records(members: Members, forge: Forge, role: str) -> None:
    (snapshot,) = members.access().catalog().snapshots
    named = snapshot.record.named
    data = forge(role, ObjectType.RECORD, named.name, body_of(members, ObjectType.RECORD, named.name))
    name = snapshot.register.object_name
    body = body_of(members, ObjectType.REGISTER, name)
    forge("writer", ObjectType.REGISTER, name, {**body, "record": {"name": named.name, "hash": blake3(data)}})
    catalog = members.access().catalog()
    if role == "writer":
        assert len(catalog.snapshots) == 1
        return
    assert "signed by a maintainer" in str(catalog.damaged[0])
    with pytest.raises(ReadError, match="may not"):
        reference(members).snapshots()


@pytest.mark.parametrize("role", ["writer", "maintainer", "owner"])
def test_records_of_what_was_repaired(members: Members, role: str) -> None:
    """Their place in time counts: a writer could push good snapshots out of what a policy keeps."""
    (snapshot,) = members.access().catalog().snapshots
    access, named = members.access(role), snapshot.record.named
    repaired = {"snapshot": "0" * 32, "time": "2020-01-01T00:00:00.000000000Z"}
    body = {**body_of(members, ObjectType.RECORD, named.name), "repaired": repaired}
    if role == "owner":
        data = access.objects.seal(ObjectType.RECORD, name=named.name, data=dump_body(body))
    else:
        with pytest.raises(PvbackError):
            access.objects.seal(ObjectType.RECORD, name=named.name, data=dump_body(body))
        forger = Forger(members[role], members.key_object(role))
        data = forger.seal(ObjectType.RECORD, named.name, json.dumps(body).encode())
    (members.world.repository / access.objects.layout.key(named.name)).write_bytes(data)
    owner, name = members.access(), snapshot.register.object_name
    raw = {
        **body_of(members, ObjectType.REGISTER, name),
        "record": {"name": named.name, "hash": blake3(data)},
    }
    sealed = owner.objects.seal(ObjectType.REGISTER, name=name, data=dump_body(raw))
    (members.world.repository / owner.objects.layout.key(name)).write_bytes(sealed)
    catalog = members.access().catalog()
    if role == "owner":
        assert catalog.snapshots[0].time.year == 2020
        assert len(reference(members).snapshots()) == 1
        return
    assert f"signed by a {role}" in str(catalog.damaged[0])
    with pytest.raises(ReadError, match="may not"):
        reference(members).snapshots()


def test_the_forger_forges(members: Members, forge: Forge) -> None:
    """A signature over other bytes fails as such: the tests above would notice a forger that cannot seal."""
    body = body_of(members, ObjectType.GC_STATE, "gc/state")
    data = forge("maintainer", ObjectType.GC_STATE, "gc/state", body)
    assert read_gc_state(members.access().objects).n == 1
    path = members.world.repository / members.access().objects.layout.key("gc/state")
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PvbackError):
        read_gc_state(members.access().objects)
