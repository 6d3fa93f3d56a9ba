"""A live read for which others hold still, where the moment matters: the mover, and who holds. No cluster.

What may not happen is that a snapshot says `app` of a read during which somebody did not hold still.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from pvback import limits
from pvback.cluster.kinds import POD, Body, Kind
from pvback.errors import ClusterError, Interrupted, SessionFencedError
from pvback.model import Consistency
from pvback.ops.backup import BackupResult
from pvback.ops.claim_hold import HeldRead
from pvback.ops.mover import MoverSpec, move_backup
from pvback.ops.mover_word import leave_word
from pvback.repository.registers import RegisterState
from pvback.repository.repository import RepositoryAccess
from pvback.repository.session import WriterSession
from pvback.runtime import Cancel
from tests.support import fake_native
from tests.support.exec_server import Peer, stdout
from tests.unit.test_backup import Listener
from tests.unit.test_hook_runs import (
    END_OF_INPUT,
    HOOK,
    Scene,
    badly,
    hold,
    look_again_and_again,
    playing,
    well,
)

ID = "ab" * 32


# --- the mover ---------------------------------------------------------------------------------------


class Mover:
    """A mover in a pod of its own, whose words lie in `folder`."""

    def __init__(self, access: RepositoryAccess, folder: Path) -> None:
        self.access, self.folder, self.listener, self.cancel = access, folder, Listener(), Cancel()
        (folder / "data").mkdir()
        (folder / "data/x").write_text("x")
        self.words = folder / "words"
        self.words.mkdir()
        self.read: list[str] = []

    def run(self, on_read: Callable[[str], None] = lambda _: None, **more: Any) -> BackupResult:
        spec = MoverSpec(
            cluster="c",
            namespace="ns",
            claim="data",
            where=str(self.folder / "data"),
            options={"grade": "fuzzy"},
            manifests={},
            **{"held_grade": "app", **more},
        )

        def say_read(snapshot: str) -> None:
            self.read.append(snapshot)
            on_read(snapshot)

        return move_backup(
            self.access,
            spec,
            progress=self.listener,
            cancel=self.cancel,
            say_read=say_read,
            words=self.words,
        )

    def grade(self, result: BackupResult) -> Consistency:
        (found,) = [one for one in self.access.catalog().snapshots if one.id == result.snapshot]
        return found.require_details().grade


@pytest.fixture
def mover(access: RepositoryAccess, tmp_path: Path) -> Mover:
    return Mover(access, tmp_path)


def test_it_waits_for_its_word(mover: Mover) -> None:
    def answer(snapshot: str) -> None:
        assert mover.access.catalog().snapshots == [], "nothing is committed before"
        leave_word(snapshot, "app", folder=mover.words)

    result = mover.run(answer)
    assert mover.read == [result.snapshot]
    assert mover.grade(result) is Consistency.APP
    assert mover.listener.warnings == []


@pytest.mark.parametrize("word", ["fuzzy", "", "App", None])
def test_any_other_word_is_doubt(mover: Mover, word: str | None) -> None:
    def answer(snapshot: str) -> None:
        leave_word("cd" * 32, "app", folder=mover.words)
        if word is not None:
            leave_word(snapshot, word, folder=mover.words)

    result = mover.run(answer)
    assert mover.grade(result) is Consistency.FUZZY
    (warning,) = mover.listener.warnings
    assert "worth what any live read is" in warning


def test_files_that_change_are_against_it(mover: Mover, native: SimpleNamespace) -> None:
    def unsteady(job: fake_native.Job) -> dict[str, Any]:
        found = fake_native.finish(job, {})
        found["stats"]["unstable"] = 2
        return found

    native.verbs["backup"] = unsteady
    result = mover.run(lambda snapshot: leave_word(snapshot, "app", folder=mover.words))
    assert mover.grade(result) is Consistency.FUZZY
    assert "2 files changed while they were read" in mover.listener.warnings[0]


def test_it_waits_for_nobody_who_was_not_to_hold(mover: Mover) -> None:
    result = mover.run(held_grade=None)
    assert mover.read == []
    assert mover.grade(result) is Consistency.FUZZY
    assert mover.listener.warnings == []


def test_a_read_that_is_begun_anew_has_no_word(mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who held still have been let go when the first one was over."""
    commits: list[str] = []
    real = WriterSession.commit

    def commit(session: WriterSession, *given: Any, **place: Any) -> Any:
        commits.append(session.snapshot)
        if len(commits) == 1:
            raise SessionFencedError("prune has moved on")
        return real(session, *given, **place)

    monkeypatch.setattr(WriterSession, "commit", commit)

    def answer(snapshot: str) -> None:
        if len(mover.read) == 1:
            leave_word(snapshot, "app", folder=mover.words)

    result = mover.run(answer)
    assert mover.read == commits
    assert len(set(commits)) == 2
    assert mover.grade(result) is Consistency.FUZZY


def test_stopped_while_it_waits(mover: Mover) -> None:
    """What was read is not lost: the next one goes on from there."""
    with pytest.raises(Interrupted, match="test"):
        mover.run(lambda _: mover.cancel.set("test"))
    assert mover.access.catalog().snapshots == []
    (left,) = [one for one, _ in mover.access.catalog().registers]
    assert left.state is RegisterState.OPEN
    assert left.checkpoint is not None
    mover.cancel = Cancel()
    result = mover.run(lambda snapshot: leave_word(snapshot, "app", folder=mover.words))
    assert result.resumed == left.snapshot
    assert mover.grade(result) is Consistency.APP


