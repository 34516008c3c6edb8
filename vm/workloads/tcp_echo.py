# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A TCP echo server on port 22222, and a client that sends to it every second.

Two processes and one connection: the situation everybody starts from. "This fd is
``socket:[21189]``: which connection is it, and who has the other end?"
"""

from __future__ import annotations

import contextlib
import socket
import time

from .process import Process, serve_forever

PORT = 22222


def _server(me: Process) -> None:
    listener = me.hold(socket.socket(socket.AF_INET, socket.SOCK_STREAM), backlog=16)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(16)
    assert me.up
    me.up.send(listener.fileno())
    accepted = me.hold(listener.accept()[0])
    me.up.send(accepted.fileno())
    me.report()
    serve_forever([accepted], lambda data: data)


def _client(me: Process) -> None:
    sock = me.hold(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sock.connect(("127.0.0.1", PORT))
    assert me.up
    me.up.send(sock.fileno())
    me.report()
    while True:
        sock.sendall(b"hello, drgn-sockets\n")
        with contextlib.suppress(socket.timeout):
            sock.recv(4096)
        time.sleep(1)


def run(me: Process) -> None:
    server = me.spawn("echo-server", _server)
    listener = server.receive()
    client = me.spawn("echo-client", _client)
    client_fd = client.receive()
    accepted = server.receive()
    server.finish()
    client.finish()
    me.add(
        "connections",
        client=client.end(client_fd),
        server=server.end(accepted),
        listener=server.end(listener),
    )
