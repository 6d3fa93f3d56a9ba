"""Policy without effects: names, chains, memory, choosing snapshots; and stored bytes that are wrong."""

import dataclasses
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pvback
from pvback.errors import DamagedError, PvbackError, UnsupportedFormatError, UsageError
from pvback.ops.check_listing import judge_chain
from pvback.ops.rows import decode_path, encode_path
from pvback.ops.sources import command_source, escape_path, path_source, stdin_source
from pvback.repository.body import dump_body, format_time, parse_body, parse_time
from pvback.repository.config_object import parse_config
from pvback.repository.heads import Head, HeadsFile, Memory, judge, merge
from pvback.repository.layout import Area, ScopeLayout, generation_name, split_generation
from pvback.repository.records import Record, RecordDetails, Root, SourceIdentity, plan_record
from pvback.repository.registers import Register, RegisterState, parse_register
from pvback.repository.sealed import Named
from pvback.repository.snapshots import Catalog, CommittedSnapshot, SnapshotFilter, find_snapshot
from tests.unit.test_sessions import state

START = datetime(2026, 1, 1, tzinfo=UTC)
HEX = "0123456789abcdef"
PUBLIC = """
BackupOptions BackupResult Cancel Change CheckResult ClusterError ClusterObjectExists
ClusterObjectMissing ClusterRefusal ClusterUnavailable ConflictError Consistency
CopiedSnapshot CopyOptions CopyResult Counters
DamagedError FileError Finding FindingSeverity InternalError Interrupted KeyInfo Match Node
ObjectChanged ObjectExists ObjectNotFound PartlyDone Problem Progress PvbackError Repository
RepositoryNotFound RepositoryStats RestoreOptions RestoreResult SessionFencedError SnapshotInfo
Source Stats StorageError StorageUnavailable StoreUsage UnsupportedFormatError UsageError WrongKeyError
command_source init_repository open_repository path_source stdin_source
"""


def make(
    number: int, *, source: str = "1", seq: int = 1, prev: str | None = None, **facts: Any
) -> CommittedSnapshot:
    snapshot = facts.get("id", f"{number:032x}")
    identity = SourceIdentity(kind="directory", host="h", path=f"/d{source}", string=f"h:/d{source}")
    details = RecordDetails(
        snapshot=snapshot,
        source=identity,
        started=START,
        finished=START,
        root=Root("0" * 64, 0, 1, 0),
        tags=facts.get("tags", {}),
    )
    named = Named(f"records/{snapshot}", f"{number:064x}")
    register = Register(
        generation=1,
        snapshot=snapshot,
        source=source * 32,
        state=RegisterState.COMMITTED,
        ack=1,
        started=START,
    )
    record = Record(
        named=named,
        snapshot=snapshot,
        source=source * 32,
        seq=seq,
        prev=prev,
        counts={},
        refs=(),
        details=details,
    )
    return CommittedSnapshot(register=register, record=record, time=START + timedelta(seconds=number))


def test_the_public_names_are_these() -> None:
    assert pvback.__all__ == PUBLIC.split()
    for name in pvback.__all__:
        assert getattr(pvback, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = pvback.nonsense


@given(st.integers(0, 2**64 - 1), st.text(HEX, min_size=32, max_size=32))
def test_generation_names_come_back_and_sort(generation: int, rest: str) -> None:
    name = generation_name(generation, rest)
    assert split_generation(name) == (generation, rest)
    assert name > generation_name(max(0, generation - 1), "0" * 32) or generation == 0


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("data/ab/ab" + "0" * 30, (Area.DATA, "ab" + "0" * 30)),
        ("data/ac/ab" + "0" * 30, None),
        ("records/" + "0" * 32, (Area.RECORDS, "0" * 32)),
        ("records/" + "0" * 32 + "-0", None),
        ("refs/" + "0" * 32 + "-0", (Area.REFS, "0" * 32 + "-0")),
        ("gc/state", (Area.GC, "state")),
        ("index/../gc/state", None),
        ("index/x", None),
        ("other", None),
    ],
)
def test_keys_that_are_ours(key: str, found: object) -> None:
    assert ScopeLayout("5" * 32).classify(f"s/{'5' * 32}/{key}") == found
    assert ScopeLayout("6" * 32).classify(f"s/{'5' * 32}/{key}") is None


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - the zone is added
def test_times_come_back(time: datetime) -> None:
    there = time.replace(tzinfo=UTC)
    assert parse_time(format_time(there)) == there


