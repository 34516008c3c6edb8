# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Unix sockets of every type, with every kind of name, in every odd situation.

Listeners with connections that nobody accepts; datagram sockets that do not point back; paths
that are deleted or belong to another socket by now; sockets that only a message in flight holds;
and names with bytes that a terminal would act on.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from . import syscalls
from .process import Process

UNIX = socket.AF_UNIX
STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
KINDS = {"stream": STREAM, "dgram": DGRAM, "seqpacket": SEQPACKET}

ODD = {
    "newline": b"new\nline",
    "quotes": b"\"double\" 'single' `back`",
    "escape": b"\x1b[31mred\x1b[0m\x07",
    "utf8": "sm\u00f6rg\u00e5s\u4e2d\U0001f980".encode(),
    "broken-utf8": b"\xff\xfe broken \xc3(",
    "spaces": b"  two  spaces  ",
    "backslash": b"back\\slash\\012\\",
    "tab": b"tab\there\rand there",
    "at": b"@not-abstract",
    "deleted": b"gone (deleted)",
    "star": b"*",
    "only-spaces": b"   ",
    "percent": b"%s%n",
}


def _socket(me: Process, kind: int, **facts: Any) -> socket.socket:
    return me.hold(socket.socket(UNIX, kind), **facts)


def _bind(me: Process, sock: socket.socket, name: bytes) -> None:
    """Bind to a path in the working directory or an abstract name."""
    sock.bind(name)
    if not name.startswith(b"\0"):
        status = Path(os.fsdecode(name)).stat()
        me.note(sock, file_dev=status.st_dev, file_inode=status.st_ino)


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _link(me: Process, a: socket.socket, b: socket.socket, **row: Any) -> None:
    """Say that two sockets are each other's peers."""
    me.note(a, peer_inode=_inode(b))
    me.note(b, peer_inode=_inode(a))
    me.add("pairs", a=me.end(a), b=me.end(b), **row)


def _plain(me: Process) -> None:
    work = os.fsencode(me.work)
    for word, kind in KINDS.items():
        a, b = (me.hold(sock) for sock in socket.socketpair(UNIX, kind))
        _link(me, a, b, how="socketpair", type=word)
        me.add("never_bound", **me.end(_socket(me, kind)))
        for name in (work + b"/plain-" + word.encode(), b"\0ds-plain-" + word.encode()):
            bound = _socket(me, kind)
            _bind(me, bound, name)
            if kind == DGRAM:
                continue
            bound.listen(7)
            me.note(bound, backlog=7)
            client = _socket(me, kind)
            client.connect(name)
            server = me.hold(bound.accept()[0])
            _link(me, client, server, how="accept", type=word)
            # A client with a name of its own.
            named = _socket(me, kind)
            _bind(me, named, name + b"-client")
            named.connect(name)
            _link(me, named, me.hold(bound.accept()[0]), how="accept, named", type=word)


def _pending(me: Process) -> None:
    """Connections that nobody accepts: their clients are connected."""
    for word, kind in (("stream", STREAM), ("seqpacket", SEQPACKET)):
        listener = _socket(me, kind, backlog=10, pending=3)
        name = b"\0ds-pending-" + word.encode()
        listener.bind(name)
        listener.listen(10)
        for number in range(3):
            client = _socket(me, kind, note="peer is not accepted yet")
            client.connect(name)
            client.send(b"p" * (number + 1))
            me.add("connections", client=me.end(client), listener=me.end(listener), accepted=False)


def _datagrams(me: Process) -> None:
    hub = _socket(me, DGRAM)
    _bind(me, hub, os.fsencode(me.work / "hub"))
    sizes = []
    for number in range(5):
        spoke = _socket(me, DGRAM, peer_inode=_inode(hub))
        if number % 2:
            spoke.bind(f"\0ds-spoke-{number}")
        spoke.connect(hub.getsockname())
        spoke.send(b"d" * (number * 10))
        sizes.append(number * 10)
        me.add("connections", client=me.end(spoke), server=me.end(hub), points_back=False)
    me.note(hub, datagrams=sizes)
    # A chain: each sends to the next one, and none back. Made from its end, since nobody may
    # connect to a socket that is connected to a third.
    links = [hub, *(_socket(me, DGRAM) for _ in range(3))]
    for number, link in enumerate(links[1:]):
        link.bind(f"\0ds-chain-{number}")
    for link, after in reversed(list(zip(links[1:], links))):
        link.connect(after.getsockname())
        me.note(link, peer_inode=_inode(after))
    one, other = _socket(me, DGRAM), _socket(me, DGRAM)
    one.bind(b"\0ds-mutual-1")
    other.bind(b"\0ds-mutual-2")
    one.connect(b"\0ds-mutual-2")
    other.connect(b"\0ds-mutual-1")
    _link(me, one, other, how="connect both ways", type="dgram")


