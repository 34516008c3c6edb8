# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

import functools
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, ClassVar, Union

from drgn import Program

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.file import Inode, SuperBlock
from drgn_sockets.kernel.sock import Sock, SockCommon
from drgn_sockets.records.holders import AnyInode, Holder, Holders
from drgn_sockets.records.inet import RawSock, UdpSock
from drgn_sockets.records.tcp import (
    TcpRequestSock,
    TcpSock,
    TcpTimewaitSock,
    Timer,
    tcp_timer,
)
from drgn_sockets.records.unix import UnixSock, unix_inq_len

#: Groups of families in which sockets are walked and shown, in that order.
FAMILIES = ("other", "unix", "raw", "udp", "tcp")


# A machine talks to many ports of few addresses.
@functools.lru_cache(4096)
def _ip_text(address: bytes) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


class SocketRecord:
    """
    A socket of any family.

    A family says more in a class of its own. What it says beyond that is in :attr:`sock`,
    the decoded ``struct sock`` (or ``tcp_sock``, ``unix_sock``, ``inet_timewait_sock``, …).
    """

    #: What is read of it.
    struct: ClassVar[type[SockCommon]] = Sock

    def __init__(self, prog: Program, sock: Any, netns: int) -> None:
        self.prog = prog
        #: The decoded structure, of class :attr:`struct`.
        self.sock = sock
        #: Inode of the network namespace.
        self.netns = netns

    #: Which of :data:`FAMILIES` it belongs to.
    group: ClassVar[str] = "other"

    #: A record is of what could be read, see :class:`UnreadableSocket`.
    error: str | None = None
    #: Its inode, ``None`` if it has none.
    inode: AnyInode | None = None
    #: Name of the interface it is bound to, if it is.
    ifname: bytes | None = None
    #: Who holds what, ``None`` if nobody looked.
    all_holders: Holders | None = None

    @property
    def ino(self) -> int:
        """Inode number (the N of ``socket:[N]``), 0 if it has none."""
        return self.inode.ino if self.inode is not None else 0

    @property
    def i_uid(self) -> int | None:
        """Owner of the inode, ``None`` if it has none."""
        return self.inode.uid if self.inode is not None else None

    @property
    def holders(self) -> list[Holder] | None:
        """Every fd that holds it; ``None`` if nobody looked."""
        if self.all_holders is None:
            return None
        found = self.all_holders.of(self.sock.address)
        if not found and self.inode is not None:
            return self.all_holders.through_socket(self.sock)
        return found

    @property
    def sk(self) -> int:
        """``struct sock *`` as an integer."""
        return self.sock.address  # type: ignore[no-any-return]

    @property
    def family(self) -> int:
        """``AF_*``."""
        return self.sock.family  # type: ignore[no-any-return]

    @property
    def type(self) -> int:
        """``SOCK_*``."""
        return self.sock.type  # type: ignore[no-any-return]

    @property
    def protocol(self) -> int:
        """``IPPROTO_*``, or what the family calls protocol."""
        return self.sock.protocol  # type: ignore[no-any-return]

    @property
    def state(self) -> int:
        """``TCP_*``, which other families use as well."""
        return self.sock.state  # type: ignore[no-any-return]

    @property
    def uid(self) -> int | None:
        """Owner, in the initial user namespace."""
        return self.sock.uid  # type: ignore[no-any-return]

    @property
    def recv_q(self) -> int | None:
        """Bytes to be read; of a listener, connections to be accepted."""
        return self.sock.rmem_alloc  # type: ignore[no-any-return]

    @property
    def send_q(self) -> int | None:
        """Bytes on their way out; of a listener, how many connections may wait."""
        return self.sock.wmem_alloc - 1  # type: ignore[no-any-return]

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
            return _ip_text(self.sock.v6_rcv_saddr)
        return _ip_text(self.sock.rcv_saddr)

    @property
    def remote_address(self) -> str:
        """Address it is connected to (``skc_daddr``, ``skc_v6_daddr``)."""
        if self.sock.family == k.AF_INET6 and self.sock.v6_daddr is not None:
            return _ip_text(self.sock.v6_daddr)
        return _ip_text(self.sock.daddr)

    @property
    def local_port(self) -> int:
        """Local port (``skc_num``)."""
        return self.sock.num  # type: ignore[no-any-return]

    @property
    def remote_port(self) -> int:
        """Remote port (``skc_dport``)."""
        return self.sock.dport  # type: ignore[no-any-return]


class TcpRecord(InetRecord):
    """A TCP socket: a full one, or what takes its place before and after it (request, timewait)."""

    group = "tcp"
    # The small structures keep no more of a socket than they need.
    type: Any = k.SOCK_STREAM
    protocol: Any = k.IPPROTO_TCP
    uid: Any = None
    recv_q: Any = 0
    send_q: Any = 0

    @property
    def timer(self) -> Timer | None:
        return tcp_timer(self.prog, self.sock)


class TcpTimewaitRecord(TcpRecord):
    """A connection in TIME-WAIT."""

    struct = TcpTimewaitSock

    @property
    def state(self) -> int:
        """``TCP_*``; of an orphan in FIN-WAIT-2 that, and not the TIME-WAIT it is kept as."""
        return self.sock.substate  # type: ignore[no-any-return]


class TcpRequestRecord(TcpRecord):
    """A connection that is being made to a listener."""

    struct = TcpRequestSock
    state = k.TCP_SYN_RECV


class TcpSockRecord(TcpRecord):
    """A full TCP socket."""

    struct = TcpSock
    type = SocketRecord.type
    protocol = SocketRecord.protocol
    uid = SocketRecord.uid

    @property
    def local_port(self) -> int:
        """Local port; of a connection that was refused or reset, the one that it had."""
        # inet_put_port() clears skc_num and leaves inet_sport, which getsockname() gives.
        return self.sock.num or self.sock.sport  # type: ignore[no-any-return]

    @property
    def recv_q(self) -> int:
        """Bytes to be read; of a listener, connections to be accepted."""
        return self.sock.recv_queue()  # type: ignore[no-any-return]

    @property
    def send_q(self) -> int:
        """Bytes not yet acknowledged; of a listener, how many connections may wait."""
        return self.sock.send_queue()  # type: ignore[no-any-return]


class UdpRecord(InetRecord):
    """A UDP or UDP-Lite socket."""

    group = "udp"
    struct = UdpSock

    @property
    def recv_q(self) -> int | None:
        """``udp_rqueue_get()``: bytes with their overhead."""
        return self.sock.rmem_alloc - self.sock.forward_deficit  # type: ignore[no-any-return]


class RawRecord(InetRecord):
    """A raw socket. What others have as local port is its protocol."""

    group = "raw"
    struct: ClassVar[type[SockCommon]] = RawSock


class UnixRecord(SocketRecord):
    """A unix socket."""

    group = "unix"
    struct = UnixSock

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

#: The records of all kinds of sockets that are told apart.
RECORDS: tuple[type[SocketRecord], ...] = (
    TcpSockRecord,
    TcpTimewaitRecord,
    TcpRequestRecord,
    UdpRecord,
    RawRecord,
    UnixRecord,
)
