# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Private data: in memory, in a file, in a pipe, and in the queues of sockets.

Each place has a text of its own, which ``secrets`` of the account names. Texts in sockets are
queued in every way there is: in one piece, in page fragments, in pages of a file that was sent
with ``sendfile``; received, and not yet sent. A distilled core must have none of these texts.
"""

from __future__ import annotations

import os
import secrets
import socket

from .process import Process

BIG = 100_000

_kept: list[bytes] = []


class _Secrets:
    def __init__(self, me: Process) -> None:
        self._me = me

    def make(self, place: str, size: int = 0, *, queued: bool = True) -> bytes:
        """Make the text of *place*, repeated as often as it fits into *size* bytes."""
        token = secrets.token_hex(24)
        self._me.add("secrets", place=place, token=token, queued=queued)
        text = token.encode() + b" "
        return text * max(1, size // len(text))


def _tcp_pair(me: Process, buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    client = me.hold(socket.create_connection(listener.getsockname()))
    server = me.hold(listener.accept()[0])
    listener.close()
    me.add("connections", client=me.end(client), server=me.end(server))
    return client, server


def _tcp(me: Process, text: _Secrets) -> None:
    client, _ = _tcp_pair(me)
    client.sendall(text.make("tcp"))
    client, _ = _tcp_pair(me)
    client.sendall(text.make("tcp, in page fragments", BIG))

    path = me.work / "sent"
    path.write_bytes(text.make("tcp, sendfile", BIG))
    client, _ = _tcp_pair(me)
    with path.open("rb") as file:
        assert client.sendfile(file) > BIG // 2
    path.unlink()

    client, _ = _tcp_pair(me, buffer=4096)
    client.setblocking(False)
    first = text.make("tcp, before the window closed")
    rest = text.make("tcp, not sent", 2000)
    client.send(first)
    try:
        while True:
            client.send(rest)
    except BlockingIOError:
        pass


def _datagrams(me: Process, text: _Secrets) -> None:
    receiver = me.hold(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    sender = me.hold(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender.connect(receiver.getsockname())
    data = [text.make("udp"), text.make("udp, in page fragments", BIG // 2)]
    for datagram in data:
        sender.send(datagram)
    me.note(receiver, datagrams=[len(d) for d in data])


def _unix(me: Process, text: _Secrets) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        a, b = map(me.hold, socket.socketpair(socket.AF_UNIX, kind))
        me.add("pairs", a=me.end(a), b=me.end(b))
        data = [text.make(f"unix {kind.name}"), text.make(f"unix {kind.name}, large", BIG)]
        for message in data:
            a.sendall(message)
        if kind == socket.SOCK_DGRAM:
            me.note(b, datagrams=[len(d) for d in data])


def run(me: Process) -> None:
    text = _Secrets(me)
    _kept.append(text.make("memory", BIG, queued=False))
    path = me.work / "file"
    path.write_bytes(text.make("file", BIG, queued=False))
    me.hold(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "file", path)
    reader, writer = (me.hold(fd, "pipe") for fd in os.pipe())
    os.write(writer, text.make("pipe", 5000, queued=False))
    assert reader
    _tcp(me, text)
    _datagrams(me, text)
    _unix(me, text)
