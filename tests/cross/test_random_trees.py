"""Random trees, backed up natively before and after random changes; the reference reader restores both."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvback.reference import restore, verify
from tests.support.native_repository import NativeRepository
from tests.support.tree_facts import TreeFacts, differences

AVERAGE = 4096
SMALL_BYTES = AVERAGE // 2
BORDERS = (1, 2048, 4096, 6144, 8192, 65_536, 131_072)
NAMES = st.text(alphabet="ab\x01~é", min_size=1, max_size=3) | st.just("n" * 255)
PATHS = st.lists(NAMES, min_size=1, max_size=3)
SIZES = st.builds(
    lambda border, times, off: max(border * times + off, 0),
    st.sampled_from(BORDERS), st.integers(0, 3), st.integers(-2, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Part of a file: noise of a seed, zeros that are written, or a hole."""

    kind: str
    length: int
    seed: int

    def bytes(self) -> bytes:
        if self.kind == "noise":
            return random.Random(self.seed).randbytes(self.length)
        return bytes(self.length)


# Few seeds, so that contents come twice.
PIECES = st.builds(Piece, st.sampled_from(["noise", "noise", "zeros", "hole"]), SIZES, st.integers(0, 5))
CONTENTS = st.lists(PIECES, max_size=4)


@dataclass(frozen=True)
class Step:
    """One change of a tree. What is not possible (a file where a directory is) is left out."""

    action: str
    path: list[str]
    content: list[Piece]
    number: int


ACTIONS = ["write", "write", "write", "tiny files", "mkdir", "link", "symlink", "overwrite", "append", "cut",
           "remove", "rename", "chmod", "touch", "copy"]  # fmt: skip
# Each example is two backups, two restores and a check: fewer by default, and more when more are asked for.
EXAMPLES = max(settings().max_examples // 4, 10)
STEPS = st.lists(
    st.builds(Step, st.sampled_from(ACTIONS), PATHS, CONTENTS, st.integers(0, 1 << 16)), max_size=12
)


class Tree:
    """A directory that steps are carried out in."""

    def __init__(self, top: Path) -> None:
        self.top = top
        top.mkdir()

    def apply(self, steps: list[Step]) -> None:
        for step in steps:
            try:
                self._apply(step)
            except OSError:
                continue

    def _existing(self, number: int) -> Path:
        """One of the files that there are, or the top."""
        files = sorted(path for path in self.top.rglob("*") if path.is_file() and not path.is_symlink())
        return files[number % len(files)] if files else self.top

    def _apply(self, step: Step) -> None:  # noqa: PLR0912 (one for each action)
        path = self.top.joinpath(*step.path)
        old = self._existing(step.number)
        if step.action in ("write", "mkdir", "link", "symlink", "copy", "rename"):
            path.parent.mkdir(parents=True, exist_ok=True)
        match step.action:
            case "write":
                write(path, step.content, "xb")
            case "tiny files":
                path.mkdir(parents=True)
                for number in range(step.number % 200):
                    (path / str(number)).write_bytes(b"%d" % (number * step.number % 97) * (number % 9))
            case "mkdir":
                path.mkdir()
            case "link":
                os.link(old, path)
            case "symlink":
                path.symlink_to("/".join(step.path))
            case "overwrite":
                write(old, step.content, "r+b", step.number % (old.stat().st_size + 1))
            case "append":
                write(old, step.content, "r+b", old.stat().st_size)
            case "cut":
                os.truncate(old, step.number % (old.stat().st_size + 1))
            case "remove":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else old.unlink()
            case "rename":
                old.rename(path)
            case "chmod":
                old.chmod(step.number & 0o7777 | 0o600)
            case "touch":
                os.utime(old, ns=(step.number, step.number))
            case "copy":
                shutil.copyfile(old, path)


def write(path: Path, content: list[Piece], mode: str, offset: int = 0) -> None:
    with path.open(mode) as file:
        end = offset
        for piece in content:
            if piece.kind != "hole":
                file.seek(end)
                file.write(piece.bytes())
            end += piece.length
        file.seek(0, os.SEEK_END)
        file.truncate(max(end, file.tell()))


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pvback-trees-") as name:
        yield Path(name)


def restored(made: NativeRepository, snapshot: str, target: Path) -> TreeFacts:
    repository = made.reference()
    summary = restore(repository, repository.snapshot(snapshot), str(target))
    assert summary.is_complete, summary.lost
    return TreeFacts(target)


def content_differences(old: TreeFacts, new: TreeFacts) -> list[str]:
    """Where zeros are written, what comes back is allocated, but SEEK_DATA calls it a hole."""
    return differences(old, new, hole_size_min=1 << 62)


@pytest.mark.timeout(600)
@settings(max_examples=EXAMPLES)
@given(STEPS, STEPS, st.booleans())
def test_two_snapshots(first: list[Step], then: list[Step], force: bool) -> None:
    with scratch() as top:
        tree = Tree(top / "source")
        tree.apply(first)
        made = NativeRepository(average=AVERAGE)
        seen = [TreeFacts(tree.top)]
        snapshots = [made.backup(tree.top)]
        tree.apply(then)
        seen.append(TreeFacts(tree.top))
        snapshots.append(made.backup(tree.top, parent=snapshots[0], force=force))
        assert [one.problems for one in snapshots] == [[], []]
        assert verify(made.reference()).findings == []
        for number, (facts, snapshot) in enumerate(zip(seen, snapshots, strict=True)):
            found = restored(made, snapshot.id, top / f"target {number}")
            assert content_differences(facts, found) == []


@pytest.mark.timeout(600)
@settings(max_examples=EXAMPLES)
@given(CONTENTS)
def test_holes_come_back(content: list[Piece]) -> None:
    """Of files that are not small, every hole is a hole again, to the byte."""
    pieces = [piece for piece in content if piece.kind != "zeros"]
    with scratch() as top:
        tree = Tree(top / "source")
        write(tree.top / "file", pieces, "xb")
        made = NativeRepository(average=AVERAGE)
        snapshot = made.backup(tree.top)
        facts = TreeFacts(tree.top)
        found = restored(made, snapshot.id, top / "target")
        assert differences(facts, found, hole_size_min=SMALL_BYTES) == []
