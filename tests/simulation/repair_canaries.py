"""Canaries of repairs; with this module all canaries are there."""

from dataclasses import replace
from typing import Any

from pvback import limits
from pvback.errors import ObjectNotFound
from pvback.repository import (
    barrier,
    finishing,
    gcstate,
    mend_lost_state,
    mend_snapshots,
    mend_state,
    registers,
    session,
    sweep,
)
from pvback.repository.gcstate import GcState
from pvback.repository.registers import Register, RegisterState
from pvback.repository.sealed import ScopeObjects
from pvback.repository.successors import Successors
from tests.simulation import mending
from tests.simulation.bucket import Rates
from tests.simulation.canaries import CANARIES, Patch, canary

__all__ = ["CANARIES"]


@canary("repairs", seeds_max=1500)
def revived_without_a_look(patch: Patch) -> None:
    """A register that was made anew is reported whatever a prune has made of it."""
    patch.setattr(mend_snapshots, "_look_again", lambda _tools, _problem: None)


@canary("repairs", seeds_max=1500)
def revived_with_the_old_parts(patch: Patch) -> None:
    """A register that was made anew rests on a reference set that a prune may be about to remove."""
    patch.setattr(mend_snapshots, "_write_refs", lambda _tools, _problem: "nothing done")


@canary("repairs", seeds_max=1500)
def revived_beside_a_cycle(patch: Patch) -> None:
    """A cycle that does not know of the snapshot goes on."""
    patch.setattr(mend_snapshots, "abandoned", lambda state: state)


@canary("repairs", seeds_max=1500)
def revived_unseen(patch: Patch) -> None:
    """A register is made for whatever there is a record of."""
    patch.setattr(mend_snapshots, "_require_whole", lambda *_facts: None)


@canary("repairs", seeds_max=1500, shows="DamagedError")
def lists_of_this_generation_removed(patch: Patch) -> None:
    """A prune takes lists that a repair has made for a version of the same generation for forgotten ones."""

    def is_over(name: str, n: int) -> bool:
        generation, _, what = name.partition("-")
        return bool(what) and int(generation, 16) < n + (what.partition("-")[0] in gcstate.LIST_FIELDS)

    patch.setattr(sweep, "_is_over", is_over)


@canary("repairs", seeds_max=1500)
def abandoned_with_its_dead(patch: Patch) -> None:
    """Who abandons a cycle forgets what the cycles before it have named dead."""

    def abandoned(state: GcState) -> GcState:
        return replace(state, is_condemning=False, condemned=frozenset(), dead=frozenset())

    for module in (mend_snapshots, mend_state):
        patch.setattr(module, "abandoned", abandoned)


@canary("repairs", seeds_max=1500, shows="W:")
def successors_stay(patch: Patch) -> None:
    """Nobody looks for others once its own successor of a damaged snapshot is committed."""
    patch.setattr(mending, "choose_successor", lambda *_facts: Successors(chosen=None, extra=()))


@canary("reopened")
def open_registers_hide_records(patch: Patch) -> None:
    """A session that prune has waited for is fenced, whether the record of its snapshot is there or not."""
    patch.setattr(barrier, "find_record", lambda _objects, _register: None)


@canary("reopened", seeds_max=6000)
def records_looked_for_too_early(patch: Patch) -> None:
    """What was fenced stays so, whatever its session had done after the look for its record."""
    real = finishing.find_record

    def find_record(objects: ScopeObjects, register: Register) -> Any:
        return None if register.state is RegisterState.FENCED else real(objects, register)

    patch.setattr(barrier, "find_record", find_record)


@canary("reopened-state")
def lost_state_hides_records(patch: Patch) -> None:
    """The same by who makes `gc/state` anew."""
    patch.setattr(mend_lost_state, "find_record", lambda _objects, _register: None)


@canary("reopened")
def committed_without_its_parts(patch: Patch) -> None:
    """Who commits in a session's place does not say what the snapshot needs."""
    real = finishing.StoredRecord.committed
    patch.setattr(finishing.StoredRecord, "committed", lambda self, old: replace(real(self, old), refs=()))


@canary("lost-state", rates=Rates(late=0.3), seeds_max=1500)
def lost_state_without_doubt(patch: Patch) -> None:
    """Packs that are there are believed, though requests to delete them may be under way."""
    patch.setattr(mend_lost_state._Repair, "_doubtful", lambda *_facts: frozenset())


@canary("lost-state", seeds_max=1500)
def lost_state_without_a_fence(patch: Patch) -> None:
    """Sessions go on when `gc/state` is made anew, and report without a look; one of the two is enough."""
    _no_fence(patch)
    patch.setattr(session.WriterSession, "_require_validity", lambda _self: None)


@canary("lost-state", seeds_max=1500)
def lost_state_of_this_generation(patch: Patch) -> None:
    """The generation that names tell last is used once more."""
    patch.setattr(limits, "GENERATIONS_WITHOUT_TRACE", 0)


@canary("lost-state-kills", seeds_max=9000)
def runs_of_a_killed_repair_count(patch: Patch) -> None:
    """What a repair has left that was killed is believed under another one's `gc/state`."""
    patch.setattr(GcState, "is_of_lost_repair", lambda _self, _name: False)


def _no_fence(patch: Patch) -> None:
    def end_session(self: mend_lost_state._Repair, name: str) -> Any:
        try:
            return registers.read_register(self._objects, name).register, False
        except ObjectNotFound:
            return None

    patch.setattr(mend_lost_state._Repair, "_end_session", end_session)
