"""The program on a bucket: every step from `init` to `check`, and no credential in what it prints."""

import json
import os
from pathlib import Path

import pytest

from tests.s3.conftest import new_address
from tests.support import warm
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it


def test_the_way_from_init_to_check(service: S3Server, tmp_path: Path) -> None:
    source = tmp_path / "data"
    (source / "inner").mkdir(parents=True)
    (source / "a.txt").write_text("alpha")
    (source / "inner" / "b.bin").write_bytes(bytes(range(256)) * 4096)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PVBACK_REPOSITORY": str(new_address(service)),
        "PVBACK_PASSWORD": "correct horse",
        "PVBACK_S3_ENDPOINT": service.endpoint,
        **service.environment,
    }
    printed = ""

    def run(*words: str, code: int = 0, **more: str) -> str:
        nonlocal printed
        done = warm.run(words, environment | more)
        printed += done.stdout + done.stderr
        assert done.returncode == code, done.stderr
        return done.stdout

    run("snapshots", code=10)
    run("init")
    run("init", code=11)
    run("backup", str(source))
    run("backup", str(source))
    found = json.loads(run("snapshots", "--json"))
    assert len(found) == 2
    target = tmp_path / "target"
    run("restore", found[-1]["id"], "--target", str(target))
    for name in ("a.txt", "inner/b.bin"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    run("check", "--read-data")
    wrong = "wrong-secret-of-a-test"
    run("snapshots", "-v", code=30, AWS_SECRET_ACCESS_KEY=wrong)
    assert "hint:" in printed
    for secret in (service.secret_key, service.access_key, wrong):
        assert secret not in printed
