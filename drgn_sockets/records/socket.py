# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop  # "socket" takes as long as all the rest
from typing import ClassVar, Union

from drgn import Program

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.file import Inode, SuperBlock
from drgn_sockets.kernel.sock import Sock, SockCommon
from drgn_sockets.records.holders import Holder
from drgn_sockets.records.inet import UdpSock
from drgn_sockets.records.tcp import (
    InetRequestSock,
    InetTimewaitSock,
    TcpSock,
    Timer,
    tcp_timer,
)
from drgn_sockets.records.unix import UnixSock, unix_inq_len

_BATCH = 512

#: Groups of families in which sockets are walked and shown, in that order.
FAMILIES = ("other", "unix", "raw", "udp", "tcp")


class SocketRecord:
    """
    A socket of any family.

    A family says more in a class of its own. What it says beyond that is in :attr:`sock`,
    the decoded ``struct sock`` (or ``tcp_sock``, ``unix_sock``, ``inet_timewait_sock``, …).
    """

    def __init__(self, prog: Program, sock: SockCommon, netns: int) -> None:
        self.prog = prog
        self.sock = sock
        #: Inode of the network namespace.
        self.netns = netns
        #: Inode of the socket (the N of ``socket:[N]``), 0 if it has none.
        self.ino = 0
        #: Owner of that inode, ``None`` if it has none.
        self.i_uid: int | None = None
        #: Name of the interface it is bound to, if it is.
        self.ifname: bytes | None = None
        #: Every fd that holds it; ``None`` if nobody looked.
        self.holders: list[Holder] | None = None

    #: Which of :data:`FAMILIES` it belongs to.
    group: ClassVar[str] = "other"

    @property
    def sk(self) -> int:
        """``struct sock *`` as an integer."""
        return self.sock.address

    @property
    def family(self) -> int:
        """``AF_*``."""
        return self.sock.family

    @property
    def type(self) -> int:
        """``SOCK_*``; timewait and request sockets, which keep none, are streams."""
        return self.sock.type if isinstance(self.sock, Sock) else k.SOCK_STREAM

    @property
    def protocol(self) -> int:
        """``IPPROTO_*``, or what the family calls protocol."""
        return self.sock.protocol if isinstance(self.sock, Sock) else k.IPPROTO_TCP

    @property
    def state(self) -> int:
        """``TCP_*``, which other families use as well."""
        return self.sock.state

    @property
    def uid(self) -> int | None:
        """Owner, in the initial user namespace."""
        return self.sock.uid if isinstance(self.sock, Sock) else None

    @property
    def recv_q(self) -> int | None:
        """Bytes to be read; of a listener, connections to be accepted."""
        return self.sock.rmem_alloc if isinstance(self.sock, Sock) else None

    @property
    def send_q(self) -> int | None:
        """Bytes on their way out; of a listener, how many connections may wait."""
        return self.sock.wmem_alloc - 1 if isinstance(self.sock, Sock) else None

    @property
    def timer(self) -> Timer | None:
        """The timer that fires next."""
        return None


class InetRecord(SocketRecord):
    """A socket of ``AF_INET`` or ``AF_INET6``."""

    @property
    def local_address(self) -> str:
        """Address it is bound to (``skc_rcv_saddr``, ``skc_v6_rcv_saddr``)."""
        if self.sock.family == k.AF_INET6 and self.sock.v6_rcv_saddr is not None:
            return inet_ntop(AF_INET6, self.sock.v6_rcv_saddr)
        return inet_ntop(AF_INET, self.sock.rcv_saddr)

    @property
    def remote_address(self) -> str:
        """Address it is connected to (``skc_daddr``, ``skc_v6_daddr``)."""
        if self.sock.family == k.AF_INET6 and self.sock.v6_daddr is not None:
            return inet_ntop(AF_INET6, self.sock.v6_daddr)
        return inet_ntop(AF_INET, self.sock.daddr)

    @property
    def local_port(self) -> int:
        """Local port (``skc_num``)."""
        return self.sock.num

    @property
    def remote_port(self) -> int:
        """Remote port (``skc_dport``)."""
        return self.sock.dport


