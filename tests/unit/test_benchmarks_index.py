"""The benchmark of large indexes, small: what it makes is real, and a wrong mark is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import big_index
from benchmarks.big_index import UNUSED_ONE_IN, Cost, build_maker, find_misses, make_repository, mark
from benchmarks.tools import PASSWORD
from pvback.ops.facade import open_repository
from pvback.repository.layout import Area

CHUNKS = 5_000


@pytest.fixture(scope="module")
def maker() -> Path:
    # As `cargo test` builds it.
    return build_maker("dev")


def index_of(root: Path) -> list[Path]:
    return sorted((root / "s").glob(f"*/{Area.INDEX}/*-*"))


@pytest.mark.timeout(900)  # The first test builds the program, unless `cargo test` has.
def test_the_mark_counts_what_was_made(tmp_path: Path, maker: Path) -> None:
    make_repository(tmp_path / "r", maker, chunks=CHUNKS, snapshots=2, seed=1, run_entries=1_000)
    assert len(index_of(tmp_path / "r")) == 5
    found = mark(str(tmp_path / "r"))
    assert (found["needed"], found["missing"]) == (CHUNKS - CHUNKS // UNUSED_ONE_IN, 0)
    assert found["packs"] == CHUNKS // big_index.PACK_ENTRIES
    assert found["seconds"].keys() == found["memory"].keys() == set(big_index.MARK_STEPS)
    again = tmp_path / "again"
    make_repository(again, maker, chunks=CHUNKS, snapshots=1, seed=1, run_entries=1_000)
    assert mark(str(again))["digest"] == found["digest"], "the same seed makes the same packs"


@pytest.mark.timeout(900)
def test_a_run_that_is_lost_is_missed(tmp_path: Path, maker: Path) -> None:
    make_repository(tmp_path / "r", maker, chunks=CHUNKS, snapshots=1, seed=1, run_entries=1_000)
    index_of(tmp_path / "r")[0].unlink()
    assert mark(str(tmp_path / "r"))["missing"] > 0


@pytest.mark.timeout(900)
def test_the_repository_is_one_to_back_up_into(tmp_path: Path, maker: Path) -> None:
    make_repository(tmp_path / "r", maker, chunks=CHUNKS, snapshots=1, seed=1)
    clone = tmp_path / "home/repository"
    with big_index.cloned(tmp_path / "r", tmp_path / "home", None) as variables:
        assert variables["PVBACK_REPOSITORY"] == str(clone)
    big_index.make_source(tmp_path / "source", 1, 1)
    with open_repository(clone, PASSWORD, cache_dir=tmp_path / "cache") as repository:
        made = repository.backup(tmp_path / "source")
        assert made.snapshot is not None
        assert len(repository.snapshots()) == 2
        assert repository.restore(made.snapshot, tmp_path / "target").error_count == 0
    assert (tmp_path / "target" / "000001").read_bytes() == (tmp_path / "source" / "000001").read_bytes()
    with open_repository(tmp_path / "r", PASSWORD, cache_dir=tmp_path / "other") as repository:
        assert len(repository.snapshots()) == 1, "the clone's changes are its own"


@pytest.mark.timeout(900)
def test_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--chunks", "2000", "--source-mib", "1", "--rounds", "1", "--profile", "dev", "--unsettled"]
    arguments += ["--work", str(tmp_path), "--out", str(tmp_path / "out")]
    assert big_index.main(arguments) == 0
    assert "| 2,000 |" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"index.json", "index.md", "index.svg"}


def test_bars_are_differences_to_the_least() -> None:
    mib = 1 << 20
    least = Cost(chunks=0, backup_seconds=2.0, backup_memory_bytes=100 * mib)
    most = Cost(chunks=9, backup_seconds=6.9, backup_memory_bytes=399 * mib)
    most.mark_seconds = {"count": 200.0, "usage": 99.0, "merge": 500.0}
    most.mark_memory_bytes = {"count": 511 * mib, "usage": 5 * mib, "merge": 900 * mib}
    assert find_misses([least, most]) == []
    most.backup_seconds, most.mark_seconds["usage"] = 7.1, 101.0
    assert find_misses([least, most]) == ["backup s: 5.1, bar 5", "mark s: 301.0, bar 300"]
