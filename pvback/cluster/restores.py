"""The kind `Restore`: what somebody wants in a claim, and what has become of it. Pure.

The snapshot is chosen once and pinned in the status, before the first byte is written: whatever is backed up
or restored afterwards, all claims of one Restore get the same. The status is written by one change after
another, each of which says what it found: see `ops/claim_telling.py`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pvback.cluster.kinds import RESTORE, Body
from pvback.errors import UsageError

__all__ = [
    "ClaimState",
    "Wish",
    "parse_wish",
    "restore_definition",
    "state_of",
    "with_snapshot",
    "with_state",
]

_FAILED = ("Failed", "NotFilled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a Restore asks for.

    Attributes:
        claim: The claim that was backed up, of the Restore's namespace; None: `snapshot` says it all.
        snapshot: An id, or the beginning of one, of a snapshot of any claim of that namespace.
        as_of: The newest snapshot of the claim that is not later.
        accepts_partial: Whether a claim is given out although files could not be restored.
        is_privileged: Whether the mover runs as root, where the namespace allows it.
        pinned: The id of the snapshot that was chosen.
    """

    claim: str | None
    snapshot: str | None
    as_of: datetime | None
    accepts_partial: bool
    is_privileged: bool
    pinned: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimState:
    """How far a claim is.

    Attributes:
        uid: Of the claim: another one of its name begins anew.
        phase: `Waiting`, `Restoring`, `Binding`, `Restored`, `Failed`, or `NotFilled`.
        message: Why, in words.
        volume: The volume that was filled for it, from before it is the claim's.
    """

    uid: str
    phase: str
    message: str = ""
    volume: str = ""


