"""Claims written in place: who takes them meanwhile, movers that fail before and while they write."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.fleet import Done, Fleet, die, left_behind, make_claim, wait_nothing_left
from tests.cluster.slow import set_rate

pytestmark = pytest.mark.timeout(600)
LARGE = "dd if=/dev/urandom of=/data/large bs=1M count=48 2>/dev/null"
FILL = f"{LARGE}; echo x > /data/x; mkdir /data/d; echo y > /data/d/y"
SPOIL = f"{LARGE}; echo y > /data/x"
RATE = 1 << 19
"""Bytes a second: a restore would take 96 s, if nothing ended it."""
NO_IMAGE = ("--image", "localhost/none:1")


@pytest.fixture
def spoilt(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace with a claim `data` that was backed up, and has other content now."""
    fleet.connect(namespace)
    make_claim(namespace, "data", size="96Mi")
    for script in (FILL, SPOIL):
        namespace.run(objects.pod("work", script, image=namespace.cluster.image, claims=["data"]))
        namespace.delete("v1", "Pod", "work")
        if script == FILL:
            fleet.good("pvc", "backup", f"{namespace.name}/data")
            # Its mover must not be taken for the one of the restore.
            wait_nothing_left(namespace)
    yield namespace
    wait_nothing_left(namespace)


def start(namespace: Namespace, *claims: str, name: str = "app") -> None:
    """A Deployment that runs."""
    namespace.create(objects.workload("Deployment", name, image=namespace.cluster.image, claims=claims))
    wait_for(partial(ready, namespace, name), lambda: f"it is not ready:\n{namespace.events()}")


def ready(namespace: Namespace, name: str = "app") -> int:
    return int(namespace.get("apps/v1", "Deployment", name).status.get("readyReplicas") or 0)


def scale(namespace: Namespace, replicas: int) -> None:
    namespace.cluster.kind("apps/v1", "Deployment").patch(
        name="app",
        namespace=namespace.name,
        body={"spec": {"replicas": replicas}},
        content_type="application/merge-patch+json",
    )


def written_on(namespace: Namespace, name: str = "app") -> Any:
    """What is written on a workload of how it was stopped, and how many replicas it is to have."""
    found = namespace.get("apps/v1", "Deployment", name).to_dict()
    words = (found["metadata"].get("annotations") or {}).get("pvback.io/stopped")
    return (json.loads(words)["claims"] if words else None, found["spec"]["replicas"])


def restore(namespace: Namespace, *more: str) -> tuple[str, ...]:
    return ("pvc", "restore", f"{namespace.name}/data", "--in-place", *more)


def while_it_writes(fleet: Fleet, namespace: Namespace, action: Callable[[], object], *words: str) -> Done:
    """How a restore ends, if this is done while its mover works."""
    set_rate(namespace, RATE, way="download")
    with fleet.start(*words) as process:
        wait_for(lambda: is_mover_at_work(namespace), lambda: f"no mover works: {namespace.events()}")
        action()
        out, err = process.communicate(timeout=120)
    set_rate(namespace, None, way="download")
    return Done(words, process.returncode, out, err)


def is_mover_at_work(namespace: Namespace) -> bool:
    """Whether it has said something: before that the first process of a pod hears no signal."""
    pods = namespace.cluster.kind("v1", "Pod").get(
        namespace=namespace.name,
        label_selector="pvback.io/role=mover",
        field_selector="status.phase=Running",
    )
    return any(namespace.log(pod.metadata.name).strip() for pod in pods.items)


def test_a_pod_takes_the_claim(fleet: Fleet, spoilt: Namespace) -> None:
    app = objects.pod("app", "while true; do sleep 1; done", image=spoilt.cluster.image, claims=["data"])
    done = while_it_writes(fleet, spoilt, lambda: spoilt.create(app), *restore(spoilt)).ended(11)
    assert "pods have taken the claim while it was written: app" in done.err
    assert "half restored" in done.err
    wait_nothing_left(spoilt)
    spoilt.delete("v1", "Pod", "app")
    fleet.good(*restore(spoilt))


def test_pods_that_wait_for_a_claim_or_take_it_when_it_is_made(fleet: Fleet, spoilt: Namespace) -> None:
    """They would begin with an empty claim, and go on in what is written to it."""
    script = "while true; do sleep 1; done"
    words = ("pvc", "restore", f"{spoilt.name}/data", "--to", "again")
    app = objects.pod("app", script, image=spoilt.cluster.image, claims=["again"])
    spoilt.create(app)
    refused = fleet.run(*words).ended(11)
    assert "pods wait for the claim, and would take it before it is whole: app" in refused.err
    assert spoilt.is_gone("v1", "PersistentVolumeClaim", "again")
    assert spoilt.get("v1", "Pod", "app").status.phase == "Pending"
    spoilt.delete("v1", "Pod", "app")
    done = while_it_writes(fleet, spoilt, lambda: spoilt.create(app), *words).ended(11)
    assert "pods have taken the claim while it was written: app" in done.err
    spoilt.delete("v1", "Pod", "app")
    wait_for(lambda: spoilt.is_gone("v1", "PersistentVolumeClaim", "again"), lambda: "it stays half full")
    fleet.good(*words)
    assert "the claim exists" in fleet.run(*words).ended(11).err


