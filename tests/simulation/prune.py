"""Prune, forget, undelete and merge, straight from the protocol: until the real ones take this place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pvback import datapath
from pvback.errors import (
    ConflictError,
    DamagedError,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    SessionFencedError,
    StorageUnavailable,
)
from pvback.repository.body import dump_body
from pvback.repository.gcstate import GcState, IndexView, list_index, read_gc_state
from pvback.repository.index_work import IndexWork, Marks, Usage
from pvback.repository.layout import Area, ObjectType
from pvback.repository.registers import RegisterState, StoredRegister, read_register, swap_register
from pvback.repository.sealed import Named, ScopeObjects
from pvback.repository.session import WriterSession
from pvback.runtime import Clock, Random

__all__ = ["PruneOptions", "forget_snapshots", "merge_runs", "run_prune", "undelete_snapshots"]

_ALIVE = (RegisterState.COMMITTED, RegisterState.FORGOTTEN)
_CYCLES_MAX = 30


class _Lost(Exception):
    """Another prune has moved on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """What a prune may do; the shares are in [0, 1]."""

    fence_seconds: float
    grace_seconds: float
    condemn_share: float = 0.0
    """Of the packs that are needed, condemned all the same: a mark may be wrong."""
    repack_share: float = 0.0
    """Of the packs that are needed, copied and condemned."""
    lag_seconds: float = 0.0
    is_sparing: bool = True


def run_prune(
    objects: ScopeObjects, work: IndexWork, *, options: PruneOptions, clock: Clock, random: Random
) -> None:
    """One cycle, an unfinished one first. Raises StorageError; DamagedError when something is missing."""
    prune = Prune(objects, work, options=options, clock=clock, random=random)
    for _ in range(_CYCLES_MAX):
        try:
            if prune.go():
                return
        except (_Lost, ObjectNotFound):
            continue
    raise StorageUnavailable("others prune without end")


