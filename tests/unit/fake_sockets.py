# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records of sockets that are in no kernel."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from drgn_sockets.records.families.inet import InetRecord, InetSock
from drgn_sockets.records.families.raw import RawRecord, RawSock
from drgn_sockets.records.families.tcp import TcpSock, TcpSockRecord
from drgn_sockets.records.families.udp import UdpRecord, UdpSock

from .fake_kernel import FakeKernel, decoded

ESTABLISHED, TIME_WAIT, CLOSE, LISTEN = 1, 6, 7, 10


KERNEL = FakeKernel()


def inet(
    local: str,
    lport: int,
    remote: str = "",
    rport: int = 0,
    *,
    kind: tuple[type[InetRecord], type[InetSock]] = (TcpSockRecord, TcpSock),
    ifname: bytes | None = None,
    **members: Any,
) -> InetRecord:
    six = ":" in local
    remote = remote or ("::" if six else "0.0.0.0")
    family = AF_INET6 if six else AF_INET
    record_type, sock_type = kind
    values: dict[str, Any] = {
        "family": int(family),
        "type": {TcpSock: 1, UdpSock: 2, RawSock: 3}[sock_type],
        "protocol": {TcpSock: 6, UdpSock: 17, RawSock: 1}[sock_type],
        "state": ESTABLISHED if rport else LISTEN if sock_type is TcpSock else CLOSE,
        "ipv6only": 0,
        "num": lport,
        "sport": lport,
        "dport": rport,
        "rcv_saddr": b"\x7f\0\0\1" if six else inet_pton(family, local),
        "daddr": b"\x7f\0\0\2" if six else inet_pton(family, remote),
        "v6_rcv_saddr": inet_pton(family, local) if six else b"\xee" * 16,
        "v6_daddr": inet_pton(family, remote) if six else b"\xee" * 16,
        **members,
    }
    record = record_type(KERNEL.prog, decoded(sock_type, **values), 1)
    record.ifname_or_lost = ifname
    return record


UDP = (UdpRecord, UdpSock)


RAW = (RawRecord, RawSock)
