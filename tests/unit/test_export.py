"""What is exported of objects, as a real cluster has given them out; where it is put; how it comes back."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback import limits
from pvback.cluster import exporting
from pvback.cluster.client import Cluster
from pvback.cluster.discovery import Discovery, discover
from pvback.cluster.exporting import Collected, CollectOptions, LeftOut, collect
from pvback.cluster.kinds import CONFIG_MAP, Body, Kind
from pvback.cluster.names import CLAIM, ROLE, STOPPED
from pvback.cluster.pruning import exported_body, is_finished, is_generated, owner_uid
from pvback.cluster.references import Reference, is_about, references_of
from pvback.cluster.restoring import is_wanted, rank_of, renamed
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, DamagedError, Interrupted
from pvback.model import Claim
from pvback.ops import private_folder
from pvback.ops.export_files import LEFT_OUT, export_files, name_of_path, parse_document, path_of_object
from pvback.ops.private_folder import private_files
from pvback.ops.sources import claim_string, export_string
from pvback.runtime import Cancel, ManualClock

RBAC = "rbac.authorization.k8s.io"
RECORDED = Path(__file__).parent / "exported"


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_bytes())
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.iterdir()))
def test_what_only_its_cluster_knows_is_left_out(name: str) -> None:
    body = recorded(name)
    made = exported_body(body)
    text = json.dumps(made)
    words = ("resourceVersion", "creationTimestamp", "managedFields", "last-applied", "controller-uid")
    assert not [word for word in (*words, body["metadata"]["uid"], "ownerReferences") if word in text]
    assert "status" not in made
    assert made["metadata"]["name"] == body["metadata"]["name"]
    assert made["apiVersion"] == body["apiVersion"]
    assert body == recorded(name)


def test_ports_that_somebody_has_chosen_stay() -> None:
    spec = exported_body(recorded("service-web"))["spec"]
    assert [one.get("nodePort") for one in spec["ports"]] == [31777, None]
    assert not {"clusterIP", "clusterIPs", "healthCheckNodePort"} & set(spec)
    assert "healthCheckNodePort" in recorded("service-balanced")["spec"]
    assert "healthCheckNodePort" not in exported_body(recorded("service-balanced"))["spec"]
    assert exported_body(recorded("service-headless"))["spec"]["clusterIP"] == "None"


def test_a_pod_is_not_bound_to_its_node() -> None:
    body = recorded("pod")
    spec = exported_body(body)["spec"]
    assert {"nodeName", "priority", "preemptionPolicy"} <= set(body["spec"])
    assert not {"nodeName", "priority", "preemptionPolicy"} & set(spec)
    assert [one["name"] for one in spec["volumes"]] == ["data"]
    assert [one["name"] for one in spec["containers"][0]["volumeMounts"]] == ["data"]
    assert spec["priorityClassName"] == "system-cluster-critical"


def test_a_job_gets_another_selector() -> None:
    made = exported_body(recorded("job"))
    assert "selector" not in made["spec"]
    assert made["spec"]["template"]["metadata"]["labels"] == {"app": "once"}
    body = recorded("job")
    body["spec"]["manualSelector"] = True
    assert exported_body(body)["spec"]["selector"] == body["spec"]["selector"]


def test_claims_and_volumes_are_free() -> None:
    claim, volume = exported_body(recorded("claim")), exported_body(recorded("volume"))
    assert "volumeName" in recorded("claim")["spec"]
    assert "volumeName" not in claim["spec"]
    assert "annotations" not in claim["metadata"]
    assert "claimRef" not in volume["spec"]
    assert "csi" in volume["spec"]


def test_accounts_without_their_tokens() -> None:
    body = recorded("account")
    body["secrets"] = [{"name": "default-token-x7k2p"}, {"name": "registry"}]
    body["imagePullSecrets"] = [{"name": "default-dockercfg-abcde"}]
    made = exported_body(body)
    assert made["secrets"] == [{"name": "registry"}]
    assert "imagePullSecrets" not in made


def test_roles_that_are_aggregated_have_no_rules_of_their_own() -> None:
    assert recorded("cluster-role")["rules"]
    assert "rules" not in exported_body(recorded("cluster-role"))
    namespace = exported_body(recorded("namespace"))
    assert namespace == {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "recorded"}}


def test_who_makes_what() -> None:
    generated = {name for name in _names() if is_generated(recorded(name))}
    assert generated == {"config-map", "token", "endpoints", "endpoint-slice"}
    assert {name for name in _names() if is_finished(recorded(name))} == {"job-finished"}
    owned = {name for name in _names() if owner_uid(recorded(name)) is not None}
    assert owned == {"replica-set", "endpoint-slice"}
    assert owner_uid(recorded("replica-set")) == recorded("deployment")["metadata"]["uid"]
    # Data, and passwords that fit data, are nothing that an owner makes again.
    claim = recorded("claim")
    claim["metadata"]["ownerReferences"] = [{"uid": "x", "controller": True}]
    assert owner_uid(claim) is None


def test_what_we_have_done_to_objects_is_not_theirs() -> None:
    body = recorded("deployment")
    assert body["spec"]["replicas"] == 1
    started = exported_body(body)
    body["spec"]["replicas"] = 0
    body["metadata"]["annotations"][STOPPED] = '{"replicas": 1, "claims": {"data": "held"}}'
    assert exported_body(body) == started
    # Somebody has started it meanwhile.
    body["spec"]["replicas"] = 5
    assert exported_body(body)["spec"]["replicas"] == 5
    body["metadata"]["annotations"][STOPPED] = "no"
    assert exported_body(body)["spec"]["replicas"] == 5
    journal = CONFIG_MAP.body("previous", "ns", metadata={"labels": {ROLE: "replacement"}})
    assert is_generated(journal)
    volume = recorded("volume")
    before = exported_body(volume)
    volume["metadata"]["annotations"][CLAIM] = "ns/data"
    assert exported_body(volume) == before


def _names() -> list[str]:
    return sorted(path.stem for path in RECORDED.iterdir())


def test_references() -> None:
    claim = recorded("claim")
    volume = claim["spec"]["volumeName"]
    storage = "storage.k8s.io"
    assert set(references_of(claim)) == {
        Reference("", "PersistentVolume", volume),
        Reference(storage, "StorageClass", "csi-immediate"),
    }
    assert set(references_of(recorded("pod"))) == {
        Reference("scheduling.k8s.io", "PriorityClass", "system-cluster-critical")
    }
    rollout: Body = {
        "apiVersion": "x.test/v1",
        "kind": "Rollout",
        "metadata": {},
        "spec": {"template": {"spec": recorded("pod")["spec"]}},
    }
    assert set(references_of(rollout)) == set(references_of(recorded("pod")))
    role = {"kind": "ClusterRole", "name": "edit"}
    binding: Body = {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": {}, "roleRef": role}
    assert [one.name for one in references_of(binding)] == ["edit"]
    subject = {"kind": "ServiceAccount", "name": "a", "namespace": "shop"}
    assert is_about({"subjects": [subject]}, "shop")
    assert not is_about({"subjects": [subject]}, "sho")
    assert is_about({"subjects": [{"kind": "Group", "name": "system:serviceaccounts:shop"}]}, "shop")
    assert is_about({"webhooks": [{"clientConfig": {"service": {"namespace": "shop"}}}]}, "shop")
    assert is_about({"users": ["system:serviceaccount:shop:x"]}, "shop")
    assert not is_about({"users": ["system:serviceaccount:shopping:x"]}, "shop")


names = st.text(min_size=1, max_size=300) | st.text("aA%~.:/_-0", min_size=1, max_size=300)


# The API server takes names of domains for groups, and one label of such for kinds; names may be anything.
groups = st.just("core") | st.text("az09.-", max_size=253)
kinds = st.just("core") | st.text("AZaz09-", min_size=1, max_size=63)


@given(groups, kinds, names)
def test_paths_are_reversible(group: str, kind: str, name: str) -> None:
    path = path_of_object(group, kind, name=name)
    assert name_of_path(path) == (group, kind, name)
    parts = path.split("/")
    assert all(0 < len(one.encode()) <= 255 and one not in (".", "..") for one in parts), path
    assert path.isascii()
    assert path != LEFT_OUT


def test_paths() -> None:
    assert path_of_object("", "Service", name="web") == "core/Service/web.json"
    role = path_of_object("rbac.authorization.k8s.io", "Role", name="system:a/b%~c")
    assert role == "rbac.authorization.k8s.io/Role/system%3Aa%2Fb%25%7Ec.json"
    assert path_of_object("", "A", name="x" * 253).endswith(f"/{'x' * 200}~/{'x' * 53}.json")
    assert path_of_object("core", "A", name="x") != path_of_object("", "A", name="x")
    for bad in ("core/Service/web", "core/x.json", "core/A/b/c.json", "x"):
        with pytest.raises(DamagedError):
            name_of_path(bad)


def test_documents_are_stable() -> None:
    body = {"kind": "A", "apiVersion": "b.c/v1", "metadata": {"name": "ü", "labels": {"b": "1", "a": "2"}}}
    turned = {"metadata": {"labels": {"a": "2", "b": "1"}, "name": "ü"}, "apiVersion": "b.c/v1", "kind": "A"}
    left_out = [LeftOut(what="secrets", why="no")]
    files = export_files([body], left_out)
    assert files == export_files([turned], left_out)
    assert set(files) == {"b.c/A/%C3%BC.json", LEFT_OUT}
    assert parse_document("x", files["b.c/A/%C3%BC.json"]) == body
    assert files["b.c/A/%C3%BC.json"].endswith(b"}\n")
    for bad in (b"", b"[]", b"{}", b'{"kind":"A","apiVersion":"v1"}'):
        with pytest.raises(DamagedError):
            parse_document("x", bad)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["containers", "template", "metadata", "kind", "ports", "x", "name"]), inner
        )
    ),
    max_leaves=10,
)
known = (
    "Service",
    "Job",
    "Pod",
    "Secret",
    "Ingress",
    "RoleBinding",
    "Namespace",
    "Endpoints",
    "ServiceAccount",
)
fields = ("spec", "status", "roleRef", "subjects", "webhooks", "users", "data", "secrets", "type")


@given(st.sampled_from(known), st.dictionaries(st.sampled_from(fields), values))
def test_other_kinds_may_have_the_names_of_kubernetes(kind: str, parts: dict[str, Any]) -> None:
    """And whatever they like in them: nothing but what all objects have is touched."""
    metadata = {"name": "old", "namespace": "old", "uid": "u", "labels": {"job-name": "x"}}
    body = {"apiVersion": "x.test/v1", "kind": kind, "metadata": metadata, **parts}
    kept = {name: value for name, value in parts.items() if name != "status"}
    made = exported_body(body)
    assert made["metadata"] == {"name": "old", "namespace": "old", "labels": {"job-name": "x"}}
    assert {name: made[name] for name in kept} == kept
    assert not is_generated(body)
    assert not is_finished(body)
    assert all(one.kind in ("PriorityClass", "RuntimeClass") for one in references_of(body))
    moved = renamed(made, "old", new="new", kind=None)
    assert moved == {**made, "metadata": {**made["metadata"], "namespace": "new"}}
    assert export_files([made], [])


def test_no_source_has_the_name_of_another() -> None:
    assert export_string("b", cluster="a") == "export:a/namespaces/b"
    assert export_string("b", cluster="a", labels="x=y") == "export:a/namespaces/b?x=y"
    assert export_string("b", cluster="a") != claim_string(Claim("namespaces", "b"), cluster="a")


class Served(Cluster):
    """A cluster that serves recorded objects of one namespace."""

    def __init__(self, *bodies: Body, failing: Sequence[tuple[str, ClusterError]] = ()) -> None:
        self.bodies = bodies
        self.failing = dict(failing)
        self.brief: list[str] = []

    def read(self, path: str, *, accept: str) -> Body:
        assert "APIGroupDiscoveryList" in accept
        items = [_resources(body) for body in self.bodies] if path == "/apis" else []
        return {"kind": "APIGroupDiscoveryList", "items": items}

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        for body in self.bodies:
            if (body["kind"], body["metadata"]["name"]) == (kind.name, name):
                return body
        raise ClusterObjectMissing("not found")

    def list(self, kind: Kind, *, is_brief: bool = False, **_: Any) -> list[Body]:
        if is_brief:
            self.brief.append(kind.name)
        if kind.name in self.failing:
            raise self.failing[kind.name]
        return [one for one in self.bodies if one["kind"] == kind.name]


def _resources(body: Body) -> dict[str, Any]:
    group, _, version = body["apiVersion"].rpartition("/")
    resource = {
        "resource": body["kind"].lower() + "s",
        "scope": "Namespaced" if body["metadata"].get("namespace") else "Cluster",
        "responseKind": {"kind": body["kind"], "group": "", "version": ""},
        "verbs": ["create", "list"],
    }
    return {"metadata": {"name": group}, "versions": [{"version": version, "resources": [resource]}]}


def collected(cluster: Cluster, **wishes: Any) -> Collected:
    return collect(cluster, "recorded", options=CollectOptions(**wishes), cancel=Cancel())


def test_what_is_made_by_others_is_not_collected() -> None:
    found = collected(Served(*map(recorded, _names())))
    assert {f"{one['kind']} {one['metadata']['name']}" for one in found.objects} == {
        "Namespace recorded",
        "Deployment web",
        "Job once",
        "PersistentVolume " + recorded("volume")["metadata"]["name"],
        "PersistentVolumeClaim data",
        "Pod bare",
        "Service balanced",
        "Service headless",
        "Service web",
        "ServiceAccount default",
    }
    assert found.left_out == [LeftOut(what="Job finished", why="it is over, and would do its work again")]
    assert found.unbound_claims == []
    claim = recorded("claim")
    del claim["spec"]["volumeName"]
    assert collected(Served(recorded("namespace"), claim)).unbound_claims == ["data"]


def test_owned_objects_stay_where_the_owner_is_not_exported() -> None:
    found = collected(Served(recorded("namespace"), recorded("replica-set")))
    assert [one["kind"] for one in found.objects] == ["Namespace", "ReplicaSet"]
    assert "ownerReferences" not in found.objects[1]["metadata"]


def test_kinds_that_fail_are_named() -> None:
    forbidden = ("Pod", ClusterRefusal("pods is forbidden"))
    broken = ("Job", ClusterError("conversion webhook failed"))
    bodies = [recorded(name) for name in ("namespace", "pod", "job", "service-web")]
    found = collected(Served(*bodies, failing=(forbidden, broken)))
    assert [one["kind"] for one in found.objects] == ["Namespace", "Service"]
    assert found.left_out == [
        LeftOut(what="jobs.batch", why="conversion webhook failed", is_failure=True),
        LeftOut(what="pods", why="pods is forbidden"),
    ]


@pytest.mark.parametrize(("group", "is_failure"), [("shop.test/v1", True), ("metrics.k8s.io/v1beta1", False)])
def test_a_group_that_is_not_to_be_had_is_missed(
    monkeypatch: pytest.MonkeyPatch, group: str, is_failure: bool
) -> None:
    """Objects of its kinds may be there; of those that serve figures none would be exported."""

    def without(cluster: Any) -> Discovery:
        found = discover(cluster)
        return replace(found, unavailable={**found.unavailable, group: "no backend"})

    monkeypatch.setattr(exporting, "discover", without)
    found = collected(Served(recorded("namespace")))
    assert found.left_out == [LeftOut(what=f"kinds of {group}", why="no backend", is_failure=is_failure)]


def test_content_of_secrets_is_not_asked_for() -> None:
    secret = {**recorded("token"), "type": "Opaque"}
    secret["metadata"] = {**secret["metadata"], "annotations": {}}
    cluster = Served(recorded("namespace"), secret)
    found = collected(cluster)
    assert cluster.brief == ["Secret"]
    assert [one.what for one in found.left_out] == ["Secret robot-token"]
    cluster = Served(recorded("namespace"), secret)
    assert [one["kind"] for one in collected(cluster, with_secrets=True).objects] == ["Namespace", "Secret"]
    assert not cluster.brief
    with pytest.raises(ClusterObjectMissing):
        collected(Served(secret))


def test_order() -> None:
    kinds = ("MutatingWebhookConfiguration", "ResourceQuota", "Deployment", "Widget", "PersistentVolumeClaim")
    more = ("CustomResourceDefinition", "Namespace", "Secret", "ServiceAccount", "Ingress", "RoleBinding")
    bodies = [{"kind": one, "metadata": {"name": "x"}} for one in (*kinds, *more)]
    assert [one["kind"] for one in sorted(bodies, key=rank_of)] == [
        "CustomResourceDefinition",
        "Namespace",
        "ServiceAccount",
        "RoleBinding",
        "Secret",
        "PersistentVolumeClaim",
        "Deployment",
        "Widget",
        "Ingress",
        "ResourceQuota",
        "MutatingWebhookConfiguration",
    ]


def test_selection() -> None:
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    assert is_wanted(body, kinds=(), names=())
    assert is_wanted(body, kinds=("pod", "deployment.apps"), names=("web",))
    assert not is_wanted(body, kinds=("deployment",), names=("db",))
    assert not is_wanted(body, kinds=("deployment.extensions",), names=())


def test_another_namespace() -> None:
    accounts = [{"kind": "ServiceAccount", "namespace": "old", "name": "a"}, {"kind": "User", "name": "old"}]
    metadata = {"name": "old", "namespace": "old"}
    body: Body = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "subjects": accounts,
    }
    made = renamed(body, "old", new="new", kind=None)
    assert made["metadata"] == {"name": "old", "namespace": "new"}
    assert [one.get("namespace", one["name"]) for one in made["subjects"]] == ["new", "old"]
    assert body["metadata"]["namespace"] == "old"
    kind = Kind("", "v1", "Namespace", "namespaces", is_namespaced=False)
    namespace: Body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "old"}}
    assert renamed(namespace, "old", new="new", kind=kind)["metadata"]["name"] == "new"
    constraints: Body = {
        "apiVersion": "security.openshift.io/v1",
        "kind": "SecurityContextConstraints",
        "metadata": {"name": "x"},
        "users": ["system:serviceaccount:old:a", "system:serviceaccount:older:a"],
        "groups": ["system:serviceaccounts:old"],
    }
    made = renamed(constraints, "old", new="new", kind=kind)
    assert made["users"] == ["system:serviceaccount:new:a", "system:serviceaccount:older:a"]
    assert made["groups"] == ["system:serviceaccounts:new"]
    assert is_about(made, "new")


def test_private_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_folder, "_MEMORY", tmp_path)
    monkeypatch.setattr(private_folder, "_is_in_memory", lambda: True)
    clock = ManualClock()

    def use() -> None:
        with private_files({"a/b/c.json": b"x", "d.json": b"y"}, clock=clock) as folder:
            assert (folder / "a/b/c.json").read_bytes() == b"x"
            assert folder.parent.parent == tmp_path
            for one in (folder.parent, folder, *folder.rglob("*")):
                assert one.stat().st_mode & 0o777 == (0o700 if one.is_dir() else 0o600), one
            assert {one.stat().st_mtime for one in (folder, *folder.rglob("*"))} == {0}
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        use()
    assert list(tmp_path.iterdir()) == []
    # Too little memory: a folder elsewhere.
    monkeypatch.setattr(limits, "FILE_PAGE_BYTES", 1 << 60)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    with private_files({"a": b"x"}, clock=clock) as folder:
        assert folder.parent.parent == tmp_path / "elsewhere"


def test_what_a_killed_one_has_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from pvback.ops import private_folder; from pvback.runtime import SystemClock\n"
        "private_folder._MEMORY = Path(sys.argv[1]); private_folder._is_in_memory = lambda: True\n"
        "with private_folder.private_files({'a': b'secret'}, clock=SystemClock()):\n"
        "    print('there', flush=True); time.sleep(60)\n"
    )
    monkeypatch.setattr(private_folder, "_MEMORY", tmp_path)
    monkeypatch.setattr(private_folder, "_is_in_memory", lambda: True)
    later = ManualClock(start=datetime.now(UTC) + timedelta(hours=1))
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        (left,) = tmp_path.iterdir()
        with private_files({}, clock=later):
            assert left.exists(), "somebody uses it"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.exists()
    with private_files({}, clock=ManualClock(start=datetime.now(UTC))):
        assert left.exists(), "it is too young"
    with private_files({}, clock=later):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []
