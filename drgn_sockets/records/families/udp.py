# SPDX-License-Identifier: LGPL-2.1-or-later
"""UDP and UDP-Lite."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.inet_ctl_sock import for_each_control_sock
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import IPPROTO_UDPLITE, SOCK_DGRAM, SockCommon, for_each_udp
from drgn_sockets.kernel.structs import Int
from drgn_sockets.records.families.inet import InetRecord, InetSock
from drgn_sockets.records.socket import Derived, Family, LsofSocket


class UdpSock(InetSock):
    """``struct udp_sock``."""

    C_TYPE = "struct udp_sock"

    forward_deficit = Int("forward_deficit", help="bytes read but not yet given back")
    pending = Int("pending", help="address family of a frame being corked, else 0")
    encap_type = Int("encap_type", help="UDP_ENCAP_*")
    gso_size = Int("gso_size", help="UDP_SEGMENT, bytes")


class UdpRecord(InetRecord):
    """A UDP or UDP-Lite socket."""

    family_name = "udp"
    struct = UdpSock
    recv_q = Derived(
        operator.sub,
        *("rmem_alloc", "forward_deficit"),
        doc="``udp_rqueue_get()``: bytes with their overhead.",
    )

    def lsof(self, ino: int) -> LsofSocket | None:
        is_lite = self.protocol == IPPROTO_UDPLITE
        return self.lsof_internet(ino, "UDPLITE" if is_lite else "UDP")


class UdpPlainRecord(InetRecord):
    """A UDP or UDP-Lite socket of which only ``struct sock`` was read."""

    family_name = "udp"
    lsof = UdpRecord.lsof


class Udp(Family):
    """UDP and UDP-Lite."""

    name = "udp"
    record = UdpRecord
    plain = UdpPlainRecord
    brief = True

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        yield from for_each_udp(prog, known)
        yield from for_each_control_sock(prog, SOCK_DGRAM)