def test_somebody_starts_the_workload(fleet: Fleet, spoilt: Namespace) -> None:
    """The next restore stops it again, and brings it back with the replicas that they have asked for."""
    start(spoilt, "data")
    done = while_it_writes(fleet, spoilt, lambda: scale(spoilt, 2), *restore(spoilt, "--scale-down"))
    done.ended(11)
    assert "pods have taken the claim while it was written: app-" in done.err
    assert "was started by somebody: claim" in done.err
    assert written_on(spoilt) == ({"data": "writing"}, 2)
    assert "was started by somebody" in fleet.run("pvc", "cleanup", "-n", spoilt.name).ended(3).err
    refused = fleet.run(*restore(spoilt)).ended(11)
    assert "pods have the claim" in refused.err
    fleet.good(*restore(spoilt, "--scale-down"))
    assert written_on(spoilt) == (None, 2)
    wait_for(lambda: ready(spoilt) == 2, lambda: f"it does not run again:\n{spoilt.events()}")
    scale(spoilt, 0)
    spoilt.run(objects.pod("see", "grep x /data/x", image=spoilt.cluster.image, claims=["data"]))


def test_a_mover_that_never_begins_has_written_nothing(fleet: Fleet, spoilt: Namespace) -> None:
    """What was stopped comes back with the data that it had, if no earlier restore has half done its work."""
    start(spoilt, "data")
    words = restore(spoilt, "--scale-down", *NO_IMAGE)
    failed = fleet.hasty().run(*words).ended(40)
    assert "the mover does not start" in failed.err
    assert "half restored" not in failed.err
    assert written_on(spoilt) == (None, 1)
    wait_for(lambda: ready(spoilt), lambda: f"it does not run again:\n{spoilt.events()}")
    with fleet.start(*words) as process:
        wait_for(lambda: any("Job" in one for one in left_behind(spoilt)), lambda: "no Job is made")
        process.kill()
        process.wait()
    die(spoilt)
    again = fleet.hasty().run(*words).ended(40)
    assert "stays down: claim" in again.err
    assert written_on(spoilt) == ({"data": "writing"}, 0)
    fleet.good(*restore(spoilt, "--scale-down"))
    assert written_on(spoilt) == (None, 1)


def test_a_mover_that_is_lost_while_it_writes(fleet: Fleet, spoilt: Namespace) -> None:
    start(spoilt, "data")

    def lose() -> None:
        kind = spoilt.cluster.kind("v1", "Pod")
        (pod,) = kind.get(namespace=spoilt.name, label_selector="pvback.io/role=mover").items
        kind.delete(name=pod.metadata.name, namespace=spoilt.name)

    done = while_it_writes(fleet, spoilt, lose, *restore(spoilt, "--scale-down")).ended(40)
    assert "the mover's pod was removed" in done.err
    assert "stays down: claim" in done.err
    assert written_on(spoilt) == ({"data": "writing"}, 0)
    assert "stays down: claim" in fleet.run("pvc", "cleanup", "-n", spoilt.name).ended(3).err
    fleet.good(*restore(spoilt, "--scale-down"))
    assert written_on(spoilt) == (None, 1)
    wait_for(lambda: ready(spoilt), lambda: f"it does not run again:\n{spoilt.events()}")


def test_files_that_cannot_be_written(fleet: Fleet, spoilt: Namespace) -> None:
    """A restore that ends with 3 is no whole one: the workload stays down until somebody says otherwise."""
    start(spoilt, "data")
    # With the workload's user and group on record, the mover has no other ones.
    fleet.good("pvc", "backup", f"{spoilt.name}/data")
    close = objects.pod(
        "work", "mv /data/d /data/e; mkdir -m 700 /data/d", image=spoilt.cluster.image, claims=["data"]
    )
    close["spec"]["securityContext"]["runAsUser"] = objects.USER + 1
    spoilt.run(close)
    spoilt.delete("v1", "Pod", "work")
    done = fleet.run(*restore(spoilt, "--scale-down")).ended(3)
    assert "files could not be restored" in done.err
    assert "stays down: claim" in done.err
    assert written_on(spoilt) == ({"data": "writing"}, 0)
    fleet.good("pvc", "cleanup", "-n", spoilt.name, "--scale-up")
    assert written_on(spoilt) == (None, 1)
    wait_for(lambda: ready(spoilt), lambda: f"it does not run again:\n{spoilt.events()}")


def test_a_workload_of_two_claims(fleet: Fleet, spoilt: Namespace) -> None:
    """It comes back with the last of them that is whole."""
    make_claim(spoilt, "more")
    start(spoilt, "data", "more")
    fleet.good("pvc", "backup", f"{spoilt.name}/more")
    with fleet.start(*restore(spoilt, "--scale-down", *NO_IMAGE)) as process:
        wait_for(lambda: any("Job" in one for one in left_behind(spoilt)), lambda: "no Job is made")
        process.kill()
        process.wait()
    die(spoilt)
    done = fleet.good("pvc", "restore", f"{spoilt.name}/more", "--in-place", "--scale-down", "--json")
    (summary,) = done.messages("summary")
    assert summary["stopped"] == []
    assert written_on(spoilt) == ({"data": "writing"}, 0)
    (summary,) = fleet.good(*restore(spoilt, "--scale-down", "--json")).messages("summary")
    assert summary["stopped"] == [f"Deployment {spoilt.name}/app"]
    assert written_on(spoilt) == (None, 1)
    wait_for(lambda: ready(spoilt), lambda: f"it does not run again:\n{spoilt.events()}")
