"""Claims that are to be filled: what is decided for one, what is said, and when it is tried again."""

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest

from pvback.cluster.kinds import (
    CLAIM,
    CONFIG_MAP,
    RESTORE,
    VOLUME,
    Body,
    Kind,
)
from pvback.cluster.names import run_name
from pvback.cluster.populating import SELECTED_NODE, plan_claim, restore_of
from pvback.cluster.prime_claims import PrimeVolume, prime_body, wait_bound
from pvback.cluster.restores import ClaimState, parse_wish, state_of, with_snapshot, with_state
from pvback.cluster.watching import MoverEnd
from pvback.errors import (
    ClusterError,
    ConflictError,
    PartlyDone,
    PvbackError,
    StorageUnavailable,
    UsageError,
)
from pvback.ops import claim_populate
from pvback.ops.claim_populate import Scene, _Aside, _Filling, attend_claim
from pvback.ops.claim_telling import pin_snapshot, tell
from pvback.runtime import Cancel, ManualClock
from tests.support.cluster_objects import (
    NOW,
    OPTIONS,
    WAITING,
    Objects,
    Unreachable,
    bound,
    chosen,
    claim,
    deleting,
    restore,
    storage_class,
    told,
    work,
)


@pytest.mark.parametrize(
    ("found", "named", "of_class", "action", "why"),
    [
        (claim(), restore(), storage_class(), "fill", ""),
        (claim(), restore(), WAITING, "wait", "first pod"),
        (chosen("n2"), restore(), WAITING, "fill", ""),
        (claim(), None, storage_class(), "refuse", "no Restore r"),
        (claim(), deleting(restore()), storage_class(), "refuse", "no Restore r"),
        (claim(), restore(), None, "refuse", "class fast is not there"),
        (claim(), restore(), storage_class(provisioner="kubernetes.io/no-provisioner"), "refuse", "by hand"),
        (claim(storageClassName=""), restore(), None, "refuse", "by hand"),
        (claim(storageClassName=None), restore(), None, "wait", "no storage class"),
        (claim(selector={"matchLabels": {"a": "b"}}), restore(), storage_class(), "refuse", "by labels"),
        (claim(), restore(source={"claim": "a", "snapshot": "b"}), storage_class(), "refuse", "exactly one"),
        (claim(), restore(source={}), storage_class(), "refuse", "exactly one"),
        (claim(), restore(source={"snapshot": "b", "asOf": "2026-01-01T00:00:00Z"}), None, "refuse", "asOf"),
        (deleting(claim()), restore(), storage_class(), "nothing", ""),
        (claim(dataSourceRef={"kind": "PersistentVolumeClaim", "name": "x"}), None, None, "nothing", ""),
        (bound(claim()), None, None, "nothing", ""),
        (bound(claim()), restore(), None, "warn", "volume v1, which was not filled"),
        (bound(claim()), told("Restored", volume="v1"), None, "nothing", ""),
        (bound(claim()), told("NotFilled"), None, "nothing", ""),
        (bound(claim()), told("Binding", volume="v1"), None, "complete", ""),
        (bound(claim()), told("Binding", volume="v2"), None, "warn", "volume v1"),
        (claim(volumeName="v1"), restore(), storage_class(), "nothing", ""),
        (claim(), told("Binding", volume="v1"), storage_class(), "complete", ""),
        (claim(), told("Failed", message="x", volume="v1"), storage_class(), "complete", ""),
        (bound(claim()), told("Failed", message="x", volume="v1"), None, "complete", ""),
        (bound(claim()), told("Failed", message="x", volume="v2"), None, "warn", "volume v1"),
        (claim(), told("Failed", message="x"), storage_class(), "fill", ""),
    ],
)
def test_what_is_to_be_done(
    found: Body, named: Body | None, of_class: Body | None, action: str, why: str
) -> None:
    plan = plan_claim(found, restore=named, storage_class=of_class)
    assert plan.action == action
    assert why in plan.why
    assert bool(plan.why) == (action in ("wait", "refuse", "warn"))


def test_where_it_has_to_be() -> None:
    plan = plan_claim(chosen("n2"), restore=restore(), storage_class=WAITING)
    assert plan.node == "n2"
    owner = {"labels": {"a": "b"}, "annotations": {"x": "y"}}
    body = prime_body(chosen("n2"), "prime", metadata=owner, node=plan.node)
    assert body["metadata"]["annotations"] == {"x": "y", SELECTED_NODE: "n2"}
    assert body["spec"] == {
        field: claim()["spec"][field] for field in ("accessModes", "resources", "storageClassName")
    }


