"""Hooks around backups of claims on a real cluster: in order, and undone whatever happens.

The applications here are shells. What is done to them they write into a journal, with the time.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pvback.cluster.client import Cluster as Door
from pvback.cluster.exec import ExecTarget, ended_well, run_command
from pvback.runtime import Cancel, SystemClock
from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, die, left_behind, make_claim, wait_nothing_left, writer_pod

pytestmark = pytest.mark.timeout(600)
CLOCK = SystemClock()
NOTE = 'note() { echo "$(cut -d" " -f1 /proc/uptime) $1" >> /tmp/journal; }; '
HOLD = (
    NOTE + "note frozen; touch /data/held; echo frozen; timeout LEASE cat > /dev/null; "
    "rm /data/held; note thawed"
)


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def hook(*, lease: int = 60, **more: Any) -> dict[str, Any]:
    """One with all three; `more` changes it."""
    made = {
        "name": "app",
        "pre": {"command": shell(NOTE + "note pre")},
        "quiesce": {"command": shell(HOLD.replace("LEASE", str(lease))), "lease": lease},
        "post": {"command": shell(NOTE + "note post")},
    }
    return {name: value for name, value in {**made, **more}.items() if value is not None}


class Application:
    """A pod `app` that uses the claim `data`, and its journal."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.door = Door.connect(kubeconfig=str(namespace.cluster.kubeconfig))
        self.claim = f"{namespace.name}/data"

    def run(self, script: str) -> str:
        target = ExecTarget(namespace=self.namespace.name, pod="app", container="main")
        argv = shell(script)
        end = run_command(self.door, target, argv=argv, seconds=30, clock=CLOCK, cancel=Cancel())
        return ended_well(end, what=script).stdout.decode()

    def journal(self) -> list[tuple[float, str]]:
        lines = [line.split() for line in self.run("cat /tmp/journal").splitlines()]
        return [(float(at), what) for at, what in lines]

    def steps(self) -> list[str]:
        return [what for _, what in self.journal()]

    def wait_step(self, step: str) -> None:
        wait_for(lambda: step in self.steps(), lambda: f"no {step}: {self.steps()}")

    def annotate(
        self, *hooks: dict[str, Any], kind: str = "PersistentVolumeClaim", name: str = "data"
    ) -> None:
        annotations = {}
        for one in hooks:
            said = {key: value for key, value in one.items() if key != "name"}
            annotations[f"hook.pvback.io/{one['name']}"] = json.dumps(said)
        self.namespace.cluster.kind("v1", kind).patch(
            name=name,
            namespace=self.namespace.name,
            body={"metadata": {"annotations": annotations}},
            content_type="application/merge-patch+json",
        )

    def uptime(self) -> float:
        return float(self.run("cut -d' ' -f1 /proc/uptime"))


@pytest.fixture
def app(connected: Namespace) -> Application:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x; touch /tmp/journal")
    return Application(connected)


def hooks_file(folder: Path, *hooks: dict[str, Any]) -> str:
    path = folder / "hooks.yaml"
    path.write_text(json.dumps({"hooks": hooks}))
    return str(path)


def did(claim: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(one["step"], one["error"] is None) for one in claim["hooks"]]


def record_of(fleet: Fleet, app: Application, snapshot: str) -> dict[str, Any]:
    (found,) = [one for one in fleet.snapshots(app.namespace) if one["id"].startswith(snapshot[:8])]
    return found


def volume_snapshot_times(namespace: Namespace) -> Any:
    listed = namespace.cluster.kind("snapshot.storage.k8s.io/v1", "VolumeSnapshot")
    return listed.get(namespace=namespace.name).items


