"""The frozen repository of format 1: what it holds, and what every command says of it, stay as they are.

`v1/repository.tar` was made once and is never made again; `v1/expected.json` was noted from the source tree
itself. PVBACK_TEST_UPDATE=1 writes the golden output of commands anew, for a review.
"""

import base64
import json
import os
import re
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pvback import reference
from pvback.cli import main
from pvback.reference.pages import Node
from tests.cli.test_help import commands
from tests.robust.trees import differences, image
from tests.robust.world import World

FOLDER = Path(__file__).parent / "v1"
PASSWORD = "correct horse battery"
RESTORER_KEY = bytes(range(32))
RESTORER = "036cfd80b89e712f39f5e528489a1cda"
RECIPIENT = "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
STREAM = b"INSERT INTO t VALUES (1);\n" * 500
KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="devices and owners need root")


@pytest.fixture
def frozen(tmp_path: Path) -> World:
    with tarfile.open(FOLDER / "repository.tar") as tar:
        tar.extractall(tmp_path / "repository", filter="data")
    (tmp_path / "key").write_bytes(RESTORER_KEY)
    return World(
        tmp_path / "repository", tmp_path / "cache", None, {"PVBACK_PASSWORD": PASSWORD, "COLUMNS": "100"}
    )


@pytest.fixture
def by_key(frozen: World, tmp_path: Path) -> World:
    """As a restorer, without the memory-hard function."""
    return World(frozen.repository, frozen.cache, tmp_path / "key", {"COLUMNS": "100"})


def expected(which: str) -> dict[str, tuple[Any, ...]]:
    """As `image` has it."""
    raw = json.loads((FOLDER / "expected.json").read_text())[which]
    return {name: _thaw(facts) for name, facts in raw.items()}


