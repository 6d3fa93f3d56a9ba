"""The table of the model's runs: it is whole, and what it calls a result is one."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.model import run
from tests.model.known import cache_folder, fingerprint, recall, remember
from tests.model.run import CANARIES, CLEAN, MODEL, ROWS, Outcome, Row, complaint, parse_outcome

SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(MODEL.parent.glob("*.pml"))}
README = (MODEL.parent / "README.md").read_text(encoding="utf-8")
ENDED = "State-vector 172 byte, depth reached 98, errors: {}\n    58166 states, stored\n"
CANARY = CANARIES[0]


def options_of_the_model() -> set[str]:
    """What the preprocessor is asked for anywhere in the model, apart from what the model defines itself."""
    asked = set()
    for text in SOURCES.values():
        for line in re.findall(r"^#(?:if|ifdef|ifndef|elif)\b(.*)$", text, re.MULTILINE):
            asked |= set(re.findall(r"[A-Z][A-Z0-9_]+", re.sub(r"/\*.*", "", line)))
    return asked


def test_every_seeded_bug_has_a_canary() -> None:
    seeded = {option for option in options_of_the_model() if option.startswith("BUG_")}
    searched = {word for row in CANARIES for word in row.options.split() if word.startswith("BUG_")}
    assert seeded
    assert seeded == searched
    assert len(CANARIES) == len(searched), "one row a bug"


def test_canaries_run_in_ci_and_bugs_only_there() -> None:
    assert all(row.in_ci and row.search == "canary" for row in CANARIES)
    assert not [row.name for row in CLEAN if "BUG_" in row.options or row.search == "canary"]


def test_rows_use_options_that_the_model_has() -> None:
    used = {word.split("=")[0] for row in ROWS for word in row.options.split()}
    assert used <= options_of_the_model()


def test_the_model_says_what_its_options_are() -> None:
    head = SOURCES["protocol.pml"].split("*/")[0]
    used = {word.split("=")[0] for row in ROWS for word in row.options.split() if "BUG_" not in word}
    assert not [name for name in sorted(used) if not re.search(rf"\b{name}\b", head)]


def test_names_are_unique_and_in_the_readme() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert not [row.name for row in CLEAN if f"| `{row.name}` |" not in README]
    assert not [
        name for name in re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.MULTILINE) if name not in names
    ]


def test_an_ended_search_without_errors_is_clean() -> None:
    outcome = parse_outcome(ENDED.format(0), 1.0)
    assert outcome == Outcome(errors=0, states=58166, seconds=1.0, is_complete=True, violated="")
    assert complaint(CLEAN[0], outcome) == ""


@pytest.mark.parametrize(
    "report",
    [
        "",
        "pan: reached -DMEMLIM bound\n",
        ENDED.format(1),
        "pan: out of memory\n" + ENDED.format(0),
        "error: max search depth too small\n" + ENDED.format(0),
        "Warning: Search not completed\n" + ENDED.format(0),
    ],
)
def test_anything_else_is_not(report: str) -> None:
    assert complaint(CLEAN[0], parse_outcome(report, 1.0))


def test_a_canary_has_to_violate_an_assertion() -> None:
    stuck = "pan:1: invalid end state (at depth 74)\n" + ENDED.format(1)
    found = "pan:1: assertion violated ((reg_needs[k_]& ~(have_))==0) (at depth 56)\n" + ENDED.format(1)
    assert complaint(CANARY, parse_outcome(ENDED.format(0), 1.0))
    assert complaint(CANARY, parse_outcome(stuck, 1.0))
    assert complaint(CANARY, parse_outcome(found, 1.0)) == ""


def test_what_decides_a_search_names_it(tmp_path: Path) -> None:
    def made(folder: str, text: str) -> Path:
        path = tmp_path / folder
        path.mkdir()
        model = tmp_path / folder / "model" / "protocol.pml"
        (path / "pan.c").write_text(f'#line 7 "{model}"\n{text}')
        return path

    def name(path: Path, *commands: list[str]) -> str:
        return fingerprint(path, *commands, model=path / "model" / "protocol.pml")

    first, moved, changed = made("first", "int x;"), made("moved", "int x;"), made("changed", "int y;")
    assert name(first, ["gcc", "-O2"]) == name(moved, ["gcc", "-O2"])
    different = [name(first, ["gcc", "-O2"]), name(changed, ["gcc", "-O2"]), name(first, ["gcc", "-O1"])]
    (first / "pan.t").write_text("")
    assert len({*different, name(first, ["gcc", "-O2"])}) == 4


def test_what_is_known_is_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcome = parse_outcome(ENDED.format(0), 1.0)
    assert recall("name") is None
    remember("name", outcome)
    assert Outcome(**(recall("name") or {})) == outcome
    (kept,) = cache_folder().iterdir()
    kept.write_text(kept.read_text()[:-1])
    assert recall("name") is None


def test_only_what_is_as_it_must_be_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(row: Row, report: str) -> bool:
        def act(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(argv, 0, report, "")

        with monkeypatch.context() as patch:
            patch.setattr("tests.model.run.subprocess.run", act)
            patch.setattr(run, "fingerprint", lambda *_, **__: row.name)
            return run.run_row(row, tmp_path, is_anew=False)[1]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for report in (ENDED.format(1), "Warning: Search not completed\n" + ENDED.format(0), ENDED.format(0)):
        assert not search(CLEAN[0], report), "nothing is known before a clean end"
    assert search(CLEAN[0], "")
    assert not search(CANARY, ENDED.format(0))
    assert not search(CANARY, ENDED.format(0)), "a canary that was not found is searched again"


def test_the_makefile_and_ci_run_the_model() -> None:
    root = Path(__file__).resolve().parents[2]
    assert re.search(r"^model: .*\n\t.*-m tests\.model\.run$", (root / "Makefile").read_text(), re.MULTILINE)
    script = (root / ".ci/run").read_text()
    assert re.search(r"^computing=\([^)]*\bmodel\b", script, re.MULTILINE)
    assert 'targets=("${waiting[@]}" "${computing[@]}")' in script
