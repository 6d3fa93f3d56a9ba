"""Whether a wheel can be given away: `python -m tests.support.check_wheel WHEEL...`.

It names no path of the machine that built it, and its program runs in a fresh environment, away from
the sources.
"""

import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Where tools unpack and build, whatever the machine. Standard libraries name paths of their own builds.
PLACES = re.compile(rb"/(?:root|home|Users|builds|workspace)/[\w.-]+/[\w./-]*|\.cargo/registry/[\w./-]*")


def machine_paths(wheel: Path) -> list[str]:
    """What members of `wheel` say about where it was built."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            hits = {match[0].decode() for match in PLACES.finditer(data)}
            hits |= {str(ROOT)} if f"{ROOT}/".encode() in data else set()
            found += [f"{name}: {hit}" for hit in sorted(hits)]
    return found


def run_installed(wheel: Path) -> str:
    """Install `wheel` into an environment of its own and return what `pvback --version` says."""
    with tempfile.TemporaryDirectory() as home:
        environment = Path(home, "venv")
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "install", *constraints, str(wheel.resolve())], cwd=home, check=True)
        subprocess.run([*pip, "check"], cwd=home, check=True)
        program = [str(environment / "bin/pvback"), "--version"]
        return subprocess.run(program, cwd=home, check=True, capture_output=True, text=True).stdout.strip()


def main(wheels: list[str]) -> int:
    """Check all `wheels`; print what they are, or what is wrong."""
    if not wheels:
        print("error: no wheel to check", file=sys.stderr)
        return 2
    for path in map(Path, wheels):
        if found := machine_paths(path):
            print(f"error: {path.name} says where it was built", *found[:20], sep="\n  ", file=sys.stderr)
            return 1
        print(f"{path.name}: {path.stat().st_size >> 10} KiB, {run_installed(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
