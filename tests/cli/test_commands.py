"""Every command once from end to end, and what it says in JSON."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pvback.config import Config, Secret
from pvback.model import LocalAddress
from pvback.repository.repository import InitOptions, create_repository
from pvback.storage.faulty import FaultRates, FaultyStore
from pvback.storage.local import LocalStore
from tests.cli.conftest import Run, Verbs
from tests.support import fake_native


def good(result: Result) -> Result:
    assert result.exit_code == 0, (result.exit_code, result.output, result.exception)
    return result


def snapshot_of(result: Result) -> str:
    match = re.search(r"snapshot ([0-9a-f]{32})", good(result).stdout)
    assert match, result.stdout
    return match[1]


def test_backup_and_restore(run: Run, source: Path, tmp_path: Path) -> None:
    good(run("init"))
    first = snapshot_of(run("backup", str(source), "--host", "h", "--tag", "kind=test"))
    (source / "c.txt").write_text("gamma")
    second = snapshot_of(run("backup", str(source), "--host", "h"))
    table = good(run("snapshots")).stdout
    assert first[:8] in table
    assert f"h:{source}" in table
    good(run("restore", "latest", "--target", str(tmp_path / "target")))
    assert (tmp_path / "target/c.txt").read_text() == "gamma"
    assert good(run("diff", first[:8], second[:8])).stdout == "U /\n+ /c.txt\n"
    assert good(run("dump", f"{second}:/inner/b.txt")).stdout == "beta"
    assert "/inner/b.txt" in good(run("ls", "latest")).stdout
    assert "/c.txt" not in good(run("ls", "latest:inner")).stdout
    assert len(good(run("find", "a.*")).stdout.splitlines()) == 2
    assert "sound" in good(run("check")).stdout
    assert "all" in good(run("stats")).stdout


def test_options_before_and_after_the_verb(run: Run, source: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    good(run("-r", other, "init"))
    good(run("-q", "backup", str(source), "-r", other))
    assert json.loads(good(run("--json", "-r", other, "snapshots")).stdout)
    assert json.loads(good(run("-r", "/nowhere", "snapshots", "-r", other, "--json")).stdout)


def test_json(run: Run, source: Path) -> None:
    assert set(json.loads(good(run("init", "--json")).stdout)) == {
        "repository",
        "address",
        "scope",
        "recovery_key_file",
        "warnings",
    }
    lines = good(run("backup", str(source), "--json", "--tag", "a=b")).stdout.splitlines()
    summary = json.loads(lines[-1])
    assert summary["message_type"] == "summary"
    assert summary["stats"]["file_count"] == 2
    (shown,) = json.loads(good(run("snapshots", "--json")).stdout)
    assert {"id", "time", "source", "tags", "stats"} <= set(shown)
    assert shown["tags"] == {"a": "b"}
    nodes = json.loads(good(run("ls", "latest", "--json")).stdout)
    assert [node["path"] for node in nodes] == ["", "a.txt", "inner", "inner/b.txt"]
    assert json.loads(good(run("find", "nothing", "--json")).stdout) == []
    last = json.loads(good(run("check", "--json")).stdout.splitlines()[-1])
    assert last["is_sound"] is True
    assert json.loads(good(run("bench", "limits", "--json")).stdout)["chunk"]["one"] > 0


def test_standard_input(run: Run) -> None:
    good(run("init"))
    good(run("backup", "--stdin-name", "dump.sql", "--host", "h", "--dry-run", "-"))


def test_command(run: Run) -> None:
    good(run("init"))
    good(run("backup", "--host", "h", "--command", "--", "printf", "%s", "content"))
    assert good(run("dump", "latest:")).stdout == "content"
    (shown,) = json.loads(run("snapshots", "--json").stdout)
    assert (shown["source"], shown["kind"]) == ("h:command/printf", "command")


def test_a_command_that_fails_commits_nothing(run: Run) -> None:
    good(run("init"))
    result = run("backup", "--command", "--", "sh", "-c", "echo some; exit 7")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: sh: the command ended with status 7; nothing was committed\n",
    )
    assert json.loads(run("snapshots", "--json").stdout) == []


def test_dry_run_stores_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    good(run("init"))
    before = sorted(tmp_path.joinpath("repository").rglob("*"))
    good(run("backup", str(source), "--dry-run"))
    assert sorted(tmp_path.joinpath("repository").rglob("*")) == before


def test_files_that_cannot_be_read(run: Run, source: Path, fake_verbs: Verbs) -> None:
    (source / "dangling").symlink_to("nowhere")
    good(run("init"))
    result = run("backup", str(source))
    assert result.exit_code == 3
    assert "warning: dangling: permission denied" in result.stderr
    assert len(json.loads(run("snapshots", "--json").stdout)) == 1


def test_sources_that_are_not_there(run: Run, source: Path) -> None:
    good(run("init"))
    assert run("backup", "/nowhere/at/all").exit_code == 1
    assert run("backup", "/nowhere/at/all", str(source)).exit_code == 3
    assert len(json.loads(run("snapshots", "--json").stdout)) == 1


def test_keys(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(run("init"))
    (tmp_path / "new").write_text("battery staple\n")
    added = good(run("key", "add", "--role", "writer", "--new-password-file", str(tmp_path / "new")))
    principal = added.stdout.split()[1]
    assert len(json.loads(run("key", "list", "--json").stdout)) == 2
    good(run("key", "add", "--self", "--new-password-file", str(tmp_path / "new")))
    assert run("key", "remove", "zz").exit_code == 2
    good(run("key", "remove", principal[:6]))
    (mine,) = json.loads(run("key", "list", "--json").stdout)
    assert run("key", "remove", mine["principal"]).exit_code == 11
    monkeypatch.setenv("PVBACK_PASSWORD", "battery staple")
    good(run("snapshots"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    assert "_PVBACK_COMPLETE" in good(run("completion", shell)).stdout


def test_how_much_to_read(run: Run, source: Path, fake_verbs: Verbs) -> None:
    shares = []

    def check(job: fake_native.Job) -> dict[str, object]:
        shares.append(job.options.get("read_data"))
        return {}

    fake_verbs["check"] = check
    good(run("init"))
    for words in ((), ("--read-data",), ("--read-data=10%",), ("--read-data", "2.5")):
        good(run("check", *words))
    assert shares == [None, 100.0, 10.0, 2.5]


def test_what_was_asked_of_the_store(run: Run, source: Path, tmp_path: Path) -> None:
    good(run("init"))

    def store_of(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(good(run(*words, "--json")).stdout.splitlines()[-1])["store"]
        assert sum(found["requests"].values()) == found["request_count"] > 0
        assert (found["retry_count"], found["hedge_count"]) == (0, 0)
        return found

    (source / "noise").write_bytes(random.Random(1).randbytes(1 << 20))
    backup = store_of("backup", str(source))
    assert 1 << 20 < backup["sent_bytes"] < 1 << 21
    assert {"create", "swap", "read", "list"} <= set(backup["requests"])
    assert store_of("backup", str(source), "--dry-run")["sent_bytes"] == 0
    assert store_of("restore", "latest", "--target", str(tmp_path / "target"))["received_bytes"] > 1 << 20
    assert store_of("check", "--read-data")["received_bytes"] > 1 << 20
    assert store_of("prune", "--dry-run")["requests"]["read"] > 0
    assert store_of("prune")["requests"]["swap"] > 0
    assert store_of("forget", "--keep-last", "1", "--dry-run")["requests"]["read"] > 0
    assert store_of("forget", "--keep-last", "1", "--prune")["requests"]["read"] > 0
    assert store_of("forget", "latest")["requests"]["swap"] > 0
    assert "put" not in store_of("stats")["requests"]
    assert re.search(r"this took \d+ requests \(.*\d+ list.*\); 0 B sent, ", run("stats").stderr)


def test_each_source_has_its_own_count(run: Run, source: Path, tmp_path: Path) -> None:
    good(run("init"))
    (source / "noise").write_bytes(random.Random(1).randbytes(1 << 20))
    small = tmp_path / "small"
    small.write_text("small")
    lines = good(run("backup", str(source), str(small), "--json")).stdout.splitlines()
    first, second = (one["store"] for one in map(json.loads, lines) if one["message_type"] == "summary")
    assert first["sent_bytes"] > 1 << 20 > second["sent_bytes"] > 0


def test_a_source_that_came_up_empty_is_not_forgotten(run: Run, source: Path) -> None:
    for number in range(12):
        (source / f"f{number}").write_text("x")
    good(run("init"))
    old = snapshot_of(run("backup", str(source)))
    for path in source.glob("f*"):
        path.unlink()
    (source / "inner/b.txt").unlink()
    (source / "inner").rmdir()
    (source / "a.txt").unlink()
    new = snapshot_of(run("backup", str(source)))
    frozen = run("forget", "--keep-last", "1", "--force")
    assert frozen.exit_code == 3
    assert f"`--acknowledge {new[:8]}`" in frozen.stderr
    assert old[:8] in run("snapshots").stdout
    said = json.loads(run("forget", "--keep-last", "1", "--dry-run", "--json").stdout.splitlines()[0])
    assert [(one["newest"], one["since"]) for one in said["shrunk"]] == [(new, old)]
    good(run("forget", "--keep-last", "1", "--force", "--acknowledge", new[:8]))
    assert old[:8] not in run("snapshots").stdout


def test_forget_and_prune_on_a_store_without_conditions(run: Run, source: Path, tmp_path: Path) -> None:
    address = tmp_path / "repository"
    address.mkdir()
    store = FaultyStore(LocalStore(address), seed=1, rates=FaultRates(unconditional=1.0))
    config = Config(repository=LocalAddress(address), password=Secret("correct horse"), cache_dir=None)
    create_repository(config, options=InitOptions(may_be_unconditional=True), store=store)
    snapshot = snapshot_of(run("backup", str(source)))
    refused = run("forget", snapshot, "--force", "--alone")
    assert refused.exit_code == 2
    assert "--prune" in refused.stderr
    refused = run("forget", "--keep-last", "1", "--prune")
    assert refused.exit_code == 11
    assert "--alone" in refused.stderr
    assert "gone on with" in good(run("forget", "--keep-last", "1", "--prune", "--alone")).stdout
