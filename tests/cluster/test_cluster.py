"""What the other tests here take for granted of a cluster, each seen once."""

import base64
import json
from collections.abc import Callable
from typing import Any

import kubernetes
import pytest
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDOUT_CHANNEL

from tests.cluster.client import Cluster, Namespace, wait_for
from tests.cluster.objects import (
    claim,
    from_claim,
    from_volume_snapshot,
    pod,
    volume_group_snapshot,
    volume_snapshot,
)


def write(namespace: Namespace, name: str, text: str, *, storage_class: str = "", **wishes: Any) -> None:
    """A claim of this name with a file in it."""
    cluster = namespace.cluster
    namespace.create(claim(name, storage_class=storage_class or cluster.storage_class))
    script = f"echo {text} > /{name}/file; sync"
    namespace.run(pod(f"write-{name}", script, image=cluster.image, claims=[name], **wishes))


def read(namespace: Namespace, name: str, **wishes: Any) -> str:
    """What is in the file of a claim."""
    made = pod(f"read-{name}", f"cat /{name}/file", image=namespace.cluster.image, claims=[name], **wishes)
    return namespace.run(made).strip()


def node_of(namespace: Namespace, pod: str) -> str:
    return str(namespace.get("v1", "Pod", pod).spec.nodeName)


def test_two_nodes_are_ready(cluster: Cluster) -> None:
    nodes = cluster.kind("v1", "Node").get().items
    ready = [
        node.metadata.name
        for node in nodes
        if any(one.type == "Ready" and one.status == "True" for one in node.status.conditions)
    ]
    assert len(ready) >= 2
    version = kubernetes.client.VersionApi(cluster.api).get_code()
    assert (int(version.major), int(version.minor.rstrip("+"))) >= (1, 34)


def test_restricted_refuses_a_privileged_pod(namespace: Namespace) -> None:
    manifest: Any = pod("bad", "true", image=namespace.cluster.image)
    manifest["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(kubernetes.client.ApiException) as refused:
        namespace.create(manifest)
    assert refused.value.status == 403
    assert 'violates PodSecurity "restricted' in json.loads(refused.value.body or "{}")["message"]
    assert namespace.is_gone("v1", "Pod", "bad")


def test_a_volume_snapshot_is_a_claim_again(namespace: Namespace) -> None:
    write(namespace, "data", "before")
    taken = volume_snapshot("taken", claim="data", snapshot_class=namespace.cluster.snapshot_class)
    namespace.create(taken)
    assert namespace.wait_ready(taken).status.creationTime
    namespace.run(pod("later", "echo after > /data/file", image=namespace.cluster.image, claims=["data"]))
    source = from_volume_snapshot("taken")
    namespace.create(claim("restored", storage_class=namespace.cluster.storage_class, source=source))
    assert read(namespace, "restored") == "before"
    assert read(namespace, "data") == "after"


def test_a_clone_stays_on_the_node_of_its_source(namespace: Namespace) -> None:
    write(namespace, "data", "cloned")
    namespace.create(claim("clone", storage_class=namespace.cluster.storage_class, source=from_claim("data")))
    assert read(namespace, "clone") == "cloned"
    if namespace.cluster.is_local:
        assert node_of(namespace, "read-clone") == node_of(namespace, "write-data")


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_volume_snapshot_is_restored_on_any_node(
    local_cluster: Cluster, namespace: Namespace, node: str
) -> None:
    write(namespace, "data", "moved", storage_class="csi-ext4", node="n1")
    taken = volume_snapshot("taken", claim="data", snapshot_class="csi")
    namespace.create(taken)
    namespace.wait_ready(taken)
    namespace.create(claim("restored", storage_class="csi-ext4", source=from_volume_snapshot("taken")))
    assert read(namespace, "restored", node=node) == "moved"
    volume = local_cluster.kind("v1", "PersistentVolume").get(name=namespace.wait_bound("restored"))
    values = volume.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0]["values"]
    assert list(values) == [node]


