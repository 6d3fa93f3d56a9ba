"""What our objects in a cluster are called, and the marks by which they are found again."""

import hashlib
from typing import Final

from pvback.model import Claim

__all__ = [
    "CLAIM",
    "HOOK",
    "LIVES_UNTIL",
    "MANAGED_BY",
    "PRIVILEGED",
    "ROLE",
    "RUN",
    "STOPPED",
    "labels_of",
    "object_name",
    "run_name",
]

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
RUN: Final = "pvback.io/run"
"""The id of the run that made an object."""
ROLE: Final = "pvback.io/role"
CLAIM: Final = "pvback.io/claim"
"""An annotation, for names of claims are longer than labels may be."""
LIVES_UNTIL: Final = "pvback.io/lives-until"
"""On a run's own object: when it is dead unless it says otherwise before."""
HOOK: Final = "hook.pvback.io"
"""Prefix of annotations of claims and pods: `hook.pvback.io/NAME`, a hook as JSON."""
PRIVILEGED: Final = "pvback.io/privileged-movers"
"""Annotation of a namespace whose owner lets movers have one more capability."""

STOPPED: Final = "pvback.io/stopped"
"""Annotation of a workload that was stopped: how many replicas it had, and for which claims."""


def labels_of(run: str, role: str) -> dict[str, str]:
    """The labels that everything of a run carries."""
    return {MANAGED_BY: "pvback", RUN: run, ROLE: role}


def run_name(claim: Claim) -> str:
    """The object that stands for the one run on a claim: who creates it has the claim."""
    return object_name("run", claim.name)


def object_name(role: str, claim: str, *, run: str = "") -> str:
    """A name of at most 63 letters that begins with what people recognize and is never another's."""
    digest = hashlib.sha256(f"{role}/{claim}/{run}".encode()).hexdigest()[:10]
    readable = "".join(one if one.isalnum() else "-" for one in claim.lower())[:35].strip("-")
    return f"pvback-{role}-{readable}-{digest}"