class Prune:
    """One run of it."""

    def __init__(
        self, objects: ScopeObjects, work: IndexWork, *, options: PruneOptions, clock: Clock, random: Random
    ) -> None:
        self._objects = objects
        self._work = work
        self._options = options
        self._clock = clock
        self._random = random
        self._has_published = False

    def go(self) -> bool:
        """One pass; whether a cycle of our own is done."""
        state = read_gc_state(self._objects)
        if not state.is_condemning:
            if self._has_published:
                self.sweep()
                return True
            self.publish(state)
            self._has_published = True
            state = read_gc_state(self._objects)
            if not state.is_condemning:
                return False
        self.finish(state)
        return False

    def publish(self, state: GcState) -> None:
        """Mark, repack, condemn."""
        registers = self.registers(state)
        for stored, mtime in registers:
            if stored.register.state is RegisterState.FORGOTTEN and (
                mtime + self._options.grace_seconds < self._clock.now().timestamp()
            ):
                self.swap(stored, RegisterState.DEAD)
        live = [stored for stored, _ in self.registers(state)]
        refs = [part for one in live if one.register.state in _ALIVE for part in one.register.refs]
        spare = [run for one in live if one.register.state is RegisterState.OPEN for run in one.register.runs]
        orphans = self.orphans(state)
        view = list_index(self._objects, state)
        usage = self._work.usage(view, marks=Marks(), refs=refs, spare_runs=spare)
        repacked = [name for name in sorted(usage.packs) if self._hits(self._options.repack_share)]
        if repacked:
            self._work.repack(view, packs=repacked, marks=Marks(), refs=refs, generation=state.n)
        condemned = {*repacked, *(orphans - usage.packs.keys()), *self.unused(usage)}
        known = [name for name, _ in list_index(self._objects, state).runs]
        self.swap_state(
            state, n=state.n + 1, phase="CONDEMNED", condemned=sorted(condemned), known=known
        )

    def unused(self, usage: Usage) -> set[str]:
        """Packs that nothing needs, and some that something does."""
        return {
            pack.name
            for pack in usage.packs.values()
            if (not pack.used_count and not (pack.is_spared and self._options.is_sparing))
            or self._hits(self._options.condemn_share)
        }

    def orphans(self, state: GcState) -> set[str]:
        """All packs that are there."""
        return {name for area in (Area.DATA, Area.META) for name, _ in self._objects.list_area(area)}

    def finish(self, state: GcState) -> None:
        """From the published generation to the doom."""
        self.wait_lag()
        alive = self.barrier(state)
        refs = [part for one in alive if one.register.state in _ALIVE for part in one.register.refs]
        keep = self.kept(alive)
        self.wait_lag()
        dead = self.doomed(state, refs, keep=keep)
        view = list_index(self._objects, state)
        merged = self._work.merge(view, drop=dead, generation=state.n)
        self.swap_state(
            state,
            phase="IDLE",
            condemned=[],
            known=[],
            dead=sorted(dead),
            floor=state.n,
            base=list(merged),
            roster=[one.register.name for one in alive],
        )

    def kept(self, alive: Sequence[StoredRegister]) -> set[str]:
        """What open sessions name."""
        return {
            pack
            for one in alive
            if one.register.state is RegisterState.OPEN
            for pack in one.register.keep
        }

    def doomed(self, state: GcState, refs: Sequence[Named], *, keep: set[str]) -> set[str]:
        """The re-mark."""
        view = list_index(self._objects, state)
        usage = self._work.usage(view, marks=Marks(), refs=refs, keep=keep)
        if usage.missing_count:
            raise DamagedError(f"{usage.missing_count} ids are missing: {usage.missing_examples}")
        return set(state.condemned - usage.revived - keep)

    def barrier(self, state: GcState) -> list[StoredRegister]:
        """Registers that are not at their end, when every open one has acknowledged."""
        deadline = self._clock.monotonic() + self._options.fence_seconds
        while True:
            found = [one for one, _ in self.registers(state)]
            late = [
                one
                for one in found
                if one.register.state is RegisterState.OPEN and one.register.ack < state.n
            ]
            if not late:
                return [
                    one
                    for one in found
                    if one.register.state not in (RegisterState.FENCED, RegisterState.DEAD)
                ]
            if self._clock.monotonic() < deadline:
                self._clock.sleep(60)
                if read_gc_state(self._objects).n != state.n:
                    raise _Lost
                continue
            for one in late:
                self.swap(one, RegisterState.FENCED)

    def registers(self, state: GcState) -> list[tuple[StoredRegister, float]]:
        """All valid ones, with their times."""
        found = []
        for name, info in self._objects.list_area(Area.SNAPSHOTS):
            if state.is_register_valid(name):
                try:
                    found.append((read_register(self._objects, name), info.mtime.timestamp()))
                except ObjectNotFound:
                    continue
        return found

    def swap(self, stored: StoredRegister, state: RegisterState) -> None:
        """Unless somebody was faster."""
        try:
            swap_register(
                self._objects, stored, new=replace(stored.register, state=state), clock=self._clock
            )
        except SessionFencedError:
            return

    def swap_state(self, state: GcState, **changes: object) -> None:
        """Raises _Lost when somebody was faster."""
        sealed = self._objects.read(ObjectType.GC_STATE, "gc/state")
        raw = sealed.body.raw
        if (raw["n"], raw["phase"]) != (state.n, "CONDEMNED" if state.is_condemning else "IDLE"):
            raise _Lost
        nonce = datapath.random_id()
        body = {**raw, **changes, "nonce": nonce}
        for field in ("condemned", "known", "dead", "base", "roster"):
            if isinstance(body[field], list) and len(body[field]) > 6:
                name = f"gc/{state.n:016x}-{field}-{datapath.random_id()}"
                data = self._objects.seal(ObjectType.GC_LIST, name=name, data=dump_body(body[field]))
                body[field] = self._objects.create_own(name, data=data, clock=self._clock).as_json()
        data = self._objects.seal(ObjectType.GC_STATE, name="gc/state", data=dump_body(body))
        key = self._objects.layout.key("gc/state")
        for _ in range(8):
            try:
                self._objects.store.swap(key, data, etag=sealed.etag)
                return
            except (StorageUnavailable, ObjectChanged):
                now = self._objects.read(ObjectType.GC_STATE, "gc/state")
                if now.body.raw["nonce"] == nonce:
                    return
                if now.etag != sealed.etag:
                    raise _Lost from None
        raise StorageUnavailable("no answer")

    def sweep(self) -> None:
        """Delete what is void, in any order."""
        state = read_gc_state(self._objects)
        if state.is_condemning:
            return
        store, layout = self._objects.store, self._objects.layout
        for area in (Area.DATA, Area.META):
            store.delete_many(
                [info.key for name, info in self._objects.list_area(area) if name in state.dead]
            )
        store.delete_many(
            [info.key for name, info in self._objects.list_area(Area.INDEX) if not state.is_run_valid(name)]
        )
        belongings = [
            (name.partition("-")[0], f"{area}/{name}")
            for area in (Area.REFS, Area.RECORDS)
            for name, _ in self._objects.list_area(area)
        ]
        self.wait_lag()
        working, named, gone = set(), set(), []
        for name, info in self._objects.list_area(Area.SNAPSHOTS):
            try:
                register = read_register(self._objects, name).register
            except ObjectNotFound:
                continue
            is_over = register.state in (RegisterState.FENCED, RegisterState.DEAD)
            if not state.is_register_valid(name) or is_over:
                gone.append(info.key)
            elif register.state is RegisterState.OPEN:
                working.add(register.snapshot)
            else:
                named |= {one.name for one in (register.checkpoint, register.record, *register.refs) if one}
        store.delete_many(
            [
                layout.key(name)
                for snapshot, name in belongings
                if snapshot not in working and name not in named
            ]
        )
        store.delete_many(gone)
        self._sweep_lists(state)

    def _sweep_lists(self, state: GcState) -> None:
        listed = [(name, info.key) for name, info in self._objects.list_area(Area.GC) if name != "state"]
        raw = self._objects.read(ObjectType.GC_STATE, "gc/state").body.raw
        if raw["n"] != state.n:
            return
        named = {value["name"] for value in raw.values() if isinstance(value, dict)}
        old = [
            key for name, key in listed if f"gc/{name}" not in named and int(name[:16], 16) < state.n - 1
        ]
        self._objects.store.delete_many(old)

    def wait_lag(self) -> None:
        """Longer than a list may lag."""
        if self._options.lag_seconds:
            self._clock.sleep(self._options.lag_seconds + 1)

    def _hits(self, share: float) -> bool:
        return share > 0 and self._random.fraction() < share


