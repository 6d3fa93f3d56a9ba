"""Who may sign what, what each role can open, and which runs and registers count."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pvback.reference import (
    DamagedError,
    DirectoryStore,
    NotFoundError,
    PrivateKey,
    RawSecret,
    Repository,
    WrongKeyError,
    kdf,
    verify,
)
from pvback.reference.pages import Node
from pvback.reference.snapshots import GcState
from tests.support.reference_torture import directory, plain_file
from tests.support.reference_writer import (
    MAINTAINER,
    OWNER,
    RESTORER,
    WRITER,
    Principal,
    RepositoryWriter,
    Session,
)

SEED = 20260103


@pytest.fixture
def writer(tmp_path: Path) -> RepositoryWriter:
    return RepositoryWriter(tmp_path, random.Random(SEED).randbytes).init()


def opened(writer: RepositoryWriter, principal: Principal | None = None) -> Repository:
    secret = (principal or writer.owner).secret
    return Repository.open(DirectoryStore(writer.root), RawSecret(secret))


def small(session: Session, content: bytes = b"content") -> list[Node]:
    return [directory(""), plain_file(session, "f", *session.data(content))]


def read(repository: Repository) -> bytes:
    snapshot = repository.snapshot("latest")
    pieces = repository.pieces(snapshot, repository.find(snapshot, b"f"))
    return b"".join(piece.data or b"" for piece in pieces)


def test_writer_backs_up_and_cannot_read_content(writer: RepositoryWriter) -> None:
    mover = writer.add_principal(WRITER)
    session = writer.session(signer=mover)
    session.commit(small(session))
    assert read(opened(writer)) == b"content"
    assert read(opened(writer, writer.add_principal(RESTORER))) == b"content"
    as_mover = opened(writer, mover)
    assert [node.path for node in as_mover.walk(as_mover.snapshot("latest"))] == [b"", b"f"]
    with pytest.raises(WrongKeyError, match="`private`"):
        read(as_mover)
    report = verify(as_mover)
    assert (report.findings, report.chunks_not_opened, report.nodes) == ([], 1, 2)
    with pytest.raises(WrongKeyError, match="`meta`"):
        opened(writer, writer.add_principal(MAINTAINER)).snapshots()


def test_x25519_slot(writer: RepositoryWriter) -> None:
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    writer.add_principal(RESTORER, recipient=private.public_key().public_bytes_raw())
    repository = Repository.open(DirectoryStore(writer.root), PrivateKey(bytes(range(32))))
    assert repository.scope.keyring.role == RESTORER
    with pytest.raises(WrongKeyError):
        Repository.open(DirectoryStore(writer.root), PrivateKey(bytes(32)))


def test_scope_by_label_or_id(writer: RepositoryWriter) -> None:
    store, secret = DirectoryStore(writer.root), RawSecret(writer.owner.secret)
    for name in ("default", writer.scope.hex()):
        assert Repository.open(store, secret, name).scope.id == writer.scope
    with pytest.raises(NotFoundError):
        Repository.open(store, secret, "other")


SOURCE = "dir:h:/data"


@pytest.mark.parametrize(
    ("role", "field", "state", "is_allowed"),
    [
        (OWNER, "register_signer", "COMMITTED", True),
        (WRITER, "register_signer", "COMMITTED", True),
        (MAINTAINER, "register_signer", "COMMITTED", True),
        (MAINTAINER, "register_signer", "FORGOTTEN", True),
        (OWNER, "register_signer", "FORGOTTEN", True),
        (WRITER, "register_signer", "FORGOTTEN", False),
        (WRITER, "register_signer", "DEAD", False),
        (WRITER, "register_signer", "FENCED", False),
        (WRITER, "register_signer", "OPEN", True),
        (MAINTAINER, "register_signer", "OPEN", False),
        (MAINTAINER, "record_signer", "COMMITTED", False),
        (WRITER, "record_signer", "COMMITTED", True),
        (RESTORER, "record_signer", "COMMITTED", False),
        (RESTORER, "register_signer", "COMMITTED", False),
    ],
)
def test_who_signs_snapshots(
    writer: RepositoryWriter, role: str, field: str, state: str, is_allowed: bool
) -> None:
    session = writer.session(SOURCE)
    signer = writer.owner if role == OWNER else writer.add_principal(role)
    session.commit(small(session), state=state, **{field: signer})
    repository = opened(writer)
    if is_allowed:
        assert len(repository.snapshots()) == (state == "COMMITTED")
        assert verify(repository).findings == []
    else:
        with pytest.raises(DamagedError, match=r"may not|does not sign"):
            repository.snapshots()


def test_writer_of_one_source(writer: RepositoryWriter) -> None:
    source = kdf.source_id(writer.dedup, SOURCE)
    mover = writer.add_principal(WRITER, source=source)
    session = writer.session(SOURCE, mover)
    session.commit(small(session))
    assert read(opened(writer)) == b"content"
    other = writer.session("dir:h:/other", mover)
    other.commit(small(other))
    with pytest.raises(DamagedError, match="may not write this source"):
        opened(writer).snapshots()
    problems: list[Exception] = []
    assert len(opened(writer).snapshots(problems.append)) == 1
    assert len(problems) == 1


def test_who_signs_prune(writer: RepositoryWriter) -> None:
    session = writer.session()
    session.commit(small(session))
    maintainer, mover = writer.add_principal(MAINTAINER), writer.add_principal(WRITER)
    writer.write_gc_state(maintainer)
    assert read(opened(writer)) == b"content"
    writer.write_gc_state(mover)
    with pytest.raises(DamagedError, match="may not"):
        opened(writer).snapshots()


def test_base_runs_are_a_keepers(writer: RepositoryWriter) -> None:
    for signer, is_allowed in (
        (writer.add_principal(WRITER), False),
        (writer.add_principal(MAINTAINER), True),
    ):
        session = writer.session()
        session.commit(small(session, signer.id))
        merged = writer.write_run(session.packs, signer)
        writer.write_gc_state(base=[merged])
        if is_allowed:
            assert read(opened(writer))
        else:
            with pytest.raises(DamagedError, match="may not"):
                opened(writer).scope.index()


def test_foreign_envelopes_are_a_keepers(writer: RepositoryWriter) -> None:
    for role, is_allowed in ((WRITER, False), (MAINTAINER, True)):
        session = writer.session()
        nodes = small(session, role.encode())
        signer = writer.add_principal(role)
        pack = session.write_pack(1, session.chunks, signer)
        session.chunks = {}
        writer.write_run([pack])
        session.commit(nodes)
        repository = opened(writer)
        snapshot = repository.snapshot(session.snapshot.hex())
        node = repository.find(snapshot, b"f")
        if is_allowed:
            assert len(list(repository.pieces(snapshot, node))) == 1
        else:
            with pytest.raises(DamagedError, match="may not"):
                list(repository.pieces(snapshot, node))


def test_revoked_writer(writer: RepositoryWriter) -> None:
    mover = writer.add_principal(WRITER)
    hash_ = None
    for seq in (1, 2):
        session = writer.session(signer=mover)
        hash_ = session.commit(small(session), seq=seq, prev=hash_)
    writer.revoked = [{"principal": mover.id.hex(), "sequences": {session.source.hex(): 1}}]
    writer.write_config()
    problems: list[Exception] = []
    found = opened(writer).snapshots(problems.append)
    assert [one.head.seq for one in found] == [1]
    assert "revoked" in str(problems[0])


@pytest.mark.parametrize("role", [WRITER, MAINTAINER])
def test_revoked_for_good(writer: RepositoryWriter, role: str) -> None:
    """What adds stays readable; what decides does not."""
    signer = writer.add_principal(role)
    session = writer.session(signer=signer)
    owner = {"record_signer": writer.owner, "register_signer": writer.owner}
    session.commit(small(session), **owner)
    writer.revoked = [{"principal": signer.id.hex(), "sequences": {}}]
    writer.write_config()
    repository = opened(writer)
    assert read(repository) == b"content"
    assert verify(repository).findings == []
    if role == MAINTAINER:
        writer.write_gc_state(signer)
        with pytest.raises(DamagedError, match="revoked"):
            opened(writer).snapshots()


def test_certificate_of_another_owner(writer: RepositoryWriter, tmp_path: Path) -> None:
    stranger = RepositoryWriter(tmp_path / "other", random.Random(4).randbytes)
    stranger.repository, stranger.scope = writer.repository, writer.scope
    session = writer.session()
    session.commit(small(session), register_signer=stranger._principal(WRITER))
    with pytest.raises(DamagedError, match="signature does not hold"):
        opened(writer).snapshots()


def test_bundle_that_the_owner_did_not_sign(writer: RepositoryWriter) -> None:
    principal = writer._principal(RESTORER)
    owner, writer.owner_seed = writer.owner_seed, bytes(32)
    writer.write_key_file(principal)
    writer.owner_seed = owner
    with pytest.raises(DamagedError, match="signature"):
        opened(writer, principal)


@pytest.mark.parametrize("base", [frozenset[str](), frozenset({"run"})])
def test_a_generation_far_above(base: frozenset[str]) -> None:
    state = GcState(n=5, floor=3, dead=frozenset(), base=base, roster=frozenset())
    counted = [state.counts_run("run", gen) for gen in (2, 3, 5, 4 + 2**19, 5 + 2**19)]
    assert counted == [bool(base), True, True, True, bool(base)]


def test_floor_base_roster_and_dead(writer: RepositoryWriter) -> None:
    session = writer.session()
    session.commit(small(session))
    register = f"{1:016x}-{session.snapshot.hex()}"
    run = session.runs[0]
    assert read(opened(writer)) == b"content"
    writer.write_gc_state(floor=2)
    assert opened(writer).snapshots() == []
    writer.write_gc_state(floor=2, roster=[register])
    with pytest.raises(NotFoundError, match="in no index run"):
        read(opened(writer))
    writer.write_gc_state(floor=2, roster=[register], base=[run])
    assert read(opened(writer)) == b"content"
    data = next(pack.name.hex() for pack in session.packs if pack.kind == 1)
    named = writer.seal_json("gc/0000000000000005-dead", 8, [data])
    lists: dict[str, Any] = {"dead": {"name": "gc/0000000000000005-dead", "hash": named.hex()}}
    writer.write_gc_state(floor=2, roster=[register], base=[run], **lists)
    with pytest.raises(NotFoundError, match="in no index run"):
        read(opened(writer))
    lists["dead"]["hash"] = "00" * 32
    writer.write_gc_state(floor=2, roster=[register], base=[run], **lists)
    with pytest.raises(DamagedError, match="not the object that was named"):
        read(opened(writer))


def test_states_that_are_no_snapshot(writer: RepositoryWriter) -> None:
    for state in ("OPEN", "FORGOTTEN", "DEAD", "FENCED"):
        session = writer.session()
        session.commit(small(session), state=state)
    assert opened(writer).snapshots() == []


def test_epochs(writer: RepositoryWriter) -> None:
    """Data of both epochs stays readable; envelopes and records name theirs."""
    restorer = writer.add_principal(RESTORER)
    first = writer.session()
    hash_ = first.commit(small(first))
    writer.epoch, writer.suite = 2, 2
    writer.write_config()
    second = writer.session()
    second.commit(small(second, b"newer"), seq=2, prev=hash_)
    with pytest.raises(WrongKeyError, match="epoch 2"):
        opened(writer, restorer).snapshots()
    writer.write_key_file(restorer)
    for principal in (writer.owner, restorer):
        repository = opened(writer, principal)
        assert verify(repository).findings == []
        assert sorted(one.head.epoch for one in repository.snapshots()) == [1, 2]


def commit_with(**changes: Any) -> Callable[[RepositoryWriter], None]:
    def act(writer: RepositoryWriter) -> None:
        session = writer.session()
        session.commit(small(session), **({"seq": 3} | changes))

    return act


def test_verify_notes_what_is_too_much(writer: RepositoryWriter) -> None:
    session = writer.session()
    nodes = small(session)
    session.tree(nodes)
    every = {*session.chunks, *session.pages}
    session.commit(nodes, refs={*every, bytes(32)}, counts={"chunks": 5})
    report = verify(opened(writer))
    assert report.findings == []
    assert ["1 ids that its tree does not reach" in one for one in report.notes] == [True, False]
    assert "record counts" in report.notes[1]


@pytest.mark.parametrize(
    ("act", "finding"),
    [
        (commit_with(refs=set()), "lacks 2 ids"),
        (commit_with(refs={bytes(32)}), "lacks 2 ids"),
        (commit_with(seq=2, prev=bytes(32)), "does not follow"),
        (commit_with(seq=1), "same sequence number"),
        (
            commit_with(detail={"root": {"page": "00" * 32, "level": 0, "nodes": 2, "bytes": 7}}),
            "in no index run",
        ),
    ],
)
def test_verify_finds_what_reading_does_not_need(
    writer: RepositoryWriter, act: Callable[[RepositoryWriter], None], finding: str
) -> None:
    session = writer.session()
    session.commit(small(session))
    act(writer)
    findings = verify(opened(writer)).findings
    assert any(finding in one for one in findings), findings
    assert len(findings) == 1


def test_verify_checks_digests_and_filters(writer: RepositoryWriter) -> None:
    session = writer.session()
    session.commit([directory(""), plain_file(session, "f", *session.data(b"x"), digest=bytes(16))])
    assert "digest" in "".join(verify(opened(writer)).findings)
    packs = session.packs
    packs[0].entries = [(bytes([one[0][0] ^ 1]) + one[0][1:], *one[1:]) for one in packs[0].entries]
    writer.write_run(packs)
    assert "is not what its pack says" in "".join(verify(opened(writer)).findings)
