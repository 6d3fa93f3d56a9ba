"""A committed snapshot whose register was lost and came back OPEN is committed by whoever meets it."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pvback.ops.prune import PruneOptions, prune
from pvback.repository.layout import ObjectType
from pvback.repository.registers import Register, RegisterState, read_register
from pvback.repository.repository import RepositoryAccess
from tests.robust.team import Members
from tests.robust.trees import age, differences, image, make_tree
from tests.robust.world import World

PRUNE = ("prune", "--force", "--keep-unused", "0s")


@pytest.fixture
def members(world: World, tmp_path: Path) -> Members:
    return Members(world, tmp_path)


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    top = tmp_path / "source"
    make_tree(top, random.Random(seed))
    age(top)
    return top


def reopen(access: RepositoryAccess) -> Register:
    """Lose the register of the only snapshot, and let its create land again; what it was. By the same key."""
    ((register, _),) = access.catalog().registers
    opened = replace(
        register,
        state=RegisterState.OPEN,
        record=None,
        refs=(),
        runs=(),
        twin=b"",
        sequence=0,
        nonce="1" * 32,
    )
    data = access.objects.seal(ObjectType.REGISTER, name=opened.object_name, data=opened.as_body())
    access.store.put(access.objects.layout.key(opened.object_name), data)
    assert access.catalog().snapshots == []
    return register


def by_prune(members: Members) -> None:
    options = PruneOptions(is_forced=True, unused_seconds=0, fence_seconds=0)
    prune(members.access("maintainer"), options=options)


def by_repair(members: Members) -> None:
    listed = members["maintainer"].good("repair", "snapshots", "--json").json()
    assert "register-open" in str(listed)


def by_state_repair(members: Members) -> None:
    (state,) = members.world.repository.rglob("gc/state")
    state.unlink()
    members["maintainer"].good("repair", "state")


def by_revoking(members: Members) -> None:
    removed = members.world.good("key", "remove", members.principal("writer"), "--json").json()
    assert removed["snapshot_count"] == 1


@pytest.mark.parametrize("commit", [by_prune, by_repair, by_state_repair, by_revoking])
def test_nothing_is_lost(
    members: Members, source: Path, tmp_path: Path, commit: Callable[[Members], None]
) -> None:
    world, wanted = members.world, image(source)
    members["writer"].good("backup", source, "--host", "h")
    before = reopen(members.access("writer"))
    found = world.run("check").ended(20)
    assert "its register says that it is unfinished" in found.text + found.err
    commit(members)
    after = read_register(members.access().objects, before.name).register
    assert replace(after, nonce=before.nonce, runs=before.runs) == before
    world.good(*PRUNE)
    world.good("check", "--read-data")
    world.good("restore", before.snapshot, "--target", tmp_path / "target")
    assert not differences(wanted, image(tmp_path / "target"))


def test_not_after(members: Members, source: Path) -> None:
    """What a revoked writer has made too late is not committed in its place."""
    members["writer"].good("backup", source)
    before = reopen(members.access("writer"))
    done = members.world.good(
        "key", "remove", members.principal("writer"), "--not-after", "2001-01-01", "--json"
    )
    assert done.json()["snapshot_count"] == 0
    assert read_register(members.access().objects, before.name).register.state is RegisterState.FENCED
