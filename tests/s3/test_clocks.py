"""Clients whose clock is really wrong, on a server whose clock is right."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.s3.client import Client
from tests.s3.conftest import new_address
from tests.support.s3_servers import S3Server
from tests.support.wrong_clock import wrong_clock

pytestmark = pytest.mark.timeout(300)  # a server starts within it


@pytest.fixture
def client(service: S3Server, tmp_path: Path) -> Client:
    return Client(service, new_address(service), tmp_path)


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    top = tmp_path / "data"
    top.mkdir()
    (top / "noise").write_bytes(random.Random(seed).randbytes(300_000))
    return top


def snapshots(client: Client) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(client.run("snapshots", "--json"))
    return found


@pytest.mark.parametrize("span", ["+5h", "-5h"])
def test_by_hours_nothing_is_done_and_the_clock_is_named(
    span: str, client: Client, source: Path, tmp_path: Path
) -> None:
    client.run("init")
    client.run("backup", str(source))
    before = client.objects()
    wrong = Client(client.server, client.address, tmp_path, before=wrong_clock(span))
    newcomer = Client(client.server, new_address(client.server), tmp_path, before=wrong.before)
    (source / "more").write_text("more")
    for one, *words in (
        (newcomer, "init"),
        (wrong, "snapshots"),
        (wrong, "backup", str(source)),
        (wrong, "restore", "latest", "--target", str(tmp_path / "target")),
        (wrong, "check"),
        (wrong, "forget", "--keep-last", "1", "--force"),
        (wrong, "prune", "--force"),
    ):
        errors = one.run(*words, code=30)
        assert "this machine's clock is not the service's" in errors
        assert "hint: set the clock" in errors
    assert client.objects() == before
    assert newcomer.objects() == {}
    assert not (tmp_path / "target").exists() or not list((tmp_path / "target").iterdir())
    client.run("backup", str(source))
    assert "sound" in client.run("check", "--read-data")


@pytest.mark.parametrize("minutes", [10, -10])
def test_by_minutes_everything_goes_on_by_the_services_clock(
    minutes: int, client: Client, source: Path, tmp_path: Path
) -> None:
    client.before = wrong_clock(f"{minutes:+}m")
    began = datetime.now(UTC).replace(microsecond=0)
    client.run("init")
    client.run("backup", str(source))
    (source / "more").write_text("more")
    client.run("backup", str(source))
    old, new = snapshots(client)
    # The clock was wrong indeed, and is only told; what sorts and ages is the service's.
    told = datetime.fromisoformat(old["started"]) - began
    assert abs(told - timedelta(minutes=minutes)) < timedelta(minutes=5)
    assert began <= datetime.fromisoformat(old["time"]) <= datetime.fromisoformat(new["time"])
    assert datetime.fromisoformat(new["time"]) <= datetime.now(UTC)
    client.run("restore", "latest", "--target", str(tmp_path / "target"))
    assert (tmp_path / "target" / "more").read_text() == "more"
    client.run("forget", old["id"])
    client.run("prune", "--force")
    client.run("undelete", old["id"])
    assert len(snapshots(client)) == 2
    assert "sound" in client.run("check", "--read-data")
