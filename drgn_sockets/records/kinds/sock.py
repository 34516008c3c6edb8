# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets, as far as fdinfo tells of them: net/socket.c and net/unix/af_unix.c."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.skb import skb_queue_walk
from drgn_sockets.kernel.sock import TCP_LISTEN, SocketAlloc
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.program import once_per_program
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind


class _UnixScm(Struct):
    C_TYPE = "struct unix_sock"

    state = Int("sk.__sk_common.skc_state")
    nr_fds = Int("scm_stat.nr_fds.counter")


class _SkBuffSock(Struct):
    C_TYPE = "struct sk_buff"

    next = Int("next")
    sk = Int("sk")


class Scm(NamedTuple):
    """Files that are in flight to a socket (``SCM_RIGHTS``)."""

    #: Files in messages that a unix socket has not received; ``None`` for other sockets.
    fds: int | None


class Sock(Kind):
    """Sockets."""

    name = "sock"
    fops = ("socket_file_ops",)
    fields = (
        Field("scm_fds", "fds in messages that a unix socket has not received", lambda it: it.fds),
    )

    def read(self, file: FileRecord) -> Scm:
        # The inode of a file whose socket was exchanged belongs to another socket.
        address = _socket_alloc(file)
        socket = file.inode
        if not isinstance(socket, SocketAlloc) or socket.address != address:
            socket = SocketAlloc.layout(file.prog).read(address)
        if not socket.sk or not _shows_fdinfo(file.prog, socket.ops):
            return Scm(None)
        return Scm(_scm_fds(file.prog, socket))

    def fdinfo(self, file: FileRecord, it: Scm) -> Iterator[bytes]:
        """``unix_show_fdinfo()``"""
        if it.fds is not None:
            yield b"scm_fds: %d\n" % it.fds


def _socket_alloc(file: FileRecord) -> int:
    offset: int = offsetof(file.prog.type("struct socket_alloc"), "socket")
    return file.private_data - offset


@once_per_program
def _shows_fdinfo(prog: Program, ops: int) -> bool:
    """Whether the socket's operations have ``show_fdinfo()``: only those of unix sockets do."""
    offset = offsetof(prog.type("struct proto_ops"), "show_fdinfo")
    try:
        return bool(prog.read_word(ops + offset))
    except UNREADABLE:
        raise FaultError("struct proto_ops cannot be read", ops) from None


def _scm_fds(prog: Program, socket: SocketAlloc) -> int:
    layout = _UnixScm.layout(prog)
    sock = layout.read(socket.sk)
    # Linux kernel commit de4370892443 ("af_unix: Show number of inflight fds for sockets in
    # TCP_LISTEN state too") (in v6.1) changed no type. Commit d1e5e6408b30 ("tcp: Introduce
    # optional per-netns ehash.") of the same version added inet_hashinfo.pernet.
    if sock.state != TCP_LISTEN or not prog.type("struct inet_hashinfo").has_member("pernet"):
        return sock.nr_fds
    # unix_count_nr_fds() sums up the connections that nobody has accepted.
    queue = socket.sk + offsetof(prog.type("struct sock"), "sk_receive_queue")
    skbs = unbroken(skb_queue_walk(_SkBuffSock.layout(prog), queue))
    return sum(layout.read(skb.sk).nr_fds for skb in skbs)
