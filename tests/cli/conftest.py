"""The command line as a user has it: arguments in, output and exit code out.

The data path is the real extension. Only what it will not do on command is played, by
`tests/support/fake_native.py`, in tests that ask for `fake_verbs`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pvback import datapath
from pvback.cli import main
from tests.support import fake_native

Run = Callable[..., Result]
Verbs = dict[str, Callable[[fake_native.Job], dict[str, Any]]]


@pytest.fixture
def fake_verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    """A data path that is played; what it does may be changed."""
    monkeypatch.setattr(datapath, "load_native", lambda: fake_native)
    monkeypatch.setattr(fake_native, "VERBS", dict(fake_native.VERBS))
    return fake_native.VERBS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on a repository below `tmp_path`, with a password in the environment."""
    for name in ("PVBACK_CONFIG", "PVBACK_KEY_FILE", "PVBACK_PASSWORD_FILE", "PVBACK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PVBACK_REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.setenv("PVBACK_PASSWORD", "correct horse")
    monkeypatch.setenv("PVBACK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))

    def invoke(*words: str, **settings: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words], **settings)  # type: ignore[arg-type]

    return invoke


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree."""
    top = tmp_path / "data"
    (top / "inner").mkdir(parents=True)
    (top / "a.txt").write_text("alpha")
    (top / "inner" / "b.txt").write_text("beta")
    return top
