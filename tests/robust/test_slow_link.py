"""While storing is what a backup waits for, it compresses harder instead of waiting."""

import dataclasses
import random
from pathlib import Path

import pytest

from pvback.config import Config, Secret
from pvback.model import LocalAddress
from pvback.ops.backup import BackupOptions, backup
from pvback.ops.sources import path_source
from pvback.repository.repository import create_repository, open_repository_access

MIB = 1024 * 1024
pytestmark = pytest.mark.timeout(600)


def log_lines(rng: random.Random, count: int) -> str:
    hosts = [f"node-{number:03}" for number in range(40)]
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 9))) for _ in range(500)]
    lines = []
    for number in range(count):
        some = " ".join(rng.choices(words, k=8))
        lines.append(f"2026-01-01T{number % 24:02}:00:{number % 60:02} {rng.choice(hosts)} {some} {number}\n")
    return "".join(lines)


def test_the_level_rises_on_a_slow_link(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = random.Random(seed)
    for number in range(14):
        (source / f"{number:02}.log").write_text(log_lines(rng, 60_000))

    def stored(name: str, *, rate: int | None, level: int | None) -> int:
        config = Config(
            repository=LocalAddress(tmp_path / name),
            password=Secret("correct horse"),
            cache_dir=None,
            memory_bytes=152 * MIB,
        )
        create_repository(config)
        limited = dataclasses.replace(config, upload_bytes_per_second=rate)
        access = open_repository_access(limited, is_writer=True)
        try:
            options = BackupOptions(level=level, pack_bytes=4 * MIB)
            return backup(access, path_source(source), options=options).stats.stored_bytes
        finally:
            access.close()

    low = stored("low", rate=None, level=3)
    high = stored("high", rate=None, level=9)
    slow = stored("slow", rate=4 * MIB, level=None)
    print(f"level 3: {low}, level 9: {high}, adaptive on a slow link: {slow}")
    assert high < low
    # Packs are few here, and the first are sealed before anything has waited.
    assert slow < low - (low - high) / 10
