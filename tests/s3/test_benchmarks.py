"""The race of programs against a real S3 server, small and with this program alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks import s3_run

pytestmark = pytest.mark.timeout(300)  # a server starts within it

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(300)  # Starts three servers.
def test_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--corpora", "small", "--scale", "0.001", "--files", "100", "--big-mib", "4"]
    arguments += ["--latency-ms", "10", "--link-mb", "20", "--tools", "pvback", "--unsettled"]
    arguments += ["--work", str(tmp_path), "--out", str(tmp_path / "out")]
    assert s3_run.main(arguments) == 0
    assert "FAILED" not in capsys.readouterr().out
    timings = json.loads((tmp_path / "out" / "s3.json").read_text())["timings"]
    steps = [(one["place"], one["corpus"], one["step"]) for one in timings]
    assert steps == [
        ("loopback", "small", "backup"),
        ("loopback", "small", "restore"),
        ("link", "files", "backup"),
        ("link", "files", "restore"),
        ("link", "big", "restore"),
    ]
    big = timings[-1]
    assert big["down_bytes"] >= 4 << 20, "what does not compress has to cross the link"
    assert 0 < big["link_share"] <= 1.01
