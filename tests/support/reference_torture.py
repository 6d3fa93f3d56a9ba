"""A tree with everything that the format can say, for tests; content comes with it."""

from collections.abc import Callable
from dataclasses import replace

from pvback.reference.pages import (
    CHAR_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    HOLE,
    SOCKET,
    SYMLINK,
    ZEROS,
    Extent,
    Node,
)
from tests.support.reference_writer import Session

TIME = (1_700_000_000, 123_456_789)
BEFORE_1970 = (-12_345_678_901, 999_999_999)


def key(path: str | bytes) -> bytes:
    raw = path.encode() if isinstance(path, str) else path
    return raw.replace(b"/", b"\0")


def directory(path: str | bytes, **fields: object) -> Node:
    base = Node(key(path), DIRECTORY, mode=0o750, uid=0, gid=0, mtime=TIME, ctime=TIME, ino=7)
    return replace(base, **fields)  # type: ignore[arg-type]


def plain_file(session: Session, path: str | bytes, *extents: Extent, **fields: object) -> Node:
    size = sum(one.length for one in extents)
    content = session.content(extents)
    base = Node(key(path), FILE, mode=0o640, mtime=TIME, ctime=TIME, size=size, content=content)
    return replace(base, **fields)  # type: ignore[arg-type]


def content_of(extents: list[Extent], chunk: Callable[[bytes], bytes]) -> bytes:
    return b"".join(
        bytes(one.length) if one.kind else chunk(one.chunk)[one.offset : one.offset + one.length]
        for one in extents
    )


def torture(session: Session) -> tuple[list[Node], dict[bytes, bytes]]:
    """Nodes, and the content of each file by its key."""
    expected: dict[bytes, bytes] = {}
    nodes = [directory("")]

    def add(path: str | bytes, extents: list[Extent], **fields: object) -> Node:
        expected[key(path)] = content_of(extents, session.chunks.__getitem__)
        nodes.append(plain_file(session, path, *extents, **fields))
        return nodes[-1]

    data = session.data
    add("empty", [])
    add("text", data(b"hello\n" * 5), mode=0o4711, digest=session.digest(b"hello\n" * 5))
    add(b"\xff\xfe not utf-8\n", data(b"raw name"), mtime=BEFORE_1970, birth=(5, 6))
    add(b"n" * 255, data(b"long name"), mode=0)
    sparse = [Extent(1 << 20, HOLE), *data(b"in the middle" * 100), Extent(3 << 20, HOLE)]
    add("sparse", sparse)
    add("zeros", [Extent(300_000, ZEROS), *data(b"end")])
    add("hole only", [Extent(12_345_678, HOLE)])
    many = data(*(bytes([index]) * (1000 + index) for index in range(23)))
    add("many extents", many, xattrs=((b"user.big", b"v" * 200), (b"user.empty", b"")))
    shared = data(b"0123456789" * 50)[0]
    add("slice 1", [replace(shared, length=100, offset=0)])
    add("slice 2", [replace(shared, length=400, offset=100)])
    nodes.append(directory("dir"))
    first = add("dir/linked a", data(b"one inode"), link_group=3, ino=99)
    nodes.append(directory("dir2"))
    for name in ("dir2/linked b", "linked c"):
        nodes.append(replace(first, key=key(name)))
        expected[key(name)] = b"one inode"
    link = Node(key("dir/link"), SYMLINK, 0o777, mtime=TIME, ctime=TIME, target=b"/etc/\xff missing")
    nodes += [link, replace(link, key=key("dangling"), target=b"..")]
    special = Node(key("fifo"), FIFO, 0o622, mtime=TIME, ctime=TIME, uid=12, gid=13)
    nodes += [special, replace(special, key=key("socket"), kind=SOCKET)]
    nodes.append(replace(special, key=key("null"), kind=CHAR_DEVICE, device=(1, 3), mode=0o666))
    nodes.append(directory("read only", mode=0o555, xattrs=((b"user.on dir", b"x"),)))
    nodes.append(directory("read only/below", mtime=(1, 1)))
    add("read only/below/file", data(b"deep"), uid=1000, gid=1001, mode=0o6755)
    nodes.append(directory("dir!"))  # `!` sorts after the separator, before any letter
    add("dir!/x", data(b"after dir's content"))
    return nodes, expected


def deep(session: Session, depth: int) -> tuple[list[Node], bytes]:
    """Nested directories whose path is much longer than PATH_MAX, a file at the bottom."""
    names = [b"%03d-%s" % (index, b"d" * 200) for index in range(depth)]
    nodes = [directory("")]
    nodes += [directory(b"/".join(names[: index + 1])) for index in range(depth)]
    path = b"/".join([*names, b"bottom"])
    nodes.append(plain_file(session, path, *session.data(b"found"), link_group=1))
    nodes.append(replace(nodes[-1], key=b"zz link at the top"))
    return nodes, path
