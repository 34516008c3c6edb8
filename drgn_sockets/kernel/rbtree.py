# SPDX-License-Identifier: LGPL-2.1-or-later
"""Red-black trees, level by level in the order of addresses."""

from __future__ import annotations

from drgn import FaultError, Program

from drgn_sockets.kernel.structs import Int, Struct

_MAX_NODES = 1 << 22


class _RbNode(Struct):
    C_TYPE = "struct rb_node"

    left = Int("rb_left")
    right = Int("rb_right")


def rb_in_order(prog: Program, root: int) -> list[int]:
    """
    Nodes of a tree in its order, as ``rb_first()`` and ``rb_next()``.

    :param root: ``struct rb_node *`` at the top, 0 for an empty tree
    :return: ``struct rb_node *`` as integers
    :raises FaultError: if a node cannot be read, or there are two ways to one
    """
    layout = _RbNode.layout(prog)
    nodes: dict[int, _RbNode] = {}
    level = [root] if root else []
    while level:
        below: list[int] = []
        for address, node in layout.read_many(level):
            if node is None:
                raise FaultError("node of a tree cannot be read", address)
            nodes[address] = node
            below += [child for child in (node.left, node.right) if child]
        level = below
        if not nodes.keys().isdisjoint(level) or len(set(level)) < len(level):
            raise FaultError("tree has two ways to a node", root)
        if len(nodes) > _MAX_NODES:
            raise FaultError("tree has no end", root)
    found: list[int] = []
    above: list[int] = []
    at = root
    while at or above:
        while at:
            above.append(at)
            at = nodes[at].left
        at = above.pop()
        found.append(at)
        at = nodes[at].right
    return found
