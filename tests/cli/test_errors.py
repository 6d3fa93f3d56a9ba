"""What goes wrong looks the same everywhere: error, hint, exit code, and the same facts as JSON."""

import json
import re
from pathlib import Path

import pytest

from pvback.cli import main
from pvback.errors import PvbackError
from tests.cli.conftest import Run, Verbs
from tests.cli.test_help import commands
from tests.support import fake_native


def test_no_repository(run: Run, tmp_path: Path) -> None:
    result = run("snapshots")
    assert result.exit_code == 10
    assert result.stdout == ""
    where = tmp_path / "repository"
    assert result.stderr == (f"error: repository not found at `{where}`\n\nhint: run `pvback init` first\n")


def test_the_same_facts_in_json(run: Run) -> None:
    result = run("snapshots", "--json")
    facts = json.loads(result.stderr)
    assert (facts["message_type"], facts["error"], facts["exit_code"]) == ("error", "RepositoryNotFound", 10)
    assert facts["hint"] == "run `pvback init` first"


def test_usage(run: Run) -> None:
    result = run("restore", "--nonsense")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no such option")
    assert result.stderr.endswith("--nonsense'\n\nhint: `pvback restore --help` says more\n")
    assert json.loads(run("restore", "--nonsense", "--json").stderr)["error"] == "UsageError"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ((), "missing command", "`pvback --help` lists the commands"),
        (("key",), "missing command", "`pvback key --help` lists the commands"),
        (("unmount",), "no such command 'unmount'", "`pvback --help` lists the commands"),
        (("list",), "no such command 'list'", "that is `pvback snapshots` here"),
        (("key", "passwd"), "no such command 'passwd'", "that is `pvback key add --self` here"),
        (("init", "r"), "got unexpected extra argument (r)", "name the repository with `--repository`"),
        (
            ("ls", "latest", "/a"),
            "got unexpected extra argument (/a)",
            "a path is written behind the snapshot: SNAP:PATH",
        ),
        (
            ("completion",),
            "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish",
            "`pvback completion --help` says more",
        ),
    ],
)
def test_what_people_type(run: Run, words: tuple[str, ...], error: str, hint: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {error}\n\nhint: {hint}\n"
    assert json.loads(run("--json", *words).stderr)["hint"] == hint


def test_init_twice_and_in_a_foreign_place(run: Run, tmp_path: Path) -> None:
    assert run("init").exit_code == 0
    again = run("init")
    assert again.exit_code == 11
    assert "there is a repository" in again.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.profile").write_text("")
    foreign = run("init", "-r", str(tmp_path / "mine"))
    assert foreign.exit_code == 11
    assert "is not empty" in foreign.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".profile"]


def test_wrong_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init")
    monkeypatch.setenv("PVBACK_PASSWORD", "wrong")
    result = run("snapshots")
    assert (result.exit_code, "hint: check the password" in result.stderr) == (12, True)


def test_a_newer_format(run: Run, tmp_path: Path) -> None:
    run("init")
    config = tmp_path / "repository/config"
    good = config.read_text()
    config.write_text(re.sub(r'"min_reader": ?1', '"min_reader": 2', good))
    assert run("snapshots").exit_code == 13
    config.write_text(re.sub(r'"features": ?\[\]', '"features": ["holograms"]', good))
    result = run("snapshots")
    assert (result.exit_code, "holograms" in result.stderr) == (13, True)


def test_a_format_that_can_only_be_read(run: Run, tmp_path: Path, fake_verbs: Verbs) -> None:
    run("init")
    config = tmp_path / "repository/config"
    good = config.read_text()
    config.write_text(good.replace('"min_writer": 1', '"min_writer": 2'))
    assert run("snapshots").exit_code == 0
    assert run("backup", str(tmp_path)).exit_code == 13


def test_snapshots_that_are_not_there(run: Run, source: Path) -> None:
    run("init")
    assert run("ls", "latest").exit_code == 1
    assert run("ls", "abc").exit_code == 1
    assert run("ls", "not hex").exit_code == 2
    run("backup", str(source))
    run("backup", str(source / "a.txt"))
    several = run("ls", "latest")
    assert (several.exit_code, "several sources" in several.stderr) == (2, True)
    assert run("ls", "latest", "--source", str(source)).exit_code == 0
    missing = run("ls", "latest:nowhere", "--source", str(source))
    assert (missing.exit_code, "no such path" in missing.stderr) == (1, True)


def test_damage_costs_only_what_it_hits(run: Run, source: Path, tmp_path: Path) -> None:
    run("init")
    run("backup", str(source))
    run("backup", str(source / "a.txt"))
    registers = sorted((tmp_path / "repository").glob("s/*/snapshots/0*"))
    assert len(registers) == 2
    registers[0].write_bytes(b"nonsense")
    result = run("snapshots", "--json")
    assert result.exit_code == 20
    assert len(json.loads(result.stdout)) == 1
    found = run("check")
    assert (found.exit_code, "snapshot-damaged" in found.stdout) == (20, True)
    assert run("backup", str(source)).exit_code == 0


def test_a_page_that_is_gone(run: Run, source: Path, tmp_path: Path) -> None:
    run("init")
    run("backup", str(source))
    for pack in (tmp_path / "repository").glob("s/*/meta/*/*"):
        pack.unlink()
    assert run("check").exit_code == 20
    assert run("restore", "latest", "--target", str(tmp_path / "target")).exit_code == 20


def test_a_repository_that_was_rolled_back(run: Run, source: Path, tmp_path: Path) -> None:
    run("init")
    run("backup", str(source))
    run("backup", str(source))
    run("snapshots")
    newest = max((tmp_path / "repository").glob("s/*/snapshots/0*"), key=lambda path: path.stat().st_mtime_ns)
    newest.unlink()
    result = run("snapshots")
    assert (result.exit_code, "rolled back" in result.stderr) == (20, True)
    assert run("snapshots", "--no-cache").exit_code == 0


def test_a_bug(run: Run, fake_verbs: Verbs) -> None:
    def explode(job: fake_native.Job) -> dict[str, object]:
        raise RuntimeError("unexpected")

    fake_verbs["limits"] = explode
    run("init")
    result = run("bench", "limits")
    assert result.exit_code == 70
    assert result.stderr.startswith("error: RuntimeError: unexpected\n\nhint: this is a bug")
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("bench", "limits", "-v").stderr


def test_the_stores_own_error_is_told(run: Run, source: Path, tmp_path: Path) -> None:
    run("init")
    place = next((tmp_path / "repository/s").iterdir())
    (place / "meta").write_text("in the way")
    result = run("backup", str(source))
    assert result.exit_code == 30
    assert "echo" not in result.stderr
    assert "meta/" in result.stderr


def test_names_do_no_harm_to_a_terminal(run: Run, source: Path) -> None:
    (source / "evil\x1b[2J\udcff").write_text("")
    run("init")
    run("backup", str(source))
    assert "/evil\\x1b[2J\\xff" in run("ls", "latest").stdout


def test_every_help_ends_with_exit_codes(run: Run) -> None:
    kinds = [PvbackError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    known = {0} | {kind.exit_code for kind in kinds}
    for words in commands(main):
        text = run(*words, "--help").output
        tail = " ".join(text.split("Exit codes: ")[1].split())
        assert tail.endswith("."), words
        assert {int(part.split()[0]) for part in tail.rstrip(".").split(", ")} <= known, words
