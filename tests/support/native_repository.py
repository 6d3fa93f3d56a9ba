"""A repository written by the native core, in memory, for the reference reader to open.

It drives the binding itself, with no code of the control plane in between: what it writes around the native
jobs (`gc/state`, records, registers) is by docs/format.md. One writer at a time, no prune.
"""

import base64
import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pvback import _native as native
from pvback.reference import Passphrase, PrivateKey, RawSecret, Repository
from pvback.reference.errors import NotFoundError

PASSPHRASE = "open sesame"
LEAST_ARGON2 = (65_536, 3, 4)
GENERATION = f"{1:016x}"
Json = dict[str, Any]


class MemoryObjects:
    """Objects in memory, as both sides want them; refuses to write a key twice with other bytes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFoundError(f"object `{key}` is not there")
        return self.objects[key]

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def create(self, key: str, data: bytes) -> None:
        assert self.objects.setdefault(key, data) == data, f"`{key}` is written twice"


def serve(job: native.Job, store: MemoryObjects, outputs: list[tuple[str, bytes]]) -> None:
    """Answer a job's requests until it has none left."""
    while (request := job.next_request()) is not None:
        if request.kind == "get":
            _answer_get(request, store)
        elif request.kind == "put":
            store.create(request.key, bytes(memoryview(request)))
            request.complete()
        else:
            outputs.append((request.key, bytes(memoryview(request))))
            request.complete()


def _answer_get(request: native.Request, store: MemoryObjects) -> None:
    try:
        data = store.get(request.key)
    except NotFoundError as exc:
        request.fail("not_found", str(exc))
        return
    end = len(data) if request.length is None else request.offset + request.length
    request.complete(data[request.offset : end])


def run_job(
    verb: str, keyring: native.Keyring, options: Json, store: MemoryObjects
) -> tuple[Json, list[tuple[str, bytes]]]:
    """Run a job to its end: its result and its outputs. Raises what it failed with."""
    outputs: list[tuple[str, bytes]] = []
    job = native.Job.start(verb, keyring, json.dumps(options))
    threads = [threading.Thread(target=serve, args=(job, store, outputs)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        return json.loads(job.result()), outputs
    finally:
        for thread in threads:
            thread.join()


@dataclass
class NativeSnapshot:
    """A snapshot that was committed, and what the job said about it."""

    id: str
    started_ns: int
    root: Json
    result: Json
    problems: list[Json] = field(default_factory=list)


def _time_text(ns: int) -> str:
    seconds, nanoseconds = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


class NativeRepository:
    """Made anew, with one scope and small chunks; `store` is all there is of it."""

    def __init__(self, *, average: int = 4096) -> None:
        chunker = {
            "id": "argmin32", "min": average // 2, "average": average, "max": average * 3 // 2,
            "fixed": average,
        }  # fmt: skip
        self.store = MemoryObjects()
        made = native.Keyring.init_repository(
            "default", json.dumps(chunker), PASSPHRASE.encode(), LEAST_ARGON2
        )
        self.keyring, config, key_name, key_object = made
        self.store.create("config", config)
        self.store.create(key_name, key_object)
        self.scope = self.keyring.scopes()[0][0]
        self._heads: dict[str, tuple[int, str]] = {}
        lists: Json = {name: [] for name in ("condemned", "known", "dead", "base", "roster")}
        state = {"v": 1, "nonce": native.random_id(), "n": 1, "phase": "IDLE", "floor": 0}
        self._seal("gc/state", 7, state | lists)

    def unlock(self, passphrase: str = PASSPHRASE) -> native.Keyring:
        """The keyring of whoever knows the passphrase, as another process would get it."""
        keys = [(key, self.store.get(key)) for key in self.store.list("keys/")]
        return native.Keyring.unlock(self.store.get("config"), keys, "passphrase", passphrase.encode())

    def reference(self, unlocker: Passphrase | PrivateKey | RawSecret | None = None) -> Repository:
        """The same repository, opened by the reference reader."""
        return Repository.open(self.store, unlocker or Passphrase(PASSPHRASE))

    def _seal(self, name: str, kind: int, body: Json, keyring: native.Keyring | None = None) -> str:
        data = (keyring or self.keyring).seal_json(self.scope, kind, name, json.dumps(body).encode())
        self.store.create(f"s/{self.scope}/{name}", data)
        return native.blake3(data).hex()

    def runs(self) -> list[Json]:
        """The index runs, as jobs are told about them."""
        prefix = f"s/{self.scope}/index/"
        keys = self.store.list(prefix)
        return [{"name": key.removeprefix(prefix), "size": len(self.store.get(key))} for key in keys]

    def job(
        self, verb: str, options: Json, keyring: native.Keyring | None = None
    ) -> tuple[Json, list[tuple[str, bytes]]]:
        """Run a job on this scope."""
        common = {"scope": self.scope, "memory_bytes": 64 << 20, "threads": 2, "index": {"runs": self.runs()}}
        return run_job(verb, keyring or self.keyring, common | options, self.store)

    def backup(
        self,
        path: str | os.PathLike[str],
        *,
        parent: NativeSnapshot | None = None,
        keyring: native.Keyring | None = None,
        **options: Any,
    ) -> NativeSnapshot:
        """Back up a directory (or what `kind` says) and commit. Problems with files are in the result."""
        keyring = keyring or self.keyring
        string = f"host:{os.fspath(path)}"
        source = keyring.source_id(self.scope, string)
        earlier = parent and {"root": parent.root, "started_ns": parent.started_ns}
        snapshot, started = native.random_id(), time.time_ns()
        asked = {
            "snapshot": snapshot, "gen": 1, "source_id": source, "kind": "directory", "parent": earlier,
            "path_b64": base64.b64encode(os.fsencode(path)).decode(),
        }  # fmt: skip
        result, outputs = self.job("backup", asked | options, keyring)
        problems = [json.loads(data) for kind, data in outputs if kind == "problem"]
        made = NativeSnapshot(snapshot, started, result["root"], result, problems)
        self._commit(made, source, {"kind": "directory", "host": "host", "string": string}, keyring)
        return made

    def _commit(self, made: NativeSnapshot, source: str, identity: Json, keyring: native.Keyring) -> None:
        seq, prev = self._heads.get(source, (0, None))
        moment = _time_text(made.started_ns)
        detail: Json = {
            "v": 1, "snapshot": made.id, "source": identity, "started": moment, "finished": moment,
            "root": made.root, "parent": None, "complete": True, "grade": "fuzzy", "tags": {},
            "stats": made.result["stats"], "errors": len(made.problems), "unstable": 0, "program": "test",
        }  # fmt: skip
        body = json.dumps(detail).encode()
        suite, epoch, sealed = keyring.seal_record(self.scope, source, made.id, body)
        record = {
            "v": 1, "snapshot": made.id, "source": source, "seq": seq + 1, "prev": prev, "suite": suite,
            "epoch": epoch, "counts": made.result.get("counts", {"chunks": 0, "pages": 0}), "sealed": sealed,
        }  # fmt: skip
        name = f"records/{made.id}"
        hash_ = self._seal(name, 6, record, keyring)
        self._heads[source] = seq + 1, hash_
        register = {
            "v": 1, "nonce": native.random_id(), "state": "COMMITTED", "snapshot": made.id,
            "source": source, "seq": seq + 1, "ack": 1, "keep": [], "started": moment, "checkpoint": None,
            "record": {"name": name, "hash": hash_}, "refs": made.result["refs"],
            "runs": made.result["runs"],
        }  # fmt: skip
        self._seal(f"snapshots/{GENERATION}-{made.id}", 5, register, keyring)