def test_a_file_system_of_its_own_ends_where_the_claim_does(
    local_cluster: Cluster, namespace: Namespace
) -> None:
    namespace.create(claim("small", storage_class="csi-ext4", size="16Mi"))
    script = "dd if=/dev/zero of=/small/big bs=1M count=64 2>&1 || echo refused"
    said = namespace.run(pod("fill", script, image=local_cluster.image, claims=["small"]))
    assert "No space left on device" in said
    assert said.endswith("refused\n")
    grown: Any = {"spec": {"resources": {"requests": {"storage": "128Mi"}}}}
    local_cluster.kind("v1", "PersistentVolumeClaim").patch(
        name="small",
        namespace=namespace.name,
        body=grown,
        content_type="application/merge-patch+json",
    )

    def is_grown() -> bool:
        found = namespace.get("v1", "PersistentVolumeClaim", "small").status
        return any(one.type == "FileSystemResizePending" for one in found.conditions or [])

    # Not while it is mounted; the file system in it grows when it is mounted again.
    wait_for(is_grown, namespace.events)
    script = "until [ $(df -m /small | tail -1 | awk '{print $2}') -gt 100 ]; do sleep 0.1; done"
    namespace.run(pod("grow", script, image=local_cluster.image, claims=["small"]))


def test_immediate_binding_needs_no_pod(local_cluster: Cluster, namespace: Namespace) -> None:
    namespace.create(claim("now", storage_class="csi-immediate"))
    namespace.create(claim("later", storage_class="csi"))
    namespace.wait_bound("now")
    assert namespace.get("v1", "PersistentVolumeClaim", "later").status.phase == "Pending"


def test_a_shared_volume_is_on_both_nodes(local_cluster: Cluster, namespace: Namespace) -> None:
    namespace.create(claim("shared", storage_class="csi-shared", mode="ReadWriteMany"))
    script = "echo both > /shared/file"
    namespace.run(pod("write", script, image=local_cluster.image, claims=["shared"], node="n1"))
    assert read(namespace, "shared", node="n2") == "both"


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_static_volume_waits_for_its_pod(
    namespace: Namespace, static_volume: Callable[..., str], node: str
) -> None:
    there = static_volume(node)
    namespace.create(claim("data", storage_class="static"))
    namespace.run(pod("write", "echo x > /data/file", image=namespace.cluster.image, claims=["data"]))
    assert namespace.wait_bound("data") == there
    assert node_of(namespace, "write") == node


@pytest.mark.parametrize("is_static", [False, True])
def test_a_block_device_is_readable_without_root(
    namespace: Namespace, request: pytest.FixtureRequest, *, is_static: bool
) -> None:
    storage_class = namespace.cluster.storage_class
    if is_static:
        request.getfixturevalue("static_volume")("n2", block=True)
        storage_class = "static"
    namespace.create(claim("raw", storage_class=storage_class, block=True))
    script = "id -u; echo whole | dd of=/dev/raw conv=fsync 2>/dev/null; head -c 6 /dev/raw"
    said = namespace.run(pod("write", script, image=namespace.cluster.image, devices=["raw"]))
    assert said.splitlines() == ["1000680000", "whole"]
    if is_static:
        return
    taken = volume_snapshot("taken", claim="raw", snapshot_class=namespace.cluster.snapshot_class)
    namespace.create(taken)
    namespace.wait_ready(taken)
    source = from_volume_snapshot("taken")
    namespace.create(claim("copy", storage_class=storage_class, block=True, source=source))
    script = "head -c 6 /dev/copy"
    assert namespace.run(pod("read", script, image=namespace.cluster.image, devices=["copy"])) == "whole\n"