def test_a_specification_without_it_is_as_before() -> None:
    """Movers of an older image read it, too."""
    spec = MoverSpec(cluster="c", namespace="n", claim="d", where="/data", options={}, manifests={})
    assert "held_grade" not in spec.as_json()
    assert MoverSpec(**json.loads(json.dumps(spec.as_json()))) == spec


# --- who holds ---------------------------------------------------------------------------------------


class Stage:
    """A read that is under way, with a mover whose words are kept."""

    def __init__(self, scene: Scene, told: list[tuple[str, str]]) -> None:
        self.told = told
        self.hooks = scene.hooks(HOOK)
        self.hooks.begin()
        clock: Any = scene.clock
        clock.sleep = self._sleep
        self.slept: list[float] = []
        work: Any = SimpleNamespace(
            cluster=scene.cluster,
            clock=scene.clock,
            cancel=scene.cancel,
            progress=SimpleNamespace(warn=scene.warnings.append),
        )
        job: Any = SimpleNamespace(
            spec={"held_grade": "app"}, claim=SimpleNamespace(namespace="ns"), pod_labels="labels"
        )
        self.held = HeldRead(work, self.hooks, job=job)
        self.on_sleep: Callable[[], None] = lambda: None

    def _sleep(self, seconds: float, cancel: Cancel | None = None) -> None:
        self.slept.append(seconds)
        self.on_sleep()


@contextmanager
def reading(
    monkeypatch: pytest.MonkeyPatch, holder: Callable[[Peer], None], mover: Callable[[Peer], None] = well
) -> Iterator[tuple[Scene, Stage]]:
    told: list[tuple[str, str]] = []

    def hear(peer: Peer) -> None:
        words = [
            value for name, value in parse_qsl(urlsplit(peer.request.split()[1]).query) if name == "command"
        ]
        assert words[:3] == ["pvback", "mover", "word"]
        told.append((words[3], words[4]))
        mover(peer)

    with playing(hold=holder, pvback=hear) as scene:
        pods = scene.cluster.list

        def listed(kind: Kind, **given: Any) -> list[Body]:
            is_mover = kind is POD and "labels" in given
            return [{"metadata": {"name": "mover"}}] if is_mover else pods(kind, **given)

        monkeypatch.setattr(scene.cluster, "list", listed)
        stage = Stage(scene, told)
        yield scene, stage
        stage.hooks.let_go()


def test_held_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(monkeypatch, hold) as (scene, stage):
        stage.held.check()
        assert stage.told == [], "it reads"
        stage.held.hear(ID)
        stage.held.check()
        assert stage.told == [(ID, "app")]
        assert not stage.hooks.is_holding, "the application goes on before it is stored"
        stage.held.check()
        stage.held.end()
        assert stage.told == [(ID, "app")], "once is enough"
    assert scene.warnings == []


def test_what_is_read_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session was ended and it has begun anew, when nobody held still any more."""
    with reading(monkeypatch, hold) as (_, stage):
        stage.held.hear(ID)
        stage.held.check()
        stage.held.hear("cd" * 32)
        stage.held.check()
        assert stage.told == [(ID, "app"), ("cd" * 32, "fuzzy")]


def ends_by_itself(peer: Peer) -> None:
    """And well, which it would say on being asked, too."""
    peer.send(stdout(b"frozen\n"))
    well(peer)


def test_it_ended_while_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(monkeypatch, ends_by_itself) as (_, stage):
        with pytest.raises(ClusterError, match="ended by itself"):
            look_again_and_again(stage.held)
        stage.held.hear(ID)
        assert stage.told == []


def test_its_end_is_told_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was over before all was read; the news comes after that of the read."""
    peers: list[Peer] = []

    def late(peer: Peer) -> None:
        peers.append(peer)
        peer.send(stdout(b"frozen\n"))
        assert peer.read() is None, "it is not asked for anything"

    with reading(monkeypatch, late) as (_, stage):
        stage.held.hear(ID)
        stage.on_sleep = lambda: well(peers[0])
        with pytest.raises(ClusterError, match="ended by itself"):
            stage.held.check()
        assert stage.told == []
        assert stage.slept == [limits.HOOK_SETTLE_SECONDS]


def ends_badly_when_asked(peer: Peer) -> None:
    """As one that was killed, and whose output somebody else has kept open."""
    peer.send(stdout(b"frozen\n"))
    assert peer.read() == END_OF_INPUT
    badly(peer)


def test_it_does_not_say_that_it_has_undone_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(monkeypatch, ends_badly_when_asked) as (scene, stage):
        stage.held.hear(ID)
        stage.held.check()
        assert stage.told == [(ID, "fuzzy")]
    assert "quiesce did not undo itself" in stage.hooks.failures[0]
    assert scene.warnings


def test_its_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def quiet(peer: Peer) -> None:
        peer.send(stdout(b"frozen\n"))
        peer.read()

    with reading(monkeypatch, quiet) as (scene, stage):
        stage.held.hear(ID)
        scene.clock.advance(60)
        with pytest.raises(ClusterError, match="its lease of 60 s is over"):
            stage.held.check()
        assert stage.told == []


def test_the_mover_does_not_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in doubt then, by itself."""
    with reading(monkeypatch, hold, mover=badly) as (scene, stage):
        stage.held.hear(ID)
        stage.held.check()
        assert len(stage.told) == limits.HOOK_TRIES
        stage.held.check()
        assert len(stage.told) == limits.HOOK_TRIES
    assert "may not have been told" in scene.warnings[0]


def test_it_was_never_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(monkeypatch, hold) as (scene, stage):
        stage.held.check()
        stage.held.end()
        assert stage.told == []
    assert "was not heard" in scene.warnings[0]
