"""Pages that are sound by themselves but do not fit together."""

from collections.abc import Callable

import pytest

from pvback.reference import DamagedError
from pvback.reference.pages import DIRECTORY, FILE, Child, Extent, ExtentPage, Node
from pvback.reference.tree import Tree
from tests.support import reference_pages as pages

ROOT, LEFT, RIGHT = (bytes([value]) * 32 for value in (1, 2, 3))
FIRST = [Node(b"", DIRECTORY), Node(b"a", DIRECTORY)]
SECOND = [Node(b"b", DIRECTORY), Node(b"c", DIRECTORY)]


def tree(left: list[Node], right: list[Node], children: list[Child], root: Child | None = None) -> Tree:
    stored = {ROOT: pages.inner_page(1, children), LEFT: pages.node_page(left), RIGHT: pages.node_page(right)}
    return Tree(stored.__getitem__, root or Child(b"", ROOT, 4, 0), 1)


def test_sound_tree() -> None:
    found = tree(FIRST, SECOND, [Child(b"", LEFT, 2, 0), Child(b"b", RIGHT, 2, 0)])
    assert [node.key for node in found.walk()] == [b"", b"a", b"b", b"c"]
    assert list(found.pages()) == [ROOT, LEFT, RIGHT]
    assert found.find(b"c").kind == DIRECTORY


@pytest.mark.parametrize(
    "make",
    [
        lambda: tree(FIRST, SECOND, [Child(b"", LEFT, 1, 0), Child(b"b", RIGHT, 3, 0)]),
        lambda: tree(FIRST, SECOND, [Child(b"", LEFT, 2, 1), Child(b"b", RIGHT, 2, 0)]),
        lambda: tree(FIRST, SECOND, [Child(b"", LEFT, 2, 0), Child(b"aa", RIGHT, 2, 0)]),
        lambda: tree(
            FIRST, SECOND, [Child(b"", LEFT, 2, 0), Child(b"b", RIGHT, 2, 0)], Child(b"", ROOT, 5, 0)
        ),
        lambda: tree(
            [*FIRST, Node(b"bb", DIRECTORY)], SECOND, [Child(b"", LEFT, 3, 0), Child(b"b", RIGHT, 2, 0)],
            Child(b"", ROOT, 5, 0),
        ),
        lambda: tree(FIRST, SECOND, [Child(b"", ROOT, 2, 0), Child(b"b", RIGHT, 2, 0)]),
    ],
)  # fmt: skip
def test_pages_that_do_not_fit(make: Callable[[], Tree]) -> None:
    with pytest.raises(DamagedError):
        list(make().walk())


@pytest.mark.parametrize(("length", "level"), [(9, 0), (11, 0), (10, 1)])
def test_extent_page_that_does_not_fit(length: int, level: int) -> None:
    stored = {LEFT: pages.extent_page([Extent(10, 1)])}
    node = Node(b"f", FILE, size=length, content=(ExtentPage(LEFT, length, level),))
    with pytest.raises(DamagedError):
        list(Tree(stored.__getitem__, Child(b"", ROOT, 1, 0), 0).extents(node))
