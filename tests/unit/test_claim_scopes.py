"""Snapshots of a claim come from the scope of its namespace: another that has some proves nothing."""

from pathlib import Path
from typing import Any

import pytest

from pvback.cluster.kinds import CLAIM, SECRET, Kind
from pvback.cluster.names import labels_of
from pvback.cluster.secrets import repository_secret_body
from pvback.errors import UsageError
from pvback.model import Claim
from pvback.ops.backup import BackupOptions, backup
from pvback.ops.claim_list import list_coverage, snapshots_of_claim
from pvback.ops.claim_scopes import SECRET_NAME, ScopeChoice
from pvback.ops.export_read import find_export
from pvback.ops.sources import claim_source, export_source
from pvback.repository.repository import RepositoryAccess
from pvback.repository.scopes import add_scope
from tests.support.cluster_objects import Objects, bound, claim

ORDERS = Claim("shop", "orders")


@pytest.fixture
def owner(local_owner: RepositoryAccess) -> RepositoryAccess:
    return local_owner


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    return folder


def connected(namespace: str, scope: str) -> tuple[Kind, dict[str, Any]]:
    files = {"config.toml": b"", "key": b"00", "cluster": b"default", "scope": scope.encode()}
    return SECRET, dict(repository_secret_body(namespace, SECRET_NAME, files=files))


def store(scoped: RepositoryAccess, data: Path) -> str:
    """A snapshot that says it is of the claim."""
    stored = backup(scoped, claim_source(data, ORDERS, cluster="default")).snapshot
    assert stored is not None
    return stored


def found(choice: ScopeChoice) -> list[str]:
    _, snapshots = snapshots_of_claim(choice, ORDERS, cluster_name="default")
    return [one.id for one in snapshots]


def covered(access: RepositoryAccess) -> list[str | None]:
    """What the coverage of its one claim counts."""
    body = bound(claim())
    body["metadata"].update(name=ORDERS.name, namespace=ORDERS.namespace)
    cluster = Objects((CLAIM, body))
    choice = ScopeChoice(cluster, access)
    return [one.snapshot for one in list_coverage(cluster, choice, namespace=None, cluster_name="default")]


@pytest.mark.parametrize("planted_first", [True, False])
def test_a_planted_snapshot_is_not_the_claims(
    owner: RepositoryAccess, data: Path, planted_first: bool
) -> None:
    labels = ("evil", "shop") if planted_first else ("shop", "evil")
    ids = {}
    for label in labels:
        owner = scoped = add_scope(owner, label)
        ids[label] = store(scoped, data)
    assert found(ScopeChoice(Objects(), owner)) == [ids["shop"]]
    assert covered(owner) == [ids["shop"]]


def test_what_only_another_scope_has_is_named_and_has_to_be_chosen(
    owner: RepositoryAccess, data: Path
) -> None:
    owner = add_scope(owner, "shop")
    evil = add_scope(owner, "evil")
    planted = store(evil, data)
    with pytest.raises(UsageError, match="but others have: evil") as caught:
        found(ScopeChoice(Objects(), evil))
    assert "--scope" in (caught.value.hint or "")
    assert covered(evil) == [None]
    assert found(ScopeChoice(Objects(), evil, is_chosen=True)) == [planted]


def test_the_secret_of_a_namespace_names_its_scope(owner: RepositoryAccess, data: Path) -> None:
    shop = add_scope(owner, "shop")
    store(shop, data)
    team = add_scope(shop, "team")
    mine = store(team, data)
    assert found(ScopeChoice(Objects(connected("shop", "team")), team)) == [mine]


def test_a_namespace_without_a_scope_has_no_snapshots(owner: RepositoryAccess, data: Path) -> None:
    evil = add_scope(owner, "evil")
    store(evil, data)
    with pytest.raises(UsageError, match="no scope is that of namespace shop: this key opens default, evil"):
        found(ScopeChoice(Objects(), evil))


def test_the_latest_export_is_of_one_scope(owner: RepositoryAccess, data: Path) -> None:
    exported = {}
    for label in ("shop", "evil"):
        owner = add_scope(owner, label)
        source = export_source(data, "shop", cluster="default")
        options = BackupOptions(manifests={"export": {"namespace": "shop"}})
        exported[label] = backup(owner, source, options=options).snapshot
    with pytest.raises(UsageError, match="several scopes have exports"):
        find_export(owner, "latest", is_scope_chosen=False)
    _, one = find_export(owner, "latest", is_scope_chosen=True)
    assert one.id == exported["evil"], "the scope that was chosen"
    _, one = find_export(owner, str(exported["shop"]), is_scope_chosen=False)
    assert one.id == exported["shop"]
    with pytest.raises(UsageError, match="no such export"):
        find_export(owner, str(exported["shop"]), is_scope_chosen=True)


def test_claims_of_a_run_are_not_listed(owner: RepositoryAccess) -> None:
    """Copies and what is restored into are there for a while, and nobody's data."""
    bodies = [bound(claim()), bound(claim())]
    for name, body in zip((ORDERS.name, "pvback-copy-1"), bodies, strict=True):
        body["metadata"].update(name=name, namespace=ORDERS.namespace)
    bodies[1]["metadata"]["labels"] = labels_of("run", "staging")
    cluster = Objects(*((CLAIM, body) for body in bodies))
    choice = ScopeChoice(cluster, owner)
    listed = list_coverage(cluster, choice, namespace=None, cluster_name="default")
    assert [one.claim for one in listed] == [str(ORDERS)]


def test_a_secret_of_another_name_says_which_scope_it_is(owner: RepositoryAccess) -> None:
    team = add_scope(owner, "team")
    body = connected("shop", "team")
    body[1]["metadata"]["name"] = "other"
    assert ScopeChoice(Objects(body), team).find("shop") is None
    assert ScopeChoice(Objects(body), team, secret="other").find("shop") is not None
