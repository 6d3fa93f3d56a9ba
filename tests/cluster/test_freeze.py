"""File systems of a real cluster frozen while they are cut, and thawed whatever happens.

Only volumes of class `csi-ext4` are frozen here, which are loop devices with a file system of their own. The
application writes the time into its volume again and again: how long it could not is what a freeze was.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Fleet, die, left_behind, make_claim, wait_nothing_left
from tests.cluster.test_groups import GROUP, counted, label
from tests.cluster.test_hooks import NOTE, Application, did, hook, shell

pytestmark = pytest.mark.timeout(600)
WRITE = "touch /tmp/journal; while true; do cut -d' ' -f1 /proc/uptime >> /data/times; usleep 20000; done"
COUNT = "i=0; while true; do i=$((i+1)); echo $i >> /data/count; echo $i >> /wal/count; usleep 500; done"
PAUSE_SECONDS = 2.0
"""So long does nobody who is not frozen fail to write, on a busy machine either."""
NEVER = ("--method", "snapshot", "--snapshot-class", "none", "--freeze")
"""Nobody cuts for a class that is not there: it is frozen until something ends that."""


def allow(namespace: Namespace, *, level: str | None = "privileged", annotation: str | None = "true") -> None:
    """What the owner of a namespace does, and the administrator."""
    change: dict[str, Any] = {"annotations": {"pvback.io/privileged-movers": annotation}}
    if level is not None:
        change["labels"] = {"pod-security.kubernetes.io/enforce": level}
    namespace.cluster.kind("v1", "Namespace").patch(
        name=namespace.name, body={"metadata": change}, content_type="application/merge-patch+json"
    )


@pytest.fixture
def allowed(fleet: Fleet, namespace: Namespace, local_cluster: Cluster) -> Iterator[Namespace]:
    fleet.connect(namespace)
    allow(namespace)
    yield namespace
    wait_nothing_left(namespace)


class Writer(Application):
    """A pod `app` that writes the time into the claim `data`."""

    def is_frozen(self) -> bool:
        """Whether it has not written for a while."""
        last, now = self.run("tail -n 1 /data/times; cut -d' ' -f1 /proc/uptime").split()
        return float(now) - float(last) > PAUSE_SECONDS

    def wait_frozen(self) -> None:
        wait_for(self.is_frozen, lambda: f"it writes: {left_behind(self.namespace)}")

    def wait_thawed(self, *, since: float) -> float:
        """When it wrote first after that moment."""

        def look() -> float | None:
            found = self.run(f"awk '$1 > {since} {{print $1; exit}}' /data/times")
            return float(found) if found else None

        return wait_for(look, lambda: "it stays frozen")

    def gaps(self) -> list[float]:
        """Pauses between writes that are long, the longest first."""
        script = "awk 'NR > 1 && $1 - last > 0.03 {print $1 - last} {last = $1}' /data/times"
        return sorted(map(float, self.run(script).split()), reverse=True)


@pytest.fixture
def app(allowed: Namespace) -> Writer:
    make_claim(allowed, "data", storage_class="csi-ext4")
    allowed.create(objects.pod("app", WRITE, image=allowed.cluster.image, claims=["data"]))
    allowed.wait_phase("app", "Running")
    found = Writer(allowed)
    wait_for(lambda: found.run("ls /data").find("times") >= 0, lambda: "it does not write")
    return found


def process_of(namespace: Namespace, words: str) -> int | None:
    """A process of the pod that freezes, as this machine sees it."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            names = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        pods = freeze_pods(namespace)
        if words in said and any(f"HOSTNAME={pod}".encode() in names for pod in pods):
            return int(folder.name)
    return None


def freeze_pods(namespace: Namespace) -> list[str]:
    found = namespace.cluster.kind("v1", "Pod").get(
        namespace=namespace.name, label_selector="pvback.io/role=freeze"
    )
    return [one.metadata.name for one in found.items]


def test_the_application_waits_and_goes_on(fleet: Fleet, app: Writer) -> None:
    done = fleet.good("pvc", "backup", app.claim, "--freeze", "--snapshot-class", "csi-slow", "--json")
    (claim,) = done.messages("claim")
    assert did(claim) == [("quiesce", True), ("thaw", True)]
    assert {one["hook"] for one in claim["hooks"]} == {"fsfreeze"}
    said = claim["hooks"][-1]["seconds"]
    longest = app.gaps()[0]
    print(f"frozen for {said:.2f} s by its own account, {longest:.2f} s by the writer's")
    # Between the two the file system is frozen for all of what is said but the way of a word or two.
    assert longest > said / 2
    assert abs(longest - said) < 1
    # Until it was cut, and not until it could be used, which takes five seconds more.
    assert longest < claim["seconds"] - 5
    # The application did not hold still: it is what it would be without, but for the journal.
    (snapshot,) = fleet.snapshots(app.namespace)
    assert snapshot["grade"] == "crash"
    text = fleet.good("pvc", "backup", app.claim, "--freeze").err
    assert "had the file system frozen for" in text


