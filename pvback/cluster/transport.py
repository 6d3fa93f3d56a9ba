"""The only importer of the Kubernetes client: one request and its answer, and its errors as ours.

Whatever the client or a kubeconfig comes to is a ClusterError or a UsageError above this module.
Nothing is repeated here: who asks knows what may be asked twice.
"""

import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import urllib3
import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from pvback import limits
from pvback.cluster.kinds import Body
from pvback.cluster.websockets import Endpoint
from pvback.errors import ClusterError, ClusterUnavailable, UsageError

__all__ = ["Answer", "Request", "Transport", "load_access"]

_JSON: Mapping[str, str] = {"Accept": "application/json", "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the API.

    Attributes:
        method, path, query, body: Of HTTP; the body is sent as JSON.
        headers: Besides, or in place of, those that ask for JSON and say that it is sent.
        what: It is about, for people.
        read_seconds: How long to wait for more of the answer; None: for ever.
    """

    method: str
    path: str
    what: str
    query: Sequence[tuple[str, str]] = ()
    body: Body | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    read_seconds: float | None = limits.CLUSTER_REQUEST_SECONDS


class Answer:
    """An answer whose head is there. Methods raise ClusterUnavailable where it breaks off."""

    def __init__(self, response: Any, *, what: str) -> None:  # noqa: ANN401 -- the client's own
        self.status: int = response.status
        self._response, self._what = response, what

    @property
    def date(self) -> datetime | None:
        """When it was given, by the server's clock: to the second."""
        try:
            return parsedate_to_datetime(self._response.getheader("Date")).astimezone(UTC)
        except (ValueError, TypeError):
            return None

    def read(self) -> bytes:
        """All of it."""
        with _translated(self._what, _BROKEN):
            data: bytes = self._response.read()
            return data

    def pieces(self) -> Generator[bytes]:
        """All of it, as it comes."""
        with (
            closing(self._response.response) as stream,
            _translated(self._what, _BROKEN),
        ):
            yield from stream.stream(1 << 16, decode_content=True)


class Transport:
    """Sends requests as whom a kubeconfig says, and to where."""

    def __init__(self, configuration: Any) -> None:  # noqa: ANN401 -- the client's own
        self._api = kubernetes_client.ApiClient(configuration)

    def send(self, request: Request) -> Answer:
        """Ask once. Raises ClusterUnavailable where nobody answers, ClusterError where nobody will."""
        with _translated(request.what, _SILENT):
            told = self._api.param_serialize(
                request.method,
                request.path,
                query_params=list(request.query),
                header_params={**_JSON, **request.headers},
                body=request.body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(
                *told, _request_timeout=(limits.CLUSTER_CONNECT_SECONDS, request.read_seconds)
            )
        return Answer(response, what=request.what)

    def endpoint(self, path: str, query: Sequence[tuple[str, str]], *, what: str) -> Endpoint:
        """Where a WebSocket of the API is, with these credentials, TLS and proxy. Raises ClusterError."""
        configuration = self._api.configuration
        with _translated(what, "no credentials for the API server"):
            told = self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        parts = urlsplit(told[1])
        scheme = {"https": "wss", "http": "ws"}[parts.scheme]
        return Endpoint(
            url=f"{scheme}://{parts.netloc}{parts.path}?{urlencode(query)}",
            what=what,
            headers={name: value for name, value in told[2].items() if name.lower() == "authorization"},
            tls=_tls_of(configuration) if scheme == "wss" else {},
            proxy=_proxy_of(configuration),
        )


def load_access(kubeconfig: str | None, context: str | None) -> tuple[Any, str]:
    """Where the API is and as whom to ask it, for a Transport; and the namespace of the context.

    From a kubeconfig (`KUBECONFIG` and its default, when None), or within a pod. Raises UsageError.
    """
    # The client's functions that read kubeconfigs have no types.
    loader: Any = kubernetes_config
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig is None and context is None and _IN_CLUSTER_TOKEN.exists():
            loader.load_incluster_config(client_configuration=configuration)
            return configuration, _IN_CLUSTER_NAMESPACE.read_text().strip()
        loader.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
        contexts, active = loader.list_kube_config_contexts(config_file=kubeconfig)
        used = next((one for one in contexts if one["name"] == context), active)
        namespace = str((used.get("context") or {}).get("namespace") or "default")
    except _NO_KUBECONFIG as exc:
        raise UsageError(
            f"no cluster: {exc}", hint="name a file with `--kubeconfig`, or a context with `--context`"
        ) from exc
    return configuration, namespace


_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER_TOKEN = _IN_CLUSTER / "token"
_IN_CLUSTER_NAMESPACE = _IN_CLUSTER / "namespace"
_PROXY_PORT = 80
_SILENT = "the API server does not answer"
_BROKEN = "the API server's answer broke off"
_NO_KUBECONFIG = (
    kubernetes_config.ConfigException,
    yaml.YAMLError,
    OSError,
    ValueError,
    # What the loader comes to where a file is YAML and no kubeconfig.
    AttributeError,
    LookupError,
    TypeError,
)


@contextmanager
def _translated(what: str, said: str) -> Iterator[None]:
    """The client's errors as ours. Certificates that do not fit do not fit the next time either."""
    hint = "is it up, and the right one?" if said == _SILENT else None
    try:
        yield
    except kubernetes_client.ApiException as exc:
        # By itself it raises this for a failure of TLS alone; what a server answers is an answer.
        raise ClusterError(f"{said}: {exc.reason}", key=what, hint=hint) from exc
    except kubernetes_config.ConfigException as exc:
        raise ClusterError(f"{said}: {exc}", key=what, hint=hint) from exc
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        found = _innermost(exc)
        kind = ClusterError if isinstance(found, urllib3.exceptions.SSLError) else ClusterUnavailable
        raise kind(f"{said}: {str(found) or type(found).__name__}", key=what, hint=hint) from exc


def _innermost(exc: BaseException) -> BaseException:
    """What a failure of the client is about, below its retries."""
    while isinstance(exc, urllib3.exceptions.MaxRetryError) and exc.reason is not None:
        exc = exc.reason
    return exc


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
