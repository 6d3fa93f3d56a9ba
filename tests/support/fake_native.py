"""A native module in Python, for tests of the control plane: the seam is real, seals and trees are not.

Objects are framed and checksummed, never encrypted. A verb is a function of its job; tests replace them
in `VERBS` to play a data path that stops, lags or fails.
"""

import base64
import fnmatch
import hashlib
import json
import os
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pvback.errors import (
    DamagedError,
    InternalError,
    Interrupted,
    ObjectNotFound,
    PvbackError,
    StorageError,
    UsageError,
    WrongKeyError,
)

__version__ = "0.0.fake"
_MAGIC = b"FAKEOBJ1"


def blake3(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def random_id() -> str:
    return secrets.token_hex(16)


def recovery_key() -> str:
    return "-".join(["0abc"] * 8)


def _b64(path: str) -> str:
    return base64.b64encode(os.fsencode(path)).decode()


class Keyring:
    """One passphrase opens everything; the role is whatever the key object says."""

    def __init__(self, config: dict[str, Any], key: dict[str, Any]) -> None:
        self._config, self._key = config, key

    @staticmethod
    def init_repository(
        label: str,
        chunker_json: str,
        passphrase: bytes,
        _argon2: tuple[int, int, int],
        conditional: bool = True,
    ) -> tuple["Keyring", bytes, str, bytes]:
        config = {
            "pvback": "config",
            "format": 1,
            "min_reader": 1,
            "min_writer": 1,
            "features": [] if conditional else ["timed-commits"],
            "repository": random_id(),
            "serial": 1,
            "chunker": json.loads(chunker_json),
            "store": {"conditional": conditional},
            "scopes": [{"id": random_id(), "label": label}],
        }
        key = _key_object("owner", "", passphrase)
        name = f"keys/{key['principal']}.json"
        return Keyring(config, key), json.dumps(config).encode() + b"\nsig", name, json.dumps(key).encode()

    @staticmethod
    def unlock(
        config: bytes,
        key_objects: Sequence[tuple[str, bytes]],
        _method: str,
        secret: bytes,
        _stretched: object = None,
    ) -> "Keyring":
        for _, data in key_objects:
            key = json.loads(data)
            if blake3(secret).hex() in key["secrets"]:
                return Keyring(json.loads(config.split(b"\n")[0]), key)
        raise WrongKeyError("the password opens no key")

    @property
    def role(self) -> str:
        return str(self._key["role"])

    @property
    def principal(self) -> str:
        return str(self._key["principal"])

    @property
    def repository(self) -> str:
        return str(self._config["repository"])

    @property
    def owner_fingerprint(self) -> str:
        return "00" * 32

    def scopes(self) -> list[tuple[str, str]]:
        return [(one["id"], one["label"]) for one in self._config["scopes"]]

    def source_id(self, scope: str, source: str) -> str:
        return blake3(f"{scope} {source}".encode()).hex()[:32]

    def seal_json(self, scope: str, kind: int, name: str, body: bytes) -> bytes:
        return _frame(kind, scope + name, body)

    def open_json(self, scope: str, kind: int, name: str, data: bytes) -> bytes:
        return _unframe(kind, scope + name, data)

    def seal_record(self, scope: str, source: str, snapshot: str, secret_json: bytes) -> tuple[int, int, str]:
        return 1, 1, base64.b64encode(_frame(0, source + snapshot, secret_json)).decode()

    def open_record(
        self, scope: str, source: str, snapshot: str, suite: int, epoch: int, sealed: str
    ) -> bytes:
        if self.role == "maintainer":
            raise WrongKeyError("a maintainer reads no names")
        return _unframe(0, source + snapshot, base64.b64decode(sealed))

    def list_keys(self, config: bytes, key_objects: Sequence[tuple[str, bytes]]) -> str:
        keys = [json.loads(data) for _, data in key_objects]
        names = [name for name, _ in key_objects]
        return json.dumps(
            [
                {**one, "name": name, "serial": 1, "unlock": ["passphrase"] * len(one["secrets"])}
                for name, one in zip(names, keys, strict=True)
            ]
        )

    def write_state(self, _scope: str) -> str:
        return "reads" if self.role == "restorer" else "writes"

    def add_slot(self, key_object: bytes, method: str, secret: bytes, argon2: tuple[int, int, int]) -> bytes:
        key = json.loads(key_object)
        key["secrets"].append(blake3(secret).hex())
        return json.dumps(key).encode()


def config_facts(config: bytes) -> str:
    line = json.loads(config.split(b"\n")[0])
    scopes = [{"id": one["id"], "epoch": 1} for one in line["scopes"]]
    return json.dumps({**line, "scopes": scopes, "revoked": []})


def key_facts(key_object: bytes) -> str:
    key = json.loads(key_object)
    unlock = [{"kind": "passphrase", "sealed": None, "salt": None} for _ in key["secrets"]]
    return json.dumps({"principal": key["principal"], "serial": 1, "unlock": unlock})


def issue_key(_keyring: Keyring, request_json: str) -> tuple[str, bytes]:
    request = json.loads(request_json)
    key = {**_key_object(request["role"], request["label"], b""), "secrets": []}
    return f"keys/{key['principal']}.json", json.dumps(key).encode()


def _key_object(role: str, label: str, secret: bytes) -> dict[str, Any]:
    return {"principal": random_id(), "role": role, "label": label, "secrets": [blake3(secret).hex()]}


def _frame(kind: int, name: str, body: bytes) -> bytes:
    head = _MAGIC + bytes([kind]) + blake3(name.encode())
    return head + blake3(head + body) + body


def _unframe(kind: int, name: str, data: bytes) -> bytes:
    head, digest, body = data[:41], data[41:73], data[73:]
    if head != _MAGIC + bytes([kind]) + blake3(name.encode()) or digest != blake3(head + body):
        raise DamagedError("the seal does not fit", key=name[32:])
    return body


class Request(bytearray):
    """A request is its own buffer."""

    kind: str
    key: str
    offset: int
    length: int | None
    job: "Job"

    def complete(self, data: bytes | bytearray | memoryview | None = None) -> None:
        self.job.answers[id(self)].put(bytes(data) if data is not None else b"")

    def complete_filled(self, count: int) -> None:
        self.complete(self[:count])

    def fail(self, kind: str, message: str) -> None:
        kinds: dict[str, type[PvbackError]] = {
            "not_found": ObjectNotFound,
            "storage": StorageError,
            "cancelled": Interrupted,
        }
        self.job.answers[id(self)].put(kinds.get(kind, InternalError)(f"echo: {message}", key=self.key))


class Job:
    def __init__(self, verb: str, keyring: Keyring, options: dict[str, Any]) -> None:
        self.keyring, self.options = keyring, options
        self.requests: queue.Queue[Request | None] = queue.Queue()
        self.answers: dict[int, queue.Queue[bytes | PvbackError]] = {}
        self.commands: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.command_answers: dict[str, dict[str, Any]] = {"acknowledge": {"keep": []}}
        self.is_cancelled = threading.Event()
        self.counters: dict[str, int] = {}
        self._result: dict[str, Any] | BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(verb,), daemon=True).start()

    @staticmethod
    def start(verb: str, keyring: Keyring, options_json: str, _source: Keyring | None = None) -> "Job":
        if verb not in VERBS:
            raise UsageError(f"no verb {verb}")
        return Job(verb, keyring, json.loads(options_json))

    def _run(self, verb: str) -> None:
        try:
            self._result = VERBS[verb](self)
        except BaseException as exc:  # noqa: BLE001 - raised by `result`
            self._result = exc
        self._ended.set()
        self.requests.put(None)

    def next_request(self) -> Request | None:
        request = self.requests.get()
        if request is None:
            self.requests.put(None)
        return request

    def progress(self) -> str:
        return json.dumps(self.counters)

    def command(self, name: str, options_json: str) -> str:
        self.commands.put((name, json.loads(options_json)))
        return json.dumps(self.command_answers.get(name, {}))

    def cancel(self) -> None:
        self.is_cancelled.set()

    def result(self) -> str:
        self._ended.wait()
        if isinstance(self._result, BaseException):
            raise self._result
        return json.dumps(self._result)

    # What verbs use.

    def ask(self, kind: str, key: str, data: bytes = b"", *, length: int | None = None) -> bytes:
        if self.is_cancelled.is_set():
            raise Interrupted("cancelled")
        request = Request(data if length is None else bytes(length))
        request.kind, request.key, request.offset, request.length = kind, key, 0, length
        request.job = self
        answers: queue.Queue[bytes | PvbackError] = queue.Queue()
        self.answers[id(request)] = answers
        self.requests.put(request)
        answer = answers.get()
        del self.answers[id(request)]
        if isinstance(answer, PvbackError):
            raise answer
        return answer

    def key(self, name: str) -> str:
        return f"s/{self.options['scope']}/{name}"

    def rows(self, rows: list[dict[str, Any]]) -> None:
        self.ask("output", "rows", b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def tree(self, options: dict[str, Any]) -> dict[str, Any]:
        page = options["root"]["page"]
        tree: dict[str, Any] = json.loads(self.ask("get", self.key(f"meta/{page[:2]}/{page[:32]}")))
        return tree


def back_up(job: Job) -> dict[str, Any]:
    options = job.options
    files: dict[str, Any] = {}
    if options["kind"] == "stream":
        with os.fdopen(os.dup(options["fd"]), "rb") as file:
            files[""] = {"kind": "file", "data": base64.b64encode(file.read()).decode()}
    else:
        top = Path(os.fsdecode(base64.b64decode(options["path_b64"])))
        paths = [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]
        for path in paths:
            name = "" if path == top else str(path.relative_to(top))
            if any(fnmatch.fnmatch(name, pattern) for pattern in options["excludes"]):
                continue
            if path.is_dir():
                files[name] = {"kind": "directory"}
            elif not path.is_file():
                what = {"path_b64": _b64(name), "what": "permission denied"}
                job.ask("output", "problem", json.dumps(what).encode())
                job.counters["errors"] = job.counters.get("errors", 0) + 1
            else:
                files[name] = {"kind": "file", "data": base64.b64encode(path.read_bytes()).decode()}
    return finish(job, files)


def finish(job: Job, files: dict[str, Any]) -> dict[str, Any]:
    """Packs, run and reference set of a tree; the result of a backup."""
    size = sum(len(base64.b64decode(one.get("data", ""))) for one in files.values())
    page = random_id() * 2
    count = sum(one["kind"] == "file" for one in files.values())
    stats = {"files": count, "bytes": size, "bytes_read": size, "errors": job.counters.get("errors", 0)}
    root = {"page": page, "level": 0, "nodes": max(1, len(files)), "bytes": size}
    if job.options["dry_run"]:
        return {"root": root, "refs": [], "runs": [], "stats": stats}
    job.ask("put", job.key(f"meta/{page[:2]}/{page[:32]}"), json.dumps(files).encode())
    run = f"{job.options['gen']:016x}-{random_id()}"
    job.ask("put", job.key(f"index/{run}"), b"run")
    name = f"refs/{job.options['snapshot']}-0"
    job.ask("put", job.key(name), b"refs")
    refs = [{"name": name, "hash": blake3(b"refs").hex()}]
    return {"root": root, "refs": refs, "runs": [run], "counts": {"chunks": 1, "pages": 1}, "stats": stats}


def _row(name: str, node: dict[str, Any]) -> dict[str, Any]:
    size = len(base64.b64decode(node.get("data", "")))
    return {"path_b64": _b64(name), "kind": node["kind"], "mode": 0o644, "size": size, "mtime_ns": 0}


def list_nodes(job: Job) -> dict[str, Any]:
    top = os.fsdecode(base64.b64decode(job.options["subtree_b64"]))
    tree = job.tree(job.options)
    if top not in tree:
        raise ObjectNotFound("not found", key=top)
    depth = top.count("/") + 2 if top else 1
    rows = [
        _row(name, node)
        for name, node in tree.items()
        if (name == top or not top or name.startswith(top + "/"))
        and (job.options["recursive"] or name.count("/") < depth)
    ]
    job.rows(rows)
    return {"nodes": len(rows)}


def find_nodes(job: Job) -> dict[str, Any]:
    patterns = job.options["patterns"]
    tree = job.tree(job.options)
    rows = [
        _row(name, node)
        for name, node in tree.items()
        if any(fnmatch.fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)
    ]
    job.rows(rows)
    return {"matches": len(rows)}


def compare(job: Job) -> dict[str, Any]:
    old, new = job.tree(job.options["old"]), job.tree(job.options["new"])
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            change = "removed" if name not in new else "added" if name not in old else "content"
            job.rows([{**_row(name, new.get(name) or old[name]), "change": change}])
    return {}


def dump(job: Job) -> dict[str, Any]:
    node = job.tree(job.options).get(os.fsdecode(base64.b64decode(job.options["path_b64"])))
    if node is None or node["kind"] != "file":
        raise ObjectNotFound("not a file", key=None)
    data = base64.b64decode(node["data"])
    job.ask("output", "bytes", data)
    return {"bytes": len(data)}


def restore(job: Job) -> dict[str, Any]:
    target = Path(os.fsdecode(base64.b64decode(job.options["target_b64"])))
    tree = job.tree(job.options)
    for name, node in tree.items() if not job.options["dry_run"] else ():
        if node["kind"] == "directory":
            (target / name).mkdir(parents=True, exist_ok=True)
        else:
            (target / name if name else target).write_bytes(base64.b64decode(node["data"]))
    return {"stats": {"files": len(tree)}, "denied": [], "errors": 0}


def check(job: Job) -> dict[str, Any]:
    for one in job.options["snapshots"]:
        try:
            job.tree(one)
        except (ObjectNotFound, ValueError) as exc:
            key = getattr(exc, "key", None)
            job.rows([{"severity": "error", "what": "page-missing", "object": key, "detail": str(exc)}])
    return {"snapshots": len(job.options["snapshots"])}


def count(job: Job) -> dict[str, Any]:
    return {"files": sum(len(job.tree(one)) for one in job.options["snapshots"])}


def measure(job: Job) -> dict[str, Any]:
    return {"chunk": {"one": 16.0, "all": 30.0}, "hash": {"one": 5.0, "all": 9.5}}


VERBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "backup": back_up,
    "list": list_nodes,
    "find": find_nodes,
    "diff": compare,
    "dump": dump,
    "restore": restore,
    "check": check,
    "stats": count,
    "limits": measure,
}
