"""The control groups that the kubelets put their pods into: made before, removed after."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.local.layout import CGROUP, NODES

ROOT = Path("/sys/fs/cgroup")


def make_cgroups() -> None:
    """A group for each node, in every hierarchy."""
    for hierarchy in _hierarchies():
        for group in (hierarchy / CGROUP, *(hierarchy / node.cgroup.lstrip("/") for node in NODES)):
            _pass_on(group.parent)
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (hierarchy / "cgroup.controllers").exists() or not (group / name).exists():
                    continue
                (group / name).write_text((group.parent / name).read_text())


def remove_cgroups() -> None:
    """Remove the groups with all that the kubelets have made below. Their processes have ended."""
    for hierarchy in _hierarchies():
        top = hierarchy / CGROUP
        folders = [path for path in top.rglob("*") if path.is_dir()] if top.is_dir() else []
        for folder in sorted([*folders, top], key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()


def _hierarchies() -> Iterator[Path]:
    if (ROOT / "cgroup.controllers").exists():
        yield ROOT
        return
    for path in ROOT.iterdir():
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists():
            yield path


def _pass_on(group: Path) -> None:
    """Version 2 only: what is counted below."""
    if (group / "cgroup.controllers").exists():
        for controller in (group / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")