def test_only_restores_of_its_namespace() -> None:
    reference = {"apiGroup": "pvback.io", "kind": "Restore", "name": "r"}
    assert restore_of(claim(dataSourceRef={**reference, "namespace": "ns"})) == "r"
    assert restore_of(claim(dataSourceRef={**reference, "namespace": "other"})) is None
    assert restore_of(claim(dataSourceRef={**reference, "apiGroup": "other.io"})) is None
    assert restore_of(claim(dataSourceRef={**reference, "kind": "Other"})) is None


def test_times_have_a_zone() -> None:
    assert parse_wish(restore(source={"claim": "a", "asOf": "2026-03-01T00:00:00Z"})).as_of == NOW
    for wrong in ("2026-03-01T00:00:00", "yesterday"):
        with pytest.raises(UsageError):
            parse_wish(restore(source={"claim": "a", "asOf": wrong}))


def test_what_is_said_of_several_claims() -> None:
    status: Body = {}

    def say(name: str, phase: str, now: str = "t1", **more: str) -> None:
        nonlocal status
        state = ClaimState(uid=f"u-{name}", phase=phase, **more)
        status = with_state(status, name, state=state, now=now)

    say("b", "Restoring")
    assert (status["phase"], [one["name"] for one in status["claims"]]) == ("Restoring", ["b"])
    say("a", "Failed", message="no room")
    assert (status["phase"], status["message"]) == ("Failed", "a: no room")
    conditions = {one["type"]: one for one in status["conditions"]}
    assert conditions["Resolved"]["status"] == conditions["Restored"]["status"] == "False"
    facts = {"snapshot": "5" * 32, "source": "pvc:default/ns/data", "taken": "t0"}
    status = with_snapshot(status, facts, now="t2")
    say("a", "Restored", now="t3", volume="v")
    assert (status["phase"], status["message"]) == ("Restoring", "")
    say("b", "Restored", now="t4")
    conditions = {one["type"]: one for one in status["conditions"]}
    assert status["phase"] == "Restored"
    assert [conditions[one]["lastTransitionTime"] for one in ("Resolved", "Restored")] == ["t2", "t4"]
    again = with_state(status, "b", state=ClaimState(uid="u-b", phase="Restored"), now="t9")
    assert again == status, "what has not changed is as old as it was"
    assert with_state(status, "b", state=None, now="t9")["claims"] == [status["claims"][0]]
    another = claim()
    another["metadata"].update(name="a", uid="other")
    assert state_of({"status": status}, another) is None, "a claim that was made again begins anew"


def test_a_snapshot_is_pinned_once() -> None:
    body = restore()
    cluster = Objects((RESTORE, body))

    def other_is_first() -> None:
        body["status"] = {"snapshot": "other"}
        body["metadata"]["resourceVersion"] = "9"

    facts = {"source": "pvc:default/ns/data", "taken": "t"}
    assert pin_snapshot(cluster, restore(), snapshot="one", **facts) == "one"
    assert pin_snapshot(cluster, restore(), snapshot="two", **facts) == "one"
    body["status"] = {}
    cluster.before_patch = [other_is_first]
    assert pin_snapshot(cluster, restore(), snapshot="three", **facts) == "other"
    body["metadata"]["uid"] = "r2"
    with pytest.raises(ConflictError, match="deleted"):
        pin_snapshot(cluster, restore(), snapshot="four", **facts)


def test_news_are_told_once() -> None:
    cluster = Objects((RESTORE, restore()))
    state = ClaimState(uid="u1", phase="Failed", message="x" * 3000)
    for _ in range(3):
        tell(cluster, claim(), restore=restore(), state=state)
    (event,) = cluster.events
    assert (event["type"], event["reason"], len(event["message"])) == ("Warning", "PvbackFailed", 1024)
    tell(cluster, claim(), restore=restore(), state=ClaimState(uid="u1", phase="Restored", volume="v"))
    assert [one["type"] for one in cluster.events] == ["Warning", "Normal"]
    tell(cluster, claim(), restore=restore(), state=None)
    assert len(cluster.events) == 2
    assert cluster.get(RESTORE, "r")["status"]["claims"] == []


def volume(holder: str = "p1", policy: str = "Retain", size: str = "1Gi") -> dict[str, Any]:
    spec = {
        "claimRef": {"uid": holder},
        "persistentVolumeReclaimPolicy": policy,
        "capacity": {"storage": size},
    }
    body = VOLUME.body("v1", spec=spec)
    body["metadata"].update(uid="vu", resourceVersion="1")
    return body


def prime(*, is_bound: bool = True) -> dict[str, Any]:
    body = CLAIM.body("prime", "ns", spec={}, status={"phase": "Pending"})
    body["metadata"]["uid"] = "p1"
    return bound(body) if is_bound else body