@pytest.mark.parametrize("text", ["2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+01:00", ""])
def test_times_that_are_none(text: str) -> None:
    assert parse_time(text) is None


def test_bodies_that_are_wrong() -> None:
    for data in (b"", b"[]", b"{", b'{"v":"1"}', b"\xff", b"[" * 100_000):
        with pytest.raises(DamagedError):
            parse_body(data, "k")
    with pytest.raises(UnsupportedFormatError):
        parse_body(b'{"v":2}', "k")


REGISTER = Register(
    generation=3,
    snapshot="a" * 32,
    source="b" * 32,
    state=RegisterState.COMMITTED,
    ack=4,
    started=START,
    nonce="c" * 32,
    keep=("d" * 32,),
    record=Named("records/" + "a" * 32, "e" * 64),
    refs=(Named("refs/" + "a" * 32 + "-0", "f" * 64),),
    runs=("r",),
)


def test_registers_come_back() -> None:
    body = parse_body(REGISTER.as_body(), "k")
    assert parse_register(body, REGISTER.name) == REGISTER


@pytest.mark.parametrize(
    "change",
    [
        {"state": "MAYBE"},
        {"snapshot": "b" * 32},
        {"ack": -1},
        {"ack": True},
        {"keep": [1]},
        {"record": None},
        {"record": {"name": "records/" + "b" * 32, "hash": "e" * 64}},
        {"refs": [{"name": "../../keys/x", "hash": "e" * 64}]},
        {"checkpoint": {"name": "refs/" + "a" * 32 + "-0", "hash": "e" * 64}},
        {"started": "yesterday"},
        {"nonce": "zz"},
    ],
)
def test_registers_that_are_wrong(change: dict[str, Any]) -> None:
    raw = {**json.loads(REGISTER.as_body()), **change}
    with pytest.raises(DamagedError):
        parse_register(parse_body(dump_body(raw), "k"), REGISTER.name)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}\nsig", b"[1]\n", b'{"pvback":"key"}', b'{"pvback":"config","format":0}', b"x" * (1 << 21)],
)
def test_configurations_that_are_wrong(data: bytes) -> None:
    with pytest.raises(DamagedError):
        parse_config(data)


def test_the_next_record() -> None:
    assert plan_record([]) == (1, None)
    assert plan_record([(1, "a"), (3, "c"), (3, "b"), (2, "z")]) == (4, "b")


def test_memory_of_heads() -> None:
    head = Head("a" * 32, 2, "1" * 64, "0-" + "a" * 32)
    known = Memory(serial=2, generation=5, heads={"s": head})
    same = {"a" * 32: "1" * 64}

    def look(seen: Memory, present: dict[str, str], is_valid: bool = True) -> str | None:
        return judge(known, seen, present=present, is_valid=lambda name: is_valid and name == head.register)

    assert look(known, same) is None
    assert look(dataclasses.replace(known, serial=1), same)
    assert look(dataclasses.replace(known, generation=4), same)
    assert look(known, {})
    assert look(known, {"a" * 32: "2" * 64})
    # A prune may have removed a snapshot that was forgotten, and the cycle may have been one that was seen.
    pruned = Memory(serial=2, generation=6)
    assert look(pruned, {}, is_valid=False) is None
    assert look(known, {}, is_valid=False) is None
    assert look(pruned, {}), "no prune has removed it"
    assert merge(known, pruned).heads == {}
    assert merge(pruned, known) == pruned
    assert merge(known, dataclasses.replace(known, heads={})).heads == {"s": head}


