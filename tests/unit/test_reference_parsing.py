"""Parsers of the reference reader: exact on what is sound, `ReadError` and nothing else on the rest."""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvback.reference import pages as read
from pvback.reference.errors import DamagedError, ReadError, UnsupportedError
from pvback.reference.index import Filter, parse_refs, parse_run
from pvback.reference.packs import parse_pack
from pvback.reference.pages import Child, Extent, ExtentPage, Node, parse_page
from pvback.reference.snapshots import parse_detail, parse_record, parse_register
from pvback.reference.wire import Cursor, parse_b64, parse_json
from tests.support import reference_pages as write
from tests.support.reference_writer import build_filter

U64 = 2**64 - 1
ID = bytes(range(32))


@given(st.integers(0, U64))
def test_varint(value: int) -> None:
    encoded = write.varint(value)
    cursor = Cursor(encoded, "")
    assert cursor.varint() == value
    cursor.end()
    with pytest.raises(DamagedError):
        Cursor(encoded[:-1] + bytes([encoded[-1] | 128, 0]), "").varint()
    with pytest.raises(DamagedError):
        Cursor(encoded[:-1], "").varint()


@given(st.integers(-(2**63), 2**63 - 1))
def test_zigzag(value: int) -> None:
    assert Cursor(write.zigzag(value), "").zigzag() == value


def test_varint_limits() -> None:
    for bad in (b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80\x00", b"\x80" * 20):
        with pytest.raises(DamagedError):
            Cursor(bad, "").varint()


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":2}', b"NaN", b"[" * 100_000, b"\xff", b"1" * 5000, b"", b"{}{}", b"[-Infinity]"]
)
def test_json_is_strict(text: bytes) -> None:
    with pytest.raises(DamagedError):
        parse_json(text, "")


@pytest.mark.parametrize("text", ["YQ", "YQ==\n", "YR==", "Y Q==", "é", "YQ==YQ=="])
def test_base64_is_canonical(text: str) -> None:
    with pytest.raises(DamagedError):
        parse_b64(text, "")


times = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**9 - 1))
names = st.binary(min_size=1, max_size=255).filter(
    lambda one: not {0, 47} & set(one) and one not in (b".", b"..")
)
keys = st.lists(names, max_size=4).map(b"\0".join)
xattrs = st.dictionaries(names, st.binary(max_size=40), max_size=3).map(
    lambda one: tuple(sorted(one.items()))
)
data_extents = st.builds(
    Extent, st.integers(1, 8 << 20), st.just(0), st.sampled_from([ID, ID[::-1]]), st.integers(0, 8 << 20)
)
extents = st.one_of(data_extents, st.builds(Extent, st.integers(1, 1 << 40), st.sampled_from([1, 2])))
u32s = st.integers(0, 2**32 - 1)


@st.composite
def nodes(draw: Callable[..., object]) -> Node:
    kind = draw(st.integers(1, 7))
    fields = {
        "mode": st.integers(0, 0o7777), "uid": u32s, "gid": u32s, "flags": u32s,
        "xattrs": xattrs, "mtime": times, "ctime": times, "ino": st.integers(0, U64),
        "birth": st.none() | times,
    }  # fmt: skip
    node = Node(draw(keys), kind, **{name: draw(one) for name, one in fields.items()})  # type: ignore[arg-type]
    if kind == read.DIRECTORY:
        node = replace(node, changed=draw(st.booleans()), unreadable=draw(st.booleans()))  # type: ignore[arg-type]
        # Strategies of tuples have no type of their elements.
        left_out = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
        node = replace(node, entries_left_out=left_out[0], file_system_left_out=left_out[1])  # type: ignore[index]
    else:
        node = replace(node, link_group=draw(st.none() | st.integers(0, U64)))  # type: ignore[arg-type]
    if kind == read.FILE:
        inline = st.lists(extents, max_size=5)
        paged = st.lists(st.builds(ExtentPage, st.just(ID), st.integers(1, 1 << 40), st.just(2)), min_size=1)
        content = tuple(draw(inline | paged))  # type: ignore[var-annotated, arg-type]
        size = sum(one.length for one in content)
        digest = draw(st.none() | st.binary(min_size=16, max_size=16))
        node = replace(node, content=content, size=size, digest=digest, changed=draw(st.booleans()))  # type: ignore[arg-type]
    elif kind == read.SYMLINK:
        node = replace(node, target=draw(names))  # type: ignore[arg-type]
    elif kind in (read.CHAR_DEVICE, read.BLOCK_DEVICE):
        node = replace(node, device=draw(st.tuples(u32s, u32s)))  # type: ignore[arg-type]
    return node


