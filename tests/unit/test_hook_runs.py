"""Hooks around a copy, where the moment matters: against a server that does as a test says. No Kubernetes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kubernetes
import pytest

from pvback import limits
from pvback.cluster.claim_runs import Leftover, remove_leftovers
from pvback.cluster.client import Cluster
from pvback.cluster.hook_debts import DEBTS, debts_of
from pvback.cluster.hook_runs import HookResult, HookRun, HookWork
from pvback.cluster.hooks import HookTarget, PlannedHook, parse_hooks
from pvback.cluster.kinds import CONFIG_MAP, POD, Body, Kind
from pvback.cluster.names import labels_of
from pvback.errors import ClusterError, Interrupted
from pvback.model import Claim
from pvback.ops.claim_hold import HeldRead
from pvback.runtime import Cancel, ManualClock
from tests.support.exec_server import SUCCESS, ExecServer, Peer, close, failure, serving, status, stdout

END_OF_INPUT = (2, b"\xff\x00")
TARGET = HookTarget(pod="app", uid="uid-app", container="main")


class Pods(Cluster):
    """The API of one namespace: pods that run, and the run's own object."""

    def __init__(self, server: ExecServer, log: list[str]) -> None:
        super().__init__(kubernetes.client.Configuration(host=f"http://127.0.0.1:{server.port}"))
        self.log = log
        self.uids = {"app": "uid-app"}
        self.data: dict[str, str] = {}
        self.is_deaf = False

    def list(self, kind: Kind, *, fields: str | None = None, **_: Any) -> list[Body]:
        if kind is not POD or fields is None:
            return []
        name = fields.removeprefix("metadata.name=")
        found = self.uids.get(name)
        made = POD.body(name, "ns", metadata={"uid": found}, status={"phase": "Running"})
        return [made] if found else []

    def patch(
        self, kind: Kind, name: str, *, change: Body, namespace: str | None = None, dry_run: bool = False
    ) -> Body:
        if self.is_deaf:
            raise ClusterError("no answer")
        assert kind is CONFIG_MAP
        self.data |= change["data"]
        self.log.append(f"owes {len(json.loads(self.data[DEBTS]))}")
        return {}

    def delete(self, kind: Kind, body: Body) -> None:
        self.log.append(f"removed {kind.name}")

    def run_object(self) -> Body:
        metadata = {"uid": "u", "labels": labels_of("r", "run")}
        return CONFIG_MAP.body("run", "ns", metadata=metadata, data=self.data)


class Run:
    """A run on a claim that only writes down."""

    def __init__(self, cluster: Pods) -> None:
        self.claim, self.cluster = Claim("ns", "data"), cluster

    def record(self, data: dict[str, str]) -> None:
        self.cluster.patch(CONFIG_MAP, "run", change={"data": data})


class Scene:
    """Hooks, and what the commands do: by their first word, once for each script."""

    def __init__(self, server: ExecServer, log: list[str]) -> None:
        self.server, self.log = server, log
        self.cluster = Pods(server, log)
        self.clock, self.cancel = ManualClock(), Cancel()
        self.warnings: list[str] = []
        self.results: list[HookResult] = []

    def hooks(self, *said: dict[str, Any]) -> HookRun:
        planned = [
            PlannedHook(hook=one, targets=(TARGET,)) for one in parse_hooks({"hooks": [*said]}, where="test")
        ]
        run: Any = Run(self.cluster)
        work = HookWork(
            cluster=self.cluster,
            run=run,
            clock=self.clock,
            cancel=self.cancel,
            warn=self.warnings.append,
        )
        return HookRun(work, planned, results=self.results)

    def steps(self) -> list[tuple[str, bool]]:
        return [(one.step, one.error is None) for one in self.results]


def well(peer: Peer) -> None:
    peer.send(status(SUCCESS), close())


def badly(peer: Peer) -> None:
    peer.send(status(failure(3)), close())


