"""Roles of accounts that pvback installs, and who is bound to them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from pvback.cluster.kinds import (
    CLUSTER_BINDING,
    CLUSTER_ROLE,
    RBAC_BINDING,
    RBAC_ROLE,
    SERVICE_ACCOUNT,
    Body,
    Kind,
)
from pvback.cluster.names import MANAGED_BY

__all__ = ["Rule", "bound_role", "make_rules"]

Rule = tuple[str, str, str]
"""API group, resource, and verbs with spaces between them."""


def make_rules(rules: Sequence[Rule], *, secret: str | None = None) -> list[dict[str, Any]]:
    """Rules as the API has them; with the right to get one secret by its name."""
    made: list[dict[str, Any]] = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}
        for group, resource, verbs in rules
    ]
    if secret is not None:
        own = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret]}
        made.append({**own, "verbs": ["get"]})
    return made


def bound_role(
    name: str,
    rules: Sequence[Mapping[str, Any]],
    *,
    account: str,
    namespace: str,
    is_namespaced: bool = False,
) -> list[tuple[Kind, Body]]:
    """A role with these rules, of the account's namespace or of the cluster, and the account bound to it."""
    metadata = {"labels": {MANAGED_BY: "pvback"}}
    role, binding = (RBAC_ROLE, RBAC_BINDING) if is_namespaced else (CLUSTER_ROLE, CLUSTER_BINDING)
    where = namespace if is_namespaced else None
    subject = {"kind": SERVICE_ACCOUNT.name, "name": account, "namespace": namespace}
    reference = {"apiGroup": role.group, "kind": role.name, "name": name}
    return [
        (role, role.body(name, where, metadata=metadata, rules=list(rules))),
        (binding, binding.body(name, where, metadata=metadata, roleRef=reference, subjects=[subject])),
    ]