def test_tree_without_nodes() -> None:
    assert parse_page(write.node_page([]), ID).nodes == ()
    with pytest.raises(DamagedError):
        parse_page(write.node_page([]) + b"\0", ID)


@given(st.lists(nodes(), min_size=1, max_size=5, unique_by=lambda one: one.key))
def test_nodes_round_trip(given_nodes: list[Node]) -> None:
    expected = sorted(given_nodes, key=lambda one: one.key)
    assert list(parse_page(write.node_page(expected), ID).nodes) == expected


def sample_pages() -> list[bytes]:
    file = Node(b"f", 1, 0o644, size=7, content=(Extent(3, 0, ID, 5), Extent(4, 1)), xattrs=((b"a", b"b"),))
    link = Node(b"l", 3, target=b"t", link_group=4, birth=(1, 2), digest=None)
    large = replace(file, key=b"z", size=9, content=(ExtentPage(ID, 9, 1),), digest=bytes(16))
    return [
        write.node_page([Node(b"", 2), file, link, Node(b"n", 6, device=(1, 3)), large]),
        write.inner_page(1, [Child(b"", ID, 3, 4), Child(b"f\0g", ID[::-1], 3, 4)]),
        write.extent_page([Extent(3, 0, ID, 5), Extent(4, 2), Extent(3, 0, ID[::-1], 5)]),
        write.extent_inner_page(1, [ExtentPage(ID, 4, 0), ExtentPage(ID, 5, 0)]),
    ]


def test_every_flip_and_cut_of_a_page() -> None:
    for page in sample_pages():
        parse_page(page, ID)
        for at in range(len(page)):
            for value in range(256):
                changed = page[:at] + bytes([value]) + page[at + 1 :]
                try:
                    parse_page(changed, ID)
                except ReadError:
                    continue
            with pytest.raises(ReadError):
                parse_page(page[:at], ID)
        with pytest.raises(ReadError):
            parse_page(page + b"\0", ID)


@given(st.binary(max_size=300), st.integers(1, 4), st.integers(0, 2), st.integers(0, 4))
def test_page_of_garbage(tail: bytes, type_: int, level: int, count: int) -> None:
    head = b"PVT1" + bytes([type_, level, 0, 0]) + struct.pack("<I", count)
    for data in (tail, head + tail, head + struct.pack("<I", 1) + ID + tail):
        try:
            parse_page(data, ID)
        except ReadError:
            continue


def one_node(**fields: object) -> bytes:
    return write.node_page([replace(Node(b"f", 1), **fields)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "page",
    [
        one_node(key=b"."),
        one_node(key=b"a\0.."),
        one_node(key=b"a/b"),
        one_node(key=b"a\0\0b"),
        one_node(key=b"\0"),
        one_node(key=b"n" * 256),
        one_node(mode=0o10000),
        one_node(uid=1 << 32),
        one_node(mtime=(0, 10**9)),
        one_node(size=1),
        one_node(size=5, content=(Extent(6, 1),)),
        one_node(size=5, content=(Extent(6, 1),), partial=True),
        one_node(size=5, content=(Extent(5, 1),), unreadable=True),
        one_node(kind=2, digest=bytes(16)),
        one_node(kind=2, link_group=1),
        one_node(kind=3, target=b""),
        one_node(kind=3, target=b"a\0b"),
        one_node(kind=9),
        one_node(xattrs=((b"b", b""), (b"a", b""))),
        one_node(xattrs=((b"b", b""), (b"b", b""))),
        write.node_page([Node(b"b", 2), Node(b"a", 2)]),
        write.node_page([Node(b"b", 2), Node(b"b", 2)]),
        one_node(flags=1 << 32),
        one_node(kind=3, target=b"t" * 65_536),
        one_node(kind=4, changed=True),
        one_node(kind=2, partial=True),
        one_node(kind=2, entries_left_out=True, file_system_left_out=True),
        one_node(entries_left_out=True),
        one_node(kind=3, target=b"t", file_system_left_out=True),
        one_node(xattrs=((b"n" * 256, b""),)),
        one_node(size=9, content=(Extent(9, 0, ID, (16 << 20) - 8),)),
        write.extent_page([]),
        write.inner_page(0, [Child(b"", ID, 1, 1)]),
        write.page(2, 1, [b"\0\0\1\1\1"], write.Table()),
    ],
)
def test_refused_pages(page: bytes) -> None:
    with pytest.raises(ReadError):
        parse_page(page, ID)


def test_id_table_has_one_form() -> None:
    entry = write.varint(4 << 2) + b"%c" + b"\0"
    for ids, uses in (
        ([ID, ID], b"\0\1"),
        ([ID, ID[::-1]], b"\1\0"),
        ([ID, ID[::-1]], b"\0\0"),
        ([ID], b"\0\1"),
    ):
        table = write.Table()
        table.ids = ids
        with pytest.raises(DamagedError):
            parse_page(write.page(3, 0, [entry % use for use in uses], table), ID)


def test_unknown_marks_are_not_damage() -> None:
    page = bytearray(one_node())
    page[19:20] = write.varint(2048)
    with pytest.raises(UnsupportedError):
        parse_page(bytes(page), ID)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100, 3000])
