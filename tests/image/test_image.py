"""The image: small, without tools, and at work as any user with nothing but its volumes to write to."""

import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.image.build import ROOT, Image
from tests.image.conftest import ARBITRARY_UID
from tests.support.container import Container, config_of
from tests.support.s3_servers import BUCKET, S3Server, minio

pytestmark = pytest.mark.timeout(300)

UNPACKED_BYTES_MAX = 150 << 20
COMPILERS = {"gcc", "cc", "c++", "ld", "as", "make", "cargo", "rustc", "strip", "perl"}
INSTALLERS = {"pip", "pip3", "apt-get", "dpkg", "curl"}
PASSWORD = {"PVBACK_PASSWORD": "correct horse"}

Maker = Callable[..., Container]


def succeed(container: Container, *words: str, **variables: str) -> str:
    done = container.run(*words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_tree(folder: Path) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("alpha")
    (folder / "inner/b.bin").write_bytes(bytes(range(256)) * 4096)
    (folder / "inner/link").symlink_to("../a.txt")


def owned(folder: Path, uid: int) -> Path:
    """A volume as fsGroup leaves it: the user's, in group 0."""
    folder.mkdir(exist_ok=True)
    os.chown(folder, uid, 0)
    return folder


def test_size(image: Image) -> None:
    assert 0 < int(image.facts["unpacked_bytes"]) <= UNPACKED_BYTES_MAX


def test_there_are_no_tools(root: Path) -> None:
    folders = [folder for folder in root.rglob("bin") if folder.is_dir()] + [root / "usr/sbin"]
    found = {path.name for folder in folders for path in folder.iterdir()}
    assert "pvback" in found
    assert not found & (COMPILERS | INSTALLERS)
    assert not list(root.rglob("site-packages/pip"))


def test_nothing_gives_more_rights(root: Path) -> None:
    found = []
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and (mode & (stat.S_ISUID | stat.S_ISGID) or mode & stat.S_IWOTH):
            found.append(path)
        if not path.is_symlink() and "security.capability" in os.listxattr(path):
            found.append(path)
    assert not found


def test_what_is_written_to_is_the_groups_as_much_as_the_users(root: Path) -> None:
    for name in ("cache", "repository"):
        mode = (root / name).stat().st_mode
        assert (root / name).stat().st_gid == 0
        assert (mode >> 6) & 7 == (mode >> 3) & 7 == 7
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777


def test_the_image_says_who_runs(image: Image) -> None:
    config = config_of(image.archive)
    assert config["User"] == "65532:0"
    assert config["Entrypoint"] == ["pvback"]


def test_no_trace_of_the_building_machine(image: Image, root: Path) -> None:
    assert not (root / "etc/apt").exists()
    assert not (root / "etc/pip.conf").exists()
    assert not any((root / "run").iterdir())
    assert not any((root / "tmp").iterdir())
    assert (root / "etc/resolv.conf").read_bytes() == b""
    with tarfile.open(image.archive) as archive:
        for member in archive:
            if member.name.endswith(".json") and (file := archive.extractfile(member)):
                assert str(ROOT) not in file.read().decode()


def test_everything_is_compiled(root: Path) -> None:
    """With a read-only root nothing else would ever be: each run would compile again."""
    site = next(root.glob("opt/pvback/lib/python3.*/site-packages"))
    for name in ("pvback", "boto3", "kubernetes"):
        sources = [path for path in (site / name).rglob("*.py") if "__pycache__" not in path.parts]
        assert sources
        for path in sources:
            (compiled,) = (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc")
            # Never compared with the source: a copy may change its time.
            assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 1


@pytest.mark.parametrize("uid", [ARBITRARY_UID, None], ids=["arbitrary", "own"])
def test_backup_and_restore(container: Maker, tmp_path: Path, uid: int | None) -> None:
    user = uid or 65532
    make_tree(tmp_path / "data")
    target = owned(tmp_path / "target", user)
    repository = owned(tmp_path / "repository", user)
    box = container({tmp_path / "data": "/data", target: "/target", repository: "/repository"}, uid=uid)
    variables = PASSWORD | {"PVBACK_REPOSITORY": "/repository/r"}
    assert succeed(box, "--version").startswith("pvback ")
    succeed(box, "init", **variables)
    succeed(box, "backup", "/data", **variables)
    (snapshot,) = json.loads(succeed(box, "snapshots", "--json", **variables))
    succeed(box, "restore", snapshot["id"], "--target", "/target/back", **variables)
    for name in ("a.txt", "inner/b.bin"):
        assert (target / "back" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()
        assert (target / "back" / name).stat().st_uid == user
    assert (target / "back/inner/link").readlink() == Path("../a.txt")
    succeed(box, "check", "--read-data", **variables)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


def test_backup_to_s3(container: Maker, tmp_path: Path, server: S3Server) -> None:
    make_tree(tmp_path / "data")
    target = owned(tmp_path / "target", ARBITRARY_UID)
    box = container({tmp_path / "data": "/data", target: "/target"})
    variables = PASSWORD | server.environment
    variables |= {"PVBACK_REPOSITORY": f"s3://{BUCKET}/image", "PVBACK_S3_ENDPOINT": server.endpoint}
    succeed(box, "init", **variables)
    succeed(box, "backup", "/data", **variables)
    succeed(box, "restore", "latest", "--target", "/target/back", **variables)
    assert (target / "back/inner/b.bin").read_bytes() == (tmp_path / "data/inner/b.bin").read_bytes()


@pytest.mark.parametrize(
    "program",
    [
        "import boto3; [boto3.client(name, region_name='x') for name in ('s3', 'sts', 'sso', 'sso-oidc')]",
        "import botocore.session as s; s.Session().get_component('credential_provider')",
        "import pvback.cluster.client; from kubernetes import dynamic, watch, stream, client as c; c.V1Pod()",
        "import ctypes, hashlib, lzma, bz2, sqlite3, ssl, uuid, zoneinfo; zoneinfo.ZoneInfo('Europe/Prague')",
    ],
)
def test_what_was_left_is_enough(container: Maker, program: str) -> None:
    done = container().run("-c", program, entrypoint=["python3"])
    assert done.returncode == 0, done.stderr


def test_the_container_is_restricted(container: Maker) -> None:
    """What the tests above ran in, seen from inside."""
    program = "print(open('/proc/self/status').read()); open('/usr/x', 'w')"
    done = container().run("-c", program, entrypoint=["python3"])
    assert "Read-only file system" in done.stderr
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert lines["Uid"].split() == [str(ARBITRARY_UID)] * 4
    assert lines["Gid"].split() == ["0"] * 4
    assert lines["NoNewPrivs"].strip() == "1"
    for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert int(lines[name], 16) == 0


def test_a_shell_is_there_for_commands(container: Maker) -> None:
    assert container().run("-c", "echo hello", entrypoint=["sh"]).stdout == "hello\n"


def test_sbom(image: Image, root: Path) -> None:
    text = image.sbom.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {component["purl"].partition("@")[0] for component in json.loads(text)["components"]}
    wanted = [
        "pypi/pvback",
        "pypi/boto3",
        "pypi/kubernetes",
        "cargo/zstd",
        "cargo/pvback-core",
        "deb/debian/libc6",
    ]
    assert {f"pkg:{name}" for name in wanted} <= listed
    # What only builds or tests is not in it.
    unwanted = ["pypi/pytest", "pypi/maturin", "pypi/pip", "cargo/cmake", "cargo/syn", "deb/debian/binutils"]
    assert not {f"pkg:{name}" for name in unwanted} & listed
    there = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {name.removeprefix("pkg:deb/debian/") for name in listed if name.startswith("pkg:deb/")} == there
