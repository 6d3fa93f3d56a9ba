"""What people get wrong, and what machines do to them: a message, the right exit code, and nothing lost."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.robust.trees import age, contents, differences, image, make_tree
from tests.robust.world import Done, Mount, World

MIB = 1024 * 1024


def says(done: Done, code: int, *parts: str) -> Done:
    """A message of one line that names what is wrong, and no traceback."""
    done.ended(code)
    assert done.err.startswith("error: ") or "\nerror: " in done.err, done.err
    for part in parts:
        assert part in done.err, (part, done.err)
    return done


# --- the repository --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("snapshots",),
        ("backup", "/etc/hostname"),
        ("restore", "latest", "--target", "/nowhere/at/all"),
        ("check",),
        ("key", "list"),
        ("ls", "latest"),
        ("dump", "latest:x"),
        ("find", "x"),
        ("diff", "a", "b"),
        ("stats",),
    ],
    ids=lambda words: words[0],
)
def test_no_repository(tmp_path: Path, words: tuple[str, ...]) -> None:
    world = World(tmp_path / "missing", tmp_path / "cache")
    says(world.run(*words), 10, "repository not found at", "hint: run `pvback init` first")
    assert not (tmp_path / "missing").exists(), "looking made something"


def test_a_directory_that_is_somebody_elses(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    (place / "holiday.jpg").write_bytes(b"mine")
    before = image(place)
    world = World(place, tmp_path / "cache")
    says(world.run("init"), 11, "is not empty", "holiday.jpg")
    says(world.run("backup", place), 10, "repository not found")
    assert contents(place) == {"holiday.jpg": before["holiday.jpg"][6]}


def test_init_twice(world: World) -> None:
    before = {key: path.read_bytes() for key, path in world.objects().items()}
    says(world.run("init"), 11, "there is a repository", "already") if world.key_file is None else None
    open_by_password = World(world.repository, world.cache)
    says(open_by_password.run("init"), 11, "there is a repository", "already")
    assert {key: path.read_bytes() for key, path in world.objects().items()} == before


@pytest.mark.parametrize(("password", "code"), [("wrong", 12), ("", 2), (" correct horse", 12)])
def test_wrong_or_empty_password(world: World, tmp_path: Path, password: str, code: int) -> None:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    by_password = World(world.repository, world.cache)
    done = by_password.run("snapshots", "--password-file", file)
    says(done, code)
    if password:
        assert password not in done.err


def test_no_password_at_all(world: World) -> None:
    nobody = World(world.repository, world.cache, extra={"PVBACK_PASSWORD": ""})
    says(nobody.run("snapshots"), 2, "no password or key", "hint: ")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33, b"zz" * 32, bytes(32)])
def test_a_key_file_that_is_none(world: World, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    known = len(content) in (32, 80)
    says(world.run("snapshots", "--key-file", tmp_path / "key"), 12 if known else 2)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("ls", "latest"), 1, "no snapshot"),
        (("ls", "0123abcd"), 1, "no snapshot"),
        (("ls", "not-an-id"), 2, "not a snapshot id"),
        (("ls", ""), 2, "not a snapshot id"),
        (("restore", "0123abcd", "--target", "T"), 1, "no snapshot"),
        (("dump", "0123abcd:x"), 1, "no snapshot"),
        (("diff", "0123", "4567"), 1, "no snapshot"),
        (("backup",), 2, "no source"),
        (("restore", "latest"), 2, "--target"),
        (("key", "remove", "0123"), 1, "no key"),
        (("check", "--read-data=0%"), 2, "not a share"),
        (("snapshots", "--frobnicate"), 2, "frobnicate"),
        (("frobnicate",), 2, "frobnicate"),
        (("snapshots", "--memory", "1M"), 2, "too small"),
    ],
    ids=lambda one: "-".join(one)[:40] if isinstance(one, tuple) else "",
)
def test_things_that_are_not_there(
    world: World,
    words: tuple[str, ...],
    code: int,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    says(world.run(*words), code, part)
    assert not (tmp_path / "T").exists()


def test_ambiguous_snapshots(world: World, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        world.good("backup", tmp_path / name)
    for _ in range(20):
        ids = [one["id"] for one in world.snapshots()]
        first = {one[0] for one in ids}
        if len(first) < len(ids):
            break
        world.good("backup", tmp_path / "one")
    shared = next(one for one in first if sum(other.startswith(one) for other in ids) > 1)
    says(world.run("ls", shared), 2, "snapshot ids begin with", "hint: give more digits")
    says(world.run("ls", "latest"), 2, "several sources", "--source")
    says(world.run("dump", f"{ids[0]}:no/such/file"), 1, "no such path")
    says(world.run("restore", f"{ids[0]}:no/such", "--target", tmp_path / "T"), 1, "no such path")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("min_reader", 2, 13),
        ("features", ["from-the-future"], 13),
        ("format", 9, 13),
        ("min_writer", 2, None),
    ],
)
def test_a_format_from_the_future(world: World, name: str, value: object, code: int | None) -> None:
    """A changed configuration is not the owner's any more; but people hear first that theirs is too old."""
    path = world.repository / "config"
    line, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps({**json.loads(line), name: value}).encode() + b"\n" + rest)
    for words in (("snapshots",), ("check",), ("backup", "/etc/hostname")):
        done = world.run(*words)
        if code is None:
            # It is damaged, and there is a copy.
            done.ended(20 if words[0] == "check" else 0)
            assert "its copy is used" in done.err
        else:
            says(done, code)


