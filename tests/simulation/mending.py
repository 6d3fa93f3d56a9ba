"""What is lost and who mends it: registers that vanish, and the repairs that make them anew."""

import json
from typing import Any

from pvback.errors import ConflictError, DamagedError, ObjectNotFound, StorageUnavailable
from pvback.repository import mend_lost_state
from pvback.repository.forget import forget_snapshots
from pvback.repository.layout import GC_STATE_NAME, Area
from pvback.repository.mend_snapshots import REASONS, SnapshotTools, mend_snapshot, plan_snapshots
from pvback.repository.mend_state import settle as wait_for_lists
from pvback.repository.sealed import ScopeObjects
from pvback.repository.snapshots import load_catalog
from pvback.repository.successors import choose_successor
from pvback.runtime import Cancel
from tests.simulation.bucket import Bucket
from tests.simulation.ledger import Ledger
from tests.simulation.work import ModelIndexWork
from tests.simulation.world import Process

__all__ = ["lose_register", "lose_state", "mend_all", "mend_state", "reopen_register", "settle"]


def lose_register(process: Process, bucket: Bucket, ledger: Ledger, objects: ScopeObjects) -> None:
    """One of a snapshot that was reported saved, at once and without a request."""
    keys = [key for key in bucket.keys(objects.layout.area(Area.SNAPSHOTS)) if key[-32:] in ledger.saved]
    if not keys:
        return
    key = process.random.source.choice(keys)
    process.world.note(f"{key} is lost")
    ledger.report_loss(key[-32:])
    bucket.remove(key)


def reopen_register(process: Process, bucket: Bucket, ledger: Ledger, objects: ScopeObjects) -> None:
    """One of a snapshot that was reported saved is lost, and its create, doubled, lands after that."""
    keys = [key for key in bucket.keys(objects.layout.area(Area.SNAPSHOTS)) if key[-32:] in ledger.saved]
    keys = [key for key in keys if _body(bucket.first[key])["state"] == "OPEN"]
    if not keys:
        return
    key = process.random.source.choice(keys)
    if sum(one[-32:] == key[-32:] for one in keys) > 1:
        return
    process.world.note(f"{key} is lost, and comes back as it was created")
    ledger.report_reopened(key[-32:], _body(bucket.objects[key].data))
    ledger.count("reopened")
    bucket.write(key, bucket.first[key])


def _body(data: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(data.partition(b"\n")[2])
    return body


def mend_all(process: Process, objects: ScopeObjects, work: ModelIndexWork, *, ledger: Ledger) -> None:
    """What `repair snapshots` does."""
    tools = SnapshotTools(objects, work, process)
    try:
        plan = plan_snapshots(objects)
    except (StorageUnavailable, DamagedError) as exc:
        ledger.give_up(exc)
        return
    for problem in plan:
        if problem.kind == "register-missing":
            ledger.begin_reviving(problem.snapshot)
        try:
            process.world.note(f"{problem.kind} of {problem.snapshot}: {mend_snapshot(tools, problem)}")
        except (*REASONS, StorageUnavailable) as exc:
            process.world.note(f"{problem.kind} of {problem.snapshot} stays: {exc}")
            ledger.give_up(exc)
            continue
        if problem.kind == "register-missing":
            ledger.report_whole(problem.snapshot)
            ledger.count("revived")
        if problem.kind == "register-open":
            ledger.report_saved(problem.snapshot)
            ledger.count("committed by a repair")


def settle(process: Process, objects: ScopeObjects, damaged: str, *, ledger: Ledger) -> None:
    """What a repair does once what it has written in place of a snapshot is committed."""
    wait_for_lists(objects, process)
    extra = choose_successor(load_catalog(objects), damaged).extra
    for name in extra:
        ledger.begin_forgetting(name[17:])
        ledger.count("successors forgotten")
    forget_snapshots(objects, extra, clock=process)
    for name in extra:
        ledger.end_forgetting(name[17:])


def lose_state(process: Process, bucket: Bucket, ledger: Ledger, objects: ScopeObjects) -> None:
    """At once and without a request; once in a run, so that no late request can bring back an older one."""
    if not ledger.is_state_lost:
        process.world.note("gc/state is lost")
        ledger.is_state_lost = True
        bucket.remove(objects.layout.key(GC_STATE_NAME))


def mend_state(process: Process, objects: ScopeObjects, work: ModelIndexWork, *, ledger: Ledger) -> bool:
    """What `repair state` does; whether there is nothing more to do."""
    try:
        done = mend_lost_state.write_lost_state(objects, work, clock=process, cancel=Cancel())
    except (ConflictError, DamagedError, ObjectNotFound, StorageUnavailable) as exc:
        process.world.note(f"gc/state stays lost: {exc}")
        ledger.give_up(exc)
        return False
    if done is not None:
        ledger.count("states made anew")
        ledger.count("packs given up") if done.given_up else None
    return True