def _outlived(me: Process) -> None:
    """Files of sockets are deleted or replaced while the sockets are open."""
    listener = socket.socket(UNIX, STREAM)
    listener.bind("listener-closed")
    listener.listen(1)
    client = _socket(me, STREAM)
    client.connect("listener-closed")
    server = me.hold(listener.accept()[0], note="its listener is closed")
    listener.close()
    _link(me, client, server, how="listener closed since", type="stream")

    unlinked = _socket(me, STREAM, note="its path is unlinked", backlog=1)
    _bind(me, unlinked, os.fsencode(me.work / "unlinked"))
    unlinked.listen(1)
    Path("unlinked").unlink()

    path = os.fsencode(me.work / "replaced")
    for note in ("another socket has its path now", "took the path of another socket"):
        sock = _socket(me, STREAM, note=note, backlog=1)
        _bind(me, sock, path)
        sock.listen(1)
        if note.startswith("another"):
            Path("replaced").unlink()
    moved = _socket(me, DGRAM, note="its path was renamed since")
    _bind(me, moved, os.fsencode(me.work / "before-rename"))
    Path("before-rename").rename("after-rename")

    orphan = _socket(me, STREAM, note="its peer is closed")
    ours, theirs = socket.socketpair()
    theirs.close()
    os.dup2(ours.fileno(), orphan.fileno(), inheritable=False)
    ours.close()


def _in_flight(me: Process) -> None:
    """Sockets and files held only by a message in a receive queue."""
    a, b = (me.hold(sock) for sock in socket.socketpair())
    _link(me, a, b, how="socketpair", type="stream")
    lone, kept = socket.socketpair()
    me.hold(kept, note="its peer is in flight", peer_inode=_inode(lone))
    inet = socket.create_server(("127.0.0.1", 0))
    file = os.open(me.work / "in-flight-file", os.O_RDWR | os.O_CREAT)
    socket.send_fds(a, [b"fds"], [lone.fileno(), inet.fileno(), file])
    me.add(
        "in_flight",
        holder=me.end(b),
        inodes=[_inode(lone), _inode(inet)],
        addresses=[None, list(inet.getsockname())],
        files=3,
    )
    me.note(b, note="3 files in flight in its queue")
    lone.close()
    inet.close()
    os.close(file)
    # A cycle: a socket in its own queue's message.
    c, d = (me.hold(sock) for sock in socket.socketpair(UNIX, DGRAM))
    _link(me, c, d, how="socketpair", type="dgram")
    socket.send_fds(c, [b"self"], [d.fileno()])
    me.add("in_flight", holder=me.end(d), inodes=[_inode(d)], files=1)


