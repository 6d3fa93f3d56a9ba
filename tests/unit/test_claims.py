"""What is decided about claims without a cluster: how they are read, by what pod, what is kept of them."""

import itertools
import json
from typing import Any

import pytest
from click.testing import CliRunner

from pvback import limits
from pvback.cli import main
from pvback.cli.values import parse_toleration
from pvback.cluster.claims import Consumer, as_recorded, facts_of, from_record, has_begun
from pvback.cluster.exposure import Exposure, is_never_bound, plan_exposure
from pvback.cluster.kinds import CLAIM, POD
from pvback.cluster.manifests import pruned
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.cluster.names import labels_of, object_name, run_name
from pvback.cluster.quantity import as_quantity, parse_quantity
from pvback.cluster.secrets import RepositorySecret
from pvback.cluster.staging import StagingOptions
from pvback.errors import ClusterError, UsageError
from pvback.model import Claim, Consistency
from pvback.ops.claim_jobs import ClaimBackupOptions, plan_job

SECRET = "pvback-repository"
CLASS = {"metadata": {"name": "fast"}, "driver": "csi.test"}


def claim_body(**wishes: Any) -> dict[str, Any]:
    spec = {
        "storageClassName": "standard",
        "accessModes": wishes.pop("modes", ["ReadWriteOnce"]),
        "resources": {"requests": {"storage": "1Gi"}},
        "volumeName": wishes.pop("volume", "pv-1"),
        "volumeMode": wishes.pop("mode", "Filesystem"),
    }
    status = {"phase": wishes.pop("phase", "Bound"), "capacity": {"storage": "2Gi"}}
    metadata = {"uid": "u", **wishes}
    return CLAIM.body("data", "ns", metadata=metadata, spec=spec, status=status)


def pod_body(
    name: str, *, node: str | None = "n1", is_read_only: bool = False, **wishes: Any
) -> dict[str, Any]:
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": is_read_only}}
    container = {
        "name": "c",
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        **wishes.pop("container", {}),
    }
    spec = {"nodeName": node, "volumes": [volume], "containers": [container], **wishes.pop("spec", {})}
    return POD.body(name, "ns", spec=spec, status={"phase": wishes.pop("phase", "Running")})


def facts(*pods: dict[str, Any], driver: str | None = "csi.test", binding: str = "", **wishes: Any) -> Any:
    volume = {"spec": {"csi": {"driver": driver}}} if driver else {"spec": {}}
    storage_class = {"provisioner": "csi.test", "volumeBindingMode": binding}
    return facts_of(claim_body(**wishes), pods=pods, storage_class=storage_class, volume=volume)


def test_auto_takes_a_volume_snapshot_where_there_can_be_one() -> None:
    plan = plan_exposure(facts(pod_body("app")), method="auto", classes=[CLASS])
    assert (plan.method, plan.snapshot_class, plan.grade) == ("snapshot", "fast", Consistency.CRASH)
    assert plan_exposure(facts(), method="auto", classes=[CLASS]).grade is Consistency.COLD


@pytest.mark.parametrize(
    ("driver", "classes", "why"),
    [
        ("csi.test", None, "no volume snapshots"),
        (None, [CLASS], "no CSI driver"),
        ("other", [CLASS], "driver other has no VolumeSnapshotClass"),
        ("csi.test", [CLASS, {**CLASS, "metadata": {"name": "slow"}}], "several classes"),
    ],
)
def test_a_volume_snapshot_that_cannot_be_is_refused_or_said(driver: Any, classes: Any, why: str) -> None:
    known = facts(pod_body("app"), driver=driver)
    plan = plan_exposure(known, method="auto", classes=classes)
    assert (plan.method, plan.grade) == ("live", Consistency.FUZZY)
    assert why in plan.why
    with pytest.raises(ClusterError, match=why):
        plan_exposure(known, method="snapshot", classes=classes)