def test_in_order(fleet: Fleet, app: Application) -> None:
    """Held while the copy is cut, let go before it can be used, and long before it is stored."""
    app.annotate(hook(), kind="Pod", name="app")
    words = ("pvc", "backup", app.claim, "--method", "snapshot", "--snapshot-class", "csi-slow", "--json")
    with fleet.start(*words) as process:
        app.wait_step("thawed")
        (cut,) = volume_snapshot_times(app.namespace)
        # It takes five seconds after it was cut until a claim can be made of it.
        assert cut.status.creationTime
        assert cut.status.readyToUse is False
        jobs = app.namespace.cluster.kind("batch/v1", "Job").get(namespace=app.namespace.name).items
        assert jobs == [], "nothing is read yet"
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (claim,) = [one for one in map(json.loads, out.splitlines()) if one["message_type"] == "claim"]
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    assert did(claim) == [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    times = {what: at for at, what in app.journal()}
    print(f"held still for {times['thawed'] - times['frozen']:.2f} s")
    assert times["post"] - times["thawed"] > 4, "post is after the upload"
    # What was copied was copied while it held: the mark of it is in the copy.
    listed = fleet.good("ls", claim["result"]["snapshot"], "--scope", app.namespace.name).out
    assert "held" in listed
    (covered,) = fleet.good("pvc", "list", "-n", app.namespace.name, "--json").json()
    assert covered["grade"] == "app"


def test_a_live_read_is_within(fleet: Fleet, app: Application) -> None:
    app.annotate(hook())
    (claim,) = fleet.good("pvc", "backup", app.claim, "--method", "live", "--json").messages("claim")
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    assert did(claim) == [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    assert "held" in fleet.good("ls", claim["result"]["snapshot"], "--scope", app.namespace.name).out
    (covered,) = fleet.good("pvc", "list", "-n", app.namespace.name, "--json").json()
    assert covered["grade"] == "app", "the mover is told that it held to the end"


def test_pvback_is_killed(fleet: Fleet, app: Application) -> None:
    """The process undoes itself, and its post is done by whoever cleans up."""
    app.annotate(hook())
    # It holds for as long as its mover waits for an image that is nowhere.
    words = ("pvc", "backup", app.claim, "--method", "live", "--image", "localhost/none:1")
    with fleet.start(*words) as process:
        app.wait_step("frozen")
        before = app.uptime()
        process.kill()
        process.wait()
        app.wait_step("thawed")
    times = {what: at for at, what in app.journal()}
    print(f"thawed {times['thawed'] - before:.2f} s after the kill")
    assert times["thawed"] - before < 5
    assert app.steps() == ["pre", "frozen", "thawed"]
    die(app.namespace)
    shown = fleet.good("pvc", "cleanup", "-n", app.namespace.name, "--dry-run").out
    assert "after post hook app in pod app" in shown
    assert app.steps()[-1] == "thawed"
    fleet.good("pvc", "cleanup", "-n", app.namespace.name)
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    wait_nothing_left(app.namespace)


def test_the_next_run_pays(fleet: Fleet, app: Application) -> None:
    app.annotate(hook(quiesce=None, pre={"command": shell(NOTE + "note pre; sleep 60"), "timeout": 90}))
    with fleet.start("pvc", "backup", app.claim, "--method", "live") as process:
        app.wait_step("pre")
        process.kill()
        process.wait()
    die(app.namespace)
    fleet.good("pvc", "backup", app.claim, "--method", "live", "--no-hooks")
    assert app.steps() == ["pre", "post"]


def test_a_post_that_is_owed_and_fails(fleet: Fleet, app: Application) -> None:
    """It is told each time, tried some times, and does not stand in the way for ever."""
    post = {"command": shell(NOTE + "note tried; exit 9")}
    app.annotate(
        hook(quiesce=None, pre={"command": shell(NOTE + "note pre; sleep 60"), "timeout": 90}, post=post)
    )
    with fleet.start("pvc", "backup", app.claim, "--method", "live") as process:
        app.wait_step("pre")
        process.kill()
        process.wait()
    die(app.namespace)
    refused = fleet.run("pvc", "backup", app.claim, "--method", "live", "--no-hooks").ended(40)
    assert "post hook app in pod app" in refused.err
    for _ in range(4):
        done = fleet.run("pvc", "cleanup", "-n", app.namespace.name).ended(3)
        assert "the command ended with code 9" in done.err
    assert "given up" in done.err
    assert app.steps() == ["pre", *["tried"] * 5]
    fleet.good("pvc", "cleanup", "-n", app.namespace.name)


def test_the_lease_ends_first(fleet: Fleet, app: Application) -> None:
    """A driver that is slow to cut: what would have been copied after the thaw is not stored."""
    app.annotate(hook(lease=1))
    words = ("pvc", "backup", app.claim, "--method", "snapshot", "--snapshot-class", "csi-failing", "--json")
    done = fleet.run(*words).ended(40)
    assert "quiesce did not hold until the copy was made" in done.err
    (claim,) = done.messages("claim")
    assert claim["state"] == "failed"
    assert did(claim)[:3] == [("pre", True), ("quiesce", True), ("quiesce", False)]
    assert did(claim)[-1] == ("post", True)
    app.wait_step("post")
    assert fleet.snapshots(app.namespace) == []


def test_it_ends_by_itself(fleet: Fleet, app: Application) -> None:
    """By our clock there would be time; its process says otherwise."""
    script = NOTE + "note frozen; echo frozen; sleep 0.3; echo lost the lock >&2; exit 4"
    app.annotate(hook(quiesce={"command": shell(script)}))
    words = ("pvc", "backup", app.claim, "--method", "snapshot", "--snapshot-class", "csi-failing")
    done = fleet.run(*words).ended(40)
    assert "it ended by itself, with code 4" in done.err
    assert "lost the lock" in done.err
    assert fleet.snapshots(app.namespace) == []
    assert app.steps() == ["pre", "frozen", "post"]


def test_a_thaw_that_fails(fleet: Fleet, app: Application) -> None:
    script = NOTE + "note frozen; echo frozen; cat > /dev/null; echo stuck >&2; exit 5"
    app.annotate(hook(quiesce={"command": shell(script)}))
    done = fleet.run("pvc", "backup", app.claim, "--method", "snapshot", "--json").ended(3)
    (claim,) = done.messages("claim")
    assert claim["state"] == "partly"
    assert did(claim) == [("pre", True), ("quiesce", True), ("thaw", False), ("post", True)]
    assert "quiesce did not undo itself: it ended, with code 5: stuck" in claim["error"]["what"]
    assert app.steps() == ["pre", "frozen", "post"]
    assert len(fleet.snapshots(app.namespace)) == 1


@pytest.mark.parametrize(
    ("on_failure", "code", "attempts"), [("abort", 40, 1), ("retry", 40, 3), ("continue", 0, 1)]
)
def test_a_pre_that_fails(fleet: Fleet, app: Application, on_failure: str, code: int, attempts: int) -> None:
    pre = {"command": shell(NOTE + "note pre; echo no >&2; exit 3"), "on_failure": on_failure}
    app.annotate(hook(pre=pre, quiesce=None))
    done = fleet.run("pvc", "backup", app.claim, "--method", "live", "--json").ended(code)
    assert "pre failed" in done.out + done.err
    assert "code 3: no" in done.out + done.err
    assert app.steps() == [*["pre"] * attempts, "post"]
    assert len(fleet.snapshots(app.namespace)) == (1 if code == 0 else 0)


def test_a_quiesce_that_may_fail(fleet: Fleet, app: Application) -> None:
    """Then the copy is what it would be without."""
    quiesce = {"command": shell("echo not today; exit 1"), "on_failure": "continue"}
    app.annotate(hook(quiesce=quiesce))
    (claim,) = fleet.good("pvc", "backup", app.claim, "--method", "snapshot", "--json").messages("claim")
    assert did(claim) == [("pre", True), ("quiesce", False), ("post", True)]
    (covered,) = fleet.good("pvc", "list", "-n", app.namespace.name, "--json").json()
    assert covered["grade"] == "crash"


def test_a_post_that_fails(fleet: Fleet, app: Application) -> None:
    post = {"command": shell(NOTE + "note post; exit 3")}
    app.annotate(hook(quiesce=None, post=post))
    done = fleet.run("pvc", "backup", app.claim, "--method", "live", "--json").ended(3)
    (claim,) = done.messages("claim")
    assert claim["state"] == "partly"
    assert "post failed: the command ended with code 3" in claim["error"]["what"]
    assert app.steps() == ["pre", "post", "post", "post"]
    assert len(fleet.snapshots(app.namespace)) == 1


def test_a_command_that_takes_too_long(fleet: Fleet, app: Application) -> None:
    app.annotate(hook(pre={"command": shell(NOTE + "note pre; sleep 50"), "timeout": 1}, quiesce=None))
    done = fleet.run("pvc", "backup", app.claim, "--method", "live").ended(40)
    assert "takes too long; it may go on in its container" in done.err
    assert app.steps() == ["pre", "post"]


def test_interrupted(fleet: Fleet, app: Application) -> None:
    """Who holds still is let go at once, and post runs."""
    app.annotate(hook())
    words = ("pvc", "backup", app.claim, "--method", "snapshot", "--snapshot-class", "csi-never")
    pre = {"command": shell(NOTE + "note pre; sleep 60"), "timeout": 90}
    app.annotate(hook(name="second", pre=pre))
    with fleet.start(*words) as process:
        # In the second hook's pre: the first has done its own.
        wait_for(lambda: app.steps() == ["pre", "pre"], lambda: str(app.steps()))
        began = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    print(f"over {time.monotonic() - began:.1f} s after it was asked to stop")
    assert app.steps() == ["pre", "pre", "post", "post"]
    wait_nothing_left(app.namespace)


def test_interrupted_while_it_holds(fleet: Fleet, app: Application) -> None:
    app.annotate(hook())
    with fleet.start(
        "pvc", "backup", app.claim, "--method", "live", "--image", "localhost/none:1"
    ) as process:
        app.wait_step("frozen")
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert app.steps() == ["pre", "frozen", "thawed", "post"]


def test_claims_of_one_pod_take_turns(fleet: Fleet, connected: Namespace) -> None:
    """What the one undoes in the end must not be undone of the other, which still holds."""
    for claim in ("one", "two"):
        make_claim(connected, claim)
    script = "touch /tmp/journal; while true; do sleep 1; done"
    connected.create(objects.pod("app", script, image=connected.cluster.image, claims=["one", "two"]))
    connected.wait_phase("app", "Running")
    app = Application(connected)
    script = NOTE + "note frozen; echo frozen; cat > /dev/null; note thawed"
    app.annotate(hook(quiesce={"command": shell(script)}), kind="Pod", name="app")
    words = ("pvc", "backup", "-n", connected.name, "--all", "--method", "snapshot", "--json")
    claims = fleet.good(*words).messages("claim")
    assert [did(one) for one in claims] == [
        [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    ] * 2
    assert app.steps() == ["pre", "frozen", "thawed", "post"] * 2


def test_which_pods_and_containers(fleet: Fleet, app: Application, tmp_path: Path) -> None:
    """None, several, and a container that is not there: refused before anything is touched."""
    words = ("pvc", "backup", app.claim, "--method", "live", "--hooks")
    alone: dict[str, Any] = {"quiesce": None, "post": None}
    done = fleet.run(*words, hooks_file(tmp_path, hook(selector={"app": "no"}, **alone))).ended(40)
    assert "hook app: no running pod matches" in done.err
    done = fleet.run(*words, hooks_file(tmp_path, hook(container="side", **alone))).ended(40)
    assert "pod app has no container side; it has main" in done.err
    body = objects.pod("second", "while true; do sleep 1; done", image=app.namespace.cluster.image)
    body["metadata"]["labels"] = {"tier": "db"}
    app.namespace.create(body)
    app.namespace.wait_phase("second", "Running")
    change = {"metadata": {"labels": {"tier": "db"}}}
    app.namespace.cluster.kind("v1", "Pod").patch(
        name="app", namespace=app.namespace.name, body=change, content_type="application/merge-patch+json"
    )
    several = hook(selector={"tier": "db"}, **alone)
    done = fleet.run(*words, hooks_file(tmp_path, several)).ended(40)
    assert "2 running pods match: app, second" in done.err
    assert app.steps() == []
    every = hooks_file(tmp_path, {**several, "on_multiple": "all"})
    (claim,) = fleet.good(*words, every, "--json").messages("claim")
    assert [(one["step"], one["pod"]) for one in claim["hooks"]] == [("pre", "app"), ("pre", "second")]
    fleet.run(*words, hooks_file(tmp_path, {**several, "commnad": []})).ended(2)
    fleet.run("pvc", "backup", app.claim, "--method", "clone", "--hooks", hooks_file(tmp_path, hook())).ended(
        2
    )
    assert app.steps() == ["pre"]
    assert left_behind(app.namespace) == []
