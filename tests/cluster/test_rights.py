"""The role that `pvback install` makes: enough for everything in one namespace, and not one verb more."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from click.testing import CliRunner

from pvback import limits
from pvback.cli import main
from pvback.cluster.client import Cluster as Door
from pvback.cluster.kinds import VOLUME_SNAPSHOT, group_kinds
from pvback.cluster.transport import Request
from pvback.cluster.watching import MoverWatch
from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Fleet, die, left_behind, make_claim, wait_nothing_left, writer_pod
from tests.cluster.restores import claim_of, install_kind, restore

Right = tuple[str, str, str]
"""Group, resource, verb."""
HELPFUL = {
    "persistentvolumes",
    "storageclasses",
    "volumegroupsnapshotclasses",
    "volumesnapshotclasses",
}
"""Of the cluster; nobody has to be let read them."""
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:alpha1)?/(?:namespaces/[^/]+/)?(?P<resource>[a-z]+)(?P<rest>.*)"
)


@pytest.fixture
def team(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace whose owner has installed what nightly backups need, and connected it."""
    fleet.good("install", "-n", namespace.name, "--restore", "--hooks", "--apply")
    fleet.connect(namespace)
    yield namespace
    wait_nothing_left(namespace)


def kubeconfig_of(team: Namespace, folder: Path, account: str = "pvback") -> Path:
    """Of an account of the namespace."""
    core = kubernetes.client.CoreV1Api(team.cluster.api)
    request = kubernetes.client.AuthenticationV1TokenRequest(
        spec=kubernetes.client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
    )
    made: Any = core.create_namespaced_service_account_token(account, team.name, request)
    config = yaml.safe_load(team.cluster.kubeconfig.read_text())
    config["users"] = [{"name": "team", "user": {"token": made.status.token}}]
    cluster = config["clusters"][0]["name"]
    config["contexts"] = [
        {"name": "team", "context": {"cluster": cluster, "user": "team", "namespace": team.name}}
    ]
    config["current-context"] = "team"
    path = folder / "kubeconfig"
    path.touch(0o600)
    path.write_text(json.dumps(config))
    return path


def annotate_hook(team: Namespace) -> None:
    """A hook at the claim `data` that does nothing, wherever that is used."""
    hook = {"pre": {"command": ["true"]}, "post": {"command": ["true"]}, "on_multiple": "all"}
    team.cluster.kind("v1", "PersistentVolumeClaim").patch(
        name="data",
        namespace=team.name,
        body={"metadata": {"annotations": {"hook.pvback.io/x": json.dumps(hook)}}},
        content_type="application/merge-patch+json",
    )


def right_of(method: str, path: str) -> Right:
    found = _PATH.fullmatch(path)
    assert found, path
    resource, rest = found["resource"], found["rest"]
    name, _, subresource = rest.strip("/").partition("/")
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "GET": "get" if name else "list"}[method]
    return found["group"] or "", f"{resource}/{subresource}" if subresource else resource, verb


def is_ready(team: Namespace, kind: str) -> bool:
    return bool(team.get("apps/v1", kind, "work").status.get("readyReplicas"))


def has_no_pods(team: Namespace) -> bool:
    return not team.cluster.kind("v1", "Pod").get(namespace=team.name, label_selector="app=work").items


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[Right]:
    """Every right that is asked for, also those for what is seldom to be seen."""
    asked: set[Right] = set()
    send = Door._send

    def record(self: Door, request: Request) -> Any:
        # Whether there are groups of volume snapshots, everybody may ask.
        if request.path != "/apis/groupsnapshot.storage.k8s.io":
            asked.add(right_of(request.method, request.path))
        return send(self, request)

    monkeypatch.setattr(Door, "_send", record)
    dial = Door.dial

    def record_socket(self: Door, path: str, **given: Any) -> Any:
        # Opened with GET; API servers ask for `create`, too, since that is what it does.
        asked.add(right_of("GET", path))
        asked.add(right_of("POST", path))
        return dial(self, path, **given)

    monkeypatch.setattr(Door, "dial", record_socket)
    find_pod = MoverWatch._find_pod
    looks: list[MoverWatch] = []

    def find_late(self: MoverWatch) -> Any:
        """The pod, which is not there yet at the first look, as on a cluster that has more to do."""
        looks.append(self)
        return find_pod(self) if self in looks[:-1] else None

    monkeypatch.setattr(MoverWatch, "_find_pod", find_late)
    # So often that it is seen: a run says that it lives.
    monkeypatch.setattr(limits, "RUN_BEAT_SECONDS", 0.2)
    return asked


