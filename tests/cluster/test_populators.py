"""A populator of a whole cluster, as it is installed, and restores of which something is missing."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import yaml
from kubernetes.dynamic.exceptions import NotFoundError

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.fleet import Fleet, digest_of, wait_nothing_left
from tests.cluster.restores import (
    claim_of,
    claim_status,
    events_of,
    is_unbound,
    restore,
    says,
    status_of,
    volumes_of,
)
from tests.cluster.saved import Saved, logs_of
from tests.support.s3_servers import BUCKET, client_of

pytestmark = pytest.mark.timeout(600)


@pytest.mark.alone
def test_of_a_cluster_as_a_deployment(saved: Saved, other: Namespace) -> None:
    """As `install --cluster --populator` renders it: in one namespace, for claims of others; and it goes."""
    namespace, fleet = saved.namespace, saved.fleet
    owner = fleet.credentials(key=fleet.server.access_key, secret=fleet.server.secret_key)
    fleet.good("pvc", "connect", other.name, "--role", "owner", "--aws-credentials", str(owner))
    pace = ("--populator-option=--interval", "--populator-option=1")
    words = ("install", "--cluster", "-n", other.name, "--populator", "--image", fleet.image, *pace)
    made = list(yaml.safe_load_all(fleet.good(*words).out))
    before = of_cluster(namespace.cluster)
    fleet.good(*words, "--apply")
    try:
        wait_for(is_ready(other), lambda: logs_of(other) + other.events(), seconds=120)
        new = of_cluster(namespace.cluster) - before
        assert new == {
            f"{one['kind']} {one['metadata']['name']}"
            for one in made
            if "namespace" not in one["metadata"] and one["kind"] != "CustomResourceDefinition"
        }
        saved.wish("first")
        saved.wish("late", storage_class="csi")
        wait_for(
            says(namespace, "first", "first", "Restored"),
            lambda: logs_of(other) + namespace.events(),
            seconds=120,
        )
        assert digest_of(namespace, "first") == saved.digest
        show = "cd /late && find . -type f | sort | xargs sha256sum; find . | sort"
        log = namespace.run(objects.pod("app", show, image=namespace.cluster.image, claims=["late"]))
        assert log == saved.digest
        wait_for(says(namespace, "late", "late", "Restored"), namespace.events)
        print(logs_of(other))
    finally:
        for one in reversed(made):
            # The kind stays: it is everybody's, and all Restores would go with it.
            if one["kind"] != "CustomResourceDefinition":
                where = one["metadata"].get("namespace")
                with suppress(NotFoundError):
                    namespace.cluster.resource(one).delete(name=one["metadata"]["name"], namespace=where)
    wait_for(lambda: of_cluster(namespace.cluster) == before, lambda: str(of_cluster(namespace.cluster)))
    assert status_of(namespace, "first")["phase"] == "Restored", "the Restore is there still"
    fleet.good("pvc", "cleanup", "-n", other.name)
    left = {one["label"] for one in fleet.good("key", "list", "--json").json()}
    assert not [one for one in left if one and one.startswith("restore ") and namespace.name in one]


def of_cluster(cluster: Cluster) -> set[str]:
    """What of the cluster pvback has made: rights and priorities."""
    kinds = [
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("scheduling.k8s.io/v1", "PriorityClass"),
    ]
    return {
        f"{kind} {one.metadata.name}"
        for api_version, kind in kinds
        for one in cluster.kind(api_version, kind).get().items
        if one.metadata.name.startswith("pvback")
    }


def is_ready(namespace: Namespace) -> Callable[[], bool]:
    """Whether the populator of a namespace runs."""
    return lambda: bool(
        namespace.get("apps/v1", "Deployment", "pvback-populator").status.get("readyReplicas")
    )


def refused_as_partial(saved: Saved, name: str) -> None:
    """A claim is not filled, for a file is missing: it stays unbound, and nothing is left of the try."""
    namespace = saved.namespace
    saved.wish(name)
    (failed,) = saved.populate("--json").ended(3).messages("claim")
    assert failed["state"] == "failed"
    assert failed["error"]["what"].startswith("a file could not be restored (")
    assert is_unbound(namespace, name)
    said = claim_status(namespace, name, name)
    assert said["phase"] == "Failed"
    assert failed["error"]["what"] in said["message"]
    assert "`acceptPartial` in a Restore takes what there is" in said["message"]
    wait_nothing_left(namespace)
    # What was made for it goes with its claim, whenever the driver is done with that.
    own = {namespace.wait_bound("data")}
    wait_for(lambda: set(volumes_of(namespace)) == own, lambda: f"volumes: {list(volumes_of(namespace))}")
    namespace.delete("v1", "PersistentVolumeClaim", name)


def filled_as_partial(saved: Saved, name: str) -> set[str]:
    """What is in a claim that takes what there is, besides what was there before."""
    namespace = saved.namespace
    namespace.create(restore(name, source={"claim": "data"}, acceptPartial=True))
    namespace.create(claim_of(name, name, storage_class="csi-immediate"))
    (filled,) = saved.populate("--json").ended(0).messages("claim")
    assert filled["state"] == "filled"
    assert filled["note"].startswith("a file could not be restored (")
    # What follows is what a plain user may not set.
    assert "); the rest was; owner: " in filled["note"]
    said = claim_status(namespace, name, name)
    assert (said["phase"], said["message"]) == ("Restored", filled["note"])
    assert filled["note"] in events_of(namespace, name)
    found = set(digest_of(namespace, name).splitlines())
    assert set(saved.digest.splitlines()) <= found, "all that could be restored"
    return found - set(saved.digest.splitlines())


def test_what_could_not_be_read_is_missing(saved: Saved) -> None:
    """A backup without a file: a claim is filled from it only where that is accepted."""
    namespace, fleet = saved.namespace, saved.fleet
    script = "echo mine > /data/closed; chmod 600 /data/closed"
    namespace.run(objects.pod("close", script, image=namespace.cluster.image, claims=["data"]))
    namespace.delete("v1", "Pod", "close")
    done = fleet.run("pvc", "backup", f"{namespace.name}/data", "--method", "live", "--json").ended(3)
    (backup,) = done.messages("claim")
    assert (backup["state"], backup["result"]["error_count"]) == ("partly", 1)
    refused_as_partial(saved, "whole")
    assert filled_as_partial(saved, "part") == set(), "no empty file in its place"


def test_what_cannot_be_restored_is_missing(saved: Saved) -> None:
    """Likewise where the repository has lost a pack: what is left of the file has zeros in it."""
    namespace, fleet = saved.namespace, saved.fleet
    before = packs_of(fleet)
    script = "head -c 3000000 /dev/urandom > /data/large"
    namespace.run(objects.pod("more", script, image=namespace.cluster.image, claims=["data"]))
    namespace.delete("v1", "Pod", "more")
    fleet.good("pvc", "backup", f"{namespace.name}/data", "--method", "live")
    lost = packs_of(fleet) - before
    assert lost
    client = client_of(fleet.server)
    for one in lost:
        client.delete_object(Bucket=BUCKET, Key=one)
    refused_as_partial(saved, "whole")
    found = filled_as_partial(saved, "part")
    assert {one.rpartition("/")[2] for one in found} == {"large"}


def packs_of(fleet: Fleet) -> set[str]:
    """Packs of data, of all scopes."""
    pages = client_of(fleet.server).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
    return {one for one in keys if "/data/" in one}
