"""Builds the image and writes its archive, its SBOM and its name: `python -m deploy.image.build`.

With docker or podman, if one answers, from the public bases of the Dockerfile; else with buildah, as root,
over a base that debootstrap makes of the packages that this machine's apt is set up for. What is built is
kept in the cache under a key of everything that it is made of, so a second run only looks it up.
`build/image/` has the newest.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from deploy.image import sbom

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build/image"
NAME = "localhost/pvback"
BASE = "localhost/pvback-base"
SOURCES = [
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "constraints.txt",
    "pyproject.toml",
    "pvback",
    "native",
    "deploy/image",
]
KEPT_COUNT = 3
# Of the machine's settings for pip; what names its own folders is of no use in a container.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "timeout", "proxy")


@dataclass(frozen=True, kw_only=True)
class Image:
    """One built image: a docker-archive that `ctr images import` and `docker load` read, and its SBOM."""

    folder: Path

    @property
    def archive(self) -> Path:
        """The image itself."""
        return self.folder / "pvback.tar"

    @property
    def sbom(self) -> Path:
        """What is in it, as CycloneDX."""
        return self.folder / "sbom.json"

    @property
    def facts(self) -> dict[str, str | int]:
        """`name`, the reference to run it by, and `unpacked_bytes`, the sum of its layers."""
        found: dict[str, str | int] = json.loads((self.folder / "image.json").read_text(encoding="utf-8"))
        return found


def images_dir() -> Path:
    """Where images and bases are kept, outside the tree."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "pvback/images"


def bases() -> dict[str, str]:
    """Bases that the caller pins, for instance by digest; the Dockerfile's own otherwise."""
    return {name: value for name in ("BUILD_BASE", "BASE_IMAGE") if (value := os.environ.get(name))}


