"""Connecting a namespace: a scope and a writer's key of its own, in a secret for its movers."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.cluster.kinds import SECRET, Body
from pvback.cluster.secrets import repository_secret_body
from pvback.config import Config
from pvback.errors import ClusterObjectExists, ClusterObjectMissing, ConflictError, UsageError
from pvback.model import S3Address
from pvback.ops.sources import check_cluster_name
from pvback.repository.keys import NewWay, add_key
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import add_scope

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ConnectOptions", "Connected", "apply_secret", "connect_namespace", "require_unconnected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect.

    Attributes:
        secret: The secret's name.
        role: Of the key: `writer` for movers, `restorer` for a populator of the namespace, `owner` for one
            of all namespaces.
        cluster: What the cluster is called in source strings, for life.
        scope: Label of the scope; None: the namespace's name.
        image: Of movers; None: it is named each time.
        credentials: An AWS credentials file for the movers; None: they find some otherwise.
        ca: Certificates of the store's authority, PEM; None: those of the image.
        endpoint: The store's as pods reach it; None: the repository's.
    """

    secret: str
    cluster: str
    role: str = "writer"
    scope: str | None = None
    image: str | None = None
    credentials: bytes | None = None
    ca: bytes | None = None
    endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """What was made."""

    namespace: str
    scope: str
    principal: str
    """Of the writer's key."""
    secret: Body


def connect_namespace(access: RepositoryAccess, namespace: str, *, options: ConnectOptions) -> Connected:
    """Make scope, key and secret; the secret is not stored in the cluster yet. Owners only: WrongKeyError.

    Raises UsageError for a repository that pods cannot reach, and for a name of a cluster that is none.
    """
    check_cluster_name(options.cluster)
    label = options.scope or namespace
    config = _mover_config(access.config, options)
    # An owner's key is of all scopes.
    scoped = access if options.role == "owner" else add_scope(access, label)
    private, public = datapath.key_pair()
    way = NewWay(method="x25519", secret=public)
    whose = "movers" if options.role == "writer" else "populator"
    principal = add_key(scoped, role=options.role, label=f"{whose} of {options.cluster}/{namespace}", way=way)
    files = {
        "config.toml": config,
        "key": private.hex().encode(),
        "cluster": options.cluster.encode(),
        "scope": label.encode(),
        # An empty file is a credentials file without profiles: the next way to find some is tried.
        "credentials": options.credentials or b"",
    }
    files |= {"image": options.image.encode()} if options.image else {}
    files |= {"ca.crt": options.ca} if options.ca else {}
    secret = repository_secret_body(namespace, options.secret, files=files)
    return Connected(namespace=namespace, scope=label, principal=principal, secret=secret)


def require_unconnected(cluster: "Cluster", namespace: str, *, secret: str) -> None:
    """Raise ConflictError where the namespace has that secret, before anything is made for another.

    Raises ClusterError where that may not be seen: what is there would be taken for nothing.
    """
    with suppress(ClusterObjectMissing):
        cluster.get(SECRET, secret, namespace=namespace)
        raise _connected(namespace, secret)


def apply_secret(cluster: "Cluster", body: Body, *, replace: bool) -> None:
    """Store it in the cluster; with `replace` over one that is there, else ConflictError."""
    metadata = body["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    try:
        cluster.create(SECRET, body)
    except ClusterObjectExists:
        if not replace:
            raise _connected(namespace, name) from None
        cluster.patch(SECRET, name, change={"data": body["data"]}, namespace=namespace)


def _connected(namespace: str, secret: str) -> ConflictError:
    return ConflictError(
        "the namespace is connected already",
        key=f"Secret {namespace}/{secret}",
        hint="`--replace` makes a new key for it",
    )


def _mover_config(config: Config, options: ConnectOptions) -> bytes:
    """The settings of the movers, as TOML."""
    address = config.require_repository()
    if not isinstance(address, S3Address):
        raise UsageError("pods cannot reach a repository in a directory", hint="use one in S3")
    lines = [f"repository = {json.dumps(str(address))}"]
    endpoint = options.endpoint or address.endpoint
    if endpoint:
        lines.append(f"s3_endpoint = {json.dumps(endpoint)}")
    known = {"region": config.s3.region, "addressing": config.s3.addressing}
    settings = {name: value for name, value in known.items() if value is not None}
    if options.ca:
        settings["ca_bundle"] = "/run/pvback/repository/ca.crt"
    if settings:
        lines.append("[s3]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return ("\n".join(lines) + "\n").encode()
