"""Trees to back up: made, changed and compared, all from a seed."""

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import Any

Image = dict[str, tuple[Any, ...]]
"""Path below the top, `.` for itself -> everything about it that a restore has to bring back."""

_LONG_AGO = 1_600_000_000 * 10**9
"""Files that changed just now are read again by every backup; these did not."""


def image(top: Path) -> Image:
    """What lies at `top`, a directory or a file."""
    found: Image = {}
    inodes: dict[tuple[int, int], str] = {}
    for path in [top, *_below(top)]:
        name = "." if path == top else str(path.relative_to(top))
        status = path.lstat()
        facts: tuple[Any, ...] = (
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
        )
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            group = inodes.setdefault((status.st_dev, status.st_ino), name)
            facts += (status.st_size, content, group)
        elif stat.S_ISLNK(status.st_mode):
            facts += (os.readlink(path),)  # noqa: PTH115 - a path would be made tidy
        elif not stat.S_ISDIR(status.st_mode):
            facts += (status.st_rdev,)
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {one: os.getxattr(path, one, follow_symlinks=False) for one in names if "user." in one}
        found[name] = (*facts, tuple(sorted(xattrs.items())))
    return found


def contents(top: Path) -> dict[str, str]:
    """The digests of the regular files below `top`: what may not be wrong after any restore."""
    return {name: facts[6] for name, facts in image(top).items() if stat.S_ISREG(facts[0])}


def differences(left: Image, right: Image) -> dict[str, tuple[Any, Any]]:
    """What an assertion shows of two images that are not the same."""
    return {
        name: (left.get(name), right.get(name))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    }


def make_tree(top: Path, rng: random.Random, *, files: int = 12, large_bytes: int = 300_000) -> None:
    """Small files, one large one, one with a hole, links and an empty directory."""
    top.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        folder = top / f"dir{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number:02}").write_bytes(rng.randbytes(rng.randrange(1, 9_000)))
    (top / "large").write_bytes(rng.randbytes(large_bytes))
    with (top / "sparse").open("wb") as file:
        file.seek(400_000)
        file.write(rng.randbytes(5_000))
        file.truncate(900_000)
    (top / "zeros").write_bytes(bytes(150_000))
    (top / "empty").write_bytes(b"")
    (top / "empty-dir").mkdir()
    (top / "link").symlink_to("dir0/file00")
    os.link(top / "large", top / "dir1" / "same-inode")
    os.mkfifo(top / "fifo", 0o640)
    (top / "dir0" / "file00").chmod(0o4711)
    age(top)


def age(top: Path) -> None:
    """Give everything a time that is long past, so that unchanged files are seen to be unchanged."""
    for path in [*_below(top), top]:
        status = path.lstat()
        if status.st_mtime_ns > _LONG_AGO + 10**15:
            when = _LONG_AGO + status.st_mtime_ns % 10**15
            os.utime(path, ns=(when, when), follow_symlinks=False)


def mutate(top: Path, rng: random.Random) -> list[str]:
    """A few changes of different kinds; says which."""
    done = []
    for _ in range(rng.randrange(1, 5)):
        regular = sorted(path for path in _below(top) if path.is_file() and not path.is_symlink())
        act = rng.choice([_add, _overwrite, _append, _remove, _rename, _attributes, _link])
        done.append(f"{act.__name__[1:]} {act(top, regular, rng)}")
    return done


def _add(top: Path, _: list[Path], rng: random.Random) -> str:
    path = top / f"new{rng.randrange(10**6)}"
    path.write_bytes(rng.randbytes(rng.choice([0, 10, 5_000, 200_000])))
    return path.name


def _overwrite(_: Path, regular: list[Path], rng: random.Random) -> str:
    path = rng.choice(regular)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(rng.randrange(size + 1))
        file.write(rng.randbytes(rng.randrange(1, 2_000)))
    return path.name


def _append(_: Path, regular: list[Path], rng: random.Random) -> str:
    path = rng.choice(regular)
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 50_000)))
    return path.name


def _remove(_: Path, regular: list[Path], rng: random.Random) -> str:
    if len(regular) < 5:
        return "nothing"
    path = rng.choice(regular)
    path.unlink()
    return path.name


def _rename(top: Path, regular: list[Path], rng: random.Random) -> str:
    path = rng.choice(regular)
    target = top / f"moved{rng.randrange(10**6)}"
    path.rename(target)
    return f"{path.name} to {target.name}"


def _attributes(_: Path, regular: list[Path], rng: random.Random) -> str:
    path = rng.choice(regular)
    path.chmod(rng.choice([0o600, 0o644, 0o755]))
    when = _LONG_AGO + rng.randrange(10**15)
    os.utime(path, ns=(when, when))
    return path.name


def _link(top: Path, _: list[Path], rng: random.Random) -> str:
    path = top / f"link{rng.randrange(10**6)}"
    path.symlink_to(f"to/{rng.randrange(100)}")
    return path.name


def _below(top: Path) -> list[Path]:
    if not top.is_dir() or top.is_symlink():
        return []
    return [Path(folder) / name for folder, inner, names in os.walk(top) for name in (*inner, *names)]
