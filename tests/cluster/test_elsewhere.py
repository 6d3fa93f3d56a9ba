"""Restores to other places than the data comes from: namespaces, classes, clusters, nodes."""

from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Fleet, digest_of, make_claim, wait_nothing_left, writer_pod

pytestmark = pytest.mark.timeout(600)
FILL = "mkdir /data/d; for i in $(seq 1 50); do echo file $i > /data/d/f$i; done"
HOST = "kubernetes.io/hostname"


def test_to_another_namespace_and_class(fleet: Fleet, connected: Namespace, other: Namespace) -> None:
    """The mover runs where the claim is made, with a key that reads the scope of the other namespace."""
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", FILL)
    fleet.good("pvc", "backup", f"{connected.name}/data")
    what = ("pvc", "restore", f"{connected.name}/data", "--to", f"{other.name}/again")
    words = (*what, "--storage-class", "csi-immediate")
    refused = fleet.run(*words).ended(2)
    assert f"pvback pvc connect {other.name}" in refused.err
    assert other.is_gone("v1", "PersistentVolumeClaim", "again")
    fleet.connect(other)
    keys = fleet.good("key", "list", "--json").json()
    fleet.good(*words)
    assert fleet.good("key", "list", "--json").json() == keys, "the mover's key is removed"
    made = other.get("v1", "PersistentVolumeClaim", "again")
    assert made.spec.storageClassName == "csi-immediate"
    assert dict(made.metadata.labels) == {"pvback.test/claim": "data"}
    assert connected.is_gone("v1", "PersistentVolumeClaim", "again")
    connected.delete("v1", "Pod", "app")
    assert digest_of(other, "again") == digest_of(connected, "data").replace("/data", "/again")
    wait_nothing_left(other)


def test_of_another_cluster(fleet: Fleet, connected: Namespace, other: Namespace) -> None:
    """Its name says which; nodes of there are not asked for here."""
    fleet.connect(other, "--cluster-name", "east")
    make_claim(other, "data")
    app = objects.pod(
        "app", f"{FILL}\nwhile true; do sleep 1; done", image=other.cluster.image, claims=["data"]
    )
    app["spec"]["nodeSelector"] = {"kubernetes.io/os": "linux"}
    other.create(app)
    other.wait_phase("app", "Running")
    fleet.good("pvc", "backup", f"{other.name}/data")
    words = ("pvc", "restore", f"{other.name}/data", "--to", f"{connected.name}/data")
    assert "there is no snapshot of this claim" in fleet.run(*words).ended(2).err
    (spec,) = movers_of(fleet, connected, *words, "--cluster-name", "east")
    assert "affinity" not in spec
    other.delete("v1", "Pod", "app")
    assert digest_of(connected, "data") == digest_of(other, "data")
    (listed,) = fleet.good("pvc", "list", "-n", other.name, "--json").json()
    assert listed["snapshot"] is None
    (listed,) = fleet.good("pvc", "list", "-n", other.name, "--cluster-name", "east", "--json").json()
    assert listed["snapshot"] is not None


@pytest.mark.long
def test_where_the_application_can_follow(fleet: Fleet, connected: Namespace, local_cluster: Cluster) -> None:
    """A volume comes to be where its first pod runs, which is the mover."""
    taint = {"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoSchedule"}
    for node, beside in (("n1", "n2"), ("n2", "n1")):
        make_claim(connected, "data")
        app = objects.pod(
            "app", f"{FILL}\nwhile true; do sleep 1; done", image=connected.cluster.image, claims=["data"]
        )
        app["spec"] |= {"nodeSelector": {HOST: node}, "tolerations": [taint]}
        connected.create(app)
        connected.wait_phase("app", "Running")
        fleet.good("pvc", "backup", f"{connected.name}/data")
        words = ("pvc", "restore", f"{connected.name}/data", "--to")
        (spec,) = movers_of(fleet, connected, *words, "again")
        assert taint in spec["tolerations"]
        assert node_of(connected, "again") == node
        more = ("--node-selector", f"{HOST}={beside}", "--toleration", "spot:NoExecute")
        (spec,) = movers_of(fleet, connected, *words, "beside", *more)
        assert {"key": "spot", "operator": "Exists", "effect": "NoExecute"} in spec["tolerations"]
        assert node_of(connected, "beside") == beside
        # Written in place, a volume is where it is, and the mover goes there all the same.
        connected.delete("v1", "Pod", "app")
        in_place = ("pvc", "restore", f"{connected.name}/data", "--in-place", "--to", "beside")
        (spec,) = movers_of(fleet, connected, *in_place)
        assert taint in spec["tolerations"]
        assert "affinity" not in spec
        for name in ("data", "again", "beside"):
            connected.delete("v1", "PersistentVolumeClaim", name)


def movers_of(fleet: Fleet, namespace: Namespace, *words: str) -> list[dict[str, Any]]:
    """The specifications of a command's movers, as they were admitted; it succeeds."""
    seen: dict[str, dict[str, Any]] = {}
    with fleet.start(*words) as process:
        pods = namespace.cluster.kind("v1", "Pod")

        def look() -> bool:
            for one in pods.get(namespace=namespace.name, label_selector="pvback.io/role=mover").items:
                seen[one.metadata.name] = one.to_dict()["spec"]
            return process.poll() is not None

        wait_for(look, lambda: f"it does not end: {namespace.events()}", seconds=120)
        _, err = process.communicate()
        assert process.returncode == 0, err
    return list(seen.values())


def node_of(namespace: Namespace, claim: str) -> str:
    """Where the volume of a claim can be used."""
    volume = namespace.cluster.kind("v1", "PersistentVolume").get(name=namespace.wait_bound(claim)).to_dict()
    (term,) = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    ((node,),) = [one["values"] for one in term["matchExpressions"]]
    return str(node)
