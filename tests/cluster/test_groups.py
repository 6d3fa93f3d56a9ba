"""Claims of a real cluster that are cut at one instant.

The writer here counts in two claims by turns: whoever sees both at one instant sees the same number, or one
more in the first.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Done, Fleet, die, left_behind, make_claim, wait_nothing_left
from tests.cluster.test_hooks import NOTE, Application, did, hook, hooks_file, shell

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
LABELS = {"pvback.test/group": "db"}
GROUP = ("--group", "pvback.test/group=db")
COUNT = "i=0; while true; do i=$((i+1)); echo $i >> /data/count; echo $i >> /wal/count; usleep 500; done"


@pytest.fixture
def connected(fleet: Fleet, namespace: Namespace, local_cluster: Cluster) -> Iterator[Namespace]:
    fleet.connect(namespace)
    yield namespace
    wait_no_groups(namespace)


def of_groups(namespace: Namespace) -> list[str]:
    """What the cluster has of groups, and of volume snapshots, for this namespace."""
    kinds = [
        ("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshot"),
        ("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotContent"),
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshot"),
        ("snapshot.storage.k8s.io/v1", "VolumeSnapshotContent"),
    ]
    found = []
    for api_version, kind in kinds:
        for one in namespace.cluster.kind(api_version, kind).get().items:
            owner = (
                one.spec.get("volumeSnapshotRef") or one.spec.get("volumeGroupSnapshotRef") or one.metadata
            )
            found += [f"{kind} {one.metadata.name}"] if owner["namespace"] == namespace.name else []
    return found


def wait_no_groups(namespace: Namespace) -> None:
    """Return when nothing of a group is left: what was deleted takes a moment to go."""
    wait_nothing_left(namespace)
    wait_for(lambda: not of_groups(namespace), lambda: f"left: {of_groups(namespace)}")


def label(namespace: Namespace, name: str, value: str | None = "db") -> None:
    namespace.cluster.kind("v1", "PersistentVolumeClaim").patch(
        name=name,
        namespace=namespace.name,
        body={"metadata": {"labels": dict.fromkeys(LABELS, value)}},
        content_type="application/merge-patch+json",
    )


@pytest.fixture
def app(connected: Namespace) -> Application:
    """A pod that counts in the claims `data` and `wal`, of a file system of their own each."""
    for name in ("data", "wal"):
        make_claim(connected, name, storage_class="csi-ext4")
        label(connected, name)
    script = f"touch /tmp/journal; {COUNT}"
    claims = ["data", "wal"]
    connected.create(objects.pod("app", script, image=connected.cluster.image, claims=claims))
    connected.wait_phase("app", "Running")
    return Application(connected)


def counted(fleet: Fleet, namespace: Namespace, done: Done) -> dict[str, int]:
    """Up to where each claim's copy counts."""
    found = {}
    for claim in done.messages("claim"):
        text = fleet.good("dump", f"{claim['result']['snapshot']}:count", "--scope", namespace.name).out
        found[claim["claim"].partition("/")[2]] = int(text.split("\n")[-2])
    return found


def test_one_instant(fleet: Fleet, app: Application) -> None:
    done = fleet.good("pvc", "backup", "-n", app.namespace.name, *GROUP, "--json")
    one, two = done.messages("claim")
    assert [one["state"], two["state"]] == ["done", "done"]
    counts = counted(fleet, app.namespace, done)
    print(counts)
    assert counts["wal"] > 100, "it counts while it is cut"
    assert counts["data"] - counts["wal"] in (0, 1)
    # Both say which others are of the same instant, and so does the record.
    snapshots = fleet.snapshots(app.namespace)
    assert {one["tags"]["pvback.io/group"] for one in snapshots} == {one["group"]} == {two["group"]}
    assert {one["grade"] for one in snapshots} == {"crash"}
    filtered = fleet.good(
        "snapshots", "--scope", app.namespace.name, "--tag", f"pvback.io/group={one['group']}", "--json"
    )
    assert len(filtered.json()) == 2
    covered = fleet.good("pvc", "list", "-n", app.namespace.name, "--json").json()
    assert [found["group"] for found in covered] == [one["group"]] * 2
    # Cut one after the other they are of different instants: this writer would have shown it.
    alone = fleet.good("pvc", "backup", "-n", app.namespace.name, "--all", "--at-once", "1", "--json")
    assert {found["group"] for found in alone.messages("claim")} == {None}
    counts = counted(fleet, app.namespace, alone)
    assert counts["data"] - counts["wal"] not in (0, 1), counts


