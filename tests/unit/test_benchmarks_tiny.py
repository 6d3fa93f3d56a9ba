"""The benchmark harness on tiny data: what it measures is measured, and what is wrong is seen."""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import aging, demo, run, store_requests
from benchmarks.corpora import GENERATED, Corpus, checkout_corpus, copy_tree, list_files
from benchmarks.measure import CommandFailed, run_measured
from benchmarks.report import render_markdown, render_svg, summarize
from benchmarks.tools import Command, Restore, Tool
from benchmarks.trees import compare_manifests, read_manifest

MIB = 1 << 20

# Stands in for a backup program: keeps whole copies of the source. FAULT breaks restored trees.
FAKE_PVBACK = """#!{python}
import json, os, shutil, subprocess, sys
from pathlib import Path
repository = Path(os.environ["PVBACK_REPOSITORY"])
args = [arg for arg in sys.argv[1:] if arg not in ("--json", "-q", "--force")]
known = sorted(repository.glob("*")) if repository.exists() else []
if args[0] == "init":
    repository.mkdir(parents=True)
elif args[0] == "backup":
    subprocess.run(["cp", "-a", "--sparse=always", args[1], repository / f"s{{len(known):03}}"], check=True)
    print(json.dumps({{"message_type": "summary"}}))
elif args[0] == "snapshots":
    print(json.dumps([{{"id": p.name, "stats": {{"new_bytes": 1000}}}} for p in known], indent=1))
elif args[0] == "restore":
    source = known[-1] if args[1] == "latest" else repository / args[1]
    target = Path(args[args.index("--target") + 1])
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
    {fault}
"""
FLIP_ONE_BYTE = """
    victim = max((p for p in target.rglob("*") if p.is_file() and not p.is_symlink()), key=lambda p: p.name)
    before = victim.stat()
    data = bytearray(victim.read_bytes()); data[0] ^= 1; victim.write_bytes(data)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
"""


def make_fake(place: Path, fault: str = "") -> Path:
    program = place / "pvback"
    program.write_text(FAKE_PVBACK.format(python=sys.executable, fault=fault))
    program.chmod(0o755)
    return program


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    (root / "sub" / "other").write_bytes(b"more")
    os.link(root / "sub" / "other", root / "linked")
    (root / "link").symlink_to("sub/file")
    with (root / "holes").open("wb") as sparse:
        sparse.truncate(8 * MIB)
    return root


