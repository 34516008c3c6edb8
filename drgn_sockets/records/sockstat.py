# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts of the sockets in a network namespace, and the memory that they use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import Object

from drgn_sockets.kernel import proto as p

Counts = dict[str, int]


def sockstat(net: Object) -> Iterator[tuple[str, Counts]]:
    """
    Iterate over the lines of ``/proc/net/sockstat`` (``sockstat_seq_show()``).

    :param net: ``struct net *``
    :return: Iterator of (first word of a line, its counts by name)
    :raises FaultError: if a count cannot be read
    """
    prog = net.prog_
    inuse = p.sockets_in_use(net)
    yield "sockets", {"used": inuse.all}
    for name, symbol in (
        *(("TCP", "tcp_prot"), ("UDP", "udp_prot")),
        *(("UDPLITE", "udplite_prot"), ("RAW", "raw_prot")),
    ):
        proto = p.find_proto(prog, symbol)
        # This kernel may have no UDP-Lite.
        if proto is None:
            continue
        counts = {"inuse": inuse.of(proto)}
        if name == "TCP":
            counts["orphan"] = p.tcp_orphan_count(prog)
            counts["tw"] = p.timewait_count(net)
            counts["alloc"] = p.sockets_allocated(prog, proto)
        if name in ("TCP", "UDP"):
            counts["mem"] = p.proto_memory_allocated(prog, proto)
        yield name, counts
    yield "FRAG", dict(zip(("inuse", "memory"), p.fragments(net.ipv4.fqdir)))


def sockstat6(net: Object) -> Iterator[tuple[str, Counts]]:
    """
    Iterate over the lines of ``/proc/net/sockstat6`` (``sockstat6_seq_show()``).

    :param net: ``struct net *``
    :return: Iterator of (first word of a line, its counts by name)
    :raises FaultError: if a count cannot be read
    """
    inuse = p.sockets_in_use(net)
    for name in ("TCP", "UDP", "UDPLITE", "RAW"):
        proto = p.find_proto(net.prog_, f"{name.lower()}v6_prot")
        if proto is not None:
            yield f"{name}6", {"inuse": inuse.of(proto)}
    yield "FRAG6", dict(zip(("inuse", "memory"), p.fragments(net.ipv6.fqdir)))


class SocketCounts(NamedTuple):
    """What ``ss -s`` counts."""

    #: Counts of :func:`sockstat` and :func:`sockstat6`, by the word at the beginning of the line.
    counts: dict[str, Counts]
    #: TCP connections in ESTABLISHED or CLOSE-WAIT.
    established: int


def socket_counts(net: Object) -> SocketCounts:
    """
    Count the sockets of a network namespace.

    :param net: ``struct net *``
    :raises FaultError: if a count cannot be read
    """
    return SocketCounts(dict([*sockstat(net), *sockstat6(net)]), p.tcp_established(net))
