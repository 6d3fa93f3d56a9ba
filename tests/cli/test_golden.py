"""What each command says, whole: as text and with `--json`. PVBACK_TEST_UPDATE=1 writes it anew.

What differs from run to run stands as a word in angle brackets.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pvback.cli import main
from tests.cli.conftest import Run
from tests.cli.test_help import commands

FOLDER = Path(__file__).parent / "golden"
RECIPIENT = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
Folders = tuple[Path, ...]
GROUPS = {(), ("key",), ("bench",)}

MASKS = (
    (r"\b[0-9a-f]{32}\b", "<id>"),
    (r"(?m)^(snapshot |removed key )?[0-9a-f]{8}\b(?=  |$)", r"\1<id8>"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?", "<time>"),
    (r"\d+\.\d s", "<seconds>"),
    (r"[\d.]+ [KMGT]?i?B/s", "<rate>"),
    (r"[\d.]+ [KMGT]?i?B (stored|fetched)", r"<size> \1"),
)
# Figures of a run, of the machine it runs on, and of who runs it.
UNSTEADY = re.compile(
    r"(time|started|finished|duration_seconds|stored_bytes|object_count|uid|gid"
    r"|mode|program|bytes_fetched|.*_ns)$"
)


def masked_text(text: str, folders: Folders) -> str:
    for folder in folders:
        text = text.replace(str(folder), "<tmp>")
    for pattern, word in MASKS:
        text = re.sub(pattern, word, text)
    return re.sub(r"[ ]{2,}", "  ", text)


def masked_json(value: Any, folders: Folders, *, name: str = "") -> Any:
    if value is not None and UNSTEADY.match(name):
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {key: masked_json(one, folders, name=key) for key, one in value.items()}
    if isinstance(value, list):
        return [masked_json(one, folders, name=name) for one in value]
    if isinstance(value, str):
        return masked_text(value, folders)
    return "<float>" if isinstance(value, float) else value


@dataclass(frozen=True)
class Prepared:
    """A repository with two snapshots and two keys, to be copied."""

    folder: Path
    names: dict[str, str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "data/inner").mkdir(parents=True)
    (folder / "data/a.txt").write_text("alpha")
    (folder / "data/inner/b.txt").write_text("beta")
    (folder / "new").write_text("battery staple\n")
    environment = {
        "PVBACK_REPOSITORY": str(folder / "repository"),
        "PVBACK_PASSWORD": "correct horse",
        "PVBACK_CACHE_DIR": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "settings"),
    }

    def run(*words: str) -> str:
        result = CliRunner(env=environment).invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("init")
    run("backup", str(folder / "data"), "--host", "h", "--tag", "app=shop")
    (folder / "data/c.txt").write_text("gamma")
    run("backup", str(folder / "data"), "--host", "h")
    first, second = (one["id"] for one in json.loads(run("snapshots", "--json")))
    words = ("--role", "writer", "--label", "night", "--new-password-file", str(folder / "new"))
    principal = json.loads(run("key", "add", *words, "--json"))["principal"]
    return Prepared(folder, {"first": first, "second": second, "principal": principal})


CASES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("init",): ("-r", "{tmp}/other"),
    ("backup",): ("{data}", "--host", "h", "--tag", "app=shop"),
    ("snapshots",): (),
    ("ls",): ("latest",),
    ("find",): ("*.txt",),
    ("diff",): ("{first}", "{second}"),
    ("stats",): (),
    ("restore",): ("latest", "--target", "{tmp}/target"),
    ("dump",): ("latest:a.txt",),
    ("check",): (),
    ("key", "list"): (),
    ("key", "add"): ("--recipient", RECIPIENT, "--role", "restorer"),
    ("key", "remove"): ("{principal}",),
    ("bench", "limits"): (),
    ("completion",): ("bash",),
}


# A script and a file's content are no results to be wrapped.
WITHOUT_JSON = {("completion",), ("dump",)}
RUNS = [
    (words, is_json)
    for words in CASES
    for is_json in (False, True)
    if not is_json or words not in WITHOUT_JSON
]


def file_name(words: tuple[str, ...], *, is_json: bool) -> str:
    return f"{'-'.join(words)}{'.json' if is_json else ''}.txt"


def test_every_command_has_a_case() -> None:
    assert set(CASES) == set(commands(main)) - GROUPS
    assert {path.name for path in FOLDER.iterdir()} == {file_name(words, is_json=one) for words, one in RUNS}


@pytest.mark.parametrize(
    ("words", "is_json"), RUNS, ids=[file_name(words, is_json=one) for words, one in RUNS]
)
def test_golden(run: Run, prepared: Prepared, tmp_path: Path, words: tuple[str, ...], is_json: bool) -> None:
    shutil.copytree(prepared.folder / "repository", tmp_path / "repository")
    names = {**prepared.names, "tmp": str(tmp_path), "data": str(prepared.folder / "data")}
    filled = [word.format(**names) for word in CASES[words]]
    result = run(*words, *filled, *(["--json"] if is_json else []))
    text = shown(result, (prepared.folder, tmp_path), words=words, is_json=is_json)
    path = FOLDER / file_name(words, is_json=is_json)
    if os.environ.get("PVBACK_TEST_UPDATE"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"set PVBACK_TEST_UPDATE=1 and look at what changes in {path.name}"


def shown(result: Result, folders: Folders, *, words: tuple[str, ...], is_json: bool) -> str:
    """Exit code, standard output and standard error."""
    parts = [f"exit code {result.exit_code}\n"]
    for title, text in (("output", result.stdout), ("errors", result.stderr)):
        if is_json:
            masked = [masked_json(one, folders) for one in documents(text)]
            lines = [json.dumps(one, indent=1, sort_keys=True) for one in masked]
        else:
            lines = masked_text(text, folders).splitlines()
        if words == ("key", "list") and not is_json:
            # They are sorted by their ids, which are random.
            lines[1:] = sorted(lines[1:])
        if words == ("bench", "limits"):
            lines = [re.sub(r"\d+\.\d\d\b", "<figure>", line) for line in lines]
        if lines:
            parts.append(f"--- {title}\n" + "".join(f"{line}\n" for line in lines))
    return "".join(parts)


def documents(text: str) -> list[Any]:
    """One document, or one a line; keys in the order of their labels, for their ids are random."""
    try:
        whole = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]
    if isinstance(whole, list) and whole and "principal" in whole[0]:
        whole.sort(key=lambda one: str(one["label"]))
    return [whole]
