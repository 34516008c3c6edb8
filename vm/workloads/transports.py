# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Transports other than TCP and UDP: MPTCP, SCTP, DCCP, vsock, SMC; in every state they have.

Listening, connected, connected and not accepted, bound, never used; and with several paths, if
the transport has them (subflows of MPTCP, addresses of SCTP).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import syscalls
from .process import SOCK_DCCP, Process

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
LO: dict[int, str] = {V4: "127.0.0.1", V6: "::1"}
MPTCP, SCTP, DCCP = 262, 132, 33
SOL_DCCP, DCCP_SOCKOPT_SERVICE = 269, 2
SCTP_GET_ASSOC_ID_LIST, SCTP_BINDX_ADD, SCTP_PEELOFF = 29, 100, 102
AF_VSOCK, AF_SMC = 40, 43
LOCAL_CID = 1

Make = Callable[[], socket.socket]


def _states(
    me: Process,
    make: Make,
    address: Any,
    protocol: str,
    prepare: Callable[[socket.socket], Any] = lambda _: None,
) -> tuple[socket.socket, socket.socket, socket.socket]:
    """
    The states that any transport with connections has.

    :param prepare: what to do with a socket before it listens or connects
    :return: a listener, and the client and server of a connection to it
    """

    def new(**facts: Any) -> socket.socket:
        sock = me.hold(make(), **facts)
        sock.settimeout(15)
        prepare(sock)
        return sock

    def listening(pending: int) -> socket.socket:
        sock = new(backlog=4, pending=pending)
        sock.bind(address)
        sock.listen(4)
        return sock

    def target(listener: socket.socket) -> Any:
        name = listener.getsockname()
        return (LOCAL_CID, name[1]) if protocol == "vsock" else name

    me.add("never_bound", **me.end(new()))
    new(note="bound only").bind(address)
    listener = listening(0)
    client = new()
    client.connect(target(listener))
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol=protocol,
    )
    waiting = listening(2)
    for number in range(2):
        other = new(note="its peer is not accepted")
        other.connect(target(waiting))
        if number:
            other.send(b"w" * number)
        me.add(
            "connections",
            client=me.end(other),
            listener=me.end(waiting),
            accepted=False,
            protocol=protocol,
        )
    for sock in list(me._objects.values()):
        if isinstance(sock, socket.socket):
            sock.settimeout(None)
    return listener, client, server


def _another(
    me: Process, make: Make, listener: socket.socket, protocol: str, **facts: Any
) -> tuple[socket.socket, socket.socket]:
    client = me.hold(make(), **facts)
    client.settimeout(15)
    name = listener.getsockname()
    client.connect((LOCAL_CID, name[1]) if protocol == "vsock" else name)
    client.settimeout(None)
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol=protocol,
    )
    return client, server


def _mptcp(me: Process) -> None:
    for family in (V4, V6):

        def make(family: int = family) -> socket.socket:
            return socket.socket(family, STREAM, MPTCP)

        listener, client, server = _states(me, make, (LO[family], 0), "mptcp")
        client.sendall(b"m" * 3000)
        server.recv(1000)
        server.sendall(b"n" * 77)
        client, server = _another(me, make, listener, "mptcp", note="shutdown(SHUT_WR)")
        me.note(server, note="the other end: shutdown(SHUT_WR)")
        client.shutdown(socket.SHUT_WR)
        # Either end may not support MPTCP.
        plain = me.hold(socket.socket(family, STREAM), note="a TCP client of an MPTCP listener")
        plain.connect(listener.getsockname())
        me.hold(listener.accept()[0], note="MPTCP fell back to TCP")
        tcp = me.hold(socket.create_server((LO[family], 0), family=family), note="plain TCP")
        client = me.hold(make(), note="MPTCP fell back to TCP")
        client.connect(tcp.getsockname())
        me.hold(tcp.accept()[0])
    me.attempt("MPTCP over several subflows", lambda: _subflows(me))


def _subflows(me: Process) -> None:
    me.ip("mptcp limits set subflow 4 add_addr_accepted 4")
    me.ip("mptcp endpoint add 127.0.0.21 subflow", "mptcp endpoint add 127.0.0.22 subflow")
    listener = me.hold(socket.socket(V4, STREAM, MPTCP), backlog=4)
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    client, server = _another(
        me, lambda: socket.socket(V4, STREAM, MPTCP), listener, "mptcp", note="three subflows"
    )
    me.note(server, note="three subflows")
    # Further subflows are made when data has gone both ways.
    for sender, receiver in ((client, server), (server, client)):
        sender.sendall(b"s" * 100)
        receiver.recv(100)

    def count() -> int:
        port = f":{listener.getsockname()[1]:04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()
        return sum(line.split()[2].endswith(port) for line in lines)

    me.wait_until("subflows of an MPTCP connection", lambda: count() >= 3)
    me.add("subflows", client=me.end(client), server=me.end(server), count=count())


def _sctp(me: Process) -> None:
    # Without this, heartbeats would go on in a freeze.
    me.sysctl("net/sctp/hb_interval", 3600000)
    for family in (V4, V6):

        def one(family: int = family) -> socket.socket:
            return socket.socket(family, STREAM, SCTP)

        _, client, server = _states(me, one, (LO[family], 0), "sctp")
        client.send(b"c" * 700)
        server.send(b"s" * 30)
        many = me.hold(socket.socket(family, SEQPACKET, SCTP), backlog=4, note="one to many")
        many.bind((LO[family], 0))
        many.listen(4)
        for number in range(3):
            client = me.hold(socket.socket(family, SEQPACKET, SCTP), note="one to many")
            client.connect(many.getsockname())
            client.sendto(b"o" * (number + 1), many.getsockname())
        me.attempt("SCTP peeled off", lambda many=many: _peel_off(me, many))  # type: ignore[misc]
    me.attempt("SCTP with several addresses", lambda: _several_addresses(me))


