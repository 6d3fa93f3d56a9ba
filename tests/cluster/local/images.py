"""Images without a registry: two made here, and any archive that `docker save` or `buildah push` writes."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.local.layout import NODES, Node

PAUSE = "localhost/pause:1"
BUSYBOX = "localhost/busybox:1"


def load_image(archive: Path, *, programs: Path, nodes: Sequence[Node] = NODES) -> None:
    """Give the images of an archive (docker or OCI) to the nodes; a pod names them and pulls `Never`."""
    for node in nodes:
        argv = [
            str(programs / "ctr"),
            "-a",
            str(node.containerd),
            "-n",
            "k8s.io",
            "images",
            "import",
            str(archive),
        ]
        subprocess.run(argv, check=True, capture_output=True)


def make_images(folder: Path, *, programs: Path, busybox: Path) -> list[Path]:
    """The image that holds a sandbox, and one with a shell."""
    folder.mkdir(parents=True, exist_ok=True)
    pause = _layer({"pause": programs / "pause"}, links={}, folders=())
    listed = subprocess.run(
        [str(busybox), "--list"], check=True, capture_output=True, text=True
    ).stdout.split()
    shell = _layer(
        {"bin/busybox": busybox},
        links={f"bin/{name}": "busybox" for name in listed if name != "busybox"},
        folders=("bin", "dev", "etc", "proc", "sys", "tmp", "root"),
    )
    return [
        _image(folder / "pause.tar", PAUSE, layer=pause, command=["/pause"]),
        _image(folder / "busybox.tar", BUSYBOX, layer=shell, command=["/bin/sh"]),
    ]


def make_glutton(folder: Path, *, busybox: Path) -> tuple[str, Path]:
    """An image that takes 2 GiB of memory, whatever it is told, and its archive."""
    layer = _layer({"bin/busybox": busybox}, links={}, folders=("bin", "tmp"))
    command = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=2G", "count=1"]
    tag = "localhost/glutton:1"
    # What follows are the arguments of the container, which are none of `dd`'s.
    quoted = " ".join(command)
    return tag, _image(folder / "glutton.tar", tag, layer=layer, command=["/bin/busybox", "sh", "-c", quoted])


def _layer(files: dict[str, Path], *, links: dict[str, str], folders: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, path in files.items():
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()


def _image(path: Path, tag: str, *, layer: bytes, command: list[str]) -> Path:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": command, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [],
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        for member, data in (("manifest.json", manifest), (name, config), ("layer.tar", layer)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path
