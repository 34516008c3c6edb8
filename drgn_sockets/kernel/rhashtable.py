# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Walking resizable hash tables, ``struct rhashtable``.

A table is an array of buckets or, where there was no memory for an array, a tree of pages of
buckets. While a table is resized, the next table is filled beside it. All chains of a table
advance together, as in :mod:`~drgn_sockets.kernel.chains`: each level of entries is read in the
order of addresses. The walk of a chain ends where the chain loops, leaves readable memory, or meets
something that is not an entry.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Callable, Generic, NamedTuple, TypeVar

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost, or_lost
from drgn_sockets.kernel.memory import page_shift, pointer_size, read_sparse_pointers
from drgn_sockets.kernel.structs import Bytes, Int, Layout, Struct
from drgn_sockets.program import is_live

S = TypeVar("S", bound=Struct)

# include/linux/rhashtable.h: bit 0 of a bucket is its lock; bit 0 of a link ends the chain.
_LOCK = 1
_NULLS = 1
# A table that is resized has a next one, which may be resized itself before it is complete.
_MAX_TABLES = 16
# The kernel rehashes when a chain has more than RHT_ELASTICITY entries, if it can.
_MAX_CHAIN = 1 << 16
_MAX_BUCKETS = 1 << 24
# How often a chain of a live kernel is walked again when it changed during the walk.
_MAX_TRIES = 3


class Rhashtable(Struct):
    """``struct rhashtable``."""

    C_TYPE = "struct rhashtable"

    tbl = Int("tbl", help="struct bucket_table *")
    head_offset = Int("p.head_offset", help="where the struct rhash_head is in an entry, bytes")
    nelems = Int("nelems.counter", help="number of entries")


class BucketTable(Struct):
    """``struct bucket_table``."""

    C_TYPE = "struct bucket_table"

    size = Int("size", help="number of buckets")
    nest = Int("nest", help="bits of the index into the first page; 0 if there is an array")
    future_tbl = Int("future_tbl", help="struct bucket_table * that is being filled")
    # A flexible array: the structure itself ends before it.
    buckets = Bytes("buckets", help="struct rhash_lock_head *[]")


class Bucket(NamedTuple):
    """A bucket that is not empty."""

    #: The low bits of the hash.
    number: int
    #: Address of the bucket; its chain ends with this address and bit 0 set.
    address: int
    #: ``struct rhash_head *`` of the first entry.
    first: int


def _array(prog: Program, start: int, size: int) -> tuple[list[Bucket], bool]:
    """The buckets of an array that are not empty, and whether some cannot be read."""
    word = pointer_size(prog)
    chunk = (1 << 16) // word
    found: list[Bucket] = []
    damaged = size > _MAX_BUCKETS
    for i in range(0, min(size, _MAX_BUCKETS), chunk):
        n = min(chunk, size - i)
        words, missing = read_sparse_pointers(prog, start + i * word, n)
        found += [
            Bucket(i + j, start + (i + j) * word, first & ~_LOCK)
            for j, first in enumerate(words)
            if first & ~_LOCK
        ]
        damaged = damaged or missing > 0
        if missing == n:
            break
    return found, damaged


def _nested(prog: Program, top: int, size: int, nest: int) -> tuple[list[Bucket], bool]:
    """
    The same for a tree of pages, as ``rht_bucket_nested()`` descends it.

    The lowest *nest* bits of a bucket's number are the index in the first page. The next higher
    bits are the index in the page below, and so on.
    """
    word = pointer_size(prog)
    shift = page_shift(prog) - (word.bit_length() - 1)
    damaged = size > _MAX_BUCKETS
    # The pages of a level, by the low bits of the bucket numbers below them.
    level, known, size = {0: top}, 0, min(size, _MAX_BUCKETS)
    bits, size = nest, size >> nest
    seen = {top}
    while size:
        below: dict[int, int] = {}
        for number, page in level.items():
            entries, missing = read_sparse_pointers(prog, page, 1 << bits)
            damaged = damaged or missing > 0
            for i, entry in enumerate(entries):
                if entry and entry not in seen:
                    seen.add(entry)
                    below[number | i << known] = entry
        level, known = below, known + bits
        bits = shift
        if size <= 1 << shift:
            break
        size >>= shift
    found: list[Bucket] = []
    for number, page in level.items():
        leaves, missing = _array(prog, page, size)
        damaged = damaged or missing
        found += [leaf._replace(number=number | leaf.number << known) for leaf in leaves]
    return sorted(found), damaged


def _buckets(prog: Program, address: int, table: BucketTable) -> tuple[list[Bucket], bool]:
    start = address + BucketTable.layout(prog).cls.places["buckets"].offset
    if not table.nest:
        return _array(prog, start, table.size)
    (top,), missing = read_sparse_pointers(prog, start, 1)
    if missing or table.nest > page_shift(prog):
        return [], True
    return _nested(prog, top, table.size, table.nest)