def hold(peer: Peer) -> None:
    peer.send(stdout(b"noise\nfro"), stdout(b"zen\n"))
    got = peer.read()
    assert got == END_OF_INPUT, got
    well(peer)


@contextmanager
def playing(**scripts: Callable[[Peer], None]) -> Iterator[Scene]:
    log: list[str] = []

    def script(peer: Peer) -> None:
        query = parse_qsl(urlsplit(peer.request.split()[1]).query)
        word = next(value for name, value in query if name == "command")
        log.append(word)
        scripts.get(word, well)(peer)

    with serving(script=script) as server:
        yield Scene(server, log)


def look_again_and_again(hooks: HookRun | HeldRead) -> None:
    """As who waits for a copy does."""
    while True:
        hooks.check()


HOOK = {
    "name": "x",
    "pre": {"command": ["pre"]},
    "quiesce": {"command": ["hold"], "lease": 60},
    "post": {"command": ["post"]},
}


def test_all_of_it_in_order() -> None:
    with playing(hold=hold) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        assert (hooks.is_holding, hooks.is_quiesced) == (True, True)
        hooks.check()
        hooks.release()
        assert (hooks.is_holding, hooks.is_quiesced) == (False, True)
        hooks.finish()
        hooks.finish()
    # What is owed is written down before the first command is asked for.
    assert scene.log == ["owes 1", "pre", "hold", "post", "owes 0"]
    assert scene.steps() == [("pre", True), ("quiesce", True), ("thaw", True), ("post", True)]
    assert (scene.warnings, hooks.failures) == ([], [])


def test_nothing_is_started_that_is_not_written_down() -> None:
    with playing() as scene:
        scene.cluster.is_deaf = True
        hooks = scene.hooks(HOOK)
        with pytest.raises(ClusterError, match="no answer"):
            hooks.begin()
        hooks.finish()
    assert scene.log == []


def test_post_of_those_that_were_attempted_alone() -> None:
    with playing(pre=badly) as scene:
        hooks = scene.hooks(HOOK, {**HOOK, "name": "y"})
        with pytest.raises(ClusterError, match="hook x in pod app, container main: pre failed"):
            hooks.begin()
        hooks.finish()
    assert scene.log == ["owes 1", "pre", "post", "owes 0"]


def test_the_lease_is_over_by_our_clock() -> None:
    with playing(hold=hold) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        scene.clock.advance(59)
        hooks.check()
        scene.clock.advance(2)
        with pytest.raises(ClusterError, match="lease of 60 s is over"):
            hooks.release()
        assert not hooks.is_quiesced
        # The process holds still, by its own clock, and is let go.
        hooks.finish()
    assert scene.steps() == [
        ("pre", True),
        ("quiesce", True),
        ("quiesce", False),
        ("thaw", True),
        ("post", True),
    ]


@pytest.mark.parametrize("how", [well, badly, lambda _: None], ids=["well", "badly", "cut off"])
def test_a_hold_that_is_lost(how: Callable[[Peer], None]) -> None:
    may_end = threading.Event()

    def lose(peer: Peer) -> None:
        peer.send(stdout(b"frozen\n"))
        may_end.wait()
        how(peer)

    with playing(hold=lose) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        hooks.check()
        may_end.set()
        with pytest.raises(ClusterError, match="did not hold until the copy was made"):
            look_again_and_again(hooks)
        hooks.finish()
    assert scene.steps()[-2:] == [("quiesce", False), ("post", True)]


