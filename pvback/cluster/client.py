"""The cluster's API: objects as plain JSON.

Requests are repeated while the API server cannot be reached, for `limits.CLUSTER_RETRY_SECONDS`. Names are
our own: where a creation is heard twice, the second answer says what the first would have.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Self

from pvback import limits
from pvback.cluster.answers import as_error, parse_answer
from pvback.cluster.kinds import POD, Body, Kind
from pvback.cluster.transport import Answer, Request, Transport, load_access
from pvback.cluster.websockets import HandshakeRefused, NobodyAnswers, WebSocket
from pvback.errors import (
    ClusterError,
    ClusterObjectExists,
    ClusterObjectMissing,
    ClusterRefusal,
    ClusterUnavailable,
)
from pvback.runtime import Clock, SystemClock

__all__ = ["Cluster"]

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
        self._transport = Transport(configuration)
        self._clock = clock or SystemClock()
        self._ahead = timedelta()
        self.namespace = namespace
        """That of the context, or of the pod that this runs in."""

    @classmethod
    def connect(cls, *, kubeconfig: str | None = None, context: str | None = None) -> Self:
        """From a kubeconfig (`KUBECONFIG` and its default, when None), or within a pod. Raises UsageError."""
        configuration, namespace = load_access(kubeconfig, context)
        return cls(configuration, namespace=namespace)

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
        headers = {"Accept": _BRIEF} if is_brief else {}
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
        what = f"the log of pod {namespace}/{pod}"
        asked = Request(
            method="GET",
            path=POD.path(namespace, pod, subresource="log"),
            what=what,
            query=[("container", container), ("follow", "true")],
            read_seconds=None,
        )
        answer = self._send(asked)
        if answer.status >= limits.HTTP_ERROR_MIN:
            raise as_error(answer.status, answer.read(), what=what)
        count = 0
        rest = b""
        with closing(answer.pieces()) as pieces:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    count += 1
                    if count > since_line:
                        yield line.decode("utf-8", "replace")
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
                return WebSocket.dial(self._transport.endpoint(path, query, what=what), protocols=protocols)
            except HandshakeRefused as exc:
                failure = as_error(exc.status, exc.body, what=what)
                if exc.status not in _NOT_BEGUN:
                    raise failure from exc
            except NobodyAnswers as exc:
                failure = ClusterUnavailable(f"the API server does not answer: {exc}", key=what)
            if self._clock.monotonic() >= deadline:
                raise failure
            self._clock.sleep(limits.CLUSTER_POLL_SECONDS)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Sequence[tuple[str, str]] = (),
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request, repeated while nobody answers. A creation that was heard twice is told as one."""
        deadline = self._clock.monotonic() + limits.CLUSTER_RETRY_SECONDS
        asked = Request(method=method, path=path, what=what, query=query, body=body, headers=headers or {})
        was_sent = False
        while True:
            failure: ClusterError
            try:
                answer = self._send(asked)
                status, data = answer.status, answer.read()
                if status == _CONFLICT and method == "POST" and was_sent and body is not None:
                    found = self._find_by_path(f"{path}/{body['metadata']['name']}", what)
                    if found is not None and _is_ours(found, body):
                        return found
            except ClusterUnavailable as exc:
                failure = exc
            else:
                if status < limits.HTTP_ERROR_MIN:
                    return parse_answer(data, what)
                failure = as_error(status, data, what=what)
                if status not in _TRY_AGAIN:
                    raise failure
            was_sent = True
            if self._clock.monotonic() >= deadline:
                raise failure
            self._clock.sleep(limits.CLUSTER_POLL_SECONDS)

    def _find_by_path(self, path: str, what: str) -> dict[str, Any] | None:
        """What is served at a path, or None. Raises ClusterUnavailable."""
        answer = self._send(Request(method="GET", path=path, what=what))
        data = answer.read()
        return parse_answer(data, what) if answer.status < limits.HTTP_ERROR_MIN else None

    def _send(self, request: Request) -> Answer:
        """Ask once, and see what time it is there. Raises ClusterUnavailable where nobody answers."""
        answer = self._transport.send(request)
        if (said := answer.date) is not None:
            # Of its own clock an answer says nothing that is finer than a second.
            self._ahead = said - self._clock.now()
        return answer


_CONFLICT = 409
_TRY_AGAIN = {429, 502, 503, 504}
_NOT_BEGUN = {429, 503}


def _name(kind: Kind, name: str, namespace: str | None) -> str:
    return f"{kind.name} {namespace}/{name}" if namespace else f"{kind.name} {name}"


def _is_ours(found: Body, body: Body) -> bool:
    """Whether an object is the one that we asked for: by the run that is written on both."""
    labels = body["metadata"].get("labels", {})
    return bool(labels) and found.get("metadata", {}).get("labels") == labels
