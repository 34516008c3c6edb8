# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The families of sockets: one module each, with its structures, its records, its walk, the names
of its ends, and its peers.

A module is imported when there are sockets of its family, or somebody asks for these.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib import import_module

from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_PACKET,
    AF_UNIX,
    AF_VSOCK,
    AF_XDP,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MPTCP,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.socket import OTHER, Family, SocketRecord


class _Looks(NamedTuple):
    """How sockets of a family are told from others."""

    #: ``AF_*``, and ``SOCK_*`` and ``IPPROTO_*`` if not all are its.
    families: tuple[int, ...]
    types: tuple[int, ...] | None = None
    protocols: tuple[int, ...] | None = None
    #: Whether what looks like it, by address family and type, mostly is of another family.
    rare: bool = False

    def like(self, family: int, type_: int) -> bool:
        """Whether a socket of an address family and type looks like one of these."""
        return family in self.families and (self.types is None or type_ in self.types)

    def owns(self, family: int, type_: int, protocol: int) -> bool:
        """Whether a socket of these is one of the family."""
        return self.like(family, type_) and (self.protocols is None or protocol in self.protocols)


_INET = (AF_INET, AF_INET6)

# A family is in the module of its name, in the class of that name in capitals.
_LOOKS = {
    "netlink": _Looks((AF_NETLINK,)),
    "packet": _Looks((AF_PACKET,)),
    "unix": _Looks((AF_UNIX,)),
    "ping": _Looks(_INET, (SOCK_DGRAM,), (IPPROTO_ICMP, IPPROTO_ICMPV6), rare=True),
    "raw": _Looks(_INET, (SOCK_RAW,)),
    "udp": _Looks(_INET, (SOCK_DGRAM,), (IPPROTO_UDP, IPPROTO_UDPLITE)),
    "tcp": _Looks(_INET, (SOCK_STREAM,), (IPPROTO_TCP,)),
    "mptcp": _Looks(_INET, (SOCK_STREAM,), (IPPROTO_MPTCP,), rare=True),
    "vsock": _Looks((AF_VSOCK,)),
    "sctp": _Looks(_INET, (SOCK_STREAM, SOCK_SEQPACKET), (IPPROTO_SCTP,), rare=True),
    "xdp": _Looks((AF_XDP,)),
}

#: Names of all families, in the order in which sockets are walked and shown.
FAMILY_NAMES: tuple[str, ...] = (OTHER, *_LOOKS)


@functools.lru_cache(None)
def family_named(name: str) -> Family | None:
    """The family with a name, ``None`` for :data:`OTHER`."""
    if name not in _LOOKS:
        return None
    module = import_module(f"{__name__}.{name}")
    return getattr(module, name.capitalize())()  # type: ignore[no-any-return]


def all_records() -> Iterator[type[SocketRecord]]:
    """The records of all kinds of sockets that are told apart."""
    for family in filter(None, map(family_named, _LOOKS)):
        yield from (family.record, *family.small, *family.parts)


def family_columns() -> Iterator[Column]:
    """The columns that families declare."""
    for family in filter(None, map(family_named, _LOOKS)):
        yield from family.columns


@functools.lru_cache(1024)
def family_of(family: int, type_: int, protocol: int) -> Family | None:
    """The family of a socket, ``None`` for one that has only its generic part."""
    for name, looks in _LOOKS.items():
        if looks.owns(family, type_, protocol):
            return family_named(name)
    return None


@functools.lru_cache(1024)
def family_name_like(family: int, type_: int) -> str:
    """
    The name of the family that a socket of an address family and type looks like: SCTP looks like
    TCP.
    """
    alike = [name for name, looks in _LOOKS.items() if looks.like(family, type_)]
    alike.sort(key=lambda name: _LOOKS[name].rare)
    return alike[0] if alike else OTHER


@functools.lru_cache(64)
def family_names_like(name: str) -> frozenset[str]:
    """Names of the families that sockets of the family *name* may look like."""
    if name == OTHER:
        # An unknown protocol of a known family.
        return frozenset(FAMILY_NAMES)
    looks = _LOOKS[name]
    types = range(_SOCK_MAX) if looks.types is None else looks.types
    return frozenset(family_name_like(f, t) for f in looks.families for t in types)


def plain_record(family: int, type_: int, protocol: int) -> type[SocketRecord]:
    """The record of a socket of which ``struct sock`` was read, and no more."""
    known = family_of(family, type_, protocol)
    if known is not None:
        return known.plain
    return InetRecord if family in (AF_INET, AF_INET6) else SocketRecord


def netid(family: int, type_: int, protocol: int) -> str:
    """What ss writes in its column Netid: ``tcp``, ``u_str``, ``p_raw``, ``nl``, …"""
    return plain_record(family, type_, protocol).netid_of(family, type_, protocol)


# include/linux/net.h
_SOCK_MAX = 11
