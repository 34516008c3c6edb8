# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets without connections: UDP, UDP-Lite, raw and ping, for IPv4 and IPv6.

Bound, connected and neither; with datagrams that nobody has read; a multicast group;
raw sockets whose "port" is a protocol number; one that writes headers itself.
"""

from __future__ import annotations

import socket
import struct
from functools import partial

from .process import Process

V4, V6 = socket.AF_INET, socket.AF_INET6
LITE = getattr(socket, "IPPROTO_UDPLITE", 136)
LO: dict[int, str] = {V4: "127.0.0.1", V6: "::1"}


def _udp(me: Process, family: int, protocol: int) -> None:
    kind = socket.SOCK_DGRAM
    me.add("never_bound", **me.end(me.hold(socket.socket(family, kind, protocol))))
    bound = me.hold(socket.socket(family, kind, protocol))
    bound.bind((LO[family], 0))
    anywhere = me.hold(socket.socket(family, kind, protocol))
    anywhere.bind(("", 0))
    connected = me.hold(socket.socket(family, kind, protocol))
    connected.connect(bound.getsockname())
    back = me.hold(socket.socket(family, kind, protocol))
    back.bind((LO[family], 0))
    forth = me.hold(socket.socket(family, kind, protocol))
    forth.connect(back.getsockname())
    back.connect(forth.getsockname())
    me.add("pairs", a=me.end(forth), b=me.end(back))
    sizes = [1, 1000, 0, 333]
    for size in sizes:
        connected.send(b"u" * size)
    me.note(bound, datagrams=sizes)


def _multicast(me: Process) -> None:
    group = me.hold(
        socket.socket(V4, socket.SOCK_DGRAM), note="multicast", options={"SO_REUSEADDR": 1}
    )
    group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    group.bind(("224.0.0.251", 25353))
    member = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    me.attempt(
        "IP_ADD_MEMBERSHIP",
        lambda: group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member),
    )
    six = me.hold(socket.socket(V6, socket.SOCK_DGRAM), note="multicast")
    lo = socket.if_nametoindex("lo")
    me.attempt("bind to ff02::fb", lambda: six.bind(("ff02::fb", 25353, 0, lo)))
    member6 = socket.inet_pton(V6, "ff02::fb") + struct.pack("i", lo)
    me.attempt(
        "IPV6_JOIN_GROUP",
        lambda: six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member6),
    )


def _device(me: Process) -> None:
    sock = me.hold(socket.socket(V4, socket.SOCK_DGRAM), options={"SO_BINDTODEVICE": "lo"})
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    sock.bind(("0.0.0.0", 0))
    for _ in range(2):
        reuse = me.hold(socket.socket(V4, socket.SOCK_DGRAM), options={"SO_REUSEPORT": 1})
        reuse.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reuse.bind(("127.0.0.1", 25354))


def _raw(me: Process) -> None:
    for family, protocol in (
        (V4, socket.IPPROTO_ICMP),
        (V4, 255),
        (V4, socket.IPPROTO_TCP),
        (V6, socket.IPPROTO_ICMPV6),
        (V6, 255),
        (V6, 89),
    ):
        sock = me.hold(socket.socket(family, socket.SOCK_RAW, protocol))
        if protocol == 255:
            sock.bind((LO[family], 0))
    header = me.hold(
        socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_UDP), options={"IP_HDRINCL": 1}
    )
    header.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    # One that is connected, with a packet of its own protocol waiting.
    receiver = me.hold(socket.socket(V4, socket.SOCK_RAW, 254))
    receiver.bind(("127.0.0.9", 0))
    sender = me.hold(socket.socket(V4, socket.SOCK_RAW, 254))
    sender.connect(("127.0.0.9", 0))
    sender.send(b"r" * 100)
    # A raw socket is given the IP header, too.
    me.note(receiver, datagrams=[120])


def _ping(me: Process) -> None:
    me.sysctl("net/ipv4/ping_group_range", "0 2147483647")
    for family, protocol in ((V4, socket.IPPROTO_ICMP), (V6, socket.IPPROTO_ICMPV6)):
        sock = me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping")
        sock.bind((LO[family], 4242))
        other = me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping")
        other.connect((LO[family], 0))
        me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping, no id")


def run(me: Process) -> None:
    for family in (V4, V6):
        _udp(me, family, socket.IPPROTO_UDP)
        me.attempt(f"UDP-Lite over {LO[family]}", partial(_udp, me, family, LITE))
    _multicast(me)
    _device(me)
    _raw(me)
    me.attempt("ping sockets", lambda: _ping(me))
