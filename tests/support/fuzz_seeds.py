"""What the fuzz targets of `native/fuzz` start from: `python -m tests.support.fuzz_seeds FOLDER`.

One folder for each target below FOLDER. Stored bytes are those of the shared vectors; the rest is written out
here, as plaintext: the targets seal and sign themselves.
"""

import base64
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

VECTORS = Path(__file__).parent.parent / "vectors"
ID = bytes(range(16)).hex()
KEY = base64.b64encode(bytes(range(32))).decode()
ROOT = {"page": bytes(range(32)).hex(), "level": 1, "nodes": 7, "bytes": 1 << 40}
# What a small body is padded to: a multiple of 4 KiB together with its signature block.
PADDED_BYTES = 4096 - 240
INDEX = {"runs": [{"name": "0000000000000001-ab", "size": 7712}], "dead": ["cd"], "condemned": ["ef"]}


def vectors(name: str) -> Any:
    """Read one file of vectors."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def b64(length: int) -> str:
    return base64.b64encode(bytes(length)).decode()


def pages() -> Iterator[bytes]:
    stored = vectors("page.json")
    yield from (bytes.fromhex(page["page"]) for page in stored["pages"] + stored["damaged"])


def runs() -> Iterator[bytes]:
    stored = vectors("run.json")
    yield bytes.fromhex(stored["empty"])
    yield from (bytes.fromhex(run["body"]) for run in stored["runs"])


def pack_directories() -> Iterator[bytes]:
    """Kind, where the directory ends, length of the plaintext, footer, directory."""
    for pack in vectors("pack.json")["packs"]:
        start = pack["blob_bytes"] + pack["padding_bytes"]
        head = struct.pack("<BIQ", pack["kind"] == 1, start, pack["plaintext_bytes"])
        yield head + bytes.fromhex(pack["footer"]) + bytes.fromhex(pack["directory"])


def refs() -> Iterator[bytes]:
    for count in (0, 1, 40):
        ids = b"".join(bytes([number]) * 16 for number in range(count))
        yield (b"PVBKREF1" + struct.pack("<II", count, 0) + ids).ljust(PADDED_BYTES, b"\0")


def marks() -> Iterator[bytes]:
    for count in (0, 1, 40):
        ids = b"".join(bytes([number]) * 16 + struct.pack("<I", number + 1) for number in range(count))
        yield (b"PVBKMRK1" + struct.pack("<II", count, 0) + ids).ljust(PADDED_BYTES, b"\0")


def objects() -> Iterator[bytes]:
    """Type, change, value, place, length, plaintext."""
    for change in range(6):
        for length in (0, 100, 65_536 // 3, 1, 10):
            yield struct.pack("<BBBIH", 2, change, 1, 90, length) + b"plaintext"
    # Cut off where a segment ends.
    yield struct.pack("<BBBIH", 2, 2, 1, 80 + 65_552, 1) + b"plaintext"


def blobs() -> Iterator[bytes]:
    raw = b"text that compresses, " * 50
    packed = zstandard.ZstdCompressor(level=3).compress(raw)
    yield struct.pack("<BBHI", 0, 0, 0, len(raw)) + raw
    yield struct.pack("<BBHI", 1, 0, 0, len(raw)) + packed
    yield struct.pack("<BBHI", 1, 0, 0, len(raw) - 1) + packed
    yield struct.pack("<BBHI", 1, 0, 1, 0)


def envelopes() -> Iterator[bytes]:
    for pack in vectors("pack.json")["packs"]:
        yield from (bytes.fromhex(envelope) + bytes([5, 1]) for envelope in pack["envelopes"])
    sealed = bytes.fromhex(vectors("sealing.json")["envelope"]["enc_ct"])
    yield bytes([1, 0, 0, 0, 1, 0, 0, 0]) + bytes(16) + sealed + bytes([0, 2])


def signatures() -> Iterator[bytes]:
    """Type, action, place and bits of the change, body; the name's length comes last."""
    stored = vectors("sealing.json")
    block = bytes.fromhex(stored["cert"]["cert"] + stored["cert"]["sig"] + stored["sig"]["sig"])
    for kind in range(7):
        yield bytes([kind, kind, 9, kind % 2]) + block + b"body"


def key_files() -> Iterator[bytes]:
    slot = vectors("sealing.json")["slot"]
    passphrase = {
        "type": "passphrase", "kdf": "argon2id", "v": 19, "m": slot["m"], "t": slot["t"], "p": slot["p"],
        "salt": b64(16), "sealed": b64(128),
    }  # fmt: skip
    x25519 = {"type": "x25519", "kem": 32, "recipient": KEY, "sealed": b64(128)}
    command = {"type": "command", "name": "kms", "sealed": b64(9)}
    for unlock in (
        [],
        [passphrase],
        [x25519, command],
        [{"type": "later", "x": [1, None, 1.4089197702457888e-231]}],
    ):
        yield dumps(
            {"pvback": "key", "v": 1, "repository": ID, "principal": ID, "serial": 7, "unlock": unlock}
            | {"salt": b64(16), "bundle": b64(40), "sig": b64(64)}
        )
    yield bytes(80)


