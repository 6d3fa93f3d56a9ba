"""Tree pages and the nodes in them (sections 9.1 to 9.4 of the format).

A page's bytes are authentic, by their id, before they come here; everything is bounded and checked
all the same, because a writer may store garbage under its own sources.
"""

from dataclasses import dataclass

from pvback.reference.errors import DamagedError, UnsupportedError
from pvback.reference.wire import U64, Cursor, wrap_i64

PAGE_BYTES_MAX = 8 << 20
KEY_BYTES_MAX = 1 << 20
NAME_BYTES_MAX = 255
SYMLINK_BYTES_MAX = 65_535
CHUNK_BYTES_MAX = 16 << 20
NANOSECONDS = 1_000_000_000

PAGE_NODES, PAGE_INNER, PAGE_EXTENTS, PAGE_EXTENTS_INNER = 1, 2, 3, 4
FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHAR_DEVICE, BLOCK_DEVICE = 1, 2, 3, 4, 5, 6, 7
DATA, HOLE, ZEROS = 0, 1, 2

_MODE, _UID, _GID, _FLAGS, _XATTRS, _BIRTH, _LINK, _DIGEST = 1, 2, 4, 8, 16, 32, 64, 128
_CHANGED, _UNREADABLE, _PARTIAL = 256, 512, 1024
_ENTRIES_LEFT_OUT, _FILE_SYSTEM_LEFT_OUT = 2048, 4096
_MASK_KNOWN = 8191

Time = tuple[int, int]
Xattrs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Extent:
    """A range of a file: `length` bytes of a chunk from `offset` on, a hole, or allocated zeros."""

    length: int
    kind: int
    chunk: bytes = b""
    offset: int = 0


@dataclass(frozen=True)
class ExtentPage:
    """A child of a file's content: a page of `level` that covers `length` bytes."""

    id: bytes
    length: int
    level: int


@dataclass(frozen=True)
class Child:
    """An entry of an inner page: the child's first key, its id, nodes and file bytes below it."""

    key: bytes
    id: bytes
    nodes: int
    bytes: int


@dataclass(frozen=True)
class Node:
    """One file, directory or other object. Times are (seconds, nanoseconds), seconds signed.

    `content` lists extents (inline) or extent pages, in the order of the file. Of a directory some entries
    were left out on purpose, or all, as another file system was mounted there.
    """

    key: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    flags: int = 0
    xattrs: Xattrs = ()
    mtime: Time = (0, 0)
    ctime: Time = (0, 0)
    ino: int = 0
    birth: Time | None = None
    link_group: int | None = None
    digest: bytes | None = None
    changed: bool = False
    unreadable: bool = False
    partial: bool = False
    size: int = 0
    content: tuple[Extent, ...] | tuple[ExtentPage, ...] = ()
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    entries_left_out: bool = False
    file_system_left_out: bool = False

    @property
    def path(self) -> bytes:
        """The key with `/` between the names; empty for the root."""
        return self.key.replace(b"\0", b"/")


@dataclass(frozen=True)
class Page:
    """A parsed page; the tuple that belongs to its type is filled."""

    type: int
    level: int
    nodes: tuple[Node, ...] = ()
    children: tuple[Child, ...] = ()
    extents: tuple[Extent, ...] = ()
    extent_pages: tuple[ExtentPage, ...] = ()


class _Table:
    """The id table of a page; checks that ids are distinct and in order of first use."""

    def __init__(self, cursor: Cursor, count: int) -> None:
        if count * 32 > cursor.left:
            cursor.fail("id table does not fit")
        self._ids = [cursor.take(32) for _ in range(count)]
        self._cursor = cursor
        self._used = 0
        if len(set(self._ids)) != count:
            cursor.fail("an id stands twice in the table")

    def read(self) -> bytes:
        position = self._cursor.varint()
        if position >= len(self._ids) or position > self._used:
            self._cursor.fail("an id is not there or out of order of first use")
        self._used = max(self._used, position + 1)
        return self._ids[position]

    def end(self) -> None:
        if self._used != len(self._ids):
            self._cursor.fail("an id of the table is not used")


