"""Running the hooks of one claim: pre, quiesce until the copy is cut, post whatever happens.

Guarantees: before a command is started, what undoes it is written down; who was asked to hold still is let go
before anything else is waited for; post runs once pre or quiesce was attempted, also after a failure and when
stopping was asked for; what does not undo itself is told aloud, and never as a success.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pvback import limits
from pvback.cluster.claim_runs import ClaimRun
from pvback.cluster.exec import ExecTarget, ended_well, run_command
from pvback.cluster.hook_debts import DEBTS, Debt, as_text, run_post
from pvback.cluster.hooks import Command, Hook, HookTarget, PlannedHook, Quiesce
from pvback.cluster.quiescing import Quiescence
from pvback.errors import ClusterError, Interrupted
from pvback.runtime import Cancel, Clock

if TYPE_CHECKING:
    from pvback.cluster.client import Cluster

__all__ = ["HookResult", "HookRun", "HookWork"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HookResult:
    """What one step of a hook did in one pod.

    Attributes:
        step: `pre`, `quiesce` (until it held), `thaw` (until it had undone itself) or `post`.
        error: Why it failed; None where it did not.
        seconds: Until its end, all attempts together; of `thaw`, how long it held.
    """

    hook: str
    pod: str
    step: str
    error: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HookWork:
    """What hooks need. `warn` is told at once what did not undo itself."""

    cluster: "Cluster"
    run: ClaimRun
    clock: Clock
    cancel: Cancel
    warn: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    hook: Hook
    target: HookTarget
    since: float
    quiescence: Quiescence


class HookRun:
    """The hooks of one run on a claim."""

    def __init__(self, work: HookWork, planned: Sequence[PlannedHook], *, results: list[HookResult]) -> None:
        self.results = results
        self.failures: list[str] = []
        """What did not undo itself, in words."""
        self.is_quiesced = False
        """Whether every application that had to holds still, or did until it was let go."""
        self.planned = [*planned]
        """In order; what freezes a file system comes last, when its pod is there."""
        self._work = work
        self._held: list[_Held] = []
        self._debts: list[Debt] = []

    @property
    def is_holding(self) -> bool:
        """Whether somebody holds still for us."""
        return bool(self._held)

    def begin(self) -> None:
        """Run pre of all hooks, then quiesce of all. Raises ClusterError where that fails, Interrupted."""
        for one in self.planned:
            for target in one.targets:
                if one.hook.pre is not None:
                    self._run_pre(one.hook, target, command=one.hook.pre)
        wanted = [one for one in self.planned if one.hook.quiesce is not None]
        held = [
            (one.hook, self._hold(one.hook, target, quiesce=one.hook.quiesce))
            for one in wanted
            for target in one.targets
            if one.hook.quiesce is not None
        ]
        own = [is_held for hook, is_held in held if not hook.is_built_in]
        self.is_quiesced = bool(own) and all(own)

    def check(self) -> None:
        """Raise ClusterError when somebody who was to hold still may not do so any more."""
        for one in self._held:
            try:
                one.quiescence.check()
            except ClusterError as exc:
                self.is_quiesced = False
                self._note(one.hook, one.target, step="quiesce", error=exc.what, since=one.since)
                raise self._failure(
                    one.hook, one.target, f"quiesce did not hold until the copy was made: {exc.what}"
                ) from exc

    def release(self) -> None:
        """The copy is made. Raises ClusterError when somebody did not hold still until now."""
        self.check()
        self.let_go()

    def let_go(self) -> None:
        """Let everybody go on: first what is built in. What does not undo itself has its post hook at once.

        An application that goes on while its file system is frozen would only wait.
        """
        for is_built_in in (True, False):
            chosen = [one for one in reversed(self._held) if one.hook.is_built_in is is_built_in]
            for one in chosen:
                one.quiescence.ask()
            self._end(chosen)

    def _end(self, chosen: Sequence[_Held]) -> None:
        """Wait until they have undone themselves."""
        for one in chosen:
            self._held.remove(one)
            if one.quiescence.is_lost:
                one.quiescence.close()
                continue
            try:
                one.quiescence.end()
            except ClusterError as exc:
                self._note(one.hook, one.target, step="thaw", error=exc.what, since=one.since)
                self._tell(f"{_place(one.hook, one.target)}: quiesce did not undo itself: {exc.what}")
                for debt in [two for two in self._debts if _is_of(two, one.hook, one.target)]:
                    self._pay(debt)
            else:
                self._note_thaw(one)

    def finish(self) -> None:
        """Let everybody go on, and run the post hooks that are owed, the last first."""
        self.let_go()
        for debt in reversed(self._debts.copy()):
            self._pay(debt)

    def _run_pre(self, hook: Hook, target: HookTarget, *, command: Command) -> None:
        def act() -> None:
            where = self._where(target)
            end = run_command(
                self._work.cluster,
                where,
                argv=command.argv,
                seconds=command.seconds,
                clock=self._work.clock,
                cancel=self._work.cancel,
            )
            ended_well(end, what=str(where))

        self._attempt(hook, target, step="pre", command=command, act=act)

    def _hold(self, hook: Hook, target: HookTarget, *, quiesce: Quiesce) -> bool:
        """Whether it holds; where it does not, that may be allowed."""

        def act() -> None:
            since = self._work.clock.monotonic()
            begun = Quiescence.begin(
                self._work.cluster,
                self._where(target),
                quiesce=quiesce,
                clock=self._work.clock,
                cancel=self._work.cancel,
            )
            self._held.append(_Held(hook=hook, target=target, since=since, quiescence=begun))

        return self._attempt(hook, target, step="quiesce", command=quiesce, act=act)

    def _attempt(
        self, hook: Hook, target: HookTarget, *, step: str, command: Command, act: Callable[[], None]
    ) -> bool:
        """Try as often as it is allowed. Raises ClusterError where failing is not allowed, Interrupted."""
        since = self._work.clock.monotonic()
        self._owe(hook, target)
        why = ClusterError("not tried")
        for count in range(command.tries):
            try:
                if count:
                    self._work.clock.sleep(limits.HOOK_RETRY_SECONDS, self._work.cancel)
                self._work.cancel.check()
                act()
            except ClusterError as exc:
                why = exc
            except Interrupted:
                self._note(hook, target, step=step, error="interrupted", since=since)
                raise
            else:
                self._note(hook, target, step=step, error=None, since=since)
                return True
        self._note(hook, target, step=step, error=why.what, since=since)
        if command.on_failure != "continue":
            raise self._failure(hook, target, f"{step} failed: {why.what}", hint=why.hint)
        self._work.warn(f"{_place(hook, target)}: {step} failed, and the backup goes on: {why.what}")
        return False

    def _owe(self, hook: Hook, target: HookTarget) -> None:
        """Write down what has to be run in the end. Raises ClusterError: then nothing may be started."""
        if hook.post is None or any(_is_of(one, hook, target) for one in self._debts):
            return
        debt = Debt(
            hook=hook.name,
            pod=target.pod,
            uid=target.uid,
            container=target.container,
            argv=hook.post.argv,
            seconds=hook.post.seconds,
        )
        self._work.run.record({DEBTS: as_text([*self._debts, debt])})
        self._debts.append(debt)

    def _pay(self, debt: Debt) -> None:
        """Run a post hook, and strike it off whether it succeeded or not: this run has done what it can."""
        hook = next(one.hook for one in self.planned if one.hook.name == debt.hook)
        assert hook.post is not None, "only hooks with post owe one"
        target = HookTarget(pod=debt.pod, uid=debt.uid, container=debt.container)
        since = self._work.clock.monotonic()
        why: str | None = None
        for count in range(hook.post.tries):
            if count:
                self._work.clock.sleep(limits.HOOK_RETRY_SECONDS)
            try:
                run_post(
                    self._work.cluster, debt, namespace=self._work.run.claim.namespace, clock=self._work.clock
                )
            except ClusterError as exc:
                why = exc.what
            else:
                why = None
                break
        self._note(hook, target, step="post", error=why, since=since)
        if why is not None and hook.post.on_failure == "continue":
            self._work.warn(f"{_place(hook, target)}: post failed: {why}")
        elif why is not None:
            self._tell(f"{_place(hook, target)}: post failed: {why}")
        self._debts.remove(debt)
        try:
            self._work.run.record({DEBTS: as_text(self._debts)})
        except ClusterError as exc:
            # Then it is run once more by who cleans up after us.
            self._work.warn(
                f"{_place(hook, target)}: that post has run could not be written down: {exc.what}"
            )

    def _tell(self, what: str) -> None:
        self.failures.append(what)
        self._work.warn(what)

    def _note(self, hook: Hook, target: HookTarget, *, step: str, error: str | None, since: float) -> None:
        seconds = round(self._work.clock.monotonic() - since, 3)
        self.results.append(
            HookResult(hook=hook.name, pod=target.pod, step=step, error=error, seconds=seconds)
        )

    def _note_thaw(self, one: _Held) -> None:
        """What is built in knows better than we how long it held: it says so in the end."""
        self._note(one.hook, one.target, step="thaw", error=None, since=one.since)
        if one.hook.is_built_in:
            with contextlib.suppress(ValueError):
                self.results[-1] = replace(self.results[-1], seconds=float(one.quiescence.last_words))

    def _failure(self, hook: Hook, target: HookTarget, what: str, *, hint: str | None = None) -> ClusterError:
        return ClusterError(f"{_place(hook, target)}: {what}", key=str(self._work.run.claim), hint=hint)

    def _where(self, target: HookTarget) -> ExecTarget:
        return ExecTarget(
            namespace=self._work.run.claim.namespace, pod=target.pod, container=target.container
        )


def _place(hook: Hook, target: HookTarget) -> str:
    return f"hook {hook.name} in pod {target.pod}, container {target.container}"


def _is_of(debt: Debt, hook: Hook, target: HookTarget) -> bool:
    return (debt.hook, debt.pod, debt.container) == (hook.name, target.pod, target.container)
