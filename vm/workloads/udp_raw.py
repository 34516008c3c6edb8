# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sockets without connections: UDP, UDP-Lite, raw and ping, for IPv4 and IPv6.

Bound, connected and neither; with unread datagrams; in a multicast group; raw sockets, whose
"port" is a protocol number, and one that writes headers itself; with options that ss shows;
corked, encapsulated and filtered ones; partial checksums; shut down.
"""

from __future__ import annotations

import socket
import struct
from functools import partial

from .packet_zoo import ACCEPT, attach
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


#: Name, level, option, value: options that any socket of the family may have.
OPTIONS = {
    V4: (
        ("SO_MARK", 1, 36, 0xCAFE),
        ("SO_PRIORITY", 1, 12, 4),
        ("SO_RXQ_OVFL", 1, 40, 1),
        ("SO_TIMESTAMPNS", 1, 35, 1),
        ("SO_NO_CHECK", 1, 11, 1),
        ("IP_TOS", 0, 1, 0x2C),
        ("IP_PKTINFO", 0, 8, 1),
        ("IP_RECVERR", 0, 11, 1),
        ("IP_RECVERR_RFC4884", 0, 26, 1),
        ("IP_FREEBIND", 0, 15, 1),
        ("IP_TRANSPARENT", 0, 19, 1),
        ("IP_BIND_ADDRESS_NO_PORT", 0, 24, 1),
        ("IP_MULTICAST_LOOP", 0, 34, 0),
        ("IP_MULTICAST_ALL", 0, 49, 0),
        ("IP_MULTICAST_TTL", 0, 33, 3),
    ),
    V6: (
        ("IPV6_TCLASS", 41, 67, 0x1C),
        ("IPV6_RECVPKTINFO", 41, 49, 1),
        ("IPV6_RECVERR", 41, 25, 1),
        ("IPV6_FREEBIND", 41, 78, 1),
        ("IPV6_TRANSPARENT", 41, 75, 1),
        ("IPV6_MULTICAST_LOOP", 41, 19, 0),
        ("IPV6_MULTICAST_ALL", 41, 29, 0),
        ("IPV6_MTU_DISCOVER", 41, 23, 2),
    ),
}
UDP_CORK, UDP_ENCAP, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO = (
    1,
    100,
    101,
    102,
    103,
    104,
)
UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV = 10, 11


def _option(
    me: Process, sock: socket.socket, name: str, level: int, option: int, value: int
) -> None:
    try:
        sock.setsockopt(level, option, value)
        me.note(sock, options={name: sock.getsockopt(level, option)})
    except OSError as error:
        me.skip(f"{name}, {value}, of {sock.type.name}", error)


def _options(me: Process) -> None:
    for family, rows in OPTIONS.items():
        for name, level, option, value in rows:
            for kind, protocol in ((socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, 251)):
                sock = me.hold(socket.socket(family, kind, protocol))
                sock.bind((LO[family], 0))
                _option(me, sock, name, level, option, value)
    only = me.hold(socket.socket(V6, socket.SOCK_DGRAM), note="IPv6 only")
    _option(me, only, "IPV6_V6ONLY", socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    only.bind(("::", 0))
    dual = me.hold(socket.socket(V6, socket.SOCK_DGRAM), note="both families")
    dual.bind(("::", 0))
    mapped = me.hold(socket.socket(V6, socket.SOCK_DGRAM), note="connected to an IPv4 address")
    mapped.connect(("::ffff:127.0.0.1", dual.getsockname()[1]))
    mapped.send(b"mapped")
    me.note(dual, datagrams=[6])
    nodefrag = me.hold(socket.socket(V4, socket.SOCK_RAW, 250))
    _option(me, nodefrag, "IP_NODEFRAG", 0, 22, 1)


def _of_udp(me: Process) -> None:
    """Options of UDP."""
    sink = me.hold(socket.socket(V4, socket.SOCK_DGRAM))
    sink.bind(("127.0.0.1", 0))
    corked = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="corked: 200 bytes not sent")
    corked.connect(sink.getsockname())
    _option(me, corked, "UDP_CORK", socket.IPPROTO_UDP, UDP_CORK, 1)
    corked.send(b"c" * 200)
    split = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="splits what it sends")
    split.connect(sink.getsockname())
    _option(me, split, "UDP_SEGMENT", socket.IPPROTO_UDP, UDP_SEGMENT, 100)
    split.send(b"g" * 250)
    me.note(sink, datagrams=[100, 100, 50])
    join = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="joins what it receives")
    join.bind(("127.0.0.1", 0))
    _option(me, join, "UDP_GRO", socket.IPPROTO_UDP, UDP_GRO, 1)
    for encap in (1, 2):
        tunnel = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="encapsulates ESP")
        tunnel.bind(("127.0.0.1", 0))
        _option(me, tunnel, "UDP_ENCAP", socket.IPPROTO_UDP, UDP_ENCAP, encap)
    plain = me.hold(socket.socket(V6, socket.SOCK_DGRAM), note="no checksums")
    plain.bind(("::1", 0))
    for option in (UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX):
        plain.setsockopt(socket.IPPROTO_UDP, option, 1)
    full = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="lost datagrams: its queue was full")
    full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    full.bind(("127.0.0.1", 0))
    sender = me.hold(socket.socket(V4, socket.SOCK_DGRAM))
    for _ in range(20):
        sender.sendto(b"f" * 1000, full.getsockname())
    for how, word in ((0, "SHUT_RD"), (1, "SHUT_WR"), (2, "SHUT_RDWR")):
        sock = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note=f"shutdown({word})")
        sock.connect(sink.getsockname())
        sock.shutdown(how)
    refused = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="its last datagram was refused")
    refused.connect(("127.0.0.1", 9))
    refused.send(b"?")
    filtered = me.hold(socket.socket(V4, socket.SOCK_DGRAM), note="filtered")
    filtered.bind(("127.0.0.1", 0))
    attach(filtered, ACCEPT)


def _coverage(me: Process) -> None:
    sock = me.hold(socket.socket(V4, socket.SOCK_DGRAM, LITE), note="checksums of 20 bytes")
    sock.bind(("127.0.0.1", 0))
    for option in (UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV):
        sock.setsockopt(LITE, option, 20)


def _more_raw(me: Process) -> None:
    icmp = me.hold(socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP), note="ICMP_FILTER")
    icmp.setsockopt(255, 1, struct.pack("=I", 0xFFFFFFFE))
    icmp6 = me.hold(socket.socket(V6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), note="ICMP6_FILTER")
    icmp6.setsockopt(socket.IPPROTO_ICMPV6, 1, b"\xff" * 32)
    checksum = me.hold(socket.socket(V6, socket.SOCK_RAW, 249), options={"IPV6_CHECKSUM": 2})
    checksum.setsockopt(socket.IPPROTO_IPV6, 7, 2)
    for family in (V4, V6):
        both = me.hold(socket.socket(family, socket.SOCK_RAW, 248), note="bound and connected")
        both.bind((LO[family], 0))
        both.connect((LO[family], 0))
        both.send(b"itself")
        filtered = me.hold(socket.socket(family, socket.SOCK_RAW, 247), note="filtered")
        attach(filtered, ACCEPT)
        device = me.hold(socket.socket(family, socket.SOCK_RAW, 246), note="bound to lo")
        device.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        down = me.hold(socket.socket(family, socket.SOCK_RAW, 245), note="shutdown(SHUT_WR)")
        down.connect((LO[family], 0))
        down.shutdown(socket.SHUT_WR)


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
    sender = me.hold(socket.socket(V4, socket.SOCK_RAW, 254), note="connected")
    sender.connect(("127.0.0.9", 0))
    sender.send(b"r" * 100)
    # A raw socket receives the IP header as well.
    me.note(receiver, datagrams=[120])


def _ping(me: Process) -> None:
    me.sysctl("net/ipv4/ping_group_range", "0 2147483647")
    for family, protocol in ((V4, socket.IPPROTO_ICMP), (V6, socket.IPPROTO_ICMPV6)):
        sock = me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping, bound")
        sock.bind((LO[family], 4242))
        other = me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping, connected")
        other.connect((LO[family], 0))
        me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping, no id")
        both = me.hold(
            socket.socket(family, socket.SOCK_DGRAM, protocol), note="ping, bound and connected"
        )
        both.bind((LO[family], 4243))
        both.connect((LO[family], 0))
        # It receives the reply, and not the request.
        both.send(struct.pack("!BBHHH", 8 if family == V4 else 128, 0, 0, 0, 1) + b"ping")


def run(me: Process) -> None:
    for family in (V4, V6):
        _udp(me, family, socket.IPPROTO_UDP)
        me.attempt(f"UDP-Lite over {LO[family]}", partial(_udp, me, family, LITE))
    _multicast(me)
    _device(me)
    _options(me)
    _of_udp(me)
    me.attempt("UDP-Lite's coverage", lambda: _coverage(me))
    _raw(me)
    _more_raw(me)
    me.attempt("ping sockets", lambda: _ping(me))
