"""The only importer of the Kubernetes client: objects as plain JSON, its errors as ours.

Requests are repeated while the API server cannot be reached, for `limits.CLUSTER_RETRY_SECONDS`. Names are
our own: where a creation is heard twice, the second answer says what the first would have.
"""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlencode, urlsplit

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from pvback import limits
from pvback.cluster.answers import as_error, parse_answer
from pvback.cluster.kinds import POD, Body, Kind
from pvback.cluster.websockets import Endpoint, HandshakeRefused, NobodyAnswers, WebSocket
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ClusterRefusal, UsageError
from pvback.runtime import Clock, SystemClock

__all__ = ["Cluster"]

_PLAIN: Mapping[str, str] = {"Accept": "application/json", "Content-Type": "application/json"}
_MERGE_PATCH = "application/merge-patch+json"
_BRIEF = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY_PATCH = "application/apply-patch+yaml"


class Cluster:
    """A cluster's API. Methods raise ClusterError and its subclasses."""

    def __init__(
        self,
        configuration: Any,  # noqa: ANN401 -- the client's own
        *,
        namespace: str = "default",
        clock: Clock | None = None,
    ) -> None:
        self._api = kubernetes_client.ApiClient(configuration)
        self._clock = clock or SystemClock()
        self._ahead = timedelta()
        self.namespace = namespace
        """That of the context, or of the pod that this runs in."""

    @classmethod
    def connect(cls, *, kubeconfig: str | None = None, context: str | None = None) -> Self:
        """From a kubeconfig (`KUBECONFIG` and its default, when None), or within a pod. Raises UsageError."""
        configuration = kubernetes_client.Configuration()
        try:
            if kubeconfig is None and context is None and _IN_CLUSTER_TOKEN.exists():
                kubernetes_config.load_incluster_config(client_configuration=configuration)
                return cls(configuration, namespace=_IN_CLUSTER_NAMESPACE.read_text().strip())
            kubernetes_config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
            contexts, active = kubernetes_config.list_kube_config_contexts(config_file=kubeconfig)
        except (kubernetes_config.ConfigException, OSError, ValueError) as exc:
            raise UsageError(
                f"no cluster: {exc}", hint="name a file with `--kubeconfig`, or a context with `--context`"
            ) from exc
        used = next((one for one in contexts if one["name"] == context), active)
        return cls(configuration, namespace=used.get("context", {}).get("namespace") or "default")

    def now(self) -> datetime:
        """The API server's time, by its last answer: those who share a cluster need not share a clock.

        Before the first answer it is this machine's.
        """
        return self._clock.now() + self._ahead

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
        """One object. Raises ClusterObjectMissing."""
        return self._ask("GET", kind.path(namespace, name), what=_name(kind, name, namespace))

    def find(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body | None:
        """One object, or None where it is not there or may not be read."""
        try:
            return self.get(kind, name, namespace=namespace)
        except (ClusterObjectMissing, ClusterRefusal):
            return None

    def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        is_brief: bool = False,
    ) -> list[Body]:
        """All that fit, in pages of one state. With a kind of a namespace and none named: of all namespaces.

        Where the API server has forgotten that state between two pages, it is begun again. With `is_brief` it
        sends `metadata` alone.
        """
        query = [("limit", str(limits.CLUSTER_PAGE_COUNT))]
        query += [("labelSelector", labels)] if labels else []
        query += [("fieldSelector", fields)] if fields else []
        headers = {"Accept": _BRIEF} if is_brief else _PLAIN
        named = {"apiVersion": kind.api_version, "kind": kind.name}
        found: list[Body] = []
        following, begun_count = "", 1
        while True:
            asked = [*query, *([("continue", following)] if following else [])]
            path, what = kind.path(namespace), f"the {kind.plural}"
            try:
                page = self._ask("GET", path, what=what, query=asked, headers=headers)
            except ClusterObjectMissing:
                if not following or begun_count >= limits.SWAP_COUNT_MAX:
                    raise
                found, following, begun_count = [], "", begun_count + 1
                continue
            found.extend({**one, **named} for one in page.get("items") or ())
            following = page.get("metadata", {}).get("continue") or ""
            if not following:
                return found

    def read(self, path: str, *, accept: str) -> Body:
        """What is served at a path, in the first of these media types that the server knows."""
        return self._ask("GET", path, what=path, headers={"Accept": accept})

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        """Create it, or with `dry_run` have it judged as if. Raises ClusterObjectExists, ClusterRefusal."""
        metadata = body["metadata"]
        namespace = metadata.get("namespace")
        return self._ask(
            "POST",
            kind.path(namespace),
            what=_name(kind, metadata["name"], namespace),
            query=[("dryRun", "All")] if dry_run else [],
            body=body,
        )

    def apply(self, kind: Kind, body: Body) -> Body:
        """Create it, or merge it into the one that is there. Raises ClusterRefusal."""
        try:
            return self.create(kind, body)
        except ClusterObjectExists:
            metadata = body["metadata"]
            return self.patch(kind, metadata["name"], change=body, namespace=metadata.get("namespace"))

    def patch(
        self, kind: Kind, name: str, *, change: Body, namespace: str | None = None, dry_run: bool = False
    ) -> Body:
        """Merge into it (RFC 7386). ClusterObjectExists: it is not of the uid or version that is named."""
        return self._ask(
            "PATCH",
            kind.path(namespace, name),
            what=_name(kind, name, namespace),
            query=[("dryRun", "All")] if dry_run else [],
            body=change,
            headers={"Content-Type": _MERGE_PATCH},
        )

    def apply_fields(self, kind: Kind, body: Body, *, is_forced: bool = False, dry_run: bool = False) -> Body:
        """Let it have these fields (server-side apply, as `pvback`), or have that judged as if.

        Raises ClusterObjectExists where others manage fields that would change, which `is_forced` takes from
        them, ClusterRefusal.
        """
        metadata = body["metadata"]
        namespace = metadata.get("namespace")
        return self._ask(
            "PATCH",
            kind.path(namespace, metadata["name"]),
            what=_name(kind, metadata["name"], namespace),
            query=[
                ("fieldManager", "pvback"),
                ("force", "true" if is_forced else "false"),
                *([("dryRun", "All")] if dry_run else []),
            ],
            body=body,
            headers={"Content-Type": _APPLY_PATCH},
        )

    def delete(self, kind: Kind, body: Body) -> None:
        """Remove this very object, not another of its name, with what it owns. What is gone is fine."""
        metadata = body["metadata"]
        options: dict[str, Any] = {
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        namespace = metadata.get("namespace")
        try:
            self._ask(
                "DELETE",
                kind.path(namespace, metadata["name"]),
                what=_name(kind, metadata["name"], namespace),
                body=options,
            )
        except (ClusterObjectMissing, ClusterObjectExists):
            # Gone, or there is another of its name by now.
            return

    def log_lines(self, pod: str, *, namespace: str, container: str, since_line: int = 0) -> Iterator[str]:
        """What a container has printed and prints, until it ends. Raises ClusterError when that breaks off.

        The first `since_line` lines are left out, so that who lost a log can go on.
        """
        query = [("container", container), ("follow", "true")]
        response = self._send(
            "GET", POD.path(namespace, pod, subresource="log"), query=query, read_seconds=None
        )
        if response.status >= limits.HTTP_ERROR_MIN:
            raise as_error(response.status, response.read(), what=f"the log of pod {namespace}/{pod}")
        count = 0
        rest = b""
        try:
            for piece in response.response.stream(1 << 16, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    count += 1
                    if count > since_line:
                        yield line.decode("utf-8", "replace")
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise ClusterError(f"the log broke off: {exc}", key=f"pod {namespace}/{pod}") from exc
        finally:
            response.response.close()
        if rest and count >= since_line:
            yield rest.decode("utf-8", "replace")

    def dial(
        self, path: str, *, query: Sequence[tuple[str, str]], protocols: Sequence[str], what: str
    ) -> WebSocket:
        """Open a WebSocket of the API. Tried again only while surely nothing has begun.

        Raises ClusterRefusal and the other classes with the API's words.
        """
        deadline = self._clock.monotonic() + limits.CLUSTER_RETRY_SECONDS
        while True:
            try:
                return WebSocket.dial(self._endpoint(path, query, what), protocols=protocols)
            except HandshakeRefused as exc:
                failure = as_error(exc.status, exc.body, what=what)
                if exc.status not in _NOT_BEGUN:
                    raise failure from exc
            except NobodyAnswers as exc:
                failure = ClusterError(f"the API server does not answer: {exc}", key=what)
            if self._clock.monotonic() >= deadline:
                raise failure
            self._clock.sleep(limits.CLUSTER_POLL_SECONDS)

    def _endpoint(self, path: str, query: Sequence[tuple[str, str]], what: str) -> Endpoint:
        """Where that is, with this cluster's credentials, TLS and proxy."""
        configuration = self._api.configuration
        request = self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        parts = urlsplit(request[1])
        scheme = {"https": "wss", "http": "ws"}[parts.scheme]
        return Endpoint(
            url=f"{scheme}://{parts.netloc}{parts.path}?{urlencode(query)}",
            what=what,
            headers={name: value for name, value in request[2].items() if name.lower() == "authorization"},
            tls=_tls_of(configuration) if scheme == "wss" else {},
            proxy=_proxy_of(configuration),
        )

    def _ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Sequence[tuple[str, str]] = (),
        body: Body | None = None,
        headers: Mapping[str, str] = _PLAIN,
    ) -> dict[str, Any]:
        """One request, repeated while nobody answers. A creation that was heard twice is told as one."""
        deadline = self._clock.monotonic() + limits.CLUSTER_RETRY_SECONDS
        was_sent = False
        while True:
            try:
                response = self._send(method, path, query=query, body=body, headers=headers)
                status, data = response.status, response.read()
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                failure: ClusterError = ClusterError(
                    f"the API server does not answer: {_reason(exc)}",
                    key=what,
                    hint="is it up, and the right one?",
                )
                failure.__cause__ = exc
                if isinstance(_innermost(exc), urllib3.exceptions.SSLError):
                    raise failure from exc
            else:
                if status == _CONFLICT and method == "POST" and was_sent and body is not None:
                    found = self._find_by_path(f"{path}/{body['metadata']['name']}")
                    if found is not None and _is_ours(found, body):
                        return found
                if status < limits.HTTP_ERROR_MIN:
                    return parse_answer(data, what)
                failure = as_error(status, data, what=what)
                if status not in _TRY_AGAIN:
                    raise failure
            was_sent = True
            if self._clock.monotonic() >= deadline:
                raise failure
            self._clock.sleep(limits.CLUSTER_POLL_SECONDS)

    def _find_by_path(self, path: str) -> dict[str, Any] | None:
        """What is served at a path, or None."""
        response = self._send("GET", path)
        return parse_answer(response.read(), path) if response.status < limits.HTTP_ERROR_MIN else None

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Body | None = None,
        headers: Mapping[str, str] = _PLAIN,
        read_seconds: float | None = limits.CLUSTER_REQUEST_SECONDS,
    ) -> Any:  # noqa: ANN401 -- the client's own response
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query),
            header_params={**_PLAIN, **headers},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self._api.call_api(*request, _request_timeout=(limits.CLUSTER_CONNECT_SECONDS, read_seconds))
        with suppress(ValueError, TypeError):
            # Of its own clock an answer says nothing that is finer than a second.
            said = parsedate_to_datetime(answer.getheader("Date"))
            self._ahead = said.astimezone(UTC) - self._clock.now()
        return answer