def test_a_volume_is_its_primes_until_it_is_given() -> None:
    cluster = Objects((CLAIM, prime(is_bound=False)), (VOLUME, volume()))
    held = PrimeVolume(cluster=cluster, prime=prime())
    held.spend()
    assert held.name is None
    cluster.bodies[CLAIM.name, "prime"] = prime()
    cluster.before_patch = [lambda: cluster.bodies[VOLUME.name, "v1"]["metadata"].update(resourceVersion="5")]
    held.spend()
    assert held.policy is None, "it was changed meanwhile: the next time"
    held.spend()
    found = cluster.get(VOLUME, "v1")["spec"]
    assert (found["persistentVolumeReclaimPolicy"], found["claimRef"]["uid"]) == ("Delete", "p1")
    cluster.before_patch = [lambda: cluster.bodies[VOLUME.name, "v1"]["metadata"].update(resourceVersion="8")]
    held.give(claim())
    found = cluster.get(VOLUME, "v1")["spec"]
    assert found["persistentVolumeReclaimPolicy"] == "Retain"
    assert found["claimRef"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "ns",
        "name": "data",
        "uid": "u1",
        "resourceVersion": "7",
    }
    held.give(claim())
    assert cluster.get(VOLUME, "v1")["metadata"]["resourceVersion"] == "9", "it is given once"


@pytest.mark.parametrize(
    ("given", "error"), [(volume(holder="x"), ConflictError), (volume(size="512Mi"), ClusterError)]
)
def test_a_volume_that_is_not_to_be_given(given: dict[str, Any], error: type[PvbackError]) -> None:
    cluster = Objects((VOLUME, given))
    held = PrimeVolume(cluster=cluster, prime=prime(), name="v1", policy="Delete")
    with pytest.raises(error):
        held.give(claim())
    assert cluster.get(VOLUME, "v1") == given


def test_bound_to_what_it_was_given() -> None:
    clock = ManualClock()
    for found, error in (
        (bound(claim(), "v2"), ConflictError),
        (claim(), ClusterError),
        (deleting(claim()), ConflictError),
    ):
        cluster = Objects((CLAIM, found))
        with pytest.raises(error):
            wait_bound(cluster, claim(), volume="v1", clock=clock, cancel=Cancel())
    wait_bound(Objects((CLAIM, bound(claim()))), claim(), volume="v1", clock=clock, cancel=Cancel())


def test_an_unreachable_repository_changes_nothing_but_what_is_said() -> None:
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()))
    scene = Scene(claim=claim(), restore=restore(), storage_class=storage_class())
    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=Unreachable)
    assert attended is not None
    assert isinstance(attended.error, StorageUnavailable)
    assert cluster.get(RESTORE, "r")["status"]["message"] == "data: s3://b/p: nobody answers"
    assert len(cluster.events) == 1


def test_completed_without_the_repository() -> None:
    """A run that was killed after it had given the volume: what is left is to wait, and to say so."""
    given = volume(holder="u1")
    cluster = Objects((RESTORE, told("Binding", volume="v1")), (CLAIM, bound(claim())), (VOLUME, given))
    scene = Scene(claim=claim(), restore=told("Binding", volume="v1"), storage_class=storage_class())
    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=Unreachable)
    assert attended is not None
    assert attended.state == "filled"
    assert cluster.get(RESTORE, "r")["status"]["claims"][0]["phase"] == "Restored"
    assert (CONFIG_MAP.name, run_name(scene.name)) not in cluster.bodies
    cluster.bodies[VOLUME.name, "v1"] = volume(holder="gone")
    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=Unreachable)
    assert attended is not None
    assert attended.state == "failed", "that volume is not the claim's: it begins anew"


def test_what_was_given_is_not_forgotten() -> None:
    """The claim has its volume, and it cannot be said that it is bound: later that is not somebody else's."""

    class Slow(Objects):
        is_slow = True

        def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Body:
            if kind is CLAIM and self.is_slow:
                raise ClusterError("the API server does not answer")
            return super().get(kind, name, namespace=namespace)

    cluster = Slow((RESTORE, told("Binding", volume="v1")), (VOLUME, volume(holder="u1")))
    scene = Scene(claim=claim(), restore=told("Binding", volume="v1"), storage_class=storage_class())
    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=Unreachable)
    assert attended is not None
    assert attended.state == "failed"
    said = cluster.get(RESTORE, "r")
    assert plan_claim(bound(claim()), restore=said, storage_class=None).action == "complete"


