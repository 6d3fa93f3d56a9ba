"""Forgetting by name and by policy, and what is asked before much is forgotten."""

import pytest

from pvback.errors import ConflictError, PvbackError, UsageError
from pvback.ops.backup import backup
from pvback.ops.forget import Policy, apply_forget, plan_forget_named, plan_forget_policy, undelete
from pvback.ops.snapshots import list_snapshots
from pvback.ops.sources import path_source
from pvback.repository.repository import RepositoryAccess
from pvback.repository.snapshots import SnapshotFilter
from tests.unit.conftest import Open


@pytest.fixture
def ids(access: RepositoryAccess, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four snapshots of one source, oldest first."""
    source = path_source(tmp_path_factory.mktemp("data"))
    made = [backup(access, source).snapshot for _ in range(4)]
    return [one for one in made if one is not None]


def shown(access: RepositoryAccess, *, is_forgotten: bool = False) -> list[str]:
    return [one.id for one in list_snapshots(access, is_forgotten=is_forgotten).snapshots]


def test_by_name_nothing_more_is_asked(access: RepositoryAccess, ids: list[str]) -> None:
    plan = plan_forget_named(access, [ids[0][:8], ids[0]])
    assert [one.id for one in plan.forgotten] == [ids[0]]
    apply_forget(access, plan)
    assert shown(access) == ids[1:]
    assert shown(access, is_forgotten=True) == ids[:1]
    assert [one.id for one in undelete(access, [ids[0][:8]])] == ids[:1]
    assert shown(access) == ids, "its time is still that of its backup"
    with pytest.raises(PvbackError, match="there is no snapshot"):
        undelete(access, ["0" * 32])


def test_a_policy_that_forgets_much_is_asked_back(access: RepositoryAccess, ids: list[str]) -> None:
    plan = plan_forget_policy(access, Policy(last=1))
    with pytest.raises(ConflictError, match="75% of the snapshots"):
        apply_forget(access, plan)
    assert shown(access) == ids
    apply_forget(access, plan_forget_policy(access, Policy(last=2)))
    assert shown(access) == ids[2:]
    apply_forget(access, plan_forget_policy(access, Policy(tags=({"none": None},))), is_forced=True)
    assert shown(access) == []
    assert [one.id for one in undelete(access, [])] == ids


def test_a_policy_that_keeps_nothing_is_none(access: RepositoryAccess) -> None:
    with pytest.raises(UsageError, match="keeps nothing"):
        plan_forget_policy(access, Policy())


def test_only_what_fits_is_judged(access: RepositoryAccess, ids: list[str]) -> None:
    plan = plan_forget_policy(access, Policy(last=1), wanted=SnapshotFilter(source="elsewhere"))
    assert not plan.decisions


def test_a_snapshot_that_does_not_open_stops_a_policy(open_access: Open, ids: list[str]) -> None:
    access = open_access()
    register = access.catalog().snapshots[0].register
    access.store.put(access.objects.layout.key(register.object_name), b"x" * 200)
    with pytest.raises(PvbackError):
        plan_forget_policy(access, Policy(last=1))
