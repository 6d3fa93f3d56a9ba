"""The pod from which a file system is frozen, when there is none, and who lets go first. No cluster."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kubernetes
import pytest

from pvback.cluster.client import Cluster
from pvback.cluster.exposure import Exposure, plan_exposure, staged_exposure
from pvback.cluster.freezing import (
    FREEZE,
    Freezer,
    FreezeWork,
    freeze_hook,
    node_of_freeze,
    start_freezer,
)
from pvback.cluster.hook_runs import HookRun
from pvback.cluster.hooks import HookTarget, PlannedHook, Quiesce, parse_hooks
from pvback.cluster.kinds import POD, Body, Kind
from pvback.cluster.mover import MoverJob, MoverSettings
from pvback.errors import ClusterError
from pvback.model import Claim
from pvback.ops.claim_jobs import with_hooks
from pvback.runtime import Cancel, SystemClock
from tests.support.exec_server import ExecServer, Peer, serving, stdout
from tests.unit.test_claims import facts, pod_body
from tests.unit.test_hook_runs import END_OF_INPUT, HOOK, badly, hold, playing, well

OWNER = {"kind": "ConfigMap", "name": "run", "uid": "u", "apiVersion": "v1"}
SETTINGS = MoverSettings(image="i", secret="s", pull_secrets=("p",))


def freezer(*pods: dict[str, Any]) -> Body:
    return Freezer(facts=facts(*pods), node="n1", run="r", settings=SETTINGS).pod_body(OWNER)


def test_the_pod() -> None:
    security = {"runAsUser": 1, "fsGroup": 5, "supplementalGroups": [7], "seLinuxOptions": {"level": "s0:c1"}}
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    spec = freezer(pod_body("app", spec={"securityContext": security, "tolerations": tolerations}))["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    # Nothing is changed on the volume by the node, which would wait for what is frozen.
    claim, mount = spec["volumes"][0]["persistentVolumeClaim"], container["volumeMounts"][0]
    assert claim == {"claimName": "data", "readOnly": True}
    assert mount["readOnly"] is True
    made = spec["securityContext"]
    assert made == {
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
        "supplementalGroups": [7, 5],
        "seLinuxOptions": {"level": "s0:c1"},
    }
    # A guard that is killed is started again, on the node where the volume is.
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["activeDeadlineSeconds"] == 3600
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["n1"]
    assert tolerations[0] in spec["tolerations"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "p"}]
    assert freezer(pod_body("app"))["metadata"]["labels"]["pvback.io/run"] == "r"


def test_where() -> None:
    assert node_of_freeze(facts(pod_body("app"))) == "n1"
    assert node_of_freeze(facts(pod_body("app"), pod_body("waits", node=None))) == "n1"
    assert node_of_freeze(facts()) is None
    assert node_of_freeze(facts(modes=["ReadWriteOncePod"])) is None


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (facts(pod_body("app"), mode="Block"), "raw device"),
        (facts(pod_body("a"), pod_body("b", node="n2"), modes=["ReadWriteMany"]), "several nodes: n1, n2"),
        (facts(pod_body("app"), modes=["ReadWriteOncePod"]), "for one pod alone"),
    ],
)
def test_what_is_not_frozen(claim: Any, words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        node_of_freeze(claim)


@pytest.mark.parametrize("source", ["hostPath", "local"])
def test_folders_of_nodes(source: str) -> None:
    found = facts(pod_body("app"))
    found.volume_body["spec"][source] = {"path": "/srv"}
    with pytest.raises(ClusterError, match="a folder of a node"):
        node_of_freeze(found)


class Node(Cluster):
    """Starts pods."""

    def __init__(self, server: ExecServer) -> None:
        super().__init__(kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.port}"))
        self.made: list[Body] = []
        self.gone: list[str] = []

    def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> Body:
        assert (kind, dry_run) == (POD, False)
        made = {**body, "metadata": {**body["metadata"], "uid": f"uid-{len(self.made)}"}}
        self.made.append(made)
        return made

    def list(self, kind: Kind, **_: Any) -> list[Body]:
        assert kind is POD
        status = {"containerStatuses": [{"name": "freeze", "state": {"running": {}}}]}
        return [{**self.made[-1], "status": status}]

    def delete(self, kind: Kind, body: Body) -> None:
        self.gone.append(body["metadata"]["name"])


def started(script: Callable[[Peer], None]) -> tuple[Node, str]:
    """What is made, and the pod that is to freeze; the script is what looks at the volume."""

    def look(peer: Peer) -> None:
        query = parse_qsl(urlsplit(peer.request.split()[1]).query)
        argv = [value for name, value in query if name == "command"]
        assert argv == ["pvback", "mover", "look", "/data"]
        script(peer)

    with serving(script=look) as server:
        node = Node(server)
        run: Any = SimpleNamespace(owner=OWNER, check=lambda: None)
        work = FreezeWork(cluster=node, run=run, clock=SystemClock(), cancel=Cancel(), seconds=60)
        made = Freezer(facts=facts(pod_body("app")), node="n1", run="r", settings=SETTINGS)
        return node, start_freezer(work, made).pod


def capabilities(pod: Body) -> list[str]:
    found: list[str] = pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"]
    return found


def says(word: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.send(stdout(word))
        well(peer)

    return script


def says_badly(peer: Peer) -> None:
    """As one that does not know the command."""
    peer.send(stdout(b"closed\n"))
    badly(peer)


def cut(peer: Peer) -> None:
    """Nobody knows what it would have said."""
    peer.send(stdout(b"closed\n"))


@pytest.mark.parametrize("script", [says(b"open\n"), says(b"closed?\n"), says_badly, cut])
def test_one_right_is_enough(script: Callable[[Peer], None]) -> None:
    node, pod = started(script)
    (made,) = node.made
    assert (capabilities(made), made["metadata"]["name"]) == (["SYS_ADMIN"], pod)
    assert node.gone == []


def test_a_second_right_where_the_folder_is_closed() -> None:
    """Only then, and for a pod that takes the place of the first."""
    node, pod = started(says(b"closed\n"))
    first, second = node.made
    assert [capabilities(first), capabilities(second)] == [["SYS_ADMIN"], ["SYS_ADMIN", "DAC_READ_SEARCH"]]
    assert node.gone == [first["metadata"]["name"]]
    assert pod == second["metadata"]["name"] != first["metadata"]["name"]
    # Nothing else is different.
    capabilities(first).append("DAC_READ_SEARCH")
    assert first["spec"] == second["spec"]


TARGET = HookTarget(pod="freezer", uid="v", container="freeze")


def planned(*pods: HookTarget) -> PlannedHook:
    return freeze_hook(pods, lease_seconds=7)


def test_what_runs_in_it() -> None:
    hook = planned(TARGET).hook
    assert isinstance(hook.quiesce, Quiesce)
    assert hook.quiesce.argv == (
        "pvback",
        "mover",
        "freeze",
        "/data",
        "--state",
        "/tmp",
        "--lease",
        "7",
    )
    assert (hook.name, hook.is_built_in, hook.quiesce.lease_seconds) == (FREEZE, True, 7.0)


def test_the_file_system_last_and_first() -> None:
    """The application goes on when it can write again, and not before."""
    log: list[str] = []

    def noted(name: str) -> Any:
        def script(peer: Peer) -> None:
            log.append(f"{name} holds")
            peer.send(stdout(b"frozen\n"))
            assert peer.read() == END_OF_INPUT
            log.append(f"{name} let go")
            peer.send(stdout(b"1.25\n"))
            well(peer)

        return script

    with playing(hold=noted("app"), pvback=noted("freeze")) as scene:
        hooks = scene.hooks(HOOK)
        hooks.planned.append(planned(TARGET))
        hooks.begin()
        assert hooks.is_quiesced
        hooks.release()
        hooks.finish()
    assert log == ["app holds", "freeze holds", "freeze let go", "app let go"]
    assert [(one.hook, one.step) for one in scene.results] == [
        ("x", "pre"),
        ("x", "quiesce"),
        (FREEZE, "quiesce"),
        (FREEZE, "thaw"),
        ("x", "thaw"),
        ("x", "post"),
    ]
    # By its own account, which an application's process does not give.
    assert [one.seconds == 1.25 for one in scene.results if one.step == "thaw"] == [True, False]


def grade_after(hooks: HookRun, own: list[PlannedHook]) -> str:
    exposure = staged_exposure(facts(pod_body("app")), "snapshot")
    grade: str = spec_after(hooks, own, exposure)["options"]["grade"]
    return grade


def spec_after(hooks: HookRun, own: list[PlannedHook], exposure: Exposure) -> Mapping[str, Any]:
    job = MoverJob(
        work="backup",
        claim=Claim("ns", "data"),
        mounted="data",
        is_block=False,
        run="r",
        exposure=exposure,
        spec={"options": {"grade": str(exposure.grade)}, "manifests": {}},
        settings=SETTINGS,
    )
    return with_hooks(job, hooks, own=own).spec


def test_what_a_live_read_may_be_worth() -> None:
    """Its mover waits for a word where somebody of its own holds still, and where nobody does for nobody."""
    (app,) = parse_hooks({"hooks": [{**HOOK, "post": None}]}, where="test")
    own = [PlannedHook(hook=app, targets=(TARGET,))]
    live = plan_exposure(facts(pod_body("app")), method="live", classes=None)
    with playing(hold=hold, pre=well) as scene:
        hooks = scene.hooks({**HOOK, "post": None})
        hooks.begin()
        spec = spec_after(hooks, own, live)
        assert (spec["options"]["grade"], spec["held_grade"]) == ("fuzzy", "app")
        assert "held_grade" not in spec_after(hooks, [], live), "those of another claim"
        at_rest = plan_exposure(facts(), method="live", classes=None)
        assert "held_grade" not in spec_after(hooks, own, at_rest), "it is worth more already"
        hooks.release()
        assert "held_grade" not in spec_after(hooks, own, live)
    quiesce = {"command": ["hold"], "on_failure": "continue"}
    may_fail = {**HOOK, "quiesce": quiesce, "post": None}
    with playing(hold=badly, pre=well) as scene:
        hooks = scene.hooks(may_fail)
        hooks.begin()
        assert "held_grade" not in spec_after(hooks, own, live)


def test_a_frozen_file_system_says_nothing_of_the_application() -> None:
    """Nor does a hook of another claim that is cut at the same instant."""
    (app,) = parse_hooks({"hooks": [{**HOOK, "post": None}]}, where="test")
    own = PlannedHook(hook=app, targets=(TARGET,))
    with playing(pvback=hold) as scene:
        hooks = scene.hooks()
        hooks.planned.append(planned(TARGET))
        hooks.begin()
        hooks.release()
        assert not hooks.is_quiesced
        assert grade_after(hooks, hooks.planned) == "crash"
    with playing(hold=hold, pvback=hold, pre=well) as scene:
        hooks = scene.hooks({**HOOK, "post": None})
        hooks.planned.append(planned(TARGET))
        hooks.begin()
        hooks.release()
        assert grade_after(hooks, hooks.planned) == "app"
        assert grade_after(hooks, [own]) == "app"
        assert grade_after(hooks, []) == "crash"
        assert grade_after(hooks, [planned(TARGET)]) == "crash"
