# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Three network namespaces, with sockets that are held across their borders.

Two children live in namespaces of their own, joined by a veth pair that carries TCP
connections over IPv4 and IPv6 link-local. The main process stays outside, but holds a
socket that a child passed to it and one it made on a visit. Two further namespaces have
no process at all: one is kept by an open file, one only by a socket.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

from . import kernel_sockets, syscalls
from .process import Process

V4, V6 = socket.AF_INET, socket.AF_INET6
PORT = 10077


def _everything(me: Process, name: str) -> socket.socket:
    """Sockets of each family in this namespace. Other namespaces have the same addresses."""
    for family, lo in ((V4, "127.0.0.1"), (V6, "::1")):
        listener = me.hold(socket.socket(family, socket.SOCK_STREAM), backlog=9)
        listener.bind((lo, 8080))
        listener.listen(9)
        client = me.hold(socket.socket(family, socket.SOCK_STREAM))
        client.connect((lo, 8080))
        server = me.hold(listener.accept()[0])
        me.add(
            "connections",
            client=me.end(client),
            server=me.end(server),
            listener=me.end(listener),
            netns=me.netns,
        )
        udp = me.hold(socket.socket(family, socket.SOCK_DGRAM))
        udp.bind((lo, 8081))
        me.hold(socket.socket(family, socket.SOCK_RAW, 253))
    # Abstract names are per network namespace: both children have this one.
    abstract = me.hold(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    abstract.bind(b"\0ds-netns")
    path = me.hold(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    path.bind(str(me.work / name))
    path.listen(3)
    status = (me.work / name).stat()
    me.note(path, file_dev=status.st_dev, file_inode=status.st_ino, backlog=3)
    me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)).bind((0, 0))
    groups = me.hold(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15))
    groups.bind((0, 0x80000000))
    _other_states(me)
    for what, make in (
        ("packet socket", _packet),
        ("ping socket", _ping),
        ("UDP-Lite", _udp_lite),
        ("MPTCP", lambda me: _connection(me, 262, "mptcp")),
        ("SCTP", lambda me: _connection(me, 132, "sctp")),
        ("kernel sockets", _kernel_sockets),
    ):
        me.attempt(f"{what} in a namespace", partial(make, me))
    return udp


def _other_states(me: Process) -> None:
    """Sockets that are not accepted, bound only, connected datagram ones, never used."""
    for family, lo in ((V4, "127.0.0.1"), (V6, "::1")):
        listener = me.hold(socket.socket(family, socket.SOCK_STREAM), backlog=4, pending=1)
        listener.bind((lo, 8082))
        listener.listen(4)
        client = me.hold(socket.socket(family, socket.SOCK_STREAM), note="its peer is not accepted")
        client.connect((lo, 8082))
        me.add("connections", client=me.end(client), listener=me.end(listener), accepted=False)
        bound = me.hold(socket.socket(family, socket.SOCK_STREAM), note="bound only")
        bound.bind((lo, 8083))
        me.add("never_bound", **me.end(me.hold(socket.socket(family, socket.SOCK_STREAM))))
        peer = me.hold(socket.socket(family, socket.SOCK_DGRAM), note="connected")
        peer.connect((lo, 8081))
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        listener = me.hold(socket.socket(socket.AF_UNIX, kind), backlog=3, pending=1)
        listener.bind(f"\0ds-pending-{int(kind)}")
        listener.listen(3)
        client = me.hold(socket.socket(socket.AF_UNIX, kind), note="peer is not accepted yet")
        client.connect(f"\0ds-pending-{int(kind)}")
        me.add("connections", client=me.end(client), listener=me.end(listener), accepted=False)


