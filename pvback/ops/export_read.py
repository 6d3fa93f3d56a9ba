"""Reading an export: which snapshot is meant, and the objects in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pvback import limits
from pvback.errors import UsageError
from pvback.ops.browse import Browser
from pvback.ops.export_files import LEFT_OUT, parse_document
from pvback.ops.ls import list_nodes
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import in_scope
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["Export", "StoredObject", "find_export", "load_export"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object of an export, and the path of its document."""

    path: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export.

    Attributes:
        snapshot: Its id.
        namespace: What was exported.
        cluster: Of source strings.
        began: When the first kind was listed; nothing in it is of earlier.
        unbound_claims: Claims that had no volume then.
        left_out_count: Of kinds and objects.
        objects: By path.
    """

    snapshot: str
    namespace: str
    cluster: str
    began: datetime
    unbound_claims: frozenset[str]
    left_out_count: int
    objects: tuple[StoredObject, ...]


def find_export(
    access: RepositoryAccess, text: str, *, is_scope_chosen: bool
) -> tuple[RepositoryAccess, CommittedSnapshot]:
    """The export whose id begins so, or `latest` of the only namespace, and access to its scope.

    Of the scope of `access`, if that was chosen, else of any that the key opens. There anybody who writes may
    say what an export is of, so `latest` is for exports that lie in one scope. Raises UsageError,
    StorageError, DamagedError.
    """
    scopes = [access] if is_scope_chosen else [in_scope(access, one) for one, _ in access.keyring.scopes()]
    found: list[tuple[RepositoryAccess, CommittedSnapshot]] = []
    for scoped in scopes:
        found += [(scoped, one) for one in scoped.catalog().snapshots if _is_export(one)]
    if text == "latest":
        if len({id(scoped) for scoped, _ in found}) > 1:
            raise UsageError("several scopes have exports", hint="choose one with `--scope`, or name an id")
        sources = {one.require_details().source.string for _, one in found}
        if len(sources) > 1:
            raise UsageError(f"there are exports of {len(sources)} namespaces", hint="name one by its id")
        fitting = [max(found, key=lambda one: one[1].time)] if found else []
    else:
        fitting = [one for one in found if one[1].id.startswith(text)]
    if len(fitting) != 1:
        what = "several exports begin so" if fitting else "no such export"
        raise UsageError(f"{what}: {text}", hint="`pvback snapshots` shows them, with `--scope NAMESPACE`")
    return fitting[0]


def _is_export(snapshot: CommittedSnapshot) -> bool:
    details = snapshot.details
    return details is not None and details.is_complete and isinstance(details.manifests.get("export"), dict)


def load_export(access: RepositoryAccess, snapshot: CommittedSnapshot) -> Export:
    """All of its objects. Raises DamagedError, StorageError."""
    details = snapshot.require_details()
    facts = details.manifests["export"]
    with Browser(access) as browser:
        objects = [
            StoredObject(path=path, body=parse_document(path, _read(browser, snapshot, path)))
            for path in _paths(access, snapshot)
        ]
    return Export(
        snapshot=snapshot.id,
        namespace=str(facts["namespace"]),
        cluster=str(facts["cluster"]),
        began=details.started,
        unbound_claims=frozenset(map(str, facts.get("unbound_claims") or ())),
        left_out_count=int(facts.get("left_out") or 0),
        objects=tuple(objects),
    )


def _paths(access: RepositoryAccess, snapshot: CommittedSnapshot) -> Iterator[str]:
    for node in list_nodes(access, snapshot, recursive=True):
        if node.kind == "file" and node.path != LEFT_OUT:
            yield node.path


def _read(browser: Browser, snapshot: CommittedSnapshot, path: str) -> bytes:
    file = browser.open(snapshot, path.encode())
    try:
        pieces: list[bytes] = []
        while (offset := sum(map(len, pieces))) < file.size:
            pieces.append(file.read(offset, min(limits.BLOB_RAW_BYTES_MAX, file.size - offset)))
        return b"".join(pieces)
    finally:
        file.close()
