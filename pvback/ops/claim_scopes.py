"""Which scope holds what a namespace has stored: its own, never another that says so.

Whoever has a writer's key can store snapshots that say they are of any claim, within that key's scope. So
what is of a namespace is looked for in the scope of that namespace alone: the one that its secret names, else
the one that is called like it. Another one is chosen by its name.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pvback.cluster.secrets import RepositorySecret, load_repository_secret
from pvback.errors import ClusterError, UsageError
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import in_scope
from pvback.repository.snapshots import CommittedSnapshot

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["SECRET_NAME", "ScopeChoice", "connected_secret", "scopes_with"]

SECRET_NAME = "pvback-repository"  # noqa: S105 -- its name
"""Of the secret that connects a namespace, unless another was chosen."""


def connected_secret(cluster: "Cluster", namespace: str, *, secret: str) -> RepositorySecret | None:
    """What the namespace's secret says, where there is one that may be read."""
    try:
        return load_repository_secret(cluster, namespace, name=secret)
    except (ClusterError, UsageError):
        return None


class ScopeChoice:
    """Finds the scopes of namespaces; each is looked up once."""

    def __init__(
        self,
        cluster: "Cluster",
        access: RepositoryAccess,
        *,
        secret: str = SECRET_NAME,
        is_chosen: bool = False,
    ) -> None:
        """With `is_chosen` the scope of `access` is that of every namespace: somebody has named it."""
        self._cluster = cluster
        self._access = access
        self._secret = secret
        self._is_chosen = is_chosen
        self._known: dict[str, RepositoryAccess | None] = {}

    def find(self, namespace: str) -> RepositoryAccess | None:
        """Access to the namespace's scope; None where the key opens none that is."""
        if namespace not in self._known:
            self._known[namespace] = self._look(namespace)
        return self._known[namespace]

    def require(self, namespace: str) -> RepositoryAccess:
        """Likewise. Raises UsageError that says which scopes there are."""
        found = self.find(namespace)
        if found is None:
            labels = ", ".join(sorted(name for _, name in self._access.keyring.scopes()))
            raise UsageError(
                f"no scope is that of namespace {namespace}: this key opens {labels}",
                hint=f"choose one with `--scope`, or `pvback pvc connect {namespace}` makes one",
            )
        return found

    def _look(self, namespace: str) -> RepositoryAccess | None:
        if self._is_chosen:
            return self._access
        connected = connected_secret(self._cluster, namespace, secret=self._secret)
        label = (connected.scope if connected is not None else None) or namespace
        fitting = [scope for scope, name in self._access.keyring.scopes() if name == label]
        return in_scope(self._access, fitting[0]) if len(fitting) == 1 else None


def scopes_with(access: RepositoryAccess, is_wanted: Callable[[CommittedSnapshot], bool]) -> list[str]:
    """Labels of all scopes that the key opens with such a snapshot: they say so, and that is all."""
    return [
        label
        for scope, label in access.keyring.scopes()
        if any(one.details and is_wanted(one) for one in in_scope(access, scope).catalog().snapshots)
    ]