def break_content(root: Path) -> None:
    file = root / "sub" / "file"
    before = file.stat()
    file.write_bytes(b"Content")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def break_mtime(root: Path) -> None:
    file = root / "sub" / "file"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def break_link_target(root: Path) -> None:
    before = (root / "link").lstat()
    (root / "link").unlink()
    (root / "link").symlink_to("sub/fil_")
    os.utime(root / "link", ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def break_hard_link(root: Path) -> None:
    shutil.copy2(root / "linked", root / "copy")
    (root / "copy").rename(root / "linked")


def break_type(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").mkdir()


def fill_holes(root: Path) -> None:
    before = (root / "holes").stat()
    (root / "holes").write_bytes(bytes(8 * MIB))
    os.utime(root / "holes", ns=(before.st_atime_ns, before.st_mtime_ns))


def add_attribute(root: Path) -> None:
    try:
        os.setxattr(root / "sub" / "file", "user.note", b"x")
    except OSError:
        pytest.skip("no extended attributes here")


@pytest.mark.parametrize(
    ("breakage", "expected"),
    [
        (break_content, {"sub/file: content"}),
        (break_mtime, {"sub/file: mtime"}),
        (break_link_target, {"link: content"}),
        (break_hard_link, {"linked: links", "sub/other: links"}),
        (break_type, {"link: type"}),
        (fill_holes, {"holes: holes"}),
        (add_attribute, {"sub/file: xattrs"}),
        (lambda root: (root / "sub" / "file").chmod(0o600), {"sub/file: mode"}),
        (lambda root: (root / "sub" / "file").unlink(), {"sub/file: missing"}),
        (lambda root: (root / "sub" / "new").touch(), {"sub/new: extra"}),
        (lambda _root: None, set()),
    ],
)
def test_compare_sees_every_difference(tree: Path, breakage: object, expected: set[str]) -> None:
    target = tree.with_name("target")
    copy_tree(tree, target)
    assert callable(breakage)
    breakage(target)
    for directory in (".", "sub"):  # Their times change with every breakage of an entry.
        before = (tree / directory).stat()
        os.utime(target / directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = compare_manifests(read_manifest(tree), read_manifest(target))
    assert {str(one) for one in found} == expected


@pytest.mark.parametrize("corpus", GENERATED, ids=lambda corpus: corpus.name)
def test_generated_corpora_follow_their_seed(corpus: Corpus, tmp_path: Path) -> None:
    states = []
    for number, seed in enumerate((1, 1, 2)):
        root = tmp_path / f"root{number}"
        checkout_corpus(corpus, root, tmp_path / f"cache{number}", scale=0.001, seed=seed)
        first = {str(p.relative_to(root)): p.read_bytes() for p in list_files(root)}
        corpus.change(root, 0.001, seed)
        second = {str(p.relative_to(root)): p.read_bytes() for p in list_files(root)}
        assert first != second
        states.append((first, second))
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_checkout_copies_from_the_cache(tmp_path: Path) -> None:
    (small,) = (corpus for corpus in GENERATED if corpus.name == "small")
    checkout_corpus(small, tmp_path / "a", tmp_path / "cache", scale=0.001, seed=1)
    checkout_corpus(small, tmp_path / "b", tmp_path / "cache", scale=0.001, seed=1)
    assert compare_manifests(read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")) == []
    kinds = {entry.kind for entry in read_manifest(tmp_path / "a").values()}
    assert {"file", "directory"} <= kinds <= {"file", "directory", "symlink"}


def test_measures_the_whole_process_tree() -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    child = f"block = bytearray({64 * MIB}); block[::4096] = b'x' * len(block[::4096]); {burn}"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    usage = run_measured([sys.executable, "-c", parent], env=dict(os.environ), is_settled=False)
    assert usage.cpu_seconds >= 0.3
    assert usage.wall_seconds >= 0.3
    assert 64 * MIB <= usage.memory_bytes_peak < 512 * MIB


def test_failed_command_tells_its_error_output() -> None:
    with pytest.raises(CommandFailed, match=r"ended with 7:\nno room"):
        run_measured(["sh", "-c", "echo no room >&2; exit 7"], env=dict(os.environ), is_settled=False)


def result(tool: str, wall: float, *, error: str = "") -> dict[str, object]:
    return {
        "corpus": "small",
        "round": 0,
        "tool": tool,
        "step": "first",
        "source_bytes": 100_000_000,
        "source_entries": 10,
        "wall_seconds": wall,
        "cpu_seconds": wall,
        "sync_seconds": 0.0,
        "memory_bytes_peak": MIB,
        "repository_bytes": MIB,
        "repository_objects": 3,
        "objects_written": 3,
        "lost": {"mtime": 2},
        "damage": [],
        "error": error,
    }


def test_ratio_is_against_the_fastest_peer() -> None:
    results = [
        result("pvback", 1.0),
        result("pvback", 3.0),
        result("pvback", 2.0),
        result("restic", 6.0),
        result("borg", 4.0),
        result("kopia", 0.1, error="broke | badly"),
    ]
    rows = {row.tool: row for row in summarize(results)}
    assert list(rows) == ["pvback", "restic", "kopia", "borg"]
    assert rows["pvback"].wall_seconds == 2.0
    assert rows["pvback"].throughput == 50.0
    assert rows["pvback"].ratio == 2.0
    assert rows["borg"].ratio == 1.0
    assert rows["kopia"].wall_seconds == 0.0
    machine = dict.fromkeys(("cpu", "cores", "memory", "file_system", "kernel", "load_before"), "?")
    document = {"machine": machine | {"versions": {}}, "scale": 1.0, "seed": 1, "results": results}
    table = [line for line in render_markdown(document, list(rows.values())).splitlines() if "|" in line]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "not kept: 2 mtime" in table[-1]
    ET.fromstring(render_svg(list(rows.values())))


class CopyTool(Tool):
    """A program that restores rightly, until told otherwise."""

    fault = ""

    def init(self) -> list[Command]:
        return [Command(["mkdir", str(self.repository)])]

    def backup(self, source: Path, *, force: bool = False) -> Command:
        script = 'rm -rf "$1/copy" && cp -a --sparse=always "$0" "$1/copy"'
        return Command(["sh", "-c", script, str(source), str(self.repository)])

    def restore(self, order: Restore) -> Command:
        script = 'rm -rf "$1"; cp -a --sparse=always "$0/copy" "$1"; cd "$1"' + self.fault
        return Command(["sh", "-c", script, str(self.repository), str(order.target)])


class LyingTool(CopyTool):
    """A program that says all is well and loses a file."""

    fault = "; rm $(find . -type f -links 1 | sort | head -n 1)"


@pytest.mark.parametrize(("kind", "is_right"), [(CopyTool, True), (LyingTool, False)])
def test_runner_does_all_steps_and_sees_wrong_restores(
    kind: type[Tool], is_right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(programs: dict[str, Path], home: Path) -> list[Tool]:
        (home / "fake").mkdir(parents=True)
        return [kind("fake", Path("/bin/sh"), home / "fake")]

    monkeypatch.setattr(run, "make_tools", make)
    monkeypatch.setattr(run, "cache_dir", lambda: tmp_path / "cache")
    (small,) = (corpus for corpus in GENERATED if corpus.name == "small")
    monkeypatch.setattr(run, "TINY_SCALE", 0.001)
    options = run.parse_options(["--tiny", "--work", str(tmp_path)])
    with run.work_dir(tmp_path) as work:
        results = run.Bench(small, options, work).run({}, 0)
    assert not list(tmp_path.glob("pvback-bench-*"))
    assert [one.step for one in results] == [
        "first",
        "unchanged",
        "full re-read",
        "changed",
        "restore",
        "restore in place",
    ]
    assert [one.error for one in results] == [""] * 6
    assert all(one.repository_bytes > 0 for one in results)
    wrong = [one for one in results if one.damage]
    assert [one.step for one in wrong] == ([] if is_right else ["restore", "restore in place"])


def test_damage_is_real_and_seeded(tree: Path) -> None:
    for number in range(300):
        (tree / f"f{number}").write_bytes(random.Random(number).randbytes(100))
    before = read_manifest(tree)
    run.damage_tree(tree, 1)
    aspects = {one.aspect for one in compare_manifests(before, read_manifest(tree))}
    assert {"missing", "size"} <= aspects


def test_demo_accepts_an_honest_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--size-mib", "3", "--program", str(make_fake(tmp_path)), "--work", str(tmp_path)]
    assert demo.main(argv) == 0
    out = capsys.readouterr().out
    assert "first backup" in out
    assert "restore of the second" in out
    assert [path.name for path in tmp_path.iterdir()] == ["pvback"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (FLIP_ONE_BYTE, "1 differences, the first are"),
        ("sys.exit('no such snapshot')", "ended with 1: no such snapshot"),
    ],
)
def test_demo_fails_on_a_lie(
    fault: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = make_fake(tmp_path, fault)
    argv = ["--size-mib", "3", "--program", str(program), "--work", str(tmp_path)]
    assert demo.main(argv) == 1
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pvback"]


def test_demo_tree_has_what_backups_get_wrong(tmp_path: Path) -> None:
    demo.make_tree(tmp_path / "tree", bytes_total=2 * MIB, seed=1)
    manifest = read_manifest(tmp_path / "tree", with_content=False)
    kinds = {entry.kind for entry in manifest.values()}
    assert {"file", "directory", "symlink", "fifo"} <= kinds
    assert any(entry.links for entry in manifest.values())
    assert any(len(Path(os.fsdecode(path)).name) == 255 for path in manifest)
    assert stat.S_ISGID & manifest[b"odd/one name"].mode
    assert manifest[b"odd/holes"].allocated_bytes < 2 * MIB
    database = sum(e.size_bytes for path, e in manifest.items() if path.startswith(b"database/"))
    real = sum(e.size_bytes for path, e in manifest.items() if path.startswith(b"usr/"))
    assert database + real >= 2 * MIB


def test_documents_on_one_line_or_many() -> None:
    assert list(demo.read_documents('{"a": 1}\n[\n 2,\n 3]\n')) == [{"a": 1}, [2, 3]]


@pytest.mark.slow
def test_own_program_passes_the_tiny_run(tmp_path: Path) -> None:
    if not demo.PVBACK.exists():
        pytest.skip("pvback is not built")
    assert run.main(["--tiny", "--tools", "pvback", "--work", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "results.svg").exists()


def test_requests_to_the_store_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store_requests, "cache_dir", lambda: tmp_path)
    assert store_requests.main(["--scale", "0.005"]) == 0
    header, _, *rows = [line.split("|")[2:-1] for line in capsys.readouterr().out.splitlines()]
    assert [row[0].strip() for row in rows] == ["first", "unchanged", "changed", "restore"]
    for row in rows:
        found = dict(zip(map(str.strip, header), map(str.strip, row), strict=True))
        counts = {name: int(count) for name, count in found.items() if name != "step"}
        assert counts.pop("all") == sum(counts.values()) > 0
        # A backup makes objects and swaps one register; a restore changes nothing.
        assert (counts["create"] > 0) == (counts["swap"] == 1) == (found["step"] != "restore")


@pytest.mark.parametrize("corpus", ["small", aging.IMAGE])
def test_what_age_does_is_counted(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(aging, "cache_dir", lambda: tmp_path)
    assert aging.main(["--corpus", corpus, "--scale", "0.01", "--rounds", "2"]) == 0
    _, _, *rows = [line.split("|")[2:-1] for line in capsys.readouterr().out.splitlines()]
    assert [int(row[0]) for row in rows] == [1, 2]
    for _, reads, size, reads_anew, size_anew in rows:
        assert min(int(reads), int(reads_anew)) > 5
        assert float(size) > 0.9 * float(size_anew) > 0
