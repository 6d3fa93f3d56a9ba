"""`config` and key objects lie in the store twice: what is lost of one is had from the other."""

import json
from pathlib import Path

import pytest

from pvback.reference import DirectoryStore, PrivateKey, Repository, UnsupportedError
from pvback.repository.repair_copies import find_copy_problems, repair_copies
from tests.robust.team import Members
from tests.robust.trees import differences, image
from tests.robust.world import World


@pytest.fixture
def source(world: World, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_bytes(b"content " * 9000)
    world.good("backup", folder)
    return folder


@pytest.fixture(params=["config", "keys"])
def key(request: pytest.FixtureRequest, world: World) -> str:
    if request.param == "config":
        return "config"
    (path,) = (world.repository / "keys").glob("*.json")
    return f"keys/{path.name}"


HARM = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b'"', b"'", 1)),
}


@pytest.mark.parametrize("harm", HARM)
def test_one_of_two_is_enough(world: World, source: Path, tmp_path: Path, key: str, harm: str) -> None:
    first, copy = world.repository / key, world.repository / "copies" / key
    good = first.read_bytes()
    assert copy.read_bytes() == good
    HARM[harm](first)
    done = world.good("restore", "latest", "--target", tmp_path / "target")
    assert "copy" in done.err
    assert "key repair" in done.err
    assert not differences(image(source), image(tmp_path / "target"))
    assert world.key_file is not None
    read = Repository.open(DirectoryStore(world.repository), PrivateKey(world.key_file.read_bytes()))
    assert any("copy" in one for one in read.warnings)
    assert len(read.snapshots()) == 1
    world.good("backup", source)
    found = world.run("check").ended(20)
    assert f"repairable: copy-missing: {key}: it is " in found.text
    assert "1 object mended, 0 lost" in world.good("key", "repair").text
    assert first.read_bytes() == good
    assert world.good("check").err == ""

    HARM[harm](copy)
    assert world.good("snapshots").err == ""
    world.run("check").ended(20)
    world.good("key", "repair")
    assert copy.read_bytes() == good


def test_both_lost(world: World, source: Path, key: str) -> None:
    for path in (world.repository / key, world.repository / "copies" / key):
        path.unlink()
    assert world.run("snapshots").code == (10 if key == "config" else 12)


def test_an_old_copy_is_mended_and_not_believed(world: World, tmp_path: Path, source: Path) -> None:
    members = Members(world, tmp_path)
    place = world.repository / "copies"
    writer = f"keys/{members.principal('writer')}.json"
    old = {name: (place / name).read_bytes() for name in ("config", writer)}
    world.good("key", "rotate")
    new = {name: (place / name).read_bytes() for name in old}
    for name, data in old.items():
        (place / name).write_bytes(data)
    members["writer"].good("backup", source)
    assert {one.key for one in find_copy_problems(members.access())} == {f"copies/{name}" for name in old}
    repair_copies(members.access())
    assert {name: (place / name).read_bytes() for name in old} == new

    # A first one that is older than its copy was rolled back, and that is said.
    (world.repository / "config").write_bytes(old["config"])
    assert members["writer"].run("backup", source).code == 20
    (problem,) = find_copy_problems(members.access())
    assert "rolled back" in problem.what
    repair_copies(members.access())
    members["writer"].good("backup", source)


def test_a_removed_key_does_not_come_back(world: World, tmp_path: Path, source: Path) -> None:
    members = Members(world, tmp_path)
    name = f"keys/{members.principal('restorer')}.json"
    kept = (world.repository / name).read_bytes()
    members["restorer"].good("key", "check")
    world.good("key", "remove", members.principal("restorer"))
    (world.repository / "copies" / name).write_bytes(kept)
    members["restorer"].run("key", "check").ended(12)
    world.good("key", "repair")
    assert not (world.repository / name).exists()


def test_a_stranger_s_copy_is_not_taken(world: World, source: Path, tmp_path: Path) -> None:
    """A config of another owner with a high serial, signed as it should be, beside a good one."""
    other = World(tmp_path / "other", tmp_path / "other-cache", world.key_file)
    other.good("init", env={**other.environment(), "PVBACK_PASSWORD": "x", "PVBACK_KEY_FILE": None})
    good = (world.repository / "config").read_bytes()
    (world.repository / "copies/config").write_bytes((other.repository / "config").read_bytes())
    world.run("check").ended(20)
    world.good("key", "repair")
    assert (world.repository / "copies/config").read_bytes() == good
    (world.repository / "config").write_bytes((other.repository / "config").read_bytes())
    assert world.run("snapshots").code in (12, 20)


def test_what_config_says_of_the_store(world: World) -> None:
    line = json.loads((world.repository / "config").read_bytes().split(b"\n")[0])
    assert line["store"] == {"conditional": True}


def test_a_feature_that_is_not_known_is_refused(world: World) -> None:
    """By every reader, whatever else the config says and whoever has signed it."""
    path = world.repository / "config"
    path.write_bytes(path.read_bytes().replace(b'"features":[]', b'"features":["folded-time"]'))
    (world.repository / "copies/config").write_bytes(path.read_bytes())
    for words in (("snapshots",), ("check",), ("key", "list"), ("key", "repair")):
        done = world.run(*words).ended(13)
        assert "folded-time" in done.err
    assert world.key_file is not None
    with pytest.raises(UnsupportedError, match="folded-time"):
        Repository.open(DirectoryStore(world.repository), PrivateKey(world.key_file.read_bytes()))
