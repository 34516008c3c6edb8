# SPDX-License-Identifier: LGPL-2.1-or-later
"""
TIPC sockets of all types and states, in this network namespace and in another one.

A TIPC socket has a node, a port number, and any number of names: service ranges that it is bound
to. The other namespace has a node address, which this one does not have; both have the same
names.

Entries of the account have these members beside the common ones: ``names``, ``via``,
``messages``, ``drops``, ``group`` and ``destination`` (see ``FdAccount``).
"""

from __future__ import annotations

import contextlib
import errno
import select
import shutil
import socket
import struct
import subprocess
from typing import Any

from . import syscalls
from .process import Process, WorkloadError

AF_TIPC, SOL_TIPC = 30, 271
#: linux/tipc.h: ``addrtype``, scopes and socket options.
SERVICE_RANGE, SERVICE_ADDR = 1, 2
CLUSTER_SCOPE, NODE_SCOPE = 2, 3
TIPC_IMPORTANCE, TIPC_SOCK_RECVQ_DEPTH, TIPC_GROUP_JOIN = 127, 132, 135
GROUP_LOOPBACK, GROUP_MEMBER_EVTS = 1, 2
CRITICAL_IMPORTANCE = 3

STREAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
RDM, DGRAM = socket.SOCK_RDM, socket.SOCK_DGRAM
WORDS = {STREAM: "stream", SEQPACKET: "seqpacket", RDM: "rdm", DGRAM: "dgram"}
#: Service types; those below 64 are TIPC's own.
SERVICES = {STREAM: 7000, SEQPACKET: 7001, RDM: 7002, DGRAM: 7003}
GROUP = 7004

#: ``1.1.1`` in the old notation of zone, cluster and node.
NODE_ADDRESS, NODE = "1.1.1", 0x01001001


class _Maker:
    """Makes TIPC sockets, and keeps what the account will say of each."""

    def __init__(self, me: Process) -> None:
        self.me = me
        self.made: list[socket.socket] = []
        #: Clients that nobody accepts. Only connect() tells their state.
        self.waiting: list[socket.socket] = []

    def keep(self, sock: socket.socket, **facts: Any) -> socket.socket:
        """Enter a socket in the account."""
        sock.settimeout(10)
        self.made.append(sock)
        return self.me.hold(sock, **{"names": [], **facts})

    def new(self, kind: socket.SocketKind, **facts: Any) -> socket.socket:
        return self.keep(socket.socket(AF_TIPC, kind), **facts)

    def bind(self, sock: socket.socket, *names: tuple[int, int, int, int]) -> None:
        """
        Give a socket names.

        :param names: type, lowest and highest instance, and scope of each
        """
        for type_, lower, upper, scope in names:
            if lower == upper:
                sock.bind((SERVICE_ADDR, type_, lower, 0, scope))
            else:
                sock.bind((SERVICE_RANGE, type_, lower, upper, scope))
        self.me.note(sock, names=[list(name) for name in names])

    def listener(self, kind: socket.SocketKind, *names: tuple[int, int, int, int]) -> socket.socket:
        sock = self.new(kind, backlog=4)
        self.bind(sock, *names)
        sock.listen(4)
        return sock

    def connection(
        self, kind: socket.SocketKind, listener: socket.socket, address: Any, **facts: Any
    ) -> tuple[socket.socket, socket.socket]:
        """
        Connect a new socket, and accept the connection.

        :param address: what to connect to: a service address or the listener's own
        :return: client and server
        """
        if address[0] == SERVICE_ADDR:
            facts["via"] = list(address[1:3])
        client = self.connecting(kind, address, **facts)
        server = self.keep(listener.accept()[0], **facts)
        self.me.add(
            "connections",
            client=self.me.end(client),
            server=self.me.end(server),
            listener=self.me.end(listener),
            protocol="tipc",
        )
        return client, server

    def connecting(self, kind: socket.SocketKind, address: Any, **facts: Any) -> socket.socket:
        """Begin to connect. connect() would wait until somebody accepts, so it must not block."""
        client = self.new(kind, **facts)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(address)
        return client

    def finish(self) -> None:
        """Ask each socket for its state, and for the number of messages in its queue."""
        for sock in self.made:
            sock.settimeout(None)
            if sock not in self.waiting:
                self.me.note(sock, state=_state(sock))
            self.me.note(sock, messages=sock.getsockopt(SOL_TIPC, TIPC_SOCK_RECVQ_DEPTH))


