"""What a namespace, or a cluster, gets for nightly backups of its claims: the smallest role, a CronJob. Pure.

The rules are all that `pvback pvc` asks of the API for one namespace; tests/cluster/test_rights.py holds them
against what the program really asks. Who makes pods reaches what pods reach: see docs/kubernetes.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pvback import limits
from pvback.cluster.installing_populator import PopulatorInstall, populator_objects
from pvback.cluster.kinds import SERVICE_ACCOUNT, Body, Kind
from pvback.cluster.mover import LEFT_ALONE
from pvback.cluster.names import MANAGED_BY, ROLE
from pvback.cluster.roles import Rule, bound_role, make_rules

__all__ = ["ACCOUNT", "MOVER_ACCOUNT", "PRIORITY_CLASS", "InstallOptions", "install_objects", "role_rules"]

ACCOUNT = "pvback"
"""Runs `pvback pvc`."""
MOVER_ACCOUNT = "pvback-mover"
"""Of movers: no role is bound to it."""
PRIORITY_CLASS = "pvback-mover"
"""Of backups' movers, of a cluster. Those of restores have none, and so go before them."""

_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
_NOBODY_IN = {
    # Movers listen on nothing; where they go to, the store, is not known here.
    "podSelector": {"matchLabels": {MANAGED_BY: "pvback", ROLE: "mover"}},
    "policyTypes": ["Ingress"],
}
_PRIORITY = Kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", is_namespaced=False)
_CRON_JOB = Kind("batch", "v1", "CronJob", "cronjobs")

