# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The families of sockets. Each has a module with its structures and records, its walk, the texts of
its ends, and the search for its peers.

Importing all of them takes 31 ms, so a module is imported when a socket or an option needs it.

The rest of the package knows the families from :data:`FAMILY_ENTRIES` alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_PACKET,
    AF_TIPC,
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
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
)
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.names import STATE_GROUPS
from drgn_sockets.records.socket import OTHER, Family, SocketRecord

# States that ss shows without -a and -l in most families: the states of connections, without those
# of small structures (TIME-WAIT, SYN-RECV).
_CONNECTED = STATE_GROUPS["connected"] - STATE_GROUPS["bucket"]
_ESTABLISHED = frozenset({TCP_ESTABLISHED})
_CLOSED = frozenset({TCP_CLOSE})


class Registered(NamedTuple):
    """
    A family in the registry: how its sockets are told from others, and the words of ``ss`` that
    choose them. Using it does not import the module of the family.
    """

    #: The ``AF_*`` of its sockets, and their ``SOCK_*`` and ``IPPROTO_*``; ``None`` means all.
    address_families: tuple[int, ...]
    types: tuple[int, ...] | None = None
    protocols: tuple[int, ...] | None = None
    #: Whether most sockets of its address family and type belong to another family.
    rare: bool = False
    #: The options of ``ss`` that choose the family, and the words for it in ``--help``.
    options: tuple[str, ...] = ()
    help: str = ""
    #: Its name in ``ss -f``; families of IPv4 and IPv6 have none and share ``inet`` and ``inet6``.
    ss_family: str | None = None
    #: Its tables by their names in ``ss -A``, each with the Netids of its sockets.
    tables: Mapping[str, tuple[str, ...]] = {}
    #: Tables by their further names in ``ss -A``.
    aliases: Mapping[str, str] = {}
    #: The states in which ``ss`` shows its sockets without ``-a`` and ``-l``.
    states: frozenset[int] = _CONNECTED
    #: The option of ``ss`` that takes the place of ``-i`` for this family.
    info_option: str | None = None

    @property
    def is_inet(self) -> bool:
        """Whether its sockets are those of IPv4 and IPv6."""
        return self.address_families == _INET

    def like(self, family: int, type_: int) -> bool:
        """Whether a socket with this address family and type may be of this family."""
        return family in self.address_families and (self.types is None or type_ in self.types)

    def owns(self, family: int, type_: int, protocol: int) -> bool:
        """Whether a socket with this address family, type and protocol is of this family."""
        return self.like(family, type_) and (self.protocols is None or protocol in self.protocols)


_INET = (AF_INET, AF_INET6)

#: All families, in the order in which ss shows them. A new family adds its module and its entry
#: here. The module has the name of the family; its class has the same name, capitalized. A module
#: is imported when there is a socket of the family, or when the family is asked for: importing all
#: modules takes 31 ms, and most commands need two or three.
FAMILY_ENTRIES: Mapping[str, Registered] = {
    "netlink": Registered(
        (AF_NETLINK,), ss_family="netlink", tables={"netlink": ("nl",)}, states=_CLOSED
    ),
    "packet": Registered(
        (AF_PACKET,),
        options=("-0", "--packet"),
        help="packet",
        ss_family="link",
        tables={"packet_raw": ("p_raw",), "packet_dgram": ("p_dgr", "p_pkt")},
        aliases={"p_raw": "packet_raw", "p_dgr": "packet_dgram"},
        states=_CLOSED,
    ),
    "unix": Registered(
        (AF_UNIX,),
        options=("-x", "--unix"),
        help="unix",
        ss_family="unix",
        tables={
            "unix_stream": ("u_str",),
            "unix_dgram": ("u_dgr",),
            "unix_seqpacket": ("u_seq",),
        },
        aliases={"u_str": "unix_stream", "u_dgr": "unix_dgram", "u_seq": "unix_seqpacket"},
    ),
    # The real ss has no option for ping sockets.
    "ping": Registered(
        *(_INET, (SOCK_DGRAM,), (IPPROTO_ICMP, IPPROTO_ICMPV6)),
        rare=True,
        options=("-w", "--raw"),
        help="raw and ping",
        tables={"ping": ("icmp", "icmp6")},
        aliases={"icmp": "ping"},
        states=_ESTABLISHED,
    ),
    "raw": Registered(
        *(_INET, (SOCK_RAW,)),
        options=("-w", "--raw"),
        help="raw and ping",
        tables={"raw": ("raw",)},
        states=_ESTABLISHED,
    ),
    # The real ss has no option for UDP-Lite.
    "udp": Registered(
        *(_INET, (SOCK_DGRAM,), (IPPROTO_UDP, IPPROTO_UDPLITE)),
        options=("-u", "--udp"),
        help="UDP and UDP-Lite",
        tables={"udp": ("udp", "udpl")},
        states=_ESTABLISHED,
    ),
    "tcp": Registered(
        *(_INET, (SOCK_STREAM,), (IPPROTO_TCP,)),
        options=("-t", "--tcp"),
        help="TCP",
        tables={"tcp": ("tcp",)},
    ),
    "mptcp": Registered(
        *(_INET, (SOCK_STREAM,), (IPPROTO_MPTCP,)),
        rare=True,
        options=("-M", "--mptcp"),
        help="MPTCP",
        tables={"mptcp": ("mptcp",)},
    ),
    "vsock": Registered(
        (AF_VSOCK,),
        options=("--vsock",),
        help="vsock",
        ss_family="vsock",
        tables={
            "vsock_stream": ("v_str",),
            "vsock_dgram": ("v_dgr",),
            "vsock_seqpacket": ("v_seq",),
        },
        aliases={"v_str": "vsock_stream", "v_dgr": "vsock_dgram"},
    ),
    "sctp": Registered(
        *(_INET, (SOCK_STREAM, SOCK_SEQPACKET), (IPPROTO_SCTP,)),
        rare=True,
        options=("-S", "--sctp"),
        help="SCTP",
        tables={"sctp": ("sctp",)},
    ),
    "tipc": Registered(
        (AF_TIPC,),
        options=("--tipc",),
        help="TIPC",
        ss_family="tipc",
        tables={"tipc": ("ti_st", "ti_dg", "ti_rd", "ti_sq")},
        states=frozenset({TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE}),
        info_option="--tipcinfo",
    ),
    "xdp": Registered(
        (AF_XDP,),
        options=("--xdp",),
        help="XDP",
        ss_family="xdp",
        tables={"xdp": ("xdp",)},
        states=_CLOSED,
    ),
}