def test_of_all_namespaces(fleet: Fleet, connected: Namespace, other: Namespace) -> None:
    """Each namespace's claims are a group of their own; others are backed up beside them, one by one."""
    mine = connected.name
    for namespace, names in ((connected, ("data", "wal", "alone")), (other, ("data", "wal"))):
        for name in names:
            make_claim(namespace, name, storage_class="csi-ext4")
            labels = {"pvback.test/of": mine, **({"pvback.test/group": mine} if name != "alone" else {})}
            namespace.cluster.kind("v1", "PersistentVolumeClaim").patch(
                name=name,
                namespace=namespace.name,
                body={"metadata": {"labels": labels}},
                content_type="application/merge-patch+json",
            )
        script = "; ".join(f"echo {name} > /{name}/x" for name in names)
        namespace.run(objects.pod("fill", script, image=namespace.cluster.image, claims=names))
        namespace.delete("v1", "Pod", "fill")
    words = ("pvc", "backup", "-A", "--group", f"pvback.test/group={mine}", "--exclude", "lost+found")
    done = fleet.good(*words)
    assert f"namespace {other.name} is not connected: 2 claims left out" in done.err
    assert {one["source"].rpartition("/")[2] for one in fleet.snapshots(connected)} == {"data", "wal"}
    fleet.connect(other)
    claims = fleet.good(*words, "--selector", f"pvback.test/of={mine}", "--json").messages("claim")
    found = {one["claim"]: one["group"] for one in claims}
    own = [f"{mine}/{name}" for name in ("alone", "data", "wal")]
    theirs = [f"{other.name}/{name}" for name in ("data", "wal")]
    assert sorted(found) == sorted(own + theirs)
    groups = [found[name] for name in (*own, *theirs)]
    assert groups[0] is None
    assert (groups[1], groups[3]) == (groups[2], groups[4])
    assert len(set(groups)) == 3, "no group reaches into another namespace"
    done = fleet.run("pvc", "backup", "-A", "--group", f"pvback.test/group={mine}-none").ended(2)
    assert "no claim in any namespace has the label" in done.err
    done = fleet.run(*words, "--namespace", mine).ended(2)
    assert "`--all-namespaces` goes with `--all`, `--selector` or `--group` alone" in done.err
    wait_no_groups(other)


