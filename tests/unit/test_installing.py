"""What `pvback install` renders, for a namespace and for a cluster."""

from typing import Any

import pytest

from pvback import limits
from pvback.cli import main
from pvback.cluster.installing import InstallOptions, install_objects
from pvback.cluster.restores import restore_definition


def rendered(**wishes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    options = InstallOptions(namespace="ns", secret="s", image="i", has_populator=True, **wishes)
    return {(kind.name, body["metadata"]["name"]): dict(body) for kind, body in install_objects(options)}


def rules_of(body: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in body["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


OF_CLUSTER = {
    ("", "persistentvolumes", "get"),
    ("", "persistentvolumes", "patch"),
    ("storage.k8s.io", "storageclasses", "get"),
}


def test_of_a_namespace() -> None:
    found = rendered()
    role = rules_of(found["Role", "pvback-populator"])
    assert rules_of(found["ClusterRole", "pvback-populator-ns"]) == OF_CLUSTER
    assert not role & OF_CLUSTER
    words = found["Deployment", "pvback-populator"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert words[:3] == ["pvc", "populate", "--watch"]
    assert words[3:5] == ["--namespace", "ns"]
    backups = rules_of(found["Role", "pvback"])
    assert ("", "persistentvolumeclaims", "delete") in backups
    assert not backups & OF_CLUSTER, "nightly backups get no more by it"


def test_of_a_cluster() -> None:
    found = rendered(is_for_cluster=True, populator_words=("--interval", "5"))
    assert not [kind for kind, _ in found if kind in ("Role", "RoleBinding")]
    role = rules_of(found["ClusterRole", "pvback-populator"])
    assert role == rules_of(rendered()["Role", "pvback-populator"]) | OF_CLUSTER
    words = found["Deployment", "pvback-populator"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--all-namespaces" in words
    assert "--namespace" not in words
    assert words[-2:] == ["--interval", "5"]


@pytest.mark.parametrize("is_for_cluster", [False, True])
def test_of_secrets_one_alone_can_be_read(is_for_cluster: bool) -> None:
    """By its name: the right to get any would be the right to all, and to list them likewise."""
    wishes = {"may_restore": True, "may_replace": True, "may_run_hooks": True}
    found = rendered(is_for_cluster=is_for_cluster, **wishes)
    roles = [body for (kind, _), body in found.items() if kind in ("Role", "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"] if "secrets" in rule["resources"]]
    reading = [rule for rule in rules if set(rule["verbs"]) - {"create", "delete"}]
    assert [(rule["verbs"], rule["resourceNames"]) for rule in reading] == [(["get"], ["s"])] * 2


def test_restores_go_before_backups() -> None:
    """A pod that names no class is of priority 0, and may put those below it aside."""
    found = rendered(is_for_cluster=True, schedule="17 2 * * *")

    def priority_of(spec: dict[str, Any]) -> int:
        words = spec["containers"][0]["args"]
        if "--priority-class" not in words:
            return 0
        name = words[words.index("--priority-class") + 1]
        value: int = found["PriorityClass", name]["value"]
        return value

    backups = found["CronJob", "pvback-backup"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    restores = found["Deployment", "pvback-populator"]["spec"]["template"]["spec"]
    assert priority_of(backups) < priority_of(restores)


@pytest.mark.parametrize("is_for_cluster", [False, True])
def test_a_restricted_pod_whose_words_exist(is_for_cluster: bool) -> None:
    found = rendered(is_for_cluster=is_for_cluster)
    assert not any("*" in one for body in found.values() if "rules" in body for one in rules_of(body))
    spec = found["Deployment", "pvback-populator"]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    (secret,) = [one for one in spec["volumes"] if "secret" in one]
    assert secret["secret"]["secretName"] == "pvback-populator"
    command: Any = main
    # As the program makes it: a command remembers its help option, as it was asked for first.
    context = main.make_context("pvback", list(container["args"]))
    for word in container["args"][:2]:
        command = command.get_command(context, word)
    command.make_context("populate", list(container["args"][2:]), parent=context)


def test_no_populator_unless_it_is_asked_for() -> None:
    kinds = [kind.name for kind, _ in install_objects(InstallOptions(namespace="ns", secret="s"))]
    assert not {"CustomResourceDefinition", "Deployment", "ClusterRole"} & set(kinds)


@pytest.mark.parametrize("is_for_cluster", [False, True])
def test_a_nightly_run_ends_and_is_left_alone(is_for_cluster: bool) -> None:
    """One that never ended would keep all later nights from beginning, for two of them are forbidden."""
    options = InstallOptions(
        namespace="ns", secret="s", image="i", schedule="17 2 * * *", is_for_cluster=is_for_cluster
    )
    (cron,) = [body for kind, body in install_objects(options) if kind.name == "CronJob"]
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    job = cron["spec"]["jobTemplate"]["spec"]
    # A mover that hangs is ended first, and says so.
    assert limits.MOVER_DEADLINE_SECONDS < job["activeDeadlineSeconds"] < 26 * 3600
    annotations = job["template"]["metadata"]["annotations"]
    assert annotations["sidecar.istio.io/inject"] == "false"
    assert annotations["linkerd.io/inject"] == "disabled"
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    # When it is told to end, its movers have their grace, and then there is something to remove.
    grace = job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= limits.MOVER_GRACE_SECONDS + limits.MOVER_REFUSED_SECONDS + 30


def test_the_definition_says_what_each_field_is() -> None:
    (version,) = restore_definition()["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    assert set(schema["spec"]["properties"]) == {"source", "acceptPartial", "privileged"}
    assert set(schema["spec"]["properties"]["source"]["properties"]) == {"claim", "snapshot", "asOf"}
    assert set(schema["status"]["properties"]) >= {"phase", "snapshot", "taken", "message", "conditions"}