def test_a_memory_that_is_torn_remembers_nothing(tmp_path: Path) -> None:
    file = HeadsFile(tmp_path, repository="r", scope="s")
    file.compare(file.load(), Memory(serial=3, generation=3), present={}, is_valid=bool)
    path = tmp_path / "r/heads-s.json"
    with pytest.raises(DamagedError, match="serial 1, but 3") as caught:
        file.compare(file.load(), Memory(serial=1, generation=3), present={}, is_valid=bool)
    assert caught.value.hint is not None
    assert str(path) in caught.value.hint
    path.write_text('{"serial": [')
    assert file.load() == Memory()


def test_a_process_that_looked_earlier_takes_nothing_back(tmp_path: Path) -> None:
    one, two = (HeadsFile(tmp_path, repository="r", scope="s") for _ in "ab")
    early = one.load()
    newer = Memory(serial=1, generation=1, heads={"s": Head("a" * 32, 7, "1" * 64, "0-" + "a" * 32)})
    two.compare(two.load(), newer, present={"a" * 32: "1" * 64}, is_valid=bool)
    one.compare(early, Memory(serial=1, generation=1), present={}, is_valid=bool)
    assert one.load() == newer


def test_choosing_a_snapshot() -> None:
    some = [make(0, id="ab" + "0" * 30), make(1, id="ac" + "0" * 30), make(2, source="2", id="b" * 32)]
    assert find_snapshot(some, "ab") is some[0]
    assert find_snapshot(some, "latest", source="h:/d1") is some[1]
    assert find_snapshot(some, "latest", source="/d2/") is some[2]
    for text, kind in (("a", UsageError), ("latest", UsageError), ("ff", PvbackError), ("", UsageError)):
        with pytest.raises(kind) as caught:
            find_snapshot(some, text)
        assert type(caught.value) is kind
        assert caught.value.hint


def test_filters() -> None:
    one = make(1, tags={"kind": "db", "x": ""})
    assert SnapshotFilter(tags={"kind": None}).matches(one)
    assert SnapshotFilter(tags={"kind": "db"}, host="h", source="/d1").matches(one)
    assert not SnapshotFilter(tags={"kind": "web"}).matches(one)
    assert not SnapshotFilter(host="other").matches(one)
    closed = dataclasses.replace(one, record=dataclasses.replace(one.record, details=None))
    assert SnapshotFilter().matches(closed)
    assert not SnapshotFilter(host="h").matches(closed)


def chain(*snapshots: CommittedSnapshot) -> list[str]:
    return [one.kind for one in judge_chain(Catalog(state=state(), registers=(), snapshots=snapshots))]


def test_chains() -> None:
    first = make(1)
    assert chain(first, make(2, seq=2, prev=first.record.named.hash)) == []
    assert chain(make(2, seq=2, prev="9" * 64)) == []
    assert chain(first, make(2, seq=2, prev="9" * 64)) == ["chain-forked"]
    assert chain(make(1, prev="9" * 64)) == ["chain-broken"]


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_no_two_paths_have_the_same_source_string(one: bytes, two: bytes) -> None:
    left, right = (Path(os.fsdecode(raw.replace(b"\0", b"."))) for raw in (one, two))
    assert (escape_path(left) == escape_path(right)) == (left == right)
    escape_path(left).encode()


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    assert path_source(tmp_path / "x/../link/", host="h").identity.string == f"h:{tmp_path}/link"
    assert path_source(tmp_path / "link", host="h").job_kind == "directory"
    (tmp_path / "f").write_text("")
    assert path_source(tmp_path / "f").identity.name == "f"
    assert command_source(["/usr/bin/pg_dump", "-Fc"], host="h").identity.string == "h:command/pg_dump"
    for name in ("", "a/b", "..", "x" * 256):
        with pytest.raises(UsageError):
            stdin_source(name)
    with pytest.raises(UsageError, match="neither a directory"):
        path_source("/dev/null")


@given(st.lists(st.text(min_size=1).filter(lambda text: "/" not in text and text != "."), min_size=1))
def test_paths_come_back(parts: list[str]) -> None:
    try:
        path = "/".join(parts)
        assert decode_path(encode_path("/" + path)) == path
    except UnicodeEncodeError:
        pass  # Lone surrogates that are no escaped bytes are not names.