def _thaw(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return tuple(map(_thaw, value)) if isinstance(value, list) else value


def snapshots(world: World) -> dict[str, str]:
    """The snapshots by what they are."""
    names = {}
    for one in world.snapshots():
        names[one["tags"].get("state", "stream")] = one["id"]
    return names


def test_both_ways_in(frozen: World, by_key: World) -> None:
    assert snapshots(frozen) == snapshots(by_key)
    assert set(snapshots(by_key)) == {"first", "second", "stream"}


@pytest.mark.parametrize("which", ["first", "second"])
def test_listing(by_key: World, which: str) -> None:
    rows = by_key.good("ls", snapshots(by_key)[which], "-R", "--json").json()
    found = {row["path"] or ".": row for row in rows}
    wanted = expected(which)
    assert found.keys() == wanted.keys()
    for name, facts in wanted.items():
        row = found[name]
        attributes = (row["mode"], row["uid"], row["gid"], row["mtime_ns"])
        assert (row["kind"], *attributes) == (KINDS[facts[0]], *facts[1:5]), name
        if row["kind"] == "file":
            assert row["size"] == facts[5]
        elif row["kind"] == "symlink":
            assert row["target"] == facts[5]


@needs_root
@pytest.mark.parametrize("how", [(), ("--reference",)], ids=["native", "reference"])
@pytest.mark.parametrize("which", ["first", "second"])
def test_restore(by_key: World, tmp_path: Path, which: str, how: tuple[str, ...]) -> None:
    by_key.good("restore", snapshots(by_key)[which], "--target", tmp_path / "target", *how)
    assert not differences(expected(which), image(tmp_path / "target"))


@pytest.mark.parametrize("which", ["first", "second"])
def test_reference_listing(by_key: World, which: str) -> None:
    repository = reference.Repository.open(
        reference.DirectoryStore(by_key.repository), reference.PrivateKey(RESTORER_KEY)
    )
    wanted = expected(which)
    nodes = {_name(node): node for node in repository.walk(repository.snapshot(snapshots(by_key)[which]))}
    assert nodes.keys() == wanted.keys()
    for name, node in nodes.items():
        seconds, nanoseconds = node.mtime
        assert (node.mode, node.uid, node.gid) == wanted[name][1:4]
        assert seconds * 10**9 + nanoseconds == wanted[name][4]


def _name(node: Node) -> str:
    return os.fsdecode(node.key.replace(b"\0", b"/")) or "."


def test_stream(by_key: World) -> None:
    assert by_key.good("dump", f"{snapshots(by_key)['stream']}:").out == STREAM


def test_it_is_sound(frozen: World) -> None:
    frozen.good("check", "--read-data")
    store = reference.DirectoryStore(frozen.repository)
    repository = reference.Repository.open(store, reference.PrivateKey(RESTORER_KEY))
    assert not reference.verify(repository).findings


def test_it_can_be_gone_on_from(frozen: World, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "more").write_text("written by a newer version")
    frozen.good("backup", source)
    frozen.good("check", "--read-data")
    assert len(frozen.snapshots()) == 4
    found = snapshots(frozen)
    assert frozen.good("dump", f"{found['second']}:docs/new").out == b"added later\n"


GOLDEN = {
    "snapshots": ("snapshots",),
    "snapshots-json": ("snapshots", "--json"),
    "ls": ("ls", "SECOND"),
    "ls-long": ("ls", "-l", "-R", "SECOND"),
    "ls-json": ("ls", "-R", "--json", "SECOND:docs"),
    "find": ("find", "readme*", "*.sql"),
    "find-json": ("find", "new", "--json"),
    "diff": ("diff", "FIRST", "SECOND"),
    "diff-json": ("diff", "FIRST", "SECOND", "--json"),
    "stats": ("stats",),
    "stats-json": ("stats", "--mode", "raw-data", "--json"),
    "stats-restore-size": ("stats", "--mode", "restore-size"),
    "dump": ("dump", "SECOND:docs/readme.txt"),
    "check": ("check", "--read-data"),
    "check-json": ("check", "--json"),
    "key-list": ("key", "list"),
    "key-list-json": ("key", "list", "--json"),
    "key-add": ("key", "add", "--role", "writer", "--label", "night", "--recipient", RECIPIENT),
    "key-add-json": ("key", "add", "--role", "writer", "--recipient", RECIPIENT, "--json"),
    "key-remove": ("key", "remove", "RESTORER"),
    "key-remove-json": ("key", "remove", "RESTORER", "--json"),
    "bench-limits": ("bench", "limits"),
    "bench-limits-json": ("bench", "limits", "--json"),
    "completion-bash": ("completion", "bash"),
    "completion-fish": ("completion", "fish"),
    "completion-zsh": ("completion", "zsh"),
    "restore": ("restore", "SECOND:docs", "--target", "TARGET"),
    "restore-json": ("restore", "SECOND:docs", "--target", "TARGET", "--json"),
    "restore-dry-run": ("restore", "SECOND:docs", "--target", "TARGET", "--dry-run"),
    "backup": ("backup", "SOURCE", "--host", "golden"),
    "backup-json": ("backup", "SOURCE", "--host", "golden", "--json"),
    "init": ("init", "-r", "TARGET"),
    "init-json": ("init", "-r", "TARGET", "--json"),
    "no-such-snapshot": ("ls", "0123abcd"),
    "no-such-path": ("dump", "SECOND:no/such", "--json"),
}
# A script is no result that JSON could wrap.
WITHOUT_JSON = {("completion",)}
# They change what is frozen, need a second repository, or run until they are stopped: tests/cli and
# tests/robust hold them, and their helps are golden.
ELSEWHERE = {"copy", "export", "forget", "install", "mount", "mover", "prune", "pvc", "repair", "undelete"}
ELSEWHERE_KEYS = {"check", "policy", "repair", "rotate"}


def test_every_command_has_golden_output() -> None:
    """As text and as JSON; and no file is left of a case that is gone."""
    verbs = {
        one
        for one in set(commands(main)) - {(), ("key",), ("bench",)}
        if one[0] not in ELSEWHERE and not (one[0] == "key" and one[1] in ELSEWHERE_KEYS)
    }
    for is_json in (False, True):
        have = [words for words in GOLDEN.values() if ("--json" in words) == is_json]
        missing = {one for one in verbs if not any(words[: len(one)] == one for words in have)}
        assert missing == (WITHOUT_JSON if is_json else set())
    assert {path.stem for path in (FOLDER / "golden").iterdir()} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(frozen: World, by_key: World, tmp_path: Path, name: str) -> None:
    """Output and errors, with what differs from run to run masked."""
    ids = snapshots(by_key)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x" * 1000)
    places = {"FIRST": ids["first"], "SECOND": ids["second"], "RESTORER": RESTORER}
    places |= {"TARGET": str(tmp_path / "target"), "SOURCE": str(source)}
    words = [re.sub("|".join(places), lambda found: places[found[0]], word) for word in GOLDEN[name]]
    is_writing = name.partition("-")[0] in ("backup", "init") or name.startswith(("key-add", "key-remove"))
    done = (frozen if is_writing else by_key).run(*words)
    text = f"{done.text}--- exit {done.code}\n{done.err}"
    text = text.replace(str(tmp_path), "/place")
    if is_writing:
        text = re.sub(r"\b[0-9a-f]{32}\b", "<id>", text)
        text = re.sub(r"[0-9.]+ s, [0-9.]+ \w+/s read", "<time>", text)
    text = re.sub(r'"duration_seconds": [0-9.]+', '"duration_seconds": 0', text)
    if name.startswith("bench"):
        text = re.sub(r" *\b\d+\.\d+(e-\d+)?", " <figure>", text)
    path = FOLDER / "golden" / f"{name}.txt"
    if os.environ.get("PVBACK_TEST_UPDATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"set PVBACK_TEST_UPDATE=1 and look at what changes in {path.name}"
