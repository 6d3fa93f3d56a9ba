"""What is done at the same time: requests wait for each other, and fail the test where they do not meet."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pvback import limits
from tests.robust.trees import differences, image
from tests.s3.conftest import new_address
from tests.support import warm
from tests.support.fault_proxy import Fault, FaultProxy, Rule, fault_proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it
PASSWORD = "correct horse"
MEETING_SECONDS_MAX = 20
COPY_READS_MIN = 4
PIECE_BYTES = 128 * 1024
MIB = 1 << 20


@dataclass
class Meeting:
    """Requests wait here until so many are under way at the same time; afterwards none waits."""

    wanted: int
    most: int = 0
    inside: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self) -> None:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.wanted, timeout=MEETING_SECONDS_MAX)
            self.inside -= 1

    def rule(self, path: str, *methods: str) -> Rule:
        """Requests with these methods for such paths wait."""
        return Rule(fault=Fault.PASS, methods=methods, path=path, count=1_000_000, act=self)


@pytest.fixture
def proxy(service: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(service) as made:
        yield made


@dataclass(frozen=True)
class Client:
    """The program, as a user of repositories behind the proxy."""

    proxy: FaultProxy
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.proxy.server.environment,
            "PVBACK_PASSWORD": PASSWORD,
            "PVBACK_S3_ENDPOINT": self.proxy.server.endpoint,
            "PVBACK_CACHE_DIR": str(self.home / "cache"),
        }

    def run(self, repository: str, *words: object) -> str:
        done = warm.run(["-r", repository, *map(str, words)], self.environment)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def client(proxy: FaultProxy, tmp_path: Path) -> Client:
    return Client(proxy, tmp_path)


@pytest.fixture
def repository(service: S3Server, client: Client) -> str:
    made = str(new_address(service))
    client.run(made, "init")
    return made


@pytest.fixture
def source(tmp_path: Path, seed: int) -> Path:
    """Files that do not compress, of which every sixteenth is called `wanted`."""
    rng = random.Random(seed)
    made = tmp_path / "source"
    made.mkdir()
    for number in range(1024):
        name = f"{number:04}-{'wanted' if number % 16 == 0 else 'other'}"
        (made / name).write_bytes(rng.randbytes(PIECE_BYTES))
    return made


def test_ranges_of_a_restore(
    client: Client, proxy: FaultProxy, repository: str, source: Path, tmp_path: Path
) -> None:
    """As many as are worth it, and no more; and only what is wanted of the packs is read."""
    client.run(repository, "backup", source)
    meeting, before = Meeting(limits.READS_IN_FLIGHT), proxy.answered_bytes
    proxy.obey(meeting.rule("/data/", "GET"))
    client.run(repository, "restore", "latest", "--include", "*-wanted", "--target", tmp_path / "target")
    read = proxy.answered_bytes - before
    print(f"{meeting.most} ranges at the same time; {read / MIB:.1f} MiB of {1024 * PIECE_BYTES / MIB:.0f}")
    assert limits.READS_IN_FLIGHT >= 32
    assert limits.READS_IN_FLIGHT <= meeting.most <= limits.READS_IN_FLIGHT + limits.HEDGES_IN_FLIGHT
    # Files lie in chunks of about twice their size, whose neighbours come with them.
    assert read < 1024 * PIECE_BYTES // 2
    for path in sorted(source.glob("*-wanted")):
        assert (tmp_path / "target" / path.name).read_bytes() == path.read_bytes()


def test_neighbours_come_with_one_request(
    client: Client, proxy: FaultProxy, repository: str, source: Path, tmp_path: Path
) -> None:
    """Of some 512 chunks, which lie side by side: a range has 1 MiB at least."""
    client.run(repository, "backup", source)
    rule = Rule(fault=Fault.PASS, methods=("GET",), path="/data/", count=1_000_000)
    proxy.obey(rule)
    said = client.run(repository, "restore", "latest", "--target", tmp_path / "target", "--json")
    stored = 1024 * PIECE_BYTES
    print(f"{rule.hit_count} reads of packs of {stored / MIB:.0f} MiB")
    assert 1 < rule.hit_count <= stored // MIB
    # What is read twice are the segments at the ends of ranges.
    assert json.loads(said.splitlines()[-1])["store"]["received_bytes"] < stored * 1.1


def test_uploads_beside_the_reading(client: Client, proxy: FaultProxy, repository: str, source: Path) -> None:
    """While one pack is on its way, another is filled and sent, too."""
    meeting = Meeting(limits.PUTS_IN_FLIGHT)
    proxy.obey(meeting.rule("/data/", "PUT"))
    client.run(repository, "backup", source)
    assert meeting.most == limits.PUTS_IN_FLIGHT


def test_reads_of_a_copy(
    service: S3Server, client: Client, proxy: FaultProxy, repository: str, source: Path, tmp_path: Path
) -> None:
    client.run(repository, "backup", source)
    (tmp_path / "password").write_text(PASSWORD)
    target = str(new_address(service))
    client.run(target, "init")
    meeting = Meeting(COPY_READS_MIN)
    proxy.obey(meeting.rule("/data/", "GET"))
    client.run(
        *(target, "copy", "--from-repository", repository),
        *("--from-s3-endpoint", proxy.server.endpoint, "--from-password-file", tmp_path / "password"),
    )
    assert meeting.most >= COPY_READS_MIN
    proxy.obey(None)
    client.run(target, "restore", "latest", "--target", tmp_path / "target")
    assert not differences(image(source), image(tmp_path / "target"))


def test_a_mount_reads_what_is_asked_for(
    client: Client, proxy: FaultProxy, repository: str, source: Path, tmp_path: Path
) -> None:
    client.run(repository, "backup", source)
    place, before = tmp_path / "mount", proxy.answered_bytes
    place.mkdir()
    with mounted(client, repository, place):
        folder = place / "snapshots" / "latest"
        names = sorted(path.name for path in folder.iterdir())
        assert names == sorted(path.name for path in source.iterdir())
        listed = proxy.answered_bytes - before
        with (folder / names[512]).open("rb") as file:
            file.seek(PIECE_BYTES // 2)
            assert file.read(4096) == (source / names[512]).read_bytes()[PIECE_BYTES // 2 :][:4096]
        read = proxy.answered_bytes - before - listed
    print(f"opened and listed with {listed / MIB:.2f} MiB, 4 KiB read with {read / MIB:.2f} MiB")
    assert listed < 4 * MIB
    assert PIECE_BYTES // 2 < read < 4 * MIB


@contextmanager
def mounted(client: Client, repository: str, place: Path) -> Iterator[None]:
    argv = [sys.executable, "-m", "pvback", "-r", repository, "mount", str(place)]
    with subprocess.Popen(argv, env=client.environment, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith(b"mounted at"), line + process.stderr.read()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                if os.path.ismount(place):
                    subprocess.run(["fusermount3", "-uz", place], check=True)