def _half_way(me: Process) -> None:
    for how, word in (
        (socket.SHUT_WR, "SHUT_WR"),
        (socket.SHUT_RD, "SHUT_RD"),
        (socket.SHUT_RDWR, "SHUT_RDWR"),
    ):
        a, b = (me.hold(sock) for sock in socket.socketpair())
        a.shutdown(how)
        _link(me, a, b, how=f"socketpair, a.shutdown({word})", type="stream")
    a, b = (me.hold(sock) for sock in socket.socketpair())
    a.sendall(b"x" * 12345)
    b.sendall(b"y" * 54)
    _link(me, a, b, how="unread both ways", type="stream")
    a, b = (me.hold(sock) for sock in socket.socketpair(UNIX, SEQPACKET))
    for size in (10, 20, 30):
        a.send(b"q" * size)
    me.note(b, datagrams=[10, 20, 30])
    _link(me, a, b, how="unread packets", type="seqpacket")
    full, _ = (me.hold(sock) for sock in socket.socketpair())
    full.setblocking(False)
    try:
        while True:
            full.send(b"f" * 4096)
    except BlockingIOError:
        me.note(full, note="its peer's queue is full")
    _link(me, full, _, how="queue full", type="stream")
    options = _socket(me, STREAM, options={"SO_PASSCRED": 1})
    options.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def _more(me: Process) -> None:
    """A full backlog, clients that are gone, data out of band, an offset for peeking."""
    full = _socket(me, STREAM, backlog=0, pending=1, note="its backlog is full")
    full.bind(b"\0ds-full")
    full.listen(0)
    client = _socket(me, STREAM, note="peer is not accepted yet")
    client.connect(b"\0ds-full")
    me.add("connections", client=me.end(client), listener=me.end(full), accepted=False)
    left = _socket(me, STREAM, backlog=5, pending=2, note="its clients are gone, or half")
    left.bind("left-listener")
    left.listen(5)
    with socket.socket(UNIX, STREAM) as gone:
        gone.connect("left-listener")
    half = _socket(me, STREAM, note="peer is not accepted yet; shutdown(SHUT_WR)")
    half.connect("left-listener")
    half.shutdown(socket.SHUT_WR)
    me.add("connections", client=me.end(half), listener=me.end(left), accepted=False)
    a, b = (me.hold(sock) for sock in socket.socketpair())
    me.attempt("out of band", lambda: a.send(b"data!", socket.MSG_OOB))
    _link(me, a, b, how="data out of band", type="stream")
    a, b = (me.hold(sock) for sock in socket.socketpair())
    peek_off = 42
    b.setsockopt(socket.SOL_SOCKET, peek_off, 7)
    me.note(b, options={"SO_PEEK_OFF": 7})
    _link(me, a, b, how="an offset for peeking", type="stream")
    # AF_UNIX makes a datagram socket of it.
    raw = _socket(me, socket.SOCK_RAW, note="asked for SOCK_RAW")
    raw.bind(b"\0ds-raw")
    small = _socket(me, DGRAM, options={"SO_RCVBUF": 4608, "SO_SNDBUF": 8192})
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for how, word in ((0, "SHUT_RD"), (1, "SHUT_WR")):
        closed = _socket(me, DGRAM, note=f"shutdown({word})")
        closed.bind(f"\0ds-closed-{word}")
        closed.shutdown(how)


def _odd_names(me: Process) -> None:
    for word, name in ODD.items():
        _bind(me, _socket(me, DGRAM, note=word), os.fsencode(me.work) + b"/" + name)
        _bind(me, _socket(me, DGRAM, note=word), b"\0ds-" + name)
    for name in (
        b"\0ds\0with\0zeros\0",
        b"\0\0\0",
        b"\0",
        b"\0" + b"n" * 107,
        b"\0ds" + bytes(range(1, 33)) + bytes(range(127, 160)),
    ):
        _bind(me, _socket(me, DGRAM), name)
    relative = _socket(me, STREAM, note="bound to a relative path")
    _bind(me, relative, b"relative")
    Path("sub").mkdir()
    _bind(me, _socket(me, DGRAM), b"./sub/../sub//dots")
    # A path that fills sun_path, so that no zero ends it.
    me.attempt("path of 108 bytes", lambda: _full_path(me))
    auto = _socket(me, DGRAM, note="autobind")
    syscalls.bind_raw(auto.fileno(), syscalls.sockaddr_un(b""))
    auto2 = _socket(me, STREAM, note="autobind by SO_PASSCRED and connect")
    auto2.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    auto2.connect(b"\0ds-plain-stream")


def _full_path(me: Process) -> None:
    name = os.fsencode(me.work) + b"/"
    name += b"L" * (108 - len(name))
    sock = _socket(me, DGRAM, note="path of 108 bytes")
    syscalls.bind_raw(sock.fileno(), syscalls.sockaddr_un(name))
    status = Path(os.fsdecode(name)).stat()
    me.note(sock, file_dev=status.st_dev, file_inode=status.st_ino)


def run(me: Process) -> None:
    syscalls.set_comm(b"ds\nzoo\x1b[7m\xff\\")
    for part in (_plain, _pending, _datagrams, _outlived, _in_flight, _half_way, _more, _odd_names):
        part(me)