def test_a_cache_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = tmp_path / "source"
    source.mkdir()
    broken = World(world.repository, tmp_path / "file" / "cache", world.key_file)
    says(broken.run("backup", source), 1, str(tmp_path / "file"))
    world.good("backup", source, "--no-cache")
    assert len(world.snapshots()) == 1


# --- the source ------------------------------------------------------------------------------------


def test_a_source_that_is_not_there(world: World, tmp_path: Path) -> None:
    says(world.run("backup", tmp_path / "missing"), 1, str(tmp_path / "missing"))
    assert not world.snapshots()
    (tmp_path / "there").mkdir()
    done = world.run("backup", tmp_path / "missing", tmp_path / "there")
    says(done, 3)
    assert [one["path"] for one in world.snapshots()] == [str(tmp_path / "there")]


def test_files_that_may_not_be_read(world: World, tmp_path: Path) -> None:
    """As nobody: those files are named, the others stored, and the exit code is 3."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    (source / "closed" / "inside").write_text("x")
    (source / "open").write_text("readable")
    (source / "secret").write_text("not for nobody")
    (source / "secret").chmod(0o600)
    (source / "closed").chmod(0o700)
    assert world.key_file is not None
    key = tmp_path / "key"
    shutil.copy(world.key_file, key)
    key.chmod(0o644)
    world.cache.mkdir(exist_ok=True)
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    subprocess.run(["chown", "-R", "65534:65534", world.repository, world.cache], check=True)
    nobody = World(world.repository, world.cache, key)
    privileges = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = nobody.process("backup", source, before=privileges)
    if "Permission denied" in done.err and done.code == 1:
        pytest.skip("the interpreter or the checkout is closed to others here")
    says(done, 3, "secret", "closed")
    # The restore says again what the snapshot does not hold.
    says(world.run("restore", "latest", "--target", tmp_path / "target"), 3, "secret")
    assert (tmp_path / "target" / "open").read_text() == "readable"
    assert "closed/inside" not in contents(tmp_path / "target")


def many_files(source: Path, rng: random.Random) -> None:
    """More than fits into the memory of a backup: the last ones cannot have been read at its start."""
    source.mkdir()
    for number in range(200):
        (source / f"{number:03}").write_bytes(rng.randbytes(MIB))
    age(source)


def change_while_read(world: World, source: Path, change: str) -> Done:
    """Back up; when the first pack is stored, and all that fits is read, change what comes last."""
    plan = {"at": "create", "match": "/data/", "count": 1, "do": "wait"}
    with world.start("backup", source, "--memory", "152M", plan=plan) as running:
        running.wait_for_gate()
        for path in sorted(source.iterdir())[-20:]:
            if change == "vanish":
                path.unlink()
            elif change == "grow":
                with path.open("ab") as file:
                    file.write(bytes(range(256)) * 100)
            elif change == "truncate":
                os.truncate(path, 1000)
            elif change == "fifo":
                path.unlink()
                os.mkfifo(path)
            elif change == "directory":
                path.unlink()
                path.mkdir()
            elif change == "symlink":
                path.unlink()
                path.symlink_to("/etc/passwd")
        running.open_gate()
        return running.finish()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("change", ["vanish", "grow", "truncate", "fifo", "directory", "symlink"])
def test_files_that_change_while_a_backup_runs(world: World, tmp_path: Path, seed: int, change: str) -> None:
    source = tmp_path / "source"
    many_files(source, random.Random(seed))
    before = image(source)
    done = change_while_read(world, source, change)
    done.ended(0, 3)
    target = tmp_path / "target"
    world.run("restore", "latest", "--target", target).ended(0, 3)
    restored, after = image(target), image(source)
    if done.code == 0:
        assert restored.keys() == after.keys() or change in ("vanish", "fifo", "directory", "symlink")
    for name, facts in restored.items():
        if name == ".":
            continue
        if facts[:1] == before[name][:1] and facts[5:7] == before[name][5:7]:
            continue  # it was read before it changed
        assert change != "vanish", f"{name} is neither what it was nor gone"
        if facts[0] == after[name][0]:
            assert facts[5:] == after[name][5:] or done.err, f"{name} is neither what it was nor what it is"
    untouched = sorted(before)[1:-20]
    assert not differences(
        {name: before[name] for name in untouched}, {name: restored[name] for name in untouched}
    )
    world.good("check")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("change", ["truncate", "grow", "overwrite"])
def test_one_large_file_that_changes_while_it_is_read(
    world: World, tmp_path: Path, seed: int, change: str
) -> None:
    rng = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    with (source / "large").open("wb") as file:
        for _ in range(200):
            file.write(rng.randbytes(MIB))
    age(source)
    plan = {"at": "create", "match": "/data/", "count": 1, "do": "wait"}
    with world.start("backup", source, "--memory", "152M", plan=plan) as running:
        running.wait_for_gate()
        with (source / "large").open("r+b") as file:
            if change == "truncate":
                file.truncate(150 * MIB)
            elif change == "grow":
                file.seek(0, os.SEEK_END)
                file.write(rng.randbytes(5 * MIB))
            else:
                file.seek(195 * MIB)
                file.write(rng.randbytes(MIB))
        running.open_gate()
        done = running.finish().ended(0, 3)
    (stored,) = world.snapshots()
    assert stored["unstable_count"] or done.code == 3 or change != "truncate"
    world.good("restore", "latest", "--target", tmp_path / "target")
    wanted, found = image(source)["large"], image(tmp_path / "target")["large"]
    # Read once more, it is what it is now; or it is marked as one that changed.
    assert found[5:7] == wanted[5:7] or stored["unstable_count"] == 1
    world.good("check", "--read-data")


# --- the target ------------------------------------------------------------------------------------


def backed_up(world: World, tmp_path: Path, seed: int, size: int = 300_000) -> Path:
    source = tmp_path / "source"
    make_tree(source, random.Random(seed), large_bytes=size)
    world.good("backup", source)
    return source


def test_a_target_that_is_full(world: World, tmp_path: Path, seed: int, mount: Mount) -> None:
    source = backed_up(world, tmp_path, seed, size=6 * MIB)
    disk = mount(4 * MIB)
    target = disk / "target"
    done = world.run("restore", "latest", "--target", target)
    done.ended(1, 3)
    assert os.strerror(errno.ENOSPC) in done.err
    subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", disk], check=True)
    world.good("restore", "latest", "--target", target)
    assert not differences(image(source), image(target))


def test_a_target_that_is_read_only(world: World, tmp_path: Path, seed: int, mount: Mount) -> None:
    backed_up(world, tmp_path, seed)
    disk = mount(64 * MIB)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = world.run("restore", "latest", "--target", disk / "target").ended(1, 3)
    assert os.strerror(errno.EROFS) in done.err


def test_a_target_that_is_a_file(world: World, tmp_path: Path, seed: int) -> None:
    backed_up(world, tmp_path, seed)
    (tmp_path / "target").write_text("precious")
    says(world.run("restore", "latest", "--target", tmp_path / "target"), 1, "target")
    assert (tmp_path / "target").read_text() == "precious"


def test_a_target_that_is_not_empty(world: World, tmp_path: Path, seed: int) -> None:
    """What is there and has other names stays; `--delete` makes an image of the source."""
    source = backed_up(world, tmp_path, seed)
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("precious")
    (target / "large").write_text("old")
    world.good("restore", "latest", "--target", target)
    assert (target / "mine").read_text() == "precious"
    assert contents(source).items() <= contents(target).items()
    world.good("restore", "latest", "--target", target, "--delete")
    assert not differences(image(source), image(target))


def test_a_dry_run_touches_nothing(world: World, tmp_path: Path, seed: int) -> None:
    backed_up(world, tmp_path, seed)
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("precious")
    before = image(target)
    world.good("restore", "latest", "--target", target, "--delete", "--dry-run")
    assert image(target) == before


# --- the store, and signals ------------------------------------------------------------------------


def test_a_repository_whose_disk_is_full(empty_world: World, tmp_path: Path, seed: int, mount: Mount) -> None:
    rng = random.Random(seed)
    disk = mount(8 * MIB)
    source = tmp_path / "source"
    make_tree(source, rng)
    world = empty_world.copy(disk / "world")
    world.good("backup", source)
    known = image(source)
    (source / "too-much").write_bytes(rng.randbytes(20 * MIB))
    done = says(world.run("backup", source), 30)
    assert "no space left" in done.err
    assert len(world.snapshots()) == 1
    world.good("restore", "latest", "--target", tmp_path / "target")
    assert not differences(known, image(tmp_path / "target"))
    subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", disk], check=True)
    world.good("check", "--read-data")
    world.good("backup", source)
    world.good("restore", "latest", "--target", tmp_path / "target")
    assert not differences(image(source), image(tmp_path / "target"))


def test_a_repository_that_may_not_be_written(
    empty_world: World, tmp_path: Path, seed: int, mount: Mount
) -> None:
    disk = mount(8 * MIB)
    source = tmp_path / "source"
    make_tree(source, random.Random(seed))
    world = empty_world.copy(disk / "world")
    world.good("backup", source)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    reader = World(world.repository, tmp_path / "cache", world.key_file)
    says(reader.run("backup", source), 30)
    reader.good("check", "--read-data")
    reader.good("restore", "latest", "--target", tmp_path / "target")
    assert not differences(image(source), image(tmp_path / "target"))


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_a_disk_that_fails_once(world: World, tmp_path: Path, seed: int, count: int) -> None:
    source = tmp_path / "source"
    make_tree(source, random.Random(seed))
    plan = {"at": "system", "do": "fail", "count": count}
    done = world.process("backup", source, plan=plan)
    done.ended(0, 1, 30)
    if done.code:
        assert os.strerror(errno.EIO) in done.err or "the disk failed" in done.err
    world.good("check", "--read-data")
    world.good("backup", source)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_backup_with_a_checkpoint(
    world: World, tmp_path: Path, seed: int, number: signal.Signals
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = random.Random(seed)
    for name in range(200):
        (source / f"{name:03}").write_bytes(rng.randbytes(MIB))
    age(source)
    plan = {"at": "create", "match": "/data/", "count": 3, "do": "wait", "until_asked": True}
    plan["pack_bytes"] = 4 * MIB
    # More than fits into its memory, and so slow that it cannot end between the checkpoint and its end.
    words = ("backup", source, "--memory", "152M", "--limit-upload", "40M")
    with world.start(*words, plan=plan) as running:
        running.wait_for_gate()
        running.process.send_signal(number)
        running.open_gate()
        done = says(running.finish(), 130, f"interrupted by {number.name}", "hint: run the same backup again")
        assert done.out == b""
    assert not world.snapshots()
    assert [key for key in world.objects() if "/records/" in key], "there is no checkpoint"
    summary = world.good("backup", source, "--json").summary()
    assert summary["resumed"]
    assert summary["stats"]["new_bytes"] < 195 * MIB
    world.good("check", "--read-data")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_restore(world: World, tmp_path: Path, seed: int, number: signal.Signals) -> None:
    source = backed_up(world, tmp_path, seed, size=8 * MIB)
    plan = {"at": "read_into", "match": "/data/", "count": 1, "do": "wait", "until_asked": True}
    with world.start("restore", "latest", "--target", tmp_path / "target", plan=plan) as running:
        running.wait_for_gate()
        running.process.send_signal(number)
        running.open_gate()
        says(running.finish(), 130, "interrupted")
    world.good("restore", "latest", "--target", tmp_path / "target")
    assert not differences(image(source), image(tmp_path / "target"))