def parse_wish(body: Body) -> Wish:
    """What it asks for. Raises UsageError for what the definition's rules let nobody write."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    source = spec.get("source") or {}
    claim, snapshot, as_of = source.get("claim"), source.get("snapshot"), source.get("asOf")
    where = f"Restore {body['metadata']['namespace']}/{body['metadata']['name']}"
    if (claim is None) == (snapshot is None):
        raise UsageError("exactly one of `claim` and `snapshot` is to be named", key=where)
    if as_of is not None and claim is None:
        raise UsageError("`asOf` goes with `claim`", key=where)
    try:
        moment = None if as_of is None else datetime.fromisoformat(str(as_of))
    except ValueError as exc:
        raise UsageError(f"no time: {as_of}", key=where) from exc
    if moment is not None and moment.tzinfo is None:
        raise UsageError(f"a time without a zone: {as_of}", key=where)
    return Wish(
        claim=claim,
        snapshot=snapshot,
        as_of=moment,
        accepts_partial=bool(spec.get("acceptPartial")),
        is_privileged=bool(spec.get("privileged")),
        pinned=status.get("snapshot"),
    )


def state_of(restore: Body | None, claim: Body) -> ClaimState | None:
    """What the status says of a claim; None: nothing, or of another one of its name."""
    found = ((restore or {}).get("status") or {}).get("claims") or ()
    metadata = claim["metadata"]
    for one in found:
        if one.get("name") == metadata["name"] and one.get("uid") == metadata["uid"]:
            words = {name: str(one.get(name) or "") for name in ("uid", "phase", "message", "volume")}
            return ClaimState(**words)
    return None


def with_snapshot(status: Body, facts: Mapping[str, str], *, now: str) -> dict[str, Any]:
    """A status with the snapshot that is chosen: its `snapshot`, `source` and `taken`."""
    made = copy.deepcopy(dict(status))
    made.update(facts)
    message = f"snapshot {facts['snapshot']} of {facts['source']}, as of {facts['taken']}"
    _set_condition(made, "Resolved", "True", why=("Pinned", message), now=now)
    return made


def with_state(status: Body, name: str, *, state: ClaimState | None, now: str) -> dict[str, Any]:
    """A status that says how far a claim is; None: it is not there any more."""
    made = copy.deepcopy(dict(status))
    others = [one for one in made.get("claims") or () if one.get("name") != name]
    if state is not None:
        told = {"message": state.message, "volume": state.volume}
        told = {field: words for field, words in told.items() if words}
        others.append({"name": name, "uid": state.uid, "phase": state.phase, **told})
    made["claims"] = sorted(others, key=lambda one: str(one["name"]))
    made["phase"] = _phase_of(made["claims"])
    failed = next((one for one in made["claims"] if one["phase"] in _FAILED), None)
    made["message"] = f"{failed['name']}: {failed.get('message', '')}" if failed else ""
    if "snapshot" not in made and failed is not None:
        _set_condition(made, "Resolved", "False", why=("Failed", made["message"]), now=now)
    is_whole = made["phase"] == "Restored"
    why = (made["phase"], made["message"])
    _set_condition(made, "Restored", "True" if is_whole else "False", why=why, now=now)
    return made


def _phase_of(claims: list[dict[str, Any]]) -> str:
    """Of all: the one that somebody has to look at is the first to be told."""
    phases = {one["phase"] for one in claims}
    if phases & set(_FAILED):
        return "Failed"
    if phases & {"Restoring", "Binding"}:
        return "Restoring"
    return "Restored" if phases == {"Restored"} else "Pending"


def _set_condition(status: dict[str, Any], kind: str, value: str, *, why: tuple[str, str], now: str) -> None:
    before: Mapping[str, Any] = next(
        (one for one in status.get("conditions") or () if one.get("type") == kind), {}
    )
    since = before.get("lastTransitionTime", now) if before.get("status") == value else now
    made = {
        "type": kind,
        "status": value,
        "reason": why[0],
        "message": why[1],
        "lastTransitionTime": since,
    }
    others = [one for one in status.get("conditions") or () if one.get("type") != kind]
    status["conditions"] = sorted([*others, made], key=lambda one: str(one["type"]))


_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_CLAIM = {
    "type": "object",
    "required": ["name", "uid", "phase"],
    "properties": {"name": _TEXT, "uid": _TEXT, "phase": _TEXT, "message": _TEXT, "volume": _TEXT},
}
_CONDITION = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": _TEXT,
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": _TEXT,
        "message": _TEXT,
        "lastTransitionTime": _TIME,
    },
}
_SOURCE = {
    "type": "object",
    "description": "What to restore: a claim of this namespace as it was backed up, or one snapshot of one.",
    "properties": {
        "claim": {"type": "string", "minLength": 1, "maxLength": 253},
        "snapshot": {"type": "string", "pattern": "^[0-9a-f]{4,32}$"},
        "asOf": {**_TIME, "description": "The newest snapshot of the claim that is not later."},
    },
    "x-kubernetes-validations": [
        {
            "rule": "has(self.claim) != has(self.snapshot)",
            "message": "exactly one of claim and snapshot is to be named",
        },
        {"rule": "!has(self.asOf) || has(self.claim)", "message": "asOf goes with claim"},
    ],
}
_SPEC = {
    "type": "object",
    "required": ["source"],
    "properties": {
        "source": _SOURCE,
        "acceptPartial": {
            "type": "boolean",
            "description": "Give the claim out although files could not be restored.",
        },
        "privileged": {
            "type": "boolean",
            "description": "The mover runs as root, where the namespace's owner has allowed it.",
        },
    },
    "x-kubernetes-validations": [
        {"rule": "self == oldSelf", "message": "a Restore does not change: make another one"}
    ],
}
_STATUS = {
    "type": "object",
    "properties": {
        "phase": _TEXT,
        "message": _TEXT,
        "snapshot": _TEXT,
        "source": _TEXT,
        "taken": _TIME,
        "claims": {
            "type": "array",
            "items": _CLAIM,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "conditions": {
            "type": "array",
            "items": _CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    },
}


def restore_definition() -> dict[str, Any]:
    """The specification of the CustomResourceDefinition."""
    columns = [("Phase", "phase"), ("Snapshot", "snapshot"), ("As-of", "taken"), ("Message", "message")]
    version = {
        "name": RESTORE.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": title, "type": "string", "jsonPath": f".status.{field}"} for title, field in columns
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "What pvback puts into claims that name it as their dataSourceRef.",
                "required": ["spec"],
                "properties": {"spec": _SPEC, "status": _STATUS},
            }
        },
    }
    return {
        "group": RESTORE.group,
        "scope": "Namespaced",
        "names": {
            "kind": RESTORE.name,
            "listKind": f"{RESTORE.name}List",
            "plural": RESTORE.plural,
            "singular": RESTORE.name.lower(),
        },
        "versions": [version],
    }
