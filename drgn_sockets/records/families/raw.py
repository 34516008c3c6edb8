# SPDX-License-Identifier: LGPL-2.1-or-later
"""Raw sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.inet_ctl_sock import for_each_control_sock
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import AF_INET6, SOCK_RAW, Sock, SockCommon, for_each_raw
from drgn_sockets.kernel.structs import OptInt
from drgn_sockets.records.families.inet import InetRecord, InetSock
from drgn_sockets.records.socket import Columns, Endpoint, Endpoints, Family, LsofSocket


class RawSock(InetSock):
    """``struct raw_sock``."""

    C_TYPE = "struct raw_sock"

    icmp_filter = OptInt("filter.data", help="ICMP_FILTER, types that are dropped")


class RawRecord(InetRecord):
    """A raw socket. Its local port is the number of its protocol."""

    family_name = "raw"
    struct: ClassVar[type[SockCommon]] = RawSock
    has_ports = False

    @property
    def is_connected(self) -> bool:
        # The port is the protocol.
        return False

    def remote_end(self) -> Endpoint:
        """IP address, without a port: the member for the remote port does not hold one."""
        return super().remote_end()._replace(service=None)

    @classmethod
    def remote_ends(cls, batch: Columns) -> Endpoints | None:
        ends = super().remote_ends(batch)
        return None if ends is None else ends._replace(services=[0] * len(batch))

    def lsof(self, ino: int) -> LsofSocket | None:
        if self.is_unbound:
            return None
        type_ = "raw6" if self.family == AF_INET6 else "raw"
        return LsofSocket(type_, None, str(ino), f"{self.hex_ends()} st={self.state:02X}".encode())


class RawPlainRecord(RawRecord):
    """A raw socket of which only ``struct sock`` was read."""

    struct = Sock


class Raw(Family):
    """Raw sockets."""

    name = "raw"
    record = RawRecord
    plain = RawPlainRecord
    brief = True

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        yield from for_each_raw(prog, known)
        yield from for_each_control_sock(prog, SOCK_RAW)
