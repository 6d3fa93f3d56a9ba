"""`python -m pvback.reference`: exit codes, one-line errors, no traceback on user errors."""

import random
from pathlib import Path

import pytest

from pvback.reference.__main__ import main
from tests.support.reference_torture import directory, plain_file
from tests.support.reference_writer import RepositoryWriter


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RepositoryWriter:
    monkeypatch.setenv("PVBACK_PASSWORD", "pass")
    writer = RepositoryWriter(tmp_path / "repo", random.Random(5).randbytes).init("pass")
    session = writer.session()
    session.commit([directory(""), plain_file(session, b"f\xff", *session.data(b"content"))])
    return writer


def test_commands(
    writer: RepositoryWriter, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    repository = str(writer.root)
    assert main([repository, "list"]) == 0
    snapshot = capfdbinary.readouterr().out.split()[0].decode()
    assert main([repository, "ls", snapshot[:8]]) == 0
    assert b"'f\\xff'" in capfdbinary.readouterr().out
    assert main([repository, "dump", "latest:f\udcff"]) == 0
    assert capfdbinary.readouterr().out == b"content"
    assert main([repository, "--rebuild-index", "restore", "latest", str(tmp_path / "out")]) == 0
    assert next((tmp_path / "out").iterdir()).read_bytes() == b"content"
    assert main([repository, "verify"]) == 0
    assert b"snapshots 1" in capfdbinary.readouterr().out


def one_error(capfd: pytest.CaptureFixture[str]) -> str:
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_errors(
    writer: RepositoryWriter,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = str(writer.root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "secret").write_bytes(bytes(80))
    cases = [
        (["/nonexistent", "list"], 1, "not there"),
        ([repository, "ls", "ffff"], 1, "no snapshot"),
        ([repository, "ls", "latest:none"], 1, "no such path"),
        ([repository, "restore", "latest", str(tmp_path / "full")], 1, "not empty"),
        ([repository, "--key-file", str(tmp_path / "none"), "list"], 1, "No such file"),
        ([repository, "--key-file", str(tmp_path / "secret"), "list"], 12, "no key file opens"),
        ([repository, "--key-file", str(tmp_path / "full" / "x"), "list"], 12, "80 bytes"),
        ([repository, "--scope", "x", "list"], 1, "scopes fit"),
    ]
    for arguments, code, words in cases:
        assert main(arguments) == code, arguments
        assert words in one_error(capfd)
    monkeypatch.setenv("PVBACK_PASSWORD", "wrong")
    assert main([repository, "list"]) == 12
    monkeypatch.delenv("PVBACK_PASSWORD")
    assert main([repository, "list"]) == 12
    with pytest.raises(SystemExit) as usage:
        main([repository])
    assert usage.value.code == 2


def test_damage(writer: RepositoryWriter, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    repository = str(writer.root)
    pack = next((writer.root / "s" / writer.scope.hex() / "data").rglob("*/*"))
    pack.write_bytes(pack.read_bytes()[:-1])
    assert main([repository, "verify"]) == 20
    assert main([repository, "restore", "latest", str(tmp_path / "out")]) == 3
    assert "not restored: 'f\\xff'" in capfd.readouterr().err
    writer.write_config(features=["later"])
    assert main([repository, "list"]) == 13
    assert "later" in one_error(capfd)
