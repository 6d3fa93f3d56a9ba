"""Hooks: a user's commands around the copy of a claim, and in which pods they run. Pure: parses and plans.

One format in files and in annotations; docs/kubernetes.md shows it. What is not understood is refused: a hook
that is misspelt must not be a backup without it.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pvback import limits
from pvback.cluster.claims import ClaimFacts
from pvback.cluster.kinds import Body
from pvback.cluster.names import HOOK, RUN
from pvback.errors import ClusterError, UsageError

__all__ = [
    "Command",
    "Hook",
    "HookTarget",
    "PlannedHook",
    "Quiesce",
    "merge_hooks",
    "parse_hooks",
    "plan_hooks",
    "pods_of",
]

OnFailure = Literal["abort", "continue", "retry"]
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a hook.

    Attributes:
        argv: No shell.
        seconds: How long it may take; of a quiesce, until it says that it holds.
        on_failure: `abort` fails the backup, `continue` goes on without, `retry` tries again before it fails.
        tries: In all.
    """

    argv: tuple[str, ...]
    seconds: float
    on_failure: OnFailure
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiesce(Command):
    """A command that holds until its standard input ends.

    Attributes:
        ready: The line that it prints when it holds.
        lease_seconds: When it undoes itself at the latest, counted from its start.
    """

    ready: str
    lease_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Commands that belong together.

    Attributes:
        container: None: the pod's only one.
        selector: Labels of running pods; None: those that use the claim, or the pod that is annotated.
        on_multiple: `all` lets none or several pods match.
        claims: Of which claims; none: of all.
        is_built_in: Of pvback itself: it says nothing of the application.
    """

    name: str
    container: str | None = None
    selector: Mapping[str, str] | None = None
    on_multiple: Literal["error", "all"] = "error"
    claims: tuple[str, ...] = ()
    pre: Command | None = None
    quiesce: Quiesce | None = None
    post: Command | None = None
    is_built_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HookTarget:
    """A container of a pod that runs."""

    pod: str
    uid: str
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHook:
    """A hook and where it runs."""

    hook: Hook
    targets: tuple[HookTarget, ...]


def parse_hooks(document: object, *, where: str) -> list[Hook]:
    """The hooks of a file: `hooks:` and a list of them. Raises UsageError."""
    said = _Fields(document, where)
    items = said.take("hooks", list, required=True)
    said.end()
    found = [_parse_hook(one, f"{where}, hook {at + 1}", is_of_file=True) for at, one in enumerate(items)]
    names = [one.name for one in found]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UsageError(f"hooks of the same name: {', '.join(twice)}", key=where)
    return found


def plan_hooks(facts: ClaimFacts, *, pods: Sequence[Body], given: Sequence[Hook]) -> list[PlannedHook]:
    """The hooks of a claim: those given, then those that are annotated at the claim, then at its pods.

    Raises UsageError for a hook that is wrong, ClusterError for one that no pod or several match, or whose
    container is not clear.
    """
    running = [one for one in pods if _is_running(one)]
    names = {one.pod for one in facts.consumers}
    users = [one for one in running if one["metadata"]["name"] in names]
    hooks = [one for one in given if not one.claims or facts.claim.name in one.claims]
    hooks += _annotated(facts.body, f"claim {facts.claim}")
    planned = [
        _plan(one, _matching(one, running=running, users=users), claim=str(facts.claim)) for one in hooks
    ]
    by_name: dict[str, tuple[Hook, list[Body]]] = {}
    for pod in users:
        where = f"pod {facts.claim.namespace}/{pod['metadata']['name']}"
        for hook in _annotated(pod, where):
            if hook.selector is not None:
                raise UsageError("a hook at a pod runs in that pod, and selects none", key=where)
            known, matches = by_name.setdefault(hook.name, (hook, []))
            if known != hook:
                raise UsageError(f"pods of the claim differ in hook {hook.name}", key=where)
            matches.append(pod)
    planned += [_plan(hook, matches, claim=str(facts.claim)) for hook, matches in by_name.values()]
    twice = {one.hook.name for one in planned if [two.hook.name for two in planned].count(one.hook.name) > 1}
    if twice:
        raise UsageError(f"several hooks are called {', '.join(sorted(twice))}", key=str(facts.claim))
    return planned


def merge_hooks(plans: Iterable[Sequence[PlannedHook]], *, where: str) -> list[PlannedHook]:
    """The hooks of claims that are copied together: what several of them have runs once in each container.

    Raises UsageError for different hooks of one name.
    """
    merged: dict[str, PlannedHook] = {}
    for one in (hook for plan in plans for hook in plan):
        known = merged.setdefault(one.hook.name, one)
        if known.hook != one.hook:
            raise UsageError(
                f"several hooks are called {one.hook.name}, and are not the same",
                key=where,
                hint="those of claims that are cut together have names of their own",
            )
        targets = dict.fromkeys((*known.targets, *one.targets))
        merged[one.hook.name] = PlannedHook(hook=one.hook, targets=tuple(targets))
    return list(merged.values())


def pods_of(planned: Iterable[PlannedHook], *, namespace: str) -> list[str]:
    """`NAMESPACE/NAME` of the pods that they run in."""
    return sorted({f"{namespace}/{target.pod}" for one in planned for target in one.targets})


def _plan(hook: Hook, matches: Sequence[Body], *, claim: str) -> PlannedHook:
    names = [one["metadata"]["name"] for one in matches]
    if len(matches) != 1 and hook.on_multiple != "all":
        which = (
            f"{len(matches)} running pods match: {', '.join(names)}" if names else "no running pod matches"
        )
        raise ClusterError(
            f"hook {hook.name}: {which}",
            key=claim,
            hint="`on_multiple: all` takes all that there are, or none",
        )
    return PlannedHook(hook=hook, targets=tuple(_target(hook, one) for one in matches))


def _target(hook: Hook, pod: Body) -> HookTarget:
    name, spec = pod["metadata"]["name"], pod["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    names = [one["name"] for one in (*spec["containers"], *sidecars)]
    wanted = hook.container
    if wanted is None:
        if len(names) > 1:
            raise ClusterError(
                f"hook {hook.name}: pod {name} has several containers: {', '.join(names)}",
                hint="name one with `container`",
            )
        wanted = names[0]
    if wanted not in names:
        raise ClusterError(
            f"hook {hook.name}: pod {name} has no container {wanted}; it has {', '.join(names)}"
        )
    return HookTarget(pod=name, uid=pod["metadata"]["uid"], container=wanted)


def _is_running(pod: Body) -> bool:
    metadata = pod["metadata"]
    # Movers mount claims, too.
    is_ours = RUN in (metadata.get("labels") or {})
    return (
        pod.get("status", {}).get("phase") == "Running"
        and "deletionTimestamp" not in metadata
        and not is_ours
    )


def _matching(hook: Hook, *, running: Iterable[Body], users: Sequence[Body]) -> list[Body]:
    if hook.selector is None:
        return list(users)
    wanted = hook.selector.items()
    return [one for one in running if wanted <= (one["metadata"].get("labels") or {}).items()]


def _annotated(body: Body, where: str) -> list[Hook]:
    """The hooks in an object's annotations, by name."""
    found = []
    for key, text in sorted((body["metadata"].get("annotations") or {}).items()):
        prefix, slash, name = key.partition("/")
        if prefix != HOOK or not slash:
            continue
        place = f"{where}, annotation {key}"
        try:
            said = json.loads(text)
        except ValueError as exc:
            raise UsageError(f"no JSON: {exc}", key=place) from exc
        if isinstance(said, dict) and "name" in said:
            raise UsageError("the annotation's key is its name", key=place)
        named = {**said, "name": name} if isinstance(said, dict) else said
        found.append(_parse_hook(named, place, is_of_file=False))
    return found


