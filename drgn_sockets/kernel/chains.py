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

from collections.abc import Generator, Iterator, Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple, TypeVar

from drgn import Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import distilled_by, pointer_size, read_sparse_pointers
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

_NO_ENTRY = "what is there is no entry of this table"

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
    #: For chains of ``hlist_nulls``: the value of ``NULLS_MARKER()`` at the end of the first chain;
    #: that of bucket N is N more. ``None`` for chains that end with NULL.
    nulls: int | None = None

    def heads(
        self, prog: Program, start: int = 0, count: int | None = None
    ) -> tuple[list[int], Lost | None]:
        """
        The first node of each bucket, 0 if it cannot be read, and what cannot be read.
        """
        word = pointer_size(prog)
        words, first = self.bucket_size // word, self.head_offset // word
        heads: list[int] = []
        chunk = max(1, (1 << 16) // self.bucket_size)
        end = min(self.n_buckets, _MAX_BUCKETS) if count is None else start + count
        why = f"it has {self.n_buckets} buckets" if self.n_buckets > _MAX_BUCKETS else ""
        lost = chunks = 0
        for i in range(start, end, chunk):
            n = min(chunk, end - i)
            address = self.address + i * self.bucket_size
            pointers, missing = read_sparse_pointers(prog, address, n * words)
            heads.extend(pointers[first::words])
            lost += missing // words or (missing > 0)
            chunks = chunks + 1 if missing == n * words else 0
            if chunks == _MAX_UNREADABLE_CHUNKS:
                lost += end - i - n
                break
        if not why and lost:
            why = f"{lost} of its {self.n_buckets} buckets are missing"
        if not why and self.nulls is not None and end > start:
            ends = range(2 * (start + self.nulls) + 1, 2 * (end + self.nulls) + 1, 2)
            wrong = sum(not head or (head & 1 and head != end) for head, end in zip(heads, ends))
            if wrong:
                why = f"{wrong} of its {self.n_buckets} buckets are those of another table"
        return heads, Lost("hash table", self.address, why) if why else None


def walk_chains(
    prog: Program,
    table: HashTable,
    layout: Layout[S],
    node_offset: int,
    next_of: Callable[[S], int],
    is_one: Callable[[S], bool],
    known: Mapping[int, int] = NOTHING,
) -> Generator[S | Lost, None, int]:
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
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read or is none, and
        for buckets that cannot be read. The generator returns the number of nodes in the chains,
        those of known entries included.
    """
    walk = walk_buckets(prog, table, layout, node_offset, next_of, is_one, known)
    while True:
        try:
            _, entry = next(walk)
        except StopIteration as e:
            return int(e.value)
        yield entry


def walk_buckets(
    prog: Program,
    table: HashTable,
    layout: Layout[S],
    node_offset: int,
    next_of: Callable[[S], int],
    is_one: Callable[[S], bool],
    known: Mapping[int, int] = NOTHING,
    has_left: Callable[[S], bool] | None = None,
) -> Generator[tuple[int, S | Lost], None, int]:
    """
    :func:`walk_chains`, with the bucket of each entry. The entries of one bucket come in the order
    of its chain.

    :param has_left: Whether an entry is in no chain. One that leaves its chain while a live kernel
        is walked leads nowhere, so the chain is walked again.
    :return: Iterator of (bucket, entry). The generator returns the number of nodes.
    """
    live = is_live(prog)
    what = layout.cls.C_TYPE
    base = table.nulls or 0
    seen: set[int] = set()
    nodes: set[int] = set()
    strayed: set[int] = set()
    # What cannot be read, or is no entry, in this walk of a live kernel; and its bucket.
    doubtful: dict[int, tuple[int, Lost]] = {}

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
        chains: dict[int, int], visited: set[int], *, by_known: bool = bool(known)
    ) -> Iterator[tuple[int, S | Lost]]:
        visited.update(chains)
        for _ in range(_MAX_CHAIN):
            if by_known:
                chains = pass_known(chains, visited)
            if not chains:
                return
            following: dict[int, int] = {}
            for one in layout.read_many(chains):
                address = one.address
                good = not isinstance(one, Lost) and is_one(one)
                if live and (
                    isinstance(one, Lost) or not good or (has_left is not None and has_left(one))
                ):
                    strayed.add(chains[address])
                    if not good and address not in seen:
                        no_one = one if isinstance(one, Lost) else Lost(what, address, _NO_ENTRY)
                        doubtful[address] = chains[address], no_one
                    continue
                if address not in seen:
                    seen.add(address)
                    if not good and not isinstance(one, Lost):
                        yield chains[address], Lost(what, address, _NO_ENTRY)
                    else:
                        yield chains[address], one
                if isinstance(one, Lost) or not good:
                    continue
                node, bucket = next_of(one), chains[address]
                if node & 1:
                    if node >> 1 != bucket + base:
                        strayed.add(bucket)
                elif node and node - node_offset not in visited:
                    following[node - node_offset] = bucket
            visited.update(following)
            chains = following

    def starts(heads: list[int], first: int = 0) -> dict[int, int]:
        return {
            node - node_offset: first + i for i, node in enumerate(heads) if node and not node & 1
        }

    heads, lost = table.heads(prog)
    if lost is not None:
        yield table.n_buckets, lost
    yield from walk(starts(heads), nodes)
    # A socket of a live kernel may be freed and hashed elsewhere while the walk is at it. The
    # walk then ends with the marker of another bucket and has missed entries.
    stood = doubtful
    for _ in range(_MAX_TRIES if live else 0):
        again, strayed, doubtful = strayed, set(), {}
        for bucket in sorted(again):
            # What came after known entries may have left since they were read.
            heads, _ = table.heads(prog, bucket, 1)
            for one in walk(starts(heads, bucket), set(), by_known=False):
                if one[1].address not in known:
                    yield one
        stood = {address: found for address, found in stood.items() if address in doubtful}
    yield from stood.values()
    # On a live kernel a chain that strayed has been walked again.
    if live or lost is not None or table.nulls is None or distilled_by(prog) is not None:
        return len(nodes)
    if strayed:
        why = f"{len(strayed)} of its chains end as those of other buckets do"
        yield table.n_buckets, Lost("hash table", table.address, why)
    return len(nodes)
