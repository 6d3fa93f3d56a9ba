"""What a restore of an export would do, object by object, as the cluster judges it. Changes nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pvback.cluster.discovery import Discovery
from pvback.cluster.kinds import CLAIM, CONFIG_MAP, SECRET, Body, Kind, full_kind
from pvback.cluster.names import run_name
from pvback.cluster.pruning import exported_body
from pvback.cluster.restoring import LEFT_KINDS, is_definition_of, is_wanted, rank_of, renamed
from pvback.errors import ClusterObjectExists, ClusterObjectMissing, ClusterRefusal, UsageError
from pvback.model import Claim
from pvback.ops.claim_restore import choose_snapshot, moment_of
from pvback.ops.claim_scopes import SECRET_NAME
from pvback.ops.export_read import Export, StoredObject
from pvback.ops.sources import claim_string
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = [
    "ClaimData",
    "ExportRestoreOptions",
    "PlannedObject",
    "RestorePlan",
    "is_unchanged",
    "plan_restore",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRestoreOptions:
    """How an export is restored.

    Attributes:
        namespace: Into which one; None: of the same name.
        kinds, names: These alone; empty: all.
        has_data: Claims get their data back; else they are made empty.
        as_of: Claims' data is not of later; None: than the export.
        overwrite: Let objects of the namespace that differ have the fields of the export.
        is_forced: Even fields that others manage.
        secret: The namespace's secret with the repository.
    """

    namespace: str | None = None
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    has_data: bool = True
    as_of: datetime | None = None
    overwrite: bool = False
    is_forced: bool = False
    secret: str = SECRET_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimData:
    """What a claim gets its data from."""

    access: RepositoryAccess
    snapshot: CommittedSnapshot


@dataclass(slots=True, kw_only=True)
class PlannedObject:
    """One object, and what becomes of it.

    Attributes:
        path: Of its document.
        body: As it would be made.
        kind: Where it is served; None while it is not.
        state: `create`, `restore` (a claim with its data), `overwrite`, `unchanged`, `differs` (and stays as
            it is), `left` (not asked for), `forbidden` (the cluster's, where it may be missing) or `refused`;
            after the work also `created`, `restored`, `overwritten`, `partly`, `failed` and `not tried`.
        why: In the cluster's words, where it is the cluster's.
        data: Of claims to be restored.
        is_unconnected: A mover would not find the repository.
        is_to_be_tried: It was refused, by the cluster as it is now.
    """

    path: str
    body: dict[str, Any]
    kind: Kind | None
    state: str = "create"
    why: str = ""
    data: ClaimData | None = None
    is_unconnected: bool = False
    is_to_be_tried: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.body['kind']} {self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """All of it, in the order in which it is done."""

    export: Export
    namespace: str
    objects: Sequence[PlannedObject] = field(default_factory=tuple)


def plan_restore(
    cluster: "Cluster",
    access: RepositoryAccess,
    *,
    export: Export,
    discovery: Discovery,
    options: ExportRestoreOptions,
) -> RestorePlan:
    """Look at everything, and have it judged; data of claims is that of the scope of `access`.

    Raises ClusterError where the cluster does not answer.
    """
    namespace = options.namespace or export.namespace
    chosen = [one for one in export.objects if is_wanted(one.body, kinds=options.kinds, names=options.names)]
    if not chosen:
        raise UsageError("nothing in the export is selected", hint="`pvback ls` shows what is in it")
    planned = [_planned(one, export, discovery, namespace) for one in chosen]
    planned.sort(key=lambda one: rank_of(one.body))
    judge = _Judge(cluster, access, export, options, planned)
    for one in planned:
        judge.judge(one)
    return RestorePlan(export=export, namespace=namespace, objects=planned)


def _planned(stored: StoredObject, export: Export, discovery: Discovery, namespace: str) -> PlannedObject:
    kind = discovery.find_of(stored.body)
    body = renamed(stored.body, export.namespace, new=namespace, kind=kind)
    return PlannedObject(path=stored.path, body=body, kind=kind)


class _Judge:
    """Decides about objects, in their order."""

    def __init__(
        self,
        cluster: "Cluster",
        access: RepositoryAccess,
        export: Export,
        options: ExportRestoreOptions,
        planned: Sequence[PlannedObject],
    ) -> None:
        self._cluster, self._access, self._export = cluster, access, export
        self._options, self._planned = options, planned
        self._backups: dict[str, list[ClaimData]] | None = None

    def judge(self, one: PlannedObject) -> None:
        """Say what becomes of it."""
        name = one.body["kind"]
        if name in LEFT_KINDS and not is_wanted(one.body, kinds=self._options.kinds or ("-",), names=()):
            one.state, one.why = "left", LEFT_KINDS[name]
        elif one.kind is None:
            self._judge_unknown(one)
        elif (there := self._find(one.kind, one.body)) is not None:
            if full_kind(one.body) == CLAIM.name and self._is_being_restored(one):
                one.state = "refused"
                one.why = "a restore into it has not ended; if it was killed: `pvback pvc cleanup`, delete it"
            else:
                self._judge_existing(one, one.kind, there)
        elif full_kind(one.body) == CLAIM.name:
            self._judge_claim(one, one.kind)
        else:
            self._try(one, one.kind)

    def _is_being_restored(self, one: PlannedObject) -> bool:
        """Whether a claim is there that a run fills, or was killed before it had filled it."""
        metadata = one.body["metadata"]
        claim = Claim(metadata["namespace"], metadata["name"])
        run = self._cluster.find(CONFIG_MAP, run_name(claim), namespace=claim.namespace)
        return run is not None and str((run.get("data") or {}).get("what", "")).startswith("restore")

    def _judge_unknown(self, one: PlannedObject) -> None:
        """A kind that is not served, or not yet."""
        if any(is_definition_of(other.body, one.body) for other in self._planned):
            one.why = "not tried: its kind is made first"
        else:
            one.state, one.why = "refused", f"the cluster has no kind {one.body['kind']}"

    def _find(self, kind: Kind, body: Body) -> Body | None:
        metadata = body["metadata"]
        return self._cluster.find(kind, metadata["name"], namespace=metadata.get("namespace"))

    def _judge_existing(self, one: PlannedObject, kind: Kind, there: Body) -> None:
        if is_unchanged(one.body, kind, there=there):
            one.state = "unchanged"
        elif not kind.is_namespaced:
            one.state, one.why = "differs", "it is the cluster's, and never overwritten"
        elif not self._options.overwrite:
            one.state, one.why = "differs", "`--overwrite` changes it"
        else:
            one.state = "overwrite"
            body = {**one.body, "apiVersion": kind.api_version}
            try:
                self._cluster.apply_fields(kind, body, is_forced=self._options.is_forced, dry_run=True)
            except (ClusterObjectExists, ClusterRefusal) as exc:
                one.state, one.why = "refused", exc.what

    def _judge_claim(self, one: PlannedObject, kind: Kind) -> None:
        # It is made as it was recorded: what it was once made of need not be there.
        for source in ("dataSource", "dataSourceRef"):
            one.body["spec"].pop(source, None)
        if not self._options.has_data:
            one.why = "empty, as `--no-data` says"
        elif one.body["metadata"]["name"] in self._export.unbound_claims:
            one.why = "empty: it had no volume"
        else:
            self._choose_data(one)
        if one.state == "create":
            self._try(one, kind)
        if one.state == "create" and one.data is not None:
            one.state = "restore"

    def _choose_data(self, one: PlannedObject) -> None:
        """The newest backup of a claim that is not of later than it should be."""
        known = self._backups_of(Claim(self._export.namespace, one.body["metadata"]["name"]))
        as_of = self._options.as_of or self._export.began
        try:
            chosen = choose_snapshot([data.snapshot for data in known], wanted=None, as_of=as_of)
        except UsageError as exc:
            one.state = "refused"
            one.why = f"it would be empty: {exc.what}; `--as-of` or `--no-data` says what is wanted"
            return
        one.data = next(data for data in known if data.snapshot is chosen)
        one.why = f"from snapshot {chosen.id[:8]}, of {_shown(moment_of(chosen))}"
        later = max(moment_of(data.snapshot) for data in known)
        if later > moment_of(chosen):
            one.why += f"; there is one of {_shown(later)}: `--as-of`"
        if not self._is_connected():
            one.state, one.is_unconnected = "refused", True
            one.why = "it would be empty: its namespace is not connected to the repository"

    def _backups_of(self, claim: Claim) -> list[ClaimData]:
        """Its complete snapshots; looked up once for all claims."""
        if self._backups is None:
            self._backups = {}
            for one in self._access.catalog().snapshots:
                if one.details is not None and one.details.is_complete:
                    data = ClaimData(access=self._access, snapshot=one)
                    self._backups.setdefault(one.details.source.string, []).append(data)
        return self._backups.get(claim_string(claim, cluster=self._export.cluster), [])

    def _is_connected(self) -> bool:
        """Whether movers find the repository, or will when the secrets of the export are there."""
        namespace = self._options.namespace or self._export.namespace
        wanted = SECRET.body(self._options.secret, namespace)
        secrets = [other.body for other in self._planned if other.body["kind"] == SECRET.name]
        return any(_is_same(one, wanted) for one in secrets) or self._find(SECRET, wanted) is not None

    def _try(self, one: PlannedObject, kind: Kind) -> None:
        """Let the cluster judge it, as if it were made."""
        try:
            self._cluster.create(kind, {**one.body, "apiVersion": kind.api_version}, dry_run=True)
        except ClusterObjectExists:
            one.state, one.why = "differs", "it is there, and may not be read"
        except (ClusterObjectMissing, ClusterRefusal) as exc:
            if (first := self._made_first(one, exc.what)) is not None:
                one.why = one.why or f"not tried: {first.name} is made first"
            elif not kind.is_namespaced and "is forbidden" in exc.what:
                one.state = "forbidden"
                one.why = f"{exc.what}; where it is missing, ask an administrator to make it of {one.path}"
            else:
                one.state, one.why, one.is_to_be_tried = "refused", exc.what, True

    def _made_first(self, one: PlannedObject, words: str) -> PlannedObject | None:
        """What will be made before it, and whose absence is what the cluster complains of."""
        if "found" not in words:
            return None
        named = set(re.findall(r"[A-Za-z0-9:._-]+", words))
        for other in self._planned:
            if other is one:
                return None
            if other.state == "create" and other.body["metadata"]["name"] in named:
                return other
        return None


def is_unchanged(body: Body, kind: Kind, *, there: Body) -> bool:
    """Whether what is there would be exported as this."""
    known = exported_body({**there, "apiVersion": kind.api_version, "kind": kind.name})
    return known == {**body, "apiVersion": kind.api_version}


def _is_same(body: Body, other: Body) -> bool:
    one, two = body["metadata"], other["metadata"]
    return (one["name"], one.get("namespace")) == (two["name"], two.get("namespace"))


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
