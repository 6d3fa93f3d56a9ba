"""What each role may do, by the command line; and what it cannot do even with the native module at hand."""

import base64
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from pvback import datapath
from pvback.config import Config
from pvback.datapath import DataJob, Listeners
from pvback.errors import DamagedError, PvbackError, WrongKeyError
from pvback.model import LocalAddress
from pvback.repository.gcstate import list_index
from pvback.repository.key_objects import issue_key
from pvback.repository.layout import ObjectType
from pvback.repository.repository import RepositoryAccess, open_repository_access
from tests.robust.trees import age, differences, image, make_tree, mutate
from tests.robust.world import World, new_key

MARKER = b"the marker that no writer may see again " * 20


class Team:
    """A repository with a snapshot, and one key for each role."""

    def __init__(self, world: World, top: Path, seed: int) -> None:
        self.owner, self.source = world, top / "source"
        self.random = random.Random(seed)
        make_tree(self.source, self.random)
        (self.source / "marked").write_bytes(MARKER)
        age(self.source)
        self.members = {}
        for role in ("writer", "restorer", "maintainer", "owner"):
            key = top / f"{role}.key"
            world.good("key", "add", "--role", role, "--label", role, "--recipient", new_key(key))
            self.members[role] = World(world.repository, top / f"{role}-cache", key)
        world.good("backup", self.source)

    def access(self, role: str) -> RepositoryAccess:
        config = Config(repository=LocalAddress(self.owner.repository), key_file=self.members[role].key_file)
        return open_repository_access(config)


@pytest.fixture
def team(world: World, tmp_path: Path, seed: int) -> Team:
    return Team(world, tmp_path, seed)


ALLOWED = {
    # role: (backup, restore and dump, ls, check, key add)
    "owner": (0, 0, 0, 0, 0),
    "writer": (0, 12, 0, 0, 12),
    "restorer": (12, 0, 0, 0, 12),
    "maintainer": (12, 12, 12, 0, 12),
}


@pytest.mark.parametrize("role", ALLOWED)
def test_what_a_role_may_do(team: Team, tmp_path: Path, role: str) -> None:
    member = team.members[role]
    backup, restore, ls, check, key = ALLOWED[role]
    found = {
        "backup": member.run("backup", team.source),
        "restore": member.run("restore", "latest", "--target", tmp_path / "target"),
        "dump": member.run("dump", "latest:marked"),
        "ls": member.run("ls", "latest"),
        "check": member.run("check"),
        "key": member.run("key", "add", "--recipient", "5e" * 32),
        "key remove": member.run(
            "key", "remove", team.access("maintainer" if role == "writer" else "writer").keyring.principal
        ),
        "snapshots": member.run("snapshots", "--json"),
    }
    for done in found.values():
        assert "Traceback" not in done.err
        if done.code:
            assert done.err.startswith("error: "), done.err
    wanted = {
        "backup": backup,
        "restore": restore,
        "dump": restore,
        "ls": ls,
        "check": check,
        "key": key,
        "key remove": key,
        "snapshots": 0,
    }
    assert {name: done.code for name, done in found.items()} == wanted, found
    if restore == 0:
        assert not differences(image(team.source), image(tmp_path / "target"))
        assert found["dump"].out == MARKER
    else:
        files = [path for path in (tmp_path / "target").rglob("*") if path.is_file()]
        written = [path for path in files if path.name != ".pvback-restore"]
        # Zeros and holes are told by the tree, which a writer may read.
        assert not [path for path in written if path.read_bytes().strip(b"\0")], "content was written"


def test_a_writer_backs_up_incrementally(team: Team) -> None:
    writer = team.members["writer"]
    mutate(team.source, team.random)
    writer.good("backup", team.source)
    again = writer.good("backup", team.source, "--force", "--json").summary()
    assert again["parent"], "the writer did not find its parent"
    assert again["stats"]["chunk_count"] > again["stats"]["chunk_new_count"]
    team.owner.good("check", "--read-data")


def options(access: RepositoryAccess, **more: object) -> dict[str, object]:
    (snapshot,) = access.catalog().snapshots
    assert snapshot.details is not None
    view = list_index(access.objects, access.catalog().state)
    return {
        **access.job_options(view.as_options()),
        "source_id": snapshot.source,
        "root": snapshot.details.root.as_json(),
        **more,
    }


def outputs(access: RepositoryAccess, verb: str, **more: object) -> tuple[list[bytes], PvbackError | None]:
    """What a job says, and how it fails, with no check of ours before it."""
    heard: list[bytes] = []
    job = DataJob(verb, access.keyring, options=options(access, **more), store=access.store)
    try:
        job.run(Listeners(on_output=lambda _, data: heard.append(bytes(data))))
    except PvbackError as exc:
        return heard, exc
    return heard, None


