"""What the simulation puts in place of the native module: ids, seals and the insides of packs and runs.

Seals are a line with the type and the name: sealing is not what is tested here. Bulk objects are JSON: a
pack `{"kind", "blobs": [[id, text]]}`, a run `{"packs": {name: [kind, bytes]}, "entries": [[id, pack, index,
length]]}`, a reference set `{"ids": []}`, marks `{"counts": [[id, count]]}`.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pvback import datapath, limits
from pvback.errors import DamagedError
from pvback.repository import prune, reading_each, session
from pvback.repository.gcstate import first_gc_state
from pvback.repository.index_work import Usage
from pvback.repository.layout import ObjectType, ScopeLayout
from pvback.repository.prune_plan import ListedPack, PrunePlan, plan_prune
from pvback.repository.sealed import ScopeObjects
from pvback.retrying import Attempts, Patience
from pvback.storage import ObjectStore
from tests.simulation.world import Lock, Process, World

if TYPE_CHECKING:
    from pvback.datapath import Keyring

__all__ = [
    "SCOPE",
    "SOURCES",
    "ClientPatience",
    "Seals",
    "chunk_id",
    "digest",
    "installed",
    "make_objects",
    "open_part",
    "seal_part",
]

SCOPE = "5c" * 16
SOURCES = ("a0" * 16, "b0" * 16)


class ClientPatience(Patience):
    """How long a client tries decides nothing that others rely on."""

    def begin(self, clock: Any) -> Attempts:
        """By the client's timer."""
        return super().begin(clock.timer if isinstance(clock, Process) else clock)


class Seals:
    """A keyring that keeps objects apart and hides nothing."""

    def seal_json(self, scope: str, kind: int, name: str, body: bytes) -> bytes:
        """A header, then the body."""
        return b"%d %s\n" % (kind, name.encode()) + body

    def open_json(self, scope: str, kind: int, name: str, data: bytes) -> bytes:
        """Raises DamagedError for another object's bytes."""
        head = b"%d %s\n" % (kind, name.encode())
        if not data.startswith(head):
            raise DamagedError("the seal does not fit", key=name)
        return data[len(head) :]

    def seal_record(self, scope: str, source: str, snapshot: str, secret_json: bytes) -> tuple[int, int, str]:
        """As it is."""
        return 1, 1, secret_json.decode()

    def open_record(
        self, scope: str, source: str, snapshot: str, suite: int, epoch: int, sealed: str
    ) -> bytes:
        """As it is."""
        return sealed.encode()

    def source_id(self, scope: str, source: str) -> str:
        """Sources are called by their ids here."""
        return source


def digest(data: bytes) -> str:
    """In place of BLAKE3."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def chunk_id(text: str) -> str:
    """The id of a chunk or page with that content."""
    return digest(text.encode())


def make_objects(store: ObjectStore, patience: Patience) -> ScopeObjects:
    """The one scope of the simulated repository, for one client."""
    return ScopeObjects(store, cast("Keyring", Seals()), ScopeLayout(SCOPE), patience)


def seal_part(objects: ScopeObjects, kind: ObjectType, *, name: str, body: Any) -> bytes:
    """The bytes of a bulk object."""
    return objects.seal(kind, name=name, data=json.dumps(body, separators=(",", ":")).encode())


def open_part(objects: ScopeObjects, kind: ObjectType, *, name: str, data: bytes) -> Any:
    """Back again. Raises DamagedError."""
    return json.loads(objects.keyring.open_json(objects.scope, kind, name, data))


def first_state(objects: ScopeObjects) -> bytes:
    """What `init` leaves."""
    return objects.seal(ObjectType.GC_STATE, name="gc/state", data=first_gc_state("0" * 32))


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """While `world` runs: ids from its seed, a cheap digest, and its locks for the process's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datapath, "random_id", world.random_id)
        patch.setattr(datapath, "blake3", digest)
        patch.setattr(limits, "GC_LIST_COUNT_MAX", 6)
        patch.setattr(prune, "plan_prune", _make_plan(world))
        # Threads of their own would run beside the scheduler.
        patch.setattr(reading_each, "_ONE_BY_ONE_COUNT_MAX", 1_000_000)
        patch.setattr(session, "threading", SimpleNamespace(RLock=lambda: Lock(world), Lock=threading.Lock))
        yield


def _make_plan(world: World) -> Callable[..., PrunePlan]:
    """The real plan, and at random more: whatever is condemned, nothing may be lost."""

    def plan(usage: Usage, listed: Mapping[str, ListedPack], **options: Any) -> PrunePlan:
        made = plan_prune(usage, listed, **options)
        assert world.current is not None, "only tasks prune"
        process = world.current.process
        there = sorted(name for name in usage.packs if name in listed and name not in made.condemned)
        chance = process.random.source
        unused = [name for name in there if chance.random() < process.condemn_share]
        again = [name for name in there if name not in unused and chance.random() < process.repack_share]
        return replace(made, unused=[*made.unused, *unused], repack=[*made.repack, *again])

    return plan