def test_one_of_several_classes_may_be_the_default() -> None:
    annotations = {"snapshot.storage.kubernetes.io/is-default-class": "true"}
    default = {**CLASS, "metadata": {"name": "slow", "annotations": annotations}}
    plan = plan_exposure(facts(), method="snapshot", classes=[CLASS, default])
    assert plan.snapshot_class == "slow"
    assert plan_exposure(facts(), method="snapshot", classes=[CLASS], wanted="mine").snapshot_class == "mine"


def test_live_goes_where_the_volume_is() -> None:
    one = plan_exposure(facts(pod_body("app")), method="live", classes=None)
    assert (one.node, one.grade) == ("n1", Consistency.FUZZY)
    many = facts(pod_body("a"), pod_body("b", node="n2"), modes=["ReadWriteMany"])
    assert plan_exposure(many, method="live", classes=None).node is None
    nobody = plan_exposure(facts(), method="live", classes=None)
    assert (nobody.node, nobody.grade) == (None, Consistency.COLD)
    reader = facts(pod_body("app", is_read_only=True))
    assert plan_exposure(reader, method="live", classes=None).grade is Consistency.COLD


def test_a_claim_for_one_pod_is_refused_live_with_the_way_out() -> None:
    known = facts(pod_body("app"), modes=["ReadWriteOncePod"])
    with pytest.raises(ClusterError, match="pod app has it") as caught:
        plan_exposure(known, method="live", classes=[CLASS])
    assert "--method snapshot" in str(caught.value.hint)
    assert plan_exposure(known, method="auto", classes=[CLASS]).method == "snapshot"
    assert plan_exposure(facts(modes=["ReadWriteOncePod"]), method="live", classes=None).method == "live"


@pytest.mark.parametrize(
    ("binding", "staging_class", "is_kept"),
    [
        ("WaitForFirstConsumer", None, True),
        ("", None, True),
        ("Immediate", None, False),
        ("Immediate", "other", True),
    ],
)
def test_where_a_copy_is_read(binding: str, staging_class: str | None, *, is_kept: bool) -> None:
    """Where the volume is, for there the copy is made; unless its class puts it anywhere, at once."""
    where = {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
    }
    known = facts(pod_body("app"), binding=binding)
    known.volume_body.update(
        metadata={}, spec={**known.volume_body["spec"], "nodeAffinity": {"required": where}}
    )
    options = ClaimBackupOptions(
        settings=MoverSettings(image="i", secret=SECRET), staging=StagingOptions(storage_class=staging_class)
    )
    secret = RepositorySecret(image="i", cluster="c", scope="s")
    exposure = plan_exposure(known, method="snapshot", classes=[CLASS])
    job = plan_job(known, exposure, run="r", secret=secret, options=options)
    affinity = job.pod_spec().get("affinity")
    required = {"requiredDuringSchedulingIgnoredDuringExecution": where}
    assert affinity == ({"nodeAffinity": required} if is_kept else None)


def test_who_has_no_data() -> None:
    waiting = facts(phase="Pending", binding="WaitForFirstConsumer", volume=None)
    assert is_never_bound(waiting)
    assert not is_never_bound(facts(phase="Pending", volume=None))
    assert not is_never_bound(facts())
    for known, why in (
        (waiting, "not bound"),
        (facts(phase="Lost"), "lost its volume"),
        (facts(deletionTimestamp="now"), "being deleted"),
    ):
        with pytest.raises(ClusterError, match=why):
            plan_exposure(known, method="auto", classes=[CLASS])
    with pytest.raises(UsageError):
        plan_exposure(facts(), method="magic", classes=None)