def _packet(me: Process) -> None:
    packet = me.hold(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    packet.bind(("lo", 0x88B5))


def _ping(me: Process) -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    for family, lo, protocol in ((V4, "127.0.0.1", 1), (V6, "::1", 58)):
        ping = me.hold(socket.socket(family, socket.SOCK_DGRAM, protocol))
        ping.bind((lo, 77))


def _udp_lite(me: Process) -> None:
    for family, lo in ((V4, "127.0.0.1"), (V6, "::1")):
        lite = me.hold(socket.socket(family, socket.SOCK_DGRAM, 136))
        lite.bind((lo, 8084))


def _connection(me: Process, number: int, protocol: str) -> None:
    if protocol == "sctp":
        # Without this, heartbeats would go on in a freeze.
        Path("/proc/sys/net/sctp/hb_interval").write_text("3600000")
    listener = me.hold(socket.socket(V4, socket.SOCK_STREAM, number), backlog=2)
    listener.bind(("127.0.0.1", 8088))
    listener.listen(2)
    client = me.hold(socket.socket(V4, socket.SOCK_STREAM, number))
    client.connect(listener.getsockname())
    server = me.hold(listener.accept()[0])
    me.add(
        "connections",
        client=me.end(client),
        server=me.end(server),
        listener=me.end(listener),
        protocol=protocol,
    )


def _kernel_sockets(me: Process) -> None:
    # Its files of procfs are those of the namespace that this thread is in.
    kernel_sockets.add(me, *kernel_sockets.TUNNELS[0])


def _enter_new(me: Process) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    me.netns = syscalls.netns_inode()
    me.ip("link set lo up")


def _left(me: Process) -> None:
    """The server's side of the veth pair."""
    _enter_new(me)
    _everything(me, "left")
    passed = socket.create_server(("127.0.0.1", 8085))
    assert me.up
    me.up.send(me.netns)
    me.up.send_fds(passed)
    passed.close()
    # The parent says whether there is a veth pair.
    if not me.up.receive():
        return
    me.ip(
        "addr add 10.77.0.1/24 dev ds-left",
        "link set ds-left up",
        "addr add fe80::77:1/64 dev ds-left nodad",
        "addr add fd77::1/64 dev ds-left nodad",
    )
    scope = socket.if_nametoindex("ds-left")
    places = [
        (V4, ("10.77.0.1", PORT)),
        (V6, ("fe80::77:1", PORT, 0, scope)),
        (V6, ("fd77::1", PORT)),
    ]
    listeners = []
    for family, place in places:
        listener = me.hold(socket.socket(family, socket.SOCK_STREAM), backlog=3)
        listener.bind(place)
        listener.listen(3)
        listeners.append(listener)
    me.up.send("listening")
    accepted = [me.hold(listener.accept()[0]) for listener in listeners]
    me.up.send([sock.fileno() for sock in accepted])


def _right(me: Process) -> None:
    """The clients' side of the veth pair."""
    _enter_new(me)
    _everything(me, "right")
    assert me.up
    me.up.send(me.netns)
    if not me.up.receive():
        return
    me.ip(
        "addr add 10.77.0.2/24 dev ds-right",
        "link set ds-right up",
        "addr add fe80::77:2/64 dev ds-right nodad",
        "addr add fd77::2/64 dev ds-right nodad",
    )
    me.up.send("up")
    me.up.receive()
    scope = socket.if_nametoindex("ds-right")
    made = []
    for family, place in (
        (V4, ("10.77.0.1", PORT)),
        (V6, ("fe80::77:1", PORT, 0, scope)),
        (V6, ("fd77::1", PORT)),
    ):
        sock = me.hold(socket.socket(family, socket.SOCK_STREAM))
        sock.settimeout(20)
        sock.connect(place)
        sock.settimeout(None)
        made.append(sock.fileno())
    me.up.send(made)


def _lone_namespaces(me: Process, home: int) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    inode = syscalls.netns_inode()
    kept = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    me.hold(kept, "ns", f"net:[{inode}]")
    me.add("namespaces", netns=inode, kept_by="an open file", holder=me.end(kept))

    syscalls.unshare(syscalls.CLONE_NEWNET)
    inode = syscalls.netns_inode()
    me.ip("link set lo up")
    lone = me.hold(socket.create_server(("127.0.0.1", 8090)), netns=inode)
    udp = me.hold(socket.socket(V6, socket.SOCK_DGRAM), netns=inode)
    udp.bind(("::1", 8091))
    me.add("namespaces", netns=inode, kept_by="sockets", holder=me.end(lone))
    syscalls.setns(home, syscalls.CLONE_NEWNET)


def run(me: Process) -> None:
    me.modprobe("veth", "sctp", "vxlan")
    left = me.spawn("netns-left", _left)
    left_inode = left.receive()
    right = me.spawn("netns-right", _right)
    right_inode = right.receive()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    (passed,) = left.channel.receive_fds(1)
    me.hold(socket.socket(fileno=passed), netns=left_inode, note="passed by the left child")
    me.add("namespaces", netns=me.netns, kept_by="the main process")
    me.add("namespaces", netns=left_inode, kept_by="the left child")
    me.add("namespaces", netns=right_inode, kept_by="the right child")

    there = os.open(f"/proc/{right.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(there, syscalls.CLONE_NEWNET)
    visit = socket.create_server(("127.0.0.1", 8086))
    syscalls.setns(home, syscalls.CLONE_NEWNET)
    os.close(there)
    me.hold(visit, netns=right_inode, note="made on a visit to the right child's namespace")
    _lone_namespaces(me, home)
    os.close(home)

    try:
        me.ip(f"link add ds-left netns {left.pid} type veth peer name ds-right netns {right.pid}")
        joined = True
    except OSError as error:
        me.skip("veth", error)
        joined = False
    left.send(joined)
    right.send(joined)
    clients, servers = [], []
    if joined:
        right.receive()
        left.receive()
        right.send("listening")
        clients = right.receive()
        servers = left.receive()
    left.finish()
    right.finish()
    for client, server in zip(clients, servers):
        me.add("connections", client=right.end(client), server=left.end(server), over="veth")
