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
from drgn_sockets.kernel.net import net_namespaces
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
_VARIABLES = ("ipv4_tcp_sk", "ipv4_icmp_sk", "ipv6_icmp_sk")


def _places(prog: Program) -> Iterator[tuple[int, bool]]:
    """
    Iterate over the pointers to control sockets: (address of the pointer, whether it is known).

    If it is not known, the address is that of the member or variable that leads to the pointer.
    """
    for address in net_namespaces(prog):
        net = Object(prog, "struct net *", address)
        for part, name in (*_OF_A_NAMESPACE, *_OF_PROCESSORS):
            try:
                member = net.member_(part).member_(name)
            except LookupError:
                # Not in this kernel.
                continue
            place = member.address_of_().value_()
            if (part, name) in _OF_A_NAMESPACE:
                yield place, True
                continue
            try:
                (pointer,) = read_pointers(prog, place, 1)
            except FaultError:
                yield place, False
            else:
                yield from _of_processors(prog, pointer, place)
    for name in _VARIABLES:
        try:
            variable = prog.symbol(name).address
        except LookupError:
            continue
        yield from _of_processors(prog, variable, variable)


def _of_processors(prog: Program, pointer: int | None, place: int) -> Iterator[tuple[int, bool]]:
    try:
        found = None if pointer is None else per_cpu_addresses(prog, pointer)
    except UNREADABLE:
        found = None
    yield from [(place, False)] if found is None else [(address, True) for address in found]


def for_each_control_sock(prog: Program, *types: int) -> Iterator[tuple[int, SockCommon | None]]:
    """
    Every control socket of some types, in all network namespaces.

    :param types: ``SOCK_*`` types
    :return: Iterator of (address, entry). If a socket cannot be read, the entry is ``None``, and
        the address is that of the socket or of the pointer to it.
    """
    found: dict[int, None] = {}
    for place, known in _places(prog):
        try:
            pointer = read_pointers(prog, place, 1)[0] if known else None
        except FaultError:
            pointer = None
        if pointer is None:
            yield place, None
        elif pointer:
            found[pointer] = None
    for entry in Sock.layout(prog).read_many(found):
        if isinstance(entry, Lost):
            yield entry.address, None
        elif entry.type in types:
            yield entry.address, entry
