"""What a populator gets: the kind Restore, an account with the smallest rights, a Deployment. Pure.

It has an account of its own, whose rights on volumes the account of nightly backups does not need. The rules
are all that `pvback pvc populate` asks of the API; tests/cluster/test_rights.py holds them against what the
program really asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pvback import limits
from pvback.cluster.kinds import DEFINITION, DEPLOYMENT, RESTORE, SERVICE_ACCOUNT, Body, Kind
from pvback.cluster.names import MANAGED_BY, ROLE
from pvback.cluster.restores import restore_definition
from pvback.cluster.roles import Rule, bound_role, make_rules

__all__ = ["POPULATOR", "PopulatorInstall", "populator_objects"]

POPULATOR = "pvback-populator"
"""The account, its roles, the Deployment, and by default the secret with its key."""

_FOLDER = "/run/pvback/repository"

_RULES: Sequence[Rule] = (
    ("", "configmaps", "create delete get list patch"),
    ("", "events", "create list"),
    ("", "namespaces", "get"),
    ("", "persistentvolumeclaims", "create delete get list"),
    ("", "pods", "create delete list"),
    ("", "pods/log", "get"),
    ("", "secrets", "create delete"),
    ("batch", "jobs", "create delete get list"),
    (RESTORE.group, RESTORE.plural, "get list"),
    (RESTORE.group, f"{RESTORE.plural}/status", "patch"),
)
_CLUSTER_RULES: Sequence[Rule] = (
    # A volume is given to its claim; a class says whether it waits for its first pod.
    ("", "persistentvolumes", "get patch"),
    ("storage.k8s.io", "storageclasses", "get"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulatorInstall:
    """What is to be installed.

    Attributes:
        namespace: Where the populator runs, and whose claims it fills unless it `is_for_cluster`.
        secret: Of the movers, in each namespace.
        own_secret: With the populator's own key, beside it.
        image: Of the Deployment.
        mover_account: Of movers.
        words: More options for `pvback pvc populate`.
    """

    namespace: str
    secret: str
    own_secret: str
    image: str
    is_for_cluster: bool = False
    mover_account: str | None = None
    words: tuple[str, ...] = ()


def populator_objects(options: PopulatorInstall) -> list[tuple[Kind, Body]]:
    """The objects, in the order in which they are made."""
    namespace = options.namespace
    metadata = {"labels": {MANAGED_BY: "pvback"}}
    rules = make_rules(_RULES, secret=options.secret)
    whole = make_rules(_CLUSTER_RULES)
    definition = DEFINITION.body(
        f"{RESTORE.plural}.{RESTORE.group}", metadata=metadata, spec=restore_definition()
    )
    objects: list[tuple[Kind, Body]] = [
        (DEFINITION, definition),
        (SERVICE_ACCOUNT, SERVICE_ACCOUNT.body(POPULATOR, namespace, metadata=metadata)),
    ]
    bind = partial(bound_role, account=POPULATOR, namespace=namespace)
    if options.is_for_cluster:
        objects += bind(POPULATOR, [*rules, *whole])
    else:
        objects += bind(POPULATOR, rules, is_namespaced=True)
        objects += bind(f"{POPULATOR}-{namespace}", whole)
    objects.append(
        (DEPLOYMENT, DEPLOYMENT.body(POPULATOR, namespace, metadata=metadata, spec=_spec(options)))
    )
    return objects


def _spec(options: PopulatorInstall) -> dict[str, Any]:
    labels = {MANAGED_BY: "pvback", ROLE: "populator"}
    return {
        "replicas": 1,
        # Two do no harm, for each claim is of one run at a time; they would only wait for each other.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": _pod_spec(options)},
    }


def _pod_spec(options: PopulatorInstall) -> dict[str, Any]:
    where = ["--all-namespaces"] if options.is_for_cluster else ["--namespace", options.namespace]
    account = ["--service-account", options.mover_account] if options.mover_account else []
    words = ["pvc", "populate", "--watch", *where, *account, "--secret", options.secret]
    files = {
        "PVBACK_CONFIG": "config.toml",
        "PVBACK_KEY_FILE": "key",
        "AWS_SHARED_CREDENTIALS_FILE": "credentials",
    }
    return {
        "serviceAccountName": POPULATOR,
        "enableServiceLinks": False,
        # A mover that is told to end stores nothing here, but has its grace all the same.
        "terminationGracePeriodSeconds": limits.RUN_GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "pvback",
                "image": options.image,
                "imagePullPolicy": "IfNotPresent",
                "args": [*words, *options.words],
                "env": [{"name": name, "value": f"{_FOLDER}/{file}"} for name, file in files.items()],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- of the container
                    {"name": "cache", "mountPath": "/cache"},
                    {"name": "repository", "mountPath": _FOLDER, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "cache", "emptyDir": {"sizeLimit": "2Gi"}},
            {"name": "repository", "secret": {"secretName": options.own_secret, "defaultMode": 0o440}},
        ],
    }
