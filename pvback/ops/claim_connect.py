"""Connecting a namespace: a scope and a writer's key of its own, in a secret for its movers."""

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pvback import datapath
from pvback.cluster.kinds import SECRET
from pvback.cluster.secrets import repository_secret_body, repository_secret_files
from pvback.config import Config
from pvback.errors import ClusterObjectExists, ConflictError, StorageError, UsageError
from pvback.model import S3Address
from pvback.ops.sources import check_cluster_name
from pvback.repository.keys import NewWay, add_key
from pvback.repository.layout import key_object_key
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import add_scope
from pvback.s3_options import render_s3_options

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["ConnectOptions", "Connected", "connect_namespace", "require_unconnected"]

_CA = "ca.crt"
_CA_PATH = Path("/run/pvback/repository") / _CA


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect.

    Attributes:
        secret: The secret's name.
        replace: Make a new key in place of that of a secret which is there, and keep what is not said anew.
        role: Of the key: `writer` for movers, `restorer` for a populator of the namespace, `owner` for one
            of all namespaces.
        cluster: What the cluster is called in source strings, for life; None: `default`.
        scope: Label of the scope; None: the namespace's name.
        image: Of movers; None: it is named each time.
        credentials: An AWS credentials file for the movers; None: they find some otherwise.
        ca: Certificates of the store's authority, PEM; None: those of the image.
        endpoint: The store's as pods reach it; None: the repository's.
    """

    secret: str
    replace: bool = False
    cluster: str | None = None
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
    """Of the key."""


def connect_namespace(
    cluster: "Cluster", access: RepositoryAccess, *, namespace: str, options: ConnectOptions
) -> Connected:
    """Make scope, key and secret. Owners only: WrongKeyError. A key whose secret is not stored is removed.

    Raises UsageError for a repository that pods cannot reach, and for a name of a cluster that is none,
    ConflictError where the namespace is connected, and ClusterError.
    """
    before = repository_secret_files(cluster, namespace, name=options.secret)
    if before is not None and not options.replace:
        raise _connected(namespace, options.secret)
    files, told = _files(access.config, namespace, options, before or {})
    # An owner's key is of all scopes.
    scoped = access if options.role == "owner" else add_scope(access, told["scope"])
    private, public = datapath.key_pair()
    way = NewWay(method="x25519", secret=public)
    whose = "movers" if options.role == "writer" else "populator"
    label = f"{whose} of {told['cluster']}/{namespace}"
    principal = add_key(scoped, role=options.role, label=label, way=way)
    files["key"] = private.hex().encode()
    try:
        _store(cluster, namespace, options, files)
    except BaseException:
        # What this meets in the store is worth less than why the secret is not there.
        with suppress(StorageError):
            scoped.twins.remove(key_object_key(principal))
        raise
    return Connected(namespace=namespace, scope=told["scope"], principal=principal)


def require_unconnected(cluster: "Cluster", namespace: str, *, secret: str) -> None:
    """Raise ConflictError where the namespace has that secret, before anything is made for another.

    Raises ClusterError where that may not be seen: what is there would be taken for nothing.
    """
    if repository_secret_files(cluster, namespace, name=secret) is not None:
        raise _connected(namespace, secret)


def _files(
    config: Config, namespace: str, options: ConnectOptions, before: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """All but the key, and what of it is text: said now, else as it was before, else by default."""
    defaults = {"cluster": "default", "scope": namespace}
    given = {"cluster": options.cluster, "scope": options.scope, "image": options.image}
    told = {name: one.decode().strip() for name, one in before.items() if name in given}
    told = defaults | told | {name: one for name, one in given.items() if one is not None}
    check_cluster_name(told["cluster"])
    # An empty file is a credentials file without profiles: the next way to find some is tried.
    contents = {"credentials": b""} | {name: before[name] for name in ("credentials", _CA) if name in before}
    contents |= {} if options.credentials is None else {"credentials": options.credentials}
    contents |= {} if options.ca is None else {_CA: options.ca}
    contents |= {name: one.encode() for name, one in told.items()}
    known = before.get("config.toml", b"").decode(errors="replace")
    contents["config.toml"] = _mover_config(
        config, endpoint=options.endpoint, has_ca=_CA in contents, before=known
    )
    return contents, told


def _store(cluster: "Cluster", namespace: str, options: ConnectOptions, files: Mapping[str, bytes]) -> None:
    body = repository_secret_body(namespace, options.secret, files=files)
    try:
        cluster.create(SECRET, body)
    except ClusterObjectExists:
        if not options.replace:
            raise _connected(namespace, options.secret) from None
        cluster.patch(SECRET, options.secret, change={"data": body["data"]}, namespace=namespace)


def _connected(namespace: str, secret: str) -> ConflictError:
    return ConflictError(
        "the namespace is connected already",
        key=f"Secret {namespace}/{secret}",
        hint="`--replace` makes a new key for it",
    )


def _mover_config(config: Config, *, endpoint: str | None, has_ca: bool, before: str) -> bytes:
    """The settings of the movers, as TOML: every option of S3 that is set here and is not of this machine.

    The endpoint is the one that is given, else that of the settings before, if they are of the same
    repository, else the repository's.
    """
    address = config.require_repository()
    if not isinstance(address, S3Address):
        raise UsageError("pods cannot reach a repository in a directory", hint="use one in S3")
    lines = [f"repository = {json.dumps(str(address))}"]
    used = endpoint or _endpoint_of(before, str(address)) or address.endpoint
    if used:
        lines.append(f"s3_endpoint = {json.dumps(used)}")
    # Profiles are those of the credentials file here; so are the certificates.
    options = replace(config.s3, profile=None, ca_bundle=_CA_PATH if has_ca else None)
    settings = render_s3_options(options)
    if settings:
        lines.append("[s3]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return ("\n".join(lines) + "\n").encode()


def _endpoint_of(settings: str, repository: str) -> str | None:
    try:
        known = tomllib.loads(settings)
    except tomllib.TOMLDecodeError:
        return None
    found = known.get("s3_endpoint") if known.get("repository") == repository else None
    return found if isinstance(found, str) else None
