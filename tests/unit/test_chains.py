# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does a walk of hash chains find every entry once, whatever the memory looks like?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from drgn import Platform, Program, ProgramFlags
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel.chains import NOTHING, HashTable, walk_buckets, walk_chains
from drgn_sockets.kernel.lost import Lost, present
from drgn_sockets.kernel.structs import Int, Struct

from .fake_kernel import BIG, LITTLE, LITTLE_32, PAGE, FakeKernel

SIZE = 32
ENTRIES = 0xFFFF888100000000
NODE = 8
MAGIC = 0x50C


class Entry(Struct):
    C_TYPE = "struct entry"
    magic = Int("magic")
    node = Int("node.next")


class Table:
    """A hash table of which each bucket is a lock and a head."""

    def __init__(self, buckets: int, platform: Platform = LITTLE, pages: int = 1) -> None:
        self.kernel = k = FakeKernel(platform)
        self.entries = ENTRIES if k.word == 8 else 0xC2000000
        node = k.struct("node", ("next", k.ptr), ("pprev", k.ptr))
        self.entry = k.struct("entry", ("magic", k.u32), ("pad", k.u32), ("node", node), size=SIZE)
        self.bucket = k.struct("bucket", ("lock", k.ulong), ("first", k.ptr))
        address = k.alloc(buckets * 2 * k.word)
        self.table = HashTable(address, buckets, 2 * k.word, k.word)
        k.map(self.entries, pages * PAGE)

    def at(self, i: int) -> int:
        """Address of entry *i*."""
        return self.entries + i * SIZE

    def node(self, i: int) -> int:
        """Its list node."""
        return self.at(i) + NODE

    def head(self, bucket: int, first: int) -> None:
        """Set the first node of a bucket; its lock is full of what is no node."""
        self.kernel.put(
            self.table.address + bucket * self.table.bucket_size,
            self.bucket,
            {"lock": self.node(0), "first": first},
        )

    def chain(self, bucket: int, entries: Sequence[int], end: int | None = None) -> None:
        """A chain that ends with its marker, or with *end*."""
        nodes = [self.node(i) for i in entries]
        nodes.append(2 * bucket + 1 if end is None else end)
        self.head(bucket, nodes[0])
        for i, following in zip(entries, nodes[1:]):
            self.kernel.put(self.at(i), self.entry, {"magic": MAGIC, "node": {"next": following}})

    def walk(self, known: Mapping[int, int] = NOTHING, prog: Any = None) -> list[Entry | Lost]:
        layout = Entry.layout(self.kernel.prog)
        return list(
            walk_chains(
                prog or self.kernel.prog,
                self.table,
                layout,
                NODE,
                lambda entry: entry.node,
                lambda entry: entry.magic == MAGIC,
                known,
            )
        )

    def found(self, known: Mapping[int, int] = NOTHING, prog: Any = None) -> list[int]:
        """Numbers of the entries found, each of which is one and is found once."""
        walked = self.walk(known, prog)
        assert len({entry.address for entry in walked}) == len(walked)
        assert not any(isinstance(entry, Lost) for entry in walked)
        return sorted((entry.address - self.entries) // SIZE for entry in walked)

    def bad(self) -> list[int]:
        """Addresses where no entry was found."""
        return [entry.address for entry in self.walk() if isinstance(entry, Lost)]


@pytest.mark.parametrize("platform", [LITTLE, BIG, LITTLE_32])
def test_all_entries_of_all_buckets(platform: Platform) -> None:
    t = Table(5, platform)
    t.chain(0, [3])
    t.chain(1, [], end=0)
    t.chain(2, [9, 1, 7, 5])
    t.chain(3, [])
    # hlist ends with NULL, hlist_nulls with a marker.
    t.chain(4, [2, 4], end=0)
    assert t.found() == [1, 2, 3, 4, 5, 7, 9]
    # Level by level, and each level in the order of addresses.
    order = [(entry.address - t.entries) // SIZE for entry in t.walk()]
    assert order == [2, 3, 9, 1, 4, 7, 5]


def test_empty_tables() -> None:
    assert Table(3).found() == []
    t = Table(1)
    t.chain(0, [])
    assert t.found() == []
    t.table = t.table._replace(n_buckets=0)
    assert t.found() == []


def test_many_buckets() -> None:
    # More than are read at once.
    t = Table(10_000, pages=80)
    for i in range(10_000):
        t.chain(i, [i] if i % 3 == 0 else [])
    assert t.found() == list(range(0, 10_000, 3))


def test_heads_of_a_part() -> None:
    t = Table(6)
    for i in range(6):
        t.chain(i, [i])
    assert t.table.heads(t.kernel.prog) == ([t.node(i) for i in range(6)], None)
    assert t.table.heads(t.kernel.prog, 2, 3) == ([t.node(i) for i in (2, 3, 4)], None)


def test_buckets_of_another_table() -> None:
    t = Table(4)
    t.chain(0, [1])
    for i in (1, 2, 3):
        t.chain(i, [])
    t.table = t.table._replace(nulls=0)
    assert t.found() == [1]
    # The table begins one bucket later than it should: each chain has the marker of the next.
    t.table = t.table._replace(n_buckets=3, address=t.table.address + t.table.bucket_size)
    why = "3 of its 3 buckets are those of another table"
    assert t.walk() == [Lost("hash table", t.table.address, why)]
    # In such a table no bucket is NULL.
    t.kernel.write(t.table.address, bytes(3 * t.table.bucket_size))
    assert t.walk() == [Lost("hash table", t.table.address, why)]


def test_a_chain_with_the_end_of_another() -> None:
    t = Table(2)
    t.table = t.table._replace(nulls=0)
    t.chain(0, [1, 2], end=3)
    t.chain(1, [3])
    *good, lost = t.walk()
    assert [entry.address for entry in good] == [t.at(1), t.at(3), t.at(2)]
    assert lost == Lost(
        "hash table", t.table.address, "1 of its chains end as those of other buckets do"
    )


def test_loops_end() -> None:
    t = Table(4)
    t.chain(0, [1], end=t.node(1))
    t.chain(1, [2, 3], end=t.node(2))
    t.chain(2, [4, 5, 6, 7], end=t.node(6))
    t.chain(3, [8])
    assert t.found() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_merging_chains_are_walked_once() -> None:
    t = Table(4)
    t.chain(0, [1, 2, 3, 4])
    t.chain(1, [5], end=t.node(3))
    t.chain(2, [6, 7, 8], end=t.node(2))
    # Two buckets with the same first entry.
    t.head(3, t.node(1))
    assert t.found() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_broken_chain_costs_its_rest() -> None:
    t = Table(7)
    unmapped = 0xDEAD000000000100
    t.chain(0, [1, 2], end=unmapped + NODE)
    t.chain(1, [3], end=t.node(20))
    t.chain(2, [4, 5])
    # Not a multiple of anything, beyond 64 bits by its size, before the first byte.
    t.chain(3, [6], end=2**64 - 2)
    t.chain(4, [7], end=2)
    t.head(5, unmapped + PAGE)
    t.chain(6, [8, 9])
    good = [(entry.address - t.entries) // SIZE for entry in present(t.walk())]
    assert sorted(good) == list(range(1, 10))
    # Where entries should be and none are is told, each once.
    assert sorted(t.bad()) == sorted(
        [unmapped, t.at(20), 2**64 - 2 - NODE, 2 - NODE, unmapped + PAGE - NODE]
    )


def test_an_unreadable_array_of_buckets() -> None:
    t = Table(4)
    t.chain(0, [1])
    # A row tells that there may have been more.
    for address in (0xDEAD000000000000, 2**64 - 16, 2**64 - 1, 2**64):
        t.table = t.table._replace(address=address)
        assert t.walk() == [Lost("hash table", address, "4 of its 4 buckets are missing")]


def test_an_absurd_number_of_buckets() -> None:
    # A page of them is there.
    t = Table(256)
    t.chain(0, [1])
    t.chain(3, [2, 3])
    for number in (1 << 20, 1 << 32, (1 << 64) - 1):
        t.table = t.table._replace(n_buckets=number)
        t.kernel.reads.clear()
        walked = t.walk()
        assert [entry.address for entry in present(walked)] == [t.at(i) for i in (1, 2, 3)]
        assert t.bad() == [t.table.address]
        assert len(t.kernel.reads) < 1000


def test_a_hole_in_the_array_of_buckets() -> None:
    # 64 pages of buckets, of which one is missing: what is in the others is found.
    t = Table(1, pages=300)
    base, per_page, hole = 0xFFFF888200000000, PAGE // 16, 21
    t.table = HashTable(base, 64 * per_page, 16, 8)
    expected: list[int] = []
    for page in range(64):
        if page == hole:
            continue
        t.kernel.map(base + page * PAGE, PAGE)
        for bucket in (page * per_page, page * per_page + per_page - 1):
            t.chain(bucket, [len(expected)])
            expected.append(len(expected))
    assert t.bad() == [base]
    good = [entry.address for entry in present(t.walk())]
    assert sorted(good) == [t.at(i) for i in expected]


def test_known_entries_are_passed_over() -> None:
    t = Table(5)
    t.chain(0, [1, 2, 3, 4, 5])
    t.chain(1, [6, 7])
    t.chain(2, [8, 9], end=0)
    t.chain(3, [10, 11], end=t.node(10))
    t.chain(4, [12, 13, 14], end=t.node(13))
    nexts = {entry.address: entry.node for entry in present(t.walk())}

    def known(*entries: int) -> dict[int, int]:
        return {t.at(i): nexts[t.at(i)] for i in entries}

    everything = list(range(1, 15))
    # At the beginning, in the middle, at the end, several in a row, whole chains; in a loop,
    # all of it, and one that leads to another.
    for passed in (
        [1],
        [3],
        [5],
        [2, 3, 4],
        [1, 2, 3, 4, 5],
        [7],
        [6, 7, 8, 9],
        [10],
        [11],
        [10, 11],
        [13],
        [14],
        [13, 14],
        [12, 13, 14],
        everything,
    ):
        assert t.found(known(*passed)) == [i for i in everything if i not in passed], passed
    # What was known is not read again.
    t.kernel.reads.clear()
    assert t.found(known(*everything)) == []
    assert not [address for address, _ in t.kernel.reads if address >= t.entries]


def test_known_entries_that_lead_astray() -> None:
    t = Table(3)
    t.chain(0, [1, 2])
    t.chain(1, [3, 4])
    # What was read before the walk is old: its next leads into another chain, or nowhere.
    assert t.found({t.at(1): t.node(4)}) == [3, 4]
    walked = t.walk({t.at(1): 0xDEAD000000000108})
    assert [one.address for one in walked if isinstance(one, Lost)] == [0xDEAD000000000100]
    assert sorted(entry.address for entry in present(walked)) == [t.at(3), t.at(4)]
    assert t.found({t.at(1): 0}) == [3, 4]


@given(
    chains=st.lists(
        st.tuples(st.lists(st.integers(0, 30), max_size=8, unique=True), st.integers(-1, 30)),
        min_size=1,
        max_size=4,
    ),
    known=st.sets(st.integers(0, 30)),
)
def test_as_following_one_chain_after_the_other(
    chains: list[tuple[list[int], int]], known: set[int]
) -> None:
    t = Table(len(chains))
    following: dict[int, int | None] = {}
    for bucket, (entries, end) in enumerate(chains):
        # Chains that merge and loop in every way there is.
        t.chain(bucket, entries, end=None if end < 0 or not entries else t.node(end))
        following.update(zip(entries, [*entries[1:], end if end >= 0 else None]))
    reached: set[int] = set()
    for entries, _ in chains:
        i = entries[0] if entries else None
        while i is not None and i in following and i not in reached:
            reached.add(i)
            i = following[i]
    nexts = {
        t.at(i): entry.node
        for i in known & following.keys()
        if (entry := Entry.layout(t.kernel.prog).follow(t.at(i))) is not None
    }
    good = {(entry.address - t.entries) // SIZE for entry in present(t.walk(nexts))}
    assert good == reached - known


class LiveProgram:
    """A program that says that it is live, and changes while it is read."""

    flags = ProgramFlags.IS_LIVE | ProgramFlags.IS_LINUX_KERNEL

    def __init__(self, prog: Program) -> None:
        self._prog = prog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prog, name)


def test_a_chain_that_strays_is_walked_again() -> None:
    t = Table(4)
    t.chain(0, [1, 2, 3])
    t.chain(1, [4])
    # While the walk stood on 2, that was freed and hashed into bucket 1: the chain ends with
    # the marker of that, and 3 is missed.
    t.kernel.put(t.at(2), t.entry, {"magic": MAGIC, "node": {"next": 2 * 1 + 1}})
    assert t.found() == [1, 2, 4]
    live = LiveProgram(t.kernel.prog)
    heads = 0

    # By the second look at the bucket, 3 is where 2 was.
    real = t.table.heads

    class Settling(HashTable):
        def heads(
            self, prog: Program, start: int = 0, count: int | None = None
        ) -> tuple[list[int], Lost | None]:
            nonlocal heads
            heads += 1
            if heads == 2:
                assert (start, count) == (0, 1)
                t.chain(0, [1, 3])
            return real(prog, start, count)

    t.table = Settling(*t.table)
    assert t.found(prog=live) == [1, 2, 3, 4]
    assert heads == 2


def test_a_chain_that_strays_for_ever() -> None:
    t = Table(3)
    # On a live kernel this is tried a few times, and ends; one entry is yielded once.
    t.chain(0, [1, 2], end=2 * 2 + 1)
    t.chain(1, [3], end=2 * 77 + 1)
    t.chain(2, [4])
    t.kernel.reads.clear()
    assert t.found(prog=LiveProgram(t.kernel.prog)) == [1, 2, 3, 4]
    assert 8 <= len(t.kernel.reads) < 40
    # A core does not change: there is no second look.
    t.kernel.reads.clear()
    assert t.found() == [1, 2, 3, 4]
    assert len(t.kernel.reads) == 3


def test_what_cannot_be_read_of_a_live_kernel_stands_or_is_gone() -> None:
    t = Table(2)
    real = t.table.heads
    looks = 0

    class Moving(HashTable):
        def heads(
            self, prog: Program, start: int = 0, count: int | None = None
        ) -> tuple[list[int], Lost | None]:
            nonlocal looks
            looks += 1
            if looks == 2:
                change()
            return real(prog, start, count)

    # 2 was freed, and its memory is something else: no damage, and 3 is still there.
    t.chain(0, [1, 2, 3])
    t.kernel.put(t.at(2), t.entry, {"magic": 7, "node": {"next": 0xDEAD}})
    t.chain(1, [4])

    def change() -> None:
        t.chain(0, [1, 3])

    t.table = Moving(*t.table)
    assert t.found(prog=LiveProgram(t.kernel.prog)) == [1, 3, 4]
    assert looks == 2

    # It stays what it is: that is damage, as in a core.
    t.chain(0, [1, 2, 3])
    t.kernel.put(t.at(2), t.entry, {"magic": 7, "node": {"next": 0xDEAD}})
    t.table = HashTable(*t.table)
    walked = t.walk(prog=LiveProgram(t.kernel.prog))
    bad = [one.address for one in walked if isinstance(one, Lost)]
    assert bad == t.bad() == [t.at(2)]


def test_an_entry_that_leaves_its_chain_leads_nowhere() -> None:
    t = Table(1)
    t.chain(0, [1, 2, 3], end=0)
    # hlist_del_init(): 2 was taken out while the walk went from 1 to it.
    t.kernel.put(t.at(2), t.entry, {"magic": MAGIC + 1, "node": {"next": 0}})
    layout = Entry.layout(t.kernel.prog)

    class Settling(HashTable):
        def heads(
            self, prog: Program, start: int = 0, count: int | None = None
        ) -> tuple[list[int], Lost | None]:
            if count is not None:
                t.chain(0, [1, 3], end=0)
            return HashTable(*self).heads(prog, start, count)

    def found(prog: Any) -> list[int]:
        walk = walk_buckets(
            prog,
            Settling(*t.table),
            layout,
            NODE,
            lambda entry: entry.node,
            lambda entry: entry.magic in (MAGIC, MAGIC + 1),
            has_left=lambda entry: entry.magic == MAGIC + 1,
        )
        return [(entry.address - t.entries) // SIZE for _, entry in walk]

    assert found(LiveProgram(t.kernel.prog)) == [1, 3]
