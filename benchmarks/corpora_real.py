"""Corpora of real programs: a PostgreSQL data directory, and releases of source packages."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpora import GENERATED, Corpus, CorpusUnavailable
from benchmarks.peers import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

PGBENCH_SCALE = 100
"""pgbench scale at scale 1.0: ten million accounts, about 2 GiB on disk with the WAL."""

PGBENCH_TRANSACTIONS = 5_000
"""Transactions per client (of two) between the two states, at scale 1.0."""

POSTGRES_SETTINGS = (
    "listen_addresses = ''",
    "fsync = off",
    "synchronous_commit = off",
    "max_wal_size = 512MB",
    "shared_buffers = 256MB",
)

RELEASES = (
    "django==5.0.14",
    "django==5.1.8",
    "django==5.2.1",
    "sympy==1.12.1",
    "sympy==1.13.3",
    "sqlalchemy==2.0.40",
)
"""Source distributions that lie side by side in the first state."""

NEXT_RELEASES = ("django==5.2.7", "sympy==1.14.0", "sqlalchemy==2.0.43")
"""What the second state adds; the oldest directory leaves."""


def _postgres_bin() -> Path:
    """Directory of the newest installed PostgreSQL with pgbench. Raises CorpusUnavailable."""
    found = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/pgbench")
        if (path.parent / "initdb").exists()
    ]
    on_path = shutil.which("pgbench")
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    if on_path and shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise CorpusUnavailable("PostgreSQL with pgbench is not installed (Debian: `postgresql`)")


def _server_user() -> str | None:
    """Unprivileged account to run the server under; None when this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise CorpusUnavailable("PostgreSQL refuses to run as root, and there is no other account")


def _run(program: Path, *args: str, cwd: Path) -> None:
    """Run one PostgreSQL program as the server's user. Raises CorpusUnavailable."""
    user = _server_user()
    done = subprocess.run(
        [str(program), *args],
        cwd=cwd,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
        extra_groups=None if user is None else [],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace")[-800:]
        raise CorpusUnavailable(f"`{program.name}` ended with {done.returncode}: {tail}")


@contextmanager
def _server(programs: Path, data: Path) -> Iterator[Path]:
    """Run a server on ``data``; yields its socket directory. It is stopped cleanly at the end,
    so that the data directory is a cold and complete one."""
    with tempfile.TemporaryDirectory(prefix="pg-") as scratch:
        user = _server_user()
        if user is not None:
            shutil.chown(scratch, user)
        sockets = Path(scratch)
        control = programs / "pg_ctl"
        log = ["-l", f"{scratch}/log", "-o", f"-k {scratch}"]
        _run(control, "-D", str(data), "-w", "-t", "120", *log, "start", cwd=sockets)
        try:
            yield sockets
        finally:
            _run(control, "-D", str(data), "-w", "-m", "fast", "stop", cwd=sockets)


def build_postgres(root: Path, scale: float, _seed: int) -> None:
    """A cluster initialised and loaded by pgbench, then stopped cleanly."""
    programs = _postgres_bin()
    user = _server_user()
    if user is not None:
        shutil.chown(root, user)
    root.chmod(0o700)
    _run(programs / "initdb", "-D", str(root), "-U", "bench", "-A", "trust", "-N", cwd=root)
    with (root / "postgresql.conf").open("a") as settings:
        settings.write("\n".join(("", *POSTGRES_SETTINGS, "")))
    size = str(max(1, round(PGBENCH_SCALE * scale)))
    with _server(programs, root) as sockets:
        host = ["-h", str(sockets), "-U", "bench"]
        _run(programs / "pgbench", *host, "-i", "-q", "-s", size, "postgres", cwd=sockets)


def change_postgres(root: Path, scale: float, seed: int) -> None:
    """Updates by pgbench in place: random pages all over the largest table, its index and WAL."""
    programs = _postgres_bin()
    count = str(max(100, int(PGBENCH_TRANSACTIONS * scale)))
    with _server(programs, root) as sockets:
        host = ["-h", str(sockets), "-U", "bench", "-n", f"--random-seed={seed}"]
        _run(programs / "pgbench", *host, "-c", "2", "-t", count, "postgres", cwd=sockets)


def _unpack_release(release: str, root: Path) -> None:
    """Download one source distribution with pip and unpack it below ``root``."""
    downloads = cache_dir() / "sdists" / release.replace("==", "-")
    if not list(downloads.glob("*.tar.gz")):
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run(
            [*argv, "-d", str(downloads), release], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CorpusUnavailable(f"pip cannot download {release}: {done.stderr[-400:]}")
    (packed,) = downloads.glob("*.tar.gz")
    with tarfile.open(packed) as members:
        members.extractall(root, filter="data")


def build_sources(root: Path, scale: float, _seed: int) -> None:
    """Several releases of real packages, unpacked side by side (a third of them below 0.1)."""
    for release in RELEASES if scale >= 0.1 else RELEASES[:2]:
        _unpack_release(release, root)


def change_sources(root: Path, scale: float, _seed: int) -> None:
    """The next releases arrive, the oldest directory of all leaves."""
    shutil.rmtree(min(root.iterdir(), key=lambda path: path.name))
    for release in NEXT_RELEASES if scale >= 0.1 else NEXT_RELEASES[:1]:
        _unpack_release(release, root)


REAL = (
    Corpus(
        name="postgres",
        title="PostgreSQL data directory",
        build=build_postgres,
        change=change_postgres,
    ),
    Corpus(
        name="sources",
        title="releases of source packages",
        build=build_sources,
        change=change_sources,
    ),
)

CORPORA = {corpus.name: corpus for corpus in (REAL[0], GENERATED[0], REAL[1], *GENERATED[1:])}
"""All corpora by name, in the order of the report."""
