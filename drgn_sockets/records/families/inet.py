# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all sockets of ``AF_INET`` and ``AF_INET6`` have in common."""

from __future__ import annotations

import functools
from _socket import inet_ntop  # "socket" takes as long as all the rest
from typing import Callable, Optional

from drgn import Program

from drgn_sockets.kernel.sock import AF_INET, AF_INET6, TCP_CLOSE, Sock
from drgn_sockets.kernel.structs import (
    BigEndian,
    Bytes,
    Int,
    Member,
    OptInt,
    Struct,
    find_place,
)
from drgn_sockets.records.socket import Derived, SocketRecord, Sockets, same

_INET_FLAGS = "inet_flags"


class InetFlag(Member[Optional[int]]):
    """An option of an inet socket that is on or off: a bit-field, or a bit of ``inet_flags``."""

    # Linux kernel commit c274af224269 ("inet: introduce inet->inet_flags") and those after it
    # (in v6.6)
    def __init__(self, name: str, bit: int, help: str) -> None:
        super().__init__(name, _INET_FLAGS, help=help, optional=True)
        self._bit = bit

    def converter(self, prog: Program) -> Callable[[int], int] | None:
        if find_place(prog, prog.type(self.c_type), self.paths[0]) is not None:
            return None
        return lambda flags: flags >> self._bit & 1


class InetSock(Sock):
    """``struct inet_sock``."""

    C_TYPE = "struct inet_sock"

    sport = BigEndian("inet_sport", help="local port; the protocol for raw sockets")
    saddr = Bytes("inet_saddr", help="source address of what is sent, IPv4")
    tos = Int("tos", help="IP_TOS")
    ttl = Int("uc_ttl", help="IP_TTL, -1 for the default")
    pinet6 = OptInt("pinet6", help="struct ipv6_pinfo *, options of IPv6")
    recverr = InetFlag("recverr", 9, help="IP_RECVERR")
    recverr_rfc4884 = InetFlag("recverr_rfc4884", 10, help="IP_RECVERR_RFC4884")
    freebind = InetFlag("freebind", 11, help="IP_FREEBIND")
    hdrincl = InetFlag("hdrincl", 12, help="IP_HDRINCL")
    mc_loop = InetFlag("mc_loop", 13, help="IP_MULTICAST_LOOP")
    mc_all = InetFlag("mc_all", 14, help="IP_MULTICAST_ALL")
    transparent = InetFlag("transparent", 15, help="IP_TRANSPARENT")
    is_icsk = InetFlag("is_icsk", 16, help="it is a struct inet_connection_sock")
    nodefrag = InetFlag("nodefrag", 17, help="IP_NODEFRAG")
    bind_address_no_port = InetFlag("bind_address_no_port", 18, help="IP_BIND_ADDRESS_NO_PORT")
    defer_connect = InetFlag("defer_connect", 19, help="to be connected with the first data")


class Ipv6Pinfo(Struct):
    """``struct ipv6_pinfo``."""

    C_TYPE = "struct ipv6_pinfo"

    tclass = Int("tclass", help="IPV6_TCLASS")


# A machine talks to many ports of few addresses.
@functools.lru_cache(4096)
def ip_text(address: bytes) -> str:
    """An IP address of 4 or 16 bytes."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _address(family: int, v6: bytes | None, v4: bytes) -> str:
    return ip_text(v6 if family == AF_INET6 and v6 is not None else v4)


class InetRecord(SocketRecord):
    """A socket of ``AF_INET`` or ``AF_INET6``."""

    local_address = Derived(
        _address,
        *("family", "v6_rcv_saddr", "rcv_saddr"),
        doc="Address it is bound to (``skc_rcv_saddr``, ``skc_v6_rcv_saddr``).",
    )
    remote_address = Derived(
        _address,
        *("family", "v6_daddr", "daddr"),
        doc="Address it is connected to (``skc_daddr``, ``skc_v6_daddr``).",
    )
    local_port = Derived(same, "num", doc="Local port (``skc_num``).")
    remote_port = Derived(same, "dport", doc="Remote port (``skc_dport``).")

    @property
    def is_connected(self) -> bool:
        return bool(self.remote_port) and not self.is_unbound

    @property
    def is_unbound(self) -> bool:
        # That is what procfs lacks.
        return self.sock.state == TCP_CLOSE and not self.local_port


def other_end(sockets: Sockets, record: InetRecord) -> InetRecord | None:
    """
    The other end of a connection, a socket of the same family, if it is on this machine.

    One in the same network namespace comes first; a connection over a veth pair has it in
    another.
    """
    if not record.remote_port:
        return None
    found = None
    wanted = _ends(record)[::-1]
    for other in sockets.of_families(record.family_name):
        if not isinstance(other, InetRecord) or other.sk == record.sk:
            continue
        if other.local_port == record.remote_port and _ends(other) == wanted:
            if other.netns == record.netns:
                return other
            found = other
    return found


def _ends(record: InetRecord) -> tuple[tuple[str, int], tuple[str, int]]:
    return (
        (_plain(record.local_address), record.local_port),
        (_plain(record.remote_address), record.remote_port),
    )


def _plain(address: str) -> str:
    # An IPv4 client of a dual-stack server: ::ffff:127.0.0.1 on one side only.
    return address[7:] if address.startswith("::ffff:") and "." in address else address
