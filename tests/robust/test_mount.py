"""Snapshots as files: real mounts, looked at by real programs."""

import errno
import os
import random
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import pytest

from tests.robust.trees import age, contents, differences, image, make_tree
from tests.robust.world import Done, Running, World
from tests.support import tree_facts
from tests.support.torture_tree import TortureTree

MIB = 1024 * 1024


def test_this_machine_can_mount() -> None:
    """A failure and no skip: without it nothing of `pvback mount` would be tested."""
    assert Path("/dev/fuse").exists()
    assert shutil.which("fusermount3"), "install fuse3"


@contextmanager
def mounted(
    world: World, place: Path, *words: object, plan: dict[str, Any] | None = None, end: Signals = SIGINT
) -> Iterator[Running]:
    """A mount that answers. It has to end with 0 when it is told to."""
    place.mkdir(exist_ok=True)
    with world.start("mount", place, *words, plan={"list_seconds": 0, **(plan or {})}) as running:
        assert running.process.stderr is not None
        line = running.process.stderr.readline()
        assert line.startswith(b"mounted at"), (line, running.finish().err)
        try:
            yield running
        finally:
            if running.process.poll() is None:
                running.process.send_signal(end)
                running.process.wait(30)
            if os.path.ismount(place):
                subprocess.run(["fusermount3", "-uz", place], check=True)
        assert running.process.returncode == 0, running.process.stderr.read()


def said(running: Running) -> str:
    """All that a mount said on standard error, once it has ended."""
    assert running.process.stderr is not None
    return running.process.stderr.read().decode()


