"""How many requests a command makes, whatever the number of snapshots."""

import json
import os
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.s3.conftest import new_address
from tests.support import warm
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it

REQUESTS_MAX = 20
SNAPSHOT_COUNT = 12


LONG_NAMES = 25_000
"""Of 200 characters by chance: more metadata than is kept of a tree that few pages are wanted of."""


def counting(service: S3Server, tmp_path: Path) -> Callable[..., int]:
    """What runs a command on a repository of its own, and tells how many requests it made."""
    environment: Mapping[str, str] = {
        **os.environ,
        **service.environment,
        "PVBACK_REPOSITORY": str(new_address(service)),
        "PVBACK_S3_ENDPOINT": service.endpoint,
        "PVBACK_PASSWORD": "correct horse",
    }

    def requests(*words: str, cache: str = "cache") -> int:
        done = warm.run([*words, "--json"], {**environment, "PVBACK_CACHE_DIR": str(tmp_path / cache)})
        done.check_returncode()
        usage = json.loads(done.stdout).get("store", {})
        return int(usage.get("request_count", 0))

    requests("init")
    return requests


def test_an_unchanged_backup_beside_many_snapshots(service: S3Server, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(400):
        folder = source / f"{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_text(f"{number}\n" * 50)
    requests = counting(service, tmp_path)
    found = [requests("backup", str(source)) for _ in range(SNAPSHOT_COUNT)]
    print(f"one after the other: {found}")
    assert 0 < found[-1] <= REQUESTS_MAX
    beside_others = requests("backup", str(source), cache="first")
    requests("prune")
    after_prune = requests("backup", str(source), cache="second")
    print(f"with an empty cache: {beside_others}, after a prune {after_prune}")
    assert 0 < after_prune <= REQUESTS_MAX < beside_others


def test_an_unchanged_backup_of_many_files(service: S3Server, tmp_path: Path, seed: int) -> None:
    """All of their metadata is one request, though it is looked through twice."""
    chances = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    for _ in range(LONG_NAMES):
        (source / "".join(chances.choices(string.ascii_letters + string.digits, k=200))).touch()
    requests = counting(service, tmp_path)
    found = [requests("backup", str(source)) for _ in range(2)]
    print(f"first and unchanged: {found}")
    assert 0 < found[1] <= REQUESTS_MAX
