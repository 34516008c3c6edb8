# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walks of SCTP sockets, and the addresses that they are bound to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drgn import Program, offsetof, sizeof

from drgn_sockets.kernel.chains import NOTHING, HashTable, walk_chains
from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.kernel.module import module_variable
from drgn_sockets.kernel.sock import AF_INET, AF_INET6, SockCommon
from drgn_sockets.kernel.structs import Bytes, Int, Struct


class _BindBucket(Struct):
    C_TYPE = "struct sctp_bind_bucket"
    node = Int("node.next")
    owner = Int("owner.first")
    net = Int("net")


class _BoundSock(SockCommon):
    C_TYPE = "struct sock_common"
    bind_node = Int("skc_bind_node.next")


def for_each_sctp(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """
    Every SCTP socket that has a port: listening, connected or connecting, in all network
    namespaces. A closed socket keeps its port until its last association is gone.

    :param known: Sockets that are passed over
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    :raises LookupError: if the kernel has none, or their type is not known
    """
    # The table of endpoints has listening sockets only, and that of transports leads to
    # associations. The table of ports leads to all sockets.
    sctp = module_variable(prog, "sctp", "sctp_globals", "struct sctp_globals")
    buckets = sctp.port_hashtable
    bucket = buckets.type_.type
    ports = HashTable(
        buckets.value_(),
        sctp.port_hashsize.value_(),
        sizeof(bucket),
        offsetof(bucket, "chain.first"),
    )
    layout = _BindBucket.layout(prog)
    places = layout.cls.places
    sock_layout = _BoundSock.layout(prog)
    for port in walk_chains(
        prog,
        ports,
        layout,
        places["node"].offset,
        lambda port: port.node,
        lambda port: port.net != 0,
    ):
        if isinstance(port, Lost):
            yield port
            continue
        owners = HashTable(port.address + places["owner"].offset, 1, places["owner"].size)
        for entry in walk_chains(
            prog,
            owners,
            sock_layout,
            sock_layout.cls.places["bind_node"].offset,
            lambda sk: sk.bind_node,
            _is_one,
        ):
            if entry.address not in known:
                yield entry


def _is_one(sk: _BoundSock) -> bool:
    return sk.family in (AF_INET, AF_INET6) and 0 < sk.state < 16 and sk.net != 0


class _SockaddrEntry(Struct):
    C_TYPE = "struct sctp_sockaddr_entry"
    node = Int("list.next")
    addr = Bytes("a")


def sctp_bind_addrs(prog: Program, address_list: int) -> list[bytes]:
    """
    Local addresses of an endpoint or an association.

    :param address_list: ``struct list_head *`` in a ``struct sctp_bind_addr``
    :return: Each ``union sctp_addr``
    :raises FaultError: if one cannot be read
    :raises LookupError: if the type is not known
    """
    entries = list_for_each_entry(_SockaddrEntry.layout(prog), address_list, "node")
    return [entry.addr for entry in unbroken(entries)]