class TcpRecord(InetRecord):
    """A TCP socket: full, timewait or request."""

    group = "tcp"

    @property
    def state(self) -> int:
        """``TCP_*``; of an orphan in FIN-WAIT-2 that, and not the TIME-WAIT it is kept as."""
        if isinstance(self.sock, InetTimewaitSock):
            return self.sock.substate
        if isinstance(self.sock, InetRequestSock):
            return k.TCP_SYN_RECV
        return self.sock.state

    @property
    def local_port(self) -> int:
        """Local port; of a connection that was refused or reset, the one that it had."""
        # inet_put_port() clears skc_num and leaves inet_sport, which getsockname() gives.
        return self.sock.num or (self.sock.sport if isinstance(self.sock, TcpSock) else 0)

    @property
    def recv_q(self) -> int | None:
        return self.sock.recv_queue() if isinstance(self.sock, TcpSock) else 0

    @property
    def send_q(self) -> int | None:
        return self.sock.send_queue() if isinstance(self.sock, TcpSock) else 0

    @property
    def timer(self) -> Timer | None:
        return tcp_timer(self.prog, self.sock)


class UdpRecord(InetRecord):
    """A UDP or UDP-Lite socket."""

    group = "udp"

    @property
    def recv_q(self) -> int | None:
        """``udp_rqueue_get()``: bytes with their overhead."""
        assert isinstance(self.sock, UdpSock)
        return self.sock.rmem_alloc - self.sock.forward_deficit


class RawRecord(InetRecord):
    """A raw socket. What others have as local port is its protocol."""

    group = "raw"


class UnixRecord(SocketRecord):
    """A unix socket."""

    group = "unix"

    def __init__(self, prog: Program, sock: UnixSock, netns: int) -> None:
        super().__init__(prog, sock, netns)
        self._unix = sock
        #: ``struct unix_address *``, 0 if it has no name.
        self.addr = sock.addr
        #: Path, abstract name (it begins with a NUL), or ``None``. An accepted socket has
        #: that of its listener.
        self.name: bytes | None = None
        #: ``struct sock *`` of the other end, 0 for none.
        self.peer = sock.peer
        #: Inode of the other end; 0 if it has none, as long as nobody has accepted it.
        self.peer_ino = 0
        #: Name of the other end.
        self.peer_name: bytes | None = None

    @property
    def recv_q(self) -> int | None:
        """Bytes to be read (``unix_inq_len()``); of a listener, connections waiting."""
        if self._unix.state == k.TCP_LISTEN:
            return self._unix.receive_queue_len
        return unix_inq_len(self.prog, self._unix)

    @property
    def send_q(self) -> int | None:
        """Memory of what was sent and not yet read; of a listener, its backlog."""
        if self._unix.state == k.TCP_LISTEN:
            return self._unix.max_ack_backlog
        return self._unix.wmem_alloc - 1

    def socket_file(self) -> tuple[int, int] | None:
        """
        Inode and device (as the kernel's ``dev_t``) of the socket *file*, which ``stat``
        shows for the path, and which is not the inode of the socket.

        :return: ``None`` if it is not bound to a path, or that cannot be read
        """
        dentry = Dentry.layout(self.prog).try_read(self._unix.path_dentry)
        inode = dentry and Inode.layout(self.prog).try_read(dentry.inode)
        sb = inode and SuperBlock.layout(self.prog).try_read(inode.sb)
        return (inode.ino, sb.dev) if inode and sb else None


class UnreadableSocket:
    """A place where a socket should be and none could be read."""

    def __init__(self, sk: int, error: str, holders: list[Holder] | None = None) -> None:
        self.sk = sk
        #: What is wrong, a few words.
        self.error = error
        self.holders = holders


AnySocket = Union[SocketRecord, UnreadableSocket]