def sources() -> list[Path]:
    """All files that the image is made of."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES]
    names = _output(command, cwd=ROOT).rstrip("\0").split("\0")
    return [ROOT / name for name in sorted(set(names)) if (ROOT / name).is_file()]


def key_of(files: list[Path], engine: str) -> str:
    """A name for what will be built of `files` by `engine`."""
    digest = hashlib.sha256(json.dumps([engine, bases()], sort_keys=True).encode())
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(ROOT)}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def version_of_sources() -> str:
    """The version that wheel and image carry."""
    manifest = tomllib.loads((ROOT / "native/Cargo.toml").read_text(encoding="utf-8"))
    return str(manifest["workspace"]["package"]["version"])


def find_engine() -> str:
    """A container engine that runs, or buildah. Raises FileNotFoundError that says what to do."""
    for name in ("docker", "podman"):
        if shutil.which(name):
            asked = subprocess.run([name, "info"], capture_output=True, check=False, timeout=60)
            if asked.returncode == 0:
                return name
    if (
        os.geteuid() == 0
        and shutil.which("buildah")
        and (bases().get("BASE_IMAGE") or shutil.which("debootstrap"))
    ):
        return "buildah"
    raise FileNotFoundError("neither docker nor podman runs; as root, install buildah and debootstrap")


def find_wheel(files: list[Path]) -> Path:
    """The wheel of these sources: the one in `dist`, unless a source is newer."""
    newest = max(path.stat().st_mtime for path in files)
    wheels = list((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1 or wheels[0].stat().st_mtime < newest:
        _run(["make", "wheel"], cwd=ROOT)
        wheels = list((ROOT / "dist").glob("*.whl"))
    (wheel,) = wheels
    return wheel


def build_with_engine(engine: str, reference: str, archive: Path) -> None:
    """Docker or podman: every stage, from public bases; the wheel is compiled in its stage."""
    arguments = [f"--build-arg={name}={value}" for name, value in bases().items()]
    _build([engine, "build", *arguments], reference)
    _run([engine, "save", f"--output={archive}", reference])


def build_with_buildah(wheel: Path, reference: str, archive: Path) -> None:
    """buildah, as root and without a daemon; the wheel is given, so Rust is not compiled twice."""
    buildah = _buildah()
    given = OUTPUT / "wheel"
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir(parents=True)
    shutil.copy2(wheel, given)
    base = bases().get("BASE_IMAGE") or make_base(buildah)
    # The stage that would compile is not built, but its base has to have a name that needs no registry.
    arguments = [
        f"--build-arg={pair}" for pair in ("WHEEL=given", f"BASE_IMAGE={base}", f"BUILD_BASE={base}")
    ]
    _build([*buildah, "build", *arguments], reference)
    _run([*buildah, "push", "--quiet", reference, f"docker-archive:{archive}:{reference}"])
    _run([*buildah, "rmi", "--force", reference])
    shutil.rmtree(given)


def make_base(buildah: list[str]) -> str:
    """The name of a base image of the Dockerfile's release, made by debootstrap unless there is one."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    if not (found := re.search(r"^ARG BASE_IMAGE=\S+:(\w+)-slim$", text, flags=re.MULTILINE)):
        raise ValueError("the Dockerfile's BASE_IMAGE names no release of Debian")
    suite = found[1]
    reference = f"{BASE}:{suite}"
    if subprocess.run([*buildah, "inspect", reference], capture_output=True, check=False).returncode == 0:
        return reference
    lines = mirrors(suite)
    main = next((line.split()[1] for line in lines if line.split()[2] == suite), None)
    with tempfile.TemporaryDirectory(dir=images_dir()) as folder:
        root = Path(folder, "root")
        _run(["debootstrap", "--variant=minbase", suite, str(root), *([main] if main else [])])
        if lines:
            (root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
        container = _output([*buildah, "from", "scratch"]).strip()
        _run([*buildah, "copy", "--quiet", container, str(root), "/"])
        _run([*buildah, "commit", "--quiet", "--rm", container, reference])
    return reference


def mirrors(suite: str) -> list[str]:
    """This machine's sources of the release, with its updates; none where it runs another system."""
    if not shutil.which("apt-get"):
        return []
    fields = "deb $(REPO_URI) $(RELEASE) main|$(CODENAME)|$(COMPONENT)"
    lines = _output(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).splitlines()
    found = {line.split("|")[0] for line in lines if line.endswith("|main") and f"|{suite}" in line}
    return sorted(line for line in found if line.split()[2].startswith(suite))


def _build(command: list[str], reference: str) -> None:
    """Run a build that is lent pip's settings and authorities of this machine; they are in no layer."""
    settings = {}
    for line in _output([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'")
    lines = [f"{name} = {settings[name]}" for name in PIP_SETTINGS if name in settings]
    authorities = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    # A secret without a source is the file of its name in the working directory.
    with tempfile.TemporaryDirectory() as folder:
        secrets = []
        if authorities and Path(authorities).is_file():
            shutil.copy(authorities, Path(folder, "ca.pem"))
            lines.append("cert = /run/secrets/ca.pem")
            secrets.append("--secret=id=ca.pem")
        if lines:
            Path(folder, "pip.conf").write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
            secrets.append("--secret=id=pip.conf")
        _run([*command, *secrets, f"--tag={reference}", str(ROOT)], cwd=Path(folder))


def unpack(archive: Path, root: Path) -> int:
    """Lay out the files of an image under `root`; the bytes of its layers, unpacked."""
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        with tarfile.open(archive) as outer:
            outer.extractall(folder, filter="tar")
        (manifest,) = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
        total = 0
        for layer in manifest["Layers"]:
            with tarfile.open(Path(folder, layer)) as inner:
                # Absolute links are as they should be: they are followed inside the container only.
                inner.extractall(root, filter="fully_trusted", numeric_owner=True)
                total += inner.offset
        return total


def build() -> Image:
    """The image of the sources as they are; built unless it is in the cache."""
    home = images_dir()
    home.mkdir(parents=True, exist_ok=True)
    engine = find_engine()
    files = sources()
    image = Image(folder=home / key_of(files, engine))
    if not image.folder.is_dir():
        version = version_of_sources()
        reference = f"{NAME}:{version}"
        # Renamed when all is there: whole or missing.
        with tempfile.TemporaryDirectory(dir=home, prefix="part-") as folder:
            part = Image(folder=Path(folder, "image"))
            part.folder.mkdir()
            if engine == "buildah":
                build_with_buildah(find_wheel(files), reference, part.archive)
            else:
                build_with_engine(engine, reference, part.archive)
            root = Path(folder, "root")
            root.mkdir()
            size = unpack(part.archive, root)
            part.sbom.write_text(sbom.render(root, name=NAME, version=version), encoding="utf-8")
            facts = {"name": reference, "unpacked_bytes": size}
            (part.folder / "image.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
            try:
                part.folder.rename(image.folder)
            except OSError:
                # Another run was faster; it made the same.
                if not image.folder.is_dir():
                    raise
    os.utime(image.folder)
    return image


def publish(image: Image) -> None:
    """Put the image in `build/image`, and forget the oldest of the cache."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for path in image.folder.iterdir():
        target = OUTPUT / path.name
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(path)
        except OSError:
            shutil.copy2(path, target)
    kept = sorted(
        images_dir().glob("*/image.json"), key=lambda path: path.parent.stat().st_mtime, reverse=True
    )
    for old in kept[KEPT_COUNT:]:
        shutil.rmtree(old.parent)


def _buildah() -> list[str]:
    """The program, with a store of its own in the cache."""
    store = images_dir() / "storage"
    return ["buildah", f"--root={store}", f"--runroot={store}-run"]


def _environment() -> dict[str, str]:
    return os.environ | {"BUILDAH_ISOLATION": "chroot", "DOCKER_BUILDKIT": "1"}


def _output(argv: list[str], *, cwd: Path | None = None) -> str:
    return subprocess.run(
        argv, cwd=cwd, env=_environment(), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _run(argv: list[str], *, cwd: Path | None = None) -> None:
    """A step that may be long and says a lot, which is wanted only when it fails."""
    done = subprocess.run(
        ["nice", "-n", "10", *argv],
        cwd=cwd,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, argv)


def main() -> int:
    """Build, publish, and say what there is."""
    started = time.monotonic()
    try:
        image = build()
    except (FileNotFoundError, subprocess.CalledProcessError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    publish(image)
    size = int(image.facts["unpacked_bytes"]) / (1 << 20)
    seconds = time.monotonic() - started
    print(f"{image.facts['name']}: {size:.0f} MiB, {seconds:.0f} s, {OUTPUT / image.archive.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
