"""The vectors that the Rust side is held to as well: the reference reader agrees with each of them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pvback.reference import kdf, sealing
from pvback.reference.errors import ReadError
from pvback.reference.index import parse_run
from pvback.reference.packs import parse_pack
from pvback.reference.pages import DATA, HOLE, Extent, ExtentPage, Node, parse_page
from pvback.reference.sealing import Place
from tests.support import reference_pages as pages
from tests.support import reference_seal as seal
from tests.support.sealed_pack_vector import raw_bytes

h = bytes.fromhex
FOLDER = Path(__file__).parents[1] / "vectors"
ROLES = {"writer": sealing.ROLE_WRITER, "maintainer": sealing.ROLE_MAINTAINER}


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


SEALING, SEALED, PACKS, RUNS, PAGES = map(
    load, ("sealing.json", "sealed_pack.json", "pack.json", "run.json", "page.json")
)


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case["name"])


def test_key_tree() -> None:
    given = SEALING["inputs"]
    scope, epoch = h(given["scope"]), 0
    write = kdf.write_master(h(given["M"]))
    dedup, meta = kdf.dedup_key(write, scope), kdf.meta_key(write, scope, epoch)
    source_id = kdf.source_id(dedup, given["source"])
    source = kdf.source_key(meta, source_id)
    computed = {
        "K_dom": dedup, "K_id": kdf.chunk_id_key(dedup), "K_cdc": kdf.chunker_key(dedup),
        "source_id": source_id,
        "K_index": kdf.index_key(write, scope, epoch), "K_meta": meta, "K_src": source,
        "K_page": kdf.page_key(source), "K_page_id": kdf.page_id_key(source),
        "sk": kdf.data_secret(kdf.restore_master(h(given["M"])), scope, epoch),
        "K_ident": kdf.identity_key(write, h(given["principal"])),
        "owner_vk": seal.public_of(kdf.owner_seed(h(given["M"]))),
        "principal_seed": kdf.principal_seed(write, h(given["principal"])),
    }  # fmt: skip
    assert {name: value.hex() for name, value in computed.items()} == {
        name: SEALING["tree"][name] for name in computed
    }


def test_ids() -> None:
    chunk = bytes(range(256)) * 8
    assert kdf.keyed(h(SEALING["tree"]["K_id"]), chunk).hex() == SEALING["blob"]["id"]
    for case in PAGES["pages"]:
        assert kdf.keyed(h(PAGES["page_id_key"]), h(case["page"])).hex() == case["id"]
    for key, value in PAGES["border_hashes"]:
        digest = kdf.keyed(h(PAGES["page_id_key"]), h(key))
        assert int.from_bytes(digest[:8], "little") == int(value)


@pytest.mark.parametrize("case", SEALING["object"], ids=lambda case: f"{case['suite']}-{case['len']}")
def test_objects(case: dict[str, Any]) -> None:
    given = SEALING["inputs"]
    place = Place(h(given["repo"]), h(given["scope"]), SEALING["object_name"])
    key, header, plaintext = h(SEALING["tree"]["K_index"]), h(case["header"]), b"P" * case["len"]
    data = seal.seal_object(key, place, 1, 0, plaintext, salt=header[16:48], suite=case["suite"])
    assert (data[:80], len(data)) == (header, case["size"])
    assert kdf.digest(data).hex() == case["blake3"]
    assert sealing.open_object(key, place, 1, data) == plaintext


def test_padding() -> None:
    for length, padded in PACKS["padded_len"]:
        assert length + seal.padding(length) == padded


@named(PACKS["packs"])
def test_pack_directories(case: dict[str, Any]) -> None:
    """Their envelopes are noise, so that only the layout is looked at."""
    directory = h(case["directory"])
    count, cut = len(case["envelopes"]), 6 + 104 * len(case["envelopes"])
    assert directory[6:cut].hex() == "".join(case["envelopes"])
    zeros = b"".join(bytes([1]) + bytes(103) for _ in range(count))
    padded = bytes(case["blob_bytes"] + case["padding_bytes"])
    block_and_footer = bytes(240) + h(case["footer"])
    plaintext = padded + directory[:6] + zeros + directory[cut:] + block_and_footer
    assert len(plaintext) == case["plaintext_bytes"]
    pack = parse_pack(plaintext, case["kind"], case["name"])
    assert [
        {"id": one.id.hex(), "offset": one.offset, "length": one.length, "envelope": one.envelope}
        for one in pack.entries
    ] == case["entries"]


@named(SEALED["packs"])
def test_sealed_packs(case: dict[str, Any]) -> None:
    """From the object as it is stored to the plaintext of each blob."""
    master, repository, scope = h(SEALED["M"]), h(SEALED["repository"]), h(SEALED["scope"])
    write, place = kdf.write_master(master), Place(repository, scope, case["key"])
    data = base64.b64decode(case["object_b64"])
    epoch = sealing.parse_header(data, "").epoch
    kind = case["kind"]
    pack = parse_pack(sealing.open_object(kdf.index_key(write, scope, epoch), place, kind, data), kind, "")
    owner_vk = seal.public_of(kdf.owner_seed(master))
    signer = sealing.verify_block(pack.block, place, kind, pack.directory, owner_vk)
    assert (signer.principal.hex(), signer.role) == (
        SEALED[case["signed_by"]]["principal"],
        ROLES[case["signed_by"]],
    )
    assert len(pack.entries) == len(case["entries"])
    dedup = kdf.dedup_key(write, scope)
    for entry, want in zip(pack.entries, case["entries"], strict=True):
        assert (entry.id.hex(), entry.offset, entry.length, entry.envelope) == (
            want["id"], want["offset"], want["length"], want["envelope"],
        )  # fmt: skip
        envelope = pack.envelopes[entry.envelope]
        if kind == 1:
            secret = kdf.data_secret(kdf.restore_master(master), scope, envelope.epoch)
            key = sealing.open_envelope(secret, place, envelope)
            id_key = kdf.chunk_id_key(dedup)
        else:
            meta = kdf.meta_key(write, scope, envelope.epoch)
            source = kdf.source_key(meta, kdf.source_id(dedup, SEALED["source"]))
            key, id_key = kdf.page_key(source), kdf.page_id_key(source)
        opened = sealing.open_blob(
            sealing.BlobSeal(kind, entry.id, envelope.suite, key), place, pack.blob(entry)
        )
        assert opened == raw_bytes(want["raw"])
        assert kdf.keyed(id_key, opened) == entry.id


@named(RUNS["runs"])
def test_runs(case: dict[str, Any]) -> None:
    run = parse_run(h(case["body"]), case["name"])
    assert [pack.name.hex() for pack in run.packs] == [pack["name"] for pack in case["packs"]]
    assert [pack.object_bytes for pack in run.packs] == [pack["object_bytes"] for pack in case["packs"]]
    names = [pack.name for pack in run.packs]
    by_name = {pack.name: pack for pack in run.packs}
    found = []
    for id_, at in run.entries:
        position = by_name[at.pack].envelope_at(at.offset)
        envelope = None if position is None else by_name[at.pack].envelopes[position].hex()
        found.append({
            "id": id_.hex(), "pack": names.index(at.pack), "offset": at.offset, "length": at.length,
            "envelope": envelope,
        })  # fmt: skip
    assert found == case["entries"]
    assert run.filter is not None
    assert all(run.filter.may_contain(id_) for id_, _ in run.entries)
    assert all(run.filter.may_contain(h(id_)) for id_ in case["perhaps"])
    assert not any(run.filter.may_contain(h(id_)) for id_ in case["surely_not"])


def test_run_without_entries() -> None:
    assert parse_run(h(RUNS["empty"]), "").entries == ()


def extent_json(one: Extent) -> list[Any]:
    if one.kind == DATA:
        return ["data", one.length, one.chunk.hex(), one.offset]
    return ["hole" if one.kind == HOLE else "zeros", one.length]


def body_json(node: Node) -> dict[str, Any]:
    if node.kind == 1:
        first = node.content[0] if node.content else None
        if isinstance(first, ExtentPage):
            listed = [[one.id.hex(), one.length] for one in node.content if isinstance(one, ExtentPage)]
            return {"size": node.size, "level": first.level + 1, "pages": listed}
        extents = [extent_json(one) for one in node.content if isinstance(one, Extent)]
        return {"size": node.size, "extents": extents}
    if node.kind == 3:
        return {"target": node.target.hex()}
    return {"major": node.device[0], "minor": node.device[1]} if node.kind in (6, 7) else {}


def node_json(node: Node) -> dict[str, Any]:
    def time(value: tuple[int, int]) -> list[Any]:
        return [str(value[0]), value[1]]

    left_out = "entries" if node.entries_left_out else "file system"
    is_left_out = node.entries_left_out or node.file_system_left_out
    return {
        "key": node.key.hex(), "kind": node.kind, "mode": node.mode, "uid": node.uid, "gid": node.gid,
        "flags": node.flags, "xattrs": [[name.hex(), value.hex()] for name, value in node.xattrs],
        "mtime": time(node.mtime), "ctime": time(node.ctime),
        "btime": None if node.birth is None else time(node.birth), "ino": str(node.ino),
        "link_group": None if node.link_group is None else str(node.link_group),
        "digest": node.digest.hex() if node.digest else None, "body": body_json(node),
        "unstable": node.changed, "unreadable": node.unreadable, "partial": node.partial,
        **({"left_out": left_out} if is_left_out else {}),
    }  # fmt: skip


@named(PAGES["pages"])
def test_pages(case: dict[str, Any]) -> None:
    """Read, and written again to the same bytes."""
    page = parse_page(h(case["page"]), h(case["id"]))
    if page.type == 1:
        found: list[Any] = [node_json(node) for node in page.nodes]
        again = pages.node_page(page.nodes)
    elif page.type == 2:
        found = [[one.key.hex(), one.id.hex(), one.nodes, str(one.bytes)] for one in page.children]
        again = pages.inner_page(page.level, page.children)
    elif page.type == 3:
        found = [extent_json(one) for one in page.extents]
        again = pages.extent_page(page.extents)
    else:
        found = [[one.id.hex(), one.length] for one in page.extent_pages]
        again = pages.extent_inner_page(page.level, page.extent_pages)
    assert found == case["holds"]
    assert again == h(case["page"])


@named(PAGES["damaged"])
def test_damaged_pages(case: dict[str, Any]) -> None:
    with pytest.raises(ReadError):
        parse_page(h(case["page"]), bytes(32))
