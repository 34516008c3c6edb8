# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A unix stream server that forks for each connection, and a client that forks, too.

The client never binds, so its end has no name. It forks after connecting: parent and child hold
the same nameless socket. The server closes the accepted socket after forking, as servers do, so
that only its child holds it. The other end of the client's fd is then held by the server's child,
under the path that the listener is bound to.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from .process import Process

NAME = "test.sock"


def _handler(accepted: socket.socket) -> None:
    while True:
        data = accepted.recv(4096)
        if not data:
            return
        accepted.sendall(data)


def _server(me: Process) -> None:
    path = str(me.work / NAME)
    listener = me.hold(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), backlog=5)
    listener.bind(path)
    listener.listen(5)
    status = Path(path).stat()
    file: dict[str, Any] = {"file_dev": status.st_dev, "file_inode": status.st_ino}
    me.note(listener, **file)
    assert me.up
    me.up.send(listener.fileno())
    accepted = me.hold(listener.accept()[0], **file)
    number = accepted.fileno()

    def body(child: Process) -> None:
        child.drop_all_but(accepted)
        child.note(accepted, same_file="server end")
        child.report()
        _handler(accepted)

    worker = me.spawn("unix-worker", body)
    worker.finish()
    me.drop(accepted)
    me.up.send([worker.pid, number])


def _client(me: Process) -> None:
    sock = me.hold(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), same_file="client end")
    sock.connect(str(me.work / NAME))
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"
    child = me.spawn("unix-cl-child", lambda _: None)
    child.finish()
    assert me.up
    me.up.send([child.pid, sock.fileno(), os.fstat(sock.fileno()).st_ino])


def run(me: Process) -> None:
    server = me.spawn("unix-server", _server)
    listener = server.receive()
    client = me.spawn("unix-client", _client)
    worker_pid, worker_fd = server.receive()
    child_pid, client_fd, client_inode = client.receive()
    server.finish()
    client.finish()
    entries = {(p["pid"], e["fd"]): e for p in me.others for e in p["fds"]}
    worker_inode = entries[worker_pid, worker_fd]["inode"]
    entries[worker_pid, worker_fd]["peer_inode"] = client_inode
    for pid in (client.pid, child_pid):
        entries[pid, client_fd]["peer_inode"] = worker_inode
    me.add(
        "connections",
        client=client.end(client_fd),
        client_child={"pid": child_pid, "fd": client_fd},
        server={"pid": worker_pid, "fd": worker_fd},
        listener=server.end(listener),
        path=str(me.work / NAME),
    )
