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


def rb_in_order(prog: Program, root: int, lost: list[FaultError]) -> list[int]:
    """
    Nodes of a tree in its order, as ``rb_first()`` and ``rb_next()``.

    :param root: ``struct rb_node *`` at the top, 0 for an empty tree
    :param lost: What is wrong is appended: nodes that cannot be read, without which what is below
        them is not found either, and second ways to a node, which are not taken.
    :return: ``struct rb_node *`` as integers
    """
    layout = _RbNode.layout(prog)
    children: dict[int, tuple[int, int]] = {}
    level = [root] if root else []
    seen = set(level)
    while level and len(seen) <= _MAX_NODES:
        below: list[int] = []
        for address, node in layout.read_many(level):
            if node is None:
                lost.append(FaultError("node of a tree cannot be read", address))
                continue
            ways = [_way(child, seen, address, lost) for child in (node.left, node.right)]
            children[address] = ways[0], ways[1]
            below += filter(None, ways)
        level = below
    if level:
        lost.append(FaultError("tree has no end", root))
    found: list[int] = []
    above: list[int] = []
    at = root
    while at or above:
        while at in children:
            above.append(at)
            at = children[at][0]
        if not above:
            break
        at = above.pop()
        found.append(at)
        at = children[at][1]
    return found


def _way(child: int, seen: set[int], node: int, lost: list[FaultError]) -> int:
    if child in seen:
        lost.append(FaultError("tree has two ways to a node", node))
        return 0
    if child:
        seen.add(child)
    return child
