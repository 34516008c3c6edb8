# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One socket in the hands of twenty processes, and one file behind several descriptors.

A connected TCP socket is inherited by 20 forked children. The parent has dup()ed a
file, so that three descriptors share one position, beside a second ``open`` of the same
path with a position of its own.
"""

from __future__ import annotations

import os
import socket

from .process import Process

CHILDREN = 20


def _child(_: Process) -> None:
    """Hold all that the parent held."""


def run(me: Process) -> None:
    listener = me.hold(socket.create_server(("127.0.0.1", 0)))
    client = me.hold(socket.create_connection(listener.getsockname()), same_file="held by all")
    server = me.hold(listener.accept()[0], same_file="server end")
    path = os.fsencode(me.work / "twice")
    first = me.hold(
        os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "file", path, same_file="first open"
    )
    os.write(first, b"x" * 1000)
    os.lseek(first, 123, os.SEEK_SET)
    second = me.hold(os.open(path, os.O_RDONLY), "file", path, same_file="second open")
    os.lseek(second, 45, os.SEEK_SET)
    for number in (37, 38, 39):
        me.dup(first, number)
    socket_dup = me.dup(client)
    children = [me.spawn(f"holder-{number}", _child) for number in range(CHILDREN)]
    for child in children:
        child.finish()
    me.add("connections", client=me.end(client), server=me.end(server), listener=me.end(listener))
    for end in [me.end(client), me.end(socket_dup)] + [
        child.end(fd) for child in children for fd in (client, socket_dup)
    ]:
        me.add("holders", same_file="held by all", holder=end)
    for fd in (first, 37, 38, 39):
        me.add("holders", same_file="first open", holder=me.end(fd))
