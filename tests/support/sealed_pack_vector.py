"""Makes tests/vectors/sealed_pack.json where it does not exist: `python -m tests.support.sealed_pack_vector`.

Whole sealed packs, from plaintext chunks to the object as it is stored: fresh ones of both kinds and suites,
and one that a maintainer has put together from packs of two epochs without opening a blob.
"""

import base64
import json
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

from blake3 import blake3

from pvback.reference import kdf
from tests.support import reference_seal as seal
from tests.support.reference_writer import (
    MAINTAINER,
    WRITER,
    PackIndex,
    Principal,
    RepositoryWriter,
    Session,
    write_pack_object,
)

VECTOR = Path(__file__).parents[1] / "vectors" / "sealed_pack.json"
SEED = 20261120
SOURCE = "host:/data"
Raw = dict[str, Any]


def raw(unit: bytes, times: int) -> Raw:
    return {"repeat": unit.hex(), "times": times}


def noise(input_: bytes, length: int) -> Raw:
    """What no compressor shortens."""
    return {"blake3_of": input_.hex(), "bytes": length}


def raw_bytes(one: Raw) -> bytes:
    if "blake3_of" in one:
        return blake3(bytes.fromhex(one["blake3_of"])).digest(int(one["bytes"]))
    return bytes.fromhex(one["repeat"]) * int(one["times"])


class Maker:
    """Collects the cases; `blobs` remembers what is in each pack."""

    def __init__(self, root: Path) -> None:
        self.writer = RepositoryWriter(root, random.Random(SEED).randbytes).init()
        self.mover = self.writer.add_principal(WRITER)
        self.keeper = self.writer.add_principal(MAINTAINER)
        self.cases: list[dict[str, Any]] = []
        self._raws: dict[bytes, Raw] = {}

    def pack(self, name: str, kind: int, raws: list[Raw], suite: int = 1) -> PackIndex:
        self.writer.suite = suite
        session = Session(self.writer, SOURCE, self.mover)
        take = session.chunk if kind == 1 else session.page
        ids = {take(raw_bytes(one)): one for one in raws}
        self._raws |= ids
        pack = session.write_pack(kind, session.chunks if kind == 1 else session.pages)
        self._case(name, pack, "writer")
        return pack

    def _key(self, pack: PackIndex) -> str:
        return f"{'data' if pack.kind == 1 else 'meta'}/{pack.name.hex()[:2]}/{pack.name.hex()}"

    def _object(self, pack: PackIndex) -> bytes:
        return (self.writer.root / "s" / self.writer.scope.hex() / self._key(pack)).read_bytes()

    def _case(self, name: str, pack: PackIndex, signed_by: str, envelopes: list[int] | None = None) -> None:
        entries = [
            {"id": id_.hex(), "offset": offset, "length": length, "envelope": which, "raw": self._raws[id_]}
            for (id_, offset, length), which in zip(
                pack.entries, envelopes or [0] * len(pack.entries), strict=True
            )
        ]
        self.cases.append({
            "name": name, "kind": pack.kind, "key": self._key(pack), "signed_by": signed_by,
            "entries": entries, "object_b64": base64.b64encode(self._object(pack)).decode(),
        })  # fmt: skip

    def repack(self, name: str, packs: list[PackIndex]) -> None:
        """Every other blob of each pack, as it lies there."""
        writer, body, listing = self.writer, b"", b""
        moved, which = PackIndex(writer.random(16), packs[0].kind, 0, b"", []), []
        for ordinal, pack in enumerate(packs):
            plaintext = plaintext_of(writer, self._key(pack), self._object(pack))
            for id_, offset, length in pack.entries[::2]:
                listing += id_ + struct.pack("<IIHBB", len(body), length, ordinal, pack.kind, 0)
                moved.entries.append((id_, len(body), length))
                which.append(ordinal)
                body += plaintext[offset : offset + length]
        head = struct.pack("<HI", len(packs), len(which)) + b"".join(pack.envelope for pack in packs)
        write_pack_object(
            writer, self._key(moved), moved.kind, body=body, directory=head + listing, signer=self.keeper
        )
        self._case(name, moved, "maintainer", which)


def plaintext_of(writer: RepositoryWriter, name: str, data: bytes) -> bytes:
    """Opens an object of an epoch that its header names; checks nothing."""
    epoch = struct.unpack_from("<I", data, 12)[0]
    key = kdf.index_key(writer.write, writer.scope, epoch)
    place = writer.place(name)
    okm = kdf.derive("object", key, data[:48] + writer.repository + writer.scope + place.bound, 64)
    cipher, pieces = seal.cipher(data[8], okm[32:]), range(80, len(data), 65_552)
    return b"".join(
        cipher.decrypt(bytes(3) + struct.pack(">QB", index, at == pieces[-1]), data[at : at + 65_552], None)
        for index, at in enumerate(pieces)
    )


def make() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        maker = Maker(Path(name))
        writer = maker.writer
        small = [raw(b"\0", 100_000), noise(b"a", 300), raw(b"x", 1), noise(b"b", 2000), noise(b"c", 40)]
        first = maker.pack("data, two segments", 1, [*small, noise(b"d", 66_000)], suite=1)
        maker.pack("data, ChaCha20-Poly1305", 1, small[:2], suite=2)
        maker.pack("metadata", 2, [raw(b"PVT1", 3000), raw(b"page", 1)], suite=2)
        writer.epoch = 2
        second = maker.pack("data, second epoch", 1, [noise(b"e", 77), raw(b"y", 5000)], suite=1)
        maker.repack("data of two epochs, repacked", [first, second])

        def public(principal: Principal) -> dict[str, str]:
            return {"principal": principal.id.hex(), "seed": principal.seed.hex()}

        return {
            "about": "Packs as they are stored. `raw` is the unit `repeat` (hex) so many times, or so many "
            "bytes of the extended BLAKE3 of an input (hex); `envelope` is the place of its envelope in "
            "the directory; keys derive from M.",
            "M": writer.master.hex(), "repository": writer.repository.hex(), "scope": writer.scope.hex(),
            "source": SOURCE, "writer": public(maker.mover), "maintainer": public(maker.keeper),
            "packs": maker.cases,
        }  # fmt: skip


if __name__ == "__main__":
    with VECTOR.open("x") as file:
        json.dump(make(), file, indent=1)
        file.write("\n")
