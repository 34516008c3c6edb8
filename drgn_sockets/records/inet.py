# SPDX-License-Identifier: LGPL-2.1-or-later
"""What TCP, UDP and raw sockets have in common, and UDP and raw themselves."""

from __future__ import annotations

from drgn_sockets.kernel.sock import Sock
from drgn_sockets.kernel.structs import BigEndian, Bytes, Int, OptInt


class InetSock(Sock):
    """``struct inet_sock``."""

    C_TYPE = "struct inet_sock"

    sport = BigEndian("inet_sport", help="local port; the protocol for raw sockets")
    saddr = Bytes("inet_saddr", help="source address of what is sent, IPv4")
    tos = Int("tos", help="IP_TOS")
    ttl = Int("uc_ttl", help="IP_TTL, -1 for the default")


class UdpSock(InetSock):
    """``struct udp_sock``."""

    C_TYPE = "struct udp_sock"

    forward_deficit = Int("forward_deficit", help="bytes read but not yet given back")
    pending = Int("pending", help="address family of a frame being corked, else 0")
    encap_type = Int("encap_type", help="UDP_ENCAP_*")
    gso_size = Int("gso_size", help="UDP_SEGMENT, bytes")


class RawSock(InetSock):
    """``struct raw_sock``."""

    C_TYPE = "struct raw_sock"

    icmp_filter = OptInt("filter.data", help="ICMP_FILTER, types that are dropped")
