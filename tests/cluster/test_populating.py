"""Claims that name a Restore as their `dataSourceRef`: filled, or left unbound, and nothing in between."""

import base64
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.dynamic.exceptions import UnprocessibleEntityError

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import die, digest_of, left_behind, make_claim, wait_nothing_left
from tests.cluster.restores import (
    claim_of,
    claim_status,
    events_of,
    is_unbound,
    passage,
    remove_populators_rights,
    restore,
    says,
    status_of,
    volumes_of,
)
from tests.cluster.saved import Saved, logs_of

pytestmark = pytest.mark.timeout(600)
NOBODY = ("--image", "localhost/none:1")
"""A mover that never starts."""


def test_filled(saved: Saved) -> None:
    namespace = saved.namespace
    saved.wish("again")
    assert is_unbound(namespace, "again")
    (done,) = saved.populate("--json").ended(0).messages("claim")
    assert (done["state"], done["claim"]) == ("filled", f"{namespace.name}/again")
    volume = namespace.wait_bound("again")
    wait_nothing_left(namespace)
    assert digest_of(namespace, "again") == saved.digest
    status = status_of(namespace, "again")
    (snapshot,) = saved.fleet.snapshots(namespace)
    assert status["snapshot"] == snapshot["id"] == done["snapshot"]
    assert status["source"] == f"pvc:default/{namespace.name}/data"
    assert (status["phase"], status["taken"][:19]) == ("Restored", done["taken"][:19])
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Resolved": "True",
        "Restored": "True",
    }
    assert claim_status(namespace, "again", "again")["volume"] == volume
    assert "PvbackRestored" in events_of(namespace, "again")
    found = volumes_of(namespace)
    assert found[volume]["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert set(found) == {volume, namespace.wait_bound("data")}, "one volume for each claim, and no other"
    assert "0 claims filled, of 0" in saved.populate().ended(0).err
    assert set(volumes_of(namespace)) == set(found)
    namespace.delete("v1", "PersistentVolumeClaim", "again")
    wait_for(lambda: volume not in volumes_of(namespace), lambda: "its volume goes with it, as any other")


def test_pinned(saved: Saved) -> None:
    """Claims of one Restore get the same snapshot, whatever is backed up in between."""
    namespace = saved.namespace
    saved.wish("first")
    saved.populate().ended(0)
    namespace.run(
        objects.pod("more", "echo more > /data/more", image=namespace.cluster.image, claims=["data"])
    )
    namespace.delete("v1", "Pod", "more")
    saved.fleet.good("pvc", "backup", f"{namespace.name}/data", "--method", "live")
    saved.wish("second", wanted="first")
    saved.wish("third")
    saved.populate().ended(0)
    assert digest_of(namespace, "second") == saved.digest
    assert digest_of(namespace, "third") != saved.digest
    assert status_of(namespace, "first")["phase"] == "Restored"
    assert [one["name"] for one in status_of(namespace, "first")["claims"]] == ["first", "second"]


def test_where_the_consumer_will_run(saved: Saved, local_cluster: Cluster) -> None:
    """Nothing before the scheduler has chosen; then on that node, and the pod that waited runs."""
    namespace = saved.namespace
    saved.wish("late", storage_class="csi")
    said = saved.populate().ended(0)
    assert "waits for its first pod" in said.out
    assert is_unbound(namespace, "late")
    assert claim_status(namespace, "late", "late")["phase"] == "Waiting"
    assert left_behind(namespace) == []
    script = "cd /late && find . -type f | sort | xargs sha256sum; find . | sort"
    namespace.create(objects.pod("app", script, image=namespace.cluster.image, claims=["late"], node="n2"))

    def is_chosen() -> bool:
        metadata = namespace.get("v1", "PersistentVolumeClaim", "late").metadata.to_dict()
        annotations = metadata.get("annotations") or {}
        return bool(annotations.get("volume.kubernetes.io/selected-node") == "n2")

    wait_for(is_chosen, namespace.events)
    saved.populate().ended(0)
    namespace.wait_phase("app", "Succeeded")
    assert namespace.log("app") == saved.digest
    assert namespace.get("v1", "Pod", "app").spec.nodeName == "n2"
    volume = volumes_of(namespace)[namespace.wait_bound("late")]
    assert "n2" in json.dumps(volume["spec"]["nodeAffinity"])


def test_a_device(saved: Saved) -> None:
    namespace = saved.namespace
    make_claim(namespace, "raw", storage_class="csi-immediate", block=True)
    write = "head -c 5000000 /dev/urandom | dd of=/dev/raw bs=1M seek=3 conv=fsync 2>/dev/null"
    show = "sha256sum < /dev/{}"
    namespace.run(objects.pod("write", write, image=namespace.cluster.image, devices=["raw"]))
    before = namespace.run(
        objects.pod("look", show.format("raw"), image=namespace.cluster.image, devices=["raw"])
    )
    namespace.delete("v1", "Pod", "write")
    namespace.delete("v1", "Pod", "look")
    saved.fleet.good("pvc", "backup", f"{namespace.name}/raw", "--method", "live")
    namespace.create(restore("raw", source={"claim": "raw"}))
    namespace.create(claim_of("copy", "raw", storage_class="csi-immediate", block=True))
    namespace.create(claim_of("wrong", "raw", storage_class="csi-immediate"))
    saved.populate().ended(3)
    assert "the claim is a file system, and the snapshot of a device" in events_of(namespace, "wrong")
    assert is_unbound(namespace, "wrong")
    look = objects.pod("look", show.format("copy"), image=namespace.cluster.image, devices=["copy"])
    assert namespace.run(look) == before
    namespace.delete("v1", "PersistentVolumeClaim", "wrong")


def test_a_repository_out_of_reach(saved: Saved) -> None:
    """The claim waits, and why is said; as soon as the repository answers it is filled."""
    namespace = saved.namespace
    saved.wish("again")
    with passage(saved.fleet.server.endpoint) as way:
        given = {"PVBACK_S3_ENDPOINT": f"http://127.0.0.1:{way.port}"}
        failed = saved.populate(**given).ended(30)
        assert is_unbound(namespace, "again")
        said = claim_status(namespace, "again", "again")
        assert said["phase"] == "Failed"
        assert said["message"] in failed.err
        assert json.dumps(said["message"])[1:-1] in events_of(namespace, "again")
        assert status_of(namespace, "again")["phase"] == "Failed"
        assert "snapshot" not in status_of(namespace, "again")
        assert left_behind(namespace) == []
        with saved.watching(**given) as process:
            assert process.poll() is None
            way.open()
            namespace.wait_bound("again")
            wait_for(says(namespace, "again", "again", "Restored"), namespace.events)
    assert digest_of(namespace, "again") == saved.digest


def kill_at_each_change(saved: Saved, is_bound: Callable[[], bool], *, is_cleaned: bool) -> int:
    """Kill a populator before its first change, its second, and so on, until one ends; how many those are."""
    for count in range(60):
        done = saved.fleet.mortal(count, "pvc", "populate", "-n", saved.namespace.name)
        if done.returncode == 0 and "busy" not in done.stdout:
            print(count, "changes", done.stdout)
            return count
        assert done.returncode == -signal.SIGKILL, (count, done.returncode, done.stdout, done.stderr)
        die(saved.namespace)
        if is_cleaned:
            saved.fleet.good("pvc", "cleanup", "-n", saved.namespace.name)
            wait_nothing_left(saved.namespace)
        print(count, is_bound(), claim_status(saved.namespace, "again", "again"))
    pytest.fail("it does not end")


@pytest.mark.long
@pytest.mark.parametrize("is_cleaned", [True, False], ids=["cleaned", "run again"])
def test_killed_before_each_change(saved: Saved, is_cleaned: bool) -> None:
    """Whoever looks at the claim in between sees none, or all of it; in the end there is one volume."""
    namespace = saved.namespace
    saved.wish("again")
    seen = []

    def is_bound() -> bool:
        is_there = not is_unbound(namespace, "again")
        seen.append(is_there)
        if is_there:
            assert digest_of(namespace, "again") == saved.digest
        return is_there

    count = kill_at_each_change(saved, is_bound, is_cleaned=is_cleaned)
    assert digest_of(namespace, "again") == saved.digest
    assert {True, False} == set(seen)
    assert count >= 10
    wait_nothing_left(namespace)
    wait_for(lambda: len(volumes_of(namespace)) == 2, lambda: f"{list(volumes_of(namespace))}")
    assert claim_status(namespace, "again", "again")["phase"] == "Restored"


def test_deleted_in_the_middle(saved: Saved) -> None:
    namespace = saved.namespace
    saved.wish("again")
    with saved.fleet.start("pvc", "populate", "-n", namespace.name, *NOBODY) as process:
        wait_for(lambda: any("Job" in one for one in left_behind(namespace)), lambda: "no Job is made")
        wait_for(lambda: len(volumes_of(namespace)) == 2, namespace.events)
        namespace.delete("v1", "PersistentVolumeClaim", "again")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "left: the claim was deleted meanwhile" in out
    wait_nothing_left(namespace)
    wait_for(lambda: len(volumes_of(namespace)) == 1, lambda: f"{list(volumes_of(namespace))}")
    assert not status_of(namespace, "again").get("claims")
    saved.wish("again", wanted="again")
    with saved.fleet.start("pvc", "populate", "-n", namespace.name, *NOBODY) as process:
        wait_for(lambda: len(volumes_of(namespace)) == 2, namespace.events)
        process.kill()
        process.wait()
    namespace.delete("v1", "PersistentVolumeClaim", "again")
    die(namespace)
    saved.fleet.good("pvc", "cleanup", "-n", namespace.name)
    wait_nothing_left(namespace)
    wait_for(lambda: len(volumes_of(namespace)) == 1, lambda: f"{list(volumes_of(namespace))}")


def test_what_cannot_be(saved: Saved, other: Namespace) -> None:
    """The claim stays as it is, and its events and its Restore say why in so many words."""
    namespace = saved.namespace
    saved.fleet.connect(other)
    make_claim(other, "data", storage_class="csi-immediate")
    other.run(objects.pod("fill", "echo other > /data/x", image=other.cluster.image, claims=["data"]))
    saved.fleet.good("pvc", "backup", f"{other.name}/data", "--method", "live")
    (foreign,) = saved.fleet.snapshots(other)
    for name, source in (
        ("never", {"claim": "never"}),
        ("early", {"claim": "data", "asOf": "2020-01-01T00:00:00Z"}),
        ("foreign", {"snapshot": foreign["id"]}),
        ("data", {"claim": "data"}),
    ):
        namespace.create(restore(name, source=source))
    cases = [
        (claim_of("a", "missing", storage_class="csi-immediate"), "there is no Restore missing", 40),
        (claim_of("b", "never", storage_class="csi-immediate"), "there is no snapshot of this claim", 2),
        (claim_of("c", "early", storage_class="csi-immediate"), "the first is of", 2),
        (claim_of("d", "foreign", storage_class="csi-immediate"), "no such snapshot of this claim", 2),
        (claim_of("e", "data", storage_class="csi-immediate", size="4Ki"), "too small", 2),
        (claim_of("f", "data", storage_class="nowhere"), "storage class nowhere is not there", 40),
        (claim_of("g", "data", storage_class="static"), "made by hand", 40),
    ]
    for manifest, why, code in cases:
        name = manifest["metadata"]["name"]
        namespace.create(manifest)
        done = saved.populate().ended(code)
        assert why in done.err, (name, done.err)
        assert why in events_of(namespace, name)
        assert is_unbound(namespace, name)
        if code == 2:
            assert why in claim_status(namespace, manifest["spec"]["dataSourceRef"]["name"], name)["message"]
        namespace.delete("v1", "PersistentVolumeClaim", name)
    assert left_behind(namespace) == []
    assert len(volumes_of(namespace)) == 1


def test_quota(saved: Saved) -> None:
    """There has to be room for both claims while one is filled; it is told in the cluster's words."""
    namespace = saved.namespace
    saved.wish("again")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    namespace.create({**quota, "spec": {"hard": {"persistentvolumeclaims": "2"}}})

    def is_counted() -> bool:
        status = namespace.get("v1", "ResourceQuota", "few").to_dict().get("status") or {}
        return bool((status.get("used") or {}).get("persistentvolumeclaims") == "2")

    wait_for(is_counted, namespace.events)
    assert "exceeded quota" in saved.populate().ended(40).err
    assert "exceeded quota" in claim_status(namespace, "again", "again")["message"]
    assert is_unbound(namespace, "again")
    wait_nothing_left(namespace)
    namespace.delete("v1", "ResourceQuota", "few")
    saved.populate().ended(0)
    assert digest_of(namespace, "again") == saved.digest


def test_what_the_kind_lets_nobody_write(saved: Saved) -> None:
    namespace = saved.namespace
    for source in (
        {},
        {"claim": "data", "snapshot": "0123abcd"},
        {"snapshot": "0123abcd", "asOf": "2026-01-01T00:00:00Z"},
        {"claim": "data", "asOf": "yesterday"},
        {"snapshot": "latest"},
    ):
        with pytest.raises(UnprocessibleEntityError):
            namespace.create(restore("wrong", source=source))
    namespace.create(restore("right", source={"claim": "data", "asOf": "2026-01-01T00:00:00Z"}))
    with pytest.raises(UnprocessibleEntityError, match="does not change"):
        namespace.cluster.kind("pvback.io/v1alpha1", "Restore").patch(
            name="right",
            namespace=namespace.name,
            body={"spec": {"source": {"claim": "other"}}},
            content_type="application/merge-patch+json",
        )


def test_two_at_once(saved: Saved) -> None:
    namespace = saved.namespace
    saved.wish("again")
    with saved.fleet.start("pvc", "populate", "-n", namespace.name) as one:
        wait_for(lambda: left_behind(namespace), lambda: "it does not begin")
        second = saved.populate().ended(0)
        assert "busy: another run works on this claim" in second.out or "0 of" in second.err, second
        out, err = one.communicate(timeout=120)
        assert one.returncode == 0, (out, err)
    assert digest_of(namespace, "again") == saved.digest
    assert len(volumes_of(namespace)) == 2


def test_one_that_goes_on(saved: Saved, tmp_path: Path) -> None:
    """It fills what comes while it runs, also after the API server was away, and ends when it is told to."""
    namespace = saved.namespace
    config = yaml.safe_load(namespace.cluster.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]
    with passage(server["server"]) as way:
        host = server["server"].rpartition("//")[2].rpartition(":")[0]
        server.update({"server": f"https://127.0.0.1:{way.port}", "tls-server-name": host})
        path = tmp_path / "kubeconfig"
        path.touch(0o600)
        path.write_text(json.dumps(config))
        way.open()
        with saved.watching("--json", KUBECONFIG=str(path)) as process:
            saved.wish("first")
            wait_for(says(namespace, "first", "first", "Restored"), namespace.events)
            way.shut()
            saved.wish("second")
            saved.wish("none", wanted="missing")
            way.open()
            wait_for(says(namespace, "second", "second", "Restored"), namespace.events)
            wait_for(lambda: "no Restore missing" in events_of(namespace, "none"), namespace.events)
            namespace.create(restore("missing", source={"claim": "data"}))
            wait_for(says(namespace, "missing", "none", "Restored"), namespace.events)
            assert process.poll() is None
    for name in ("first", "second", "none"):
        assert digest_of(namespace, name) == saved.digest


def test_stopped_in_the_middle(saved: Saved) -> None:
    namespace = saved.namespace
    saved.wish("again")
    with saved.watching(*NOBODY):
        wait_for(lambda: any("Job" in one for one in left_behind(namespace)), lambda: "no Job is made")
    wait_nothing_left(namespace)
    assert claim_status(namespace, "again", "again")["phase"] == "Waiting"
    saved.populate().ended(0)
    assert digest_of(namespace, "again") == saved.digest


@pytest.fixture
def retaining(cluster: Cluster) -> Iterator[str]:
    """A class whose volumes are retained."""
    like = cluster.kind("storage.k8s.io/v1", "StorageClass").get(name="csi-immediate").to_dict()
    name = f"retain-{secrets.token_hex(4)}"
    kept = {
        field: like[field] for field in ("provisioner", "parameters", "volumeBindingMode") if field in like
    }
    manifest = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    cluster.create({**manifest, **kept, "reclaimPolicy": "Retain"})
    yield name
    cluster.kind("storage.k8s.io/v1", "StorageClass").delete(name=name)


def test_a_class_that_retains(saved: Saved, local_cluster: Cluster, retaining: str) -> None:
    """What was not filled is nobody's loss and goes; what was is retained, as its class says."""
    namespace = saved.namespace
    saved.wish("again", storage_class=retaining)
    saved.populate(*NOBODY, "--start-timeout", "3").ended(40)
    assert "does not start" in claim_status(namespace, "again", "again")["message"]
    wait_for(lambda: len(volumes_of(namespace)) == 1, lambda: f"{volumes_of(namespace)}")
    saved.populate().ended(0)
    volume = namespace.wait_bound("again")
    assert volumes_of(namespace)[volume]["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert digest_of(namespace, "again") == saved.digest
    namespace.cluster.kind("v1", "PersistentVolume").patch(
        name=volume,
        body={"spec": {"persistentVolumeReclaimPolicy": "Delete"}},
        content_type="application/merge-patch+json",
    )


def test_a_volume_made_by_hand(saved: Saved, static_volume: Callable[..., str]) -> None:
    """Kubernetes gives an empty one to any claim of its class: it is said that nobody has filled it."""
    namespace = saved.namespace
    static_volume("n2")
    saved.wish("empty", storage_class="static")
    namespace.run(objects.pod("app", "ls /empty", image=namespace.cluster.image, claims=["empty"]))
    said = saved.populate().ended(0)
    assert "which was not filled from this Restore" in said.out
    assert claim_status(namespace, "empty", "empty")["phase"] == "NotFilled"
    assert status_of(namespace, "empty")["phase"] == "Failed"
    assert "Warning" in events_of(namespace, "empty")
    assert "0 claims filled, of 0" in saved.populate().ended(0).err


def as_its_holder(saved: Saved, folder: Path) -> dict[str, str]:
    """The variables of somebody who has what is in the secret `pvback-populator`, and nothing else."""
    secret = saved.namespace.get("v1", "Secret", "pvback-populator").to_dict()["data"]
    key = folder / "key"
    key.write_bytes(base64.b64decode(secret["key"]))
    return {"PVBACK_PASSWORD": "", "PVBACK_KEY_FILE": str(key), "PVBACK_CACHE_DIR": str(folder / "cache")}


def test_with_a_restorers_key(saved: Saved, tmp_path: Path) -> None:
    """A populator of one namespace needs no owner: it reads one scope, makes no key, and deletes nothing."""
    namespace = saved.namespace
    words = ("--role", "restorer", "--aws-credentials", str(saved.fleet.credentials()))
    assert "reads scope" in saved.fleet.good("pvc", "connect", namespace.name, *words).out
    saved.wish("again")
    mover = saved.fleet.server.others["mover"]
    as_mover = {"AWS_ACCESS_KEY_ID": mover.access_key, "AWS_SECRET_ACCESS_KEY": mover.secret_key}
    saved.populate(**as_its_holder(saved, tmp_path), **as_mover).ended(0)
    assert digest_of(namespace, "again") == saved.digest


@pytest.mark.alone
def test_of_all_namespaces(saved: Saved, other: Namespace, tmp_path: Path) -> None:
    """With an owner's key: each namespace gets its own data, and its movers a key of its scope."""
    namespace, fleet = saved.namespace, saved.fleet
    fleet.connect(other)
    make_claim(other, "data", storage_class="csi-immediate")
    other.run(objects.pod("fill", "echo other > /data/x", image=other.cluster.image, claims=["data"]))
    fleet.good("pvc", "backup", f"{other.name}/data", "--method", "live")
    said = fleet.good("pvc", "connect", namespace.name, "--role", "owner").out
    assert "reads everything" in said
    saved.wish("again")
    other.create(restore("again", source={"claim": "data"}))
    other.create(claim_of("again", "again", storage_class="csi-immediate"))
    done = fleet.run("pvc", "populate", "-A", "--json", **as_its_holder(saved, tmp_path)).ended(0)
    assert {one["claim"] for one in done.messages("claim")} == {
        f"{namespace.name}/again",
        f"{other.name}/again",
    }
    assert digest_of(namespace, "again") == saved.digest
    assert digest_of(other, "again") == digest_of(other, "data")
    keys = {one["label"]: one["role"] for one in fleet.good("key", "list", "--json").json()}
    assert keys[f"populator of default/{namespace.name}"] == "owner"
    assert not [one for one in keys if (one or "").startswith("restore ") and other.name in one]
    wait_nothing_left(other)


def test_as_a_deployment(saved: Saved) -> None:
    """As `install --populator` renders it, under restricted pod security, with a restorer's key."""
    namespace, fleet = saved.namespace, saved.fleet
    words = ("--role", "restorer", "--aws-credentials", str(fleet.credentials()))
    fleet.good("pvc", "connect", namespace.name, *words)
    pace = ("--populator-option=--interval", "--populator-option=1")
    done = fleet.good(
        "install", "-n", namespace.name, "--populator", "--image", fleet.image, *pace, "--apply"
    )
    assert "Deployment" in done.out
    try:
        saved.wish("first")
        saved.wish("late", storage_class="csi")
        wait_for(
            says(namespace, "first", "first", "Restored"),
            lambda: logs_of(namespace) + namespace.events(),
            seconds=120,
        )
        show = "cd /late && find . -type f | sort | xargs sha256sum; find . | sort"
        log = namespace.run(objects.pod("app", show, image=namespace.cluster.image, claims=["late"]))
        assert log == saved.digest
        assert digest_of(namespace, "first") == saved.digest
        wait_for(says(namespace, "late", "late", "Restored"), namespace.events)
        print(logs_of(namespace))
    finally:
        namespace.delete("apps/v1", "Deployment", "pvback-populator")
        remove_populators_rights(namespace)
