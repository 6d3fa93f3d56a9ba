"""What a restore of an export plans and does, against a cluster of which only the answers are made up."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pvback.cluster.client import Cluster
from pvback.cluster.discovery import Discovery
from pvback.cluster.kinds import CLAIM, CONFIG_MAP, NAMESPACE, POD, STORAGE_CLASS, Body, Kind
from pvback.cluster.mover import MoverSettings
from pvback.cluster.names import run_name
from pvback.errors import ClusterObjectExists, ClusterObjectMissing, ClusterRefusal, UsageError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_restore import ClaimRestoreOptions
from pvback.ops.export_apply import apply_restore
from pvback.ops.export_plan import ExportRestoreOptions, RestorePlan, plan_restore
from pvback.ops.export_read import Export, StoredObject
from pvback.repository.repository import RepositoryAccess
from pvback.runtime import Cancel, ManualClock, NoProgress

QUOTA = Kind("", "v1", "ResourceQuota", "resourcequotas")
KINDS = (CLAIM, CONFIG_MAP, NAMESPACE, POD, QUOTA, STORAGE_CLASS)
NO_DATA = ExportRestoreOptions(has_data=False)


class Holding(Cluster):
    """A cluster with these objects. `refusing` has words of refusal by kind; `made` is what was created."""

    def __init__(self, *bodies: Body, refusing: Mapping[str, str] | None = None) -> None:
        self.bodies = {_key(body): dict(body) for body in bodies}
        self.refusing = refusing or {}
        self.made: list[str] = []
        self.applied: list[tuple[str, bool, bool]] = []

    def find(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body | None:
        if kind.name in self.refusing:
            return None
        return self.bodies.get((kind.name, namespace, name))

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        key = _key(body)
        namespace = body["metadata"].get("namespace")
        if namespace and (NAMESPACE.name, None, namespace) not in self.bodies:
            raise ClusterObjectMissing(f'namespaces "{namespace}" not found')
        if kind.name in self.refusing:
            raise ClusterRefusal(self.refusing[kind.name])
        if key in self.bodies:
            raise ClusterObjectExists("it exists")
        if not dry_run:
            self.bodies[key] = dict(body)
            self.made.append(kind.name)
        return body

    def apply_fields(self, kind: Kind, body: Body, *, is_forced: bool = False, dry_run: bool = False) -> Body:
        self.applied.append((kind.name, is_forced, dry_run))
        return body


def _key(body: Body) -> tuple[str, str | None, str]:
    return body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"]


def bodies(colour: str = "red") -> list[Body]:
    spec = {"resources": {"requests": {"storage": "1Gi"}}, "dataSource": {"name": "gone"}}
    return [
        QUOTA.body("quota", "ns", spec={"hard": {"pods": "0"}}),
        POD.body("app", "ns", spec={"containers": []}),
        CLAIM.body("data", "ns", spec=spec),
        CONFIG_MAP.body("settings", "ns", data={"colour": colour}),
        STORAGE_CLASS.body("fast", provisioner="x"),
        NAMESPACE.body("ns"),
    ]


def export(**wishes: Any) -> Export:
    stored = [StoredObject(path=str(number), body=dict(body)) for number, body in enumerate(bodies())]
    given = {"unbound_claims": frozenset(), "objects": tuple(stored), **wishes}
    began = datetime(2026, 1, 1, tzinfo=UTC)
    return Export(snapshot="1f", namespace="ns", cluster="default", began=began, left_out_count=0, **given)


def plan(
    cluster: Cluster, access: RepositoryAccess, options: ExportRestoreOptions, **wishes: Any
) -> RestorePlan:
    discovery = Discovery(kinds=KINDS, unavailable={})
    return plan_restore(cluster, access, export=export(**wishes), discovery=discovery, options=options)


def apply(cluster: Cluster, found: RestorePlan, options: ExportRestoreOptions) -> list[str]:
    """Names of those whose turn has come."""
    work = ClaimWork(cluster=cluster, progress=NoProgress(), cancel=Cancel(), clock=ManualClock())
    claims = ClaimRestoreOptions(target=Claim("ns", ""), settings=MoverSettings(image="i", secret="s"))
    told: list[str] = []
    apply_restore(work, found, options=options, claims=claims, tell=lambda one: told.append(one.name))
    return told


def states(found: RestorePlan) -> dict[str, str]:
    return {one.body["kind"]: one.state for one in found.objects}


def test_everything_is_made_in_order(access: RepositoryAccess) -> None:
    cluster = Holding()
    found = plan(cluster, access, NO_DATA)
    assert set(states(found).values()) == {"create"}
    assert cluster.made == []
    whys = {one.body["kind"]: one.why for one in found.objects}
    assert whys["ConfigMap"] == "not tried: Namespace ns is made first"
    order = ["Namespace", "StorageClass", "ConfigMap", "PersistentVolumeClaim", "Pod", "ResourceQuota"]
    assert [one.split()[0] for one in apply(cluster, found, NO_DATA)] == order
    assert cluster.made == order
    assert set(states(found).values()) == {"created"}
    assert "dataSource" not in cluster.bodies["PersistentVolumeClaim", "ns", "data"]["spec"]
    again = plan(cluster, access, NO_DATA)
    assert {one.state for one in again.objects if one.body["kind"] != "PersistentVolumeClaim"} == {
        "unchanged"
    }


def test_another_namespace(access: RepositoryAccess) -> None:
    cluster = Holding(*bodies())
    options = replace(NO_DATA, namespace="new")
    found = plan(cluster, access, options)
    assert states(found)["StorageClass"] == "unchanged"
    apply(cluster, found, options)
    assert ("ConfigMap", "new", "settings") in cluster.bodies
    assert ("Namespace", None, "new") in cluster.bodies


def test_nothing_after_a_claim_without_its_data(access: RepositoryAccess) -> None:
    options = ExportRestoreOptions()
    cluster = Holding()
    found = plan(cluster, access, options)
    assert states(found)["PersistentVolumeClaim"] == "refused"
    apply(cluster, found, options)
    assert cluster.made == ["Namespace", "StorageClass", "ConfigMap"]
    assert states(found)["Pod"] == states(found)["ResourceQuota"] == "not tried"
    # One that had no volume has no data that could be missing.
    found = plan(Holding(), access, options, unbound_claims=frozenset({"data"}))
    assert states(found)["PersistentVolumeClaim"] == "create"


def test_a_claim_that_a_restore_has_not_ended_with(access: RepositoryAccess) -> None:
    name = run_name(Claim("ns", "data"))
    run = CONFIG_MAP.body(name, "ns", data={"what": "restore of snapshot 1f"})
    cluster = Holding(NAMESPACE.body("ns"), bodies()[2], run)
    found = plan(cluster, access, NO_DATA)
    assert states(found)["PersistentVolumeClaim"] == "refused"
    apply(cluster, found, NO_DATA)
    assert "Pod" not in cluster.made
    run = CONFIG_MAP.body(name, "ns", data={"what": "backup by snapshot"})
    found = plan(Holding(NAMESPACE.body("ns"), bodies()[2], run), access, NO_DATA)
    assert states(found)["PersistentVolumeClaim"] != "refused"


def test_what_is_there_stays(access: RepositoryAccess) -> None:
    there = [*bodies("blue")[3:4], NAMESPACE.body("ns"), STORAGE_CLASS.body("fast", provisioner="y")]
    cluster = Holding(*there)
    found = plan(cluster, access, NO_DATA)
    assert states(found)["ConfigMap"] == states(found)["StorageClass"] == "differs"
    apply(cluster, found, NO_DATA)
    assert cluster.bodies["ConfigMap", "ns", "settings"]["data"] == {"colour": "blue"}
    assert cluster.applied == []
    options = replace(
        NO_DATA, overwrite=True, is_forced=True, kinds=("configmap", "StorageClass.storage.k8s.io")
    )
    found = plan(cluster, access, options)
    assert states(found) == {"ConfigMap": "overwrite", "StorageClass": "differs"}
    apply(cluster, found, options)
    assert cluster.applied == [("ConfigMap", True, True), ("ConfigMap", True, False)]


def test_the_clusters_words(access: RepositoryAccess) -> None:
    refusing = {"StorageClass": 'storageclasses "fast" is forbidden: no', "ConfigMap": "quota exceeded"}
    cluster = Holding(NAMESPACE.body("ns"), refusing=refusing)
    found = plan(cluster, access, NO_DATA)
    assert (states(found)["StorageClass"], states(found)["ConfigMap"]) == ("forbidden", "refused")
    apply(cluster, found, NO_DATA)
    # It was asked once more: what is refused at first may be fine when other things are there.
    assert states(found)["ConfigMap"] == "failed"
    assert states(found)["Pod"] == "created"


def test_nothing_is_begun_where_claims_cannot_be_filled(access: RepositoryAccess) -> None:
    cluster = Holding(NAMESPACE.body("ns"))
    found = plan(cluster, access, NO_DATA)
    found.objects[0].is_unconnected = True
    with pytest.raises(UsageError, match="not connected"):
        apply(cluster, found, NO_DATA)
    assert cluster.made == []
    with pytest.raises(UsageError, match="nothing"):
        plan(cluster, access, replace(NO_DATA, names=("none",)))
