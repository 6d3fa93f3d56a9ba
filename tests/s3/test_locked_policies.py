"""The policies of a repository with Object Lock, at a server that holds each role to its own."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support import warm
from tests.support.s3_servers import S3Server, client_of, minio

pytestmark = pytest.mark.timeout(300)
BUCKET = "locked"
ROLES = ("owner", "writer", "restorer", "maintainer")


def run(folder: Path, server: S3Server, role: str, *words: str) -> str:
    """The program with the key of a role, which has to succeed."""
    (folder / role).mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / role),
        "PVBACK_REPOSITORY": f"s3://{BUCKET}/fleet",
        "PVBACK_PASSWORD_FILE": str(folder / f"{role}.password"),
        "PVBACK_S3_ENDPOINT": server.endpoint,
        "PVBACK_S3_OBJECT_LOCK": "30d",
        **server.environment,
    }
    done = warm.run(words, environment)
    assert done.returncode == 0, (role, words, done.returncode, done.stderr)
    return done.stdout


def is_refused(act: Callable[..., Any], **given: object) -> bool:
    """Whether the server says that this is not allowed."""
    try:
        act(Bucket=BUCKET, **given)
    except ClientError as exc:
        # 400 is MinIO's answer about a lock.
        if exc.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 403):
            raise
        return True
    return False


def test_who_locks_and_who_does_not(tmp_path: Path) -> None:
    """Writers and maintainers lock what they write, maintainers for longer, and nobody for less."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(200_000))
    for role in ROLES:
        (tmp_path / f"{role}.password").write_text(f"the password of a {role}\n")
    with minio(tmp_path) as server:
        client_of(server).create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        run(tmp_path, server, "owner", "init")
        for role in ROLES[1:]:
            password = str(tmp_path / f"{role}.password")
            run(tmp_path, server, "owner", "key", "add", "--role", role, "--new-password-file", password)
        words = ("key", "policy", "--bucket-style", "minio", "--role")
        policies = {role: json.loads(run(tmp_path, server, "owner", *words, role)) for role in ROLES}
    with minio(tmp_path, policies=policies) as server:
        run(tmp_path, server.others["writer"], "writer", "backup", str(source))
        run(tmp_path, server.others["maintainer"], "maintainer", "prune", "--force")
        run(
            tmp_path,
            server.others["restorer"],
            "restorer",
            "restore",
            "latest",
            "--target",
            str(tmp_path / "t"),
        )
        assert (tmp_path / "t" / "file").read_bytes() == (source / "file").read_bytes()
        root, now = client_of(server), datetime.now(UTC)
        keys = [one["Key"] for one in root.list_objects_v2(Bucket=BUCKET)["Contents"]]
        for area in ("/data/", "/meta/", "/refs/", "/records/", "/index/"):
            (key, *_) = [key for key in keys if area in key]
            until = root.get_object_retention(Bucket=BUCKET, Key=key)["Retention"]["RetainUntilDate"]
            assert timedelta(days=29) < until - now < timedelta(days=31), key
        (pack, *_) = [key for key in keys if "/data/" in key]
        version = root.head_object(Bucket=BUCKET, Key=pack)["VersionId"]
        clients = {role: client_of(server.others[role]) for role in ROLES}

        def lock(role: str, days: int) -> dict[str, Any]:
            until = {"Mode": "GOVERNANCE", "RetainUntilDate": now + timedelta(days=days)}
            return {"act": clients[role].put_object_retention, "Key": pack, "Retention": until}

        for days, role in enumerate(("writer", "maintainer", "owner"), start=40):
            assert not is_refused(**lock(role, days)), role
        assert is_refused(**lock("restorer", 50))
        for role in ROLES:
            assert is_refused(**lock(role, 10)), f"a {role} locks for less"
            assert is_refused(clients[role].delete_object, Key=pack, VersionId=version), role
            looked = is_refused(clients[role].get_object_retention, Key=pack)
            assert looked == (role in ("writer", "restorer")), role
