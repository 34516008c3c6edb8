# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Linked lists: ``list_head``, ``hlist``, and structures that point to the next of their kind.

drgn's ``list_for_each()`` and its like follow a damaged list for ever, or stop at the first link
that cannot be read. These walks are bounded, visit each node once, and yield a
:class:`~drgn_sockets.kernel.lost.Lost` where nodes may be missing. Addresses are integers; an
entry costs one or two reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from drgn import FaultError, Program

from drgn_sockets.kernel.lost import Lost, lost_by
from drgn_sockets.kernel.memory import read_pointers
from drgn_sockets.kernel.structs import Layout, Struct
from drgn_sockets.program import is_live

S = TypeVar("S", bound=Struct)

# Longer than any real list.
MAX_ENTRIES = 1 << 20
# No kernel maps a structure here, but QEMU's cores have something to read at address 0.
_NULL_PAGE = 1 << 12


def list_for_each(prog: Program, head: int, limit: int = MAX_ENTRIES) -> Iterator[int | Lost]:
    """
    Iterate over the nodes of a list, as ``list_for_each()``.

    Where a link is damaged, the nodes behind it are found from the other end of the list::

        head -> a -> b -> ?   d -> head      a, b, Lost, d

    :param head: ``struct list_head *`` as an integer
    :param limit: How many nodes the list may have
    :return: Iterator of ``struct list_head *`` as integers, each once. A ``Lost`` stands where
        there may be more nodes.
    """
    forward: list[int] = []
    places: dict[int, int] = {}
    node = head
    # Whether the nodes point back to those before them is asked of cores only: a live kernel
    # changes the one pointer after the other.
    live = is_live(prog)
    strays: list[Lost] = []
    last = 0
    while True:
        following, before = _links(prog, node)
        if node == head:
            last = before
        elif before and before != (forward[-2] if len(forward) > 1 else head) and not live:
            strays.append(Lost("struct list_head", node, f"the node before it is {before:#x}"))
        if following == head:
            yield from forward
            if not strays and last and last != node and not live:
                strays.append(Lost("struct list_head", head, f"its last node is {last:#x}"))
            # A link leads past nodes, or into another list.
            yield from strays[:1]
            return
        if following is None:
            # The node itself cannot be read.
            lost = Lost("struct list_head", node, "list leaves readable memory")
            del forward[-1:]
            places.pop(node, None)
            break
        if following in places:
            lost = Lost("struct list_head", node, "list loops")
            break
        if len(forward) == limit:
            why = f"list has more than {limit} entries"
            yield from forward
            yield Lost("struct list_head", following, why)
            return
        node = following
        places[node] = len(forward)
        forward.append(node)
    backward: list[int] = []
    seen: set[int] = set()
    at = head
    while len(backward) < limit:
        previous = _link(prog, at, 2)
        if previous is None:
            del backward[-1:]
            break
        if previous == head or previous in places:
            # Nothing is missing. What the damaged link led to is not in the list.
            yield from forward[: places[previous] + 1 if previous != head else 0]
            yield from reversed(backward)
            return
        if previous == lost.address or previous in seen:
            break
        seen.add(previous)
        at = previous
        backward.append(at)
    yield from forward
    yield lost
    yield from reversed(backward)


def _links(prog: Program, node: int) -> tuple[int | None, int]:
    """
    The nodes after and before a node: ``None`` for one that cannot be read, 0 for one that is not
    known. A distilled core may have the first of the two pointers only.
    """
    if node >= _NULL_PAGE:
        try:
            following, before = read_pointers(prog, node, 2)
        except FaultError:
            pass
        else:
            return following, before
    return _link(prog, node, 1), 0


def _link(prog: Program, node: int, count: int) -> int | None:
    """The last of the first *count* pointers of a node."""
    if node < _NULL_PAGE:
        return None
    try:
        return read_pointers(prog, node, count)[-1]
    except FaultError:
        return None


def list_for_each_entry(
    layout: Layout[S], head: int, member: str, limit: int = MAX_ENTRIES
) -> Iterator[S | Lost]:
    """
    Iterate over the entries of a list, as ``list_for_each_entry()``.

    The entries are read together, in the order of their addresses::

        class Module(Struct):
            C_TYPE = "struct module"
            node = Int("list.next")


        list_for_each_entry(Module.layout(prog), head, "node")

    :param layout: How to read an entry
    :param head: ``struct list_head *`` as an integer
    :param member: The declared member that is the first word of an entry's ``struct list_head``
    :param limit: How many entries the list may have
    :return: Iterator of the entries in the order of the list. A ``Lost`` stands for an entry that
        cannot be read, and where there may be more.
    """
    offset = layout.cls.places[member].offset
    nodes = list(list_for_each(layout.prog, head, limit))
    entries = layout.read_many(node - offset for node in nodes if not isinstance(node, Lost))
    found = {entry.address: entry for entry in entries}
    for node in nodes:
        if isinstance(node, Lost):
            yield node
        else:
            yield found[node - offset]


def hlist_for_each_entry(
    layout: Layout[S], first: int, member: str, limit: int = MAX_ENTRIES
) -> Iterator[S | Lost]:
    """
    Iterate over the entries of an ``hlist``, as ``hlist_for_each_entry()``.

    :param layout: How to read an entry
    :param first: ``struct hlist_node *`` of the first entry, 0 for an empty list
    :param member: The declared member that is the first word of an entry's ``struct hlist_node``
    :param limit: How many entries the list may have
    :return: Iterator of the entries. A ``Lost`` stands for the rest of a list of which an entry
        cannot be read.
    """
    return _follow(layout, first, member, layout.cls.places[member].offset, 0, limit)


def for_each_linked(
    layout: Layout[S], first: int, member: str = "next", head: int = 0, limit: int = MAX_ENTRIES
) -> Iterator[S | Lost]:
    """
    Iterate over structures that each point to the next one.

    :param layout: How to read one
    :param first: Address of the first, *head* if there is none
    :param member: The declared member that points to the next structure
    :param head: Where the last one points to: 0, or the address of the list's head
    :param limit: How many there may be
    :return: Iterator of the structures. A ``Lost`` stands for the rest of a list of which one
        cannot be read.
    """
    return _follow(layout, first, member, 0, head, limit)


def _follow(
    layout: Layout[S], node: int, member: str, offset: int, head: int, limit: int
) -> Iterator[S | Lost]:
    what = layout.cls.C_TYPE
    seen: set[int] = set()
    while node != head:
        address = node - offset
        if node in seen:
            yield Lost(what, address, "list loops")
            return
        if len(seen) == limit:
            yield Lost(what, address, f"list has more than {limit} entries")
            return
        seen.add(node)
        try:
            entry = layout.read(address)
        except FaultError as e:
            yield lost_by(e, what)
            return
        yield entry
        node = getattr(entry, member)
