"""Programs that begin loaded: to load is half of what a short command costs, or more.

`Warm` is `subprocess.Popen` for `python -m MODULE WORDS...`: a process that has loaded the whole product is
forked, and runs the module.

Its process is a child like any other: it has its own streams, environment and folder, takes signals, and is
waited for. What looks at the start itself, or at memory, uses `subprocess.Popen`.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import inspect
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pvback
from tests.support.s3_servers import S3Server, client_of

ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES_MAX = 1 << 17
_KUBECONFIG = "KUBECONFIG"
"""The one variable that a library looks at while it is loaded."""
_lock = threading.Lock()


def start(words: Sequence[str], environment: Mapping[str, str], *, module: str = "pvback") -> "Warm":
    """A program of this project, which runs, in the project's folder, with nothing to read."""
    return Warm(
        [sys.executable, "-m", module, *words],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    words: Sequence[str], environment: Mapping[str, str], *, module: str = "pvback", seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """The same, to its end. Raises TimeoutExpired when it is killed for taking longer."""
    with start(words, environment, module=module) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


class Warm(subprocess.Popen[str]):
    """A program of this project, by `[sys.executable, "-m", MODULE, WORDS...]`."""

    def _execute_child(self, *told: Any) -> None:
        """Begin the process, in the place of the library's own way to do it."""
        way = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined] # how a Popen begins
        asked = way.bind(self, *told).arguments
        python, option, module, *words = asked["args"]
        assert (python, option) == (sys.executable, "-m"), asked["args"]
        is_plain = not asked["pass_fds"] and not asked["start_new_session"] and asked["preexec_fn"] is None
        assert is_plain, "only streams, environment and folder can be given"
        streams = ("p2cread", "c2pwrite", "errwrite")
        message = {
            "module": module,
            "words": words,
            "folder": str(asked["cwd"] or Path.cwd()),
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
        }
        mine = [asked[name] if asked[name] != -1 else number for number, name in enumerate(streams)]
        kubeconfig = message["environment"].get(_KUBECONFIG, "")
        self.pid = _begin(json.dumps(message).encode(), mine, kubeconfig=kubeconfig)
        self._child_created = True
        for name in streams:
            if asked[name] != -1 and asked[name] != getattr(self, "_devnull", None):
                os.close(asked[name])
        if (null := getattr(self, "_devnull", None)) is not None:
            os.close(null)


def _begin(message: bytes, streams: list[int], *, kubeconfig: str) -> int:
    """Have a process forked that becomes a child of this one; its number."""
    with _lock:
        channel = _server(kubeconfig)
        # The process between ends at once, and who looks after orphans is its child's parent.
        _become_reaper(True)
        try:
            socket.send_fds(channel, [message], streams)
            begun = channel.recv(_MESSAGE_BYTES_MAX)
        finally:
            _become_reaper(False)
    assert begun, "the process that is forked has ended"
    return int(begun)


def _become_reaper(is_one: bool) -> None:
    failed = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(is_one), 0, 0, 0)
    assert not failed, os.strerror(ctypes.get_errno())


@functools.cache
def _server(kubeconfig: str) -> socket.socket:
    """The end on which the one that is forked hears; it ends with this process."""
    others = ("PVBACK_", _KUBECONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm", str(other.fileno())],
            cwd=ROOT,
            env={**kept, _KUBECONFIG: kubeconfig} if kubeconfig else kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
        )

    def end() -> None:
        mine.close()
        process.wait()

    atexit.register(end)
    return mine


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each message. Returns the message in the forked process, None when nobody can ask any more."""
    while True:
        message, streams, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, 3)
        if not message:
            return None
        hear, tell = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for used in (hear, tell, *streams):
                os.close(used)
            channel.close()
            return dict(json.loads(message))
        os.waitpid(between, 0)
        # Not before it has ended: its child is given to its new parent by that.
        channel.send(os.read(hear, 100))
        for used in (hear, tell, *streams):
            os.close(used)


def _load() -> None:
    """All of the product, and what it loads when it is needed."""
    for found in pkgutil.walk_packages(pvback.__path__, "pvback."):
        if found.name != "pvback.__main__":
            import_module(found.name)
    # It loads others of its modules when it is first used.
    client_of(S3Server(name="none", endpoint="http://127.0.0.1:1", access_key="key", secret_key="secret"))
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be forked"


def _main(channel: socket.socket) -> None:
    _load()
    gc.freeze()
    told = _serve(channel)
    if told is None:
        return
    os.environ.clear()
    os.environ.update(told["environment"])
    time.tzset()
    # What these were on was found out when they were made.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115 - until it ends
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )
    os.chdir(told["folder"])
    sys.argv = [told["module"], *told["words"]]
    _end(_run(told["module"]))


def _run(module: str) -> int:
    """The exit code of a module that is run."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 - said as an interpreter says it
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but for taking down what was loaded: all of that would be copied for it."""
    threading._shutdown()  # type: ignore[attr-defined] # threads that are waited for
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
