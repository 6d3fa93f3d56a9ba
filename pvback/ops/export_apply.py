"""Restoring an export: what was planned, in order, and an account of each object.

Guarantees: what is there is never replaced, and changed only where that was asked for; a claim gets its data
before anything can use it, and while one has not, nothing that comes after claims is made: no empty volume
looks restored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pvback import limits
from pvback.cluster.discovery import Discovery, discover
from pvback.cluster.kinds import Body, Kind
from pvback.cluster.quantity import parse_quantity
from pvback.cluster.restoring import CLAIM_RANK, rank_of
from pvback.errors import ClusterError, ClusterObjectExists, Interrupted, PvbackError, UsageError
from pvback.model import Claim
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.claim_restore import ClaimRestoreOptions, restore_claim
from pvback.ops.export_plan import ExportRestoreOptions, PlannedObject, RestorePlan, is_unchanged

__all__ = ["BAD_STATES", "apply_restore"]

BAD_STATES = ("refused", "failed", "partly", "not tried")


@dataclass(slots=True, kw_only=True)
class _Applying:
    work: ClaimWork
    options: ExportRestoreOptions
    claims: ClaimRestoreOptions
    failed_claims: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    """Those that were made here: nothing in them is anybody's."""
    discovery: Discovery | None = None
    """Since kinds were made."""


def apply_restore(
    work: ClaimWork,
    plan: RestorePlan,
    *,
    options: ExportRestoreOptions,
    claims: ClaimRestoreOptions,
    tell: Callable[[PlannedObject], None],
) -> None:
    """Do it; `tell` hears of each object when its turn is over.

    `claims` says how claims are restored, but for the target. Raises UsageError before anything is
    done where claims could not get their data, Interrupted.
    """
    for one in plan.objects:
        if one.is_unconnected:
            raise UsageError(
                f"namespace {plan.namespace} is not connected to the repository",
                key=one.name,
                hint=f"make it, and run `pvback pvc connect {plan.namespace}`; or use `--no-data`",
            )
    applying = _Applying(work=work, options=options, claims=claims)
    for one in plan.objects:
        work.cancel.check()
        _apply(applying, one)
        tell(one)


def _apply(applying: _Applying, one: PlannedObject) -> None:
    """Do what was planned for one object, unless a claim that it may use is missing."""
    rank, _, _ = rank_of(one.body)
    is_due = one.state in ("create", "restore", "overwrite") or one.is_to_be_tried
    if is_due and applying.failed_claims and rank > CLAIM_RANK:
        one.state, one.why = "not tried", f"not restored: {', '.join(applying.failed_claims)}"
    elif is_due:
        try:
            _do(applying, one)
        except Interrupted:
            raise
        except PvbackError as exc:
            one.state, one.why = "failed", exc.what
    if rank == CLAIM_RANK and one.state in BAD_STATES:
        applying.failed_claims.append(one.name)


def _do(applying: _Applying, one: PlannedObject) -> None:
    kind = one.kind or _served(applying, one)
    body = {**one.body, "apiVersion": kind.api_version}
    if one.state == "overwrite":
        applying.work.cluster.apply_fields(kind, body, is_forced=applying.options.is_forced)
        one.state = "overwritten"
    elif one.data is not None:
        _restore_data(applying, one)
    else:
        _create(applying, one, kind, body)


def _create(applying: _Applying, one: PlannedObject, kind: Kind, body: Body) -> None:
    cluster, metadata = applying.work.cluster, body["metadata"]
    try:
        cluster.create(kind, body)
    except ClusterObjectExists:
        there = cluster.find(kind, metadata["name"], namespace=metadata.get("namespace"))
        if there is not None and is_unchanged(body, kind, there=there):
            one.state, one.why = "unchanged", ""
        elif metadata.get("namespace") in applying.namespaces:
            # A controller has been quicker, as with the account that every namespace has.
            cluster.apply_fields(kind, body, is_forced=True)
            one.state, one.why = "created", ""
        else:
            one.state, one.why = "differs", "it came to be meanwhile"
        return
    if kind.name == "Namespace":
        applying.namespaces.append(metadata["name"])
    if kind.name == "CustomResourceDefinition":
        _wait_established(applying.work, kind, metadata["name"])
    is_outdated = one.why.startswith("not tried") or one.is_to_be_tried
    one.state, one.why = "created", "" if is_outdated else one.why


def _restore_data(applying: _Applying, one: PlannedObject) -> None:
    assert one.data is not None, "asked before"
    metadata, spec = one.body["metadata"], one.body["spec"]
    # The claim is that of the export: since the backup it may have grown, or have been labelled.
    options = replace(
        applying.claims,
        target=Claim(metadata["namespace"], metadata["name"]),
        size_bytes=parse_quantity(spec["resources"]["requests"]["storage"]),
        labels=metadata.get("labels") or {},
        storage_class=applying.claims.storage_class or spec.get("storageClassName"),
    )
    done = restore_claim(applying.work, one.data.access, snapshot=one.data.snapshot, options=options)
    one.state = "restored" if done.is_whole else "partly"


def _served(applying: _Applying, one: PlannedObject) -> Kind:
    """The kind, which was made before. Raises ClusterError when the cluster does not come to serve it."""
    work = applying.work
    deadline = work.clock.monotonic() + limits.ESTABLISH_SECONDS
    while True:
        kind = applying.discovery.find_of(one.body) if applying.discovery is not None else None
        if kind is not None:
            return kind
        if work.clock.monotonic() >= deadline:
            raise ClusterError("its kind is not served", key=one.name)
        if applying.discovery is not None:
            work.clock.sleep(limits.CLUSTER_POLL_SECONDS, work.cancel)
        applying.discovery = discover(work.cluster)


def _wait_established(work: ClaimWork, kind: Kind, name: str) -> None:
    """Return when a new kind can be used. Raises ClusterError."""
    deadline = work.clock.monotonic() + limits.ESTABLISH_SECONDS
    while True:
        conditions = (work.cluster.get(kind, name).get("status") or {}).get("conditions") or ()
        if any(one["type"] == "Established" and one["status"] == "True" for one in conditions):
            return
        if work.clock.monotonic() >= deadline:
            raise ClusterError(f"not established after {limits.ESTABLISH_SECONDS:.0f} s", key=name)
        work.clock.sleep(limits.CLUSTER_POLL_SECONDS, work.cancel)
