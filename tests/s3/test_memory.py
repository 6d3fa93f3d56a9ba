"""The ceiling of `--memory` holds for the whole process, with packs and ranges under way."""

import os
import random
import sys
from pathlib import Path

import pytest

from benchmarks.measure import run_measured
from pvback import limits
from tests.support.s3_servers import BUCKET, S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it
MIB = 1 << 20


@pytest.mark.parametrize("ceiling", [limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_DEFAULT])
def test_one_large_file(service: S3Server, tmp_path: Path, seed: int, ceiling: int) -> None:
    rng = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with (source / "large").open("wb") as file:
        for _ in range(400):
            file.write(rng.randbytes(MIB))
    environment = {
        **os.environ,
        "PVBACK_REPOSITORY": f"s3://{BUCKET}/memory/{tmp_path.name}",
        "PVBACK_S3_ENDPOINT": service.endpoint,
        "PVBACK_PASSWORD": "correct horse",
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "PVBACK_MEMORY": f"{ceiling // MIB}MiB",
    }

    def peak(*words: object) -> int:
        argv = [sys.executable, "-m", "pvback", *map(str, words)]
        return run_measured(argv, env=environment, is_settled=False).memory_bytes_peak

    peak("init")
    found = {
        "backup": peak("backup", source),
        "restore": peak("restore", "latest", "--target", target),
    }
    assert (target / "large").stat().st_size == 400 * MIB
    print({step: f"{peak_bytes / MIB:.0f} MiB" for step, peak_bytes in found.items()})
    assert max(found.values()) <= ceiling, found
