"""What is in an image, as CycloneDX: packages of Debian and Python as they lie in it, crates as linked."""

import email.message
import json
import platform
import subprocess
import tomllib
from collections.abc import Iterator
from email import message_from_string
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = "pvback-py"
TARGET = f"{platform.machine()}-unknown-linux-gnu"


def debian_packages(root: Path) -> Iterator[Component]:
    """The packages that `make_root.py` recorded."""
    for record in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        package = message_from_string(record.read_text(encoding="utf-8"))
        name, version = package["Package"], package["Version"]
        purl = PackageURL("deb", "debian", name, version, {"arch": package["Architecture"]})
        yield _component(purl)


def python_packages(root: Path) -> Iterator[Component]:
    """The distributions in the image's environment."""
    (site,) = root.glob("opt/pvback/lib/python3.*/site-packages")
    for one in sorted(distributions(path=[str(site)]), key=lambda each: each.name.lower()):
        metadata = message_from_string(one.read_text("METADATA") or "")
        purl = PackageURL("pypi", None, one.name.lower().replace("_", "-"), one.version)
        yield _component(purl, licence=_python_licence(metadata))


def rust_crates() -> Iterator[Component]:
    """The crates that are linked into the extension, by the lock file: no build scripts, macros or tests."""
    argv = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={TARGET}"]
    done = subprocess.run(
        [*argv, "--manifest-path=native/Cargo.toml"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    graph = json.loads(done.stdout)
    lock = tomllib.loads((ROOT / "native/Cargo.lock").read_text(encoding="utf-8"))
    checksums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    packages = {one["id"]: one for one in graph["packages"]}
    for crate in sorted(_linked(graph), key=lambda each: str(packages[each]["name"])):
        package = packages[crate]
        name, version = package["name"], package["version"]
        purl = PackageURL("cargo", None, name, version)
        # Crates of old wrote `/` for OR.
        licence = (package["license"] or "").replace("/", " OR ")
        yield _component(purl, licence=licence, sha256=checksums.get((name, version)))


def _linked(graph: dict[str, Any]) -> set[str]:
    """Ids of what the extension depends on in the end, and its own."""
    macros = {
        package["id"]
        for package in graph["packages"]
        if any("proc-macro" in target["kind"] for target in package["targets"])
    }
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    todo = [package["id"] for package in graph["packages"] if package["name"] == EXTENSION]
    found = set(todo)
    for crate in todo:
        for dependency in nodes[crate]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_linked and dependency["pkg"] not in found | macros:
                found.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    return found


def _python_licence(metadata: email.message.Message) -> str | None:
    """An SPDX expression where there is one, or what else is said."""
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    text = str(metadata["License"] or "")
    if text and len(text.splitlines()) == 1:
        return text
    names = [name for name in metadata.get_all("Classifier", []) if name.startswith("License ::")]
    return names[0].split(" :: ")[-1] if names else None


def _licence(text: str) -> License:
    """As it is declared, as an SPDX expression where it is one."""
    return LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED)


def _component(purl: PackageURL, *, licence: str | None = None, sha256: str | None = None) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=purl.name,
        version=purl.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[_licence(licence)] if licence else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else None,
    )


def render(root: Path, *, name: str, version: str) -> str:
    """The document for the image whose files are in `root`."""
    image = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref="image")
    parts = [*debian_packages(root), *python_packages(root), *rust_crates()]
    bom = Bom(components=parts)
    bom.metadata.component = image
    bom.register_dependency(image, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)