def check_key(key: bytes, cursor: Cursor) -> None:
    """Names of 1 to 255 bytes, without `/`, not `.` or `..`."""
    if len(key) > KEY_BYTES_MAX:
        cursor.fail("key above 1 MiB")
    for name in key.split(b"\0") if key else ():
        if not 1 <= len(name) <= NAME_BYTES_MAX or b"/" in name or name in (b".", b".."):
            cursor.fail(f"name {name[:40]!r} is not allowed")


def _read_key(cursor: Cursor, previous: bytes | None) -> bytes:
    shared = cursor.varint()
    if shared > len(previous or b""):
        cursor.fail("shares more with the previous key than there is")
    key = (previous or b"")[:shared] + cursor.counted(KEY_BYTES_MAX)
    check_key(key, cursor)
    if previous is not None and key <= previous:
        cursor.fail("keys are out of order")
    return key


def _read_nanoseconds(cursor: Cursor) -> int:
    value = cursor.varint()
    if value >= NANOSECONDS:
        cursor.fail("nanoseconds out of range")
    return value


def _read_time(cursor: Cursor, base: int) -> Time:
    return wrap_i64(base + cursor.zigzag()), _read_nanoseconds(cursor)


def _read_xattrs(cursor: Cursor) -> Xattrs:
    found: list[tuple[bytes, bytes]] = []
    for _ in range(cursor.varint()):
        name = cursor.counted(NAME_BYTES_MAX)
        found.append((name, cursor.counted(PAGE_BYTES_MAX)))
        if not name or b"\0" in name or (len(found) > 1 and found[-2][0] >= name):
            cursor.fail("xattrs are out of order or have no sound name")
    return tuple(found)


def _read_u32(cursor: Cursor) -> int:
    value = cursor.varint()
    if value >> 32:
        cursor.fail("number above 2^32")
    return value


def _read_extent(cursor: Cursor, table: _Table) -> Extent:
    head = cursor.varint()
    length, kind = head >> 2, head & 3
    if kind == 3 or not length:
        cursor.fail("extent of unknown type or no length")
    if kind != DATA:
        return Extent(length, kind)
    extent = Extent(length, kind, table.read(), cursor.varint())
    if extent.offset + length > CHUNK_BYTES_MAX:
        cursor.fail("extent reaches beyond the longest chunk")
    return extent


def _read_content(cursor: Cursor, table: _Table) -> tuple[Extent, ...] | tuple[ExtentPage, ...]:
    level = cursor.u8()
    count = cursor.varint()
    if count > cursor.left:
        cursor.fail("content does not fit")
    if not level:
        return tuple(_read_extent(cursor, table) for _ in range(count))
    return tuple(_read_extent_page(cursor, table, level - 1) for _ in range(count))


def _read_extent_page(cursor: Cursor, table: _Table, level: int) -> ExtentPage:
    page = ExtentPage(table.read(), cursor.varint(), level)
    if not page.length:
        cursor.fail("extent page that covers nothing")
    return page


@dataclass
class _Shape:
    """The part of a node that depends on its kind."""

    size: int = 0
    content: tuple[Extent, ...] | tuple[ExtentPage, ...] = ()
    target: bytes = b""
    device: tuple[int, int] = (0, 0)


def _read_shape(cursor: Cursor, table: _Table, kind: int) -> _Shape:
    if kind == FILE:
        return _Shape(size=cursor.varint(), content=_read_content(cursor, table))
    if kind == SYMLINK:
        target = cursor.counted(SYMLINK_BYTES_MAX)
        if not target or b"\0" in target:
            cursor.fail("symlink without a sound target")
        return _Shape(target=target)
    if kind in (CHAR_DEVICE, BLOCK_DEVICE):
        return _Shape(device=(_read_u32(cursor), _read_u32(cursor)))
    return _Shape()


def _check_content(node: Node, cursor: Cursor) -> None:
    covered = sum(one.length for one in node.content)
    if node.unreadable:
        is_sound = not node.content
    else:
        is_sound = covered <= node.size if node.partial else covered == node.size
    if not is_sound:
        cursor.fail(f"content covers {covered} bytes of {node.size}")
    if node.kind != FILE and (node.partial or node.digest is not None):
        cursor.fail("marks of a file on something else")
    if node.kind not in (FILE, DIRECTORY) and (node.changed or node.unreadable):
        cursor.fail("marks of what is read on something else")
    is_left_out = node.entries_left_out or node.file_system_left_out
    if is_left_out and (node.kind != DIRECTORY or (node.entries_left_out and node.file_system_left_out)):
        cursor.fail("a directory left out twice, or the mark on something else")
    if node.kind == DIRECTORY and node.link_group is not None:
        cursor.fail("a directory with several links")