def test_pods_that_use_a_claim() -> None:
    over = pod_body("over", phase="Succeeded")
    elsewhere = pod_body("other")
    elsewhere["metadata"]["namespace"] = "other"
    reads = pod_body("reads", container={"volumeMounts": [{"name": "v", "readOnly": True}]})
    ephemeral = pod_body("x", spec={"volumes": [{"name": "v", "ephemeral": {}}]})
    known = facts(over, elsewhere, reads, pod_body("app"), ephemeral)
    assert [one.pod for one in known.consumers] == ["app", "reads"]
    assert [one.pod for one in known.writers] == ["app"]
    named = claim_body()
    named["metadata"]["name"] = "x-v"
    own = facts_of(named, pods=[ephemeral], storage_class=None, volume=None)
    assert [one.pod for one in own.consumers] == ["x"]


def make_job(exposure: Exposure, **wishes: Any) -> MoverJob:
    given: dict[str, Any] = {
        "work": "backup",
        "claim": Claim("ns", "data"),
        "mounted": "data",
        "is_block": False,
        "run": "0" * 16,
        "exposure": exposure,
        "spec": {},
        "settings": MoverSettings(image="i", secret=SECRET),
    }
    return MoverJob(**{**given, **wishes})


def test_the_mover_is_like_the_pod_that_uses_the_claim() -> None:
    security = {"runAsUser": 1, "fsGroup": 5, "supplementalGroups": [7], "seLinuxOptions": {"level": "s0:c1"}}
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    pod = pod_body("app", spec={"securityContext": security, "tolerations": tolerations})
    plan = plan_exposure(facts(pod), method="live", classes=None)
    spec = make_job(plan).pod_spec()
    made = spec["securityContext"]
    assert made["runAsUser"] == 1
    assert (made["fsGroup"], made["fsGroupChangePolicy"]) == (5, "OnRootMismatch")
    assert (made["supplementalGroups"], made["seLinuxOptions"]) == ([7], {"level": "s0:c1"})
    assert tolerations[0] in spec["tolerations"]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert term["matchFields"][0]["values"] == ["n1"]
    assert "nodeName" not in spec


AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"


def recorded(**spec: Any) -> Any:
    """What a snapshot has of a pod with this specification."""
    (consumer,) = facts(pod_body("app", spec=spec)).consumers
    return json.loads(json.dumps(as_recorded(consumer)))


def test_a_restore_is_like_the_pod_that_was_recorded() -> None:
    security = {"runAsUser": 1, "fsGroup": 5, "supplementalGroups": [7], "seLinuxOptions": {"level": "s0:c1"}}
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    then = recorded(securityContext=security, tolerations=tolerations, nodeSelector={"disk": "fast"})
    now = [*tolerations, {"key": "new", "operator": "Exists"}]
    made = from_record(then, is_at_home=True, tolerations=now)
    assert (made.user, made.fs_group, made.supplemental_groups) == (1, 5, (7,))
    assert made.selinux == {"level": "s0:c1"}
    assert list(made.tolerations) == now
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]}
    assert made.node_affinity == {"nodeSelectorTerms": [term]}
    elsewhere = from_record(then, is_at_home=False)
    assert (elsewhere.selinux, elsewhere.node_affinity) == (None, None)
    assert (elsewhere.user, list(elsewhere.tolerations)) == (1, tolerations)


def test_snapshots_of_before_that_was_recorded() -> None:
    assert recorded() == {"user": None, "fs_group": None, "supplemental_groups": []}
    for old in ({}, {"user": 1, "fs_group": None, "supplemental_groups": [7]}):
        made = from_record(old, is_at_home=True)
        assert (made.selinux, made.tolerations, made.node_affinity) == (None, (), None)
        assert made.fs_group == limits.MOVER_GROUP