def _peel_off(me: Process, many: socket.socket) -> None:
    """Make an association of a one-to-many socket a socket of its own."""
    ids = many.getsockopt(SCTP, SCTP_GET_ASSOC_ID_LIST, 256)
    _, first = struct.unpack_from("=Ii", ids)
    value = syscalls.ask_option(many.fileno(), SCTP, SCTP_PEELOFF, struct.pack("=ii", first, 0))
    number = struct.unpack("=ii", value)[1]
    os.set_inheritable(number, False)
    me.hold(socket.socket(fileno=number), note="peeled off")


def _several_addresses(me: Process) -> None:
    def addresses(*hosts: str) -> bytes:
        return b"".join(struct.pack("=HH4s8x", V4, 0, socket.inet_aton(host)) for host in hosts)

    listener = me.hold(socket.socket(V4, STREAM, SCTP), backlog=4, note="two addresses")
    listener.bind(("127.0.0.31", 0))
    port = struct.pack("!H", listener.getsockname()[1])

    def at_port(hosts: bytes) -> bytes:
        return hosts[:2] + port + hosts[4:]

    listener.setsockopt(SCTP, SCTP_BINDX_ADD, at_port(addresses("127.0.0.32")))
    listener.listen(4)
    client = me.hold(socket.socket(V4, STREAM, SCTP), note="two addresses")
    client.bind(("127.0.0.33", 0))
    port = struct.pack("!H", client.getsockname()[1])
    client.setsockopt(SCTP, SCTP_BINDX_ADD, at_port(addresses("127.0.0.34")))
    client.connect(listener.getsockname())
    server = me.hold(listener.accept()[0], note="two addresses")
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol="sctp",
        addresses=[["127.0.0.33", "127.0.0.34"], ["127.0.0.31", "127.0.0.32"]],
    )


def _dccp(me: Process) -> None:
    for family in (V4, V6):

        def make(family: int = family) -> socket.socket:
            return socket.socket(family, SOCK_DCCP, DCCP)

        _states(
            me,
            make,
            (LO[family], 0),
            "dccp",
            lambda sock: sock.setsockopt(SOL_DCCP, DCCP_SOCKOPT_SERVICE, 42),
        )


def _vsock(me: Process) -> None:
    anywhere = (0xFFFFFFFF, 0xFFFFFFFF)
    for kind, word in ((STREAM, "stream"), (SEQPACKET, "seqpacket")):

        def make(kind: int = kind) -> socket.socket:
            return socket.socket(AF_VSOCK, kind)

        def part(make: Make = make) -> None:
            listener, client, server = _states(me, make, anywhere, "vsock")
            client.send(b"v" * 321)
            server.send(b"k" * 12)
            client, server = _another(me, make, listener, "vsock", note="shutdown(SHUT_WR)")
            me.note(server, note="the other end: shutdown(SHUT_WR)")
            client.shutdown(socket.SHUT_WR)

        me.attempt(f"vsock {word}", part)
    me.attempt("vsock dgram", lambda: me.hold(socket.socket(AF_VSOCK, socket.SOCK_DGRAM)))
    local = me.hold(socket.socket(AF_VSOCK, STREAM), backlog=1)
    local.bind((LOCAL_CID, 33333))
    local.listen(1)


def _smc(me: Process) -> None:
    """SMC falls back to TCP, over a socket that the kernel makes."""
    for family, protocol in ((V4, 0), (V6, 1)):

        def make(protocol: int = protocol) -> socket.socket:
            return socket.socket(AF_SMC, STREAM, protocol)

        me.add("never_bound", **me.end(me.hold(make())))
        # Python has no form for addresses of this family, which are those of IP.
        listener = me.hold(make(), backlog=3)
        syscalls.bind_raw(listener.fileno(), _inet_address(family, 0))
        syscalls.libc("listen", listener.fileno(), 3)
        name = syscalls._address("getsockname", listener.fileno())
        client = me.hold(make())
        syscalls.connect_raw(client.fileno(), name)
        server = syscalls.libc("accept4", listener.fileno(), None, None, socket.SOCK_CLOEXEC)
        me.hold(server)
        me.add(
            "connections",
            client=me.end(client),
            server=me.end(server),
            listener=me.end(listener),
            protocol="smc",
        )


def _inet_address(family: int, port: int) -> bytes:
    host = socket.inet_pton(family, LO[family])
    if family == V4:
        return struct.pack("=HH4s8x", family, socket.htons(port), host)
    return struct.pack("=HHI16sI", family, socket.htons(port), 0, host, 0)


def run(me: Process) -> None:
    me.modprobe("vsock", "vsock_loopback", "sctp", "dccp", "dccp_ipv4", "dccp_ipv6", "smc")
    for what, part in (
        ("MPTCP", _mptcp),
        ("SCTP", _sctp),
        ("DCCP", _dccp),
        ("vsock", _vsock),
        ("SMC", _smc),
    ):
        me.attempt(what, lambda part=part: part(me))  # type: ignore[misc]
