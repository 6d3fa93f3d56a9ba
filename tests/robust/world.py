"""A repository, a machine's cache, and the program run on them, in this process or as one of its own."""

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pvback.cli import main

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse"
SECONDS_MAX = 55
"""For one process."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    words: tuple[str, ...]
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def json(self) -> Any:
        return json.loads(self.out)

    def summary(self) -> dict[str, Any]:
        """The last line of a long job's JSON."""
        line: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        assert line["message_type"] == "summary", line
        return line

    def ended(self, *codes: int) -> "Done":
        """Itself, when it ended with one of these codes and without a traceback."""
        assert self.code in codes, (self.words, self.code, self.text[-2000:], self.err[-2000:])
        assert "Traceback" not in self.err, self.err
        assert "panicked" not in self.err, self.err
        return self


@dataclass(frozen=True, slots=True)
class World:
    """Paths of one repository and of one client of it."""

    repository: Path
    cache: Path
    key_file: Path | None = None
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str | None]:
        secret: dict[str, str | None] = {"PVBACK_KEY_FILE": None, "PVBACK_PASSWORD": PASSWORD}
        if self.key_file is not None:
            secret = {"PVBACK_KEY_FILE": str(self.key_file), "PVBACK_PASSWORD": None}
        return {
            "PVBACK_REPOSITORY": str(self.repository),
            "PVBACK_CACHE_DIR": str(self.cache),
            "PVBACK_CONFIG": None,
            "PVBACK_DEBUG": None,
            "PVBACK_MEMORY": None,
            "PVBACK_PASSWORD_FILE": None,
            "XDG_CONFIG_HOME": str(self.repository.parent / "settings"),
            "TZ": "UTC",
            **secret,
            **self.extra,
        }

    def run(self, *words: object, **settings: Any) -> Done:
        """Run a command in this process."""
        told = [str(word) for word in words]
        result = CliRunner(env=self.environment()).invoke(main, told, **settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Done(tuple(told), result.exit_code, result.stdout_bytes, result.stderr)

    def good(self, *words: object, **settings: Any) -> Done:
        return self.run(*words, **settings).ended(0)

    @contextmanager
    def start(
        self, *words: object, plan: dict[str, Any] | None = None, before: Sequence[str] = (), **settings: Any
    ) -> Iterator["Running"]:
        """Run a command as a process, with a plan of `tests.robust.gated`."""
        tell, told = os.pipe()
        hear, heard = os.pipe()[::-1]
        used = {**(plan or {}), "tell": told, "hear": heard}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PVBACK_")},
            **{name: value for name, value in self.environment().items() if value is not None},
            "PYTHONPATH": str(ROOT),
        }
        command = [*before, sys.executable, "-m", "tests.robust.gated", json.dumps(used), *map(str, words)]
        settings = {"stdin": subprocess.DEVNULL, **settings}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=(told, heard),
            cwd=ROOT,
            **settings,
        )
        os.close(told)
        os.close(heard)
        try:
            with process:
                try:
                    yield Running(process, tell, hear)
                finally:
                    process.kill()
        finally:
            os.close(tell)
            os.close(hear)

    def process(self, *words: object, **settings: Any) -> Done:
        """Run a command as a process to its end."""
        with self.start(*words, **settings) as running:
            return running.finish()

    def snapshots(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.good("snapshots", "--json").json()
        return found

    def copy(self, to: Path) -> "World":
        """The same repository and client at another place."""
        shutil.copytree(self.repository, to / "repository", symlinks=True)
        if self.cache.exists():
            shutil.copytree(self.cache, to / "cache", symlinks=True)
        return World(to / "repository", to / "cache", self.key_file, self.extra)

    def objects(self) -> dict[str, Path]:
        """Key -> file of every object."""
        return {
            str(path.relative_to(self.repository)): path
            for path in sorted(self.repository.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }


@dataclass(frozen=True, slots=True)
class Running:
    """A process of ours."""

    process: "subprocess.Popen[bytes]"
    tell: int
    hear: int

    def wait_for_gate(self) -> None:
        """Return when the process has come to its gate. Fails when it ends before, or takes too long."""
        assert self.read_told() == b"!", self.finish()

    def read_told(self) -> bytes:
        ready, _, _ = select.select([self.tell], [], [], SECONDS_MAX)
        assert ready, "nothing was heard of the process"
        return os.read(self.tell, 20)

    def open_gate(self) -> None:
        os.write(self.hear, b"!")

    def finish(self, *, seconds: float = SECONDS_MAX) -> Done:
        out, err = self.process.communicate(timeout=seconds)
        arguments = self.process.args
        assert isinstance(arguments, list)
        return Done(tuple(map(str, arguments)), self.process.returncode, out, err.decode(errors="replace"))


def new_key(path: Path) -> str:
    """A new X25519 private key in a file; returns the public one in hex."""
    key = X25519PrivateKey.generate()
    path.write_bytes(key.private_bytes_raw())
    return key.public_key().public_bytes_raw().hex()


def new_world(top: Path) -> World:
    """An empty repository, opened by a key file, which takes no memory-hard function."""
    world = World(top / "repository", top / "cache")
    world.good("init", "--chunk-size", "64KiB")
    world.good("key", "add", "--self", "--recipient", new_key(top / "key"))
    return World(world.repository, world.cache, top / "key")


def documented_codes() -> dict[str, set[int]]:
    """Command -> exit codes that docs/operations.md promises, without those of bugs and interruptions."""
    text = (ROOT / "docs/operations.md").read_text()
    found: dict[str, set[int]] = {}
    last: set[int] = set()
    for match in re.finditer(r"^\| `pvback ([a-z]+(?: [a-z]+)?).*\| ([^|]*) \|$", text, re.MULTILINE):
        codes = last if "the same" in match[2] else {int(code) for code in re.findall(r"\d+", match[2])}
        found.setdefault(match[1], set()).update({0, 1, 2} | codes)
        last = codes
    return found


Mount = Callable[[int], Path]
