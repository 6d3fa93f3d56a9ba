"""The program as a process: pipes that close, signals, and a machine without the native module."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import sys
from pvback import datapath
from pvback.cli import main
from tests.support import fake_native

datapath.load_native = lambda: fake_native
{before}
main()
"""
ROOT = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PVBACK_")},
        "PVBACK_REPOSITORY": str(tmp_path / "repository"),
        "PVBACK_PASSWORD": "correct horse",
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-c", START.format(before=before), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=50)
    return process.returncode, out, err


WAITING = """
import json, threading
def wait(job):
    print("started", file=sys.stderr, flush=True)
    name, _ = job.commands.get(timeout=40)
    root = {"page": "e" * 64, "level": 0, "nodes": 1, "bytes": 7}
    job.ask("output", "checkpoint", json.dumps({"root": root, "runs": [], "stats": {}}).encode())
    job.is_cancelled.wait(40)
    from pvback.errors import Interrupted
    raise Interrupted("cancelled")
fake_native.VERBS["backup"] = wait
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stores_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    assert finish(start(tmp_path, "init"))[0] == 0
    process = start(tmp_path, "backup", str(tmp_path), before=WAITING)
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    assert err == (
        f"error: interrupted by {number.name}\n\n"
        "hint: run the same backup again: it goes on from the last checkpoint\n"
    )
    assert list(tmp_path.glob("repository/s/*/records/*-1"))


# Who is not root is root of a name space of its own.
FIRST = ("unshare", "--fork", "--pid", "--kill-child=SIGKILL", *(["--map-root-user"] if os.getuid() else []))


@pytest.mark.parametrize("before", [(), FIRST])
def test_told_to_end_while_it_loads(tmp_path: Path, before: tuple[str, ...]) -> None:
    """As the first process of its container, too, which the system does not end for it."""
    (tmp_path / "click.py").write_text("import sys; print('loading', flush=True); sys.stdin.read()\n")
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "pvback", "snapshots"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loading\n"
            pid = process.pid
            if before:
                (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                pid = int(child)
            os.kill(pid, signal.SIGTERM)
            # While its standard input stays open it does not end by itself.
            assert process.wait(30) == 130
            assert process.stderr is not None
            assert process.stderr.read() == "error: interrupted\n"
        finally:
            process.kill()


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    assert finish(start(tmp_path, "init"))[0] == 0
    assert finish(start(tmp_path, "backup", str(ROOT / "pvback")))[0] == 0
    process = start(tmp_path, "ls", "latest")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=50)
    assert err == ""


def test_a_machine_without_the_native_module(tmp_path: Path) -> None:
    before = """
def missing():
    from pvback.errors import InternalError
    raise InternalError("the native module does not load", hint="run `make build`")
datapath.load_native = missing
"""
    assert finish(start(tmp_path, "--help", before=before))[0] == 0
    code, _, err = finish(start(tmp_path, "init", before=before))
    assert (code, "Traceback" in err) == (70, False)
    assert "native module" in err


def test_the_program_is_a_module_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pvback", "snapshots", "-r", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PVBACK_PASSWORD": "x"},
    )
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr.startswith("error: repository not found at ")


WHAT_IS_LOADED = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sorted(sys.modules), file=sys.stderr))
from pvback.__main__ import run
run()
"""
# Each takes a millisecond or more to load, and none has anything to do for a small repository in a directory.
NOT_LOADED = {
    *("asyncio", "boto3", "botocore", "concurrent.futures", "cryptography", "email", "http", "logging"),
    *("importlib.metadata", "kubernetes", "rich", "secrets", "ssl", "subprocess", "tempfile", "tomllib"),
    *("traceback", "zstandard", "_hashlib"),
}


def test_what_is_not_needed_is_not_loaded(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PVBACK_")},
        "PVBACK_REPOSITORY": str(tmp_path / "repository"),
        "PVBACK_PASSWORD": "correct horse",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "settings"),
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "data").mkdir()
    for words in (["init"], ["backup", str(tmp_path / "data")], ["snapshots"], ["ls", "latest"]):
        done = subprocess.run(
            [sys.executable, "-c", WHAT_IS_LOADED, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        loaded = set(done.stderr.split("LOADED ")[1].split())
        # `init` races requests to see whether the store keeps conditions.
        allowed = {"concurrent.futures", "logging", "traceback", "_hashlib"} if words == ["init"] else set()
        assert not loaded & NOT_LOADED - allowed, words
        assert {"click", "pvback.cli.context"} <= loaded
