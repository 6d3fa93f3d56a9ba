"""What movers may do and where they go, shown by movers that did it: capabilities, access modes, copies."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Fleet, digest_of, make_claim, wait_nothing_left, writer_pod
from tests.cluster.test_freeze import allow

pytestmark = pytest.mark.timeout(600)
FOREIGN = (
    "mkdir /data/shut /data/plain; echo one > /data/closed; echo two > /data/shut/inner; "
    "echo three > /data/plain/x; "
    "chown 4711:4712 /data/closed /data/shut; chown 4713:4714 /data/shut/inner /data/plain; "
    "chmod 0000 /data/closed; chmod 0700 /data/shut; chmod 0640 /data/shut/inner; chmod 2751 /data/plain"
)
"""Files that nobody may read but those users, and root with CAP_DAC_READ_SEARCH."""
LOOK = (
    "cd /{0} && find . | sort | while read one; do stat -c '%n %u:%g %a' $one; test -d $one || cat $one; done"
)


def root_pod(namespace: Namespace, name: str, script: str, claim: str) -> dict[str, Any]:
    """A pod of the application's, which is root, as only a namespace of its own lets it be."""
    made = objects.pod(name, script, image=namespace.cluster.image, claims=[claim])
    made["spec"]["securityContext"] = {}
    made["spec"]["containers"][0]["securityContext"] = {}
    return made


def look(namespace: Namespace, claim: str) -> str:
    """Owners, modes and contents of all that is in a claim."""
    found = namespace.run(root_pod(namespace, "look", LOOK.format(claim), claim))
    namespace.delete("v1", "Pod", "look")
    return found


def mover_spec(namespace: Namespace, spec: dict[str, Any]) -> None:
    """Fill `spec` with the specification of the next mover's pod."""
    pods = namespace.cluster.kind("v1", "Pod")

    def find() -> bool:
        found = pods.get(namespace=namespace.name, label_selector="pvback.io/role=mover").items
        if found:
            spec.update(found[0].to_dict()["spec"])
        return bool(found)

    wait_for(find, lambda: "no mover")


