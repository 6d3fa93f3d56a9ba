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
PASSWORD = "correct horse"


@pytest.mark.parametrize("ceiling", [limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_DEFAULT])
def test_one_large_file(service: S3Server, tmp_path: Path, seed: int, ceiling: int) -> None:
    rng = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with (source / "large").open("wb") as file:
        for _ in range(400):
            file.write(rng.randbytes(MIB))
    found = peaks(
        service,
        tmp_path,
        ceiling,
        steps={
            "init": ["init"],
            "backup": ["backup", source],
            "restore": ["restore", "latest", "--target", target],
        },
    )
    assert (target / "large").stat().st_size == 400 * MIB
    assert max(found.values()) <= ceiling, found


@pytest.mark.parametrize("ceiling", [limits.MEMORY_BYTES_MIN, limits.MEMORY_BYTES_DEFAULT])
def test_what_looks_after_a_repository(service: S3Server, tmp_path: Path, seed: int, ceiling: int) -> None:
    """A prune that moves what is left in its packs, a check that reads all of it, a copy of it."""
    rng = random.Random(seed)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(300):
        (source / f"{number:03}").write_bytes(rng.randbytes(MIB))
    peaks(service, tmp_path, ceiling, steps={"init": ["init"], "backup": ["backup", source]})
    for path in sorted(source.iterdir())[::3]:
        path.unlink()
    (tmp_path / "password").write_text(PASSWORD)
    other = f"s3://{BUCKET}/memory/{tmp_path.name}-copy"
    found = peaks(
        service,
        tmp_path,
        ceiling,
        steps={
            "backup": ["backup", source],
            "forget": ["forget", "--keep-last", "1"],
            "prune": ["prune", "--max-unused", "0", "--keep-unused", "0s", "--grace", "0s", "--force"],
            "check": ["check", "--read-data"],
            "init of a copy": ["-r", other, "init"],
            "copy": [
                *("-r", other, "copy", "--from-repository", f"s3://{BUCKET}/memory/{tmp_path.name}"),
                *("--from-s3-endpoint", service.endpoint, "--from-password-file", tmp_path / "password"),
            ],
        },
    )
    assert max(found.values()) <= ceiling, found


def peaks(
    service: S3Server, tmp_path: Path, ceiling: int, *, steps: dict[str, list[object]]
) -> dict[str, int]:
    """The most memory of each command, in bytes."""
    environment = {
        **os.environ,
        "PVBACK_REPOSITORY": f"s3://{BUCKET}/memory/{tmp_path.name}",
        "PVBACK_S3_ENDPOINT": service.endpoint,
        "PVBACK_PASSWORD": PASSWORD,
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
        "PVBACK_MEMORY": f"{ceiling // MIB}MiB",
    }
    found = {}
    for step, words in steps.items():
        argv = [sys.executable, "-m", "pvback", *map(str, words)]
        found[step] = run_measured(argv, env=environment, is_settled=False).memory_bytes_peak
    print({step: f"{peak_bytes / MIB:.0f} MiB" for step, peak_bytes in found.items()})
    return found
