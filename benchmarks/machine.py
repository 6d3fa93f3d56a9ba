"""What a result depends on besides the programs: processor, memory, kernel, file system."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe_machine(programs: dict[str, Path], work: Path) -> dict[str, object]:
    """Facts to print beside the figures, as plain JSON values."""
    return {
        "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _proc_value("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "file_system": _file_system(work),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: _version(name, program) for name, program in programs.items()},
    }


def _proc_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _file_system(path: Path) -> str:
    """Type of the file system that holds ``path``, from the longest mount point above it."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, candidate, *_ = line.split()
        inside = path.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, candidate
    return kind


def _version(name: str, program: Path) -> str:
    """First line of what the program says of itself."""
    argument = "version" if name == "restic" else "--version"
    done = subprocess.run([str(program), argument], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
