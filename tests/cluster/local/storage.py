"""Storage: the CSI driver of `tests/cluster/programs` with the real sidecars, and volumes made by hand."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.cluster.local import processes
from tests.cluster.local.control import kubeconfig
from tests.cluster.local.layout import CSI_SOCKET, KUBECONFIG, NODES, STORAGE, Node
from tests.cluster.local.programs import find_programs

MANIFEST = Path(__file__).with_name("storage.yaml")
_OFTEN = [
    "--retry-interval-start=500ms",
    "--retry-interval-max=5s",
    # Five requests a second is what they allow themselves: too few for several tests side by side.
    "--kube-api-qps=50",
    "--kube-api-burst=100",
]
# A volume snapshot that a claim was made of at the wrong moment stays until the next sweep.
_SWEEP = "--snapshot-orphan-sweep-interval=10s"
# Nor does who makes volume snapshots notice every one that is deleted while it is being made.
_RESYNC = "--resync-period=15s"
_GROUPS = "--feature-gates=CSIVolumeGroupSnapshot=true"


def kubectl(*argv: str) -> str:
    """What kubectl prints, as the administrator."""
    command = [str(find_programs() / "kubectl"), f"--kubeconfig={KUBECONFIG}", *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def define_storage() -> None:
    """The kinds of volume snapshots from their own module, then the driver's classes."""
    crds = sorted((find_programs() / "crds").iterdir())
    kubectl("apply", "--server-side", *(f"--filename={path}" for path in crds))
    kubectl("wait", "--for=condition=Established", *(f"--filename={path}" for path in crds))
    kubectl("apply", "--server-side", f"--filename={MANIFEST}")


def start_controllers() -> None:
    """Start the driver's part for the whole cluster, and what speaks to it on the API server's behalf."""
    programs = find_programs()
    (STORAGE / "volumes").mkdir(parents=True, exist_ok=True)
    argv = [str(programs / "csi-driver"), "-controller", f"-root={STORAGE}", f"-endpoint={CSI_SOCKET}"]
    processes.start("csi-driver", argv)
    client = f"--kubeconfig={kubeconfig('storage')}"
    socket = f"--csi-address={CSI_SOCKET}"
    commands = {
        "csi-provisioner": [client, socket, *_OFTEN, _SWEEP],
        "csi-resizer": [client, socket, *_OFTEN],
        "csi-snapshotter": [client, socket, *_OFTEN, _RESYNC, _GROUPS],
        "snapshot-controller": [client, *_OFTEN, _RESYNC, _GROUPS],
    }
    for name, flags in commands.items():
        processes.start(name, [str(programs / name), *flags])


def detach_loops(*files: Path) -> None:
    """Free the loop devices on these files, and what the kubelet has put on them; without files, all."""
    if not files:
        folders = [STORAGE, *(node.volumes for node in NODES)]
        files = tuple(path for folder in folders for path in folder.rglob("*") if path.is_file())
    wanted = {_identity(path) for path in files}

    def detached() -> bool:
        ours = _loops_on(wanted)
        for device in ours:
            # Its last mount may be about to go.
            subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
        return not ours

    processes.wait_for(detached, f"loop devices stay: {_loops_on(wanted)}", seconds=10)


def _loops_on(files: set[tuple[str, int]]) -> list[str]:
    command = ["losetup", "--list", "--json", "-O", "NAME,BACK-INO,BACK-MAJ:MIN"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout or "{}")
    found = listed.get("loopdevices", [])
    loops = {one["name"]: (one["back-maj:min"].strip(), int(one["back-ino"])) for one in found}
    direct = [name for name, backing in loops.items() if backing in files]
    devices = {_identity(Path(name)) for name in direct}
    # First those that are on the devices of the others.
    return [name for name, backing in loops.items() if backing in devices] or direct


def _identity(path: Path) -> tuple[str, int]:
    facts = path.stat()
    return f"{facts.st_dev >> 8}:{facts.st_dev & 0xFF}", facts.st_ino


def make_static_volume(
    node: Node, name: str, *, size_mib: int = 64, block: bool = False
) -> dict[str, object]:
    """A folder or a loop device on a node, and the PersistentVolume that tells of it; not created yet."""
    path = node.volumes / name
    if block:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(size_mib << 20)
        command = ["losetup", "--find", "--show", str(path)]
        path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    else:
        path.mkdir()
        path.chmod(0o777)
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}]}
    spec = {
        "capacity": {"storage": f"{size_mib}Mi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "static",
        "volumeMode": "Block" if block else "Filesystem",
        "local": {"path": str(path)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def remove_static_volume(name: str) -> None:
    """Remove what `make_static_volume` made on the node. Nobody uses it any more."""
    for node in NODES:
        path = node.volumes / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            detach_loops(path)
            path.unlink()
