"""Mending `config` and key objects from their copies, and copies from their firsts."""

from collections.abc import Sequence
from dataclasses import dataclass

from pvback.errors import DamagedError
from pvback.repository.copies import CopyProblem
from pvback.repository.keys import require_owner
from pvback.repository.repository import RepositoryAccess

__all__ = ["MendedCopies", "find_copy_problems", "repair_copies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MendedCopies:
    """What was done, one line each, and what is lost."""

    mended: Sequence[str]
    lost: Sequence[CopyProblem]


def find_copy_problems(access: RepositoryAccess) -> list[CopyProblem]:
    """What is wrong with `config`, key objects and their copies. Reads all of them.

    Only an owner's key proves other principals' objects; with another one, what parses is believed.
    """
    return access.twins.problems()


def repair_copies(access: RepositoryAccess) -> MendedCopies:
    """Write anew what is missing, damaged or behind, from the better one of each pair. Safe to repeat.

    Owners only: WrongKeyError. Removed principals do not come back: whoever `config` revokes is left out.
    Raises ConflictError when somebody else changes the same objects all the time, StorageError.
    """
    require_owner(access)
    mended, lost = [], []
    twins = access.twins
    for key in twins.names():
        try:
            done = twins.mend(key)
        except DamagedError as exc:
            lost.append(CopyProblem(key, exc.what, is_lost=True))
            continue
        if done is not None:
            mended.append(done)
    return MendedCopies(mended=mended, lost=lost)
