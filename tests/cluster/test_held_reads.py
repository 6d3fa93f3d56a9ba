"""Live reads for which an application holds still: worth what it says, or less, and never more.

The application counts at the beginning of two large files, one after the other. What is read while it holds
still has the same number in both.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, die, make_claim, wait_nothing_left
from tests.cluster.slow import FILL, LITTLE_MEMORY, MEBIBYTES, RATE, mover_of, set_rate
from tests.cluster.test_hooks import NOTE, Application, did, hook, record_of, shell

pytestmark = pytest.mark.timeout(600)
COUNT = (
    "touch /tmp/journal; i=0; while true; do "
    "if holder=$(cat /tmp/wanted 2>/dev/null) && kill -0 $holder 2>/dev/null; "
    "then echo $holder > /tmp/granted; usleep 1000; "
    "else i=$((i+1)); for file in f1 f4; do "
    "printf '%015d\\n' $i | dd of=/data/$file bs=16 conv=notrunc 2>/dev/null; done; usleep 1000; fi; done"
)
# It counts no further while that process lives: whoever kills it lets the application go on.
WANT = (
    "rm -f /tmp/granted; echo $$ > /tmp/wanted; "
    'until [ "$(cat /tmp/granted 2>/dev/null)" = $$ ]; do usleep 1000; done; '
    + NOTE
    + "note frozen; echo frozen; "
)
HOLD = WANT + "while read -r line; do :; done; note thawed"
LIVE = ("--method", "live", *LITTLE_MEMORY)


@pytest.fixture
def app(fleet: Fleet, namespace: Namespace) -> Iterator[Application]:
    """A pod that counts in a claim which takes 24 s to read."""
    fleet.connect(namespace)
    set_rate(namespace, RATE)
    make_claim(namespace, "data", size=f"{MEBIBYTES + 64}Mi")
    namespace.create(objects.pod("app", f"{FILL}; {COUNT}", image=namespace.cluster.image, claims=["data"]))
    namespace.wait_phase("app", "Running")
    found = Application(namespace)
    counts_yet = "head -c 12 /data/f4 2>/dev/null | grep -c 000000000000 || true"
    wait_for(lambda: found.run(counts_yet).strip() == "1", lambda: "it does not count")
    yield found
    wait_nothing_left(namespace)


def holds(**more: Any) -> dict[str, Any]:
    return hook(quiesce={"command": shell(HOLD), "lease": 120, **more})


def counts(fleet: Fleet, app: Application, snapshot: str) -> tuple[int, int]:
    """What both files say in a snapshot."""
    scope = ("--scope", app.namespace.name)
    found = []
    for name in ("f1", "f4"):
        done = subprocess.run(
            [sys.executable, "-m", "pvback", "dump", f"{snapshot}:{name}", *scope],
            env=fleet.environment,
            capture_output=True,
            check=True,
        )
        assert len(done.stdout) == MEBIBYTES // 4 << 20
        found.append(int(done.stdout[:16]))
    print(f"f1 says {found[0]}, f4 says {found[1]}")
    return found[0], found[1]


def count_now(app: Application) -> int:
    return int(app.run("head -c 16 /data/f1"))


def test_in_step(fleet: Fleet, app: Application) -> None:
    """It stands still for the whole read, which is worth what a volume snapshot under it is."""
    (claim,) = fleet.good("pvc", "backup", app.claim, *LIVE, "--json").messages("claim")
    first, second = counts(fleet, app, claim["result"]["snapshot"])
    assert first != second, "without a hook it counts while it is read: else this test shows nothing"
    assert record_of(fleet, app, claim["result"]["snapshot"])["grade"] == "fuzzy"
    app.annotate(holds())
    done = fleet.good("pvc", "backup", app.claim, *LIVE, "--force", "--json")
    (claim,) = done.messages("claim")
    assert did(claim) == [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    first, second = counts(fleet, app, claim["result"]["snapshot"])
    assert first == second
    assert record_of(fleet, app, claim["result"]["snapshot"])["grade"] == "app"
    assert done.messages("warning") == []
    times = {what: at for at, what in app.journal()}
    print(f"held still for {times['thawed'] - times['frozen']:.1f} s of {claim['seconds']} s")


def kill_holder(app: Application) -> None:
    app.run("kill -9 $(cat /tmp/wanted)")


def test_the_process_is_killed_in_the_middle(fleet: Fleet, app: Application) -> None:
    """The application goes on while it is read: nothing is stored."""
    app.annotate(holds())
    with fleet.start("pvc", "backup", app.claim, *LIVE) as process:
        mover_of(app.namespace)
        before = count_now(app)
        kill_holder(app)
        wait_for(lambda: count_now(app) > before, lambda: "it does not go on")
        _, err = process.communicate(timeout=240)
    assert process.returncode == 40, err
    assert "quiesce did not hold until the copy was made: it ended by itself, with code 137" in err
    assert fleet.snapshots(app.namespace) == []


def test_what_it_has_started_outlives_it(fleet: Fleet, app: Application) -> None:
    """Its end is not told while a process of its own keeps its output open: its code says it in the end."""
    app.annotate(holds(command=shell(WANT + "cat > /dev/null; note thawed")))
    with fleet.start("pvc", "backup", app.claim, *LIVE, "--json") as process:
        mover_of(app.namespace)
        before = count_now(app)
        kill_holder(app)
        wait_for(lambda: count_now(app) > before, lambda: "it does not go on")
        out, err = process.communicate(timeout=240)
    (claim,) = [one for one in map(json.loads, out.splitlines()) if one["message_type"] == "claim"]
    print(process.returncode, claim["error"], err)
    grades = [one["grade"] for one in fleet.snapshots(app.namespace)]
    assert (process.returncode, grades) in ((40, []), (3, ["fuzzy"]))


def test_the_lease_ends_in_the_middle(fleet: Fleet, app: Application) -> None:
    app.annotate(holds(lease=12))
    done = fleet.run("pvc", "backup", app.claim, *LIVE).ended(40)
    assert "its lease of 12 s is over" in done.err
    assert fleet.snapshots(app.namespace) == []


@pytest.mark.long
def test_pvback_is_killed_in_the_middle(fleet: Fleet, app: Application) -> None:
    """The mover waits for a word that nobody has for it: then it is a live read as any other."""
    app.annotate(holds())
    with fleet.start("pvc", "backup", app.claim, *LIVE) as process:
        mover = mover_of(app.namespace)
        process.kill()
        process.wait()
    app.wait_step("thawed")
    wait_over(app, mover)
    (found,) = fleet.snapshots(app.namespace)
    assert found["grade"] == "fuzzy"
    die(app.namespace)
    fleet.good("pvc", "cleanup", "-n", app.namespace.name)


def wait_over(app: Application, mover: str) -> None:
    """Wait until the mover has ended by itself."""

    def is_over() -> bool:
        return str(app.namespace.get("v1", "Pod", mover).status.phase) == "Succeeded"

    wait_for(is_over, lambda: app.namespace.log(mover), seconds=300)
    log = app.namespace.log(mover)
    assert "nobody has said that others held still" in log
