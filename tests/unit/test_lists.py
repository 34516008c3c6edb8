# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does a walk of a list find every entry once, and say where there may be more?"""

from __future__ import annotations

import pytest
from drgn import Platform
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel.lists import (
    for_each_linked,
    hlist_for_each_entry,
    list_for_each,
    list_for_each_entry,
)
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.structs import Int, Struct

from .fake_kernel import BIG, LITTLE, LITTLE_32, FakeKernel

NOWHERE = [0, 1, 0xDEAD000000000100, (1 << 64) - 1]


class Ring:
    """A ``list_head`` list of five nodes, each in an entry with a number."""

    def __init__(self, platform: Platform = LITTLE) -> None:
        self.kernel = k = FakeKernel(platform)
        self.head_type = k.struct("list_head", ("next", k.ptr), ("prev", k.ptr))
        self.entry = k.struct("entry", ("number", k.ulong), ("list", self.head_type))
        self.head = k.alloc(2 * k.word)
        self.nodes = [k.new(self.entry, {"number": i}) + k.word for i in range(5)]
        self.link(self.head, *self.nodes, self.head)

    def link(self, *nodes: int) -> None:
        """Link these one after the other, both ways."""
        for before, node, after in zip(nodes[-2:-1] + nodes, nodes[:-1], nodes[1:]):
            self.kernel.put(node, self.head_type, {"next": after, "prev": before})

    def damage(self, node: int, value: int, *, prev: bool = False) -> None:
        self.kernel.write(node + prev * self.kernel.word, self.kernel.words([value]))

    def found(self, limit: int = 1000) -> list[int | Lost]:
        return list(list_for_each(self.kernel.prog, self.head, limit))


@pytest.mark.parametrize("platform", [LITTLE, BIG, LITTLE_32])
def test_a_list_is_followed_to_its_head(platform: Platform) -> None:
    ring = Ring(platform)
    assert ring.found() == ring.found(limit=5) == ring.nodes
    ring.link(ring.head, ring.head)
    assert ring.found() == []


def test_a_list_that_is_too_long() -> None:
    ring = Ring()
    lost = Lost("struct list_head", ring.nodes[2], "list has more than 2 entries")
    assert ring.found(limit=2) == [*ring.nodes[:2], lost]


@pytest.mark.parametrize(("node", "to"), [(0, 2), (1, 4), (-1, 1), (3, -1)])
def test_a_link_that_leads_past_nodes(node: int, to: int) -> None:
    """The nodes between are in no walk; that the others do not point back tells of it."""
    ring = Ring()
    nodes = {-1: ring.head, **dict(enumerate(ring.nodes))}
    ring.damage(nodes[node], nodes[to])
    *found, lost = ring.found()
    assert found == [n for i, n in enumerate(ring.nodes) if i <= node or (i >= to >= 0)]
    before = ring.nodes[to - 1 if to > 0 else 4]
    why = f"its last node is {before:#x}" if to < 0 else f"the node before it is {before:#x}"
    assert lost == Lost("struct list_head", nodes[to], why)


@given(st.integers(0, 4), st.integers(0, 4))
def test_a_list_that_loops(damaged: int, back: int) -> None:
    ring = Ring()
    ring.damage(ring.nodes[damaged], ring.nodes[max(0, damaged - back)])
    # The other direction leads to all of them.
    assert ring.found() == ring.nodes
    # Unless that is damaged as well: then there may be more between the two.
    ring.damage(ring.nodes[4], 0, prev=True)
    lost = Lost("struct list_head", ring.nodes[damaged], "list loops")
    if damaged < 4:
        assert ring.found() == [*ring.nodes[: damaged + 1], lost, ring.nodes[4]]
    else:
        assert ring.found() == ring.nodes


@pytest.mark.parametrize("nowhere", NOWHERE)
def test_a_link_that_leads_nowhere(nowhere: int) -> None:
    ring = Ring()
    ring.damage(ring.nodes[1], nowhere)
    assert ring.found() == ring.nodes
    # In both directions, two of them are between the damaged links.
    ring.damage(ring.nodes[4], nowhere, prev=True)
    lost = Lost("struct list_head", nowhere, "list leaves readable memory")
    assert ring.found() == [*ring.nodes[:2], lost, ring.nodes[4]]
    ring.damage(ring.head, nowhere)
    ring.damage(ring.head, nowhere, prev=True)
    assert ring.found() == [lost]


