# SPDX-License-Identifier: LGPL-2.1-or-later
"""
TCP sockets in every state there is, IPv4 and IPv6, held by descriptors and by nobody.

The peer is a script (see :mod:`vm.workloads.wire`) that answers or keeps silent as each state
takes; retries are raised, so that the states last for many minutes. TIME_WAIT lasts 60 s: a keeper
renews it by repeating the peer's last FIN every 15 s, in a freeze as well. Its sub-state FIN_WAIT2
cannot be renewed: the keeper makes a new socket every 20 s, and in a freeze they last for 60 s.
There are also queues with known amounts, and many options.
"""

from __future__ import annotations

import errno
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from .process import Process, WorkloadError, tcp_state
from .wire import ACK, FAST_OPEN, FIN, PLAIN, PSH, RICH, RST, SYN, Peer, Wire

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM = socket.SOCK_STREAM
TCP = socket.IPPROTO_TCP
OURS: dict[int, str] = {V4: "198.18.7.1", V6: "fd07::7:1"}
PEER: dict[int, str] = {V4: "198.18.7.2", V6: "fd07::7:2"}
LO: dict[int, str] = {V4: "127.0.0.1", V6: "::1"}
DEVICE = "ds-tun"
SYSCTLS = {
    "net/ipv4/tcp_syn_retries": 20,
    "net/ipv4/tcp_synack_retries": 20,
    "net/ipv4/tcp_orphan_retries": 20,
    "net/ipv4/tcp_retries2": 20,
    "net/ipv4/tcp_fin_timeout": 900,
    # 1 client, 2 server, 0x200 no cookie needed.
    "net/ipv4/tcp_fastopen": 0x203,
}
# Outside the range that connect chooses from.
FIN_WAIT2_PORTS = tuple(range(30100, 30108))
#: The peer's ports; see :func:`run`.
_ports = iter(range(20001, 20250))


class Stage:
    """What all parts share: the process, the wire, an address family."""

    def __init__(self, me: Process, wire: Wire, family: int) -> None:
        self.me, self.wire, self.family = me, wire, family

    def new(self, **facts: Any) -> socket.socket:
        return self.me.hold(socket.socket(self.family, STREAM), **facts)

    def start(self, sock: socket.socket, address: Any = None, port: int = 0) -> int:
        """Have the kernel send a SYN to a new port of the peer's."""
        port = port or next(_ports)
        sock.setblocking(False)
        try:
            sock.connect(address or (PEER[self.family], port))
        except BlockingIOError:
            pass
        sock.setblocking(True)
        return port

    def establish(self, sock: socket.socket, options: bytes = PLAIN, window: int = 64000) -> Peer:
        peer = Peer.answering(self.wire, self.start(sock))
        peer.send(SYN | ACK, options=options)
        peer.window = window
        peer.expect(ACK)
        self.reach(sock, "ESTABLISHED")
        return peer

    def reach(self, sock: socket.socket, state: str) -> None:
        self.me.wait_until(f"{state} (it is {tcp_state(sock)})", lambda: tcp_state(sock) == state)

    def close(
        self, sock: socket.socket, peer: Peer | None, state: str, kind: str = "full", **row: Any
    ) -> None:
        """Close a socket that the kernel keeps without a descriptor."""
        ends = {"local": list(sock.getsockname())}
        if peer:
            ends["remote"] = [PEER[self.family], peer.port]
        self.me.drop(sock)
        self.orphan(state, kind, **ends, **row)

    def orphan(self, state: str, kind: str, **row: Any) -> None:
        self.me.add(
            "orphans",
            state=state,
            kind=kind,
            made=time.time(),
            family=socket.AddressFamily(self.family).name,
            **row,
        )


def _listening(stage: Stage) -> None:
    me, family = stage.me, stage.family
    listener = stage.new(backlog=8, pending=3)
    listener.bind((LO[family], 0))
    listener.listen(8)
    for number in range(3):
        client = stage.new(note="its peer is not accepted")
        client.connect(listener.getsockname())
        client.send(b"w" * number)
        me.add("connections", client=me.end(client), listener=me.end(listener), accepted=False)


