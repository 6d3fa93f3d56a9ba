"""The rendered policies, attached to credentials at a server that evaluates them: what each role can do.

MinIO evaluates actions, resources and `s3:prefix`; it knows neither `s3:if-none-match` nor
`s3:ObjectCreationOperation`, which only a writer's policy at AWS has. So both styles of all others run there,
and of a writer that for services without those conditions; the one for AWS is held against what a writer
really sends: see `test_what_a_writer_sends_fits_its_policy_at_aws`. moto evaluates neither resources nor
conditions, and says nothing here.
"""

import contextlib
import fnmatch
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from pvback.cli import main as program
from pvback.storage.s3 import S3Door
from tests.support import warm
from tests.support.fault_proxy import Fault, Rule, fault_proxy
from tests.support.s3_servers import BUCKET, S3Server, client_of, minio

PREFIX = "fleet/one"
ROLES = ("owner", "writer", "restorer", "maintainer")
pytestmark = pytest.mark.timeout(300)


@dataclass
class World:
    """A repository with one snapshot on a server that holds each role to its policy."""

    folder: Path
    server: S3Server
    scope: str
    clients: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def run(self, role: str, *words: str, code: int = 0, key: str | None = None) -> str:
        """The program with the credentials of a role and its key, or another one's."""
        return run(self.folder, self.server.others[role], key or role, *words, code=code)

    def everything(self) -> dict[str, str]:
        """Key -> ETag of all objects of the repository."""
        pages = client_of(self.server).get_paginator("list_objects_v2")
        found = (page.get("Contents", ()) for page in pages.paginate(Bucket=BUCKET, Prefix=f"{PREFIX}/"))
        return {one["Key"]: one["ETag"] for objects in found for one in objects}

    def keys(self, area: str) -> list[str]:
        """Objects of the scope, or of the repository where there is no such area."""
        prefix = f"{PREFIX}/s/{self.scope}/{area}/" if area else f"{PREFIX}/"
        answer = client_of(self.server).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for one in answer.get("Contents", [])]

    def can(self, role: str, action: str, key: str) -> bool:
        """Whether the server lets the credentials of a role do that; any refusal but 403 is a failure."""
        client = self.clients.setdefault(role, None) or client_of(self.server.others[role])
        self.clients[role] = client
        body = b"spoiled"
        acts = {
            "get": lambda: client.get_object(Bucket=BUCKET, Key=key),
            "put": lambda: client.put_object(Bucket=BUCKET, Key=key, Body=body),
            "create": lambda: client.put_object(Bucket=BUCKET, Key=key, Body=body, IfNoneMatch="*"),
            "delete": lambda: client.delete_object(Bucket=BUCKET, Key=key),
            "parts": lambda: client.create_multipart_upload(Bucket=BUCKET, Key=key),
        }
        try:
            acts[action]()
        except ClientError as exc:
            if exc.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
                raise
            return False
        return True


def environment_of(folder: Path, server: S3Server, role: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / role),
        "PVBACK_REPOSITORY": f"s3://{BUCKET}/{PREFIX}",
        "PVBACK_PASSWORD_FILE": str(folder / f"{role}.password"),
        "PVBACK_S3_ENDPOINT": server.endpoint,
        **server.environment,
    }


def run(folder: Path, server: S3Server, role: str, *words: str, code: int = 0) -> str:
    """What it prints, or its errors where they are what is wanted."""
    (folder / role).mkdir(exist_ok=True)
    done = warm.run(words, environment_of(folder, server, role))
    assert done.returncode == code, (role, words, done.returncode, done.stderr)
    return done.stderr if code else done.stdout


def write_tree(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"file-{seed}").write_bytes(bytes((seed + index * index) % 251 for index in range(200_000)))


def copy_of(tree: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in tree.iterdir()}