def walk_rhashtable(
    prog: Program,
    table: Rhashtable,
    layout: Layout[S],
    next_of: Callable[[S], int],
    is_one: Callable[[S], bool],
    known: Mapping[int, int] = NOTHING,
) -> Iterator[S | Lost]:
    """
    Visit every entry of a table once, in the order of ``rhashtable_walk_next()``.

    A ``struct rhltable`` needs another walk: its entries have lists of their own.

    :param layout: How to read an entry.
    :param next_of: ``struct rhash_head *`` after that of an entry.
    :param is_one: Whether what was read is an entry at all; if not, the chain ends there.
    :param known: The next node after entries that the caller has read before (by address):
        these are passed over.
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read or is none, for
        a part of the table that cannot be read, and for entries that the table's count has and its
        chains have not.
    """
    count = 0
    whole = True
    seen: set[int] = set()
    tables: set[int] = set()
    address = table.tbl
    while address and address not in tables:
        tables.add(address)
        buckets = or_lost(BucketTable.layout(prog).read, address)
        if isinstance(buckets, Lost) or len(tables) > _MAX_TABLES:
            yield Lost(BucketTable.C_TYPE, address)
            return
        found, damaged = _buckets(prog, address, buckets)
        if damaged:
            whole = False
            yield Lost(BucketTable.C_TYPE, address, "some of its buckets are missing")
        chains = _Chains(prog, layout, table.head_offset, next_of, is_one, known, seen)
        count += yield from chains.entries(found)
        whole = whole and not chains.broken
        address = buckets.future_tbl
    # On a live kernel entries come and go during the walk.
    if whole and count < table.nelems and not is_live(prog):
        why = f"it counts {table.nelems} entries, of which {table.nelems - count} are not found"
        yield Lost(Rhashtable.C_TYPE, table.address, why)


class _Chains(Generic[S]):
    """The chains of some buckets."""

    def __init__(
        self,
        prog: Program,
        layout: Layout[S],
        offset: int,
        next_of: Callable[[S], int],
        is_one: Callable[[S], bool],
        known: Mapping[int, int],
        seen: set[int],
    ) -> None:
        self._prog = prog
        self._live = is_live(prog)
        self._layout = layout
        self._offset = offset
        self._next_of = next_of
        self._is_one = is_one
        self._known = known
        # Entries that were found in any of the tables.
        self._seen = seen
        self._nodes: set[int] = set()
        #: Whether a chain ends at something that is no entry.
        self.broken = False

    def entries(self, buckets: Sequence[Bucket]) -> Generator[S | Lost, None, int]:
        """
        The entries, bucket by bucket.

        :return: The generator returns how many nodes there are, those of known entries included.
        """
        found: dict[int, list[S | Lost]] = {bucket.number: [] for bucket in buckets}
        # An entry of a live kernel may be freed, or moved to another chain, while the walk is at
        # it. The walk then ends with the marker of another bucket and has missed entries.
        # What was no entry in each walk of a live kernel so far, and its bucket.
        stood: dict[int, tuple[Bucket, Lost]] | None = None
        for _ in range(_MAX_TRIES if self._live else 1):
            if not buckets:
                break
            doubtful: dict[int, tuple[Bucket, Lost]] = {}
            strayed = self._walk(buckets, found, doubtful)
            stood = {at: b for at, b in doubtful.items() if stood is None or at in stood}
            buckets = [bucket._replace(first=self._first(bucket)) for bucket in strayed]
            # What came after known entries may have left since they were read.
            if buckets and self._known:
                self._seen.update(self._known)
                self._known = NOTHING
        for bucket, lost in (stood or {}).values():
            found[bucket.number].append(lost)
        for entries in found.values():
            yield from entries
        return len(self._nodes)

    def _first(self, bucket: Bucket) -> int:
        """The first entry of a bucket as it is now."""
        return read_sparse_pointers(self._prog, bucket.address, 1)[0][0] & ~_LOCK

    def _walk(
        self,
        buckets: Sequence[Bucket],
        found: Mapping[int, list[S | Lost]],
        doubtful: dict[int, tuple[Bucket, Lost]],
    ) -> list[Bucket]:
        """
        :param doubtful: Takes what is no entry of a live kernel, and its bucket.
        :return: Buckets whose chain has to be walked again
        """
        strayed: list[Bucket] = []
        visited: set[int] = set()
        level: dict[int, Bucket] = {}

        def step(bucket: Bucket, node: int, level: dict[int, Bucket]) -> None:
            while node and not node & _NULLS:
                address = node - self._offset
                if address in visited:
                    return
                visited.add(address)
                if address not in self._known:
                    level[address] = bucket
                    return
                node = self._known[address]
            if node and node != bucket.address | _NULLS:
                strayed.append(bucket)

        for bucket in buckets:
            step(bucket, bucket.first, level)
        for _ in range(_MAX_CHAIN):
            if not level:
                break
            below: dict[int, Bucket] = {}
            for one in self._layout.read_many(level):
                address = one.address
                good = not isinstance(one, Lost) and self._is_one(one)
                if not good and not isinstance(one, Lost):
                    one = Lost(self._layout.cls.C_TYPE, address, "no entry of this table")
                if self._live and isinstance(one, Lost):
                    doubtful[address] = level[address], one
                    strayed.append(level[address])
                    continue
                if address not in self._seen:
                    self._seen.add(address)
                    found[level[address].number].append(one)
                if isinstance(one, Lost):
                    self.broken = True
                else:
                    step(level[address], self._next_of(one), below)
            level = below
        self._nodes |= visited
        return list(dict.fromkeys(strayed))
