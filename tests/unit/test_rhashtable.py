# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does a walk of a resizable hash table find every entry once, whatever the memory looks like?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from drgn import Platform

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.rhashtable import Rhashtable, walk_rhashtable
from drgn_sockets.kernel.structs import Int, Struct

from .fake_kernel import BIG, LITTLE, LITTLE_32, PAGE, FakeKernel

SIZE = 32
ENTRIES = 0xFFFF888100000000
NODE = 8
MAGIC = 0x50C
NOWHERE = 0xDEAD000000000000


class Entry(Struct):
    C_TYPE = "struct entry"
    magic = Int("magic")
    node = Int("node.next")


class Table:
    """A ``struct rhashtable`` and its entries."""

    def __init__(self, platform: Platform = LITTLE, pages: int = 1) -> None:
        self.kernel = k = FakeKernel(platform)
        self.prog = k.prog
        self.word = k.word
        self.entries = ENTRIES if k.word == 8 else 0xC2000000
        head = k.struct("rhash_head", ("next", k.ptr))
        self.entry = k.struct("entry", ("magic", k.u32), ("pad", k.u32), ("node", head), size=SIZE)
        params = k.struct("rhashtable_params", ("key_len", k.u16), ("head_offset", k.u16))
        atomic = k.typedef("atomic_t", k.struct(None, ("counter", k.s32)))
        self.rhashtable = k.struct("rhashtable", ("tbl", k.ptr), ("p", params), ("nelems", atomic))
        self.bucket_table = k.struct(
            "bucket_table",
            *(("size", k.u32), ("nest", k.u32), ("hash_rnd", k.u32), ("future_tbl", k.ptr)),
            ("buckets", k.array(k.ptr, 0)),
        )
        k.map(self.entries, pages * PAGE)

    def at(self, i: int) -> int:
        """Address of entry *i*."""
        return self.entries + i * SIZE

    def node(self, i: int) -> int:
        """Its ``struct rhash_head``."""
        return self.at(i) + NODE

    def header(self, size: int, nest: int = 0, future: int = 0) -> bytes:
        value = {"size": size, "nest": nest, "future_tbl": future}
        return self.kernel.bytes_of(self.bucket_table, value)

    def array(self, size: int, future: int = 0) -> int:
        """A ``struct bucket_table`` with its buckets side by side."""
        return self.kernel.alloc(self.header(size, 0, future) + bytes(size * self.word))

    def bucket(self, table: int, i: int) -> int:
        """Address of a bucket of an array."""
        return table + len(self.header(0)) + i * self.word

    def chain(
        self, bucket: int, entries: Sequence[int], end: int | None = None, lock: int = 0
    ) -> None:
        """A chain that ends with its marker, or with *end*."""
        nodes = [self.node(i) for i in entries]
        nodes.append((bucket | 1) if end is None else end)
        # The marker is not in the bucket itself.
        first = nodes[0] if entries or end is not None else 0
        self.kernel.write(bucket, self.kernel.words([first | lock]))
        for i, following in zip(entries, nodes[1:]):
            self.kernel.put(self.at(i), self.entry, {"magic": MAGIC, "node": {"next": following}})

    def walk(
        self, table: int, known: Mapping[int, int] = NOTHING, nelems: int = 0
    ) -> list[Entry | Lost]:
        k = self.kernel
        value = {"tbl": table, "p": {"head_offset": NODE}, "nelems": {"counter": nelems}}
        address = k.new(self.rhashtable, value)
        return list(
            walk_rhashtable(
                self.prog,
                Rhashtable.layout(self.prog).read(address),
                Entry.layout(self.prog),
                lambda entry: entry.node,
                lambda entry: entry.magic == MAGIC,
                known,
            )
        )

    def found(self, table: int, known: Mapping[int, int] = NOTHING) -> list[int]:
        """Numbers of the entries in the order found, each of which is one and is found once."""
        walked = self.walk(table, known)
        assert len({entry.address for entry in walked}) == len(walked)
        assert not any(isinstance(entry, Lost) for entry in walked)
        return [(entry.address - self.entries) // SIZE for entry in walked]

    def split(self, table: int) -> tuple[list[int], list[int]]:
        """Numbers of the good entries, and addresses of what is none."""
        walked = self.walk(table)
        good = [(e.address - self.entries) // SIZE for e in walked if not isinstance(e, Lost)]
        return good, [entry.address for entry in walked if isinstance(entry, Lost)]


@pytest.mark.parametrize("platform", [LITTLE, BIG, LITTLE_32])
def test_all_entries_in_the_order_of_the_kernel(platform: Platform) -> None:
    t = Table(platform)
    table = t.array(8)
    t.chain(t.bucket(table, 0), [3])
    t.chain(t.bucket(table, 2), [9, 1, 7, 5])
    t.chain(t.bucket(table, 3), [])
    t.chain(t.bucket(table, 7), [2, 4], end=0)
    assert t.found(table) == [3, 9, 1, 7, 5, 2, 4]


def test_fewer_entries_than_are_counted() -> None:
    t = Table()
    table = t.array(4)
    t.chain(t.bucket(table, 1), [1, 2])
    assert len(t.walk(table, nelems=2)) == 2
    *_, lost = t.walk(table, nelems=5)
    assert isinstance(lost, Lost)
    assert lost.why == "it counts 5 entries, of which 3 are not found"
    # A known entry is in the chain, and is not visited.
    assert len(t.walk(table, {t.at(1): t.node(2)}, nelems=2)) == 1


def test_a_bucket_that_is_locked() -> None:
    t = Table()
    table = t.array(4)
    t.chain(t.bucket(table, 1), [1, 2], lock=1)
    t.chain(t.bucket(table, 2), [], lock=1)
    assert t.found(table) == [1, 2]


def test_an_empty_table() -> None:
    t = Table()
    assert t.found(t.array(4)) == []
    assert t.found(t.array(0)) == []
    assert t.found(0) == []


def test_many_buckets() -> None:
    # More than are read at once.
    t = Table(pages=160)
    table = t.array(1 << 14)
    for i in range(0, 1 << 14, 7):
        t.chain(t.bucket(table, i), [i])
    assert t.found(table) == list(range(0, 1 << 14, 7))


def test_tables_that_follow() -> None:
    """While a table is resized, entries are in it and in the one that takes its place."""
    t = Table()
    last = t.array(16)
    new = t.array(8, last)
    old = t.array(4, new)
    t.chain(t.bucket(old, 3), [1])
    t.chain(t.bucket(new, 5), [2, 3])
    t.chain(t.bucket(last, 0), [4])
    assert t.found(old) == [1, 2, 3, 4]


def test_an_entry_that_is_being_moved() -> None:
    """It is in its new chain already, to which the old one then leads as well."""
    t = Table()
    new = t.array(8)
    old = t.array(4, new)
    t.chain(t.bucket(new, 6), [3, 4])
    t.chain(t.bucket(old, 2), [1, 2], end=t.node(3))
    assert t.found(old) == [1, 2, 3, 4]


def test_tables_that_follow_each_other_in_a_circle() -> None:
    t = Table()
    one = t.array(4)
    two = t.array(4, one)
    t.kernel.write(one, t.header(4, 0, two))
    t.chain(t.bucket(one, 0), [1])
    t.chain(t.bucket(two, 0), [2])
    assert t.found(one) == [1, 2]


def test_tables_without_end() -> None:
    t = Table()
    table = t.array(4)
    for _ in range(100):
        table = t.array(4, table)
    good, bad = t.split(table)
    assert good == []
    # A row that tells.
    assert len(bad) == 1


def nested(t: Table, size: int, nest: int, chains: dict[int, list[int]]) -> int:
    """
    A table without an array: buckets are added one by one, by the number that a hash gives, as
    rht_bucket_nested_insert() does it.
    """
    k, word = t.kernel, t.word
    shift = 12 - word.bit_length() + 1
    top = k.alloc(PAGE)
    table = k.alloc(t.header(size, nest) + k.words([top]))
    pages: dict[tuple[int, ...], int] = {(): top}

    def page(path: tuple[int, ...]) -> int:
        if path not in pages:
            made = pages[path] = k.alloc(PAGE)
            k.write(page(path[:-1]) + path[-1] * word, k.words([made]))
        return pages[path]

    for hash_, entries in chains.items():
        rest, left = hash_ >> nest, size >> nest
        path: tuple[int, ...] = (hash_ & (1 << nest) - 1,)
        while left > 1 << shift:
            path += (rest & (1 << shift) - 1,)
            rest, left = rest >> shift, left >> shift
        t.chain(page(path) + rest * word, entries)
    return table


@pytest.mark.parametrize("platform", [LITTLE, LITTLE_32])
@pytest.mark.parametrize("bits", [11, 12, 14, 18, 21])
def test_a_tree_of_buckets(platform: Platform, bits: int) -> None:
    t = Table(platform)
    size = 1 << bits
    shift = 12 - t.word.bit_length() + 1
    hashes = sorted({0, 1, 2, 511, 512, 513, 1025, size // 2, size - 2, size - 1})
    chains = {hash_: [2 * i, 2 * i + 1] for i, hash_ in enumerate(hashes)}
    # bucket_table_alloc()
    table = nested(t, size, (bits - 1) % shift + 1, dict(reversed(chains.items())))
    assert t.found(table) == list(range(2 * len(hashes)))


def test_a_tree_with_holes() -> None:
    t = Table()
    table = nested(t, 1 << 12, 3, {0: [1], 1: [2], 4095: [3]})
    top = t.prog.read_word(t.bucket(table, 0))
    # The page of hashes that end in 001 is nowhere.
    t.kernel.write(top + 8, t.kernel.words([NOWHERE]))
    good, bad = t.split(table)
    assert good == [1, 3]
    assert bad == [table]
    # A page that leads to itself, and one that is reached twice.
    t.kernel.write(top + 8, t.kernel.words([top]))
    assert t.found(table) == [1, 3]
    t.kernel.write(t.bucket(table, 0), t.kernel.words([NOWHERE]))
    assert t.split(table) == ([], [table])


def test_a_tree_that_is_too_high() -> None:
    t = Table()
    table = nested(t, 1 << 12, 3, {0: [1]})
    for nest in (13, 64, (1 << 32) - 1):
        t.kernel.write(table, t.header(1 << 12, nest))
        assert t.split(table) == ([], [table])


def test_loops_end() -> None:
    t = Table()
    table = t.array(4)
    t.chain(t.bucket(table, 0), [1], end=t.node(1))
    t.chain(t.bucket(table, 1), [2, 3], end=t.node(2))
    t.chain(t.bucket(table, 2), [4, 5, 6, 7], end=t.node(6))
    t.chain(t.bucket(table, 3), [8])
    assert t.found(table) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_broken_chain_costs_its_rest() -> None:
    t = Table()
    table = t.array(8)
    t.chain(t.bucket(table, 0), [1, 2], end=NOWHERE + NODE)
    # What is there is no entry.
    t.chain(t.bucket(table, 1), [3], end=t.node(20))
    t.chain(t.bucket(table, 2), [4, 5])
    t.chain(t.bucket(table, 3), [6], end=2**64 - 2)
    t.chain(t.bucket(table, 4), [7], end=2)
    t.chain(t.bucket(table, 5), [], end=NOWHERE + PAGE)
    t.chain(t.bucket(table, 6), [8, 9])
    good, bad = t.split(table)
    assert good == list(range(1, 10))
    assert sorted(bad) == sorted(
        [NOWHERE, t.at(20), 2**64 - 2 - NODE, 2 - NODE, NOWHERE + PAGE - NODE]
    )


def test_a_table_that_cannot_be_read() -> None:
    t = Table()
    table = t.array(4, NOWHERE)
    t.chain(t.bucket(table, 0), [1])
    assert t.split(table) == ([1], [NOWHERE])
    assert t.split(NOWHERE) == ([], [NOWHERE])


def test_an_absurd_number_of_buckets() -> None:
    # A page of them is there.
    t = Table()
    table = t.array((PAGE - len(t.header(0))) // 8)
    t.chain(t.bucket(table, 0), [1])
    t.chain(t.bucket(table, 3), [2, 3])
    for size in (1 << 20, 1 << 31, (1 << 32) - 1):
        t.kernel.write(table, t.header(size))
        t.kernel.reads.clear()
        assert t.split(table) == ([1, 2, 3], [table])
        assert len(t.kernel.reads) < 1000


def test_known_entries_are_passed_over() -> None:
    t = Table()
    table = t.array(4)
    t.chain(t.bucket(table, 0), [1, 2, 3])
    t.chain(t.bucket(table, 1), [4])
    t.chain(t.bucket(table, 2), [5, 6])
    known = {t.at(1): t.node(2), t.at(2): t.node(3), t.at(4): t.bucket(table, 1) | 1}
    assert t.found(table, known) == [3, 5, 6]
    # What is said of these may be wrong.
    known = {t.at(1): t.node(2), t.at(2): t.node(1), t.at(4): NOWHERE | 1, t.at(5): t.node(3)}
    assert t.found(table, known) == [3]
