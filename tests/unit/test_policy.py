"""The S3 policies of roles, as they are rendered."""

import json
from pathlib import Path
from typing import get_args

import pytest

from pvback.errors import UsageError
from pvback.model import S3Address
from pvback.repository.layout import Area
from pvback.repository.policy import BUCKET_STYLES, BucketStyle, render_policy

SCOPE = "5c" * 16
ADDRESS = S3Address("backups", "cluster/one", None)
GOLDEN = Path(__file__).parent / "policies"


@pytest.mark.parametrize("style", BUCKET_STYLES)
@pytest.mark.parametrize("role", ["owner", "writer", "restorer", "maintainer"])
def test_golden(role: str, style: BucketStyle) -> None:
    rendered = render_policy(role, ADDRESS, scope=SCOPE, style=style)
    path = GOLDEN / f"{role}-{style}.json"
    assert json.loads(path.read_text()) == rendered, "compare by eye, then write the new one"


def allowed(role: str, action: str, style: BucketStyle = "aws", *, unconditional: bool = False) -> list[str]:
    """Resources below the repository's prefix that an action is allowed on."""
    found = []
    for one in render_policy(role, ADDRESS, scope=SCOPE, style=style)["Statement"]:
        assert one["Effect"] == "Allow"
        if action in one["Action"] and not (unconditional and "Condition" in one):
            found += [name.removeprefix("arn:aws:s3:::backups/cluster/one/") for name in one["Resource"]]
    return sorted(set(found))


def test_a_writer_deletes_nothing_and_reads_no_data() -> None:
    scope = f"s/{SCOPE}"
    for style in get_args(BucketStyle):
        assert allowed("writer", "s3:DeleteObject", style) == []
        readable = allowed("writer", "s3:GetObject", style)
        assert f"{scope}/{Area.DATA}/*" not in readable
        assert not [name for name in readable if name in ("*", f"{scope}/*", "s/*")]
        written = allowed("writer", "s3:PutObject", style)
        assert not [name for name in written if not name.startswith(f"{scope}/")]
        assert f"{scope}/{Area.GC}/*" not in written
    assert allowed("writer", "s3:PutObject", unconditional=True) == [f"{scope}/snapshots/*"]


def test_others() -> None:
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert allowed("restorer", action) == []
        assert allowed("maintainer", action) == [f"s/{SCOPE}/*"]
        assert allowed("owner", action) == ["*"]
    assert f"s/{SCOPE}/*" in allowed("restorer", "s3:GetObject")


def test_with_locks() -> None:
    def rights(role: str, action: str) -> list[str]:
        policy = render_policy(role, ADDRESS, scope=SCOPE, style="aws", is_locking=True)
        plain = render_policy(role, ADDRESS, scope=SCOPE, style="aws")
        assert policy["Statement"][: len(plain["Statement"])] == plain["Statement"]
        found = [name for one in policy["Statement"] if action in one["Action"] for name in one["Resource"]]
        return sorted(name.removeprefix("arn:aws:s3:::backups/cluster/one/") for name in found)

    created = sorted(f"s/{SCOPE}/{area}/*" for area in ("data", "meta", "index", "refs", "records"))
    assert rights("writer", "s3:PutObjectRetention") == created
    assert rights("writer", "s3:GetObjectRetention") == []
    assert rights("restorer", "s3:PutObjectRetention") == []
    everything = sorted(["config", "keys/*", "copies/*", f"s/{SCOPE}/*"])
    assert rights("maintainer", "s3:PutObjectRetention") == everything
    assert rights("owner", "s3:GetObjectRetention") == ["*"]
    for role in ("owner", "writer", "restorer", "maintainer"):
        for action in ("s3:BypassGovernanceRetention", "s3:DeleteObjectVersion"):
            assert rights(role, action) == []


def test_a_repository_that_is_the_whole_bucket() -> None:
    policy = render_policy("owner", S3Address("backups", "", None), scope=SCOPE, style="aws")
    assert policy["Statement"][0] == {
        "Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::backups"],
    }  # fmt: skip
    assert policy["Statement"][-1]["Resource"] == ["arn:aws:s3:::backups/*"]


def test_no_such_role() -> None:
    with pytest.raises(UsageError):
        render_policy("root", ADDRESS, scope=SCOPE, style="aws")
