"""Claims backed up and restored by movers on a real cluster, under restricted pod security."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kubernetes.dynamic.exceptions import NotFoundError

from pvback.cluster.claim_runs import ClaimRun, find_leftovers
from pvback.cluster.client import Cluster as Door
from pvback.cluster.kinds import CLAIM as CLAIM_KIND
from pvback.errors import ConflictError
from pvback.model import Claim
from pvback.runtime import SystemClock
from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import (
    Fleet,
    die,
    digest_of,
    left_behind,
    make_claim,
    wait_nothing_left,
    writer_pod,
)

pytestmark = pytest.mark.timeout(600)
MERGE = "application/merge-patch+json"
FILL = (
    "mkdir -p /{0}/deep/er; dd if=/dev/urandom of=/{0}/deep/er/large bs=64k count=80 2>/dev/null; "
    "for i in $(seq 1 200); do echo file $i > /{0}/f$i; done"
)


@pytest.mark.parametrize("method", ["live", "snapshot", "clone"])
def test_there_and_back(fleet: Fleet, connected: Namespace, method: str) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    target = f"{connected.name}/data"
    done = fleet.good("pvc", "backup", target, "--method", method, "--json")
    (claim,) = done.messages("claim")
    assert (claim["state"], claim["method"], claim["leftovers"]) == ("done", method, [])
    assert claim["result"]["stats"]["file_count"] == 201
    wait_nothing_left(connected)
    fleet.good("pvc", "restore", target, "--to", "again")
    wait_nothing_left(connected)
    connected.delete("v1", "Pod", "app")
    assert digest_of(connected, "again") == digest_of(connected, "data")
    (covered, copy) = fleet.good("pvc", "list", "-n", connected.name, "--json").json()[::-1]
    assert covered["snapshot"] == claim["result"]["snapshot"]
    assert covered["grade"] == {"live": "fuzzy"}.get(method, "crash")
    assert (copy["claim"], copy["last_backup"]) == (f"{connected.name}/again", None)


def test_a_second_backup_stores_what_is_new(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    target = f"{connected.name}/data"
    for method in ("live", "snapshot"):
        (claim,) = fleet.good("pvc", "backup", target, "--method", method, "--json").messages("claim")
    stats = claim["result"]["stats"]
    assert stats["new_bytes"] < 1 << 20, stats
    assert claim["result"]["parent"] is not None


def test_in_place_only_what_differs(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    target = f"{connected.name}/data"
    fleet.good("pvc", "backup", target)
    refused = fleet.run("pvc", "restore", target, "--in-place").ended(11)
    assert "pods have the claim: app" in refused.err
    connected.delete("v1", "Pod", "app")
    before = digest_of(connected, "data")
    spoil = (
        "rm /data/f1; echo other > /data/f2; echo more > /data/extra; "
        "printf x | dd of=/data/deep/er/large conv=notrunc"
    )
    connected.run(objects.pod("spoil", spoil, image=connected.cluster.image, claims=["data"]))
    assert digest_of(connected, "data") != before
    done = fleet.good("pvc", "restore", target, "--in-place", "--json")
    (summary,) = done.messages("summary")
    assert digest_of(connected, "data") == before
    assert summary["result"]["stats"]["bytes_written"] < 2 << 20, summary["result"]["stats"]


def test_who_has_no_data(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "waiting")
    (claim,) = fleet.good("pvc", "backup", f"{connected.name}/waiting", "--json").messages("claim")
    assert claim["state"] == "skipped"
    assert "never bound" in claim["note"]
    missing = fleet.run("pvc", "backup", f"{connected.name}/nowhere").ended(40)
    assert "nowhere" in missing.err
    make_claim(connected, "lost", storage_class="no-such-class")
    fleet.run("pvc", "backup", f"{connected.name}/lost").ended(40)
    (listed,) = [
        one
        for one in fleet.good("pvc", "list", "-n", connected.name, "--json").json()
        if "waiting" in one["claim"]
    ]
    assert listed["phase"] == "NeverBound"


def test_a_name_that_no_cluster_can_have(fleet: Fleet, namespace: Namespace) -> None:
    """Told before a key is made or a secret stored, for it would be wrong for life."""
    keys = fleet.good("key", "list", "--json").json()
    for words in (("connect", namespace.name), ("list", "-n", namespace.name)):
        refused = fleet.run("pvc", *words, "--cluster-name", "a/b").ended(2)
        assert "not a name for a cluster" in refused.err
    assert fleet.good("key", "list", "--json").json() == keys
    assert namespace.is_gone("v1", "Secret", "pvback-repository")


def test_not_connected(fleet: Fleet, namespace: Namespace) -> None:
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    done = fleet.run("pvc", "backup", f"{namespace.name}/data").ended(2)
    assert f"pvback pvc connect {namespace.name}" in done.err
    fleet.connect(namespace)
    fleet.run("pvc", "connect", namespace.name, "--image", fleet.image).ended(11)


def test_an_image_that_is_not_there(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    words = ("--image", "localhost/none:1")
    done = fleet.hasty().run("pvc", "backup", f"{connected.name}/data", *words).ended(40)
    assert "the mover does not start: ErrImage" in done.err or "ImagePullBackOff" in done.err
    wait_nothing_left(connected)
    fleet.good("pvc", "backup", f"{connected.name}/data")


@pytest.fixture
def nowhere(connected: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim `data` that is bound to a volume of a node that is not there."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gone"]}]}
    spec = {
        "capacity": {"storage": "64Mi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "local": {"path": "/nowhere"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        "claimRef": {"namespace": connected.name, "name": "data"},
    }
    metadata = {"name": connected.name}
    connected.cluster.create(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
    )
    make_claim(connected, "data", storage_class="")
    connected.wait_bound("data")
    yield connected
    with suppress(NotFoundError):
        connected.cluster.kind("v1", "PersistentVolume").delete(name=connected.name)


def test_a_mover_that_fits_nowhere(fleet: Fleet, nowhere: Namespace) -> None:
    words = ("--method", "live", "--start-timeout", "5")
    done = fleet.run("pvc", "backup", f"{nowhere.name}/data", *words).ended(40)
    assert "the mover does not start: Unschedulable" in done.err


def test_a_claim_that_has_lost_its_volume_or_is_being_deleted(fleet: Fleet, nowhere: Namespace) -> None:
    """It is neither read nor written to."""
    make_claim(nowhere, "going")
    writer_pod(nowhere, "app", "going", "echo x > /going/x")
    fleet.good("pvc", "backup", f"{nowhere.name}/going")
    claims = nowhere.cluster.kind("v1", "PersistentVolumeClaim")
    claims.delete(name="going", namespace=nowhere.name)
    volumes = nowhere.cluster.kind("v1", "PersistentVolume")
    volumes.delete(name=nowhere.name)
    # Before, it would be protected again at once.
    volumes.patch(name=nowhere.name, body={"metadata": {"finalizers": None}}, content_type=MERGE)
    wait_for(lambda: claims.get(name="data", namespace=nowhere.name).status.phase == "Lost", nowhere.events)
    for claim, why in (("data", "the claim has lost its volume"), ("going", "the claim is being deleted")):
        assert why in fleet.run("pvc", "backup", f"{nowhere.name}/{claim}").ended(40).err
        words = ("pvc", "restore", f"{nowhere.name}/going", "--to", claim, "--in-place")
        assert "the claim is lost or being deleted" in fleet.run(*words).ended(40).err
    assert not nowhere.is_gone("v1", "PersistentVolumeClaim", "going"), "its pod holds it"
    assert len(fleet.snapshots(nowhere)) == 1


def test_a_quota_in_the_way(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    connected.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "tight"},
            "spec": {"hard": {"limits.memory": "64Mi"}},
        }
    )
    refused = fleet.run("pvc", "backup", f"{connected.name}/data").ended(40)
    assert "exceeded quota" in refused.err


def test_a_limit_range_in_the_way(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    limit = {"type": "Container", "max": {"memory": "300Mi"}}
    metadata = {"name": "tight"}
    connected.create(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": [limit]}}
    )
    refused = fleet.run("pvc", "backup", f"{connected.name}/data").ended(40)
    assert "maximum memory usage per Container" in refused.err
    fleet.good("pvc", "backup", f"{connected.name}/data", "--mover-memory", "300MiB")


def test_clocks_apart(fleet: Fleet, connected: Namespace) -> None:
    """Who lives is told by the API server's clock: a wrong one takes no claim from another, nor keeps one."""
    make_claim(connected, "data")
    claim = Claim(connected.name, "data")
    for hours in (1, -1):
        here, there = door(fleet, 0), door(fleet, hours)
        for first, second in ((here, there), (there, here)):
            first.get(CLAIM_KIND, "data", namespace=connected.name)
            second.get(CLAIM_KIND, "data", namespace=connected.name)
            clock = SystemClock()
            run = ClaimRun.begin(first, claim, run="a" * 16, what="test", clock=clock)
            with pytest.raises(ConflictError):
                ClaimRun.begin(second, claim, run="b" * 16, what="test", clock=clock)
            assert find_leftovers(second, namespace=connected.name) == []
            assert run.end() == []