def configs() -> Iterator[bytes]:
    """`OWNER` is replaced by the key that the target signs with."""
    scope = {"id": ID, "epoch": 1, "pk": KEY, "label": b64(40)}
    revoked = {"principal": ID, "sequences": {ID: 7}}
    chunker = {"id": "argmin32", "min": 262144, "average": 524288, "max": 786432, "fixed": 131072}
    line = {
        "pvback": "config", "format": 1, "min_reader": 1, "min_writer": 1, "features": [], "repository": ID,
        "owner_vk": "OWNER", "chunker": chunker, "scopes": [scope], "revoked": [revoked], "serial": 1,
    }  # fmt: skip
    for change in ({}, {"scopes": [scope, scope]}, {"later": {"x": 1}}, {"features": ["x"]}, {"format": 2}):
        yield dumps(line | change)


def bundles() -> Iterator[bytes]:
    certificate = {"certificate": b64(112), "signature": b64(64)}
    epoch = {"epoch": 1, "index": KEY}
    scope = {"scope": ID, "certificates": [certificate]}
    yield dumps({"v": 1, "role": "owner", "label": "o", "master": KEY})
    for role, more, extra in (
        ("restorer", {"meta": KEY, "private": KEY}, {"domain": KEY}),
        ("writer", {"meta": KEY, "public": KEY}, {"domain": KEY}),
        (
            "writer",
            {"source_keys": [{"source": ID, "key": KEY}], "public": KEY},
            {"domain": KEY, "sources": [ID]},
        ),
        ("maintainer", {}, {}),
    ):
        seed = {} if role == "restorer" else {"seed": KEY}
        scopes = [scope | extra | {"epochs": [epoch | more]}]
        yield dumps({"v": 1, "role": role, "label": role} | seed | {"scopes": scopes})


def documents() -> Iterator[bytes]:
    """Type, place and bits of the change, body."""
    register = {"state": "OPEN", "source": ID, "seq": 3, "acknowledged": 1}
    for number, body in enumerate(
        [register, register | {"state": "DEAD"}, {"source": ID}, {"phase": "idle"}, []]
    ):
        yield bytes([number % 3, 0, 0]) + dumps(body) + b" " * number
        yield bytes([number % 3, number, 1]) + dumps(body)


def journals() -> Iterator[bytes]:
    """The target adds the checksum."""
    for key in (b"", b"directory\0file", b"\xff" * 300):
        yield b"PVBKRSJ1" + b"\x55" * 32 + struct.pack("<Q", 1 << 33) + key


def globs() -> Iterator[bytes]:
    """A path, then one pattern a line."""
    yield b"directory/file.tmp\n*.tmp\n/directory\n**/f?le.*\ndir[!a-c]*/{file,other}*"
    yield b"a/b/c\n/a/**/c\nb/\n\\*\na[]-]b"
    yield b"\xff/x y\n**"
    yield b"..\n.."


def options() -> Iterator[bytes]:
    tree = {"source_id": ID, "root": ROOT}
    look = {"scope": ID, "memory_bytes": 1 << 28, "threads": 2, "gets": 8, "index": INDEX}
    path = base64.b64encode(b"/a/b").decode()
    earlier = {"root": ROOT, "started_ns": -1}
    backup = {
        "kind": "directory", "path_b64": path, "snapshot": ID, "gen": 3, "source_id": ID, "parent": earlier,
        "resume": earlier, "excludes": ["*.tmp"], "chunker": "argmin", "level": 3, "fd": 0,
    }  # fmt: skip
    restore = {"target_b64": path, "subtree_b64": path, "includes": ["a"], "overwrite": "if-changed"}
    refs_part = {"name": "refs/x", "hash": "00" * 32}
    check = {"snapshots": [{"snapshot": ID, "refs": [refs_part]} | tree], "read_data": 1.5}
    stored = {"packs": [{"key": "data/00/00", "size": 9}], "seed": 1}
    for verb in (
        backup, tree | restore, tree | {"path_b64": path}, tree | {"subtree_b64": path, "recursive": True},
        tree | {"patterns": ["*"], "kinds": ["file"]}, {"old": tree, "new": tree}, check | stored,
        {"snapshots": [{"snapshot": ID} | tree], "mode": "raw-data"}, {"path_b64": path, "sample_bytes": 1},
    ):  # fmt: skip
        yield dumps(look | verb)


SEEDS = {
    "blob": blobs,
    "bundle": bundles,
    "config": configs,
    "documents": documents,
    "envelope": envelopes,
    "globs": globs,
    "journal": journals,
    "key_file": key_files,
    "marks": marks,
    "object": objects,
    "options": options,
    "pack_directory": pack_directories,
    "page": pages,
    "refs": refs,
    "run": runs,
    "signature": signatures,
}


def main(folder: Path) -> None:
    """Write the seeds of all targets below `folder`."""
    for target, seeds in SEEDS.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / target / f"seed-{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
