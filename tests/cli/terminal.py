"""A terminal with the program on it, for what is asked and shown there only."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The terminal becomes the program's own: passwords are read from /dev/tty.
START = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from pvback.__main__ import run
run()
"""


def type_in(tmp_path: Path, *words: str, answers: Sequence[tuple[str, str]] = ()) -> tuple[int, str]:
    """Run a command without a password in its environment; (exit code, what the terminal showed).

    Each answer is typed when the text before it has been shown.
    """
    ours, theirs = pty.openpty()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PVBACK_")},
        "PVBACK_REPOSITORY": str(tmp_path / "repository"),
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "settings"),
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
        "COLUMNS": "200",
    }
    with subprocess.Popen(
        [sys.executable, "-c", START, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            shown = ""
            for prompt, answer in answers:
                shown += _read_until(ours, prompt)
                os.write(ours, f"{answer}\n".encode())
            shown += _read_until(ours, None)
            code = process.wait(timeout=50)
        finally:
            os.close(ours)
            process.kill()
    return code, shown.replace("\r\n", "\n")


def recovery_key_in(shown: str) -> str:
    """The recovery key that was shown."""
    match = re.search(r"recovery key ((?:[0-9a-z]{4}-){7}[0-9a-z]{4})\n", shown)
    assert match, shown
    return match[1]


def _read_until(descriptor: int, text: str | None) -> str:
    """What is shown up to `text`, or to the end."""
    shown = ""
    while text is None or text not in shown:
        assert select.select([descriptor], [], [], 20)[0], f"nothing more is shown after {shown!r}"
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # Linux says that the other end is gone with an error
            data = b""
        if not data:
            assert text is None, f"the program ended before it showed {text!r}: {shown}"
            break
        shown += data.decode()
    return shown