def test_what_a_pod_asks_of_its_node() -> None:
    """A selector, and one of several terms."""

    def asked(**spec: Any) -> Any:
        (consumer,) = facts(pod_body("app", spec=spec)).consumers
        return consumer.node_affinity

    zones = [{"key": "zone", "operator": "In", "values": [name]} for name in ("a", "b")]
    fields = [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]
    terms = [{"matchExpressions": [zones[0]]}, {"matchExpressions": [zones[1]], "matchFields": fields}]
    affinity = {"nodeAffinity": {AFFINITY: {"nodeSelectorTerms": terms}}}
    disk = {"key": "disk", "operator": "In", "values": ["fast"]}
    assert asked() is None
    assert asked(affinity={"podAffinity": {}}) is None
    assert asked(affinity=affinity) == {"nodeSelectorTerms": terms}
    both = asked(affinity=affinity, nodeSelector={"disk": "fast"})["nodeSelectorTerms"]
    assert both[0] == {"matchExpressions": [zones[0], disk]}
    assert both[1] == {"matchExpressions": [zones[1], disk], "matchFields": fields}


def test_movers_are_told_where_they_may_run() -> None:
    mine = {"key": "mine", "operator": "Exists"}
    settings = MoverSettings(image="i", secret=SECRET, tolerations=(mine,), node_selector={"disk": "fast"})
    taint = {"key": "dedicated", "operator": "Exists"}
    consumer = Consumer(pod="", node=None, is_read_only=False, is_running=False, tolerations=(taint,))
    live = Exposure(method="live", grade=Consistency.COLD, consumer=consumer)
    spec = make_job(live, settings=settings).pod_spec()
    assert spec["tolerations"] == [taint, mine]
    assert spec["nodeSelector"] == {"disk": "fast"}
    plain = make_job(Exposure(method="live", grade=Consistency.COLD)).pod_spec()
    assert not {"tolerations", "nodeSelector", "affinity"} & plain.keys()


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("a", {"key": "a", "operator": "Exists"}),
        ("a=b", {"key": "a", "operator": "Equal", "value": "b"}),
        ("a=:NoExecute", {"key": "a", "operator": "Equal", "value": "", "effect": "NoExecute"}),
        ("x.y/a:NoSchedule", {"key": "x.y/a", "operator": "Exists", "effect": "NoSchedule"}),
    ],
)
def test_tolerations_as_taints_are_written(word: str, made: dict[str, str]) -> None:
    assert parse_toleration(word) == made


@pytest.mark.parametrize("word", ["", "=b", ":NoSchedule", "a:", "a:Never", "a=b:NoSchedule:"])
def test_words_that_are_no_tolerations(word: str) -> None:
    with pytest.raises(UsageError, match="not a toleration"):
        parse_toleration(word)


@pytest.mark.parametrize(("is_block", "work"), list(itertools.product((False, True), ("backup", "restore"))))
def test_the_mover_is_restricted(is_block: bool, work: str) -> None:
    live = Exposure(method="live", grade=Consistency.COLD)
    spec = make_job(live, is_block=is_block, work=work).pod_spec()
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    data = next(one for one in spec["volumes"] if one["name"] == "data")["persistentVolumeClaim"]
    mounts = [one for one in container["volumeMounts"] if one["name"] == "data"]
    assert bool(mounts) != is_block
    assert bool(container.get("volumeDevices")) == is_block
    assert data.get("readOnly", False) == (work == "backup" and not is_block)
    assert all(one["readOnly"] == (work == "backup") for one in mounts)


@pytest.mark.parametrize(
    ("cpu", "requested"), [(None, "250m"), ("2", "250m"), ("250m", "250m"), ("0.1", "100m"), ("50m", "50m")]
)
def test_no_more_is_requested_than_is_allowed(cpu: str | None, requested: str) -> None:
    """The API refuses a request above its limit."""
    live = Exposure(method="live", grade=Consistency.COLD)
    job = make_job(live, settings=MoverSettings(image="i", secret=SECRET, cpu=cpu))
    (container,) = job.pod_spec()["containers"]
    assert container["resources"]["requests"]["cpu"] == requested
    assert container["resources"]["limits"].get("cpu") == cpu


