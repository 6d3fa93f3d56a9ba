"""Runs an unpacked image with runc as Kubernetes runs a restricted pod: no capability, a read-only root.

Root is needed to do so, and nothing else that a cluster has. There is no network namespace: servers of the
tests are on loopback.
"""

import json
import secrets
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS_MAX = 120


@dataclass(frozen=True, kw_only=True)
class Container:
    """How to run things in an image; every run is a new container."""

    root: Path
    config: Mapping[str, Any]
    """Of the image: Env, Entrypoint, Cmd, User, WorkingDir."""
    bundles: Path
    uid: int | None = None
    """Whom the cluster lets it run as; None leaves it to the image."""
    volumes: Mapping[Path, str] = field(default_factory=dict)

    def run(
        self, *words: str, entrypoint: Sequence[str] | None = None, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run the program of the image, or another, to its end."""
        name = f"pvback-test-{secrets.token_hex(6)}"
        bundle = self.bundles / name
        bundle.mkdir()
        argv = [*(self.config["Entrypoint"] if entrypoint is None else entrypoint), *words]
        environment = [*self.config["Env"], *(f"{key}={value}" for key, value in variables.items())]
        (bundle / "config.json").write_text(json.dumps(self._spec(argv, environment)), encoding="utf-8")
        runc = ["runc", f"--root={self.bundles / 'state'}"]
        try:
            return subprocess.run(
                [*runc, "run", f"--bundle={bundle}", name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS_MAX,
                check=False,
            )
        finally:
            subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False)

    def _spec(self, argv: list[str], environment: list[str]) -> dict[str, Any]:
        uid, _, gid = self.config["User"].partition(":")
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ]
        # As an emptyDir: the group's, whoever runs.
        for path in ("/tmp", "/cache"):
            options = ["nosuid", "nodev", "mode=2777", "size=64m"]
            mounts.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options})
        options = ["rbind", "nosuid", "nodev"]
        for source, target in self.volumes.items():
            mounts.append({"destination": target, "type": "bind", "source": str(source), "options": options})
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.root), "readonly": True},
            "process": {
                "args": argv,
                "env": environment,
                "cwd": self.config["WorkingDir"],
                "user": {"uid": int(uid) if self.uid is None else self.uid, "gid": int(gid)},
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"],
            },
        }


def config_of(archive: Path) -> dict[str, Any]:
    """What an image says about how to run it."""
    with tarfile.open(archive) as files:

        def load(name: str) -> Any:
            member = files.extractfile(name)
            assert member
            return json.load(member)

        (manifest,) = load("manifest.json")
        config: dict[str, Any] = load(manifest["Config"])["config"]
        return config
