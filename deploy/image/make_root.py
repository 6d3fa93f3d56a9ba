"""Gathers the root file system of the image: `make_root.py VENV ROOT`, run in a stage of the Dockerfile.

Of the distribution only what Python and the extensions load is taken: no package manager, no compiler, no
perl, no set-user-id programs. What was taken is recorded in `/var/lib/dpkg/status.d`, one file a package,
where scanners look.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

# A shell, for `pvback backup --command -- sh -c ...`; services; time zones. Python comes by its version.
PACKAGES = ["base-files", "dash", "netbase", "tzdata"]
NOT_TAKEN = re.compile(r"/usr/share/(doc/.*/(?!copyright$)[^/]*$|bug/|info/|lintian/|locale/|man/)|.*/gconv/")
MOUNTED = ["cache", "dev", "etc", "home", "opt", "proc", "repository", "run", "sys", "tmp", "var"]
USER = 65532

# Of AWS' 400 services: storage, and the ways to credentials. `tests/image` backs up to S3 with what is left.
SERVICES = {"s3", "sso", "sso-oidc", "sts"}
# The asynchronous twin of the Kubernetes client, and what only that one imports.
UNUSED = ["kubernetes/aio"]
UNUSED_PACKAGES = [
    "aiohappyeyeballs",
    "aiohttp",
    "aiohttp-retry",
    "aiosignal",
    "frozenlist",
    "multidict",
    "propcache",
    "yarl",
]
# Modules of Python that drag in Kerberos, Berkeley DB and terminal libraries; nobody here loads them.
NOT_LOADED = re.compile(r".*/lib-dynload/(nis|_dbm|readline|_curses|_curses_panel)\.")
# Thousands of generated lines each; as code only, they take half the room.
WITHOUT_SOURCE = ["kubernetes/client/api", "kubernetes/client/models"]


def run(*argv: str) -> str:
    """What a program prints; its failure is ours."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def trim_packages(site: Path) -> None:
    """Take away what pvback never loads, and the symbols of the rest."""
    for name in UNUSED:
        shutil.rmtree(site / name)
    for service in (site / "botocore/data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for path in [*site.rglob("*.pyi"), *site.rglob("*.c"), *site.rglob("*.pyx")]:
        path.unlink()
    for library in site.rglob("*.so"):
        run("strip", "--strip-unneeded", str(library))


def compile_all(root: Path, folder: Path) -> None:
    """Compile once and for good: nothing can be written at run time, and a copy may change times of files."""
    good = compileall.compile_dir(
        folder,
        quiet=1,
        force=True,
        workers=os.cpu_count() or 1,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not good:
        sys.exit(f"error: {folder} does not compile")


def drop_sources(folder: Path) -> None:
    """Leave only compiled modules, at the place of their sources."""
    for source in folder.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        compiled.rename(source.with_suffix(".pyc"))
        source.unlink()


def libraries(programs: list[Path]) -> set[str]:
    """Names of the shared libraries of the system that `programs` load."""
    found = set()
    for program in programs:
        for line in run("ldd", str(program)).splitlines():
            if "not found" in line:
                sys.exit(f"error: {program}: {line.strip()}")
            if match := re.search(r"(/\S+) \(0x", line):
                found.add(match[1])
    return {Path(path).name for path in found if not path.startswith("/opt/")}


def owners(names: set[str]) -> set[str]:
    """Packages that libraries belong to. Where the system has them is not asked: `/lib` is a link."""
    lines = run("dpkg-query", "--search", *(f"*/{name}" for name in sorted(names))).splitlines()
    return {line.split(":")[0] for line in lines if not line.startswith("diversion ")}


def wanted_packages(venv: Path) -> list[str]:
    """All that is taken from the distribution."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = [
        f"python{version}-minimal",
        f"libpython{version}-minimal",
        f"libpython{version}-stdlib",
        "python3-minimal",
    ]
    programs = [Path(f"/usr/bin/python{version}"), Path("/bin/dash")]
    modules = [*venv.rglob("*.so"), *Path(f"/usr/lib/python{version}").rglob("*.so")]
    programs += [path for path in modules if not NOT_LOADED.match(str(path))]
    return sorted({*PACKAGES, *python, *owners(libraries(programs))})


def take(package: str, root: Path) -> None:
    """Copy the files of a package, and record it."""
    for line in run("dpkg-query", "--listfiles", package).splitlines():
        path = Path(line)
        if not line.startswith("/") or not os.path.lexists(path):
            continue
        if NOT_TAKEN.match(line) or NOT_LOADED.match(line):
            continue
        target = root / (path.parent.resolve() / path.name).relative_to("/")
        if path.is_dir():
            if not path.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    record = root / "var/lib/dpkg/status.d" / package
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(run("dpkg-query", "--status", package), encoding="utf-8")


def lay_out(root: Path) -> None:
    """The links of the top, what is mounted at run time, and who runs."""
    for link in Path("/").iterdir():
        if link.is_symlink():
            (root / link.name).symlink_to(link.readlink())
            (root / link.resolve().relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in MOUNTED:
        (root / name).mkdir(exist_ok=True)
    files = {
        "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\npvback:x:{USER}:0::/tmp:/usr/sbin/nologin\n",
        "group": "root:x:0:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    for name, text in files.items():
        (root / "etc" / name).write_text(text, encoding="utf-8")
    for name in ("hostname", "hosts", "resolv.conf"):
        (root / "etc" / name).touch()


def set_modes(root: Path) -> None:
    """No set-user-id bits; the writable folders are the group's as much as the user's."""
    for path in root.rglob("*"):
        if not path.is_symlink() and path.lstat().st_mode & 0o6000:
            path.chmod(path.lstat().st_mode & 0o1777)
    (root / "tmp").chmod(0o1777)
    for name in ("cache", "repository"):
        os.chown(root / name, USER, 0)
        (root / name).chmod(0o2770)


def main() -> None:
    """Everything, in order."""
    venv, root = Path(sys.argv[1]), Path(sys.argv[2])
    (site,) = venv.glob("lib/python3.*/site-packages")
    trim_packages(site)
    root.mkdir()
    lay_out(root)
    for package in wanted_packages(venv):
        take(package, root)
    shutil.copytree(venv, root / venv.relative_to("/"), symlinks=True)
    new_site = root / site.relative_to("/")
    for name in ("usr/lib", "opt"):
        compile_all(root, root / name)
    for name in WITHOUT_SOURCE:
        drop_sources(new_site / name)
    set_modes(root)
    run("ldconfig", "-r", str(root))


if __name__ == "__main__":
    if sys.argv[1:] == ["--unused"]:
        print(*UNUSED_PACKAGES)
    else:
        main()