def _read_node(cursor: Cursor, table: _Table, previous: Node | None) -> Node:
    base = previous or Node(b"", 0)
    key = _read_key(cursor, previous.key if previous else None)
    kind, mask = cursor.u8(), cursor.varint()
    if not FILE <= kind <= BLOCK_DEVICE or mask & ~_MASK_KNOWN:
        raise UnsupportedError(f"tree page: node of kind {kind}, mask {mask:#x}")
    mode = cursor.varint() if mask & _MODE else base.mode
    uid = _read_u32(cursor) if mask & _UID else base.uid
    gid = _read_u32(cursor) if mask & _GID else base.gid
    flags = _read_u32(cursor) if mask & _FLAGS else base.flags
    xattrs = _read_xattrs(cursor) if mask & _XATTRS else base.xattrs
    mtime = _read_time(cursor, base.mtime[0])
    ctime = _read_time(cursor, mtime[0])
    ino = (base.ino + cursor.zigzag()) & U64
    birth = _read_time(cursor, mtime[0]) if mask & _BIRTH else None
    link_group = cursor.varint() if mask & _LINK else None
    digest = cursor.take(16) if mask & _DIGEST else None
    shape = _read_shape(cursor, table, kind)
    if mode & ~0o7777:
        cursor.fail("mode above 07777")
    node = Node(
        key, kind, mode, uid, gid, flags, xattrs, mtime, ctime, ino, birth, link_group, digest,
        bool(mask & _CHANGED), bool(mask & _UNREADABLE), bool(mask & _PARTIAL),
        shape.size, shape.content, shape.target, shape.device,
        bool(mask & _ENTRIES_LEFT_OUT), bool(mask & _FILE_SYSTEM_LEFT_OUT),
    )  # fmt: skip
    _check_content(node, cursor)
    return node


def _read_nodes(cursor: Cursor, table: _Table, count: int) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for _ in range(count):
        nodes.append(_read_node(cursor, table, nodes[-1] if nodes else None))
    return tuple(nodes)


def _read_children(cursor: Cursor, table: _Table, count: int) -> tuple[Child, ...]:
    children: list[Child] = []
    for _ in range(count):
        key = _read_key(cursor, children[-1].key if children else None)
        children.append(Child(key, table.read(), cursor.varint(), cursor.varint()))
    return tuple(children)


def _read_entries(cursor: Cursor, table: _Table, type_: int, level: int, count: int) -> Page:
    if type_ == PAGE_NODES:
        return Page(type_, level, nodes=_read_nodes(cursor, table, count))
    if type_ == PAGE_INNER:
        return Page(type_, level, children=_read_children(cursor, table, count))
    if type_ == PAGE_EXTENTS:
        extents = tuple(_read_extent(cursor, table) for _ in range(count))
        return Page(type_, level, extents=extents)
    pages = tuple(_read_extent_page(cursor, table, level - 1) for _ in range(count))
    return Page(type_, level, extent_pages=pages)


def parse_page(data: bytes, id_: bytes) -> Page:
    """A whole page; `id_` is for messages."""
    what = f"page {id_.hex()[:8]}"
    if len(data) > PAGE_BYTES_MAX:
        raise DamagedError(f"{what}: above 8 MiB")
    cursor = Cursor(data, what)
    cursor.magic(b"PVT1")
    type_, level = cursor.u8(), cursor.u8()
    cursor.zero(2)
    count = cursor.u32()
    if not PAGE_NODES <= type_ <= PAGE_EXTENTS_INNER:
        raise UnsupportedError(f"{what}: page of type {type_}")
    if (level > 0) != (type_ in (PAGE_INNER, PAGE_EXTENTS_INNER)) or (not count and type_ != PAGE_NODES):
        cursor.fail("level does not fit the type, or no entries")
    table = _Table(cursor, cursor.u32())
    page = _read_entries(cursor, table, type_, level, count)
    table.end()
    cursor.end()
    return page