class Apart(SystemClock):
    """A clock that is wrong by some hours."""

    hours = 0

    def now(self) -> datetime:
        return super().now() + timedelta(hours=self.hours)


def door(fleet: Fleet, hours: int) -> Door:
    made = Door.connect(kubeconfig=str(fleet.kubeconfig))
    clock = Apart()
    clock.hours = hours
    made._clock = clock
    return made


def test_more_rights_only_where_they_are_allowed(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    done = fleet.run("pvc", "backup", f"{connected.name}/data", "--privileged").ended(2)
    assert "pvback.io/privileged-movers=true" in done.err
    change = {"metadata": {"annotations": {"pvback.io/privileged-movers": "true"}}}
    kind = connected.cluster.kind("v1", "Namespace")
    kind.patch(name=connected.name, body=change, content_type=MERGE)
    refused = fleet.run("pvc", "backup", f"{connected.name}/data", "--privileged").ended(40)
    assert "PodSecurity" in refused.err


def test_what_a_plain_user_cannot_read(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x; echo y > /data/closed; chmod 000 /data/closed")
    done = fleet.run("pvc", "backup", f"{connected.name}/data", "--json").ended(3)
    (claim,) = done.messages("claim")
    assert claim["state"] == "partly"
    assert claim["error"]["what"].startswith("1 files could not be read, for example ")
    assert "closed" in claim["error"]["what"]


def test_a_wrong_secret(fleet: Fleet, namespace: Namespace) -> None:
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    wrong = fleet.credentials(key="AKWRONG", secret="hidden-word")
    fleet.good("pvc", "connect", namespace.name, "--image", fleet.image, "--aws-credentials", str(wrong))
    done = fleet.run("pvc", "backup", f"{namespace.name}/data").ended(30)
    assert "in the mover" in done.err
    assert "hidden-word" not in done.err
    wait_nothing_left(namespace)


def test_a_store_that_pods_do_not_reach(fleet: Fleet, namespace: Namespace) -> None:
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    fleet.connect(namespace)
    fleet.good("pvc", "backup", f"{namespace.name}/data")
    fleet.connect(namespace, "--replace", "--mover-endpoint", "http://127.0.0.1:9")
    fleet.run("pvc", "backup", f"{namespace.name}/data", "--deadline", "45").ended(30, 40)
    done = fleet.run("pvc", "restore", f"{namespace.name}/data", "--to", "again", "--deadline", "45").ended(
        30, 40
    )
    wait_nothing_left(namespace)
    wait_for(
        lambda: namespace.is_gone("v1", "PersistentVolumeClaim", "again"), lambda: f"it stays: {done.err}"
    )


@pytest.mark.parametrize("snapshot_class", ["csi-failing", "csi-slow", "csi-larger"])
def test_volume_snapshots_that_take_their_time(
    fleet: Fleet, connected: Namespace, local_cluster: Cluster, snapshot_class: str
) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    words = ("--method", "snapshot", "--snapshot-class", snapshot_class, "--json")
    (claim,) = fleet.good("pvc", "backup", f"{connected.name}/data", *words).messages("claim")
    assert claim["method"] == "snapshot"


def test_copies_that_are_put_anywhere(fleet: Fleet, connected: Namespace, local_cluster: Cluster) -> None:
    """A class that binds at once asks nobody on which node it makes a copy: the mover goes there."""
    make_claim(connected, "data", storage_class="csi-immediate")
    connected.wait_bound("data")
    home = nodes_of(connected, "data").pop()
    words = ("pvc", "backup", f"{connected.name}/data", "--method", "snapshot", "--start-timeout", "60")
    seen: set[str] = set()
    for count in range(12):
        with fleet.start(*words) as process:
            wait_for(lambda: nodes_of(connected, "pvback-copy-"), connected.events)
            seen |= nodes_of(connected, "pvback-copy-")
            _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        wait_for(lambda: not nodes_of(connected, "pvback-copy-"), lambda: "the copy's volume stays")
        if seen - {home}:
            print(f"the volume is on {home}, and copy {count + 1} was not")
            return
    pytest.fail(f"all copies were on {seen}")


def nodes_of(namespace: Namespace, claim: str) -> set[str]:
    """Where volumes of claims are that are called so, or begin so."""
    found = set()
    for one in namespace.cluster.kind("v1", "PersistentVolume").get().to_dict()["items"]:
        owner = one["spec"].get("claimRef") or {}
        if owner.get("namespace") == namespace.name and owner["name"].startswith(claim):
            (term,) = one["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
            found.add(str(term["matchExpressions"][0]["values"][0]))
    return found


@pytest.mark.parametrize(
    ("snapshot_class", "why"), [("csi-never", "its driver says nothing"), ("no-such-class", "no-such-class")]
)
def test_a_volume_snapshot_that_is_never_ready(
    fleet: Fleet, connected: Namespace, local_cluster: Cluster, snapshot_class: str, why: str
) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    words = ("--method", "snapshot", "--snapshot-class", snapshot_class, "--staging-timeout", "5")
    done = fleet.hasty().run("pvc", "backup", f"{connected.name}/data", *words).ended(40)
    assert "not ready after 5 s: " in done.err
    assert why in done.err.partition("not ready after 5 s: ")[2]
    wait_nothing_left(connected)
    assert fleet.snapshots(connected) == []


def test_two_runs_on_one_claim(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    with fleet.start("pvc", "backup", f"{connected.name}/data", "--image", "localhost/none:1") as first:
        wait_for(lambda: left_behind(connected), lambda: "the first run does not begin")
        done = fleet.run("pvc", "backup", f"{connected.name}/data").ended(11)
        assert "another run works on this claim" in done.err
        first.terminate()
        assert first.wait(120) == 130


def test_killed_and_taken_over(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    with fleet.start("pvc", "backup", f"{connected.name}/data", "--method", "snapshot") as process:
        wait_for(lambda: any("Job" in one for one in left_behind(connected)), lambda: "no Job is made")
        process.kill()
        process.wait()
    found = left_behind(connected)
    assert found
    fleet.run("pvc", "backup", f"{connected.name}/data").ended(11)
    assert "0 objects" in fleet.good("pvc", "cleanup", "-n", connected.name).err, "it may live"
    die(connected)
    listed = fleet.good("pvc", "cleanup", "-n", connected.name, "--dry-run", "--json").json()
    assert {one.split("/")[1] for one in listed["found"]} >= {
        one.split(" ")[1] for one in found if "Pod" not in one
    }
    fleet.good("pvc", "cleanup", "-n", connected.name)
    wait_nothing_left(connected)
    assert not connected.is_gone("v1", "PersistentVolumeClaim", "data")
    fleet.good("pvc", "backup", f"{connected.name}/data")


def test_a_restore_that_is_killed_leaves_no_claim(fleet: Fleet, connected: Namespace) -> None:
    """Half full it would look restored. What is whole is the user's, without a mark of ours."""
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    fleet.good("pvc", "backup", f"{connected.name}/data")
    words = ("pvc", "restore", f"{connected.name}/data", "--to", "again")
    with fleet.start(*words, "--image", "localhost/none:1") as process:
        wait_for(lambda: any("Job" in one for one in left_behind(connected)), lambda: "no Job is made")
        process.kill()
        process.wait()
    assert not connected.is_gone("v1", "PersistentVolumeClaim", "again")
    die(connected)
    fleet.good("pvc", "cleanup", "-n", connected.name)
    wait_nothing_left(connected)
    assert connected.is_gone("v1", "PersistentVolumeClaim", "again")
    fleet.good(*words)
    metadata = connected.get("v1", "PersistentVolumeClaim", "again").metadata.to_dict()
    assert metadata["labels"] == {"pvback.test/claim": "data"}
    assert "ownerReferences" not in metadata
    assert "pvback.io/claim" not in metadata["annotations"]


def test_a_dead_run_is_taken_over_by_the_next(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    with fleet.start("pvc", "backup", f"{connected.name}/data", "--image", "localhost/none:1") as process:
        wait_for(lambda: any("Job" in one for one in left_behind(connected)), lambda: "no Job is made")
        process.kill()
        process.wait()
    die(connected)
    fleet.good("pvc", "backup", f"{connected.name}/data")


def test_interrupted(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    with fleet.start("pvc", "backup", f"{connected.name}/data") as process:
        wait_for(lambda: left_behind(connected), lambda: "the run does not begin")
        process.terminate()
        assert process.wait(120) == 130
    wait_nothing_left(connected)


@pytest.mark.long
def test_many_at_once(fleet: Fleet, connected: Namespace) -> None:
    names = [f"data{number}" for number in range(4)]
    for name in names:
        make_claim(connected, name)
        writer_pod(connected, f"app-{name}", name, f"echo {name} > /{name}/x")
    done = fleet.good("pvc", "backup", "-n", connected.name, "--all", "--json")
    assert {one["state"] for one in done.messages("claim")} == {"done"}
    make_claim(connected, "broken", storage_class="no-such-class")
    partly = fleet.run("pvc", "backup", "-n", connected.name, "--all", "--json").ended(3)
    states = {one["claim"]: one["state"] for one in partly.messages("claim")}
    assert states.pop(f"{connected.name}/broken") == "failed"
    assert set(states.values()) == {"done"}
    assert f"{connected.name}/broken" in partly.err
    named = [f"{connected.name}/{name}" for name in ("data0", "nowhere", "data1")]
    missed = fleet.run("pvc", "backup", *named, "--json").ended(3)
    states = {one["claim"]: one["state"] for one in missed.messages("claim")}
    assert states == dict(zip(named, ("done", "failed", "done"), strict=True))
    table = fleet.good("pvc", "list", "-n", connected.name)
    assert "none" in table.out


def test_of_another_size_and_other_labels(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL.format("data"))
    target = f"{connected.name}/data"
    fleet.good("pvc", "backup", target)
    small = fleet.run("pvc", "restore", target, "--to", "small", "--size", "1MiB").ended(2)
    assert "too small" in small.err
    fleet.good("pvc", "restore", target, "--to", "big", "--size", "96MiB", "--label", "kind=copy")
    made = connected.get("v1", "PersistentVolumeClaim", "big")
    assert made.spec.resources.requests.storage == "96Mi"
    assert dict(made.metadata.labels) == {"kind": "copy"}


def test_as_of(fleet: Fleet, connected: Namespace) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo one > /data/x")
    target = f"{connected.name}/data"
    fleet.good("pvc", "backup", target)
    between = datetime.now(UTC)
    connected.delete("v1", "Pod", "app")
    writer_pod(connected, "app", "data", "echo two > /data/x")
    fleet.good("pvc", "backup", target)
    done = fleet.good("pvc", "restore", target, "--to", "then", "--as-of", between.isoformat())
    assert "before the time that was asked for" in done.out
    show = objects.pod("show", "cat /then/x", image=connected.cluster.image, claims=["then"])
    assert connected.run(show) == "one\n"
    early = fleet.run(
        "pvc", "restore", target, "--to", "never", "--as-of", "2020-01-01T00:00:00+00:00"
    ).ended(2)
    assert "the first is of" in early.err


def test_the_secret_opens_nothing(fleet: Fleet, connected: Namespace, tmp_path: Path) -> None:
    """With all that its movers have, a namespace reads no content: neither its own nor of others."""
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo private > /data/x")
    fleet.good("pvc", "backup", f"{connected.name}/data")
    (snapshot,) = fleet.snapshots(connected)
    secret = connected.get("v1", "Secret", "pvback-repository")
    key = tmp_path / "key"
    key.write_bytes(base64.b64decode(secret.data["key"]))
    variables = {
        "PVBACK_PASSWORD": "",
        "PVBACK_KEY_FILE": str(key),
        "PVBACK_CACHE_DIR": str(tmp_path / "cache"),
    }
    fleet.good("pvc", "restore", f"{connected.name}/data", "--to", "again")
    words = ("restore", snapshot["id"], "--target", str(tmp_path / "out"))
    fleet.run(*words, **variables).ended(12)
    assert not (tmp_path / "out" / "x").exists()
    keys = fleet.good("key", "list", "--json").json()
    ours = [one for one in keys if f"of {connected.name}/" in (one["label"] or "")]
    assert not [one for one in ours if one["role"] == "restorer"], "the keys of restores are removed"


def test_restricted_pods_without_a_token(fleet: Fleet, connected: Namespace) -> None:
    """What the mover's pod is like, as it was admitted."""
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo x > /data/x")
    seen: list[str] = []
    with fleet.start("pvc", "backup", f"{connected.name}/data") as process:
        pods = connected.cluster.kind("v1", "Pod")

        def look() -> bool:
            found = pods.get(namespace=connected.name, label_selector="pvback.io/role=mover").items
            seen.extend(json.dumps(one.to_dict()["spec"]) for one in found)
            return bool(found)

        wait_for(look, lambda: "no mover")
        assert process.wait(120) == 0
    spec = json.loads(seen[0])
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsUser"] == objects.USER
    (volume,) = [one for one in spec["volumes"] if one["name"] == "data"]
    assert volume["persistentVolumeClaim"]
    assert not [
        one for one in container["env"] if "secret" in json.dumps(one).lower() and "FILE" not in one["name"]
    ]


Made = Callable[..., str]


def test_static_volumes_on_their_node(
    fleet: Fleet, connected: Namespace, static_volume: Made, local_cluster: Cluster
) -> None:
    static_volume("n2")
    make_claim(connected, "data", storage_class="static")
    writer_pod(connected, "app", "data", FILL.format("data"))
    target = f"{connected.name}/data"
    refused = fleet.run("pvc", "backup", target, "--method", "snapshot").ended(40)
    assert "no volume snapshot can be taken" in refused.err
    (claim,) = fleet.good("pvc", "backup", target, "--json").messages("claim")
    assert claim["method"] == "live"
    assert "no volume snapshot can be taken" in claim["note"]
