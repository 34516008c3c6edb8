# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Control sockets, which the kernel has for its own use. ``inet_ctl_sock_create()`` takes them out of
the hash tables.

The kernel sends through them: resets and ACKs of TCP, errors of ICMP, messages of neighbour
discovery and of multicast.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import UNREADABLE, read_pointers
from drgn_sockets.kernel.net import for_each_net
from drgn_sockets.kernel.percpu import per_cpu_addresses
from drgn_sockets.kernel.sock import Sock, SockCommon

#: Members of ``struct net`` that point to one socket.
_OF_A_NAMESPACE = (
    *(("ipv4", "mc_autojoin_sk"), ("ipv6", "mc_autojoin_sk"), ("ipv6", "igmp_sk")),
    *(("ipv6", "ndisc_sk"), ("ipv6", "tcp_sk"), ("sctp", "ctl_sock")),
)
#: Members that point to a socket for each processor; in v6.1 per-CPU variables do.
_OF_PROCESSORS = (("ipv4", "icmp_sk"), ("ipv6", "icmp_sk"))
#: Per-CPU variables. In v6.12 one is a structure that begins with the pointer ("struct
#: sock_bh_locked").
_POINTER = "pointer to a control socket"
_VARIABLES = ("ipv4_tcp_sk", "ipv4_icmp_sk", "ipv6_icmp_sk")


def _places(prog: Program) -> Iterator[int | Lost]:
    """
    Iterate over the addresses of the pointers to control sockets. A ``Lost`` is at the member or
    variable that leads to such a pointer.
    """
    for one in for_each_net(prog):
        if isinstance(one, Lost):
            yield one
            continue
        net = Object(prog, "struct net *", one.address)
        for part, name in (*_OF_A_NAMESPACE, *_OF_PROCESSORS):
            try:
                member = net.member_(part).member_(name)
            except LookupError:
                # Not in this kernel.
                continue
            place = member.address_of_().value_()
            if (part, name) in _OF_A_NAMESPACE:
                yield place
                continue
            try:
                (pointer,) = read_pointers(prog, place, 1)
            except FaultError:
                yield Lost(_POINTER, place)
            else:
                yield from _of_processors(prog, pointer, place)
    for name in _VARIABLES:
        try:
            variable = prog.symbol(name).address
        except LookupError:
            continue
        yield from _of_processors(prog, variable, variable)


def _of_processors(prog: Program, pointer: int, place: int) -> Iterator[int | Lost]:
    try:
        yield from per_cpu_addresses(prog, pointer)
    except UNREADABLE:
        yield Lost(_POINTER, place)


def for_each_control_sock(prog: Program, *types: int) -> Iterator[SockCommon | Lost]:
    """
    Every control socket of some types, in all network namespaces.

    :param types: ``SOCK_*`` types
    :return: Iterator of the entries. A ``Lost`` stands for a socket that cannot be read, or for the
        pointer to it.
    """
    found: dict[int, None] = {}
    for place in _places(prog):
        if isinstance(place, Lost):
            yield place
            continue
        try:
            pointer = read_pointers(prog, place, 1)[0]
        except FaultError:
            yield Lost(_POINTER, place)
            continue
        if pointer:
            found[pointer] = None
    for entry in Sock.layout(prog).read_many(found):
        if isinstance(entry, Lost) or entry.type in types:
            yield entry
