"""Bulk work on real backups, by an owner and by a maintainer, read by the reference reader."""

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from pvback import _native as native
from pvback.errors import DamagedError
from pvback.reference import verify
from pvback.reference.pages import DATA, FILE
from pvback.reference.scope import Scope
from pvback.reference.snapshots import Named
from pvback.repository.key_objects import issue_key
from tests.support.native_repository import LEAST_ARGON2, NativeRepository

Json = dict[str, Any]


@pytest.fixture
def made(tmp_path: Path) -> NativeRepository:
    """Three backups of files that change; small chunks."""
    source = tmp_path / "source"
    source.mkdir()
    made = NativeRepository()
    for round_ in range(3):
        for number in range(8):
            if round_ == 0 or number % 3 == round_:
                (source / f"file {number}").write_bytes(os.urandom(40_000))
        made.backup(source)
    return made


@pytest.fixture(params=["owner", "maintainer"])
def keyring(made: NativeRepository, request: pytest.FixtureRequest) -> native.Keyring:
    """Who does the work."""
    if request.param == "owner":
        return made.keyring
    scopes = [{"scope": made.scope, "sources": None}]
    name, data = issue_key(made.keyring, {"role": "maintainer", "label": "m", "scopes": scopes})
    data = made.keyring.add_slot(data, "passphrase", b"blind", LEAST_ARGON2)
    made.store.create(name, data)
    return made.unlock("blind")


def refs_of(made: NativeRepository) -> list[list[Json]]:
    """The parts of the reference set of each snapshot, in the order of their ids."""
    scope = made.reference().scope
    registers = [scope.register(name)[0] for name in scope.register_names()]
    return [[{"name": one.name, "hash": one.hash.hex()} for one in register.refs] for register in registers]


def named(parts: list[Json]) -> list[Named]:
    return [Named(part["name"], bytes.fromhex(part["hash"])) for part in parts]


def needed_by(scope: Scope, parts: list[Json]) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    for part in named(parts):
        for one in scope.refs(part):
            counts[one] = counts.get(one, 0) + 1
    return counts


def findings(made: NativeRepository) -> list[str]:
    """What is wrong, besides that the runs of sessions are gone, which others have replaced."""
    found = verify(made.reference()).findings
    return [one for one in found if not re.search(r"its run `.*` is not there", one)]


def test_marks_are_what_the_reference_counts(made: NativeRepository, keyring: native.Keyring) -> None:
    sets = refs_of(made)
    every = [part for parts in sets for part in parts]
    scope = made.reference().scope
    first, _ = made.job("count", {"add": every, "gen": 1}, keyring)
    assert scope.marks(named(first["parts"])) == needed_by(scope, every)
    second, _ = made.job("count", {"marks": first, "remove": sets[0], "gen": 2}, keyring)
    left = [part for parts in sets[1:] for part in parts]
    assert scope.marks(named(second["parts"])) == needed_by(scope, left)
    assert second["ids"] == len(needed_by(scope, left))
    with pytest.raises(DamagedError):
        made.job("count", {"marks": second, "remove": [*sets[0], *sets[0], *every], "gen": 2}, keyring)


def test_merged_runs_take_the_place_of_the_others(made: NativeRepository, keyring: native.Keyring) -> None:
    before = made.reference().scope.index()
    entries = {(pack, kind) for pack, kind in before.packs()}
    old = [run["name"] for run in made.runs()]
    result, _ = made.job("merge", {"gen": 1}, keyring)
    for name in old:
        del made.store.objects[f"s/{made.scope}/index/{name}"]
    assert [run["name"] for run in made.runs()] == result["runs"]
    assert {(pack, kind) for pack, kind in made.reference().scope.index().packs()} == entries
    assert findings(made) == []


def test_rebuilt_runs_take_the_place_of_lost_ones(made: NativeRepository, keyring: native.Keyring) -> None:
    prefix = f"s/{made.scope}/"
    keys = made.store.list(prefix + "data/") + made.store.list(prefix + "meta/")
    listed = [{"name": key.removeprefix(prefix), "size": len(made.store.get(key))} for key in keys]
    for run in made.runs():
        del made.store.objects[f"{prefix}index/{run['name']}"]
    gone = {"name": f"data/ab/{'ab' * 16}", "size": 5000}
    result, _ = made.job("rebuild", {"packs": [*listed, gone], "gen": 1}, keyring)
    assert list(result["problems"]) == ["ab" * 16]
    assert findings(made) == []
    # A damaged directory is a problem of its pack, and of no other.
    data = bytearray(made.store.get(keys[0]))
    data[-20] ^= 1
    made.store.objects[keys[0]] = bytes(data)
    result, _ = made.job("rebuild", {"packs": listed, "gen": 1}, keyring)
    assert list(result["problems"]) == [keys[0].rpartition("/")[2]]


