"""Walking a snapshot's tree, and the extents of its files (section 9 of the format)."""

from collections.abc import Callable, Iterator

from pvback.reference.errors import DamagedError, NotFoundError
from pvback.reference.pages import (
    DIRECTORY,
    PAGE_EXTENTS,
    PAGE_EXTENTS_INNER,
    PAGE_INNER,
    PAGE_NODES,
    Child,
    Extent,
    ExtentPage,
    Node,
    Page,
    parse_page,
)
from pvback.reference.wire import U64


class Tree:
    """One snapshot's tree. `fetch` gives a page's bytes for its id, the id recomputed."""

    def __init__(self, fetch: Callable[[bytes], bytes], root: Child, level: int) -> None:
        self._fetch = fetch
        self._root = root
        self._level = level

    def _page(self, id_: bytes, type_: int, level: int) -> Page:
        page = parse_page(self._fetch(id_), id_)
        if (page.type, page.level) != (type_, level):
            raise DamagedError(
                f"page {id_.hex()[:8]}: type {page.type}, level {page.level}, "
                f"where {type_}, {level} should be"
            )
        return page

    def _below(self, child: Child, level: int, start: bytes) -> Iterator[Node]:
        if not level:
            nodes = self._page(child.id, PAGE_NODES, 0).nodes
            first = nodes[0].key if nodes else b""
            _check_sums(child, first, len(nodes), sum(node.size for node in nodes))
            yield from (node for node in nodes if node.key >= start)
            return
        children = self._page(child.id, PAGE_INNER, level).children
        nodes_below = sum(one.nodes for one in children)
        _check_sums(child, children[0].key, nodes_below, sum(one.bytes for one in children))
        following = [one.key for one in children[1:]] + [None]
        for one, after in zip(children, following, strict=True):
            if after is None or after > start:
                yield from _within(self._below(one, level - 1, start), after)

    def _from(self, start: bytes) -> Iterator[Node]:
        return self._below(self._root, self._level, start)

    def walk(self, top: bytes = b"") -> Iterator[Node]:
        """The node with key `top` and everything below it, each directory before its content.

        Raises `NotFoundError` when there is no such node, `DamagedError` when a node has no
        directory above it.
        """
        above: list[bytes] = []
        is_first = True
        for node in self._from(top):
            if is_first and node.key != top:
                break
            if not is_first:
                if not is_below(node.key, top):
                    return
                parent = parent_key(node.key)
                while above and above[-1] != parent:
                    above.pop()
                if not above:
                    raise DamagedError(f"node {node.path!r} has no directory above it")
            is_first = False
            if node.kind == DIRECTORY:
                above.append(node.key)
            yield node
        if is_first:
            raise NotFoundError(f"no such path: {display(top)}")
        # A file at the top ends the walk here, too.

    def find(self, key: bytes) -> Node:
        """The node with this key. Raises `NotFoundError`."""
        for node in self._from(key):
            if node.key == key:
                return node
            break
        raise NotFoundError(f"no such path: {display(key)}")

    def extents(self, node: Node, seen: Callable[[bytes], None] | None = None) -> Iterator[Extent]:
        """A file's extents in order; each extent page's id goes to `seen` before it is read."""
        for one in node.content:
            if isinstance(one, Extent):
                yield one
            else:
                yield from self._extents_of(one, seen)

    def _extents_of(self, child: ExtentPage, seen: Callable[[bytes], None] | None) -> Iterator[Extent]:
        if seen is not None:
            seen(child.id)
        type_ = PAGE_EXTENTS_INNER if child.level else PAGE_EXTENTS
        page = self._page(child.id, type_, child.level)
        covered = sum(one.length for one in page.extents or page.extent_pages)
        if covered != child.length:
            raise DamagedError(f"page {child.id.hex()[:8]}: covers {covered}, not {child.length}")
        yield from page.extents
        for one in page.extent_pages:
            yield from self._extents_of(one, seen)

    def pages(self) -> Iterator[bytes]:
        """Ids of all node pages, inner ones first. Extent pages come from `extents`."""
        yield from self._pages_below(self._root.id, self._level)

    def _pages_below(self, id_: bytes, level: int) -> Iterator[bytes]:
        yield id_
        if level:
            for one in self._page(id_, PAGE_INNER, level).children:
                yield from self._pages_below(one.id, level - 1)


def _check_sums(child: Child, key: bytes, nodes: int, bytes_: int) -> None:
    if (child.key, child.nodes, child.bytes) != (key, nodes, min(bytes_, U64)):
        raise DamagedError(f"page {child.id.hex()[:8]}: is not what the page above says")


def _within(nodes: Iterator[Node], end: bytes | None) -> Iterator[Node]:
    for node in nodes:
        if end is not None and node.key >= end:
            raise DamagedError(f"node {node.path!r} stands in the wrong page")
        yield node


def is_below(key: bytes, top: bytes) -> bool:
    """Whether the node with `key` lies below the one with key `top`."""
    return bool(key) if not top else key.startswith(top + b"\0")


def parent_key(key: bytes) -> bytes:
    """The key of the directory that holds the node; for names in the root the empty key."""
    return key.rpartition(b"\0")[0]


def display(key: bytes) -> str:
    """A key for messages: one line, every byte recoverable."""
    return repr(key.replace(b"\0", b"/") or b"/")[1:]
