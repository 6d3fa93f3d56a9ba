"""A program that begins loaded does what one does that loads."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import warm

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", [["--version"], ["snapshots"], ["no-such-verb"], ["backup", "--help"]])
def test_as_one_that_loads(words: list[str], tmp_path: Path) -> None:
    """Exit code, output and errors, by an environment that is its own."""
    environment = {"PVBACK_REPOSITORY": str(tmp_path / "nothing"), "PATH": "", "HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "pvback", *words]
    loading = subprocess.run(
        argv, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    forked = warm.run(words, environment)
    found = (forked.args, forked.returncode, forked.stdout, forked.stderr)
    assert found == (argv, loading.returncode, loading.stdout, loading.stderr)


def test_signals(tmp_path: Path) -> None:
    """It is a child like any other: what ends it is told, and nothing is left of it."""
    words = ["--bind", "127.0.0.1", "--directory", str(tmp_path), "0"]
    with warm.start(words, {}, module="http.server") as process:
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
