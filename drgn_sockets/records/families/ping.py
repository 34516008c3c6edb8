# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ping sockets: ``SOCK_DGRAM`` with ``IPPROTO_ICMP`` or ``IPPROTO_ICMPV6``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import AF_INET6, TCP_ESTABLISHED, Sock, SockCommon, for_each_ping
from drgn_sockets.records.families.inet import InetRecord, InetSock
from drgn_sockets.records.socket import Family, LsofSocket


class PingRecord(InetRecord):
    """A ping socket. Its local port is the identifier of its echo requests."""

    family_name = "ping"
    struct: ClassVar[type[SockCommon]] = InetSock

    @property
    def is_connected(self) -> bool:
        # The other end has no port.
        return bool(self.state == TCP_ESTABLISHED)

    def lsof(self, ino: int) -> LsofSocket | None:
        if self.is_unbound:
            return None
        type_ = "icmp6" if self.family == AF_INET6 else "icmp"
        return LsofSocket(type_, None, str(ino), self.hex_ends().encode())


class PingPlainRecord(PingRecord):
    """A ping socket of which only ``struct sock`` was read."""

    struct = Sock


class Ping(Family):
    """Ping sockets."""

    name = "ping"
    record = PingRecord
    plain = PingPlainRecord
    brief = True

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_ping(prog, known)
