"""Programs in Go that the tests run, built here: how that takes least of the processors."""

import os
import subprocess
from pathlib import Path

THRIFTY = {"GOGC": "400"}
"""For all that is written in Go, the compiler too: memory is there, so garbage may wait."""
BUILD = ("build", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
SECONDS_MAX = 3600


def go(*argv: str, folder: Path) -> str:
    """What it prints, in the folder of a module. Raises CalledProcessError, TimeoutExpired."""
    done = subprocess.run(
        ["go", *argv],
        cwd=folder,
        env={**os.environ, **THRIFTY, "CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    return done.stdout
