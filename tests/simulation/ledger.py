"""What users were told: the promises that the oracle holds the repository to."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Ledger"]


@dataclass(slots=True)
class Ledger:
    """Written by the simulated users the moment that a call of theirs returns."""

    contents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What each snapshot must give back, from before its commit on."""
    saved: set[str] = field(default_factory=set)
    """Reported to be saved, and not asked to be forgotten since."""
    forgetting: dict[str, int] = field(default_factory=dict)
    """How many have asked to forget it and have not heard what became of it, whatever will."""
    asked: set[str] = field(default_factory=set)
    """Somebody has asked to forget these: they are seen from their commit on, before their backup returns."""
    restored_count: int = 0
    given_up: dict[str, int] = field(default_factory=dict)
    """How often somebody ended without success, by the kind of error."""

    happened: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Their registers were lost once, or a repair took them for lost."""
    successors: dict[str, set[str]] = field(default_factory=dict)
    """By snapshot: what repairs have written in its place, that have returned."""
    lying: set[str] = field(default_factory=set)
    """They count, but who made them stored something else."""
    is_state_lost: bool = False
    """`gc/state` was lost once."""
    unsettled: set[str] = field(default_factory=set)
    """Of these, those of which nobody was told since that they are whole."""

    reopened: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Snapshots that were saved, whose registers were lost and came back as they were created -> what they
    were before. No more is wanted of them than that they are whole, and committed in the end.
    """

    @property
    def is_anything_lost(self) -> bool:
        """Whether somebody may find damage."""
        return bool(self.unsettled) or self.is_state_lost

    def report_loss(self, snapshot: str) -> None:
        """Its register is gone; what becomes of it is open."""
        self.saved.discard(snapshot)
        self.reopened.pop(snapshot, None)
        self.lost.add(snapshot)
        self.unsettled.add(snapshot)

    def report_reopened(self, snapshot: str, body: dict[str, Any]) -> None:
        """Its register was lost, and its create came a second time."""
        self.saved.discard(snapshot)
        self.reopened[snapshot] = body

    def begin_reviving(self, snapshot: str) -> None:
        """A repair found its record and no register: what a session stored after it was fenced looks so, too.

        From here on there may be a register with a record that a prune removes as a remnant.
        """
        if snapshot not in self.saved:
            self.lost.add(snapshot)
            self.unsettled.add(snapshot)

    def report_whole(self, snapshot: str) -> None:
        """A repair returned, and said that it is back."""
        self.lost.add(snapshot)
        self.unsettled.discard(snapshot)
        # It was there before the repair returned, and another one may have taken it for one too many.
        self.report_saved(snapshot)

    def report_saved(self, snapshot: str) -> None:
        """A backup returned."""
        if snapshot not in self.asked:
            self.saved.add(snapshot)

    def report_undeleted(self, snapshot: str) -> None:
        """An undelete returned. What others ask at the same time may still come to pass."""
        if not self.forgetting.get(snapshot):
            self.saved.add(snapshot)

    def begin_forgetting(self, snapshot: str) -> None:
        """From here on it may go."""
        self.saved.discard(snapshot)
        self.reopened.pop(snapshot, None)
        self.asked.add(snapshot)
        self.forgetting[snapshot] = self.forgetting.get(snapshot, 0) + 1

    def end_forgetting(self, snapshot: str) -> None:
        """It was, or never will be."""
        self.forgetting[snapshot] -= 1

    def count(self, what: str) -> None:
        """Something happened that a run without it would say nothing of."""
        self.happened[what] = self.happened.get(what, 0) + 1

    def give_up(self, exc: Exception) -> None:
        """Somebody was told that it did not work."""
        name = type(exc).__name__
        self.given_up[name] = self.given_up.get(name, 0) + 1
