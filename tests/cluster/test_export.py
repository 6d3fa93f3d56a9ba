"""Exports on a real cluster: what is in them, what is not, and that all of it comes back and runs."""

import base64
import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, new_namespace, wait_for
from tests.cluster.fleet import Done, Fleet, die, make_claim, wait_nothing_left, writer_pod
from tests.cluster.objects import Manifest
from tests.cluster.test_rights import kubeconfig_of

MARKER = "a password that nobody guesses"
RBAC = "rbac.authorization.k8s.io"


def template(namespace: Namespace, app: str, script: str, claims: tuple[str, ...] = ()) -> Manifest:
    """The template of pods that go on running."""
    body = f"{script}\nwhile true; do sleep 1; done"
    spec = objects.pod(app, body, image=namespace.cluster.image, claims=claims)["spec"]
    return {"metadata": {"labels": {"app": app}}, "spec": {**spec, "restartPolicy": "Always"}}


def workloads(namespace: Namespace, *, priority: str) -> list[Manifest]:
    """A Deployment, and a StatefulSet that keeps what it has written first in a claim."""
    script = "test -e /data/book || echo first edition > /data/book\necho found: $(cat /data/book)"
    database = template(namespace, "db", script, claims=("data",))
    database["spec"]["volumes"] = []
    database["spec"]["priorityClassName"] = priority
    claim = objects.claim("data", storage_class=namespace.cluster.storage_class)
    selector = {"selector": {"matchLabels": {"app": "db"}}}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "template": template(namespace, "web", "echo up"),
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "db"},
            "spec": {
                **selector,
                "serviceName": "db",
                "template": database,
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim["spec"]}],
            },
        },
    ]


def small_objects(namespace: Namespace) -> list[Manifest]:
    """What is named and served: maps, secrets, services, roles."""
    port = {"name": "web", "port": 80, "targetPort": 8080}
    role = {"apiGroup": RBAC, "kind": "Role", "name": "shop:reader"}
    cluster_role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": namespace.name}
    account = {"kind": "ServiceAccount", "name": "default", "namespace": namespace.name}
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    rbac = f"{RBAC}/v1"
    bound = {"subjects": [account], "apiVersion": rbac}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"colour": "red"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "login"},
            "stringData": {"password": MARKER},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [port]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "db"},
            "spec": {"clusterIP": "None", "selector": {"app": "db"}, "ports": [port]},
        },
        {"apiVersion": rbac, "kind": "Role", "metadata": {"name": "shop:reader"}, "rules": rules},
        {**bound, "kind": "RoleBinding", "metadata": {"name": "shop:readers"}, "roleRef": role},
        {**bound, "kind": "RoleBinding", "metadata": {"name": "of-cluster"}, "roleRef": cluster_role},
    ]


def definition(group: str) -> Manifest:
    """Of a kind `Widget`."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": "Widget", "plural": "widgets", "singular": "widget"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def of_cluster(namespace: Namespace, group: str) -> list[Manifest]:
    """Objects of the cluster that the namespace refers to."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    return [
        definition(group),
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": namespace.name},
            "value": 7,
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": namespace.name},
            "rules": rules,
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": namespace.name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": namespace.name},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace.name}],
        },
    ]


def delete_of_cluster(namespace: Namespace, made: list[Manifest]) -> None:
    """Those that are there."""

    def names(one: Manifest) -> set[str]:
        return {found.metadata.name for found in namespace.cluster.resource(one).get().items}

    for one in made:
        name = one["metadata"]["name"]
        if name in names(one):
            namespace.cluster.resource(one).delete(name=name)
    for one in made:
        wait_for(partial(lambda one: one["metadata"]["name"] not in names(one), one), lambda: f"left: {made}")


