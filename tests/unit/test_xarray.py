# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is an XArray walked in the order of its indexes, and does a damaged one end?"""

from __future__ import annotations

import pytest
from drgn import FaultError
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.xarray import xa_for_each, xa_load

from .fake_kernel import FakeKernel

# XA_CHUNK_SHIFT
BITS = 6
# Where the slots are in a node.
SLOTS = 16


class Tree:
    """An XArray that is made as the kernel makes it, of pointers by index."""

    def __init__(self, pointers: dict[int, int]) -> None:
        self.kernel = k = FakeKernel()
        slots = k.array(k.ptr, 1 << BITS)
        self.type = k.struct(
            "xa_node",
            *(("shift", k.u8), ("offset", k.u8), ("count", k.u8), ("parent", k.ptr)),
            ("slots", slots),
        )
        #: By shift and first index, the address of each node.
        self.nodes: dict[tuple[int, int], int] = {}
        if not pointers or max(pointers) == 0:
            self.head = pointers.get(0, 0)
            return
        shift = (max(pointers).bit_length() - 1) // BITS * BITS
        self.head = self.node(pointers, shift, 0)

    def node(self, pointers: dict[int, int], shift: int, first: int) -> int:
        slots = [0] * (1 << BITS)
        for i in range(1 << BITS):
            start = first + (i << shift)
            below = {n: p for n, p in pointers.items() if start <= n < start + (1 << shift)}
            if below:
                slots[i] = self.node(below, shift - BITS, start) if shift else below[start]
        used = sum(map(bool, slots))
        address = self.kernel.new(self.type, {"shift": shift, "count": used, "slots": slots})
        for i, entry in enumerate(slots if shift else ()):
            if entry:
                self.kernel.write(entry - 2 + 1, bytes([i]))
                self.kernel.write(entry - 2 + 8, self.kernel.words([address]))
        self.nodes[shift, first] = address
        return address | 2

    def walk(self, limit: int = 1 << 20) -> list[tuple[int, int] | Lost]:
        return list(xa_for_each(self.kernel.prog, self.head, limit))

    def load(self, index: int) -> int:
        return xa_load(self.kernel.prog, self.head, index)


def pointer(index: int) -> int:
    return 0xFFFF888100000000 + 64 * index


@given(st.sets(st.integers(0, 1 << 14), max_size=12))
def test_all_pointers_in_order(indexes: set[int]) -> None:
    tree = Tree({i: pointer(i) for i in indexes})
    assert tree.walk() == [(i, pointer(i)) for i in sorted(indexes)]
    for i in indexes:
        assert tree.load(i) == pointer(i)
        assert tree.load(i + 1) == (pointer(i + 1) if i + 1 in indexes else 0)
    assert tree.load(1 << 40) == 0


def test_a_node_that_cannot_be_read() -> None:
    tree = Tree({i: pointer(i) for i in (1, 70, 200)})
    top = tree.nodes[BITS, 0]
    nowhere = 0xDEAD000000000100
    tree.kernel.write(top + SLOTS + 8, tree.kernel.words([nowhere | 2]))
    lost = Lost("struct xa_node", nowhere)
    assert tree.walk() == [(1, pointer(1)), lost, (200, pointer(200))]
    with pytest.raises(FaultError):
        tree.load(70)
    assert tree.load(200) == pointer(200)


@pytest.mark.parametrize("shift", [1, 6, 12, 77, 255])
def test_what_is_no_node_of_it(shift: int) -> None:
    tree = Tree({i: pointer(i) for i in (1, 70, 200)})
    damaged = tree.nodes[0, 64]
    tree.kernel.write(damaged, bytes([shift]))
    lost = Lost("struct xa_node", damaged, "not a node of this XArray")
    assert tree.walk() == [(1, pointer(1)), lost, (200, pointer(200))]
    if shift >= BITS:
        with pytest.raises(FaultError, match="not a node of this XArray"):
            tree.load(70)


def test_a_node_that_leads_back_to_the_root() -> None:
    tree = Tree({i: pointer(i) for i in (1, 70)})
    top = tree.nodes[BITS, 0]
    tree.kernel.write(top + SLOTS + 2 * 8, tree.kernel.words([top | 2]))
    lost = Lost("struct xa_node", top, "not a node of this XArray")
    count = Lost("struct xa_node", top, "it has 3 entries instead of 2")
    assert tree.walk() == [count, (1, pointer(1)), (70, pointer(70)), lost]


def test_a_slot_that_was_emptied() -> None:
    tree = Tree({i: pointer(i) for i in (1, 70, 200)})
    top = tree.nodes[BITS, 0]
    tree.kernel.write(top + SLOTS + 8, bytes(8))
    count = Lost("struct xa_node", top, "it has 2 entries instead of 3")
    assert tree.walk() == [count, (1, pointer(1)), (200, pointer(200))]


def test_a_slot_that_leads_to_another_part() -> None:
    tree = Tree({i: pointer(i) for i in (1, 70, 200)})
    top = tree.nodes[BITS, 0]
    tree.kernel.write(top + SLOTS + 8, tree.kernel.words([tree.nodes[0, 192] | 2]))
    found = tree.walk()
    assert Lost("struct xa_node", tree.nodes[0, 192], "two slots lead to it") in found
    tree.kernel.write(top + SLOTS + 3 * 8, bytes(8))
    found = tree.walk()
    assert Lost("struct xa_node", tree.nodes[0, 192], "it belongs elsewhere in the XArray") in found


def test_entries_that_are_no_pointers() -> None:
    tree = Tree({i: pointer(i) for i in (1, 2, 3)})
    leaf = tree.nodes[0, 0]
    # A value, a node in a leaf; and an internal entry that stands for none (XA_ZERO_ENTRY).
    tree.kernel.write(leaf + SLOTS + 2 * 8, tree.kernel.words([0x13, leaf | 2, 257 << 2 | 2]))
    lost = Lost("struct xa_node", leaf, "entry is no pointer")
    count = Lost("struct xa_node", leaf, "it has 4 entries instead of 3")
    assert tree.walk() == [count, (1, pointer(1)), lost, lost]
    assert (tree.load(2), tree.load(4)) == (0, 0)


def test_more_than_there_may_be() -> None:
    tree = Tree({i: pointer(i) for i in range(0, 4096, 64)})
    assert len(tree.walk()) == 64
    tree = Tree({0: pointer(0), 1: pointer(1)})
    assert tree.walk(limit=1) == [(0, pointer(0)), (1, pointer(1))]