@pytest.fixture
def allowed(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    fleet.connect(namespace)
    allow(namespace)
    yield namespace
    wait_nothing_left(namespace)


def test_a_privileged_mover_reads_what_is_closed_and_restores_owners(
    fleet: Fleet, allowed: Namespace
) -> None:
    make_claim(allowed, "data")
    stays = f"{FOREIGN}; echo written; while true; do sleep 1; done"
    allowed.create(root_pod(allowed, "app", stays, "data"))
    allowed.wait_phase("app", "Running")
    wait_for(lambda: "written" in allowed.log("app"), lambda: f"app says: {allowed.log('app')}")
    target = f"{allowed.name}/data"
    # As a plain user it is told what could not be read, so there is something to be shown.
    (claim,) = fleet.run("pvc", "backup", target, "--json").ended(3).messages("claim")
    assert "closed" in claim["error"]["what"]
    spec: dict[str, Any] = {}
    with fleet.start("pvc", "backup", target, "--privileged", "--json") as process:
        mover_spec(allowed, spec)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (done,) = [line for line in map(json.loads, out.splitlines()) if line["message_type"] == "claim"]
    assert (done["state"], done["result"]["stats"]["file_count"]) == ("done", 3)
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    allowed.delete("v1", "Pod", "app")
    before = look(allowed, "data")
    assert "./shut/inner 4713:4714 640\ntwo\n" in before
    assert "./plain 4713:4714 2751\n" in before
    fleet.good("pvc", "restore", target, "--to", "again", "--privileged")
    again = look(allowed, "again")
    assert again.splitlines()[1:] == before.splitlines()[1:], "all but the volume's own root folder"
    # A plain user may not give files away, and says so.
    said = fleet.run("pvc", "restore", target, "--to", "plain").ended(0, 3).err
    assert "not set (" in said, said
    assert "`--privileged`" in said, said
    # What is there and of somebody else is written over in place.
    spoil = (
        "echo 1 > /data/closed; echo more >> /data/shut/inner; chown 0:0 /data/shut/inner; rm -r /data/plain"
    )
    allowed.run(root_pod(allowed, "spoil", spoil, "data"))
    allowed.delete("v1", "Pod", "spoil")
    assert look(allowed, "data") != before
    fleet.good("pvc", "restore", target, "--in-place", "--privileged")
    assert look(allowed, "data") == before


def test_a_claim_for_one_pod(fleet: Fleet, connected: Namespace) -> None:
    """Live it is refused, with the way out, which works: the copy is for one node."""
    make_claim(connected, "data", mode="ReadWriteOncePod")
    writer_pod(connected, "app", "data", "echo one > /data/x")
    target = f"{connected.name}/data"
    refused = fleet.run("pvc", "backup", target, "--method", "live").ended(40)
    assert "ReadWriteOncePod" in refused.err
    assert "pod app has it" in refused.err
    assert "--method snapshot" in refused.err
    copies = Copies(connected)
    (claim,) = fleet.good("pvc", "backup", target, "--method", "snapshot", "--json").messages("claim")
    assert claim["method"] == "snapshot"
    ((modes, storage_class),) = copies.seen()
    assert (modes, storage_class) == (("ReadWriteOnce",), connected.cluster.storage_class)
    connected.delete("v1", "Pod", "app")
    wait_nothing_left(connected)
    # Nobody has it now.
    (claim,) = fleet.good("pvc", "backup", target, "--method", "live", "--json").messages("claim")
    assert (claim["method"], claim["result"]["stats"]["file_count"]) == ("live", 1)
    fleet.good("pvc", "restore", target, "--to", "again")
    assert list(connected.get("v1", "PersistentVolumeClaim", "again").spec.accessModes) == [
        "ReadWriteOncePod"
    ]
    assert digest_of(connected, "again") == digest_of(connected, "data")


def test_a_claim_of_several_nodes_is_read_live(
    fleet: Fleet, connected: Namespace, local_cluster: Cluster
) -> None:
    """Pods of both nodes have it and write; the mover is on any node, and no claim is made for it."""
    make_claim(connected, "data", storage_class="csi-shared", mode="ReadWriteMany")
    for node in ("n1", "n2"):
        writer_pod(connected, f"app-{node}", "data", f"echo {node} > /data/{node}", node=node)
    target = f"{connected.name}/data"
    copies = Copies(connected)
    spec: dict[str, Any] = {}
    with fleet.start("pvc", "backup", target, "--method", "live", "--json") as process:
        mover_spec(connected, spec)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (claim,) = [line for line in map(json.loads, out.splitlines()) if line["message_type"] == "claim"]
    assert (claim["method"], claim["result"]["stats"]["file_count"]) == ("live", 2)
    assert "nodeAffinity" not in (spec.get("affinity") or {})
    assert copies.seen() == set()
    fleet.good("pvc", "restore", target, "--to", "again")
    assert list(connected.get("v1", "PersistentVolumeClaim", "again").spec.accessModes) == ["ReadWriteMany"]
    assert digest_of(connected, "again") == digest_of(connected, "data")


def test_copies_of_another_class_and_access_mode(
    fleet: Fleet, connected: Namespace, local_cluster: Cluster
) -> None:
    make_claim(connected, "data")
    writer_pod(connected, "app", "data", "echo one > /data/x")
    target = f"{connected.name}/data"
    staging = ("--staging-class", "csi-immediate", "--staging-access-mode", "ReadWriteOncePod")
    copies = Copies(connected)
    (claim,) = fleet.good("pvc", "backup", target, "--method", "snapshot", *staging, "--json").messages(
        "claim"
    )
    assert claim["result"]["stats"]["file_count"] == 1
    assert copies.seen() == {(("ReadWriteOncePod",), "csi-immediate")}
    wait_nothing_left(connected)
    nobody = ("--staging-class", "no-such-class")
    refused = fleet.run("pvc", "backup", target, "--method", "snapshot", *nobody).ended(40)
    assert "there is no storage class no-such-class" in refused.err


class Copies:
    """The claims that a run makes of volume snapshots, seen by a watch that began before it."""

    def __init__(self, namespace: Namespace) -> None:
        self._kind = namespace.cluster.kind("v1", "PersistentVolumeClaim")
        self._namespace = namespace
        self._version: str = self._kind.get(namespace=namespace.name).metadata.resourceVersion

    def seen(self) -> set[tuple[tuple[str, ...], str]]:
        """Access modes and class of each that was made since then, also where it is gone by now."""
        found = set()
        for event in self._kind.watch(
            namespace=self._namespace.name,
            label_selector="pvback.io/role=staging",
            resource_version=self._version,
            timeout=2,
        ):
            spec = event["raw_object"]["spec"]
            found.add((tuple(spec["accessModes"]), spec["storageClassName"]))
        return found