@pytest.mark.parametrize("cache", [limits.MIB, limits.MOVER_CACHE_BYTES])
def test_what_a_mover_takes_of_a_disk_is_asked_for(cache: int) -> None:
    """Where a quota counts it, a pod that does not say is refused; one that takes more is evicted."""
    settings = MoverSettings(image="i", secret=SECRET, cache_bytes=cache)
    spec = make_job(Exposure(method="live", grade=Consistency.COLD), settings=settings).pod_spec()
    (container,) = spec["containers"]
    most, asked = (
        parse_quantity(container["resources"][one]["ephemeral-storage"]) for one in ("limits", "requests")
    )
    folders = [parse_quantity(one["emptyDir"]["sizeLimit"]) for one in spec["volumes"] if "emptyDir" in one]
    assert sum(folders) < most
    assert asked <= most


@pytest.mark.parametrize("cpu", ["", "much", "0", "-1", "1x"])
def test_a_limit_that_is_none(cpu: str) -> None:
    done = CliRunner().invoke(main, ["pvc", "backup", "a", "--mover-cpu", cpu, "--kubeconfig", "/none"])
    assert done.exit_code == 2
    assert "--mover-cpu" in done.output


def test_a_staged_copy_may_replay_its_journal() -> None:
    staged = Exposure(method="snapshot", grade=Consistency.CRASH)
    spec = make_job(staged, mounted="copy").pod_spec()
    data = next(one for one in spec["volumes"] if one["name"] == "data")
    assert data["persistentVolumeClaim"] == {"claimName": "copy"}


def test_names_are_short_and_never_others() -> None:
    long = "a" * 253
    assert len(object_name("restore", long, run="r")) <= 63
    assert object_name("copy", long + "b", run="r") != object_name("copy", long + "c", run="r")
    assert run_name(Claim("ns", "a.b")) != run_name(Claim("ns", "a-b"))
    assert all(len(value) <= 63 for value in labels_of("0" * 16, "staging").values())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("1Ki", 1024),
        ("1.5Gi", 3 << 29),
        ("2G", 2 * 10**9),
        ("1e3", 1000),
        ("1500m", 2),
        ("100Mi", 100 << 20),
    ],
)
def test_quantities(text: str, count: int) -> None:
    assert parse_quantity(text) == count
    assert parse_quantity(as_quantity(count)) == count


@pytest.mark.parametrize("text", ["", "1Q", "Gi", "1.2.3Gi", "1 Gi x"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ClusterError):
        parse_quantity(text)


def test_what_is_kept_of_a_claim() -> None:
    body = claim_body(
        annotations={"pv.kubernetes.io/bind-completed": "yes", "mine": "1"},
        managedFields=[{}],
        resourceVersion="7",
        labels={"app": "x"},
    )
    kept = pruned(body)
    assert kept["metadata"] == {
        "name": "data",
        "namespace": "ns",
        "labels": {"app": "x"},
        "annotations": {"mine": "1"},
    }
    assert "status" not in kept
    assert "volumeName" not in kept["spec"]
    assert "volumeName" in body["spec"], "the object itself is left alone"


@pytest.mark.parametrize(
    ("states", "is_begun"),
    [
        ([], False),
        ([{"state": {"waiting": {"reason": "ErrImagePull"}}, "lastState": {}}], False),
        # What the node says of a container that it never had, when its pod goes.
        ([{"state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}], False),
        ([{"state": {"running": {"startedAt": "2026-03-01T00:00:00Z"}}}], True),
        ([{"state": {"running": {}}}], True),
        ([{"state": {"terminated": {"exitCode": 0, "startedAt": "2026-03-01T00:00:00Z"}}}], True),
        ([{"state": {"waiting": {}}, "lastState": {"terminated": {"startedAt": "2026"}}}], True),
    ],
)
def test_whether_a_mover_may_have_written(states: list[dict[str, Any]], is_begun: bool) -> None:
    assert has_begun({"status": {"containerStatuses": states}}) is is_begun
