"""A small but complete writer by `docs/format.md`, for tests only.

It shares the key tree with the reader and nothing else. All randomness comes from one function, so
that the same seed makes the same repository byte for byte. Pages and extent pages are cut by count,
not by content, so that a handful of nodes makes several levels.
"""

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pvback.reference import kdf
from pvback.reference.index import mix, positions
from pvback.reference.pages import Child, Extent, ExtentPage, Node
from pvback.reference.sealing import Place
from tests.support import reference_pages as pages
from tests.support import reference_seal as seal
from tests.support.reference_seal import RandomBytes

OWNER, RESTORER, WRITER, MAINTAINER = "owner", "restorer", "writer", "maintainer"
_CERTIFICATE_ROLES = {OWNER: 1, WRITER: 3, MAINTAINER: 4}
Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass
class Principal:
    """One key file's principal; `secret` is what every unlock entry yields."""

    id: bytes
    role: str
    seed: bytes
    certified: bytes
    secret: bytes
    source: bytes = bytes(16)


@dataclass
class PackIndex:
    """What a run says about one pack."""

    name: bytes
    kind: int
    object_bytes: int
    envelope: bytes
    entries: list[tuple[bytes, int, int]]


def build_filter(ids: Iterable[bytes]) -> bytes:
    """A binary fuse filter by peeling, seeds tried from 0 on."""
    keys = sorted({int.from_bytes(one[:8], "little") for one in ids})
    if not keys:
        return b""
    length = 4
    while length * 8 < len(keys):
        length *= 2
    count = length * max(2, -(-len(keys) * 3 // (2 * length)))
    for seed in range(10_000):
        hashes = [mix((key + seed) & (2**64 - 1)) for key in keys]
        order = _peel(hashes, length, count)
        if order is None:
            continue
        table = bytearray(count + 2 * length)
        for hash_, free in reversed(order):
            value = (hash_ ^ hash_ >> 32) & 255
            for place in positions(hash_, length, count):
                value ^= table[place] if place != free else 0
            table[free] = value
        return struct.pack("<QII", seed, length, count) + bytes(table)
    raise AssertionError("no seed peels")


def _peel(hashes: list[int], length: int, count: int) -> list[tuple[int, int]] | None:
    users: dict[int, set[int]] = {}
    for hash_ in hashes:
        for place in positions(hash_, length, count):
            users.setdefault(place, set()).add(hash_)
    waiting = sorted(place for place, found in users.items() if len(found) == 1)
    order: list[tuple[int, int]] = []
    while waiting:
        place = waiting.pop()
        if len(users[place]) != 1:
            continue
        hash_ = next(iter(users[place]))
        order.append((hash_, place))
        for other in positions(hash_, length, count):
            users[other].discard(hash_)
            if len(users[other]) == 1:
                waiting.append(other)
    return order if len(order) == len(hashes) else None


class RepositoryWriter:
    """A repository with one scope. `init` makes config, the owner's key file and `gc/state`."""

    def __init__(self, root: Path, random_bytes: RandomBytes) -> None:
        self.root = root
        self.random = random_bytes
        self.repository, self.scope = random_bytes(16), random_bytes(16)
        self.master = random_bytes(32)
        self.epoch = 1
        self.suite = 1
        self.serial = 0
        self.gc_n = 0
        self.revoked: list[Json] = []
        self.write = kdf.write_master(self.master)
        self.restore = kdf.restore_master(self.master)
        self.owner_seed = kdf.owner_seed(self.master)
        self.owner_vk = seal.public_of(self.owner_seed)
        self.dedup = kdf.dedup_key(self.write, self.scope)
        self.owner = self._principal(OWNER)

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def place(self, name: str) -> Place:
        return Place(self.repository, self.scope, name)

    def init(self, passphrase: str | None = None) -> "RepositoryWriter":
        self.write_config()
        self.write_key_file(self.owner, passphrase=passphrase)
        self.write_gc_state()
        return self

    def public_key(self, epoch: int) -> bytes:
        private = kdf.data_secret(self.restore, self.scope, epoch)
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def write_config(self, **changes: Any) -> None:
        self.serial += 1
        meta = kdf.meta_key(self.write, self.scope, 1)
        salt = self.random(16)
        label = seal.seal_small("scope label", meta, self.repository + self.scope + salt, b"default")
        scope = {"id": self.scope.hex(), "epoch": self.epoch, "pk": b64(self.public_key(self.epoch))}
        config: Json = {
            "pvback": "config", "format": 1, "min_reader": 1, "min_writer": 1, "features": [],
            "repository": self.repository.hex(), "owner_vk": b64(self.owner_vk),
            "chunker": {"id": "argmin32", "min": 262144, "average": 524288, "max": 786432, "fixed": 131072},
            "scopes": [scope | {"label": b64(salt + label)}], "revoked": self.revoked,
            "serial": self.serial,
        }  # fmt: skip
        line = dumps(config | changes)
        signature = seal.sign(self.owner_seed, b"pvback/1 config\0" + kdf.digest(line))
        self.put("config", line + b"\n" + b64(signature).encode() + b"\n")

    def _principal(self, role: str, source: bytes = bytes(16)) -> Principal:
        id_ = self.random(16)
        seed = kdf.principal_seed(self.write, id_)
        kind = _CERTIFICATE_ROLES.get(role, 2)
        certified = seal.certificate(self.owner_seed, self.place(""), id_, seed, role=kind, source=source)
        secret = kdf.identity_key(self.write, id_) + self.owner_vk + self.repository
        return Principal(id_, role, seed, certified, secret, source)

    def add_principal(self, role: str, source: bytes = bytes(16), **slots: Any) -> Principal:
        """Make a principal and write its key file."""
        principal = self._principal(role, source)
        self.write_key_file(principal, **slots)
        return principal

    def _bundle(self, principal: Principal) -> Json:
        bundle: Json = {"v": 1, "role": principal.role, "label": principal.role}
        if principal.role == OWNER:
            return bundle | {"master": b64(self.master)}
        epochs = [self._epoch_keys(principal, epoch) for epoch in range(1, self.epoch + 1)]
        scope: Json = {"scope": self.scope.hex(), "epochs": epochs}
        if principal.role != MAINTAINER:
            scope["domain"] = b64(self.dedup)
        if any(principal.source):
            scope["sources"] = [principal.source.hex()]
        if principal.role != RESTORER:
            bundle["seed"] = b64(principal.seed)
            certified = {"certificate": principal.certified[:112], "signature": principal.certified[112:]}
            scope["certificates"] = [{name: b64(value) for name, value in certified.items()}]
        return bundle | {"scopes": [scope]}

    def _epoch_keys(self, principal: Principal, epoch: int) -> Json:
        keys: Json = {"epoch": epoch, "index": b64(kdf.index_key(self.write, self.scope, epoch))}
        meta = kdf.meta_key(self.write, self.scope, epoch)
        if any(principal.source):
            key = kdf.source_key(meta, principal.source)
            keys["source_keys"] = [{"source": principal.source.hex(), "key": b64(key)}]
        elif principal.role != MAINTAINER:
            keys["meta"] = b64(meta)
        if principal.role == RESTORER:
            keys["private"] = b64(kdf.data_secret(self.restore, self.scope, epoch))
        if principal.role == WRITER:
            keys["public"] = b64(self.public_key(epoch))
        return keys

    def write_key_file(
        self, principal: Principal, passphrase: str | None = None, recipient: bytes | None = None
    ) -> None:
        slots: list[Json] = []
        bound = self.repository + principal.id
        if passphrase is not None:
            salt = self.random(16)
            argon = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536)
            key = argon.derive(passphrase.encode())
            sealed = seal.seal_small("slot", key, bound + b"passphrase", principal.secret)
            slots.append({"type": "passphrase", "kdf": "argon2id", "v": 19, "m": 65536, "t": 3, "p": 4,
                          "salt": b64(salt), "sealed": b64(sealed)})  # fmt: skip
        if recipient is not None:
            info = b"pvback/1 unlock\0" + bound
            sealed = seal.hpke_seal(recipient, self.random(32), info, principal.secret)
            slots.append({"type": "x25519", "kem": 32, "recipient": b64(recipient), "sealed": b64(sealed)})
        plaintext = dumps(self._bundle(principal))
        bound += struct.pack("<I", 1)
        salt = self.random(16)
        bundle = seal.seal_small("bundle", principal.secret[:32], bound + salt, plaintext)
        message = b"pvback/1 bundle\0" + bound + kdf.digest(plaintext)
        file = {
            "pvback": "key", "v": 1, "repository": self.repository.hex(),
            "principal": principal.id.hex(), "serial": 1, "unlock": slots,
            "salt": b64(salt), "bundle": b64(bundle), "sig": b64(seal.sign(self.owner_seed, message)),
        }  # fmt: skip
        self.put(f"keys/{principal.id.hex()}.json", dumps(file))

    def seal_raw(self, name: str, type_: int, plaintext: bytes, *, epoch: int | None = None) -> bytes:
        """Seal and store an object of the scope; returns the hash of its sealed bytes."""
        epoch = epoch or self.epoch
        key = kdf.index_key(self.write, self.scope, epoch)
        salt, place = self.random(32), self.place(name)
        data = seal.seal_object(key, place, type_, epoch, plaintext, salt=salt, suite=self.suite)
        self.put(f"s/{self.scope.hex()}/{name}", data)
        return kdf.digest(data)

    def seal_signed(
        self, name: str, type_: int, body: bytes, signer: Principal | None = None, pad: bytes = b"\0"
    ) -> bytes:
        """Pad, sign and seal a body; returns the hash of the object."""
        signer = signer or self.owner
        body += pad * seal.padding(len(body) + 240)
        block = seal.signature_block(signer.certified, signer.seed, self.place(name), type_, body)
        return self.seal_raw(name, type_, body + block)

    def seal_json(self, name: str, type_: int, value: Any, signer: Principal | None = None) -> bytes:
        return self.seal_signed(name, type_, dumps(value), signer, b" ")

    def write_gc_state(self, signer: Principal | None = None, **changes: Any) -> None:
        self.gc_n += 1
        state: Json = {
            "v": 1, "nonce": self.random(16).hex(), "n": self.gc_n, "phase": "IDLE", "floor": 0,
            "condemned": [], "known": [], "dead": [], "base": [], "roster": [],
        }  # fmt: skip
        self.seal_json("gc/state", 7, state | changes, signer)

    def write_run(
        self, packs: Sequence[PackIndex], signer: Principal | None = None, gen: int | None = None
    ) -> str:
        """Write an index run of these packs; returns `<gen>-<name>`."""
        section = b""
        table = b""
        entries = []
        for ordinal, pack in enumerate(packs):
            table += pack.name + struct.pack("<B3xIII", pack.kind, pack.object_bytes, len(section), 0)
            section += struct.pack("<H", 1) + pack.envelope + struct.pack("<IIHH", 1, 0, 0, 0)
            entries += [(one[0][:16], ordinal, one[1], one[2]) for one in pack.entries]
        entries.sort()
        filter_ = build_filter(one[0] for one in entries)
        counts = len(entries), len(packs), len(filter_), len(section), 0
        body = b"PVBKRUN1" + struct.pack("<QIIII", *counts) + filter_
        body += b"".join(id_ + struct.pack("<III", *rest) for id_, *rest in entries) + table + section
        name = f"{self.gc_n if gen is None else gen:016x}-{self.random(16).hex()}"
        self.seal_signed(f"index/{name}", 3, body, signer)
        return name

    def session(self, source: str = "dir:h:/data", signer: Principal | None = None) -> "Session":
        return Session(self, source, signer or self.owner)


@dataclass
class Session:
    """One backup: chunks and pages into packs, then runs, refs, record, register."""

    writer: RepositoryWriter
    source_string: str
    signer: Principal
    nodes_per_page: int = 3
    extents_per_page: int = 2
    inline_extents: int = 4
    snapshot: bytes = b""
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    pages: dict[bytes, bytes] = field(default_factory=dict)
    reused: set[bytes] = field(default_factory=set)
    packs: list[PackIndex] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.snapshot = self.writer.random(16)
        self.source = kdf.source_id(self.writer.dedup, self.source_string)
        meta = kdf.meta_key(self.writer.write, self.writer.scope, self.writer.epoch)
        self.source_key = kdf.source_key(meta, self.source)

    def chunk(self, data: bytes) -> bytes:
        """Take in a chunk; returns its id."""
        id_ = kdf.keyed(kdf.chunk_id_key(self.writer.dedup), data)
        self.chunks[id_] = data
        return id_

    def digest(self, data: bytes) -> bytes:
        return kdf.keyed(kdf.chunk_id_key(self.writer.dedup), data)[:16]

    def page(self, data: bytes) -> bytes:
        id_ = kdf.keyed(kdf.page_id_key(self.source_key), data)
        self.pages[id_] = data
        return id_

    def data(self, *parts: bytes) -> list[Extent]:
        """Extents of whole chunks."""
        return [Extent(len(part), 0, self.chunk(part)) for part in parts]

    def content(self, extents: Sequence[Extent]) -> tuple[Extent, ...] | tuple[ExtentPage, ...]:
        """What goes into the node: the extents, or pages of them when there are many."""
        if len(extents) <= self.inline_extents:
            return tuple(extents)
        step = self.extents_per_page
        found = []
        for at in range(0, len(extents), step):
            part = extents[at : at + step]
            covered = sum(one.length for one in part)
            found.append(ExtentPage(self.page(pages.extent_page(part)), covered, 0))
        while len(found) > self.inline_extents:
            found = [self._extent_inner(found[at : at + step]) for at in range(0, len(found), step)]
        return tuple(found)

    def _extent_inner(self, part: Sequence[ExtentPage]) -> ExtentPage:
        level = part[0].level + 1
        data = pages.extent_inner_page(level, part)
        return ExtentPage(self.page(data), sum(one.length for one in part), level)

    def tree(self, nodes: Sequence[Node]) -> tuple[Child, int]:
        """Write the pages of a tree; returns the root and its level."""
        nodes, step = sorted(nodes, key=lambda one: one.key), self.nodes_per_page
        row: list[Child] = []
        for at in range(0, len(nodes), step):
            part = nodes[at : at + step]
            id_ = self.page(pages.node_page(part))
            row.append(Child(part[0].key, id_, len(part), sum(one.size for one in part)))
        level = 0
        while len(row) > 1:
            level += 1
            row = [self._inner(level, row[at : at + step]) for at in range(0, len(row), step)]
        return row[0], level

    def _inner(self, level: int, part: Sequence[Child]) -> Child:
        id_ = self.page(pages.inner_page(level, part))
        nodes, size = sum(one.nodes for one in part), sum(one.bytes for one in part)
        return Child(part[0].key, id_, nodes, size)

    def write_pack(self, kind: int, raw: dict[bytes, bytes], signer: Principal | None = None) -> PackIndex:
        """Seal blobs of one kind into a pack (kinds of packs and blobs have the same numbers)."""
        writer, signer = self.writer, signer or self.signer
        name = writer.random(16)
        key = f"{'data' if kind == 1 else 'meta'}/{name.hex()[:2]}/{name.hex()}"
        sealed, blob_key = bytes(80), kdf.page_key(self.source_key)
        epoch = struct.pack("<I", writer.epoch)
        if kind == 1:
            blob_key = writer.random(32)
            info = b"pvback/1 data key\0" + writer.repository + writer.scope + epoch + self.signer.id
            public = writer.public_key(writer.epoch)
            sealed = seal.hpke_seal(public, writer.random(32), info, blob_key)
        envelope = bytes([writer.suite, 0, 0, 0]) + epoch + self.signer.id + sealed
        body, entries, directory = b"", [], b""
        for id_, data in raw.items():
            nonce, place = writer.random(12), writer.place(key)
            blob = seal.seal_blob(blob_key, place, kind, id_, data, nonce=nonce, suite=writer.suite)
            entries.append((id_, len(body), len(blob)))
            directory += id_ + struct.pack("<IIHBB", len(body), len(blob), 0, kind, 0)
            body += blob
        head = struct.pack("<HI", 1, len(entries))
        size = write_pack_object(
            writer, key, kind, body=body, directory=head + envelope + directory, signer=signer
        )
        return PackIndex(name, kind, size, envelope, entries)

    def upload(self) -> str | None:
        """Write what was taken in since the last call as packs and one run."""
        packs = [self.write_pack(kind, raw) for kind, raw in ((1, self.chunks), (2, self.pages)) if raw]
        self.reused |= {*self.chunks, *self.pages}
        self.chunks, self.pages = {}, {}
        self.packs += packs
        if packs:
            self.runs.append(self.writer.write_run(packs, self.signer))
        return self.runs[-1] if packs else None

    def commit(self, nodes: Sequence[Node], **changes: Any) -> bytes:
        """Write tree, packs, run, refs, record, and the register; returns the record's hash.

        `changes` may replace `prev`, `seq`, `state`, `refs` (short ids), `register_signer`, and
        `detail` (fields of the sealed part).
        """
        root, level = self.tree(nodes)
        counts = {"chunks": len({*self.chunks}), "pages": len(self.pages)}
        counts |= changes.get("counts", {})
        ids = changes.get("refs", {*self.chunks, *self.pages})
        self.upload()
        short = sorted({id_[:16] for id_ in ids})
        body = b"PVBKREF1" + struct.pack("<II", len(short), 0) + b"".join(short)
        refs_name = f"refs/{self.snapshot.hex()}-0"
        refs = {"name": refs_name, "hash": self.writer.seal_signed(refs_name, 4, body, self.signer).hex()}
        hash_ = self._write_record(root, level, counts, changes)
        self._write_register(refs, hash_, changes)
        return hash_

    def _write_record(self, root: Child, level: int, counts: Json, changes: Json) -> bytes:
        writer = self.writer
        name = f"records/{self.snapshot.hex()}"
        detail: Json = {
            "v": 1, "snapshot": self.snapshot.hex(),
            "source": {"kind": "directory", "host": "h", "path": "/data", "string": self.source_string},
            "started": "2026-01-01T00:00:00.000000000Z", "finished": "2026-01-01T00:00:01.000000000Z",
            "root": {"page": root.id.hex(), "level": level, "nodes": root.nodes, "bytes": root.bytes},
            "parent": None, "complete": True, "grade": "crash", "tags": {}, "stats": {}, "errors": 0,
            "unstable": 0, "program": "pvback 0.1.0",
        }  # fmt: skip
        raw = dumps(detail | changes.get("detail", {}))
        place, key, id_ = writer.place(name), kdf.page_key(self.source_key), self.snapshot + bytes(16)
        sealed = seal.seal_blob(key, place, 3, id_, raw, nonce=writer.random(12), suite=writer.suite)
        prev = changes.get("prev")
        record = {
            "v": 1, "snapshot": self.snapshot.hex(), "source": self.source.hex(),
            "seq": changes.get("seq", 1), "prev": prev.hex() if prev else None,
            "suite": writer.suite, "epoch": writer.epoch, "counts": counts,
            "sealed": b64(sealed),
        }  # fmt: skip
        return writer.seal_json(name, 6, record, changes.get("record_signer", self.signer))

    def _write_register(self, refs: Json, record_hash: bytes, changes: Json) -> None:
        gen = changes.get("gen", self.writer.gc_n)
        register = {
            "v": 1, "nonce": self.writer.random(16).hex(), "state": changes.get("state", "COMMITTED"),
            "snapshot": self.snapshot.hex(), "source": self.source.hex(), "seq": changes.get("seq", 1),
            "ack": gen, "keep": [],
            "started": "2026-01-01T00:00:00.000000000Z", "checkpoint": None,
            "record": {"name": f"records/{self.snapshot.hex()}", "hash": record_hash.hex()},
            "refs": [refs], "runs": self.runs,
        }  # fmt: skip
        signer = changes.get("register_signer", self.signer)
        self.writer.seal_json(f"snapshots/{gen:016x}-{self.snapshot.hex()}", 5, register, signer)


def write_pack_object(
    writer: RepositoryWriter, key: str, kind: int, *, body: bytes, directory: bytes, signer: Principal
) -> int:
    """Assemble and store a pack; returns the bytes of the sealed object."""
    body += bytes(seal.padding(len(body) + len(directory) + 256))
    block = seal.signature_block(signer.certified, signer.seed, writer.place(key), kind, directory)
    footer = struct.pack("<II", len(body), len(directory)) + b"PVBKEND1"
    writer.seal_raw(key, kind, body + directory + block + footer)
    return (writer.root / f"s/{writer.scope.hex()}/{key}").stat().st_size
