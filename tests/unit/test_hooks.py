"""Hooks as they are written down, and the pods that they choose. No cluster."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback import limits
from pvback.cluster.claims import facts_of
from pvback.cluster.hooks import (
    Command,
    Hook,
    HookTarget,
    PlannedHook,
    merge_hooks,
    parse_hooks,
    plan_hooks,
    pods_of,
)
from pvback.cluster.kinds import CLAIM, POD
from pvback.errors import ClusterError, UsageError

PRE = {"pre": {"command": ["sync"]}}
HOLD = {"quiesce": {"command": ["hold"]}}


def pod(
    name: str, *containers: str, uses: str = "data", phase: str = "Running", **metadata: Any
) -> dict[str, Any]:
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": uses}}
    spec = {"volumes": [volume], "containers": [{"name": one} for one in containers or ("main",)]}
    made = {"uid": f"uid-{name}", **metadata}
    return POD.body(name, "ns", metadata=made, spec=spec, status={"phase": phase})


def plan(pods: list[dict[str, Any]], *hooks: dict[str, Any], **annotations: Any) -> list[PlannedHook]:
    metadata = {
        "uid": "u",
        "annotations": {f"hook.pvback.io/{name}": json.dumps(one) for name, one in annotations.items()},
    }
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = CLAIM.body("data", "ns", metadata=metadata, spec=spec, status={"phase": "Bound"})
    facts = facts_of(body, pods=pods, storage_class=None, volume=None)
    return plan_hooks(facts, pods=pods, given=parse_hooks({"hooks": list(hooks)}, where="file"))


def chosen(planned: list[PlannedHook]) -> list[tuple[str, str, str]]:
    return [(one.hook.name, target.pod, target.container) for one in planned for target in one.targets]


def annotated(name: str, hook: object, *containers: str) -> dict[str, Any]:
    return pod(name, *containers, annotations={"hook.pvback.io/own": json.dumps(hook)})


def test_everything_that_can_be_said() -> None:
    (hook,) = parse_hooks(
        {
            "hooks": [
                {
                    "name": "pg",
                    "container": "db",
                    "selector": {"app": "pg"},
                    "on_multiple": "all",
                    "claims": ["data"],
                    "pre": {"command": ["a", "b c"], "timeout": 5, "on_failure": "continue"},
                    "quiesce": {"command": ["q"], "ready": "held", "lease": 7.5, "on_failure": "retry"},
                    "post": {"command": ["p"]},
                }
            ]
        },
        where="file",
    )
    assert hook.pre is not None
    assert (hook.pre.argv, hook.pre.seconds, hook.pre.on_failure) == (("a", "b c"), 5.0, "continue")
    assert hook.quiesce is not None
    assert (hook.quiesce.ready, hook.quiesce.lease_seconds) == ("held", 7.5)
    assert hook.quiesce.tries == limits.HOOK_TRIES
    assert hook.post is not None
    # What undoes something is tried again without being told to; what fails a backup is not.
    assert (hook.pre.tries, hook.post.tries) == (1, limits.HOOK_TRIES)


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ({}, "`name`"),
        ({"name": "x"}, "`pre`, or `quiesce`"),
        ({"name": "x", "post": {"command": ["p"]}}, "`pre`, or `quiesce`"),
        ({"name": "x y", **PRE}, "not a name"),
        ({"name": "x", **PRE, "comand": []}, "not known: comand"),
        ({"name": "x", "pre": {"command": "sync"}}, "`command`"),
        ({"name": "x", "pre": {"command": []}}, "`command`"),
        ({"name": "x", "pre": {"command": ["a", 1]}}, "list of texts"),
        ({"name": "x", "pre": {"command": ["a"], "timeout": 0}}, "`timeout`"),
        ({"name": "x", "pre": {"command": ["a"], "timeout": True}}, "`timeout`"),
        ({"name": "x", "pre": {"command": ["a"], "timeout": "30s"}}, "`timeout`"),
        ({"name": "x", "pre": {"command": ["a"], "lease": 3}}, "not known: lease"),
        ({"name": "x", "pre": {"command": ["a"], "on_failure": "ignore"}}, "`on_failure` is one of"),
        ({"name": "x", **PRE, "on_multiple": "any"}, "`on_multiple` is one of"),
        ({"name": "x", **PRE, "selector": {}}, "`selector`"),
        ({"name": "x", **PRE, "selector": {"a": 1}}, "`selector`"),
        ("x", "not an object"),
    ],
)
def test_what_is_not_understood_is_refused(hook: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_hooks({"hooks": [hook]}, where="file")


def test_not_a_file_of_hooks() -> None:
    one = {"name": "x", **PRE}
    documents: list[Any] = [None, [], {}, {"hooks": {}}, {"hooks": [one], "more": 1}, {"hooks": [one, one]}]
    for document in documents:
        with pytest.raises(UsageError):
            parse_hooks(document, where="file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "pre", "quiesce", "post", "command", "timeout", "selector", "lease"]),
            inner,
        )
    ),
)


@given(JSON)
def test_any_json(said: Any) -> None:
    """A hook or our own error."""
    with contextlib.suppress(UsageError):
        parse_hooks({"hooks": [said]}, where="file")


def test_pods_that_use_the_claim() -> None:
    others = [pod("elsewhere", uses="other"), pod("over", phase="Succeeded"), pod("coming", phase="Pending")]
    going = pod("going", deletionTimestamp="2026-01-01T00:00:00Z")
    mover = pod("mover", labels={"pvback.io/run": "x"})
    assert chosen(plan([pod("app"), *others, going, mover], {"name": "x", **PRE})) == [("x", "app", "main")]


def test_pods_that_labels_select() -> None:
    pods = [pod("app"), pod("db", uses="other", labels={"app": "pg", "tier": "1"})]
    hook = {"name": "x", **PRE, "selector": {"app": "pg"}}
    assert chosen(plan(pods, hook)) == [("x", "db", "main")]
    with pytest.raises(ClusterError, match="no running pod matches"):
        plan(pods, {**hook, "selector": {"app": "pg", "tier": "2"}})


def test_none_or_several() -> None:
    several = [pod("a"), pod("b")]
    with pytest.raises(ClusterError, match="2 running pods match: a, b"):
        plan(several, {"name": "x", **PRE})
    with pytest.raises(ClusterError, match="no running pod matches"):
        plan([], {"name": "x", **PRE})
    every = {"name": "x", "on_multiple": "all", **PRE}
    assert chosen(plan(several, every)) == [("x", "a", "main"), ("x", "b", "main")]
    assert chosen(plan([], every)) == []


def test_containers() -> None:
    both = pod("app", "db", "proxy")
    with pytest.raises(ClusterError, match="several containers: db, proxy"):
        plan([both], {"name": "x", **PRE})
    with pytest.raises(ClusterError, match="no container main; it has db, proxy"):
        plan([both], {"name": "x", "container": "main", **PRE})
    assert chosen(plan([both], {"name": "x", "container": "proxy", **PRE})) == [("x", "app", "proxy")]


def test_annotations() -> None:
    assert chosen(plan([pod("app")], {"name": "x", **PRE}, y=HOLD)) == [
        ("x", "app", "main"),
        ("y", "app", "main"),
    ]
    assert chosen(plan([annotated("app", HOLD), pod("other", uses="x")])) == [("own", "app", "main")]
    # A Deployment's pods all have the same.
    several = [annotated("a", {**HOLD, "on_multiple": "all"}), annotated("b", {**HOLD, "on_multiple": "all"})]
    assert len(chosen(plan(several))) == 2
    with pytest.raises(ClusterError, match="2 running pods match"):
        plan([annotated("a", HOLD), annotated("b", HOLD)])
    for pods, words in (
        ([annotated("a", HOLD), annotated("b", PRE)], "differ in hook own"),
        ([annotated("a", {**HOLD, "selector": {"a": "b"}})], "selects none"),
        ([annotated("a", {**HOLD, "claims": ["data"]})], "not known: claims"),
        ([annotated("a", {**HOLD, "name": "b"})], "annotation's key is its name"),
        ([pod("a", annotations={"hook.pvback.io/own": "[sync"})], "no JSON"),
        ([pod("a", annotations={"hook.pvback.io/own": "[]"})], "not an object"),
    ):
        with pytest.raises(UsageError, match=words):
            plan(pods)
    with pytest.raises(UsageError, match="several hooks are called own"):
        plan([annotated("a", HOLD)], {"name": "own", **PRE})


def test_hooks_of_other_claims() -> None:
    assert plan([], {"name": "x", "claims": ["other"], **PRE}) == []
    assert len(plan([pod("app")], {"name": "x", "claims": ["other", "data"], **PRE})) == 1


def test_hooks_of_claims_that_are_cut_together() -> None:
    """One hook in one container of a pod that has both runs once; different ones keep their names."""

    def planned(command: str, *pods: str) -> list[PlannedHook]:
        hook = Hook(name="db", pre=Command(argv=(command,), seconds=1, on_failure="abort", tries=1))
        return [PlannedHook(hook=hook, targets=tuple(HookTarget(pod=p, uid=p, container="c") for p in pods))]

    (merged,) = merge_hooks([planned("x", "one", "two"), planned("x", "two", "three")], where="g")
    assert [target.pod for target in merged.targets] == ["one", "two", "three"]
    assert pods_of([merged], namespace="ns") == ["ns/one", "ns/three", "ns/two"]
    with pytest.raises(UsageError) as caught:
        merge_hooks([planned("x", "one"), planned("y", "one")], where="g")
    assert "several hooks are called db" in caught.value.what
