"""Install the peers that pvback is measured against, each through its own package client.

Run as ``python -m benchmarks.peers``. Programs go into a cache outside the tree
(``$XDG_CACHE_HOME/pvback/peers``), are pinned to the versions below, and are built again only when
the pinned version changes. A peer that cannot be installed here is skipped with a loud note: the
other results stay valid, and the table says who is missing.

Why not ``go install module@version``: it asks the module proxy for the list of all versions, which
some mirrors refuse, and it refuses modules with ``replace`` lines. Downloading the module and
building in its directory needs neither and checks the same checksum database.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUILD_SECONDS_MAX = 3600
"""Ceiling for one install; rustic takes about ten minutes on two slow cores."""

BORG_BUILD_NEEDS = (
    "pkg-config, a C compiler and the headers of libacl, OpenSSL, lz4, xxhash and zstd "
    "(Debian: pkg-config gcc libacl1-dev libssl-dev liblz4-dev libxxhash-dev libzstd-dev)"
)


class PeerUnavailable(Exception):
    """A peer cannot be installed on this machine; the message says why and what would help."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One program under comparison: where it lands in the cache, and how it gets there."""

    name: str
    version: str
    program: str
    """Path of the executable below the cache directory of this peer and version."""
    install: Callable[[Peer, Path], None]
    """Put the program below the given directory. Raises PeerUnavailable."""

    def home(self, cache: Path) -> Path:
        """Directory of this peer at this version."""
        return cache / f"{self.name}-{self.version}"


def cache_dir() -> Path:
    """Cache directory of all benchmark material: peers, corpora and downloads."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "pvback"


def find_peer(peer: Peer) -> Path | None:
    """Path of an installed peer, or None. Never installs."""
    program = peer.home(cache_dir() / "peers") / peer.program
    return program if os.access(program, os.X_OK) else None


def install_peer(peer: Peer) -> Path:
    """Install ``peer`` unless it is there already, and return its program.

    The build happens beside the final place and is renamed at the end, so that an interrupted
    build never looks finished. Raises PeerUnavailable.
    """
    found = find_peer(peer)
    if found is not None:
        return found
    home = peer.home(cache_dir() / "peers")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        peer.install(peer, home)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    program = find_peer(peer)
    if program is None:
        raise PeerUnavailable(f"{peer.name}: the build made no `{peer.program}`")
    return program


def run_client(peer: Peer, argv: list[str], *, cwd: Path | None = None, **env: str) -> str:
    """Run one command of a package client at low priority; return its standard output.

    Raises PeerUnavailable with the end of its error output.
    """
    if shutil.which(argv[0]) is None:
        raise PeerUnavailable(f"{peer.name}: `{argv[0]}` is not installed")
    try:
        done = subprocess.run(
            ["nice", "-n", "15", *argv],
            cwd=cwd,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise PeerUnavailable(f"{peer.name}: no end after {BUILD_SECONDS_MAX} s") from exc
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).splitlines()[-8:])
        raise PeerUnavailable(f"{peer.name}: `{' '.join(argv[:3])}` failed:\n{tail}")
    return done.stdout


def install_go(module: str, package: str, *flags: str) -> Callable[[Peer, Path], None]:
    """Installer that downloads a Go module by version and builds one package of it."""

    def install(peer: Peer, home: Path) -> None:
        wanted = f"{module}@v{peer.version}"
        answer = json.loads(run_client(peer, ["go", "mod", "download", "-json", wanted]))
        program = str(home / peer.program)
        run_client(
            peer,
            ["go", "build", "-trimpath", *flags, "-o", program, package],
            cwd=Path(answer["Dir"]),
            CGO_ENABLED="0",
        )

    return install


def install_rustic(peer: Peer, home: Path) -> None:
    """Build rustic with cargo, without its web, chart and terminal features."""
    argv = ["cargo", "install", "rustic-rs", "--locked", "--no-default-features"]
    argv += ["--version", peer.version, "--root", str(home)]
    target = home / "build"
    run_client(peer, argv, cwd=home, CARGO_TARGET_DIR=str(target))
    shutil.rmtree(target, ignore_errors=True)


def install_borg(peer: Peer, home: Path) -> None:
    """Build borg from its source distribution, into a virtual environment of its own."""
    run_client(peer, [sys.executable, "-m", "venv", str(home)])
    try:
        wanted = f"borgbackup=={peer.version}"
        run_client(peer, [str(home / "bin" / "pip"), "install", "-q", wanted], cwd=home)
    except PeerUnavailable as exc:
        raise PeerUnavailable(f"{exc}\nit needs {BORG_BUILD_NEEDS}") from exc


PEERS = (
    Peer(
        name="restic",
        version="0.19.1",
        program="restic",
        install=install_go("github.com/restic/restic", "./cmd/restic"),
    ),
    Peer(name="rustic", version="0.11.4", program="bin/rustic", install=install_rustic),
    Peer(
        name="kopia",
        version="0.23.1",
        program="kopia",
        install=install_go("github.com/kopia/kopia", ".", "-tags", "nohtmlui"),
    ),
    Peer(name="borg", version="1.4.5", program="bin/borg", install=install_borg),
)
"""The newest releases that the public package registries served when these pins were made."""


def install_peers() -> dict[str, Path]:
    """Install every peer; return the programs by name, with a loud note for each one missing."""
    programs: dict[str, Path] = {}
    for peer in PEERS:
        print(f"peers: {peer.name} {peer.version} ...", file=sys.stderr, flush=True)
        try:
            programs[peer.name] = install_peer(peer)
        except PeerUnavailable as exc:
            print(f"\n!!! NOT MEASURED: {exc}\n", file=sys.stderr, flush=True)
    return programs


def main() -> int:
    """Install all peers and print where they are; 0 when all are there, 3 when some are missing."""
    programs = install_peers()
    for name, program in programs.items():
        print(f"{name}\t{program}")
    return 0 if len(programs) == len(PEERS) else 3


if __name__ == "__main__":
    sys.exit(main())
