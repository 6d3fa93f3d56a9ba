"""Whether there are classes of volume snapshots: what is not known is no answer."""

from collections.abc import Callable
from typing import Any

import pytest

from pvback.cluster.client import Cluster
from pvback.cluster.kinds import Body, group_kinds
from pvback.errors import ClusterError, ClusterObjectMissing, ClusterRefusal, ClusterUnavailable, UsageError
from pvback.ops.claim_backup import _snapshot_classes
from pvback.ops.claim_mover import require_privileged
from pvback.ops.group_backup import _classes


class Answering(Cluster):
    """Gives one answer to whatever is asked."""

    def __init__(self, answer: Body | ClusterError) -> None:
        self.answer = answer

    def get(self, *_: Any, **__: Any) -> Body:
        if isinstance(self.answer, ClusterError):
            raise self.answer
        return self.answer

    def list(self, *_: Any, **__: Any) -> list[Body]:
        return [self.get()]


@pytest.mark.parametrize("ask", [_snapshot_classes, lambda one: _classes(one, group_kinds("v1"))])
def test_an_error_is_not_taken_for_a_cluster_without_snapshots(ask: Callable[[Cluster], Any]) -> None:
    """A live read in place of a volume snapshot would follow from it."""
    assert ask(Answering({"driver": "d"})) == [{"driver": "d"}]
    for gone in (ClusterObjectMissing("no such kind"), ClusterRefusal("may not be listed")):
        assert ask(Answering(gone)) is None
    for failed in (ClusterUnavailable("no answer"), ClusterError("500: webhook")):
        with pytest.raises(ClusterError):
            ask(Answering(failed))


def test_what_a_namespace_allows_is_read_or_the_refusal_told() -> None:
    """Who may not read the namespace is not told that its owner has to allow what may be allowed."""
    allowed = {"metadata": {"annotations": {"pvback.io/privileged-movers": "true"}}}
    require_privileged(Answering(allowed), "ns", what="movers")
    with pytest.raises(UsageError, match="does not allow movers more rights"):
        require_privileged(Answering({"metadata": {}}), "ns", what="movers")
    with pytest.raises(ClusterRefusal, match="forbidden"):
        require_privileged(Answering(ClusterRefusal("namespaces is forbidden")), "ns", what="movers")