def _state(sock: socket.socket) -> str:
    """Get the state of a TIPC socket: the kernel's name without ``TIPC_``."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "LISTEN"
    with contextlib.suppress(OSError):
        sock.getpeername()
        return "ESTABLISHED"
    poll = select.poll()
    poll.register(sock, 0)
    if any(events & select.POLLHUP for _, events in poll.poll(0)):
        return "DISCONNECTING"
    return "OPEN"


def _connected(make: _Maker, kind: socket.SocketKind) -> None:
    """States of sockets with connections."""
    me, service = make.me, SERVICES[kind]
    me.add("never_bound", **me.end(make.new(kind)))
    make.bind(make.new(kind, note="bound only"), (service, 900, 900, NODE_SCOPE))
    listener = make.listener(
        kind,
        (service, 1, 10, NODE_SCOPE),
        (service, 20, 20, CLUSTER_SCOPE),
        (service + 100, 0, 0xFFFFFFFF, NODE_SCOPE),
    )
    client, server = make.connection(kind, listener, (SERVICE_ADDR, service, 5, 0))
    client.send(b"c" * 300)
    for size in (1, 20, 3000):
        server.send(b"s" * size)
    make.connection(kind, listener, listener.getsockname(), note="connected by socket address")

    client, server = make.connection(kind, listener, (SERVICE_ADDR, service, 20, 0))
    for sock, note in ((client, "shutdown(SHUT_RDWR)"), (server, "its peer: shutdown(SHUT_RDWR)")):
        me.note(sock, note=note)
    client.shutdown(socket.SHUT_RDWR)
    client, server = make.connection(kind, listener, (SERVICE_ADDR, service, 20, 0))
    me.note(client, note="its peer is closed")
    # An account may name open ends only.
    del me.lists["connections"][-1]
    make.made.remove(server)
    me.drop(server)

    busy = make.listener(kind, (service, 50, 50, NODE_SCOPE))
    for _ in range(2):
        waiting = make.connecting(
            kind,
            (SERVICE_ADDR, service, 50, 0),
            via=[service, 50],
            note="not accepted",
        )
        if waiting.connect_ex((SERVICE_ADDR, service, 50, 0)) != errno.EALREADY:
            raise WorkloadError("a connection that nobody accepted is not being set up")
        make.waiting.append(waiting)
        me.note(waiting, state="CONNECTING")
        me.add("connecting", client=me.end(waiting), listener=me.end(busy))
    with socket.socket(AF_TIPC, kind) as brief:
        brief.bind((SERVICE_ADDR, service, 60, 0, NODE_SCOPE))
        brief.listen(1)
        make.connecting(kind, (SERVICE_ADDR, service, 60, 0), note="refused")
    me.attempt(f"TIPC socketpair {WORDS[kind]}", lambda: _pair(make, kind))


def _pair(make: _Maker, kind: socket.SocketKind) -> None:
    a, b = socket.socketpair(AF_TIPC, kind)
    for sock in (a, b):
        make.keep(sock, note="socketpair")
    make.me.add("pairs", a=make.me.end(a), b=make.me.end(b))
    a.send(b"p" * 42)


def _congested(make: _Maker) -> None:
    """A sender that waits for its peer, which reads nothing."""
    service = SERVICES[STREAM]
    listener = make.listener(STREAM, (service, 70, 70, NODE_SCOPE))
    client, server = make.connection(STREAM, listener, (SERVICE_ADDR, service, 70, 0))
    make.me.note(client, note="congested")
    make.me.note(server, note="its peer is congested")
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(b"f" * 60000)


def _connectionless(make: _Maker, kind: socket.SocketKind) -> None:
    """States of connectionless sockets."""
    me, service = make.me, SERVICES[kind]
    me.add("never_bound", **me.end(make.new(kind)))
    receiver = make.new(kind, note="has messages")
    make.bind(
        receiver,
        (service, 1, 10, NODE_SCOPE),
        (service, 30, 30, CLUSTER_SCOPE),
        (service, 40, 49, CLUSTER_SCOPE),
        (service + 100, 0, 0xFFFFFFFF, NODE_SCOPE),
    )
    # A name that is withdrawn again.
    receiver.bind((SERVICE_ADDR, service, 77, 0, NODE_SCOPE))
    receiver.bind((SERVICE_ADDR, service, 77, 0, -NODE_SCOPE))
    sender = make.new(kind, note="sends by name")
    for size in (0, 5, 600):
        sender.sendto(b"m" * size, (SERVICE_ADDR, service, 3, 0))
    me.note(receiver, datagrams=[0, 5, 600])
    for address, note in (
        ((SERVICE_ADDR, service, 30, 0), "connected to a name"),
        (receiver.getsockname(), "connected to a socket"),
    ):
        sock = make.new(kind, note=note, destination=list(address))
        sock.connect(address)
    critical = make.new(kind, options={"TIPC_IMPORTANCE": CRITICAL_IMPORTANCE})
    critical.setsockopt(SOL_TIPC, TIPC_IMPORTANCE, CRITICAL_IMPORTANCE)
    me.attempt(f"TIPC socketpair {WORDS[kind]}", lambda: _pair(make, kind))


def _dropped(make: _Maker) -> None:
    """A socket with a small buffer: of seven messages it has some, and the rest are dropped."""
    full = make.new(DGRAM, note="dropped some")
    make.bind(full, (SERVICES[DGRAM], 80, 80, NODE_SCOPE))
    full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sender = make.new(DGRAM, note="sent too much")
    for _ in range(7):
        sender.sendto(b"d" * 1000, (SERVICE_ADDR, SERVICES[DGRAM], 80, 0))
    drops = 7 - full.getsockopt(SOL_TIPC, TIPC_SOCK_RECVQ_DEPTH)
    make.me.note(full, drops=drops)
    if not 0 < drops < 7:
        raise WorkloadError(f"{drops} of 7 messages were dropped")


def _group(make: _Maker) -> None:
    """Three members of a communication group, one of which gets events about the others."""
    members = []
    for instance, flags in ((1, 0), (2, GROUP_LOOPBACK), (3, GROUP_MEMBER_EVTS)):
        sock = make.new(RDM)
        request = struct.pack("=4I", GROUP, instance, NODE_SCOPE, flags)
        sock.setsockopt(SOL_TIPC, TIPC_GROUP_JOIN, request)
        make.me.note(
            sock,
            note="member of a group",
            names=[[GROUP, instance, instance, NODE_SCOPE]],
            group={"type": GROUP, "instance": instance, "scope": NODE_SCOPE, "flags": flags},
        )
        members.append(sock)
    # Goes to all but the sender; to the sender as well with GROUP_LOOPBACK.
    for sock in members[:2]:
        sock.send(b"g" * 10)


def _everything(me: Process) -> None:
    """Make all sockets, in the namespace that the process is in."""
    make = _Maker(me)
    for kind in (STREAM, SEQPACKET):
        me.attempt(f"TIPC {WORDS[kind]}", lambda kind=kind: _connected(make, kind))  # type: ignore[misc]
    for kind in (RDM, DGRAM):
        me.attempt(f"TIPC {WORDS[kind]}", lambda kind=kind: _connectionless(make, kind))  # type: ignore[misc]
    me.attempt("TIPC congestion", lambda: _congested(make))
    me.attempt("TIPC drops", lambda: _dropped(make))
    me.attempt("TIPC groups", lambda: _group(make))
    make.finish()


def _elsewhere(me: Process) -> None:
    """Enter a new namespace, and set its node address."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    me.netns = syscalls.netns_inode()
    me.ip("link set lo up")
    me.attempt("TIPC node address", _set_node_address)
    _everything(me)


def _set_node_address() -> None:
    tool = shutil.which("tipc", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        raise OSError(errno.ENOENT, "no tipc, which sets it")
    subprocess.run([tool, "node", "set", "address", NODE_ADDRESS], check=True, timeout=60)


def run(me: Process) -> None:
    me.modprobe("tipc")
    try:
        socket.socket(AF_TIPC, RDM).close()
    except OSError as error:
        me.skip("TIPC", error)
        return
    child = me.spawn("tipc-elsewhere", _elsewhere)
    child.finish()
    _everything(me)
