"""The programs of the cluster: built once from the Go module in `tests/cluster/programs`, and cached."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.go import BUILD, go
from tests.support.s3_servers import tools_dir

MODULE = Path(__file__).parents[1] / "programs"
KEEP_SECONDS = 7 * 86400
# Debian's package of each program that is not built.
SYSTEM_PROGRAMS = {
    "runc": "runc",
    "iptables": "iptables",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
}
CNI_PLUGINS = Path("/usr/lib/cni")
_CRDS = "github.com/kubernetes-csi/external-snapshotter/client/v8"


def kubernetes_version() -> str:
    """As `v1.37.2`; go.mod is the one place of versions."""
    found = re.search(
        r"^\tk8s\.io/kubernetes (v[\d.]+)\b", (MODULE / "go.mod").read_text(), flags=re.MULTILINE
    )
    assert found
    return found[1]


def find_programs() -> Path:
    """The folder of the built programs. Raises FileNotFoundError that says how to get them."""
    home = _home()
    if not home.is_dir():
        raise FileNotFoundError(f"{home} is missing; run `make cluster-programs`")
    return home


def check_system() -> None:
    """Raises FileNotFoundError that names what Debian has to give."""
    missing = {package for program, package in SYSTEM_PROGRAMS.items() if shutil.which(program) is None}
    if not (CNI_PLUGINS / "bridge").exists():
        missing.add("containernetworking-plugins")
    if missing:
        raise FileNotFoundError(f"missing Debian packages: {' '.join(sorted(missing))}")


def build_programs() -> Path:
    """The programs, built unless they are there; beside their place, then renamed: whole or missing."""
    with contextlib.suppress(FileNotFoundError):
        return find_programs()
    if shutil.which("go") is None:
        raise FileNotFoundError("go is missing; install Go 1.26 or newer")
    begun = time.monotonic()
    home = _home()
    part = home.with_name(f"{home.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    try:
        go(*BUILD, "-p", "2", f"-ldflags={_ldflags()}", "-o", f"{part}/", "tool", folder=MODULE)
        ours = ("./csi-driver", "./dns", "./pause")
        go(*BUILD, "-ldflags=-s -w", "-o", f"{part}/", *ours, folder=MODULE)
        (part / "server").rename(part / "etcd")
        folder = json.loads(go("list", "-m", "-json", _CRDS, folder=MODULE))["Dir"]
        (part / "crds").mkdir()
        for crd in (Path(folder) / "config/crd").glob("*.storage.k8s.io_*.yaml"):
            shutil.copyfile(crd, part / "crds" / crd.name)
        for old in home.parent.glob(f"{home.name.rpartition('-')[0]}-*"):
            # Other checkouts may run theirs.
            if old != part and time.time() - old.lstat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"built in {time.monotonic() - begun:.0f} s")
    return home


def _home() -> Path:
    digest = hashlib.sha256()
    for path in sorted([*MODULE.glob("go.*"), *MODULE.glob("*/*.go")]):
        digest.update(f"{path.relative_to(MODULE)}\0".encode() + path.read_bytes())
    return tools_dir() / f"kubernetes-{kubernetes_version()}-{digest.hexdigest()[:8]}"


def _ldflags() -> str:
    """Without a version the API server would be v0.0.0, and kubelets and clients refuse to talk to it."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    facts: Mapping[str, str] = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(
        ["-s -w", *(f"-X {one}.{name}={value}" for one in packages for name, value in facts.items())]
    )