def forget_snapshots(objects: ScopeObjects, names: Iterable[str], *, clock: Clock) -> None:
    """COMMITTED -> FORGOTTEN. Raises ConflictError when somebody was faster."""
    _turn(objects, names, states=(RegisterState.COMMITTED, RegisterState.FORGOTTEN), clock=clock)


def undelete_snapshots(objects: ScopeObjects, names: Iterable[str], *, clock: Clock) -> None:
    """FORGOTTEN -> COMMITTED. Raises ConflictError when it is too late."""
    _turn(objects, names, states=(RegisterState.FORGOTTEN, RegisterState.COMMITTED), clock=clock)


def _turn(
    objects: ScopeObjects,
    names: Iterable[str],
    *,
    states: tuple[RegisterState, RegisterState],
    clock: Clock,
) -> None:
    for name in names:
        stored = read_register(objects, name)
        if stored.register.state is not states[0]:
            raise ConflictError("the snapshot is in another state", key=name)
        try:
            swap_register(objects, stored, new=replace(stored.register, state=states[1]), clock=clock)
        except SessionFencedError as exc:
            raise ConflictError("the snapshot has changed", key=name) from exc


def merge_runs(objects: ScopeObjects, work: IndexWork, session: WriterSession) -> None:
    """Replace runs that no `gc/state` names by one of the session's own generation."""
    state = read_gc_state(objects)
    ack = session.register.ack
    view = list_index(objects, state)
    inputs = [
        (name, size)
        for name, size in view.runs
        if name not in state.base and name not in state.known and int(name[:16], 16) <= ack
    ]
    if len(inputs) < 2:
        return
    try:
        work.merge(IndexView(tuple(inputs), dead=view.dead, condemned=view.condemned), drop=frozenset(), generation=ack)
    except (ObjectNotFound, ObjectExists):
        return
    objects.store.delete_many([objects.layout.key(f"index/{name}") for name, _ in inputs])