def test_an_event_takes_what_fits() -> None:
    """In bytes: names of files may have characters of several."""
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()))
    tell(
        cluster,
        claim(),
        restore=restore(),
        state=ClaimState(uid="u1", phase="Failed", message="x" + "é" * 900),
    )
    (event,) = cluster.events
    assert event["message"] == "x" + "é" * 511


def test_another_populators_word_stands() -> None:
    """It was faster: the claim is bound by the time that we have it."""
    is_filled = told("Restored", volume="v1")
    cluster = Objects((RESTORE, deepcopy(is_filled)), (CLAIM, bound(claim())))
    scene = Scene(claim=claim(), restore=restore(), storage_class=storage_class())

    def late() -> Unreachable:
        _Filling(work(cluster), scene, OPTIONS)._require_wanted()
        return Unreachable()

    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=late)
    assert attended is not None
    assert (attended.state, attended.note) == ("left", "the claim was bound to volume v1 meanwhile")
    assert cluster.get(RESTORE, "r") == is_filled
    cluster.bodies[RESTORE.name, "r"] = told("Restoring")
    cluster.bodies[CLAIM.name, "data"] = deleting(claim())
    attended = attend_claim(work(cluster), scene, options=OPTIONS, open_repository=late)
    assert attended is not None
    assert (attended.state, attended.note) == ("left", "the claim was deleted meanwhile")
    assert cluster.get(RESTORE, "r")["status"]["claims"] == []


def test_a_failure_beside_another_run_forgets_no_volume() -> None:
    cluster = Objects((RESTORE, told("Binding", volume="v1")), (CLAIM, claim()))
    scene = Scene(claim=claim(), restore=restore(), storage_class=storage_class())
    attend_claim(work(cluster), scene, options=OPTIONS, open_repository=Unreachable)
    (said,) = cluster.get(RESTORE, "r")["status"]["claims"]
    assert (said["phase"], said["volume"]) == ("Failed", "v1")


def test_a_node_that_is_not_chosen_any_more() -> None:
    """It was when the claim was looked at; by the time that there is a mover for it, it waits again."""
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()))
    filling = _Filling(
        work(cluster), Scene(claim=chosen("n2"), restore=restore(), storage_class=WAITING), OPTIONS
    )
    nothing: Any = None
    with pytest.raises(_Aside, match="waits for its first pod"):
        filling._restore(nothing, nothing, nothing, nothing)


@pytest.mark.parametrize("accepts", [False, True])
def test_what_is_restored_in_part(monkeypatch: pytest.MonkeyPatch, accepts: bool) -> None:
    """It is given to nobody who has not said that this will do."""
    given = volume(holder="gone", policy="Delete")
    cluster = Objects((RESTORE, restore()), (CLAIM, claim()), (VOLUME, given))
    filling = _Filling(
        work(cluster), Scene(claim=claim(), restore=restore(), storage_class=storage_class()), OPTIONS
    )
    job: Any = SimpleNamespace(mounted="prime", run="5" * 16)

    def move_partly(*_: object, check: Callable[[], None], **__: object) -> MoverEnd:
        made = cluster.bodies[CLAIM.name, "prime"]
        given["spec"]["claimRef"]["uid"] = made["metadata"]["uid"]
        made.update(bound(made))
        cluster.bodies[CLAIM.name, "prime"] = bound(made)
        check()
        result = {"error_count": 2, "examples": ["x: no", "y: no"]}
        return MoverEnd(exit_code=3, message={"result": result})

    def bind(*_: object, **__: object) -> None:
        assert given["spec"]["claimRef"]["uid"] == "u1"

    monkeypatch.setattr(claim_populate, "move", move_partly)
    monkeypatch.setattr(claim_populate, "wait_bound", bind)
    details = SimpleNamespace(source=SimpleNamespace(string="pvc:default/ns/data"), taken=NOW, started=NOW)
    snapshot: Any = SimpleNamespace(id="5" * 32, details=details, require_details=lambda: details)
    wish = parse_wish(restore(source={"claim": "data"}, acceptPartial=accepts))

    def restore_it() -> None:
        with filling._run(job.run, "test") as run:
            filling._restore(run, job, snapshot, wish)

    if accepts:
        restore_it()
        assert filling.note == "2 files could not be restored (x: no; y: no); the rest was"
        assert given["spec"]["claimRef"]["uid"] == "u1"
    else:
        words = r"2 files could not be restored \(x: no; y: no\), so the claim is not given its volume"
        with pytest.raises(PartlyDone, match=words):
            restore_it()
        assert given["spec"]["claimRef"]["uid"] != "u1"
    assert (CLAIM.name, "prime") not in cluster.bodies
    assert cluster.get(RESTORE, "r")["status"]["snapshot"] == "5" * 32