def test_a_list_that_loops_in_both_directions() -> None:
    ring = Ring()
    ring.damage(ring.nodes[1], ring.nodes[0])
    ring.damage(ring.nodes[3], ring.nodes[4], prev=True)
    lost = Lost("struct list_head", ring.nodes[1], "list loops")
    assert ring.found() == [*ring.nodes[:2], lost, *ring.nodes[3:]]


def test_what_a_damaged_link_leads_to_is_not_in_the_list() -> None:
    ring, other = Ring(), Ring()
    other.kernel = ring.kernel
    stray = [ring.kernel.alloc(2 * ring.kernel.word) for _ in range(3)]
    ring.link(*stray, 0)
    ring.damage(ring.nodes[1], stray[0])
    assert ring.found() == ring.nodes


class Entry(Struct):
    C_TYPE = "struct entry"
    number = Int("number")
    node = Int("list.next")


def numbers(walk: object) -> list[int | Lost]:
    return [e if isinstance(e, Lost) else e.number for e in walk]  # type: ignore[attr-defined]


@pytest.mark.parametrize("platform", [LITTLE, BIG, LITTLE_32])
def test_entries(platform: Platform) -> None:
    ring = Ring(platform)
    layout = Entry.layout(ring.kernel.prog)
    # In the order of the list, whatever the order of addresses is.
    ring.link(ring.head, *ring.nodes[::-1], ring.head)
    assert numbers(list_for_each_entry(layout, ring.head, "node")) == [4, 3, 2, 1, 0]


def test_an_entry_that_cannot_be_read() -> None:
    ring = Ring()
    k = ring.kernel
    # The node is there, what is before it is not.
    alone = k.alloc(2 * k.word)
    ring.link(ring.head, ring.nodes[0], alone, ring.nodes[1], ring.head)
    found = numbers(list_for_each_entry(Entry.layout(k.prog), ring.head, "node"))
    assert found == [0, Lost("struct entry", alone - k.word), 1]


class Chain:
    """Structures that point to the next of them."""

    def __init__(self) -> None:
        self.kernel = k = FakeKernel()
        hlist = k.struct("hlist_node", ("next", k.ptr), ("pprev", k.ptr))
        self.type = k.struct("link", ("number", k.ulong), ("next", k.ptr), ("node", hlist))
        self.links = [k.alloc(64) for _ in range(4)]

    def chain(self, end: int = 0) -> None:
        for i, link in enumerate(self.links):
            following = self.links[i + 1] if i + 1 < len(self.links) else end
            value = {"number": i, "next": following}
            # Behind the number and the pointer.
            value_of_node = {"next": following + 16 if following else 0}
            self.kernel.put(link, self.type, {**value, "node": value_of_node})

    def found(self, head: int = 0, limit: int = 100) -> list[int | Lost]:
        layout = Link.layout(self.kernel.prog)
        return numbers(for_each_linked(layout, self.links[0], head=head, limit=limit))

    def found_in_hlist(self, limit: int = 100) -> list[int | Lost]:
        layout = Link.layout(self.kernel.prog)
        return numbers(hlist_for_each_entry(layout, self.links[0] + 16, "node", limit))


class Link(Struct):
    C_TYPE = "struct link"
    number = Int("number")
    next = Int("next")
    node = Int("node.next")


def test_a_chain() -> None:
    c = Chain()
    c.chain()
    assert c.found() == c.found_in_hlist() == c.found(limit=4) == [0, 1, 2, 3]
    # A queue of socket buffers ends where it began.
    c.chain(end=0xFFFF8880DEAD0000)
    assert c.found(head=0xFFFF8880DEAD0000) == [0, 1, 2, 3]
    assert list(for_each_linked(Link.layout(c.kernel.prog), 0)) == []


@pytest.mark.parametrize("back", range(4))
def test_a_chain_that_loops(back: int) -> None:
    c = Chain()
    c.chain(end=c.links[back])
    lost = Lost("struct link", c.links[back], "list loops")
    assert c.found() == c.found_in_hlist() == [0, 1, 2, 3, lost]
    lost = Lost("struct link", c.links[2], "list has more than 2 entries")
    assert c.found(limit=2) == c.found_in_hlist(limit=2) == [0, 1, lost]


@pytest.mark.parametrize("nowhere", NOWHERE[1:])
def test_a_chain_that_leads_nowhere(nowhere: int) -> None:
    c = Chain()
    c.chain(end=nowhere)
    *found, lost = c.found()
    assert found == [0, 1, 2, 3]
    assert isinstance(lost, Lost) and lost.what == "struct link" and lost.address == nowhere
