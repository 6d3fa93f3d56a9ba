"""The judge: what has to hold after every applied request, computed from the stored bytes alone.

Nothing of the code under test is used: names, seals and bodies are taken apart here once more, and validity
is counted again. The invariants are those of the protocol: I1 every usable entry names a blob that is there;
S1/S2 everything that a live snapshot needs has one; S5 what was reported saved stays; M numbers and states
only move forward, and no name has two contents; S3/S4 when all is over nothing is left that nobody needs.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tests.simulation.bucket import Bucket
from tests.simulation.ledger import Ledger
from tests.simulation.parts import chunk_id

__all__ = ["Oracle"]

_LIVE = ("COMMITTED", "FORGOTTEN")
_NEXT = {
    "OPEN": ("OPEN", "COMMITTED", "FENCED"),
    "COMMITTED": ("COMMITTED", "FORGOTTEN"),
    "FORGOTTEN": ("FORGOTTEN", "COMMITTED", "DEAD"),
    "DEAD": ("DEAD",),
    # By who has found its record.
    "FENCED": ("FENCED", "COMMITTED"),
}
_NEXT_TIMED = _NEXT | {"FENCED": ("FENCED", "OPEN", "COMMITTED")}
"""Without conditions a session may write over its fence; then it is looked at again, after a wait."""
_LISTS = ("condemned", "known", "dead", "base", "roster")


@dataclass(slots=True)
class _State:
    n: int
    floor: int
    phase: str
    lists: dict[str, frozenset[str]]


class Oracle:
    """Follows a bucket; the first violation is in `failure`."""

    def __init__(
        self, bucket: Bucket, ledger: Ledger, *, prefix: str, grace_seconds: float, is_timed: bool = False
    ) -> None:
        self.failure: str | None = None
        self.check_count = 0
        self._bucket = bucket
        self._ledger = ledger
        self._prefix = prefix
        self._grace_seconds = grace_seconds
        self._is_timed = is_timed
        self._next = _NEXT_TIMED if is_timed else _NEXT
        self._packs: dict[str, list[tuple[str, int]]] = {}
        self._false: dict[str, set[str]] = {}
        """Ids under which a pack holds something else."""
        self._runs: dict[str, list[tuple[str, str, int, int]]] = {}
        self._refs: dict[str, list[str]] = {}
        self._registers: dict[str, dict[str, Any]] = {}
        self._last: dict[str, tuple[str, float]] = {}
        """The newest state of each register that ever was, and when it was written."""
        self._contents: dict[str, bytes] = {}
        self._state: _State | None = None
        self._nonce = ""
        bucket.on_change = self.changed

    # --- following

    def changed(self, key: str) -> None:
        """One object came, changed or went."""
        if self.failure is not None:
            return
        folder, _, rest = key.removeprefix(self._prefix).partition("/")
        last = rest.rpartition("/")[2]
        entry = self._bucket.objects.get(key)
        # A prune learns the store's time from an empty object.
        body = None if entry is None or not entry.data else self._parse(key, entry.data)
        if entry is not None and folder != "snapshots" and rest != "state":
            self._expect_same(key, entry.data)
        if folder in ("data", "meta"):
            self._put(self._packs, last, body and [(one, len(text)) for one, text in body["blobs"]])
            self._put(
                self._false, last, body and {one for one, text in body["blobs"] if one != chunk_id(text)}
            )
        elif folder == "index":
            self._put(self._runs, last, body and [tuple(one) for one in body["entries"]])
        elif folder == "refs":
            self._put(self._refs, f"refs/{rest}", body and body["ids"])
        elif folder == "snapshots":
            self._follow_register(last, body, entry.seconds if entry else 0.0)
        elif rest == "state":
            self._follow_state(body)
        if entry is None or folder in ("index", "snapshots", "gc"):
            self.check()

    def _parse(self, key: str, data: bytes) -> Any:
        head, _, body = data.partition(b"\n")
        if head.partition(b" ")[2].decode() != key.removeprefix(self._prefix):
            self._fail(f"{key} holds another object's bytes")
        return json.loads(body)

    def _expect_same(self, key: str, data: bytes) -> None:
        if self._contents.setdefault(key, data) != data:
            self._fail(f"M: {key} has two contents")

    @staticmethod
    def _put(place: dict[str, Any], name: str, value: Any) -> None:
        if value is None:
            place.pop(name, None)
        else:
            place[name] = value

    def _follow_register(self, name: str, body: Any, seconds: float) -> None:
        old = self._registers.get(name)
        self._put(self._registers, name, body)
        if body is None:
            return
        state = body["state"]
        if name in self._last and self._is_valid(name, "roster"):
            before, since = self._last[name]
            is_back = name[17:] in self._ledger.reopened and (before, state) == ("COMMITTED", "OPEN")
            is_ended = state == "COMMITTED" and before == "FENCED" and not self._is_timed
            if is_ended and old is not None and old["runs"] != body["runs"]:
                # Who finds a record knows no runs: this is its session, which has overwritten its fence.
                self._fail(f"M: the session of register {name} commits although it was fenced")
            if state not in self._next[before] and not is_back:
                self._fail(f"M: register {name} goes from {before} to {state}")
            if before == "FORGOTTEN" and state == "DEAD" and seconds < since + self._grace_seconds:
                self._fail(f"register {name} dies within its grace")
        if name not in self._last or self._last[name][0] != state:
            self._last[name] = (state, seconds)

    def _follow_state(self, body: Any) -> None:
        if body is None:
            if not self._ledger.is_state_lost:
                self._fail("gc/state is gone")
            self._nonce = ""
            return
        lists = {field: self._list(body[field]) for field in _LISTS}
        new, old = _State(body["n"], body["floor"], body["phase"], lists), self._state
        self._state = new
        before, self._nonce = self._nonce, body["nonce"]
        is_again = body["nonce"] == before
        if old is None or (is_again and new == old and self._is_timed):
            return
        if new == old and self._ledger.lost:
            return  # a repair has forgotten marks
        if not before and self._ledger.is_state_lost:
            if (new.phase, new.n) != ("IDLE", new.floor) or new.n <= old.n:
                self._fail(f"M: gc/state {old.n} was lost, and made anew as {new.phase} {new.n}")
            return
        step = (old.phase, new.phase, new.n - old.n)
        if step not in {("IDLE", "CONDEMNED", 1), ("CONDEMNED", "IDLE", 0), ("IDLE", "IDLE", 0)}:
            self._fail(f"M: gc/state goes from {old.phase} {old.n} to {new.phase} {new.n}")
        if new.floor < old.floor or new.floor > new.n:
            self._fail(f"M: the floor goes from {old.floor} to {new.floor}")

    def _list(self, value: Any) -> frozenset[str]:
        if isinstance(value, list):
            return frozenset(value)
        entry = self._bucket.objects.get(self._prefix + value["name"])
        if entry is None or hashlib.blake2b(entry.data, digest_size=32).hexdigest() != value["hash"]:
            self._fail(f"gc/state names {value['name']}, which is not there")
            return frozenset()
        return frozenset(json.loads(entry.data.partition(b"\n")[2]))

    # --- judging

    def check(self) -> None:
        """I1, S1, S2, S5."""
        self.check_count += 1
        if self._state is None:
            return
        usable = self._usable()
        for name, body in self._registers.items():
            if body["state"] in _LIVE and self._is_valid(name, "roster"):
                self._check_snapshot(name, body, usable)
        for snapshot in self._ledger.saved:
            found = [
                (name, body["state"])
                for name, body in self._registers.items()
                if name[17:] == snapshot and self._is_valid(name, "roster")
            ]
            # Two repairs at once may make two registers of one snapshot.
            if not found or any(state != "COMMITTED" for _, state in found):
                self._fail(f"S5: snapshot {snapshot} was reported saved, and is {found or 'gone'}")

        for snapshot, before in self._ledger.reopened.items():
            self._check_reopened(snapshot, before, usable)

    def _check_reopened(self, snapshot: str, before: dict[str, Any], usable: set[str]) -> None:
        """What came back as it was created is whole, and counts: fenced, it is committed by who did that."""
        found = [
            (name, body["state"])
            for name, body in self._registers.items()
            if name[17:] == snapshot and self._is_valid(name, "roster")
        ]
        if not found or any(state not in ("OPEN", "FENCED", "COMMITTED") for _, state in found):
            self._fail(f"S5: snapshot {snapshot} was reported saved, came back, and is {found or 'gone'}")
        for name, state in found:
            if state != "COMMITTED":
                self._check_snapshot(name, before, usable)

    def _usable(self) -> set[str]:
        assert self._state is not None, "asked after the first state"
        dead = self._state.lists["dead"]
        usable = set()
        for name, entries in self._runs.items():
            if not self._is_valid(name, "base"):
                continue
            for one, pack, index, length in entries:
                if pack in dead:
                    continue
                blobs = self._packs.get(pack)
                if blobs is None:
                    self._fail(f"I1: run {name} lists pack {pack}, which is gone")
                elif not 0 <= index < len(blobs) or blobs[index] != (one, length):
                    self._fail(f"I1: run {name} lists what pack {pack} does not hold")
                if one not in self._false.get(pack, ()):
                    usable.add(one)
        return usable

    def _check_snapshot(self, name: str, body: dict[str, Any], usable: set[str]) -> None:
        is_lying = name[17:] in self._ledger.lying
        for ids in self._needs(name, body):
            for one in ids:
                if one not in usable and not is_lying:
                    self._fail(f"S1: snapshot {name} needs {one[:8]}, and no usable entry has it")
        if not self._has_record(name, body):
            self._fail(f"S1: the record of snapshot {name} is gone")

    def _has_record(self, name: str, body: dict[str, Any]) -> bool:
        """Whether it is there, or its copy in a register that was made anew."""
        record = body["record"]
        if record is None or name[17:] not in self._ledger.lost:
            return record is not None and self._prefix + record["name"] in self._bucket.objects
        twin = base64.b64decode(body.get("twin", ""))
        return bool(hashlib.blake2b(twin, digest_size=32).hexdigest() == record["hash"])

    def _needs(self, name: str, body: dict[str, Any]) -> list[list[str]]:
        found = []
        for part in body["refs"]:
            if part["name"] not in self._refs:
                if name[17:] in self._ledger.unsettled:
                    continue
                self._fail(f"S1: the reference set {part['name']} of snapshot {name} is gone")
            else:
                found.append(self._refs[part["name"]])
        return found

    def _is_valid(self, name: str, field: str) -> bool:
        assert self._state is not None, "asked after the first state"
        return int(name[:16], 16) >= self._state.floor or name in self._state.lists[field]

    def _fail(self, what: str) -> None:
        if self.failure is None:
            self.failure = what

    # --- the end

    def check_successors(self) -> None:
        """Of what several repairs have written in place of one snapshot, one is listed.

        One that was not listed for a while, as its register was lost, is left to the next repair.
        """
        for damaged, written in self._ledger.successors.items():
            listed = {
                name[17:]
                for name, body in self._registers.items()
                if body["state"] == "COMMITTED" and self._is_valid(name, "roster")
            }
            if len((written & listed) - self._ledger.lost - self._ledger.reopened.keys()) > 1:
                self._fail(f"W: {sorted(written & listed)} all stand in place of {damaged}")

    def check_drained(self) -> None:
        """S3, S4: only what live snapshots need is left."""
        self.check()
        assert self._state is not None, "there was one from the beginning"
        expected, needed = self._expected()
        used = {pack for pack, blobs in self._packs.items() if any(one in needed for one, _ in blobs)}
        for key in self._bucket.objects:
            name = key.removeprefix(self._prefix)
            folder, _, rest = name.partition("/")
            if folder in ("data", "meta"):
                if rest[3:] not in used:
                    self._fail(f"S3: pack {rest} is left, and nobody needs it")
            elif folder == "index":
                # What is unused in a pack that is used stays listed: it may be needed again.
                if not self._is_valid(rest, "base") or not any(one[1] in used for one in self._runs[rest]):
                    self._fail(f"S3: run {rest} is left, and nobody needs it")
            elif name not in expected and not self._is_in_the_making(rest) and not self._was_replaced(name):
                self._fail(f"S3: {name} is left")

    def _was_replaced(self, name: str) -> bool:
        """Parts of a reference set that was written once more stay for as long as their snapshot."""
        snapshot = name.removeprefix("refs/").partition("-")[0]
        return snapshot in self._ledger.lost and any(one[17:] == snapshot for one in self._registers)

    def _is_in_the_making(self, rest: str) -> bool:
        """What somebody made for a version that never was goes with the next generation, or the one after."""
        assert self._state is not None, "there was one from the beginning"
        return int(rest.partition("-")[0], 16) - self._state.n in (0, 1)

    def _expected(self) -> tuple[set[str], set[str]]:
        expected, needed = {"gc/state"}, set()
        for name, body in self._registers.items():
            if body["state"] in _LIVE and self._is_valid(name, "roster"):
                expected |= {f"snapshots/{name}"} | _named(body)
                needed |= {one for ids in self._needs(name, body) for one in ids}
        raw = json.loads(self._bucket.objects[self._prefix + "gc/state"].data.partition(b"\n")[2])
        expected |= _named(raw)
        return expected, needed


def _named(value: Any) -> set[str]:
    """All objects that a body names, however deep."""
    if isinstance(value, dict):
        inner = set().union(*map(_named, value.values())) if value else set()
        return inner | ({value["name"]} if "name" in value and "hash" in value else set())
    return set().union(*map(_named, value)) if isinstance(value, list) and value else set()