def test_exec_ends_with_a_status(namespace: Namespace) -> None:
    namespace.create(pod("waits", "sleep 600", image=namespace.cluster.image))
    namespace.wait_phase("waits", "Running")
    found = {}
    for code in (0, 7):
        opened = stream(
            kubernetes.client.CoreV1Api(namespace.cluster.api).connect_get_namespaced_pod_exec,
            "waits",
            namespace.name,
            command=["sh", "-c", f"echo said; exit {code}"],
            stdout=True,
            stderr=True,
            _preload_content=False,
        )
        raw = opened.sock.sock
        opened.run_forever(timeout=30)
        assert opened.read_channel(STDOUT_CHANNEL) == "said\n"
        found[code] = json.loads(opened.read_channel(ERROR_CHANNEL))
        # What the client's own `close` does not do for a stream that has ended.
        raw.close()
    assert found[0]["status"] == "Success"
    assert found[7]["status"] == "Failure"
    assert found[7]["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


def test_volume_snapshots_of_a_group(local_cluster: Cluster, namespace: Namespace) -> None:
    names = ["left", "right"]
    for name in names:
        namespace.create(claim(name, storage_class="csi"))
    script = "echo left > /left/file; echo right > /right/file"
    namespace.run(pod("write", script, image=local_cluster.image, claims=names))
    for name in names:
        local_cluster.kind("v1", "PersistentVolumeClaim").patch(
            name=name,
            namespace=namespace.name,
            body={"metadata": {"labels": {"group": "one"}}},
            content_type="application/merge-patch+json",
        )
    taken = volume_group_snapshot("taken", labels={"group": "one"}, group_class="csi")
    namespace.create(taken)
    namespace.wait_ready(taken)
    kind = local_cluster.kind("snapshot.storage.k8s.io/v1", "VolumeSnapshot")
    members = kind.get(namespace=namespace.name).items
    of_claim = {one.spec.source.persistentVolumeClaimName: one.metadata.name for one in members}
    assert sorted(of_claim) == names
    source = from_volume_snapshot(of_claim["right"])
    namespace.create(claim("restored", storage_class="csi", source=source))
    assert read(namespace, "restored") == "right"


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_pod_reaches_a_server_of_the_host(namespace: Namespace, host_server: str, node: str) -> None:
    where = node if namespace.cluster.is_local else None
    made = pod("ask", f"wget -q -O - {host_server}/", image=namespace.cluster.image, node=where)
    assert namespace.run(made) == "hello\n"


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_pod_reaches_the_api_with_its_token(namespace: Namespace, node: str) -> None:
    where = node if namespace.cluster.is_local else None
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    # The shell has no TLS that the API server would take; that it is told so is enough.
    request = "GET / HTTP/1.0\\r\\n\\r\\n"
    script = f"printf '{request}' | nc kubernetes.default.svc 443; echo; cut -d. -f2 {folder}/token"
    said = namespace.run(pod("ask", script, image=namespace.cluster.image, node=where)).splitlines()
    assert "Client sent an HTTP request to an HTTPS server." in said
    token = json.loads(base64.urlsafe_b64decode(said[-1] + "=="))
    assert token["sub"] == f"system:serviceaccount:{namespace.name}:default"
    assert token["kubernetes.io"]["pod"]["name"] == "ask"


def test_a_job_writes_its_termination_message(namespace: Namespace) -> None:
    manifest: Any = pod("unused", "echo done > /dev/termination-log", image=namespace.cluster.image)
    manifest["spec"]["restartPolicy"] = "Never"
    spec = {"backoffLimit": 0, "template": {"spec": manifest["spec"]}}
    namespace.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": spec})

    def look() -> Any:
        pods = namespace.cluster.kind("v1", "Pod").get(namespace=namespace.name).items
        states = [one.status.containerStatuses[0].state for one in pods if one.status.containerStatuses]
        return next((one.terminated for one in states if one.terminated), None)

    ended = wait_for(look, namespace.events)
    assert (ended.exitCode, ended.message) == (0, "done\n")
