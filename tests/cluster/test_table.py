"""What a terminal shows while several claims are backed up."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.cluster.client import Namespace
from tests.cluster.fleet import ROOT, SECONDS_MAX, Fleet, make_claim, wait_nothing_left, writer_pod
from tests.cluster.slow import set_rate

WIDTH = 200
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_line_for_each_claim(fleet: Fleet, connected: Namespace) -> None:
    """Side by side, from waiting to what was read; gone at the end, when the results stand there."""
    names = ["data0", "data1"]
    for name in names:
        make_claim(connected, name)
        writer_pod(connected, f"app-{name}", name, f"head -c 24000000 /dev/urandom > /{name}/x")
    # Three seconds each, so that there is something to tell.
    set_rate(connected, 8 << 20)
    code, out, shown = on_terminal(fleet, "pvc", "backup", "-n", connected.name, "--all")
    plain = ESCAPE.sub("", shown)
    assert code == 0, plain
    one, other = (re.escape(f"{connected.name}/{name}") for name in names)
    assert re.search(rf"{one} [^\n]*\n[^\n]*{other} ", plain), plain
    for name in (one, other):
        assert re.search(rf"{name} [^\n]*waiting", plain), plain
        assert re.search(name, out), out
    for name in (one, other):
        assert re.search(rf"{name} [^\n]*[1-9][0-9]* files", plain), plain
    # The last that is drawn is taken away, a line at a time.
    assert shown.count("\x1b[2K") >= len(names)
    assert not ESCAPE.sub("", shown[shown.rindex("\x1b[2K") :]).strip()
    wait_nothing_left(connected)


def on_terminal(fleet: Fleet, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what a terminal has got on standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "pvback", *words],
        cwd=ROOT,
        env=fleet.environment | {"TERM": "xterm", "COLUMNS": str(WIDTH)},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        try:
            parts = []
            while data := _read(ours):
                parts.append(data)
            out, _ = process.communicate(timeout=SECONDS_MAX)
        finally:
            os.close(ours)
            process.kill()
    return process.returncode, out, b"".join(parts).decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says that the other end is gone with an error
        return b""