def test_after_the_application_has(fleet: Fleet, app: Writer) -> None:
    """First the application holds still, then its file system; and the other way back."""
    script = (
        NOTE + "note frozen; touch /data/held; echo frozen; timeout 60 cat > /dev/null; "
        "rm /data/held && note thawed"
    )
    app.annotate(hook(quiesce={"command": shell(script)}))
    (claim,) = fleet.good("pvc", "backup", app.claim, "--freeze", "--json").messages("claim")
    names = [(one["hook"], one["step"]) for one in claim["hooks"]]
    assert names == [
        ("app", "pre"),
        ("app", "quiesce"),
        ("fsfreeze", "quiesce"),
        ("fsfreeze", "thaw"),
        ("app", "thaw"),
        ("app", "post"),
    ]
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    (snapshot,) = fleet.snapshots(app.namespace)
    assert snapshot["grade"] == "app"
    assert "held" in fleet.good("ls", snapshot["id"], "--scope", app.namespace.name).out


def kill_pvback(app: Writer, process: Any) -> None:
    process.kill()


def kill_freeze(app: Writer, process: Any) -> None:
    pid = process_of(app.namespace, "mover freeze")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def kill_guard(app: Writer, process: Any) -> None:
    """All of the container goes with its main process; the kubelet starts it again."""
    pid = process_of(app.namespace, "mover guard")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def kill_both(app: Writer, process: Any) -> None:
    """Nobody is left who could thaw it, but for the guard that the kubelet starts."""
    pid = process_of(app.namespace, "mover freeze")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    kill_guard(app, process)


def stop_guard(app: Writer, process: Any) -> None:
    """As an eviction does: the pod is told to go, and has its grace."""
    (pod,) = freeze_pods(app.namespace)
    app.namespace.cluster.kind("v1", "Pod").delete(name=pod, namespace=app.namespace.name)


@pytest.mark.parametrize(
    ("end", "seconds"),
    [(kill_pvback, 5), (kill_freeze, 5), (stop_guard, 5), (kill_guard, 10), (kill_both, 10)],
)
def test_thawed_whatever_happens(
    fleet: Fleet, app: Writer, end: Callable[[Writer, Any], None], seconds: float
) -> None:
    with fleet.start("pvc", "backup", app.claim, *NEVER) as process:
        app.wait_frozen()
        before = app.uptime()
        end(app, process)
        thawed = app.wait_thawed(since=before)
        print(f"{end.__name__}: thawed {thawed - before:.2f} s afterwards")
        assert thawed - before < seconds
        if end is kill_pvback:
            process.wait()
            die(app.namespace)
            fleet.good("pvc", "cleanup", "-n", app.namespace.name)
        else:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 40, err
            assert "quiesce did not hold until the copy was made" in err
    assert fleet.snapshots(app.namespace) == []
    wait_for(lambda: not app.is_frozen(), lambda: "it does not go on")


def test_stopped_beyond_its_lease(fleet: Fleet, app: Writer) -> None:
    """Neither pvback nor the process that has frozen does anything any more: the guard does."""
    with fleet.start("pvc", "backup", app.claim, *NEVER, "--freeze-lease", "6") as process:
        app.wait_frozen()
        pid = process_of(app.namespace, "mover freeze")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        process.send_signal(signal.SIGSTOP)
        before = app.uptime()
        thawed = app.wait_thawed(since=before)
        print(f"thawed {thawed - before:.2f} s afterwards")
        assert thawed - before < 8
        os.kill(pid, signal.SIGCONT)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 40, err


def test_the_lease(fleet: Fleet, app: Writer) -> None:
    done = fleet.run("pvc", "backup", app.claim, *NEVER, "--freeze-lease", "4", "--json").ended(40)
    assert "its lease of 4 s is over" in done.err
    (claim,) = done.messages("claim")
    assert next((one["step"], one["error"] is None) for one in claim["hooks"]) == ("quiesce", True)
    print(app.gaps()[:2])
    assert app.gaps()[0] < 5
    assert fleet.snapshots(app.namespace) == []


def test_a_folder_of_the_node_is_refused(fleet: Fleet, allowed: Namespace) -> None:
    """To freeze it would be to freeze the node."""
    make_claim(allowed, "data", storage_class="csi")
    allowed.create(objects.pod("app", WRITE, image=allowed.cluster.image, claims=["data"]))
    allowed.wait_phase("app", "Running")
    app = Writer(allowed)
    done = fleet.run("pvc", "backup", app.claim, "--freeze", "--method", "snapshot").ended(40)
    assert "not frozen: it is the folder " in done.err
    assert fleet.snapshots(allowed) == []