def _syn_received(stage: Stage) -> None:
    me, family = stage.me, stage.family
    listener = stage.new(backlog=20, pending=0, note="has request sockets")
    listener.bind((OURS[family], 0))
    listener.listen(20)
    port = listener.getsockname()[1]
    to, by = (socket.inet_pton(family, a[family]) for a in (OURS, PEER))
    for _ in range(2):
        peer = Peer(stage.wire, by, to, next(_ports), port)
        peer.send(SYN, options=RICH)
        peer.expect(SYN | ACK)
        stage.orphan(
            "SYN_RECV",
            "request",
            local=[OURS[family], port],
            remote=[PEER[family], peer.port],
            listener=me.end(listener),
        )

    fast = stage.new(backlog=20, options={"TCP_FASTOPEN": 16})
    fast.setsockopt(TCP, socket.TCP_FASTOPEN, 16)
    fast.bind((OURS[family], 0))
    fast.listen(20)
    fast.settimeout(5)
    peer = Peer(stage.wire, by, to, next(_ports), fast.getsockname()[1])
    peer.send(SYN, b"data in the SYN", options=FAST_OPEN)
    try:
        child = fast.accept()[0]
    except socket.timeout as error:
        me.skip("SYN_RECV of TCP Fast Open", error)
    else:
        child.settimeout(None)
        me.hold(child, note="SYN_RECV held by a descriptor: TCP Fast Open")
    fast.settimeout(None)


def _syn_sent(stage: Stage) -> None:
    stage.start(stage.new())
    bound = stage.new(note="bound first")
    bound.bind((OURS[stage.family], 0))
    stage.wire.expect(stage.start(bound), SYN)


def _established(stage: Stage) -> None:
    """Receive and send queues with known amounts in them."""
    unread = stage.new(note="4200 bytes unread")
    peer = stage.establish(unread, RICH)
    for _ in range(3):
        peer.send(PSH | ACK, b"r" * 1400)
    unacked = stage.new(note="5000 bytes sent, none acknowledged: retransmits")
    stage.establish(unacked).send(ACK)
    unacked.send(b"t" * 5000)
    closed = stage.new(note="the peer's window is zero: probes")
    peer = stage.establish(closed, window=0)
    peer.send(ACK)
    closed.send(b"z" * 2000)
    gap = stage.new(note="1000 bytes out of order, behind a gap")
    peer = stage.establish(gap, RICH)
    peer.send(PSH | ACK, b"o" * 1000, ahead=5000)
    corked = stage.new(note="corked: 100 bytes not sent", options={"TCP_CORK": 1})
    stage.establish(corked)
    corked.setsockopt(TCP, socket.TCP_CORK, 1)
    corked.send(b"c" * 100)


def _closing_first(stage: Stage) -> None:
    """We close first: FIN_WAIT1, FIN_WAIT2, CLOSING."""
    held = stage.new()
    stage.establish(held)
    held.shutdown(socket.SHUT_WR)
    stage.reach(held, "FIN_WAIT1")

    orphan = stage.new()
    stage.close(orphan, stage.establish(orphan), "FIN_WAIT1")

    for keep in (True, False):
        sock = stage.new()
        peer = stage.establish(sock)
        if keep:
            sock.shutdown(socket.SHUT_WR)
        else:
            stage.close(sock, peer, "FIN_WAIT2")
        peer.take(FIN)
        peer.send(ACK)
        if keep:
            stage.reach(sock, "FIN_WAIT2")

    for keep in (True, False):
        sock = stage.new()
        peer = stage.establish(sock)
        if keep:
            sock.shutdown(socket.SHUT_WR)
        else:
            stage.close(sock, peer, "CLOSING")
        peer.expect(FIN)
        # The peer's FIN does not acknowledge ours: peer.ack stays.
        peer.send(FIN | ACK)
        if keep:
            stage.reach(sock, "CLOSING")


def _closing_last(stage: Stage) -> None:
    """The peer closes first: CLOSE_WAIT, LAST_ACK."""
    for data in (b"", b"unread, and then the end"):
        sock = stage.new()
        peer = stage.establish(sock)
        peer.send(FIN | ACK | PSH, data)
        if data:
            stage.me.note(sock, note=f"{len(data)} bytes unread")
        stage.reach(sock, "CLOSE_WAIT")
    for keep in (True, False):
        sock = stage.new()
        peer = stage.establish(sock)
        peer.send(FIN | ACK)
        stage.reach(sock, "CLOSE_WAIT")
        if keep:
            sock.shutdown(socket.SHUT_WR)
            stage.reach(sock, "LAST_ACK")
        else:
            stage.close(sock, peer, "LAST_ACK")


