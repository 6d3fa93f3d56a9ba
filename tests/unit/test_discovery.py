"""The client against a server that answers as API servers do when they are old, or have forgotten."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client as kubernetes_client

from pvback.cluster.client import Cluster
from pvback.cluster.discovery import discover
from pvback.cluster.kinds import CONFIG_MAP, Kind
from pvback.errors import ClusterError
from pvback.runtime import ManualClock

Answer = tuple[int, Any]
Answering = Callable[[str, dict[str, list[str]]], Answer]


class Served:
    """A cluster of which only the answers are made up. What it was asked is in `asked`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.answer: Answering = lambda path, query: (404, {"message": f"{path} {query}"})


@pytest.fixture
def served() -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            made.asked.append((parts.path, query, self.headers["Accept"]))
            status, body = made.answer(parts.path, query)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        make: Any = kubernetes_client.Configuration
        configuration = make(host=f"http://127.0.0.1:{server.server_port}")
        made = Served(Cluster(configuration, clock=ManualClock()))
        yield made
        made.cluster._transport._api.rest_client.pool_manager.clear()
        server.shutdown()
        thread.join()


def resource(name: str, kind: str, verbs: str = "create list", *, is_namespaced: bool = True) -> Any:
    return {"name": name, "kind": kind, "namespaced": is_namespaced, "verbs": verbs.split()}


def test_group_by_group(served: Served) -> None:
    answers = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [
                {
                    "name": "x.test",
                    "versions": [{"version": "v1beta1"}, {"version": "v1"}],
                    "preferredVersion": {"version": "v1"},
                },
                {"name": "gone.test", "versions": [{"version": "v1"}]},
            ],
        },
        "/api/v1": {
            "resources": [
                resource("pods", "Pod"),
                resource("pods/log", "Pod", "get"),
                resource("bindings", "Binding", "create"),
                resource("componentstatuses", "ComponentStatus", "get list", is_namespaced=False),
            ]
        },
        "/apis/x.test/v1": {"resources": [resource("widgets", "Widget")]},
        "/apis/x.test/v1beta1": {"resources": [resource("widgets", "Widget"), resource("olds", "Old")]},
    }

    def answer(path: str, _: Any) -> Answer:
        return (200, answers[path]) if path in answers else (500, {"message": "no backend"})

    served.answer = answer
    found = discover(served.cluster)
    assert found.kinds == (
        Kind("", "v1", "Pod", "pods"),
        Kind("x.test", "v1beta1", "Old", "olds"),
        Kind("x.test", "v1", "Widget", "widgets"),
    )
    assert found.unavailable == {"gone.test/v1": "no backend"}
    assert found.find_of({"apiVersion": "x.test/v1alpha1", "kind": "Widget"}) == found.kinds[2]
    assert found.find_of({"apiVersion": "v1", "kind": "Widget"}) is None


def test_all_at_once(served: Served) -> None:
    def at_once(plural: str, kind: str, scope: str = "Namespaced") -> Any:
        named = {"kind": kind, "group": "", "version": ""}
        return {"resource": plural, "scope": scope, "responseKind": named, "verbs": ["list", "create"]}

    versions = [
        {"version": "v2", "freshness": "Current", "resources": [at_once("as", "A"), {"resource": "odd"}]},
        {"version": "v1", "freshness": "Stale", "resources": [at_once("as", "A"), at_once("bs", "B")]},
    ]
    group = {"metadata": {"name": "x.test"}, "versions": versions}
    core = {
        "metadata": {},
        "versions": [{"version": "v1", "resources": [at_once("nodes", "Node", "Cluster")]}],
    }

    def answer(path: str, _: Any) -> Answer:
        items = [core] if path == "/api" else [group]
        return 200, {"kind": "APIGroupDiscoveryList", "items": items}

    served.answer = answer
    found = discover(served.cluster)
    assert found.kinds == (
        Kind("", "v1", "Node", "nodes", is_namespaced=False),
        Kind("x.test", "v2", "A", "as"),
        Kind("x.test", "v1", "B", "bs"),
    )
    assert list(found.unavailable) == ["x.test/v1"]
    assert len(served.asked) == 2
    assert all("as=APIGroupDiscoveryList" in accept for _, _, accept in served.asked)


def test_a_list_whose_state_is_forgotten_begins_again(served: Served) -> None:
    expired: list[str] = []

    def answer(_: str, query: dict[str, list[str]]) -> Answer:
        following = query.get("continue")
        if following is None:
            names = ["a", "b"] if expired else ["a", "gone"]
            items = [{"metadata": {"name": one}} for one in names]
            return 200, {"items": items, "metadata": {"continue": "second"}}
        if not expired:
            expired.extend(following)
            return 410, {"message": "The provided continue parameter is too old"}
        return 200, {"items": [{"metadata": {"name": "c"}}], "metadata": {}}

    served.answer = answer
    found = served.cluster.list(CONFIG_MAP, namespace="ns")
    assert [one["metadata"]["name"] for one in found] == ["a", "b", "c"]
    assert {(one["kind"], one["apiVersion"]) for one in found} == {("ConfigMap", "v1")}
    assert all(query["limit"] for _, query, _ in served.asked)
    served.cluster.list(CONFIG_MAP, namespace="ns", is_brief=True)
    assert "as=PartialObjectMetadataList" in served.asked[-1][2]
    # For ever: it is told, and not tried for ever.
    page = {"items": [], "metadata": {"continue": "x"}}
    served.answer = lambda _, query: (410, {"message": "too old"}) if "continue" in query else (200, page)
    with pytest.raises(ClusterError, match="too old"):
        served.cluster.list(CONFIG_MAP, namespace="ns")