def test_what_is_refused(fleet: Fleet, app: Writer) -> None:
    """Before anything is made."""
    namespace = app.namespace
    words = ("pvc", "backup", app.claim, "--freeze")
    for method in ("live", "clone"):
        done = fleet.run(*words, "--method", method).ended(2)
        assert "for a volume snapshot only" in done.err
    allow(namespace, annotation=None)
    done = fleet.run(*words).ended(2)
    assert "does not allow a pod that freezes more rights" in done.err
    for level in ("restricted", "baseline"):
        allow(namespace, level=level)
        done = fleet.run(*words).ended(40)
        assert "the pod that freezes would be refused" in done.err
        assert "SYS_ADMIN" in done.err
    allow(namespace)
    make_claim(namespace, "raw", block=True)
    script = "while true; do sleep 1; done"
    namespace.create(objects.pod("user", script, image=namespace.cluster.image, devices=["raw"]))
    namespace.wait_phase("user", "Running")
    done = fleet.run("pvc", "backup", f"{namespace.name}/raw", "--freeze").ended(40)
    assert "a raw device has no file system" in done.err
    assert fleet.snapshots(namespace) == []
    assert left_behind(namespace) == []


def capabilities_of(namespace: Namespace) -> list[list[str]]:
    """What the pods that freeze have."""
    found = namespace.cluster.kind("v1", "Pod").get(
        namespace=namespace.name, label_selector="pvback.io/role=freeze"
    )
    return [list(one.spec.containers[0].securityContext.capabilities.add) for one in found.items]


def make_closed(namespace: Namespace, *, storage_class: str) -> None:
    """A claim whose root folder another user has closed, and the pod that writes into it."""
    make_claim(namespace, "data", storage_class=storage_class)
    script = f"chown 5:5 /data; chmod 700 /data; {WRITE}"
    body = objects.pod("app", script, image=namespace.cluster.image, claims=["data"])
    body["spec"]["securityContext"] = {"runAsUser": 0}
    body["spec"]["containers"][0]["securityContext"] = {}
    namespace.create(body)
    namespace.wait_phase("app", "Running")


def test_a_folder_that_only_its_owner_may_open(fleet: Fleet, allowed: Namespace) -> None:
    """Root without any other capability is nobody special there: a pod with one more takes its place."""
    make_closed(allowed, storage_class="csi-ext4")
    app = Writer(allowed)
    wait_for(lambda: app.run("ls /data").find("times") >= 0, lambda: "it does not write")
    with fleet.start("pvc", "backup", app.claim, *NEVER) as process:
        able = ["SYS_ADMIN", "DAC_READ_SEARCH"]
        wait_for(lambda: able in capabilities_of(allowed), lambda: f"{capabilities_of(allowed)}")
        app.wait_frozen()
        before = app.uptime()
        kill_guard(app, process)
        thawed = app.wait_thawed(since=before)
        print(f"thawed {thawed - before:.2f} s after its guard was killed")
        assert thawed - before < 10
        _, err = process.communicate(timeout=120)
        assert process.returncode == 40, err
    words = ("--privileged", "--exclude", "lost+found", "--json")
    (claim,) = fleet.good("pvc", "backup", app.claim, "--freeze", *words).messages("claim")
    assert did(claim) == [("quiesce", True), ("thaw", True)]


def test_a_closed_folder_of_the_node_is_refused(fleet: Fleet, allowed: Namespace) -> None:
    """Who may read more is kept from freezing the node as everybody else is."""
    make_closed(allowed, storage_class="csi")
    done = fleet.run("pvc", "backup", f"{allowed.name}/data", "--freeze", "--method", "snapshot").ended(40)
    assert "not frozen: it is the folder " in done.err
    assert fleet.snapshots(allowed) == []


def test_a_claim_that_no_pod_has(fleet: Fleet, allowed: Namespace) -> None:
    make_claim(allowed, "data", storage_class="csi-ext4")
    allowed.run(objects.pod("fill", "echo x > /data/x", image=allowed.cluster.image, claims=["data"]))
    allowed.delete("v1", "Pod", "fill")
    done = fleet.good("pvc", "backup", f"{allowed.name}/data", "--freeze", "--exclude", "lost+found")
    assert "no pod has it: there is nothing to freeze" in done.err
    (snapshot,) = fleet.snapshots(allowed)
    assert snapshot["grade"] == "cold"


def test_a_group(fleet: Fleet, allowed: Namespace) -> None:
    """The file systems of all its claims stand still at once."""
    for name in ("data", "wal"):
        make_claim(allowed, name, storage_class="csi-ext4")
        label(allowed, name)
    claims = ["data", "wal"]
    allowed.create(objects.pod("app", COUNT, image=allowed.cluster.image, claims=claims))
    allowed.wait_phase("app", "Running")
    done = fleet.good("pvc", "backup", "-n", allowed.name, *GROUP, "--freeze", "--json")
    for one in done.messages("claim"):
        assert [(step["hook"], step["step"]) for step in one["hooks"]] == [
            ("fsfreeze", "quiesce"),
            ("fsfreeze", "quiesce"),
            ("fsfreeze", "thaw"),
            ("fsfreeze", "thaw"),
        ]
    counts = counted(fleet, allowed, done)
    print(counts, json.dumps(done.messages("claim")[0]["hooks"]))
    assert counts["data"] - counts["wal"] in (0, 1)