class _Fields:
    """The fields of an object, taken one by one; what is left in the end is wrong."""

    def __init__(self, said: object, where: str) -> None:
        if not isinstance(said, dict) or not all(isinstance(one, str) for one in said):
            raise UsageError("not an object with named fields", key=where)
        self._left, self.where = dict(said), where

    def take(self, name: str, kind: type[Any], *, required: bool = False) -> Any:  # noqa: ANN401 -- JSON
        """One, or None."""
        found = self._left.pop(name, None)
        if found is None and not required:
            return None
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            raise UsageError(f"`{name}` is missing or of the wrong kind", key=self.where)
        return found

    def choose(self, name: str, among: Sequence[str], *, otherwise: str) -> Any:  # noqa: ANN401 -- one of them
        """One of some words."""
        found = self.take(name, str) or otherwise
        if found not in among:
            raise UsageError(f"`{name}` is one of {', '.join(among)}, not {found}", key=self.where)
        return found

    def seconds(self, name: str, otherwise: float) -> float:
        """A length of time."""
        found = self.take(name, object)
        if found is None:
            return otherwise
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if not is_number or not 0 < found <= limits.HOOK_SECONDS_MAX:
            raise UsageError(
                f"`{name}` is a number of seconds, at most {limits.HOOK_SECONDS_MAX:.0f}", key=self.where
            )
        return float(found)

    def words(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        """A list of texts."""
        found = self.take(name, list, required=required) or []
        if not all(isinstance(one, str) for one in found) or (required and not found):
            raise UsageError(f"`{name}` is a list of texts", key=self.where)
        return tuple(found)

    def end(self) -> None:
        """Raise UsageError when anything is left."""
        if self._left:
            raise UsageError(f"not known: {', '.join(sorted(self._left))}", key=self.where)


def _parse_hook(said: object, where: str, *, is_of_file: bool) -> Hook:
    fields = _Fields(said, where)
    name = fields.take("name", str, required=True)
    if not _NAME.fullmatch(name):
        raise UsageError(f"not a name: {name}", key=where)
    selector = fields.take("selector", dict)
    if selector is not None and not (selector and all(isinstance(one, str) for one in selector.values())):
        raise UsageError("`selector` is an object of labels", key=where)
    claims = fields.words("claims") if is_of_file else ()
    hook = Hook(
        name=name,
        container=fields.take("container", str),
        selector=selector,
        on_multiple=fields.choose("on_multiple", ("error", "all"), otherwise="error"),
        claims=claims,
        pre=_parse_command(fields.take("pre", dict), f"{where}, pre", on_failure="abort"),
        quiesce=_parse_quiesce(fields.take("quiesce", dict), f"{where}, quiesce"),
        post=_parse_command(fields.take("post", dict), f"{where}, post", on_failure="retry"),
    )
    fields.end()
    if hook.pre is None and hook.quiesce is None:
        raise UsageError("a hook has `pre`, or `quiesce`, or both", key=where)
    return hook


def _parse_command(said: object, where: str, *, on_failure: str) -> Command | None:
    if said is None:
        return None
    fields = _Fields(said, where)
    made = Command(**_common(fields, on_failure))
    fields.end()
    return made


def _parse_quiesce(said: object, where: str) -> Quiesce | None:
    if said is None:
        return None
    fields = _Fields(said, where)
    made = Quiesce(
        **_common(fields, "abort"),
        ready=fields.take("ready", str) or "frozen",
        lease_seconds=fields.seconds("lease", limits.HOOK_LEASE_SECONDS),
    )
    fields.end()
    return made


def _common(fields: _Fields, on_failure: str) -> dict[str, Any]:
    chosen = fields.choose("on_failure", ("abort", "continue", "retry"), otherwise=on_failure)
    return {
        "argv": fields.words("command", required=True),
        "seconds": fields.seconds("timeout", limits.HOOK_SECONDS),
        "on_failure": chosen,
        "tries": limits.HOOK_TRIES if chosen == "retry" else 1,
    }
