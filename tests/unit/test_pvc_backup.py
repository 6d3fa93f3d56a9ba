"""Which claims `pvback pvc backup` chooses, and what it ends with. No Kubernetes."""

from typing import Any

import pytest
from click.testing import CliRunner, Result

from pvback.cli import main, pvc_backup
from pvback.cluster.kinds import CLAIM
from pvback.ops.claim_backups import ChosenClaims
from pvback.ops.claim_jobs import ClaimOutcome
from tests.support.cluster_objects import Objects, bound, claim


def of_name(name: str) -> dict[str, Any]:
    body = bound(claim())
    body["metadata"].update(name=name)
    return body


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The claims on which a run was begun; each ends well."""
    begun: list[str] = []

    def backup_claims(work: Any, chosen: ChosenClaims, **_: Any) -> list[ClaimOutcome]:
        begun.extend(chosen.names)
        return [ClaimOutcome(claim=name, state="done", result={"snapshot": "5"}) for name in chosen.names]

    cluster = Objects((CLAIM, of_name("a")), (CLAIM, of_name("b")))
    monkeypatch.setattr(pvc_backup, "connect_cluster", lambda *_: cluster)
    monkeypatch.setattr(pvc_backup, "backup_claims", backup_claims)
    return begun


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["pvc", "backup", "-n", "ns", *words])


def test_one_that_is_missing_does_not_keep_the_others(begun: list[str]) -> None:
    done = run("a", "gone", "b")
    assert done.exit_code == 3, done.output
    assert begun == ["ns/a", "ns/b"]
    assert "ns/gone: failed: " in done.output
    assert "1 of 3 claims are not backed up whole: ns/gone" in done.output


@pytest.mark.parametrize("names", [("gone",), ("gone", "lost")])
def test_nothing_but_missing_ones(begun: list[str], names: tuple[str, ...]) -> None:
    done = run(*names)
    assert done.exit_code == 40, done.output
    assert begun == []


def test_each_is_a_document_of_its_own(begun: list[str]) -> None:
    done = run("gone", "a", "--json")
    assert done.exit_code == 3
    states = [line for line in done.output.splitlines() if '"message_type":"claim"' in line.replace(" ", "")]
    assert len(states) == 2, done.output


@pytest.mark.parametrize("option", ["--at-once", "--per-node"])
@pytest.mark.parametrize("more", [("a", "b"), ("--group", "backup=db")])
def test_no_movers_at_all(begun: list[str], option: str, more: tuple[str, ...]) -> None:
    done = run(*more, option, "0")
    assert done.exit_code == 2, done.output
    assert option in done.output
    assert begun == []
