"""The secret by which the movers of a namespace reach the repository, and the one of a single restore."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvback.cluster.kinds import SECRET, Body
from pvback.cluster.names import MANAGED_BY
from pvback.errors import ClusterObjectMissing, UsageError

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["RepositorySecret", "key_secret_body", "load_repository_secret", "repository_secret_body"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySecret:
    """What is no secret of it."""

    cluster: str
    """What the cluster is called in source strings."""
    scope: str | None
    image: str | None


def load_repository_secret(cluster: "Cluster", namespace: str, *, name: str) -> RepositorySecret:
    """Raises UsageError where there is none, ClusterError."""
    data = repository_secret_files(cluster, namespace, name=name)
    if data is None:
        raise UsageError(
            f"namespace {namespace} is not connected to a repository: it has no secret {name}",
            hint=f"an owner of the repository runs `pvback pvc connect {namespace}`",
        )
    missing = [one for one in ("config.toml", "key") if one not in data]
    if missing:
        raise UsageError(f"secret {namespace}/{name} has no `{missing[0]}`", hint="see docs/kubernetes.md")

    def text(key: str) -> str | None:
        return data[key].decode().strip() or None if key in data else None

    return RepositorySecret(cluster=text("cluster") or "default", scope=text("scope"), image=text("image"))


def repository_secret_files(cluster: "Cluster", namespace: str, *, name: str) -> dict[str, bytes] | None:
    """Everything in it, by name; None where there is none. Raises ClusterError."""
    try:
        body = cluster.get(SECRET, name, namespace=namespace)
    except ClusterObjectMissing:
        return None
    return {key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()}


def repository_secret_body(namespace: str, name: str, *, files: Mapping[str, bytes]) -> Body:
    """The secret with these files."""
    return SECRET.body(
        name, namespace, metadata={"labels": {MANAGED_BY: "pvback"}}, type="Opaque", data=_encoded(files)
    )


def key_secret_body(namespace: str, name: str, *, metadata: Mapping[str, object], key: bytes) -> Body:
    """A secret with one key, for one run."""
    return SECRET.body(name, namespace, metadata=dict(metadata), type="Opaque", data=_encoded({"key": key}))


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in files.items()}