def rights_of(rules: list[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.long
def test_every_right_is_used_and_no_other(
    fleet: Fleet, team: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: set[Right]
) -> None:
    kubeconfig = str(kubeconfig_of(team, tmp_path))
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> int:
        done = CliRunner().invoke(main, [*words, "--kubeconfig", kubeconfig])
        assert "Traceback" not in done.output
        print(*words, done.exit_code, done.output[-2000:])
        return done.exit_code

    make_claim(team, "data")
    writer_pod(team, "app", "data", "echo x > /data/x")
    assert run("pvc", "backup", "data") == 0
    annotate_hook(team)
    for method in ("snapshot", "clone"):
        assert run("pvc", "backup", "data", "--method", method, "--snapshot-class", "csi") == 0
    words = ("--group", "pvback.test/claim=data", "--group-class", "csi")
    assert run("pvc", "backup", *words) == 0
    assert run("pvc", "list") == 0
    assert run("pvc", "restore", "data", "--to", "again") == 0
    team.delete("v1", "Pod", "app")
    for kind in ("Deployment", "StatefulSet"):
        manifest = objects.workload(kind, "work", image=team.cluster.image, claims=["data"])
        team.create(manifest)
        wait_for(partial(is_ready, team, kind), team.events)
        assert run("pvc", "restore", "data", "--in-place", "--scale-down") == 0
        team.delete("apps/v1", kind, "work")
        wait_for(partial(has_no_pods, team), team.events)
    assert run("pvc", "restore", "data", "--replace") == 40, "volumes are the cluster's"
    assert run("pvc", "backup", "data", "--image", "localhost/none:1") == 40
    assert run("pvc", "backup", "data", "--privileged") == 2, "the namespace does not allow it"
    with fleet.start("pvc", "backup", f"{team.name}/data", "--image", "localhost/none:1") as process:
        wait_for(lambda: any("Job" in one for one in left_behind(team)), lambda: "no Job is made")
        process.kill()
        process.wait()
    assert run("pvc", "backup", "data") == 11
    die(team)
    assert run("pvc", "cleanup") == 0
    wait_nothing_left(team)
    rules = team.get("rbac.authorization.k8s.io/v1", "Role", "pvback").to_dict()["rules"]
    assert {one for one in asked if one[1] not in HELPFUL} == rights_of(rules)


def test_volumes_exchanged_by_an_account(fleet: Fleet, team: Namespace, tmp_path: Path) -> None:
    """`install --replace` gives what an exchange of volumes takes beside the role, and no more."""
    make_claim(team, "data")
    team.run(objects.pod("fill", "echo x > /data/x", image=team.cluster.image, claims=["data"]))
    team.delete("v1", "Pod", "fill")
    given = {"KUBECONFIG": str(kubeconfig_of(team, tmp_path))}
    fleet.run("pvc", "backup", "data", **given).ended(0)
    refused = fleet.run("pvc", "restore", "data", "--replace", **given).ended(40)
    assert "persistentvolumes" in refused.err
    printed = fleet.good("install", "-n", team.name, "--restore", "--replace")
    made = [one for one in yaml.safe_load_all(printed.out) if one["kind"].startswith("Cluster")]
    assert [one["kind"] for one in made] == ["ClusterRole", "ClusterRoleBinding"]
    assert made[0]["rules"] == [
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "patch"]}
    ]
    try:
        for one in made:
            team.cluster.create(one)
        for words in (("restore", "data", "--replace"), ("undo", "data"), ("commit", "data")):
            fleet.run("pvc", *words, **given).ended(0)
    finally:
        for one in reversed(made):
            team.cluster.resource(one).delete(name=one["metadata"]["name"])