def make_widget(namespace: Namespace, group: str) -> None:
    """A custom resource, when its kind is served."""
    api_version = f"{group}/v1"

    def look() -> bool:
        found = namespace.cluster.dynamic.resources
        found.invalidate_cache()
        return bool(found.search(api_version=api_version, kind="Widget"))

    wait_for(look, lambda: f"{group} is not served")
    widget = {"apiVersion": api_version, "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3}}
    namespace.create(widget)


@pytest.fixture
def group() -> str:
    return f"t{secrets.token_hex(4)}.pvback.test"


@pytest.fixture
def shop(fleet: Fleet, namespace: Namespace, group: str) -> Iterator[Namespace]:
    """A connected namespace in which everything runs."""
    fleet.connect(namespace)
    made = of_cluster(namespace, group)
    try:
        for one in made:
            namespace.cluster.create(one)
        make_widget(namespace, group)
        for one in (*small_objects(namespace), *workloads(namespace, priority=namespace.name)):
            namespace.create(one)
        wait_running(namespace)
        yield namespace
    finally:
        delete_of_cluster(namespace, made)


def wait_running(namespace: Namespace) -> None:
    """The StatefulSet's pod has said what it found, and the Deployment has a pod."""
    wait_for(lambda: not namespace.is_gone("v1", "Pod", "db-0"), namespace.events)
    namespace.wait_phase("db-0", "Running")
    wait_for(lambda: "found:" in namespace.log("db-0"), lambda: namespace.log("db-0"))

    def is_up() -> bool:
        status = namespace.get("apps/v1", "Deployment", "web").status
        return bool(status.availableReplicas)

    wait_for(is_up, lambda: f"no pod of web:\n{namespace.events()}")


def export(fleet: Fleet, namespace: Namespace, *more: str) -> str:
    """The id of a new export."""
    done = fleet.good("export", namespace.name, "--json", *more)
    (summary,) = done.messages("summary")
    snapshot: str = summary["snapshot"]
    return snapshot


def documents(fleet: Fleet, namespace: Namespace, snapshot: str, folder: Path) -> dict[str, bytes]:
    """Every file of an export."""
    target = folder / snapshot
    fleet.good("restore", snapshot, "--target", str(target), "--scope", namespace.name)
    files = (one for one in target.rglob("*") if one.is_file())
    return {str(one.relative_to(target)): one.read_bytes() for one in files}


def states(done: Done) -> dict[str, str]:
    """What became, or would become, of each object."""
    return {f"{one['kind']} {one['name']}": one["state"] for one in done.messages("object")}


def delete_namespace(namespace: Namespace) -> None:
    kind = namespace.cluster.kind("v1", "Namespace")
    kind.delete(name=namespace.name)

    def is_gone() -> bool:
        return namespace.name not in [one.metadata.name for one in kind.get().items]

    wait_for(is_gone, lambda: "the namespace stays", seconds=120)


def test_what_is_in_an_export(fleet: Fleet, shop: Namespace, group: str, tmp_path: Path) -> None:
    first = export(fleet, shop, "--secrets")
    files = documents(fleet, shop, first, tmp_path)
    assert {
        f"core/Namespace/{shop.name}.json",
        "core/ConfigMap/settings.json",
        "core/Secret/login.json",
        "core/Service/web.json",
        "core/PersistentVolumeClaim/data-db-0.json",
        "apps/Deployment/web.json",
        "apps/StatefulSet/db.json",
        f"apiextensions.k8s.io/CustomResourceDefinition/widgets.{group}.json",
        f"scheduling.k8s.io/PriorityClass/{shop.name}.json",
        f"storage.k8s.io/StorageClass/{shop.cluster.storage_class}.json",
        f"{RBAC}/ClusterRole/{shop.name}.json",
        f"{RBAC}/ClusterRoleBinding/{shop.name}.json",
        f"{RBAC}/Role/shop%3Areader.json",
        f"{group}/Widget/w.json",
    } <= set(files)
    # What others make of these is not there.
    owned = ("ReplicaSet/", "core/Pod/", "EndpointSlice/", "ControllerRevision/", "kube-root-ca", "Event/")
    assert not [path for path in files if any(word in path for word in owned)]
    for path, data in files.items():
        parsed = json.loads(data)
        assert data.decode() == json.dumps(parsed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        assert not {"status", "uid", "managedFields"} & {*parsed, *parsed.get("metadata", {})}, path
    web, db = (json.loads(files[f"core/Service/{name}.json"])["spec"] for name in ("web", "db"))
    assert "clusterIP" not in web
    assert "nodePort" not in web["ports"][0]
    assert db["clusterIP"] == "None"
    # The next one has the same tree but for what was changed.
    change = {"data": {"colour": "blue"}}
    merge = "application/merge-patch+json"
    maps = shop.cluster.kind("v1", "ConfigMap")
    maps.patch(name="settings", namespace=shop.name, body=change, content_type=merge)
    second = export(fleet, shop, "--secrets")
    changed = fleet.good("diff", first, second, "--scope", shop.name, "--json").json()
    found = [(one["change"], one["node"]["path"]) for one in changed]
    assert found == [("content", "core/ConfigMap/settings.json")]


def test_into_another_namespace(fleet: Fleet, shop: Namespace) -> None:
    """Every document is what a cluster takes, where there is nothing yet."""
    fleet.good("pvc", "backup", f"{shop.name}/data-db-0")
    # What becomes of the claim after its backup is in the export.
    grown = {
        "metadata": {"labels": {"tier": "gold"}},
        "spec": {"resources": {"requests": {"storage": "96Mi"}}},
    }
    claims = shop.cluster.kind("v1", "PersistentVolumeClaim")
    merge = "application/merge-patch+json"
    claims.patch(name="data-db-0", namespace=shop.name, body=grown, content_type=merge)
    snapshot = export(fleet, shop)
    with new_namespace(shop.cluster, objects.namespace(f"{shop.name}-b")) as other:
        words = ("export", "restore", snapshot, "--namespace", f"{shop.name}={other.name}", "--json")
        done = fleet.run(*words).ended(3)
        assert states(done)["PersistentVolumeClaim data-db-0"] == "refused"
        assert "not connected" in done.out
        fleet.run(*words, "--apply").ended(2)
        assert other.is_gone("v1", "ConfigMap", "settings")
        fleet.connect(other)
        done = fleet.good(*words)
        assert not [one for one in done.messages("object") if one["why"].startswith("not tried")]
        planned = states(done)
        assert planned["Deployment web"] == planned["Role shop:reader"] == planned["Widget w"] == "create"
        assert planned["PersistentVolumeClaim data-db-0"] == "restore"
        assert planned[f"ClusterRole {shop.name}"] == "unchanged"
        # Its subjects are of the other namespace.
        assert planned[f"ClusterRoleBinding {shop.name}"] == "differs"
        assert "refused" not in planned.values(), planned
        fleet.good(*words, "--apply")
        wait_running(other)
        assert "found: first edition" in other.log("db-0")
        claim = other.get("v1", "PersistentVolumeClaim", "data-db-0")
        assert (claim.metadata.labels.tier, claim.spec.resources.requests.storage) == ("gold", "96Mi")
        binding = other.get(f"{RBAC}/v1", "RoleBinding", "shop:readers")
        assert binding.subjects[0].namespace == other.name
        wait_nothing_left(other)


def test_lost_altogether(fleet: Fleet, shop: Namespace, group: str) -> None:
    """The namespace, and what of the cluster belongs to it."""
    fleet.good("pvc", "backup", f"{shop.name}/data-db-0")
    snapshot = export(fleet, shop, "--secrets")
    delete_namespace(shop)
    delete_of_cluster(shop, of_cluster(shop, group))
    words = ("export", "restore", snapshot, "--json")
    planned = states(fleet.good(*words))
    assert planned["Widget w"] == planned["Deployment web"] == planned[f"Namespace {shop.name}"] == "create"
    assert planned["PersistentVolumeClaim data-db-0"] == "restore"
    assert states(fleet.good(*words)) == planned
    done = states(fleet.good(*words, "--apply"))
    assert set(done.values()) <= {"created", "restored", "unchanged", "left"}, done
    wait_running(shop)
    assert "found: first edition" in shop.log("db-0")
    shop.cluster.dynamic.resources.invalidate_cache()
    assert shop.get(f"{group}/v1", "Widget", "w").spec.size == 3
    assert shop.get("v1", "ConfigMap", "settings").data.colour == "red"
    assert base64.b64decode(shop.get("v1", "Secret", "login").data.password).decode() == MARKER
    wait_nothing_left(shop)
    # Once more: there is nothing to do, and the next export is the same but for the volume.
    again = states(fleet.good(*words, "--apply"))
    assert set(again.values()) == {"unchanged", "left"}, again
    third = export(fleet, shop, "--secrets")
    changed = fleet.good("diff", snapshot, third, "--scope", shop.name, "--json").json()
    assert not [one for one in changed if "PersistentVolume/" not in one["node"]["path"]], changed


def test_secrets_only_when_asked_for(fleet: Fleet, namespace: Namespace, tmp_path: Path) -> None:
    fleet.connect(namespace)
    for one in small_objects(namespace)[:2]:
        namespace.create(one)
    found = {MARKER.encode(), base64.b64encode(MARKER.encode())}
    files = documents(fleet, namespace, export(fleet, namespace), tmp_path)
    assert not [path for path, data in files.items() if any(one in data for one in found)]
    left_out = json.loads(files["_left-out.json"])["left_out"]
    assert {"Secret login", "Secret pvback-repository"} <= {one["what"] for one in left_out}
    metadata = {"name": "front", "labels": {"tier": "front"}}
    namespace.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    files = documents(fleet, namespace, export(fleet, namespace, "-l", "tier=front"), tmp_path)
    where = f"core/Namespace/{namespace.name}.json"
    assert set(files) == {where, "core/ConfigMap/front.json", "_left-out.json"}
    files = documents(fleet, namespace, export(fleet, namespace, "--secrets"), tmp_path)
    assert [path for path, data in files.items() if any(one in data for one in found)] == [
        "core/Secret/login.json"
    ]


def test_what_may_not_be_listed_is_named(fleet: Fleet, namespace: Namespace, tmp_path: Path) -> None:
    """The account that `install` makes has a role for claims; with `view` it may export nearly all."""
    fleet.good("install", "-n", namespace.name, "--apply")
    fleet.connect(namespace)
    for one in small_objects(namespace)[:3]:
        namespace.create(one)
    kubeconfig = str(kubeconfig_of(namespace, tmp_path))
    done = fleet.run("export", namespace.name, KUBECONFIG=kubeconfig).ended(0)
    assert "left out: services: services is forbidden" in done.err
    scope = ("--scope", namespace.name)
    (snapshot,) = fleet.snapshots(namespace)
    files = documents(fleet, namespace, snapshot["id"], tmp_path)
    assert "core/ConfigMap/settings.json" in files
    left_out = json.loads(files["_left-out.json"])["left_out"]
    whats = {one["what"] for one in left_out}
    assert {"services", "secrets", "deployments.apps", f"roles.{RBAC}"} <= whats
    assert f"Namespace {namespace.name}" not in whats, "its own may be read, for what it allows"
    view = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}
    account = {"kind": "ServiceAccount", "name": "pvback", "namespace": namespace.name}
    bound = {"metadata": {"name": "pvback-export"}, "roleRef": view, "subjects": [account]}
    namespace.create({"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", **bound})
    fleet.run("export", namespace.name, KUBECONFIG=kubeconfig).ended(0)
    assert "core/Service/web.json" in fleet.good("ls", "latest", "-R", *scope).out
    assert "Secret/" not in fleet.good("ls", "latest", "-R", *scope).out
    fleet.run("export", "no-such-namespace", *scope).ended(40)
    fleet.run("export", "no-such-namespace").ended(2)
    done = fleet.run("export", namespace.name, "no-such-namespace", *scope).ended(3)
    assert "no-such-namespace" in done.err
    assert f"of namespace {namespace.name}" in done.out


def test_what_is_there_is_not_overwritten(fleet: Fleet, namespace: Namespace) -> None:
    fleet.connect(namespace)
    for one in small_objects(namespace)[:3]:
        namespace.create(one)
    snapshot = export(fleet, namespace)
    kind = namespace.cluster.kind("v1", "ConfigMap")
    kind.patch(
        name="settings",
        namespace=namespace.name,
        body={"data": {"colour": "blue"}},
        content_type="application/merge-patch+json",
    )
    namespace.delete("v1", "Service", "web")
    words = ("export", "restore", snapshot, "--json")

    def colour() -> Any:
        return namespace.get("v1", "ConfigMap", "settings").data.colour

    assert states(fleet.good(*words))["ConfigMap settings"] == "differs"
    done = states(fleet.good(*words, "--apply"))
    assert (done["ConfigMap settings"], done["Service web"], colour()) == ("differs", "created", "blue")
    refused = fleet.run(*words, "--overwrite", "--apply").ended(3)
    assert states(refused)["ConfigMap settings"] == "refused"
    assert "conflict with" in refused.out
    assert colour() == "blue"
    forced = fleet.good(*words, "--overwrite", "--force-conflicts", "--apply")
    assert (states(forced)["ConfigMap settings"], colour()) == ("overwritten", "red")
    fleet.run(*words, "--kind", "ConfigMap", "--namespace", "other=x").ended(2)
    only = states(fleet.good(*words, "--kind", "configmap"))
    assert set(only) == {"ConfigMap settings"}


def test_no_claim_comes_back_empty(fleet: Fleet, namespace: Namespace) -> None:
    fleet.connect(namespace)
    make_claim(namespace, "data")
    make_claim(namespace, "unused")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    snapshot = export(fleet, namespace)
    namespace.delete("v1", "Pod", "app")
    namespace.delete("v1", "PersistentVolumeClaim", "data")
    namespace.delete("v1", "PersistentVolumeClaim", "unused")
    words = ("export", "restore", snapshot, "--json")
    done = fleet.run(*words, "--apply").ended(3)
    found = states(done)
    assert found["PersistentVolumeClaim data"] == "refused"
    assert found["PersistentVolumeClaim unused"] == "created"
    assert found["Pod app"] == "not tried"
    assert "it would be empty" in done.out
    assert namespace.is_gone("v1", "PersistentVolumeClaim", "data")
    found = states(fleet.good(*words, "--apply", "--no-data"))
    assert found["PersistentVolumeClaim data"] == found["Pod app"] == "created"
    namespace.wait_phase("app", "Running")


def test_the_owner_of_a_namespace(fleet: Fleet, namespace: Namespace, tmp_path: Path) -> None:
    """Who may do everything in one namespace, and nothing in the cluster, exports and restores it."""
    fleet.good("install", "-n", namespace.name, "--apply")
    fleet.connect(namespace)
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "test -e /data/x || echo first > /data/x; cat /data/x")
    for one in small_objects(namespace)[:4]:
        namespace.create(one)
    admin = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "admin"}
    account = {"kind": "ServiceAccount", "name": "pvback", "namespace": namespace.name}
    bound = {"metadata": {"name": "owner"}, "roleRef": admin, "subjects": [account]}
    namespace.create({"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", **bound})
    owner = {"KUBECONFIG": str(kubeconfig_of(namespace, tmp_path))}
    fleet.run("pvc", "backup", f"{namespace.name}/data", **owner).ended(0)
    done = fleet.run("export", namespace.name, "--secrets", **owner).ended(0)
    assert "left out: StorageClass" in done.err
    everything = export(fleet, namespace, "--secrets")
    for api_version, kind, name in (
        ("v1", "Pod", "app"),
        ("v1", "PersistentVolumeClaim", "data"),
        ("v1", "ConfigMap", "settings"),
        ("v1", "Secret", "login"),
    ):
        namespace.delete(api_version, kind, name)
    words = ("export", "restore", everything, "--json")
    planned = states(fleet.run(*words, **owner).ended(0))
    assert planned[f"StorageClass {namespace.cluster.storage_class}"] == "forbidden"
    found = states(fleet.run(*words, "--apply", **owner).ended(0))
    assert found["PersistentVolumeClaim data"] == "restored"
    assert found["Pod app"] == found["Secret login"] == "created"
    namespace.wait_phase("app", "Running")
    wait_for(lambda: "first\nwritten" in namespace.log("app"), lambda: namespace.log("app"))
    wait_nothing_left(namespace)


