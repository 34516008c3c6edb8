# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP sockets that are bound to a port, but neither listening nor connected."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from drgn import FaultError, Object, Program, offsetof, sizeof

from drgn_sockets.kernel.chains import HashTable, walk_chains
from drgn_sockets.kernel.lost import Lost, lost_by
from drgn_sockets.kernel.net import for_each_net
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, TCP_CLOSE, SockCommon
from drgn_sockets.kernel.structs import Int, Layout, Struct

# A listening socket may share its port with this many sockets.
_MAX_CHAIN = 1 << 20


class _PortBucket(Struct):
    C_TYPE = "struct inet_bind_bucket"
    next = Int("node.next")
    owners = Int("owners.first")


class _AddressBucket(Struct):
    C_TYPE = "struct inet_bind2_bucket"
    next = Int("node.next")
    owners = Int("owners.first")


class _Owner(SockCommon):
    C_TYPE = "struct sock_common"
    bind_node = Int("skc_bind_node.next")


def for_each_bound_tcp(prog: Program, known: Container[int] = ()) -> Iterator[SockCommon | Lost]:
    """
    Every TCP socket that is only bound, in all network namespaces. It is in the table of ports
    only, with all other sockets that have a port.

    :param known: Sockets that are passed over
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    """
    # Linux kernel commits 8191792c18c5 ("tcp: Link sk and twsk to tb2->owners using
    # skc_bind_node.") and b2cb9f9ef240 ("tcp: Unlink sk from bhash.") (in v6.8) moved the lists of
    # sockets from struct inet_bind_bucket to struct inet_bind2_bucket.
    by_port = prog.type("struct inet_bind_bucket").has_member("owners")
    layout: Layout[Any] = (_PortBucket if by_port else _AddressBucket).layout(prog)
    node = layout.cls.places["next"].offset
    offset = _Owner.layout(prog).cls.places["bind_node"].offset
    firsts: set[int] = set()
    try:
        tables = set(_tables(prog, by_port))
    except FaultError as e:
        # The pointers to the tables cannot be read.
        yield lost_by(e, "struct inet_hashinfo")
        return
    for table in tables:
        if isinstance(table, Lost):
            yield table
            continue
        buckets = walk_chains(prog, table, layout, node, lambda b: b.next, lambda b: True)
        for bucket in buckets:
            if isinstance(bucket, Lost):
                yield bucket
            elif bucket.owners:
                firsts.add(bucket.owners - offset)
    for owner in _owners(prog, firsts, offset):
        if isinstance(owner, Lost) or (owner.state == TCP_CLOSE and owner.address not in known):
            yield owner


def _tables(prog: Program, by_port: bool) -> Iterator[HashTable | Lost]:
    head = prog.type("struct inet_bind_hashbucket")
    for net in for_each_net(prog):
        if isinstance(net, Lost):
            yield net
            continue
        hashinfo = Object(prog, "struct net *", net.address).ipv4.tcp_death_row.hashinfo.read_()
        yield HashTable(
            (hashinfo.bhash if by_port else hashinfo.bhash2).value_(),
            hashinfo.bhash_size.value_(),
            sizeof(head),
            offsetof(head, "chain.first"),
        )


def _owners(prog: Program, firsts: set[int], offset: int) -> Iterator[SockCommon | Lost]:
    """All sockets of the chains that begin with *firsts*."""
    layout = _Owner.layout(prog)
    level, visited = firsts, set(firsts)
    for _ in range(_MAX_CHAIN):
        following = set()
        for owner in layout.read_many(level):
            if not isinstance(owner, Lost) and owner.family not in (AF_INET, AF_INET6):
                owner = Lost(_Owner.C_TYPE, owner.address, "what is there is no socket of IP")
            if isinstance(owner, Lost):
                yield owner
                continue
            if owner.bind_node:
                following.add(owner.bind_node - offset)
            yield owner
        level = following - visited
        visited |= level
        if not level:
            return