def test_a_populators_rights(
    fleet: Fleet, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: set[Right]
) -> None:
    """Its roles, of the namespace and of the cluster, are what it asks for in good days and bad."""
    install_kind(str(namespace.cluster.kubeconfig))
    fleet.connect(namespace)
    make_claim(namespace, "data", storage_class="csi-immediate")
    namespace.run(objects.pod("fill", "echo x > /data/x", image=namespace.cluster.image, claims=["data"]))
    fleet.good("pvc", "backup", f"{namespace.name}/data", "--method", "live")
    printed = fleet.good("install", "-n", namespace.name, "--populator", "--image", fleet.image)
    made = [one for one in yaml.safe_load_all(printed.out) if "populator" in one["metadata"]["name"]]
    made = [one for one in made if one["kind"] != "Deployment"]
    roles = [one for one in made if one["kind"] in ("Role", "ClusterRole")]
    assert [one["kind"] for one in roles] == ["Role", "ClusterRole"]
    for name in ("first", "second"):
        namespace.create(restore(name, source={"claim": "data"}))
        namespace.create(claim_of(name, name, storage_class="csi-immediate"))
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    try:
        for one in made:
            namespace.cluster.create(one, namespace=one["metadata"].get("namespace"))
        kubeconfig = str(kubeconfig_of(namespace, tmp_path, "pvback-populator"))
        asked.clear()

        def run(*words: str) -> int:
            done = CliRunner().invoke(main, ["pvc", "populate", *words, "--kubeconfig", kubeconfig])
            assert "Traceback" not in done.output
            print(*words, done.exit_code, done.output[-2000:])
            return done.exit_code

        nobody = ("--image", "localhost/none:1", "--start-timeout", "3")
        with fleet.start("pvc", "populate", "-n", namespace.name, *nobody) as process:
            wait_for(lambda: any("Job" in one for one in left_behind(namespace)), lambda: "no Job is made")
            process.kill()
            process.wait()
        assert run() == 0, "another run has them, for all that is known"
        die(namespace)
        assert run(*nobody) == 40
        assert run() == 0
        namespace.wait_bound("second")
        namespace.create(restore("third", source={"claim": "data"}, privileged=True))
        namespace.create(claim_of("third", "third", storage_class="csi-immediate"))
        assert run() == 2, "the namespace does not allow it"
        namespace.delete("v1", "PersistentVolumeClaim", "third")
    finally:
        for one in made:
            if one["kind"].startswith("Cluster"):
                namespace.cluster.resource(one).delete(name=one["metadata"]["name"])
    wait_nothing_left(namespace)
    # What restores of its kind never leave is looked for where that is allowed, and not where it is not.
    asked -= {(kind.group, kind.plural, "list") for kind in (VOLUME_SNAPSHOT, group_kinds("v1").group)}
    assert asked == rights_of([rule for one in roles for rule in one["rules"]])


def run_tonight(namespace: Namespace) -> str:
    """What the nightly run of a namespace says, which has to succeed."""
    cron = namespace.get("batch/v1", "CronJob", "pvback-backup").to_dict()
    spec = cron["spec"]["jobTemplate"]["spec"]
    namespace.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tonight"}, "spec": spec})

    def is_over() -> bool:
        status = namespace.get("batch/v1", "Job", "tonight").status
        return bool(status.succeeded or status.failed)

    wait_for(is_over, namespace.events, seconds=120)
    pods = namespace.cluster.kind("v1", "Pod")
    (pod,) = pods.get(namespace=namespace.name, label_selector="job-name=tonight").items
    log = namespace.log(pod.metadata.name)
    assert namespace.get("batch/v1", "Job", "tonight").status.succeeded == 1, log
    return log


def test_a_nightly_run_in_the_cluster(fleet: Fleet, team: Namespace) -> None:
    """The CronJob's pod backs up all claims, by its own account, under restricted pod security."""
    words = ("--schedule", "17 2 * * *", "--image", fleet.image, "--backup-option", "--method")
    fleet.good("install", "-n", team.name, *words, "--backup-option", "live", "--apply")
    make_claim(team, "data")
    writer_pod(team, "app", "data", "echo x > /data/x")
    log = run_tonight(team)
    assert "snapshot" in log
    (snapshot,) = fleet.snapshots(team)
    assert snapshot["source"].endswith(f"/{team.name}/data")


