# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is a tree walked in its order, and does a damaged one end?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.rbtree import rb_for_each

from .fake_kernel import PAGE, FakeKernel

NODES = 0xFFFF888100000000
SIZE = 64


class Tree:
    """Nodes by number, at places that have nothing to do with their order."""

    def __init__(self) -> None:
        self.kernel = k = FakeKernel()
        self.type = k.struct(
            "rb_node", ("colour", k.ulong), ("rb_right", k.ptr), ("rb_left", k.ptr)
        )
        k.map(NODES, 4 * PAGE)

    def at(self, i: int) -> int:
        return NODES + i * 37 % 256 * SIZE

    def node(self, i: int, left: int = 0, right: int = 0) -> None:
        self.kernel.put(self.at(i), self.type, {"rb_left": left, "rb_right": right})

    def of(self, numbers: list[int]) -> int:
        """A tree of *numbers*, in their order, that begins in the middle; its root."""
        if not numbers:
            return 0
        middle = len(numbers) // 3
        self.node(numbers[middle], self.of(numbers[:middle]), self.of(numbers[middle + 1 :]))
        return self.at(numbers[middle])

    def walk(self, root: int, limit: int = 1 << 20) -> list[int | Lost]:
        return list(rb_for_each(self.kernel.prog, root, limit))


@given(st.lists(st.integers(0, 255), unique=True, max_size=80))
def test_in_order(numbers: list[int]) -> None:
    tree = Tree()
    assert tree.walk(tree.of(numbers)) == [tree.at(i) for i in numbers]


@pytest.mark.parametrize("child", ["left", "right"])
@pytest.mark.parametrize("to", range(8))
def test_a_loop(to: int, child: str) -> None:
    tree = Tree()
    root = tree.of(list(range(8)))
    for last in range(8):
        tree.of(list(range(8)))
        # Not to a node that it has as a child anyway.
        tree.node(last, **{child: tree.at(to)})
        walked = tree.walk(root)
        nodes = [entry for entry in walked if not isinstance(entry, Lost)]
        lost = [entry for entry in walked if isinstance(entry, Lost)]
        assert len(set(nodes)) == len(nodes) <= 8
        for entry in lost:
            assert entry == Lost("struct rb_node", tree.at(to), "tree has two ways to a node")


@pytest.mark.parametrize("address", [1, 16, NODES - PAGE, 1 << 63, (1 << 64) - 1])
def test_what_cannot_be_read(address: int) -> None:
    tree = Tree()
    root = tree.of(list(range(8)))
    tree.node(7, left=address)
    lost = Lost("struct rb_node", address)
    assert tree.walk(root) == [*map(tree.at, range(7)), lost, tree.at(7)]
    assert tree.walk(address) == [lost]


def test_a_tree_that_is_too_large() -> None:
    tree = Tree()
    root = tree.of(list(range(80)))
    walked = tree.walk(root, limit=20)
    lost = [entry for entry in walked if isinstance(entry, Lost)]
    assert lost and all(entry.why == "tree has more than 20 nodes" for entry in lost)
    assert len(walked) - len(lost) <= 20
    assert tree.walk(0) == []
