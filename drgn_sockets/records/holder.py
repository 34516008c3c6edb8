# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small values that records contain: the holder of a file, the inode of a socket."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Union

from drgn_sockets.kernel.sock import Sock, SocketAlloc


class Holder(NamedTuple):
    """A file descriptor by which a process holds a file."""

    pid: int
    fd: int
    #: Command name of the process, or of the thread if ``tid`` is set.
    comm: bytes
    #: Thread ID if the file table is the thread's own, else ``None``.
    tid: int | None


class SocketInode(NamedTuple):
    """The inode of a socket."""

    ino: int
    #: Its owner, in the initial user namespace.
    uid: int
    #: ``struct socket *`` by which a file leads to the socket, 0 if that was not asked.
    socket: int = 0


#: The inode of a socket: the compact form that is kept for all sockets, or the decoded structure.
AnyInode = Union[SocketInode, SocketAlloc]


class HoldersOfSockets(Protocol):
    """The part of :class:`~drgn_sockets.records.holders.Holders` that socket records use."""

    def of(self, sk: int) -> list[Holder]:
        """The holders of a ``struct sock *``, in the order of pids and fds."""

    def through_socket(self, sk: Sock) -> list[Holder]:
        """The holders of the ``struct socket`` of *sk*, whose ``sk`` may be another sock."""