def _closed(stage: Stage) -> None:
    """CLOSE: never connected, only bound, refused, reset."""
    me = stage.me
    me.add("never_bound", **me.end(stage.new(note="just created")))
    stage.new(note="bound only").bind((LO[stage.family], 0))
    stage.new(note="bound only, any address").bind(("", 0))
    refused = stage.new(note="refused")
    peer = Peer.answering(stage.wire, stage.start(refused))
    peer.send(RST | ACK)
    stage.reach(refused, "CLOSE")
    reset = stage.new(note="reset")
    peer = stage.establish(reset)
    peer.send(RST | ACK)
    stage.reach(reset, "CLOSE")


def _time_wait(stage: Stage) -> list[Peer]:
    peers = []
    for _ in range(2):
        sock = stage.new()
        peer = stage.establish(sock)
        stage.close(sock, peer, "TIME_WAIT", "timewait", renewed=True)
        peer.take(FIN)
        peer.send(FIN | ACK)
        peers.append(peer)
    return peers


def _mapped(me: Process, wire: Wire) -> list[Peer]:
    """IPv6 sockets with IPv4 addresses: connected, a request, time-wait."""
    stage = Stage(me, wire, V6)
    ours, theirs = (f"::ffff:{place[V4]}" for place in (OURS, PEER))

    def connect(**facts: Any) -> tuple[socket.socket, Peer]:
        sock = stage.new(**facts)
        peer = Peer.answering(wire, stage.start(sock, (theirs, port := next(_ports)), port))
        peer.send(SYN | ACK, options=RICH)
        peer.expect(ACK)
        stage.reach(sock, "ESTABLISHED")
        return sock, peer

    sock, peer = connect(note="IPv4's addresses, 700 bytes unread")
    peer.send(PSH | ACK, b"m" * 700)
    sock, peer = connect()
    local = sock.getsockname()
    me.drop(sock)
    stage.orphan(
        "TIME_WAIT",
        "timewait",
        renewed=True,
        local=[ours, local[1]],
        remote=[theirs, peer.port],
    )
    peer.take(FIN)
    peer.send(FIN | ACK)
    listener = stage.new(backlog=20, pending=0, note="has a request socket of IPv4's")
    listener.bind(("::", 0))
    listener.listen(20)
    port = listener.getsockname()[1]
    to, by = (socket.inet_pton(V4, place[V4]) for place in (OURS, PEER))
    asking = Peer(wire, by, to, next(_ports), port)
    asking.send(SYN, options=RICH)
    asking.expect(SYN | ACK)
    stage.orphan(
        "SYN_RECV",
        "request",
        local=[ours, port],
        remote=[theirs, asking.port],
        listener=me.end(listener),
    )
    return [peer]