def test_a_claim_that_was_half_restored(fleet: Fleet, namespace: Namespace) -> None:
    """Killed while a mover fills it, a restore leaves a claim that is not to be taken for a whole one."""
    fleet.connect(namespace)
    make_claim(namespace, "data")
    writer_pod(namespace, "app", "data", "echo x > /data/x")
    fleet.good("pvc", "backup", f"{namespace.name}/data")
    snapshot = export(fleet, namespace)
    namespace.delete("v1", "Pod", "app")
    namespace.delete("v1", "PersistentVolumeClaim", "data")
    words = ("export", "restore", snapshot, "--json")
    with fleet.start(*words, "--apply") as process:
        gone = partial(namespace.is_gone, "v1", "PersistentVolumeClaim", "data")
        wait_for(lambda: not gone(), lambda: "no claim is made")
        process.kill()
        process.wait()
    for more in ((), ("--apply",)):
        found = states(fleet.run(*words, *more).ended(3))
        assert found["PersistentVolumeClaim data"] == "refused"
        assert found["Pod app"] == ("not tried" if more else "create")
    die(namespace)
    fleet.good("pvc", "cleanup", "-n", namespace.name)
    wait_for(gone, lambda: "the claim stays")
    found = states(fleet.good(*words, "--apply"))
    assert (found["PersistentVolumeClaim data"], found["Pod app"]) == ("restored", "created")
    wait_nothing_left(namespace)


def test_nothing_is_left_of_an_export_that_is_ended(fleet: Fleet, namespace: Namespace) -> None:
    """The documents lie in a private folder for as long as it takes to store them."""
    fleet.connect(namespace)
    data = {"noise": secrets.token_hex(100_000)}
    namespace.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})

    def folders() -> set[Path]:
        return {one for parent in (Path("/dev/shm"), Path("/tmp")) for one in parent.glob("pvback-private-*")}

    before = folders()
    with fleet.start("export", namespace.name, "--limit-upload", "16KiB") as process:
        (made,) = wait_for(lambda: folders() - before, lambda: "there is no private folder")
        assert made.stat().st_mode & 0o777 == 0o700
        # The first asks it to end in order, which takes as long as what is being sent.
        for _ in range(60):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
                break
        assert process.returncode == 130
    assert not made.exists()
    assert fleet.snapshots(namespace) == []