@pytest.fixture(scope="module", params=["minio", "aws"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One of each style for all tests, which leave it whole: to make it takes longer than to use it."""
    styles = dict.fromkeys(ROLES, str(request.param)) | {"writer": "minio"}
    tmp_path = tmp_path_factory.mktemp("policies")
    for role in ROLES:
        (tmp_path / f"{role}.password").write_text(f"the password of a {role}\n")
    write_tree(tmp_path / "source", 1)
    with minio(tmp_path) as server:
        run(tmp_path, server, "owner", "init")
        for role in ROLES[1:]:
            password = str(tmp_path / f"{role}.password")
            run(tmp_path, server, "owner", "key", "add", "--role", role, "--new-password-file", password)
        run(tmp_path, server, "owner", "backup", str(tmp_path / "source"))
        policies = {
            role: json.loads(
                run(
                    tmp_path, server, "owner", "key", "policy", "--role", role, "--bucket-style", styles[role]
                )
            )
            for role in ROLES
        }
    resources = [name for one in policies["restorer"]["Statement"] for name in one["Resource"]]
    scope = next(name.split("/s/")[1].split("/")[0] for name in resources if "/s/" in name)
    with minio(tmp_path, policies=policies) as server:
        client_of(server).put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        yield World(tmp_path, server, scope)


def test_each_role_does_its_work(world: World) -> None:
    write_tree(world.source, 2)
    old = json.loads(world.run("restorer", "snapshots", "--json"))
    world.run("writer", "backup", str(world.source))
    found = json.loads(world.run("restorer", "snapshots", "--json"))
    assert len(found) == len(old) + 1
    target = world.folder / "target"
    world.run("restorer", "restore", "latest", "--target", str(target))
    assert copy_of(target) == copy_of(world.source)
    before = set(world.keys("index"))
    for _ in range(2):
        world.run("maintainer", "forget", old[0]["id"])
        assert len(json.loads(world.run("restorer", "snapshots", "--json"))) == len(old)
        world.run("maintainer", "undelete", old[0]["id"])
        assert len(json.loads(world.run("restorer", "snapshots", "--json"))) == len(old) + 1
    world.run("maintainer", "forget", old[0]["id"])
    world.run("maintainer", "prune", "--grace", "0s", "--force")
    assert not before & set(world.keys("index")), "the runs were not merged"
    world.run("owner", "check", "--read-data")
    assert len(json.loads(world.run("restorer", "snapshots", "--json"))) == len(old)
    world.run("owner", "key", "add", "--role", "restorer", "--new-password-file",
              str(world.folder / "restorer.password"))  # fmt: skip


def test_a_writer_that_does_not_hear_that_its_pack_is_stored(world: World) -> None:
    """It may not read the pack to see that it is the one that it has sent."""
    write_tree(world.source, 7)
    lost = Rule(fault=Fault.LOSE, methods=("PUT",), path="/data/")
    with fault_proxy(world.server.others["writer"]) as proxy:
        proxy.obey(lost)
        run(world.folder, proxy.server, "writer", "backup", str(world.source))
    assert lost.hit_count == 1
    world.run("owner", "check", "--read-data")


def test_what_each_role_may_not(world: World) -> None:
    one_of = {area: world.keys(area)[0] for area in ("data", "meta", "index", "refs", "records", "snapshots")}
    one_of["gc"] = f"{PREFIX}/s/{world.scope}/gc/state"
    one_of["keys"] = next(key for key in world.keys("") if f"{PREFIX}/keys/" in key)
    one_of["config"] = f"{PREFIX}/config"
    one_of["copies"] = f"{PREFIX}/copies/config"
    everything = set(one_of)
    scoped = everything - {"keys", "config", "copies"}

    def where(role: str, action: str) -> set[str]:
        # What is written or deleted is beside the repository's own objects, under the same resources.
        suffix = "" if action == "get" else f"-{role}-{action}"
        return {area for area, key in one_of.items() if world.can(role, action, key + suffix)}

    created = {"data", "meta", "index", "refs", "records"}
    assert where("writer", "get") == everything - {"data"}
    assert where("writer", "delete") == set()
    assert where("writer", "create") == created | {"snapshots"}
    assert where("writer", "parts") >= created
    assert not where("writer", "parts") & {"gc", "keys", "config", "copies"}
    assert where("restorer", "get") == everything
    for action in ("put", "create", "parts", "delete"):
        assert where("restorer", action) == set(), action
        assert where("maintainer", action) == scoped, action
        assert where("owner", action) == everything, action
    for action in ("put", "delete"):
        for role in ("writer", "restorer", "maintainer"):
            assert not [area for area in everything - scoped if world.can(role, action, one_of[area])], role
        assert not world.can("writer", action, one_of["gc"])
    for role in ROLES:
        for action in ("put", "delete"):
            assert not world.can(role, action, "fleet/two/config")
        assert not world.can(role, "get", f"{PREFIX}-else/config")


# Both styles say the same but for what a writer creates and for versions, and programs take their time.
AT_AWS = pytest.mark.parametrize("world", ["aws"], indirect=True)

READING = [
    ("snapshots",),
    ("stats",),
    ("find", "file-1"),
    ("check", "--level", "list"),
    ("check",),
    ("key", "list"),
    ("key", "check"),
    ("prune", "--dry-run"),
    ("repair", "state", "--dry-run"),
    ("repair", "snapshots", "--dry-run"),
]
READING_DATA = [
    ("check", "--level", "index"),
    ("check", "--read-data"),
    ("repair", "index", "--dry-run"),
    ("repair", "packs", "--dry-run"),
]
READING_TREES = [("ls", "latest"), ("diff", "latest", "latest")]


@AT_AWS
@pytest.mark.parametrize("role", ROLES)
def test_the_policy_of_a_role_is_enough_for_what_its_key_opens(world: World, role: str) -> None:
    before = world.everything()
    for words in READING:
        world.run(role, *words)
    for words in READING_DATA:
        errors = world.run(role, *words, code=30 if role == "writer" else 0)
        assert ("/data/" in errors and "access denied" in errors) == (role == "writer"), errors
    for words in READING_TREES:
        world.run(role, *words, code=12 if role == "maintainer" else 0)
    assert world.everything() == before


def test_what_changes_a_repository_works_for_who_may(world: World) -> None:
    password = str(world.folder / "writer.password")
    world.run("maintainer", "repair", "snapshots")
    world.run("owner", "repair", "snapshots")
    world.run("owner", "backup", str(world.source))
    newest = json.loads(world.run("owner", "snapshots", "--json"))[-1]["id"]
    world.run("owner", "forget", newest)
    world.run("owner", "prune", "--grace", "0s", "--force")
    world.run("owner", "key", "repair")
    old = {one["principal"] for one in json.loads(world.run("owner", "key", "list", "--json"))}
    world.run("owner", "key", "add", "--role", "writer", "--new-password-file", password)
    (new,) = {one["principal"] for one in json.loads(world.run("owner", "key", "list", "--json"))} - old
    world.run("owner", "key", "remove", new)
    world.run("owner", "check", "--read-data")


# With the key of an owner, which keeps nobody from anything.
REFUSED: dict[str, list[tuple[str, ...]]] = {
    "writer": [("prune", "--force"), ("restore", "latest", "--target", "{target}")],
    "restorer": [
        ("backup", "{source}"),
        ("forget", "{snapshot}", "--force"),
        ("prune", "--force"),
    ],
    "maintainer": [],
}
KEYS_REFUSED = [
    ("key", "add", "--role", "writer", "--new-password-file", "{password}"),
    ("key", "rotate", "--level", "epoch"),
    ("key", "remove", "{key}"),
]


@AT_AWS
@pytest.mark.parametrize("role", REFUSED)
def test_what_a_role_may_not_is_refused_by_the_server(world: World, role: str, tmp_path: Path) -> None:
    keys = json.loads(world.run("owner", "key", "list", "--json"))
    places = {
        "target": str(tmp_path / "target"),
        "source": str(world.source),
        "password": str(world.folder / "writer.password"),
        "snapshot": json.loads(world.run("owner", "snapshots", "--json"))[0]["id"],
        "key": next(one["principal"] for one in keys if one["role"] == "restorer"),
    }
    before = world.everything()
    for words in REFUSED[role] + KEYS_REFUSED:
        errors = world.run(role, *(word.format(**places) for word in words), key="owner", code=30)
        assert "access denied" in errors, words
        assert "need more rights on this bucket" in errors, words
        assert world.everything() == before, words
    # Its own key, too, is changed with credentials of an owner only, and opens as before.
    own = str(world.folder / f"{role}.password")
    world.run(role, "key", "rotate", "--level", "password", "--new-password-file", own, code=30)
    assert world.everything() == before
    world.run(role, "snapshots")
    world.run("owner", "check", "--read-data")


@AT_AWS
@pytest.mark.parametrize("role", ROLES)
def test_beside_its_repository_nobody_makes_or_reads_one(world: World, role: str) -> None:
    before = world.everything()
    for words in (("init",), ("snapshots",)):
        errors = world.run(role, "--repository", f"s3://{BUCKET}/fleet/two", *words, code=30)
        assert "access denied" in errors
    assert world.everything() == before
    others = client_of(world.server).list_objects_v2(Bucket=BUCKET, Prefix="fleet/two/")
    assert others["KeyCount"] == 0


@pytest.mark.parametrize("world", ["minio"], indirect=True)
def test_what_a_writer_overwrites_without_the_condition_is_in_the_versions(world: World) -> None:
    """Where the service does not know the condition, versions have to help: nothing is lost for good."""
    pack = world.keys("data")[0]
    client: Any = client_of(world.server)
    original = client.get_object(Bucket=BUCKET, Key=pack)["Body"].read()
    assert world.can("writer", "put", pack)
    versions = client.list_object_versions(Bucket=BUCKET, Prefix=pack)["Versions"]
    kept = [one["VersionId"] for one in versions if not one["IsLatest"]]
    assert client.get_object(Bucket=BUCKET, Key=pack, VersionId=kept[0])["Body"].read() == original
    for role in ROLES:
        with pytest.raises(ClientError, match="AccessDenied"):
            client_of(world.server.others[role]).delete_object(Bucket=BUCKET, Key=pack, VersionId=kept[0])
        doomed = {"Objects": [{"Key": pack, "VersionId": kept[0]}]}
        with contextlib.suppress(ClientError):
            answer = client_of(world.server.others[role]).delete_objects(Bucket=BUCKET, Delete=doomed)
            assert [one["Code"] for one in answer["Errors"]] == ["AccessDenied"], answer
    assert client.get_object(Bucket=BUCKET, Key=pack, VersionId=kept[0])["Body"].read() == original
    client.put_object(Bucket=BUCKET, Key=pack, Body=original)


@pytest.mark.parametrize("world", ["minio"], indirect=True)
def test_what_a_writer_sends_fits_its_policy_at_aws(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request of a backup is allowed by the policy with AWS's conditions, evaluated here."""
    words = ("key", "policy", "--role", "writer", "--bucket-style", "aws")
    policy = json.loads(world.run("owner", *words))
    sent: list[tuple[str, str, dict[str, list[str]]]] = []
    connect = S3Door._connect

    def listening(door: S3Door) -> Any:
        session, client = connect(door)
        client.meta.events.register(
            "before-call.s3", lambda model, params, **_: sent.append(seen(model, params))
        )
        return session, client

    monkeypatch.setattr(S3Door, "_connect", listening)
    for name, value in environment_of(world.folder, world.server.others["writer"], "writer").items():
        monkeypatch.setenv(name, value)
    # Does not compress, so that a pack is big enough for parts.
    (world.source / "random").write_bytes(secrets.token_bytes(300_000))
    options = ["--s3-option", "multipart_bytes=100000"]
    done = CliRunner().invoke(program, ["backup", str(world.source), *options], prog_name="pvback")
    assert done.exit_code == 0, done.output
    puts = [key for action, key, _ in sent if action == "s3:PutObject"]
    assert {key.split("/")[4] for key in puts} >= {"data", "meta", "index", "refs", "records", "snapshots"}
    assert any("s3:ObjectCreationOperation" in values for _, _, values in sent), "nothing went up in parts"
    for action, key, values in sent:
        assert is_allowed(policy, action, key, values), (action, key, values)
    pack = next(key for key in puts if "/data/" in key)
    assert not is_allowed(policy, "s3:PutObject", pack, {}), "a pack could be overwritten"


ACTIONS = {
    "PutObject": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}


def seen(model: Any, params: dict[str, Any]) -> tuple[str, str, dict[str, list[str]]]:
    """(action, key, condition keys) as AWS documents them for a request."""
    values: dict[str, list[str]] = {}
    if "If-None-Match" in params["headers"]:
        values["s3:if-none-match"] = [str(params["headers"]["If-None-Match"])]
    if model.name in ("UploadPart", "CreateMultipartUpload"):
        values["s3:ObjectCreationOperation"] = ["false"]
    if "prefix" in params["query_string"]:
        values["s3:prefix"] = [str(params["query_string"]["prefix"])]
    return ACTIONS[model.name], params["url_path"].partition("?")[0].strip("/"), values


def is_allowed(policy: dict[str, Any], action: str, key: str, values: dict[str, list[str]]) -> bool:
    def holds(conditions: dict[str, dict[str, str | list[str]]]) -> bool:
        for operator, wanted in conditions.items():
            assert operator in ("StringEquals", "Bool", "StringLike"), operator
            for name, patterns in wanted.items():
                listed = [patterns] if isinstance(patterns, str) else patterns
                found = values.get(name, [])
                if not any(
                    fnmatch.fnmatchcase(one, pattern) for one in found for pattern in map(plain, listed)
                ):
                    return False
        return True

    def plain(pattern: str) -> str:
        return "[*]" if pattern == "*" else pattern

    arn = f"arn:aws:s3:::{BUCKET}/{key}" if key else f"arn:aws:s3:::{BUCKET}"
    return any(
        action in one["Action"]
        and any(fnmatch.fnmatchcase(arn, resource) for resource in one["Resource"])
        and holds(one.get("Condition", {}))
        for one in policy["Statement"]
    )