_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER_TOKEN = _IN_CLUSTER / "token"
_IN_CLUSTER_NAMESPACE = _IN_CLUSTER / "namespace"
_CONFLICT = 409
_PROXY_PORT = 80
_TRY_AGAIN = {429, 502, 503, 504}
_NOT_BEGUN = {429, 503}


def _tls_of(configuration: Any) -> dict[str, Any]:  # noqa: ANN401 -- the client's own
    """The options of TLS by the names of websocket-client: who is trusted, and as whom we come."""
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    if configuration.verify_ssl:
        options = {
            "cert_reqs": ssl.CERT_REQUIRED,
            "check_hostname": configuration.assert_hostname is not False,
        }
        if configuration.ssl_ca_cert:
            options["ca_certs"] = configuration.ssl_ca_cert
    if configuration.cert_file:
        options |= {"certfile": configuration.cert_file, "keyfile": configuration.key_file}
    if getattr(configuration, "tls_server_name", None):
        options["server_hostname"] = configuration.tls_server_name
    return options


def _proxy_of(configuration: Any) -> dict[str, Any]:  # noqa: ANN401 -- the client's own
    """Likewise of the proxy; what is not to go through it is told to the library."""
    if not configuration.proxy:
        return {}
    parts = urlsplit(configuration.proxy)
    options: dict[str, Any] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or _PROXY_PORT,
        "proxy_type": parts.scheme if parts.scheme.startswith("socks") else "http",
        # Never an empty list: the library would read the environment, and the client has done so.
        "http_no_proxy": [one.strip() for one in (configuration.no_proxy or "localhost").split(",")],
    }
    if parts.username:
        options["http_proxy_auth"] = (unquote(parts.username), unquote(parts.password or ""))
    return options


def _name(kind: Kind, name: str, namespace: str | None) -> str:
    return f"{kind.name} {namespace}/{name}" if namespace else f"{kind.name} {name}"


def _is_ours(found: Body, body: Body) -> bool:
    """Whether an object is the one that we asked for: by the run that is written on both."""
    labels = body["metadata"].get("labels", {})
    return bool(labels) and found.get("metadata", {}).get("labels") == labels


def _innermost(exc: BaseException) -> BaseException:
    """What a failure of the client is about, below its retries."""
    while isinstance(exc, urllib3.exceptions.MaxRetryError) and exc.reason is not None:
        exc = exc.reason
    return exc


def _reason(exc: BaseException) -> str:
    """Likewise, in words."""
    found = _innermost(exc)
    return str(found) or type(found).__name__
