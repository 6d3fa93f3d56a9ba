"""The example in README.md works as it stands."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_runs(
    native: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = re.search(r"<!-- example: begin -->\n```python\n(.*?)```\n", README.read_text(), re.DOTALL)
    assert found, "the markers are there"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("content")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVBACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    exec(compile(found[1], "README.md", "exec"), {})
    assert (tmp_path / "target/file").read_text() == "content"
    assert "file" in capsys.readouterr().out