def test_repacked_blobs_take_the_place_of_their_packs(
    made: NativeRepository, keyring: native.Keyring
) -> None:
    every = [part for parts in refs_of(made) for part in parts]
    marks, _ = made.job("count", {"add": every, "gen": 1}, keyring)
    result, outputs = made.job("usage", {"marks": marks}, keyring)
    rows = [json.loads(line) for _, data in outputs for line in data.splitlines()]
    assert sum(row["used"] for row in rows) == marks["ids"]
    assert result["missing"] == 0
    assert result["needed"] == marks["ids"]
    packs = made.reference().scope.pack_names()
    names = [name.hex() for _, name in packs]
    random.Random(3).shuffle(names)
    options = {"packs": names, "marks": marks, "gen": 1, "pack_bytes": 200_000}
    moved, _ = made.job("repack", options, keyring)
    assert moved["moved"] == marks["ids"]
    assert len(moved["packs"]) > 2
    for kind, name in packs:
        del made.store.objects[
            f"s/{made.scope}/{'data' if kind == 1 else 'meta'}/{name.hex()[:2]}/{name.hex()}"
        ]
    for run in made.runs():
        if run["name"] not in moved["runs"]:
            del made.store.objects[f"s/{made.scope}/index/{run['name']}"]
    report = verify(made.reference())
    assert findings(made) == []
    assert report.chunks + report.pages == marks["ids"]


def positions(made: NativeRepository, packs: list[str]) -> list[tuple[int, int]]:
    """Where the newest tree's chunks lie, in its order: which of these packs, and offset."""
    repository = made.reference()
    newest = max(repository.snapshots(), key=lambda one: one.head.seq)
    tree, index = repository.tree(newest), repository.scope.index()
    nodes = [node for node in repository.walk(newest) if node.kind == FILE]
    chunks = [one.chunk for node in nodes for one in tree.extents(node) if one.kind == DATA]
    places = [place for one in chunks for place in index.lookup(one)]
    return [(packs.index(one.pack.hex()), one.offset) for one in places]


@pytest.mark.parametrize("memory", [64 << 20, 2 << 20])
def test_repacked_blobs_lie_as_the_newest_tree_wants_them(
    made: NativeRepository, keyring: native.Keyring, memory: int
) -> None:
    """Windows are as long as the memory allows: one, or some of 128 KiB, read a few requests at a time."""
    sets = refs_of(made)
    repository = made.reference()
    newest = max(repository.snapshots(), key=lambda one: one.head.seq)
    order = [{"name": one.name, "hash": one.hash.hex()} for one in newest.register.refs]
    every = [part for parts in sets for part in parts]
    before = made.reference().scope.pack_names()
    names = [name.hex() for _, name in before]
    options = {"packs": names, "refs": every, "order": order, "gen": 1, "pack_bytes": 200_000,
               "memory_bytes": memory, "gets": 3}  # fmt: skip
    moved, _ = made.job("repack", options, keyring)
    for run in made.runs():
        if run["name"] not in moved["runs"]:
            del made.store.objects[f"s/{made.scope}/index/{run['name']}"]
    assert len(moved["packs"]) > 2
    found = positions(made, moved["packs"])
    assert len(found) > 60
    assert found == sorted(found)
    assert findings(made) == []


def test_a_damaged_pack_is_not_copied_from(made: NativeRepository, keyring: native.Keyring) -> None:
    every = [part for parts in refs_of(made) for part in parts]
    prefix = f"s/{made.scope}/data/"
    key = made.store.list(prefix)[0]
    options = {"packs": [key.rpartition("/")[2]], "refs": every, "gen": 1, "pack_bytes": 1 << 20}
    whole = made.store.get(key)
    damaged = bytearray(whole)
    damaged[500] ^= 1
    for bad in (bytes(damaged), whole[:-100], None):
        if bad is None:
            del made.store.objects[key]
        else:
            made.store.objects[key] = bad
        with pytest.raises(DamagedError) as raised:
            made.job("repack", options, keyring)
        assert raised.value.key == key
