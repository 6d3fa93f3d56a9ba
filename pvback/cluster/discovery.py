"""Which kinds a cluster serves: asked for at once where it can say so at once, else group by group.

Of each kind one version counts, the one that the cluster prefers among those that have it. Subresources are
left out, and so are kinds that cannot be listed, or not be created: nothing of them could be brought back.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvback.cluster.kinds import Body, Kind
from pvback.errors import ClusterError

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["Discovery", "discover"]

_PLAIN = "application/json"
_AGGREGATED = ", ".join(
    f"{_PLAIN};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList" for version in ("v2", "v2beta1")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What is served.

    Attributes:
        kinds: By group and name, each in one version.
        unavailable: Groups, or `GROUP/VERSION`, that are not to be had now, and why.
    """

    kinds: tuple[Kind, ...]
    unavailable: Mapping[str, str]

    def find(self, group: str, name: str) -> Kind | None:
        """The kind of that name, or None."""
        return next((one for one in self.kinds if (one.group, one.name) == (group, name)), None)

    def find_of(self, body: Body) -> Kind | None:
        """The kind of an object, in the version that is preferred here, or None."""
        group, _, _ = body["apiVersion"].rpartition("/")
        return self.find(group, body["kind"])


@dataclass(slots=True)
class _Found:
    kinds: dict[tuple[str, str], Kind]
    unavailable: dict[str, str]

    def add(self, kind: Kind, verbs: Iterable[str]) -> None:
        """Versions come in the order in which they are preferred."""
        if {"list", "create"} <= set(verbs):
            self.kinds.setdefault((kind.group, kind.plural), kind)


def discover(cluster: "Cluster") -> Discovery:
    """Raises ClusterError when nothing can be learned at all."""
    found = _Found({}, {})
    for path in ("/api", "/apis"):
        answer = cluster.read(path, accept=f"{_AGGREGATED}, {_PLAIN}")
        if answer.get("kind") == "APIGroupDiscoveryList":
            _add_aggregated(found, answer)
            continue
        for group, versions in _groups(answer):
            _add_one_by_one(cluster, found, group, versions)
    kinds = sorted(found.kinds.values(), key=lambda one: (one.group, one.name))
    return Discovery(kinds=tuple(kinds), unavailable=found.unavailable)


def _add_aggregated(found: _Found, answer: Body) -> None:
    for item in answer.get("items") or ():
        group = item["metadata"].get("name") or ""
        for version in item.get("versions") or ():
            if version.get("freshness") == "Stale":
                found.unavailable[f"{group}/{version['version']}"] = "the server behind it does not answer"
            for one in version.get("resources") or ():
                named = one.get("responseKind") or {}
                if not named.get("kind"):
                    continue
                is_namespaced = one.get("scope") == "Namespaced"
                kind = Kind(group, version["version"], named["kind"], one["resource"], is_namespaced)
                found.add(kind, one.get("verbs") or ())


def _groups(answer: Body) -> Iterator[tuple[str, list[str]]]:
    """Groups and their versions, the preferred one first; the core API is a group without a name."""
    if answer.get("kind") == "APIVersions":
        yield "", list(answer.get("versions") or ())
    for group in answer.get("groups") or ():
        preferred = (group.get("preferredVersion") or {}).get("version")
        versions = [one["version"] for one in group.get("versions") or ()]
        yield group["name"], sorted(versions, key=lambda one: one != preferred)


def _add_one_by_one(cluster: "Cluster", found: _Found, group: str, versions: Iterable[str]) -> None:
    for version in versions:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer: Mapping[str, Any] = cluster.read(path, accept=_PLAIN)
        except ClusterError as exc:
            found.unavailable[f"{group}/{version}"] = exc.what
            continue
        for one in answer.get("resources") or ():
            if "/" not in one["name"]:
                kind = Kind(group, version, one["kind"], one["name"], bool(one["namespaced"]))
                found.add(kind, one.get("verbs") or ())