def _fin_wait2(stage: Stage, local_port: int, peer_port: int) -> None:
    """One time-wait socket with sub-state FIN_WAIT2, for 60 s."""
    sock = socket.socket(stage.family, STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(TCP, socket.TCP_LINGER2, 60)
    sock.bind((OURS[stage.family], local_port))
    stage.start(sock, (PEER[stage.family], peer_port), peer_port)
    peer = Peer.answering(stage.wire, peer_port)
    peer.send(SYN | ACK, options=PLAIN)
    peer.expect(ACK)
    sock.close()
    peer.take(FIN)
    peer.send(ACK)


class Keeper:
    """
    Renews, for ever, the states that last only 60 s.

    After SIGUSR1 (sent by ``freeze``) it renews all of them once more, and from then on only
    repeats the FINs that keep TIME_WAIT, which changes nothing but a timer. SIGCONT undoes that.
    """

    def __init__(self, me: Process, wire: Wire, peers: list[Peer]) -> None:
        self.me, self.wire, self.peers = me, wire, peers
        self.quiet = False
        self.sign = me.work / "still"
        self.turn = 0
        self.port = next(_ports)
        self.made = self.renewed = 0.0

    def renew(self) -> None:
        for peer in self.peers:
            peer.send(FIN | ACK, ahead=-1)
        self.renewed = time.monotonic()

    def make(self) -> None:
        """
        Make new ones, for both families.

        The local ports take turns, since each is taken for 60 s.
        """
        for _ in FIN_WAIT2_PORTS:
            port = FIN_WAIT2_PORTS[self.turn % len(FIN_WAIT2_PORTS)]
            self.turn += 1
            try:
                for family in (V4, V6):
                    _fin_wait2(Stage(self.me, self.wire, family), port, self.port)
                break
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
                    raise
        else:
            raise WorkloadError("no local port is free for FIN_WAIT2")
        self.made = time.monotonic()

    def try_to_make(self) -> None:
        try:
            self.make()
        except (OSError, WorkloadError) as error:
            # The machine is slow at the moment: the next turn will make it.
            print(f"FIN_WAIT2: {error}", flush=True)
            self.made = time.monotonic()

    def hush(self) -> None:
        self.quiet = True

    def go_on(self) -> None:
        self.quiet = False
        self.sign.unlink(missing_ok=True)

    def run(self) -> NoReturn:
        signal.signal(signal.SIGUSR1, lambda *_: self.hush())
        signal.signal(signal.SIGCONT, lambda *_: self.go_on())
        self.me.steady = False
        self.me.facts["keeper"] = str(self.sign)
        self.make()
        for family in (V4, V6):
            self.me.add(
                "orphans",
                state="TIME_WAIT",
                substate="FIN_WAIT2",
                kind="timewait",
                family=socket.AddressFamily(family).name,
                recycled=True,
                remote=[PEER[family], self.port],
                locals=[[OURS[family], port] for port in FIN_WAIT2_PORTS],
            )
        self.me.report()
        while True:
            self.wire.drain(0.5)
            now = time.monotonic()
            if now - self.renewed > 15:
                self.renew()
            if self.quiet and not self.sign.exists():
                self.renew()
                self.try_to_make()
                self.sign.touch()
            elif not self.quiet and now - self.made > 20:
                self.try_to_make()


def _options(me: Process) -> None:
    """Sockets over lo, each with an option that ss shows."""
    listener = me.hold(socket.create_server((LO[V4], 0)))

    def pair(**facts: Any) -> tuple[socket.socket, socket.socket]:
        client = me.hold(socket.socket(V4, STREAM), **facts)
        client.connect(listener.getsockname())
        server = me.hold(listener.accept()[0])
        me.add(
            "connections", client=me.end(client), server=me.end(server), listener=me.end(listener)
        )
        return client, server

    available = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    for algorithm in available:
        client, _ = pair()
        client.setsockopt(TCP, socket.TCP_CONGESTION, algorithm.encode())
        # DCTCP falls back where the other end does not do ECN.
        name = client.getsockopt(TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
        me.note(client, options={"TCP_CONGESTION": name})
    ip, sol = socket.IPPROTO_IP, socket.SOL_SOCKET
    numbers = (
        ("TCP_NODELAY", TCP, socket.TCP_NODELAY, 1),
        ("TCP_USER_TIMEOUT", TCP, socket.TCP_USER_TIMEOUT, 3600000),
        ("TCP_NOTSENT_LOWAT", TCP, socket.TCP_NOTSENT_LOWAT, 16384),
        ("TCP_WINDOW_CLAMP", TCP, socket.TCP_WINDOW_CLAMP, 20000),
        ("IP_TOS", ip, socket.IP_TOS, 0x10),
        ("IP_TTL", ip, socket.IP_TTL, 42),
        ("SO_MARK", sol, socket.SO_MARK, 0xD5),
        ("SO_PRIORITY", sol, socket.SO_PRIORITY, 5),
        ("SO_RCVBUF", sol, socket.SO_RCVBUF, 10000),
        ("SO_SNDBUF", sol, socket.SO_SNDBUF, 10000),
        ("SO_RCVLOWAT", sol, socket.SO_RCVLOWAT, 77),
        ("SO_OOBINLINE", sol, socket.SO_OOBINLINE, 1),
    )
    for name, level, option, value in numbers:
        client, _ = pair()
        client.setsockopt(level, option, value)
        me.note(client, options={name: client.getsockopt(level, option)})
    client, _ = pair(options={"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 3600, "TCP_KEEPINTVL": 75})
    client.setsockopt(sol, socket.SO_KEEPALIVE, 1)
    client.setsockopt(TCP, socket.TCP_KEEPIDLE, 3600)
    client.setsockopt(TCP, socket.TCP_KEEPINTVL, 75)
    client, _ = pair(options={"SO_LINGER": [1, 30]})
    client.setsockopt(sol, socket.SO_LINGER, struct.pack("ii", 1, 30))

    client, server = pair(note="1234 bytes unread; 99 the other way")
    client.sendall(b"a" * 1234)
    server.sendall(b"b" * 99)
    client, server = pair(note="sent until both queues were full")
    client.setblocking(False)
    try:
        while True:
            client.send(b"f" * 65536)
    except BlockingIOError:
        client.setblocking(True)
    for how, word in ((socket.SHUT_RD, "SHUT_RD"), (socket.SHUT_WR, "SHUT_WR")):
        client, _ = pair(note=f"shutdown({word})")
        client.shutdown(how)

    small = me.hold(socket.socket(V4, STREAM), options={"TCP_MAXSEG": 600}, backlog=1)
    small.setsockopt(TCP, socket.TCP_MAXSEG, 600)
    small.bind((LO[V4], 0))
    small.listen(1)
    client = me.hold(socket.create_connection(small.getsockname()))
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(me.hold(small.accept()[0])),
        listener=me.end(small),
    )


def _listeners(me: Process) -> None:
    defer = me.hold(socket.socket(V4, STREAM), options={"TCP_DEFER_ACCEPT": 600}, backlog=5)
    defer.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 600)
    defer.bind((LO[V4], 0))
    defer.listen(5)
    client = me.hold(
        socket.create_connection(defer.getsockname()),
        note="the listener waits for data: its side is a request socket",
    )
    me.add(
        "orphans",
        state="SYN_RECV",
        kind="request",
        family="AF_INET",
        made=time.time(),
        local=list(defer.getsockname()),
        remote=list(client.getsockname()),
        listener=me.end(defer),
    )
    for _ in range(2):
        reuse = me.hold(socket.socket(V4, STREAM), options={"SO_REUSEPORT": 1}, backlog=5)
        reuse.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reuse.bind(("127.0.0.1", 20333))
        reuse.listen(5)
    device = me.hold(socket.socket(V4, STREAM), options={"SO_BINDTODEVICE": "lo"}, backlog=5)
    device.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    device.bind(("0.0.0.0", 0))
    device.listen(5)
    only = me.hold(socket.socket(V6, STREAM), options={"IPV6_V6ONLY": 1}, backlog=5)
    only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    only.bind(("::", 20334))
    only.listen(5)
    both = me.hold(socket.socket(V4, STREAM), backlog=5)
    both.bind(("0.0.0.0", 20334))
    both.listen(5)
    bound = me.hold(socket.socket(V6, STREAM), note="traffic class", options={"IPV6_TCLASS": 0x20})
    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x20)


def _link_local(me: Process, wire: Wire) -> None:
    scope = socket.if_nametoindex(DEVICE)
    listener = me.hold(socket.socket(V6, STREAM), note="link-local", backlog=5)
    listener.bind(("fe80::7:1", 0, 0, scope))
    listener.listen(5)
    stage = Stage(me, wire, V6)
    sock = stage.new(note="link-local")
    port = next(_ports)
    stage.start(sock, ("fe80::7:2", port, 0, scope), port)
    peer = Peer.answering(wire, port)
    peer.send(SYN | ACK, options=PLAIN)
    stage.reach(sock, "ESTABLISHED")


def _is(sock: socket.socket, state: str) -> bool:
    return tcp_state(sock) == state


def _over_lo(me: Process) -> None:
    """The states that take no TUN device."""
    me.hold(socket.socket(V4, STREAM), note="just created")
    for family in (V4, V6):
        server = socket.create_server((LO[family], 0), family=family)
        first = socket.create_connection(server.getsockname()[:2])
        second = me.hold(server.accept()[0])
        first.close()
        me.wait_until("CLOSE_WAIT", partial(_is, second, "CLOSE_WAIT"))
        server.close()


def run(me: Process) -> None:
    # Orphans of an earlier run, to the same address, may still exist.
    global _ports
    _ports = iter(range(1000 + me.pid % 250 * 250, 65536))
    for name, value in SYSCTLS.items():
        me.sysctl(name, value)
    me.modprobe("tun", "tcp_bbr", "tcp_vegas", "tcp_dctcp")
    _options(me)
    _listeners(me)
    wire = me.attempt("TUN device", lambda: Wire(DEVICE))
    if not wire:
        _over_lo(me)
        return
    me.hold(wire, "char", "/dev/net/tun", same_file="tun")
    me.ip(
        f"link set {DEVICE} up",
        f"addr add {OURS[V4]}/24 dev {DEVICE}",
        f"addr add {OURS[V6]}/64 dev {DEVICE} nodad",
        f"addr add fe80::7:1/64 dev {DEVICE} nodad",
    )
    _link_local(me, wire)
    stages = [Stage(me, wire, family) for family in (V4, V6)]
    scenes: tuple[Callable[[Stage], None], ...] = (
        _listening,
        _syn_sent,
        _established,
        _closing_first,
        _closing_last,
        _closed,
        _syn_received,
    )
    for scene in scenes:
        for stage in stages:
            scene(stage)
    peers = [peer for stage in stages for peer in _time_wait(stage)]
    peers += _mapped(me, wire)

    def keeper(child: Process) -> None:
        child.drop_all_but(wire)
        Keeper(child, wire, peers).run()

    me.spawn("tcp-keeper", keeper).finish()