_RULES: Sequence[Rule] = (
    ("", "configmaps", "create delete get list patch"),
    ("", "events", "list"),
    # Of a namespace's role it is that namespace alone.
    ("", "namespaces", "get"),
    ("", "persistentvolumeclaims", "create delete get list"),
    ("", "pods", "create delete list"),
    ("", "pods/log", "get"),
    ("batch", "jobs", "create delete get list"),
    ("groupsnapshot.storage.k8s.io", "volumegroupsnapshots", "create delete get list"),
    ("snapshot.storage.k8s.io", "volumesnapshots", "create delete get list"),
)
_RESTORE_RULES: Sequence[Rule] = (
    ("", "persistentvolumeclaims", "patch"),
    ("", "secrets", "create delete"),
    ("apps", "deployments", "get list patch"),
    ("apps", "replicasets", "get"),
    ("apps", "statefulsets", "get list patch"),
)
_VOLUME_RULES = [{"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "patch"]}]
"""Volumes are the cluster's: there are no fewer than all of them."""
_CLUSTER_RULES: Sequence[Rule] = (
    # Where they may be read, more is known of volumes; the rules of namespaces do without.
    ("", "persistentvolumes", "get"),
    ("storage.k8s.io", "storageclasses", "get"),
    ("snapshot.storage.k8s.io", "volumesnapshotclasses", "list"),
    ("groupsnapshot.storage.k8s.io", "volumegroupsnapshotclasses", "list"),
)
_HOOK_RULES: Sequence[Rule] = (
    # A WebSocket is opened with GET; newer API servers ask for `create` as well, older ones for `get` alone.
    ("", "pods/exec", "create get"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallOptions:
    """What is to be installed.

    Attributes:
        namespace: Where; of a cluster: where its account and its CronJob are.
        is_for_cluster: All namespaces, those that come later, too.
        secret: The repository's, as `pvback pvc connect` made it.
        may_restore: Whether the account may restore, too: make secrets, and stop and start workloads.
        may_replace: Whether it may exchange volumes, too, which are the cluster's.
        may_run_hooks: Whether it may run commands in the namespace's pods.
        has_populator: Whether there is to be a populator, too, with an account of its own.
        populator_secret: With the populator's key.
        image: Of the CronJob and the populator; they need one.
        schedule: Of the CronJob, five fields; None: no CronJob.
        time_zone: Of the schedule, such as `Europe/Vienna`; None: the cluster's.
        words: More options for `pvback pvc backup`.
        populator_words: More options for `pvback pvc populate`.
    """

    namespace: str
    secret: str
    is_for_cluster: bool = False
    may_restore: bool = False
    may_replace: bool = False
    may_run_hooks: bool = False
    image: str | None = None
    schedule: str | None = None
    time_zone: str | None = None
    words: tuple[str, ...] = ()
    has_populator: bool = False
    populator_secret: str = "pvback-populator"  # noqa: S105 -- a name
    populator_words: tuple[str, ...] = ()


def role_rules(secret: str, *, may_restore: bool, may_run_hooks: bool) -> list[dict[str, Any]]:
    """The rules of the account's role."""
    rules = [
        *_RULES,
        *(_RESTORE_RULES if may_restore else ()),
        *(_HOOK_RULES if may_run_hooks else ()),
    ]
    return make_rules(rules, secret=secret)


def install_objects(options: InstallOptions) -> list[tuple[Kind, Body]]:
    """The objects, in the order in which they are made."""
    objects = _of_cluster(options) if options.is_for_cluster else _of_namespace(options)
    if options.schedule is not None:
        metadata = {"labels": {MANAGED_BY: "pvback"}}
        body = _CRON_JOB.body("pvback-backup", options.namespace, metadata=metadata, spec=_cron_spec(options))
        objects.append((_CRON_JOB, body))
    if options.has_populator:
        objects += populator_objects(_populator(options))
    return objects


def _populator(options: InstallOptions) -> PopulatorInstall:
    return PopulatorInstall(
        namespace=options.namespace,
        secret=options.secret,
        own_secret=options.populator_secret,
        image=options.image or "",
        is_for_cluster=options.is_for_cluster,
        mover_account=None if options.is_for_cluster else MOVER_ACCOUNT,
        words=options.populator_words,
    )


def _of_cluster(options: InstallOptions) -> list[tuple[Kind, Body]]:
    """One account for all namespaces. Movers run as each namespace's default account, without its token."""
    metadata = {"labels": {MANAGED_BY: "pvback"}}
    rules = [
        *role_rules(options.secret, may_restore=options.may_restore, may_run_hooks=options.may_run_hooks),
        *make_rules(_CLUSTER_RULES),
        *(_VOLUME_RULES if options.may_replace else ()),
    ]
    last: dict[str, Any] = {
        "metadata": metadata,
        "value": -10,
        "preemptionPolicy": "Never",
        "description": "Movers of backups: they make way for everything else, and put nothing aside.",
    }
    return [
        (_PRIORITY, _PRIORITY.body(PRIORITY_CLASS, **last)),
        (SERVICE_ACCOUNT, SERVICE_ACCOUNT.body(ACCOUNT, options.namespace, metadata=metadata)),
        *bound_role(ACCOUNT, rules, account=ACCOUNT, namespace=options.namespace),
    ]


def _of_namespace(options: InstallOptions) -> list[tuple[Kind, Body]]:
    namespace = options.namespace
    metadata = {"labels": {MANAGED_BY: "pvback"}}
    rules = role_rules(options.secret, may_restore=options.may_restore, may_run_hooks=options.may_run_hooks)
    bind = partial(bound_role, account=ACCOUNT, namespace=namespace)
    bare = {"metadata": metadata, "automountServiceAccountToken": False}
    objects: list[tuple[Kind, Body]] = [
        (SERVICE_ACCOUNT, SERVICE_ACCOUNT.body(ACCOUNT, namespace, metadata=metadata)),
        (SERVICE_ACCOUNT, SERVICE_ACCOUNT.body(MOVER_ACCOUNT, namespace, **bare)),
        *bind(ACCOUNT, rules, is_namespaced=True),
        (_POLICY, _POLICY.body(MOVER_ACCOUNT, namespace, metadata=metadata, spec=_NOBODY_IN)),
    ]
    if options.may_replace:
        objects += bind(f"{ACCOUNT}-volumes-{namespace}", _VOLUME_RULES)
    return objects


def _cron_spec(options: InstallOptions) -> Mapping[str, Any]:
    job = {
        "backoffLimit": 0,
        # One that did not end would keep all others from beginning.
        "activeDeadlineSeconds": limits.NIGHTLY_DEADLINE_SECONDS,
        "ttlSecondsAfterFinished": 86400,
        "template": {"metadata": {"annotations": dict(LEFT_ALONE)}, "spec": _pod_spec(options)},
    }
    return {
        "schedule": options.schedule,
        **({"timeZone": options.time_zone} if options.time_zone else {}),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 6 * 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }


def _pod_spec(options: InstallOptions) -> Mapping[str, Any]:
    if options.is_for_cluster:
        where = ["--all-namespaces", "--priority-class", PRIORITY_CLASS]
    else:
        where = ["--namespace", options.namespace, "--service-account", MOVER_ACCOUNT]
    words = ["pvc", "backup", "--all", *where, "--secret", options.secret]
    return {
        "serviceAccountName": ACCOUNT,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": limits.RUN_GRACE_SECONDS,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "pvback",
                "image": options.image,
                "imagePullPolicy": "IfNotPresent",
                "args": [*words, *options.words],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 -- of the container
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
