"""Passwords that are asked for, and recovery keys: shown once, kept nowhere, as good as the password."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from pvback import datapath
from pvback.repository.unlocking import read_recovery_key
from tests.cli.conftest import Run
from tests.cli.terminal import recovery_key_in, type_in

NEW = [("Password for the new repository: ", "correct horse"), ("The same again: ", "correct horse")]
OPEN = [("Password: ", "correct horse")]


def test_a_new_password_is_asked_for_twice(tmp_path: Path) -> None:
    code, shown = type_in(tmp_path, "init", answers=NEW)
    assert code == 0, shown
    assert "correct horse" not in shown
    code, shown = type_in(tmp_path, "snapshots", answers=OPEN)
    assert code == 0, shown


def test_two_different_passwords_make_nothing(tmp_path: Path) -> None:
    code, shown = type_in(tmp_path, "init", answers=[NEW[0], ("The same again: ", "correct hose")])
    assert code == 2
    assert "error: the two passwords are not the same\n\nhint: " in shown
    assert not (tmp_path / "repository/config").exists()


@pytest.mark.parametrize(
    ("words", "answers"),
    [(("init",), [("Password for the new repository: ", "")]), (("snapshots",), [("Password: ", "")])],
)
def test_an_empty_password_is_refused(
    tmp_path: Path, words: tuple[str, ...], answers: list[tuple[str, str]]
) -> None:
    code, shown = type_in(tmp_path, *words, answers=answers)
    assert code == 2
    assert "error: the password is empty\n\nhint: " in shown


def test_key_add_asks_for_the_new_password(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type_in(tmp_path, "init", answers=NEW)[0] == 0
    new = [("New password: ", "battery staple"), ("The same again: ", "battery staple")]
    code, shown = type_in(tmp_path, "key", "add", answers=[*OPEN, *new])
    assert code == 0, shown
    monkeypatch.setenv("PVBACK_PASSWORD", "battery staple")
    assert run("snapshots").exit_code == 0
    code, shown = type_in(tmp_path, "key", "add", answers=[*OPEN, new[0], ("again: ", "battery")])
    assert (code, "not the same" in shown) == (2, True)
    assert len(json.loads(run("key", "list", "--json").stdout)) == 2


def test_a_recovery_key_is_shown_and_opens(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = type_in(tmp_path, "init", "--recovery-key", answers=NEW)
    assert code == 0, shown
    assert "write it down" in shown
    recovery = recovery_key_in(shown)
    assert run("snapshots").exit_code == 0
    for typed in (recovery, recovery.upper().replace("-", " "), f" {recovery.replace('-', '')}"):
        monkeypatch.setenv("PVBACK_PASSWORD", typed)
        assert run("snapshots").exit_code == 0, typed
    code, shown = type_in(tmp_path, "key", "list", answers=[("Password: ", recovery)])
    assert (code, "passphrase,passphrase" in shown) == (0, True), shown
    other = ("1" if recovery[0] != "1" else "2") + recovery[1:]
    monkeypatch.setenv("PVBACK_PASSWORD", other)
    assert run("snapshots").exit_code == 12


def test_a_recovery_key_in_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recovery"
    made = run("init", "--recovery-key-file", str(path), "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["recovery_key_file"] == str(path)
    secret = path.read_text().strip()
    assert secret not in made.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.delenv("PVBACK_PASSWORD")
    assert run("snapshots", "--password-file", str(path)).exit_code == 0


def test_a_recovery_key_is_added_later(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("init").exit_code == 0
    path = tmp_path / "recovery"
    added = run("key", "add", "--recovery-key-file", str(path))
    assert added.exit_code == 0, added.stderr
    labels = {one["label"] for one in json.loads(run("key", "list", "--json").stdout)}
    assert "recovery key" in labels
    monkeypatch.delenv("PVBACK_PASSWORD")
    assert run("key", "list", "--password-file", str(path)).exit_code == 0
    code, shown = type_in(tmp_path, "key", "add", "--self", "--recovery-key", answers=OPEN)
    assert code == 0, shown
    monkeypatch.setenv("PVBACK_PASSWORD", recovery_key_in(shown))
    assert run("snapshots").exit_code == 0
    principal = added.stdout.split()[1]
    assert run("key", "remove", principal).exit_code == 0
    monkeypatch.delenv("PVBACK_PASSWORD")
    assert run("snapshots", "--password-file", str(path)).exit_code == 12


def test_a_recovery_key_goes_to_no_log(run: Run, tmp_path: Path) -> None:
    for words in (("init", "--recovery-key"), ("init", "--recovery-key", "--json")):
        result = run(*words)
        assert (result.exit_code, "on a terminal only" in result.stderr) == (2, True)
    code, shown = type_in(tmp_path, "init", "--recovery-key", "--json")
    assert (code, "on a terminal only" in shown) == (2, True)
    assert not (tmp_path / "repository").exists()


def test_a_file_that_is_there_is_not_replaced(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "recovery"
    path.write_text("mine")
    result = run("init", "--recovery-key-file", str(path))
    assert (result.exit_code, "there is a file already" in result.stderr) == (1, True)
    assert path.read_text() == "mine"
    assert not (tmp_path / "repository").exists()


def test_a_key_that_opens_nothing_is_not_left_behind(run: Run, tmp_path: Path) -> None:
    assert run("init").exit_code == 0
    path = tmp_path / "recovery"
    assert run("init", "--recovery-key-file", str(path)).exit_code == 11
    assert not path.exists()


def test_the_reference_reader_takes_a_recovery_key(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recovery"
    assert run("init", "--recovery-key-file", str(path)).exit_code == 0
    assert run("backup", str(source)).exit_code == 0
    monkeypatch.setenv("PVBACK_PASSWORD", path.read_text().upper().replace("-", " ").strip())
    target = tmp_path / "target"
    result = run("restore", "latest", "--target", str(target), "--reference")
    assert result.exit_code == 0, result.stderr
    assert (target / "a.txt").read_text() == "alpha"


def test_the_key_that_was_opened_last_is_tried_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two has the lower id: each attempt costs a memory-hard derivation."""
    assert run("init").exit_code == 0
    (tmp_path / "new").write_text("battery staple")
    assert run("key", "add", "--new-password-file", str(tmp_path / "new")).exit_code == 0
    tried: list[str] = []
    unlock = datapath.unlock

    def watch(config: bytes, key_objects: Any, **how: Any) -> Any:
        tried.append(key_objects[0][0])
        return unlock(config, key_objects, **how)

    monkeypatch.setattr(datapath, "unlock", watch)
    for password in ("correct horse", "battery staple"):
        monkeypatch.setenv("PVBACK_PASSWORD", password)
        found = [json.loads(run("key", "list", "--json").stdout) for _ in range(2)][1]
        assert [tried[-1]] == [f"keys/{one['principal']}.json" for one in found if one["is_current"]]
    (memory,) = (tmp_path / "cache" / "opened").glob("*.json")
    right = json.loads(memory.read_text())
    gone = right | {"key": f"keys/{'0' * 32}.json"}
    for nonsense in (b"\xff", b"", b"[]", b"{}", *(json.dumps(one).encode() for one in (gone, right))):
        memory.write_bytes(nonsense)
        assert run("snapshots").exit_code == 0
        assert json.loads(memory.read_text()) == right
    memory.unlink()
    memory.mkdir()
    assert run("snapshots").exit_code == 0


def test_copies_of_a_recovery_key() -> None:
    key = "0123-4567-89ab-cdef-ghjk-mnpq-rstv-wxyz"
    assert read_recovery_key(key.upper().replace("0", "O").replace("1", "l")) == key
    assert read_recovery_key(key.replace("-", "  ")) == key
    for other in (key[:-1], key + "0", key.replace("2", "u"), "correct horse battery staple", ""):
        assert read_recovery_key(other) is None, other