def test_filter(count: int) -> None:
    source = random.Random(count)
    ids = [source.randbytes(16) for _ in range(count)]
    data = build_filter(ids)
    seed, length, segments = struct.unpack("<QII", data[:16])
    filter_ = Filter(seed, length, segments, data[16:])
    assert all(filter_.may_contain(one) for one in ids)
    false = sum(filter_.may_contain(source.randbytes(16)) for _ in range(20_000))
    assert false < 200  # 1/256 expected


def test_other_parsers_survive_flips() -> None:
    """Signed garbage: only `ReadError` comes out of a body whose signature a malicious writer made."""
    name = "0" * 16 + "-" + "ab" * 16
    register = {
        "v": 1, "nonce": "00" * 16, "state": "COMMITTED", "snapshot": "ab" * 16, "source": "01" * 16,
        "record": {"name": "records/" + "ab" * 16, "hash": "00" * 32},
        "refs": [{"name": "refs/" + "ab" * 16 + "-0", "hash": "00" * 32}], "runs": [name],
    }  # fmt: skip
    record = {"v": 1, "snapshot": "ab" * 16, "source": "01" * 16, "seq": 1, "prev": None,
              "suite": 1, "epoch": 1, "counts": {"chunks": 0, "pages": 0}, "sealed": ""}  # fmt: skip
    detail = {"v": 1, "snapshot": "ab" * 16, "source": {"kind": "d", "string": "s"}, "started": "",
              "complete": True, "root": {"page": "00" * 32, "level": 0, "nodes": 1, "bytes": 0}}  # fmt: skip
    entry = ID[:16] + struct.pack("<III", 0, 0, 5)
    filter_ = build_filter([ID])
    envelope = b"\1\0\0\0\1\0\0\0" + bytes(96)
    section = struct.pack("<H", 1) + envelope + struct.pack("<IIHH", 1, 0, 0, 0)
    run = b"PVBKRUN1" + struct.pack("<QIIII", 1, 1, len(filter_), len(section), 0) + filter_ + entry
    run += bytes(16) + struct.pack("<B3xIII", 2, 9, 0, 0) + section + bytes(9)
    directory = struct.pack("<HI", 1, 1) + envelope + ID + struct.pack("<IIHBB", 0, 5, 0, 2, 0)
    pack = bytes(8) + directory + bytes(240) + struct.pack("<II", 8, len(directory)) + b"PVBKEND1"
    refs = b"PVBKREF1" + struct.pack("<II", 2, 0) + bytes(15) + ID[:17]
    cases: list[tuple[Callable[[bytes], object], bytes]] = [
        (lambda data: parse_register(data, name), json.dumps(register).encode()),
        (lambda data: parse_record(data, ""), json.dumps(record).encode()),
        (lambda data: parse_detail(data, b"\xab" * 16), json.dumps(detail).encode()),
        (lambda data: parse_run(data, ""), run),
        (lambda data: parse_pack(data, 2, ""), pack),
        (lambda data: parse_refs(data, ""), refs),
    ]
    source = random.Random(7)
    for parse, body in cases:
        parse(body)
        for at in range(len(body)):
            for changed in (
                body[:at] + source.randbytes(1) + body[at + 1 :],
                body[:at],
                body[:at] + body[at + 1 :],
            ):
                try:
                    parse(changed)
                except ReadError:
                    continue
