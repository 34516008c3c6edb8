# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets beyond inet and unix: netlink, packet, and whatever else this kernel has.

vsock, AF_ALG, AF_KEY, XDP, MPTCP, SCTP, TIPC, CAN, ... are modules, where a kernel has them;
those that are missing are listed under ``skipped``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from .process import Process

NETLINK_GENERIC = 16
AF_KEY, AF_XDP = 15, 44
PF_KEY_V2 = 2
IPPROTO_MPTCP = 262
#: Modules that socket() would load by itself; the guest may have no autoloader.
MODULES = (
    "af_packet",
    "vsock",
    "vsock_loopback",
    "vmw_vsock_virtio_transport_common",
    "af_alg",
    "algif_hash",
    "af_key",
    "sctp",
    "tipc",
    "can",
    "can-raw",
    "dccp_ipv4",
    "l2tp_ip",
    "bluetooth",
    "rds",
    "smc",
    # Modules of sock_diag. TIPC's is called "diag" up to 6.1.
    *("inet_diag", "tcp_diag", "udp_diag", "raw_diag", "unix_diag", "netlink_diag"),
    *("af_packet_diag", "vsock_diag", "xsk_diag", "sctp_diag", "mptcp_diag", "dccp_diag"),
    *("smc_diag", "diag", "tipc_diag"),
)


def _netlink(me: Process) -> None:
    for protocol, name in (
        (0, "route"),
        (NETLINK_GENERIC, "generic"),
        (4, "sock_diag"),
        (15, "uevent"),
        (9, "audit"),
        (12, "netfilter"),
    ):

        def make(protocol: int = protocol) -> None:
            sock = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol))
            sock.bind((0, 0))

        me.attempt(f"netlink {name}", make)
    groups = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0))
    groups.bind((0, 0x1 | 0x10 | 0x40))
    own_id = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    own_id.bind((0x44530001, 0))
    unbound = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    me.add("never_bound", **me.end(unbound))
    user = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2))
    user.bind((0x44530002, 0))
    sender = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2))
    sender.bind((0x44530003, 0))
    sender.connect((0x44530002, 0))


def _packet(me: Process) -> None:
    lo = "lo"
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        everything = me.hold(socket.socket(socket.AF_PACKET, kind, 0), note="protocol 0")
        everything.setblocking(False)
        bound = me.hold(socket.socket(socket.AF_PACKET, kind, 0), note="bound to lo")
        # An experimental ethertype: nothing arrives there, so its queue stays empty.
        bound.bind((lo, 0x88B5))
    other = me.hold(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B6)))
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


def _vsock(me: Process) -> None:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((socket.VMADDR_CID_ANY, 22222))
        listener.listen(4)
    except OSError:
        listener.close()
        raise
    me.hold(listener, backlog=4)
    # Takes a loopback transport; without one there is only the listener.
    client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    client.settimeout(5)
    local_cid = 1
    try:
        client.connect((local_cid, 22222))
    except OSError as error:
        client.close()
        me.skip("vsock connection", error)
        return
    client.settimeout(None)
    server = listener.accept()[0]
    me.hold(client)
    me.hold(server)
    me.add("connections", client=me.end(client), server=me.end(server), listener=me.end(listener))


def _alg(me: Process) -> None:
    sock = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    try:
        sock.bind(("hash", "sha256"))
    except OSError:
        sock.close()
        raise
    me.hold(sock)
    me.hold(sock.accept()[0], note="operation")


def _plain(family: int, kind: int, protocol: int = 0) -> Callable[[Process], None]:
    def make(me: Process) -> None:
        me.hold(socket.socket(family, kind, protocol))

    return make


def _mptcp(me: Process) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    me.hold(listener, backlog=4)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    client = me.hold(socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP))
    client.connect(listener.getsockname())
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol="mptcp",
    )


def _sctp(me: Process) -> None:
    # Without this, heartbeats would go on in a freeze.
    me.sysctl("net/sctp/hb_interval", 3600000)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    me.hold(listener, backlog=4)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    client = me.hold(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP))
    client.connect(listener.getsockname())
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol="sctp",
    )


def _unusual_protocol(me: Process) -> None:
    """A TCP socket that asks for its protocol by number, and one of SOCK_SEQPACKET."""
    me.hold(socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP))


def run(me: Process) -> None:
    me.modprobe(*MODULES)
    _netlink(me)
    parts: dict[str, Callable[[Process], None]] = {
        "packet": _packet,
        "vsock": _vsock,
        "AF_ALG": _alg,
        "AF_KEY": _plain(AF_KEY, socket.SOCK_RAW, PF_KEY_V2),
        "AF_XDP": _plain(AF_XDP, socket.SOCK_RAW),
        "MPTCP": _mptcp,
        "SCTP": _sctp,
        "TIPC": _plain(30, socket.SOCK_RDM),
        "CAN": _plain(29, socket.SOCK_RAW, 1),
        "Bluetooth": _plain(31, socket.SOCK_SEQPACKET, 0),
        "RDS": _plain(21, socket.SOCK_SEQPACKET),
        "SMC": _plain(43, socket.SOCK_STREAM),
        "DCCP": _plain(socket.AF_INET, 6, 33),
        "L2TP/IP": _plain(socket.AF_INET, socket.SOCK_DGRAM, 115),
        "TCP by number": _unusual_protocol,
    }
    for what, make in parts.items():
        me.attempt(what, partial(make, me))
