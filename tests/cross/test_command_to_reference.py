"""What the public API stores in a directory, the reference reader restores: the whole way."""

import json
import os
from pathlib import Path

import pytest

import pvback
from pvback.config import Config, Secret
from pvback.model import LocalAddress
from pvback.ops.backup import backup
from pvback.ops.sources import path_source
from pvback.reference import DirectoryStore, Passphrase, Repository, restore, verify
from pvback.reference import config as reference_config
from pvback.reference.__main__ import main
from pvback.reference.errors import UnsupportedError
from pvback.repository.repository import InitOptions, create_repository, open_repository_access
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.local import LocalStore
from tests.support.tree_facts import TreeFacts, differences

PASSWORD = "correct horse"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / os.fsdecode(b"s\xffurce")
    (top / "d").mkdir(parents=True)
    (top / "d" / "big").write_bytes(os.urandom(3_000_000))
    (top / "small").write_bytes(b"small")
    return top


def test_two_snapshots(tmp_path: Path, source: Path) -> None:
    seen = []
    address = tmp_path / "repository"
    with pvback.init_repository(address, PASSWORD, chunk_bytes=65_536, cache_dir=tmp_path / "cache") as made:
        for content in (b"first", b"second"):
            (source / "small").write_bytes(content)
            seen.append(TreeFacts(source))
            made.backup(source)
    repository = Repository.open(DirectoryStore(address), Passphrase(PASSWORD))
    report = verify(repository)
    assert report.findings == []
    assert report.notes == []
    snapshots = repository.snapshots()
    assert [one.head.seq for one in snapshots] == [1, 2]
    assert snapshots[1].head.prev == snapshots[0].record_hash
    for number, snapshot in enumerate(snapshots):
        target = tmp_path / str(number)
        assert restore(repository, snapshot, str(target)).is_complete
        assert differences(seen[number], TreeFacts(target)) == []


def test_the_command_line_of_the_reader(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = tmp_path / "repository"
    with pvback.init_repository(address, PASSWORD, cache_dir=tmp_path / "cache") as made:
        snapshot = made.backup(source).snapshot
    monkeypatch.setenv("PVBACK_PASSWORD", PASSWORD)
    assert main([str(address), "list"]) == 0
    assert capsys.readouterr().out.startswith(str(snapshot)[:8])
    assert main([str(address), "--rebuild-index", "verify"]) == 0
    assert main([str(address), "restore", "latest", str(tmp_path / "target")]) == 0
    assert differences(TreeFacts(source), TreeFacts(tmp_path / "target")) == []


def test_a_store_without_conditions(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "repository"
    address.mkdir()
    store = FaultyStore(LocalStore(address), seed=1, rates=FaultRates(unconditional=1.0))
    config = Config(repository=LocalAddress(address), password=Secret(PASSWORD), cache_dir=None)
    create_repository(config, options=InitOptions(may_be_unconditional=True), store=store)
    line = json.loads((address / "config").read_bytes().split(b"\n")[0])
    assert (line["features"], line["store"]) == (["timed-commits"], {"conditional": False})
    access = open_repository_access(config, store=store, is_writer=True)
    backup(access, path_source(source))
    access.close()
    repository = Repository.open(DirectoryStore(address), Passphrase(PASSWORD))
    assert verify(repository).findings == []
    assert restore(repository, repository.snapshots()[0], str(tmp_path / "target")).is_complete
    assert differences(TreeFacts(source), TreeFacts(tmp_path / "target")) == []
    # Whoever does not know what it takes to write here must not do so.
    monkeypatch.setattr(reference_config, "FEATURES", frozenset())
    with pytest.raises(UnsupportedError, match="timed-commits"):
        Repository.open(DirectoryStore(address), Passphrase(PASSWORD))