def test_a_writer_opens_no_content(team: Team, tmp_path: Path) -> None:
    access = team.access("writer")
    marked = base64.b64encode(b"marked").decode()
    target = tmp_path / "stolen"
    target.mkdir()
    jobs: list[tuple[str, dict[str, Any]]] = [
        ("dump", {"path_b64": marked}),
        (
            "restore",
            {
                "subtree_b64": "",
                "target_b64": base64.b64encode(os.fsencode(target)).decode(),
                "includes": [],
                "excludes": [],
                "delete": False,
                "overwrite": "always",
                "dry_run": False,
                "verify": False,
                "journal": False,
            },
        ),
        ("list", {"subtree_b64": "", "recursive": True}),
        ("find", {"patterns": ["*"], "snapshot": "0" * 32}),
    ]
    for verb, more in jobs:
        heard, error = outputs(access, verb, **more)
        assert MARKER[:30] not in b"".join(heard)
        if verb == "dump":
            assert isinstance(error, WrongKeyError), error
            assert not heard
    for path in target.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert not path.read_bytes().strip(b"\0"), f"{path} has content"
    # The same jobs with the owner's keys do find it: the marker is where it was looked for.
    heard, error = outputs(team.access("owner"), "dump", path_b64=marked)
    assert error is None
    assert b"".join(heard) == MARKER


def test_no_role_signs_what_is_not_its_own(team: Team) -> None:
    """What is sealed with too small a role is refused at once, or by whoever opens it."""
    owner = team.access("owner")
    state = {"v": 1, "nonce": "00" * 16, "n": 9, "phase": "IDLE", "floor": 9}
    lists: dict[str, list[str]] = {name: [] for name in ("condemned", "known", "dead", "base", "roster")}
    gc_state = json.dumps({**state, **lists}).encode()
    for role in ("writer", "restorer"):
        keyring = team.access(role).keyring
        refused(owner, keyring, ObjectType.GC_STATE, "gc/state", gc_state)
    (snapshot,) = owner.catalog().snapshots
    name = f"snapshots/{1:016x}-{snapshot.id}"
    sealed = owner.store.read(owner.objects.layout.key(name)).data
    body = json.loads(owner.keyring.open_json(owner.objects.scope, ObjectType.REGISTER, name, sealed))
    for change in ("FORGOTTEN", "DEAD", "FENCED"):
        forged = json.dumps({**body, "state": change}).encode()
        for role in ("writer", "restorer"):
            refused(owner, team.access(role).keyring, ObjectType.REGISTER, name, forged)
    # A maintainer brings back what was forgotten; a session in its name it does not begin.
    for role, said in (("restorer", "COMMITTED"), ("restorer", "OPEN"), ("maintainer", "OPEN")):
        forged = json.dumps({**body, "state": said}).encode()
        refused(owner, team.access(role).keyring, ObjectType.REGISTER, name, forged)


def refused(
    owner: RepositoryAccess, keyring: "datapath.Keyring", kind: ObjectType, name: str, body: bytes
) -> None:
    scope = owner.objects.scope
    try:
        sealed = keyring.seal_json(scope, kind, name, body)
    except WrongKeyError:
        return
    with pytest.raises((DamagedError, WrongKeyError)):
        owner.keyring.open_json(scope, kind, name, sealed)


def test_who_may_issue_keys(team: Team) -> None:
    scope = team.access("owner").objects.scope
    for role in ("writer", "restorer", "maintainer"):
        keyring = team.access(role).keyring
        for wanted in ("owner", "restorer", "writer", "maintainer"):
            scopes = [] if wanted == "owner" else [{"scope": scope, "sources": None}]
            with pytest.raises(WrongKeyError):
                issue_key(keyring, {"role": wanted, "label": "x", "scopes": scopes})


def test_a_maintainer_reads_no_names(team: Team) -> None:
    access = team.access("maintainer")
    owner = team.access("owner")
    (snapshot,) = owner.catalog().snapshots
    assert snapshot.details is not None
    (seen,) = access.catalog().snapshots
    assert seen.details is None
    used = {
        **access.job_options(list_index(access.objects, access.catalog().state).as_options()),
        "source_id": snapshot.source,
        "root": snapshot.details.root.as_json(),
        "subtree_b64": "",
        "recursive": True,
    }
    heard: list[bytes] = []
    job = DataJob("list", access.keyring, options=used, store=access.store)
    with pytest.raises(WrongKeyError):
        job.run(Listeners(on_output=lambda _, data: heard.append(bytes(data))))
    assert not heard
