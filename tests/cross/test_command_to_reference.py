"""What the public API stores in a directory, the reference reader restores: the whole way."""

import os
from pathlib import Path

import pytest

import pvback
from pvback.reference import DirectoryStore, Passphrase, Repository, restore, verify
from pvback.reference.__main__ import main
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
