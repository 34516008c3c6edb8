# SPDX-License-Identifier: LGPL-2.1-or-later
"""Red-black trees, read level by level in the order of addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from drgn import Program

from drgn_sockets.kernel.lost import Lost, present
from drgn_sockets.kernel.structs import Int, Struct

_MAX_NODES = 1 << 22

_Child = Union[int, Lost]


class _RbNode(Struct):
    C_TYPE = "struct rb_node"

    left = Int("rb_left")
    right = Int("rb_right")


def rb_for_each(prog: Program, root: int, limit: int = _MAX_NODES) -> Iterator[int | Lost]:
    """
    Iterate over the nodes of a tree in its order, as ``rb_first()`` and ``rb_next()``.

    :param root: ``struct rb_node *`` at the top, 0 for an empty tree
    :param limit: How many nodes the tree may have
    :return: Iterator of ``struct rb_node *`` as integers, each once. A ``Lost`` stands for a
        subtree whose root cannot be read, and for a second way to a node.
    """
    layout = _RbNode.layout(prog)
    children: dict[int, tuple[_Child, _Child]] = {}
    level = [root] if root else []
    seen = set(level)
    while level and len(seen) <= limit:
        below: list[int] = []
        # A node that cannot be read is left out of children; a Lost is yielded in its place below.
        for node in present(layout.read_many(level)):
            left, right = _child(node.left, seen), _child(node.right, seen)
            children[node.address] = left, right
            below += [child for child in (left, right) if child and not isinstance(child, Lost)]
        level = below
    too_many = set(level)
    above: list[int] = []
    at: _Child = root
    while True:
        while not isinstance(at, Lost) and at in children:
            above.append(at)
            at = children[at][0]
        if isinstance(at, Lost):
            yield at
        elif at:
            why = f"tree has more than {limit} nodes" if at in too_many else ""
            yield Lost("struct rb_node", at, why)
        if not above:
            return
        node_at = above.pop()
        yield node_at
        at = children[node_at][1]


def _child(child: int, seen: set[int]) -> _Child:
    """A child of a node, unless the tree has led to it before."""
    if child in seen:
        return Lost("struct rb_node", child, "tree has two ways to a node")
    if child:
        seen.add(child)
    return child
