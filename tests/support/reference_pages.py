"""Pages by the document, for tests: the way back of `pvback.reference.pages`."""

import struct
from collections.abc import Sequence
from dataclasses import replace

from pvback.reference.pages import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DATA,
    FILE,
    SYMLINK,
    Child,
    Extent,
    ExtentPage,
    Node,
)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    """A difference, modulo 2^64."""
    value &= (1 << 64) - 1
    signed = value - (1 << 64) if value >> 63 else value
    return varint(((signed << 1) ^ (signed >> 63)) & ((1 << 64) - 1))


class Table:
    def __init__(self) -> None:
        self.ids: list[bytes] = []

    def use(self, id_: bytes) -> bytes:
        if id_ not in self.ids:
            self.ids.append(id_)
        return varint(self.ids.index(id_))


def _front(key: bytes, previous: bytes) -> bytes:
    shared = 0
    while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
        shared += 1
    return varint(shared) + varint(len(key) - shared) + key[shared:]


def _extent(one: Extent, table: Table) -> bytes:
    head = varint(one.length << 2 | one.kind)
    return head + table.use(one.chunk) + varint(one.offset) if one.kind == DATA else head


def _extent_page(one: ExtentPage, table: Table) -> bytes:
    return table.use(one.id) + varint(one.length)


def _content(content: Sequence[Extent | ExtentPage], table: Table) -> bytes:
    level = content[0].level + 1 if content and isinstance(content[0], ExtentPage) else 0
    out = varint(level) + varint(len(content))
    for one in content:
        out += _extent(one, table) if isinstance(one, Extent) else _extent_page(one, table)
    return out


def _xattrs(node: Node) -> bytes:
    out = varint(len(node.xattrs))
    for name, value in node.xattrs:
        out += varint(len(name)) + name + varint(len(value)) + value
    return out


def _tail(node: Node, table: Table) -> bytes:
    out = b""
    if node.birth is not None:
        out += zigzag(node.birth[0] - node.mtime[0]) + varint(node.birth[1])
    if node.link_group is not None:
        out += varint(node.link_group)
    out += node.digest or b""
    if node.kind == FILE:
        out += varint(node.size) + _content(node.content, table)
    elif node.kind == SYMLINK:
        out += varint(len(node.target)) + node.target
    elif node.kind in (CHAR_DEVICE, BLOCK_DEVICE):
        out += varint(node.device[0]) + varint(node.device[1])
    return out


def encode_node(node: Node, previous: Node, table: Table) -> bytes:
    mask = 0
    fields = b""
    for bit, name in ((1, "mode"), (2, "uid"), (4, "gid"), (8, "flags")):
        if getattr(node, name) != getattr(previous, name):
            mask |= bit
            fields += varint(getattr(node, name))
    if node.xattrs != previous.xattrs:
        mask |= 16
        fields += _xattrs(node)
    optional = ((32, node.birth), (64, node.link_group), (128, node.digest))
    mask |= sum(bit for bit, value in optional if value is not None)
    mask |= node.changed << 8 | node.unreadable << 9 | node.partial << 10
    mask |= node.entries_left_out << 11 | node.file_system_left_out << 12
    fields += zigzag(node.mtime[0] - previous.mtime[0]) + varint(node.mtime[1])
    fields += zigzag(node.ctime[0] - node.mtime[0]) + varint(node.ctime[1])
    fields += zigzag(node.ino - previous.ino)
    head = _front(node.key, previous.key) + bytes([node.kind]) + varint(mask)
    return head + fields + _tail(node, table)


def page(type_: int, level: int, entries: Sequence[bytes], table: Table) -> bytes:
    head = b"PVT1" + bytes([type_, level, 0, 0]) + struct.pack("<II", len(entries), len(table.ids))
    return head + b"".join(table.ids) + b"".join(entries)


def node_page(nodes: Sequence[Node]) -> bytes:
    table, entries = Table(), []
    previous = Node(b"", 0)
    for node in nodes:
        entries.append(encode_node(node, previous, table))
        previous = replace(node)
    return page(1, 0, entries, table)


def inner_page(level: int, children: Sequence[Child]) -> bytes:
    table, entries = Table(), []
    previous = b""
    for one in children:
        entry = _front(one.key, previous) + table.use(one.id)
        entries.append(entry + varint(one.nodes) + varint(one.bytes))
        previous = one.key
    return page(2, level, entries, table)


def extent_page(extents: Sequence[Extent]) -> bytes:
    table = Table()
    return page(3, 0, [_extent(one, table) for one in extents], table)


def extent_inner_page(level: int, pages: Sequence[ExtentPage]) -> bytes:
    table = Table()
    return page(4, level, [_extent_page(one, table) for one in pages], table)