def output(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_everything_that_a_snapshot_holds_is_shown(world: World, tmp_path: Path, seed: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    tree = TortureTree(source, seed)
    try:
        world.good("backup", source)
        with mounted(world, tmp_path / "m", "latest"):
            shown = tree_facts.TreeFacts(tmp_path / "m")
            counts = [one.lstat().st_nlink for one in (tmp_path / "m").iterdir()]
        real = tree_facts.TreeFacts(source)
        # Flags of inodes have no place in a mount.
        real.facts = {key: replace(facts, flags=0) for key, facts in real.facts.items()}
        assert not tree_facts.differences(real, shown), tree.left_out
        ctimes = {key: inode.ctime_ns for key, inode in real.inodes.items()}
        assert ctimes == {key: inode.ctime_ns for key, inode in shown.inodes.items()}
        numbers = [inode.number for inode in shown.inodes.values()]
        assert len(set(numbers)) == len({inode.number for inode in real.inodes.values()}) < len(numbers)
        real_counts = [one.lstat() for one in source.iterdir()]
        assert sorted(counts) == sorted(
            1 if stat.S_ISDIR(one.st_mode) else one.st_nlink for one in real_counts
        )
        world.good("restore", "latest", "--target", target)
        restored = tree_facts.TreeFacts(target)
        restored.facts = {key: replace(facts, flags=0) for key, facts in restored.facts.items()}
        # A restore leaves out zeros that were written.
        assert not tree_facts.differences(restored, shown, hole_size_min=1 << 62)
    finally:
        tree_facts.remove_tree(source)
        if target.exists():
            tree_facts.remove_tree(target)


def test_real_programs_see_the_source(world: World, tmp_path: Path, seed: int) -> None:
    source, copy, place = tmp_path / "source", tmp_path / "copy", tmp_path / "m"
    make_tree(source, random.Random(seed), large_bytes=3 * MIB)
    os.setxattr(source / "large", "user.note", b"a\0b")
    world.good("backup", source)
    with mounted(world, place, end=SIGTERM):
        top = place / "snapshots" / "latest"
        commands = (
            ("find", ".", "-printf", r"%P %y %m %U:%G %T@ %l\n"),
            ("find", ".", "-type", "f", "-exec", "sha256sum", "{}", "+"),
            ("find", ".", "-not", "-type", "d", "-exec", "stat", "-c", "%n %f %h %s %Y %Z %t:%T", "{}", "+"),
            ("getfattr", "-R", "-d", "-m", "-", "-e", "hex", "."),
        )
        for command in commands:
            ours, theirs = output(*command, cwd=top), output(*command, cwd=source)
            assert sorted(ours.splitlines()) == sorted(theirs.splitlines()), command
            assert ours or command[0] == "getfattr"
        assert "0x610062" in output(*commands[-1], cwd=top)
        output("cp", "-a", f"{top}/.", copy, cwd=tmp_path)
        assert not differences(image(source), image(copy))
        copied, real = (folder / "sparse" for folder in (copy, source))
        assert copied.stat().st_blocks <= real.stat().st_blocks < 1000, "holes stay holes"
        (source / "fifo").unlink()  # diff takes two pipes for different ones
        done = subprocess.run(["diff", "-r", source, top], capture_output=True, text=True, check=False)
        assert done.stdout.strip().endswith("fifo"), done
        assert done.stdout.count("\n") == 1, done
        with pytest.raises(OSError, match="Read-only"):
            (top / "new").touch()
        with pytest.raises(OSError, match="Read-only"):
            (top / "large").unlink()


def test_many_readers_at_a_time_get_the_right_bytes(world: World, tmp_path: Path, seed: int) -> None:
    source, place = tmp_path / "source", tmp_path / "m"
    rng = random.Random(seed)
    source.mkdir()
    (source / "large").write_bytes(data := rng.randbytes(24 * MIB))
    for number in range(60):
        (source / f"small{number}").write_bytes(data[number * 5000 : number * 5000 + 4000])
    age(source)
    world.good("backup", source)

    def read(number: int) -> None:
        mine = random.Random(seed + number)
        with (place / "large").open("rb", buffering=0) as file:
            for _ in range(60):
                start, length = mine.randrange(len(data)), mine.randrange(1, 300_000)
                assert os.pread(file.fileno(), length, start) == data[start : start + length]
        for other in mine.sample(range(60), 60):
            assert (place / f"small{other}").read_bytes() == data[other * 5000 : other * 5000 + 4000]
        assert (place / "large").read_bytes() == data

    # With the least memory, what is kept is thrown out all the time.
    with mounted(world, place, "latest", "--memory", "152MiB"), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(read, number) for number in range(8)]:
            done.result()


def test_snapshots_appear_and_are_found_by_what_people_know(world: World, tmp_path: Path) -> None:
    source, other, place = tmp_path / "one", tmp_path / "two", tmp_path / "m"
    for folder in (source, other):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    world.good("backup", source, "--tag", "kind=first", "--host", "web")
    (first,) = world.snapshots()
    with mounted(world, place):
        assert names(place) == ["hosts", "ids", "snapshots"]
        assert names(place / "ids") == [first["id"][:8]]
        folder = place / "hosts" / "web" / str(source).strip("/").replace("/", "_")
        assert (folder / "latest" / "file").read_text() == "one"
        (source / "file").write_text("changed")
        world.good("backup", source, "--host", "web")
        world.good("backup", "--command", "--stdin-name", "dump.sql", "--", "printf", "select 1")
        # What was listed a moment ago is shown for a while.
        until = time.monotonic() + 30
        while len(names(place / "ids")) < 3 and time.monotonic() < until:
            threading.Event().wait(0.2)
        assert len(names(place / "ids")) == 3
        assert (folder / "latest" / "file").read_text() == "changed"
        assert (place / "ids" / first["id"][:8] / "file").read_text() == "one"
        assert (place / "snapshots" / "latest" / "dump.sql").read_bytes() == b"select 1"
        assert len(names(folder)) == 3
    with mounted(world, place, "--tag", "kind"):
        assert names(place / "ids") == [first["id"][:8]]
    with mounted(world, place, f"{first['id']}:file"):
        assert [(one.name, one.read_text()) for one in place.iterdir()] == [("file", "one")]
    with mounted(world, place, "latest", "--source", source) as running:
        assert (place / "file").read_text() == "changed"
        subprocess.run(["fusermount3", "-u", place], check=True)
        assert running.process.wait(30) == 0


def test_damage_is_an_error_and_the_rest_is_right(world: World, tmp_path: Path, seed: int) -> None:
    source, place = tmp_path / "source", tmp_path / "m"
    rng = random.Random(seed)
    make_tree(source, rng, files=40, large_bytes=2 * MIB)
    world.good("backup", source)
    packs = [path for key, path in world.objects().items() if "/data/" in key]
    pack = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    wrong = 0
    numbers: set[int | None] = set()
    with mounted(world, place, "latest") as running:
        for name in contents(source):
            real, good = (source / name).read_bytes(), 0
            with (place / name).open("rb", buffering=0) as file:
                for start in range(0, len(real), 4096):
                    try:
                        part = os.pread(file.fileno(), 4096, start)
                    except OSError as exc:
                        numbers.add(exc.errno)
                        wrong += 1
                    else:
                        good += 1
                        assert part == real[start : start + 4096]
            assert good > len(real) // 4096 // 2 or len(real) < 20_000, name
        running.process.send_signal(SIGINT)
        running.process.wait(30)
        told = said(running)
    assert wrong, "the damage hit nothing"
    assert numbers == {errno.EIO}
    assert "warning: " in told, told
    assert told.count("\n") < 20, told
    assert "Traceback" not in told, told


def test_a_lost_part_of_the_tree_costs_no_more_than_it_holds(world: World, tmp_path: Path, seed: int) -> None:
    source, place = tmp_path / "source", tmp_path / "m"
    source.mkdir()
    rng = random.Random(seed)
    for number in range(4000):
        # Names that do not compress: of others, all pages would lie in one segment of the pack, and be lost.
        (source / f"{number:05}-{rng.randbytes(60).hex()}").write_bytes(b"%d" % number)
    age(source)
    world.good("backup", source)
    packs = [path for key, path in world.objects().items() if "/meta/" in key]
    pack = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 1
    pack.write_bytes(data)
    found: list[str] = []
    with mounted(world, place, "latest"):
        with pytest.raises(OSError, match="Input/output") as caught, os.scandir(place) as entries:
            found.extend(entry.name for entry in entries)
        assert caught.value.errno == errno.EIO
        # A segment has parts of three of the four pages at most.
        assert 1000 <= len(found) < 4000
        for name in found[::100]:
            assert (place / name).read_bytes() == b"%d" % int(name[:5])
        missing = sorted(set(names(source)) - set(found))
        with pytest.raises(OSError, match="Input/output"):
            (place / missing[0]).stat()


def test_a_lost_store_is_an_error_until_it_is_back(world: World, tmp_path: Path, seed: int) -> None:
    source, place, away = tmp_path / "source", tmp_path / "m", tmp_path / "away"
    make_tree(source, random.Random(seed))
    world.good("backup", source)
    with mounted(world, place, "latest"):
        world.repository.rename(away)
        with pytest.raises(OSError, match="Input/output"):
            (place / "large").read_bytes()
        away.rename(world.repository)
        assert not differences(image(source), image(place))


def test_what_a_backup_could_not_read_is_an_error(world: World, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    source, place = tmp_path / "source", tmp_path / "m"
    source.mkdir()
    (source / "closed").write_text("secret")
    (source / "open").write_text("seen")
    (source / "closed").chmod(0o600)
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
    done.ended(3)
    with mounted(world, place, "latest"):
        assert (place / "open").read_text() == "seen"
        assert (place / "closed").stat().st_size == 6
        with pytest.raises(OSError, match="Input/output"):
            (place / "closed").read_bytes()


def test_who_cannot_mount_is_told_what_to_do(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hint(*words: object) -> Done:
        return world.run("mount", *words).ended(2)

    (tmp_path / "m").mkdir()
    assert "not a directory" in hint(tmp_path / "none").err
    assert "name a snapshot, or choose" in hint(tmp_path / "m", "latest", "--tag", "a").err
    monkeypatch.setitem(__import__("sys").modules, "mfusepy", None)
    monkeypatch.delitem(__import__("sys").modules, "pvback.fuse.session", raising=False)
    assert "pip install 'pvback[mount]'" in hint(tmp_path / "m").err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_bounded(world: World, tmp_path: Path, seed: int) -> None:
    """A directory of 100,000 entries, and a file of 1 GiB read by several at a time."""
    source, place = tmp_path / "source", tmp_path / "m"
    (source / "many").mkdir(parents=True)
    for number in range(100_000):
        (source / "many" / f"{number:06}-of-the-many-files").touch()
    rng = random.Random(seed)
    with (source / "large").open("wb") as file:
        for _ in range(16):
            file.write(rng.randbytes(64 * MIB))
    world.good("backup", source)
    with mounted(world, place, "latest", "--memory", "152MiB", plan={"do": "peak"}) as running:
        listed = output("ls", "-lR", "many", cwd=place)
        assert listed.count("of-the-many") == 100_000
        readers = [
            threading.Thread(target=output, args=("cmp", source / "large", "large"), kwargs={"cwd": place})
        ]
        readers += [
            threading.Thread(target=output, args=("cp", "large", tmp_path / "copy"), kwargs={"cwd": place})
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        output("cmp", source / "large", tmp_path / "copy", cwd=place)
        running.process.send_signal(SIGINT)
        running.process.wait(30)
        peak = int(running.read_told()) / 1024
    print(f"mount {peak:.0f} MiB")
    assert peak <= 152
