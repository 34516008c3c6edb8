# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The families of sockets: one module each, with its structures, its records, its walk, the names
of its ends, and its peers.
"""

from __future__ import annotations

import functools

from drgn_sockets.kernel import sock as k
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.mptcp import Mptcp
from drgn_sockets.records.families.netlink import Netlink
from drgn_sockets.records.families.packet import Packet
from drgn_sockets.records.families.ping import Ping
from drgn_sockets.records.families.raw import Raw
from drgn_sockets.records.families.sctp import Sctp
from drgn_sockets.records.families.tcp import Tcp
from drgn_sockets.records.families.udp import Udp
from drgn_sockets.records.families.unix import Unix
from drgn_sockets.records.families.vsock import Vsock
from drgn_sockets.records.families.xdp import Xdp
from drgn_sockets.records.socket import Family, SocketRecord

#: By the names of their groups; sockets are walked and shown in that order, after those of no
#: family that is known.
BY_GROUP: dict[str, Family] = {
    family.group: family
    for family in (
        Netlink(),
        Packet(),
        Unix(),
        Ping(),
        Raw(),
        Udp(),
        Tcp(),
        Mptcp(),
        Vsock(),
        Sctp(),
        Xdp(),
    )
}

OTHER = "other"

#: All groups.
FAMILIES: tuple[str, ...] = (OTHER, *BY_GROUP)

#: The records of all kinds of sockets that are told apart.
RECORDS: tuple[type[SocketRecord], ...] = tuple(
    record
    for family in BY_GROUP.values()
    for record in (family.record, *family.small, *family.parts)
)


@functools.lru_cache(1024)
def family_of(family: int, type_: int, protocol: int) -> Family | None:
    """The family of a socket, ``None`` for one that has only its generic part."""
    for known in BY_GROUP.values():
        if known.owns(family, type_, protocol):
            return known
    return None


@functools.lru_cache(1024)
def group_like(family: int, type_: int) -> str:
    """
    The group that a socket of an address family and type looks like: SCTP, say, looks like TCP.
    """
    alike = [
        known
        for known in BY_GROUP.values()
        if family in known.address_families and (known.types is None or type_ in known.types)
    ]
    alike.sort(key=lambda known: known.rare)
    return alike[0].group if alike else OTHER


@functools.lru_cache(64)
def groups_like(group: str) -> frozenset[str]:
    """The groups that sockets of *group* may look like."""
    if group == OTHER:
        # An unknown protocol of a known family.
        return frozenset(FAMILIES)
    known = BY_GROUP[group]
    types = range(_SOCK_MAX) if known.types is None else known.types
    return frozenset(group_like(f, t) for f in known.address_families for t in types)


def plain_record(family: int, type_: int, protocol: int) -> type[SocketRecord]:
    """The record of a socket of which ``struct sock`` was read, and no more."""
    known = family_of(family, type_, protocol)
    if known is not None:
        return known.plain
    return InetRecord if family in (k.AF_INET, k.AF_INET6) else SocketRecord


# include/linux/net.h
_SOCK_MAX = 11
