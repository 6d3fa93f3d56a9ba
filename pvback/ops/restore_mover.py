"""The mover of a restore: what it is told, like whom it runs, by which key it reads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pvback import datapath
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.claims import from_record
from pvback.cluster.exposure import Exposure
from pvback.cluster.kinds import SECRET
from pvback.cluster.mover import DEVICE_PATH, VOLUME_FOLDER, MoverJob, MoverSettings
from pvback.cluster.names import object_name
from pvback.cluster.quantity import as_quantity, parse_quantity
from pvback.cluster.secrets import RepositorySecret, key_secret_body
from pvback.errors import ClusterError, FileError, PvbackError, UsageError
from pvback.model import Claim, Consistency
from pvback.ops.claim_mover import ClaimWork
from pvback.ops.mover import MoverSpec
from pvback.ops.sources import claim_string
from pvback.repository.keys import NewWay, add_key
from pvback.repository.layout import key_object_key
from pvback.repository.records import RecordDetails
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import CommittedSnapshot

__all__ = ["Target", "check_kind", "check_size", "plan_job", "restorer_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a mover restores to.

    Attributes:
        claim: Whose bytes they will be.
        mounted: The claim that it mounts: that one, or one of ours that stands for it.
        is_mirrored: Whether what the snapshot does not have is removed.
        tolerations: Of the pods that will use the claim.
        is_made: Whether its volume comes to be where the mover runs, which is to be where it can be used.
    """

    claim: Claim
    mounted: str
    is_mirrored: bool = False
    tolerations: tuple[Mapping[str, Any], ...] = ()
    is_made: bool = False


def check_size(details: RecordDetails, size: int, *, where: str) -> None:
    """Raise UsageError where the data cannot fit: files with holes count as what their claim had."""
    recorded = details.manifests.get("claim") or {}
    had = recorded.get("spec", {}).get("resources", {}).get("requests", {}).get("storage")
    needed = details.root.bytes
    if had is not None and details.source.kind != "device":
        needed = min(needed, parse_quantity(had))
    if size < needed:
        raise UsageError(
            f"{as_quantity(size)} is too small: {needed} bytes are to be restored",
            key=where,
            hint="use `--size`, or let the claim ask for more",
        )


def check_kind(details: RecordDetails, *, is_block: bool, where: str) -> None:
    """Raise UsageError where files would come to a device, or the bytes of a device to a file system."""
    if is_block != (details.source.kind == "device"):
        kinds = ("a file system", "a device")
        raise UsageError(
            f"the claim is {kinds[is_block]}, and the snapshot of {kinds[not is_block]}", key=where
        )


def plan_job(
    snapshot: CommittedSnapshot,
    secret: RepositorySecret,
    *,
    target: Target,
    settings: MoverSettings,
    run: str,
) -> MoverJob:
    """The mover; its key is still to be made."""
    details = snapshot.require_details()
    is_block = details.source.kind == "device"
    spec = MoverSpec(
        cluster=secret.cluster,
        namespace=target.claim.namespace,
        claim=target.claim.name,
        where=DEVICE_PATH if is_block else VOLUME_FOLDER,
        scope=None,
        snapshot=snapshot.id,
        options={"delete": target.is_mirrored},
        manifests={},
    )
    home = claim_string(Claim(target.claim.namespace, ""), cluster=secret.cluster)
    consumer = from_record(
        details.manifests.get("consumer") or {},
        is_at_home=details.source.string.startswith(home),
        tolerations=target.tolerations,
    )
    is_placed = target.is_made and not settings.node_selector
    return MoverJob(
        work="restore",
        claim=target.claim,
        mounted=target.mounted,
        is_block=is_block,
        run=run,
        exposure=Exposure(
            method="live",
            grade=Consistency.COLD,
            node_affinity=consumer.node_affinity if is_placed else None,
            consumer=consumer,
        ),
        spec=spec.as_json(),
        settings=settings,
    )


@contextmanager
def restorer_key(work: ClaimWork, run: ClaimRun, *, access: RepositoryAccess) -> Iterator[str]:
    """A secret with a restorer's key of this scope; one that an owner has made opens nothing afterwards.

    Who is a restorer only cannot make keys, and lends the mover its own. Raises WrongKeyError, UsageError.
    """
    if access.keyring.role == "restorer":
        with _key_secret(work, run, _own_key(access)) as name:
            yield name
        return
    private, public = datapath.key_pair()
    label = f"restore {run.id} of {run.claim}"
    principal = add_key(access, role="restorer", label=label, way=NewWay(method="x25519", secret=public))
    try:
        with _key_secret(work, run, private.hex().encode()) as name:
            yield name
    finally:
        try:
            access.twins.remove(key_object_key(principal))
        except PvbackError as exc:
            # What became of the restore is the better thing to say.
            work.progress.warn(
                f"the key of this restore's mover stays in the repository: {exc};"
                f" `pvback key remove {principal}` takes it away"
            )


def _own_key(access: RepositoryAccess) -> bytes:
    path = access.config.key_file
    if path is None:
        raise UsageError("a restorer's key is lent to movers as a file", hint="use `--key-file`")
    try:
        return path.read_bytes()
    except OSError as exc:
        raise FileError(exc.strerror or "not readable", key=str(path)) from exc


@contextmanager
def _key_secret(work: ClaimWork, run: ClaimRun, key: bytes) -> Iterator[str]:
    name = object_name("key", run.claim.name, run=run.id)
    body = key_secret_body(run.claim.namespace, name, metadata=run.metadata("key"), key=key)
    made = work.cluster.create(SECRET, body)
    try:
        yield name
    finally:
        # The run's own object owns it, too: what is not removed here goes with that.
        with suppress(ClusterError):
            work.cluster.delete(SECRET, made)