@pytest.mark.alone
def test_a_nightly_run_of_all_namespaces(fleet: Fleet, namespace: Namespace, other: Namespace) -> None:
    """One account backs up the claims of all connected namespaces, and says which are not."""
    words = ("--schedule", "17 2 * * *", "--image", fleet.image, "--backup-option", "--method")
    printed = fleet.good("install", "--cluster", "-n", namespace.name, *words, "--backup-option", "live")
    made = list(yaml.safe_load_all(printed.out))
    for one in (namespace, other):
        make_claim(one, "data")
        writer_pod(one, "app", "data", "echo x > /data/x")
    fleet.connect(other)
    of_cluster = [one for one in made if "namespace" not in one["metadata"]]
    assert {one["kind"] for one in of_cluster} == {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
    try:
        for one in made:
            namespace.cluster.create(one, namespace=one["metadata"].get("namespace"))
        log = run_tonight(namespace)
        assert f"namespace {namespace.name} is not connected: 1 claim left out" in log
        (snapshot,) = fleet.snapshots(other)
        assert snapshot["source"].endswith(f"/{other.name}/data")
    finally:
        for one in of_cluster:
            namespace.cluster.resource(one).delete(name=one["metadata"]["name"])
    wait_nothing_left(other)


def test_what_is_printed_can_be_applied(fleet: Fleet, namespace: Namespace) -> None:
    done = fleet.good("install", "-n", namespace.name, "--schedule", "17 2 * * *", "--image", fleet.image)
    bodies = list(yaml.safe_load_all(done.out))
    assert [one["kind"] for one in bodies] == [
        "ServiceAccount",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "CronJob",
    ]
    for one in bodies:
        namespace.create(one)
    fleet.good("install", "-n", namespace.name, "--schedule", "18 2 * * *", "--image", fleet.image, "--apply")
    assert namespace.get("batch/v1", "CronJob", "pvback-backup").spec.schedule == "18 2 * * *"
    fleet.run("install", "-n", namespace.name, "--schedule", "17 2 * * *").ended(2)


def test_each_right_to_run_commands_is_needed(fleet: Fleet, team: Namespace, tmp_path: Path) -> None:
    """Without the one or the other a hook is refused, and the backup with it, before anything is touched."""
    make_claim(team, "data")
    writer_pod(team, "app", "data", "echo x > /data/x")
    kubeconfig = str(kubeconfig_of(team, tmp_path))
    hooks = tmp_path / "hooks.json"
    hooks.write_text(json.dumps({"hooks": [{"name": "x", "pre": {"command": ["true"]}}]}))
    words = ("pvc", "backup", "data", "--method", "live", "--hooks", str(hooks))
    fleet.run(*words, KUBECONFIG=kubeconfig).ended(0)
    roles = team.cluster.kind("rbac.authorization.k8s.io/v1", "Role")
    rules = team.get("rbac.authorization.k8s.io/v1", "Role", "pvback").to_dict()["rules"]
    for verb in ("create", "get"):
        less = [{**one, "verbs": [verb]} if one["resources"] == ["pods/exec"] else one for one in rules]
        roles.patch(
            name="pvback",
            namespace=team.name,
            body={"rules": less},
            content_type="application/merge-patch+json",
        )
        done = fleet.run(*words, KUBECONFIG=kubeconfig)
        print(verb, "alone:", done.code, done.err)
        assert done.code == 40
        assert 'pods "app" is forbidden' in done.err
        assert "lacks a right" in done.err


def test_without_the_role_nothing_goes(fleet: Fleet, team: Namespace, tmp_path: Path) -> None:
    make_claim(team, "data")
    team.delete("rbac.authorization.k8s.io/v1", "RoleBinding", "pvback")
    kubeconfig = str(kubeconfig_of(team, tmp_path))
    done = fleet.run("pvc", "backup", "data", KUBECONFIG=kubeconfig).ended(40)
    assert "cannot get resource" in done.err
    assert "docs/kubernetes.md" in done.err


def test_only_one_namespace(fleet: Fleet, team: Namespace, tmp_path: Path) -> None:
    kubeconfig = str(kubeconfig_of(team, tmp_path))
    done = fleet.run("pvc", "list", "-n", "kube-system", KUBECONFIG=kubeconfig).ended(40)
    assert "forbidden" in done.err