def test_a_talkative_hold_that_is_lost() -> None:
    """Its end is seen behind what it has said."""

    def talk(peer: Peer) -> None:
        peer.send(stdout(b"frozen\n"), *[stdout(bytes(1 << 16))] * 32, status(SUCCESS), close())

    with playing(hold=talk) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        with pytest.raises(ClusterError, match="ended by itself"):
            look_again_and_again(hooks)
        hooks.finish()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda peer: peer.send(stdout(b"frozen solid\n"), status(failure(1)), close()), "before it held"),
        (lambda peer: peer.send(stdout(b"frozen"), status(failure(1)), close()), "before it held"),
        (lambda peer: peer.send(stdout(b"fro")), "before it held"),
    ],
)
def test_not_ready(says: Callable[[Peer], None], words: str) -> None:
    with playing(hold=says) as scene:
        hooks = scene.hooks(HOOK)
        with pytest.raises(ClusterError, match=r"quiesce failed"):
            hooks.begin()
        assert not hooks.is_holding
        hooks.finish()
    assert words in str(scene.results[1].error)
    assert scene.steps() == [("pre", True), ("quiesce", False), ("post", True)]


def test_a_thaw_that_fails_has_its_post_at_once() -> None:
    def stick(peer: Peer) -> None:
        peer.send(stdout(b"frozen\n"))
        peer.read()
        badly(peer)

    with playing(hold=stick) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        hooks.release()
        assert scene.steps()[-2:] == [("thaw", False), ("post", True)]
        assert "did not undo itself" in hooks.failures[0]
        assert scene.warnings == hooks.failures
        hooks.finish()
    assert scene.log.count("post") == 1


def test_post_although_stopping_was_asked_for() -> None:
    with playing(hold=hold) as scene:
        hooks = scene.hooks(HOOK)
        hooks.begin()
        scene.cancel.set()
        hooks.finish()
    assert scene.steps()[-2:] == [("thaw", True), ("post", True)]
    with playing() as scene:
        scene.cancel.set()
        hooks = scene.hooks(HOOK)
        with pytest.raises(Interrupted):
            hooks.begin()
        hooks.finish()
    assert scene.log == ["owes 1", "post", "owes 0"]


def owing(scene: Scene) -> Leftover:
    """A run that was killed in its pre hook."""
    hooks = scene.hooks({**HOOK, "quiesce": None})
    hooks.begin()
    scene.log.clear()
    return Leftover(kind=CONFIG_MAP, body=scene.cluster.run_object())


def test_a_dead_run_owes() -> None:
    with playing() as scene:
        found = owing(scene)
        assert str(found) == "ConfigMap ns/run, after post hook x in pod app, container main"
        assert remove_leftovers(scene.cluster, [found], clock=scene.clock) == []
    assert scene.log == ["post", "owes 0", "removed ConfigMap"]


@pytest.mark.parametrize("uid", ["", "uid-other"])
def test_a_pod_that_is_gone_is_owed_nothing(uid: str) -> None:
    with playing() as scene:
        found = owing(scene)
        scene.cluster.uids = {"app": uid}
        assert remove_leftovers(scene.cluster, [found], clock=scene.clock) == []
    assert scene.log == ["owes 0", "removed ConfigMap"]


def test_what_is_owed_and_fails_is_given_up_in_the_end() -> None:
    with playing(post=badly) as scene:
        found = owing(scene)
        for count in range(1, limits.HOOK_DEBT_TRIES + 1):
            (failed,) = remove_leftovers(scene.cluster, [found], clock=scene.clock)
            assert "code 3" in failed
            assert ("given up" in failed) == (count == limits.HOOK_DEBT_TRIES)
            assert "removed ConfigMap" not in scene.log
            found = Leftover(kind=CONFIG_MAP, body=scene.cluster.run_object())
        assert remove_leftovers(scene.cluster, [found], clock=scene.clock) == []


def test_what_is_written_down_and_not_understood() -> None:
    with playing() as scene:
        scene.cluster.data = {DEBTS: '[{"hook": "x"}]'}
        found = Leftover(kind=CONFIG_MAP, body=scene.cluster.run_object())
        with pytest.raises(ClusterError):
            debts_of(found.body)
        (failed,) = remove_leftovers(scene.cluster, [found], clock=scene.clock)
    assert "cannot be read" in failed
    assert "cannot be read" in str(found)
