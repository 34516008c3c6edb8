# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walks of netlink sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drgn import FaultError, Program, offsetof, sizeof

from drgn_sockets.kernel.chains import NOTHING, HashTable, walk_chains
from drgn_sockets.kernel.lost import Lost, lost_by, or_lost
from drgn_sockets.kernel.rhashtable import Rhashtable, walk_rhashtable
from drgn_sockets.kernel.sock import AF_NETLINK, SockCommon
from drgn_sockets.kernel.structs import Int, Struct

# include/uapi/linux/netlink.h
MAX_LINKS = 32


class NetlinkTable(Struct):
    """``struct netlink_table``, one for each protocol."""

    C_TYPE = "struct netlink_table"

    registered = Int("registered", help="number of the kernel's sockets")


class _HashedSock(SockCommon):
    C_TYPE = "struct netlink_sock"

    node = Int("node.next", help="next in its hash chain")


class _Member(SockCommon):
    node = Int("skc_bind_node.next", help="next of those that have joined a group")


def netlink_tables(prog: Program) -> list[NetlinkTable]:
    """
    ``nl_table``: the sockets of each protocol, by its number.

    :raises FaultError: if it cannot be read
    :raises LookupError: if the program lacks the types or variables
    """
    address = prog["nl_table"].value_()
    size = sizeof(prog.type("struct netlink_table"))
    layout = NetlinkTable.layout(prog)
    data = prog.read(address, MAX_LINKS * size)
    return [layout.decode(address + i * size, data, i * size) for i in range(MAX_LINKS)]


def for_each_netlink_of(
    prog: Program, table: NetlinkTable, known: Mapping[int, int] = NOTHING
) -> Iterator[SockCommon | Lost]:
    """
    Every netlink socket of a protocol that has a port ID, the kernel's own included, in all
    network namespaces, in the order of ``/proc/net/netlink``.

    :param known: Sockets that are passed over, see
        :func:`~drgn_sockets.kernel.rhashtable.walk_rhashtable`
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    """
    address = table.address + offsetof(prog.type("struct netlink_table"), "hash")
    hash_ = or_lost(Rhashtable.layout(prog).read, address)
    if isinstance(hash_, Lost):
        yield hash_
        return
    yield from walk_rhashtable(
        prog, hash_, _HashedSock.layout(prog), lambda sock: sock.node, _is_one, known
    )


def _is_one(sock: SockCommon) -> bool:
    return sock.family == AF_NETLINK and sock.net != 0


def netlink_members(prog: Program, table: NetlinkTable) -> Iterator[SockCommon | Lost]:
    """
    Every netlink socket of a protocol that has joined a group, in the order of sock_diag. A socket
    that was never bound is in this list only.

    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    """
    offset = offsetof(prog.type("struct netlink_table"), "mc_list")
    size = sizeof(prog.type("struct hlist_head"))
    layout = _Member.layout(prog)
    return walk_chains(
        prog,
        HashTable(table.address + offset, 1, size),
        layout,
        layout.cls.places["node"].offset,
        lambda sock: sock.node,
        _is_one,
    )


def for_each_netlink(
    prog: Program, known: Mapping[int, int] = NOTHING
) -> Iterator[SockCommon | Lost]:
    """
    Every netlink socket that has a port ID or has joined a group, the kernel's own included, in
    all network namespaces.
    """
    try:
        tables = netlink_tables(prog)
    except FaultError as e:
        # The pointers to the tables cannot be read.
        yield lost_by(e, "nl_table")
        return
    for table in tables:
        seen: set[int] = set()
        for sock in for_each_netlink_of(prog, table, known):
            seen.add(sock.address)
            yield sock
        for sock in netlink_members(prog, table):
            if sock.address not in seen and sock.address not in known:
                yield sock
