# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A server with several threads, like a database, that listens on ``::`` for both IPs.

Its IPv4 clients appear among the IPv6 sockets. It also holds sockets that it never bound or
connected: they are in no table of the kernel, and ``lsof`` says "can't identify protocol" of them.
"""

from __future__ import annotations

import socket
import threading

from . import syscalls
from .account import ProcessAccount
from .process import Process

PORT = 23306
CLIENTS = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "127.0.0.2"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::ffff:127.0.0.3"),
)
NEVER_BOUND = (
    (socket.AF_INET, socket.SOCK_STREAM),
    (socket.AF_INET6, socket.SOCK_STREAM),
    (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_INET6, socket.SOCK_DGRAM),
    (socket.AF_UNIX, socket.SOCK_STREAM),
    (socket.AF_UNIX, socket.SOCK_DGRAM),
    (socket.AF_UNIX, socket.SOCK_SEQPACKET),
)


def _threads(me: Process) -> list[ProcessAccount]:
    found: list[ProcessAccount] = []
    ready = threading.Barrier(5)

    def thread(name: str) -> None:
        syscalls.set_comm(name.encode())
        found.append(
            {
                "pid": me.pid,
                "tid": threading.get_native_id(),
                "comm": name,
                "role": "thread",
                "netns": me.netns,
                "fds": [],
                "shares_files_with": me.pid,
            }
        )
        ready.wait(30)
        threading.Event().wait()

    for number in range(4):
        threading.Thread(target=thread, args=(f"db-worker-{number}",), daemon=True).start()
    ready.wait(30)
    return found


def _server(me: Process) -> None:
    listener = me.hold(
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM), backlog=80, options={"IPV6_V6ONLY": 0}
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", PORT))
    listener.listen(80)
    assert me.up
    me.up.send(listener.fileno())
    accepted = [me.hold(listener.accept()[0]) for _ in CLIENTS]
    for family, kind in NEVER_BOUND:
        sock = me.hold(socket.socket(family, kind))
        me.add("never_bound", **me.end(sock))
    me.up.send([(sock.fileno(), list(sock.getpeername()[:2])) for sock in accepted])
    me.others += _threads(me)


def _client(me: Process) -> None:
    made = []
    for family, address in CLIENTS:
        sock = me.hold(socket.socket(family, socket.SOCK_STREAM))
        sock.connect((address, PORT))
        made.append((sock.fileno(), sock.getsockname()[1]))
    assert me.up
    me.up.send(made)


def run(me: Process) -> None:
    server = me.spawn("db-server", _server, b"db server)(S 1")
    listener = server.receive()
    client = me.spawn("db-client", _client)
    ports = {port: fd for fd, port in client.receive()}
    accepted = server.receive()
    server.finish()
    client.finish()
    for fd, remote in accepted:
        me.add(
            "connections",
            client=client.end(ports[remote[1]]),
            server=server.end(fd),
            listener=server.end(listener),
        )