#: Names of all families, in the order in which sockets are walked and shown.
FAMILY_NAMES: tuple[str, ...] = (OTHER, *FAMILY_ENTRIES)


@functools.lru_cache(None)
def family_named(name: str) -> Family | None:
    """The family named *name*, ``None`` for :data:`OTHER`."""
    if name not in FAMILY_ENTRIES:
        return None
    module = import_module(f"{__name__}.{name}")
    return getattr(module, name.capitalize())()  # type: ignore[no-any-return]


def all_records() -> Iterator[type[SocketRecord]]:
    """The record classes of all families, those of small structures and parts included."""
    for family in filter(None, map(family_named, FAMILY_ENTRIES)):
        yield from (family.record, *family.small, *family.parts)


def family_columns() -> Iterator[Column]:
    """The columns that the families declare."""
    for family in filter(None, map(family_named, FAMILY_ENTRIES)):
        yield from family.columns


@functools.lru_cache(1024)
def family_of(family: int, type_: int, protocol: int) -> Family | None:
    """The family of a socket, ``None`` if no family here owns it."""
    for name, entry in FAMILY_ENTRIES.items():
        if entry.owns(family, type_, protocol):
            return family_named(name)
    return None


@functools.lru_cache(1024)
def family_name_like(family: int, type_: int) -> str:
    """
    The name of the family to which most sockets of an address family and type belong; this is TCP
    for sockets of SCTP.
    """
    alike = [name for name, entry in FAMILY_ENTRIES.items() if entry.like(family, type_)]
    alike.sort(key=lambda name: FAMILY_ENTRIES[name].rare)
    return alike[0] if alike else OTHER


@functools.lru_cache(64)
def family_names_like(name: str) -> frozenset[str]:
    """All names that :func:`family_name_like` returns for sockets of the family *name*."""
    if name == OTHER:
        # A socket with an unknown protocol may look like one of any family.
        return frozenset(FAMILY_NAMES)
    entry = FAMILY_ENTRIES[name]
    types = range(_SOCK_MAX) if entry.types is None else entry.types
    return frozenset(family_name_like(f, t) for f in entry.address_families for t in types)


def plain_record(family: int, type_: int, protocol: int) -> type[SocketRecord]:
    """The record of a socket of which only ``struct sock`` was read."""
    known = family_of(family, type_, protocol)
    if known is not None:
        return known.plain
    return InetRecord if family in (AF_INET, AF_INET6) else SocketRecord


def netid(family: int, type_: int, protocol: int) -> str:
    """What ss writes in its column Netid: ``tcp``, ``u_str``, ``p_raw``, ``nl``, …"""
    return plain_record(family, type_, protocol).netid_of(family, type_, protocol)


# include/linux/net.h
_SOCK_MAX = 11