def test_one_hook_for_two_claims(fleet: Fleet, app: Application) -> None:
    """It runs once, and holds until both are cut; beside the group another claim of the pod has its turn."""
    app.annotate(hook(quiesce=None), hook(name="held", pre=None, post=None), kind="Pod", name="app")
    done = fleet.good("pvc", "backup", "-n", app.namespace.name, *GROUP, "--json")
    claims = done.messages("claim")
    steps = [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    assert [did(one) for one in claims] == [steps] * 2
    assert app.steps() == ["pre", "frozen", "thawed", "post"]
    assert {one["grade"] for one in fleet.snapshots(app.namespace)} == {"app"}
    counts = counted(fleet, app.namespace, done)
    assert counts["data"] - counts["wal"] in (0, 1)
    listed = fleet.good("ls", claims[0]["result"]["snapshot"], "--scope", app.namespace.name).out
    assert "held" in listed, "it was cut while the hook held"


def test_a_group_and_others_take_turns(fleet: Fleet, app: Application, connected: Namespace) -> None:
    """`--all` with a group: the others one by one, and not while a hook of theirs runs for the group."""
    make_claim(connected, "other", storage_class="csi-ext4")
    script = "while true; do sleep 1; done"
    connected.create(objects.pod("user", script, image=connected.cluster.image, claims=["other"]))
    connected.wait_phase("user", "Running")
    quiesce = {"command": shell(NOTE + "note frozen; echo frozen; cat > /dev/null; note thawed")}
    # At the claims, and in the pod of the group: only the group is of that pod.
    app.annotate(hook(quiesce=quiesce, pre=None, post=None), kind="Pod", name="app")
    at_other = hook(quiesce=quiesce, pre=None, post=None, name="far", on_multiple="all")
    label_of_pod = {"pvback.test/pod": "app"}
    connected.cluster.kind("v1", "Pod").patch(
        name="app",
        namespace=connected.name,
        body={"metadata": {"labels": label_of_pod}},
        content_type="application/merge-patch+json",
    )
    app.annotate({**at_other, "selector": label_of_pod}, name="other")
    words = ("pvc", "backup", "-n", connected.name, "--all", *GROUP, "--json")
    claims = fleet.good(*words).messages("claim")
    assert sorted(one["claim"].partition("/")[2] for one in claims) == ["data", "other", "wal"]
    assert [one["group"] is None for one in claims] == [True, False, False]
    assert app.steps() == ["frozen", "thawed"] * 2
    assert len(fleet.snapshots(connected)) == 3


def test_one_mover_fails(fleet: Fleet, app: Application) -> None:
    """The other claim's snapshot is stored, and the one that is not is named."""
    words = ("pvc", "backup", "-n", app.namespace.name, *GROUP, "--json", "--per-node", "1")
    jobs = app.namespace.cluster.kind("batch/v1", "Job")

    def job_of(claim: str) -> Any:
        found = jobs.get(namespace=app.namespace.name, label_selector="pvback.io/run").items
        return next((one for one in found if f"-{claim}-" in one.metadata.name), None)

    with fleet.start(*words) as process:
        job = wait_for(lambda: job_of("data"), lambda: "no Job is made")
        jobs.delete(
            name=job.metadata.name,
            namespace=app.namespace.name,
            body={"propagationPolicy": "Background"},
        )
        out, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert f"{app.namespace.name}/data" in err
    assert f"{app.namespace.name}/wal" not in err
    claims = [one for one in map(json.loads, out.splitlines()) if one["message_type"] == "claim"]
    assert [one["state"] for one in claims] == ["failed", "done"]
    assert len(fleet.snapshots(app.namespace)) == 1


def test_what_is_refused(
    fleet: Fleet, app: Application, static_volume: Any, connected: Namespace, tmp_path: Path
) -> None:
    """Before anything is touched."""
    name = connected.name
    words = ("pvc", "backup", "-n", name)
    done = fleet.run(*words, "--group", "pvback.test/group=no").ended(2)
    assert f"no claim in namespace {name} has the label pvback.test/group=no" in done.err
    fleet.run(*words, "--group", "nothing").ended(2)
    fleet.run(*words, *GROUP, "--method", "live").ended(2)
    fleet.run(*words, "-A", *GROUP).ended(2)
    fleet.run("pvc", "backup", "-A", *GROUP, "--method", "live").ended(2)
    fleet.run(*words, *GROUP, "--group", "pvback.test/claim=data").ended(2)
    make_claim(connected, "waiting", storage_class="csi-ext4")
    label(connected, "waiting")
    done = fleet.run(*words, *GROUP).ended(40)
    assert f"{name}/waiting" in done.out + done.err
    assert "not bound" in done.out + done.err
    label(connected, "waiting", None)
    volume = static_volume("n1")
    body = objects.claim("far", storage_class="static")
    body["spec"]["volumeName"] = volume
    body["metadata"]["labels"] = LABELS
    connected.create(body)
    connected.wait_bound("far")
    done = fleet.run(*words, *GROUP).ended(40)
    assert "claim far is of no CSI driver that is known" in done.out
    label(connected, "far", None)
    done = fleet.run(*words, *GROUP, "--group-class", "none", "--staging-timeout", "3").ended(40)
    assert "were not ready after 3 s" in done.out
    one = hook(quiesce=None, post=None)
    app.annotate(one)
    app.annotate({**one, "pre": {"command": ["true"]}}, name="wal")
    assert "several hooks are called app" in fleet.run(*words, *GROUP).ended(2).out
    assert app.steps() == []
    many = {**one, "name": "file"}
    fleet.run(*words, *GROUP, "--no-hooks", "--hooks", hooks_file(tmp_path, many)).ended(2)
    assert fleet.snapshots(connected) == []
    assert left_behind(connected) == []
    wait_no_groups(connected)


def test_one_of_its_claims_is_worked_on(fleet: Fleet, app: Application) -> None:
    """Then none is touched, and all can be had afterwards."""
    name = app.namespace.name
    words = ("pvc", "backup", f"{name}/wal", "--method", "live", "--image", "localhost/none:1")
    with fleet.start(*words) as process:
        wait_for(lambda: any("Job" in one for one in left_behind(app.namespace)), lambda: "no Job is made")
        before = left_behind(app.namespace)
        done = fleet.run("pvc", "backup", "-n", name, *GROUP).ended(11)
        assert "another run works on this claim: backup by live" in done.out
        assert left_behind(app.namespace) == before
        process.terminate()
        process.communicate(timeout=120)
    fleet.good("pvc", "backup", f"{name}/data", "--method", "live")


@pytest.mark.parametrize("count", [1, 3, 4, 6, 9, 11])
def test_killed(fleet: Fleet, app: Application, count: int) -> None:
    """Before the n-th change: two runs, the group, two copies and movers each, and what is removed again.

    The next run on any of the claims takes all of it over, a cleanup likewise.
    """
    name = app.namespace.name
    done = fleet.mortal(count, "pvc", "backup", "-n", name, *GROUP)
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
    if 1 < count < 9:
        fleet.run("pvc", "backup", f"{name}/wal").ended(11)
    die(app.namespace)
    if count % 2:
        fleet.good("pvc", "cleanup", "-n", name)
    else:
        fleet.good("pvc", "backup", f"{name}/wal")
    wait_no_groups(app.namespace)
    fleet.good("pvc", "backup", "-n", name, *GROUP)
