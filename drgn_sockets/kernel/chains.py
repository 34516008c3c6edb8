# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Walking hash tables of ``hlist`` and ``hlist_nulls`` chains, all chains at once.

Following one chain after the other reads memory in hash order, which on a compressed core
inflates each page again and again. So all chains advance together: the first entries of all
buckets are read in address order, then all second ones, and so on. The walk of a chain ends
where the chain loops (each entry is visited once), leaves readable memory, or meets something
that is not an entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple, TypeVar

from drgn import Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size, read_sparse_pointers
from drgn_sockets.kernel.structs import Layout, Struct
from drgn_sockets.program import is_live

S = TypeVar("S", bound=Struct)

# Longer than any real chain: tens of thousands of SO_REUSEPORT sockets may share a bucket.
_MAX_CHAIN = 1 << 20
# No kernel makes more buckets (thash_entries= and the like go up to a few million). The size of a
# table may be overwritten, so reading ends after some pieces in a row that are missing.
_MAX_BUCKETS = 1 << 24
_MAX_UNREADABLE_CHUNKS = 4
# How often a chain of a live kernel is walked again when it changed during the walk.
_MAX_TRIES = 3

NOTHING: Mapping[int, int] = MappingProxyType({})


class HashTable(NamedTuple):
    """An array of buckets, each with a list head."""

    #: Address of the first bucket.
    address: int
    #: Number of buckets.
    n_buckets: int
    #: ``sizeof`` a bucket, bytes.
    bucket_size: int
    #: Where in a bucket the head's pointer to its first node is, bytes.
    head_offset: int = 0

    def heads(
        self, prog: Program, start: int = 0, count: int | None = None
    ) -> tuple[list[int], bool]:
        """
        The first node of each bucket, 0 if it cannot be read, and whether some cannot be read.
        """
        word = pointer_size(prog)
        words, first = self.bucket_size // word, self.head_offset // word
        heads: list[int] = []
        chunk = max(1, (1 << 16) // self.bucket_size)
        end = min(self.n_buckets, _MAX_BUCKETS) if count is None else start + count
        damaged = self.n_buckets > _MAX_BUCKETS
        chunks = 0
        for i in range(start, end, chunk):
            n = min(chunk, end - i)
            address = self.address + i * self.bucket_size
            pointers, missing = read_sparse_pointers(prog, address, n * words)
            heads.extend(pointers[first::words])
            damaged = damaged or missing > 0
            chunks = chunks + 1 if missing == n * words else 0
            if chunks == _MAX_UNREADABLE_CHUNKS:
                break
        return heads, damaged


def walk_chains(
    prog: Program,
    table: HashTable,
    layout: Layout[S],
    node_offset: int,
    next_of: Callable[[S], int],
    is_one: Callable[[S], bool],
    known: Mapping[int, int] = NOTHING,
) -> Iterator[tuple[int, S | None]]:
    """
    Visit every entry of a hash table once, level by level, in address order.

    A node that is ``NULL`` or odd (the marker that ends an ``hlist_nulls``,
    ``2 * bucket + 1``) ends its chain.

    :param layout: How to read an entry.
    :param node_offset: Where the list node is in an entry, bytes.
    :param next_of: The next node after an entry.
    :param is_one: Whether what was read is an entry at all; if not, the chain ends there.
    :param known: The next node after entries that the caller has read before (by address):
        these are passed over.
    :return: Iterator of (address, entry); ``None`` for one that cannot be read or is none.
    """
    walk = walk_buckets(prog, table, layout, node_offset, next_of, is_one, known)
    return ((address, entry) for _, address, entry in walk)


def walk_buckets(
    prog: Program,
    table: HashTable,
    layout: Layout[S],
    node_offset: int,
    next_of: Callable[[S], int],
    is_one: Callable[[S], bool],
    known: Mapping[int, int] = NOTHING,
    has_left: Callable[[S], bool] | None = None,
) -> Iterator[tuple[int, int, S | None]]:
    """
    :func:`walk_chains`, with the bucket of each entry. The entries of one bucket come in the order
    of its chain.

    :param has_left: Whether an entry is in no chain. One that leaves its chain while a live kernel
        is walked leads nowhere, so the chain is walked again.
    :return: Iterator of (bucket, address, entry).
    """
    live = is_live(prog)
    seen: set[int] = set()
    strayed: set[int] = set()
    # What cannot be read, or is no entry, in this walk of a live kernel; and its bucket.
    doubtful: dict[int, int] = {}

    def pass_known(chains: dict[int, int], visited: set[int]) -> dict[int, int]:
        unknown = {}
        for address, bucket in chains.items():
            while address in known:
                node = known[address]
                if not node or node & 1 or node - node_offset in visited:
                    break
                address = node - node_offset
                visited.add(address)
            else:
                unknown[address] = bucket
        return unknown

    def walk(
        chains: dict[int, int], *, by_known: bool = bool(known)
    ) -> Iterator[tuple[int, int, S | None]]:
        visited = set(chains)
        for _ in range(_MAX_CHAIN):
            if by_known:
                chains = pass_known(chains, visited)
            if not chains:
                return
            following: dict[int, int] = {}
            for one in layout.read_many(chains):
                address, entry = one.address, None if isinstance(one, Lost) else one
                good = entry is not None and is_one(entry)
                if live and (
                    not good or (has_left is not None and entry is not None and has_left(entry))
                ):
                    strayed.add(chains[address])
                    if not good and address not in seen:
                        doubtful[address] = chains[address]
                    continue
                if address not in seen:
                    seen.add(address)
                    yield chains[address], address, entry if good else None
                if entry is None or not good:
                    continue
                node, bucket = next_of(entry), chains[address]
                if node & 1:
                    if node >> 1 != bucket:
                        strayed.add(bucket)
                elif node and node - node_offset not in visited:
                    following[node - node_offset] = bucket
            visited.update(following)
            chains = following

    def starts(heads: list[int], first: int = 0) -> dict[int, int]:
        return {
            node - node_offset: first + i for i, node in enumerate(heads) if node and not node & 1
        }

    heads, damaged = table.heads(prog)
    if damaged:
        # This row tells that entries may be missing.
        yield table.n_buckets, table.address, None
    yield from walk(starts(heads))
    # A socket of a live kernel may be freed and hashed elsewhere while the walk is at it. The
    # walk then ends with the marker of another bucket and has missed entries.
    stood = doubtful
    for _ in range(_MAX_TRIES if live else 0):
        again, strayed, doubtful = strayed, set(), {}
        for bucket in sorted(again):
            # What came after known entries may have left since they were read.
            heads, _ = table.heads(prog, bucket, 1)
            for one in walk(starts(heads, bucket), by_known=False):
                if one[1] not in known:
                    yield one
        stood = {address: bucket for address, bucket in stood.items() if address in doubtful}
    for address, bucket in stood.items():
        yield bucket, address, None
