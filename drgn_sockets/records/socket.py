# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

import functools
import operator
from _socket import AF_INET, AF_INET6, inet_ntop  # "socket" takes as long as all the rest
from collections.abc import Callable
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
    recv_queue,
    send_queue,
    tcp_timer,
)
from drgn_sockets.records.unix import UnixSock, unix_inq_len

#: Groups of families in which sockets are walked and shown, in that order.
FAMILIES = ("other", "unix", "raw", "udp", "tcp")


# A machine talks to many ports of few addresses.
@functools.lru_cache(4096)
def _ip_text(address: bytes) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _same(value: Any) -> Any:
    return value


class Derived:
    """
    What a record says that is worked out from members of its structure, for one record or for
    a column of them.

    :param function: Works it out of the values of *names*.
    """

    def __init__(self, function: Callable[..., Any], *names: str, doc: str) -> None:
        self.function = function
        self.names = names
        #: Whether it is a member as it stands.
        self.is_same = function is _same
        self.__doc__ = doc

    def __get__(self, record: SocketRecord | None, owner: type) -> Any:
        if record is None:
            return self
        sock = record.sock
        return self.function(*[getattr(sock, name) for name in self.names])


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

    family = Derived(_same, "family", doc="``AF_*``.")
    type = Derived(_same, "type", doc="``SOCK_*``.")
    protocol = Derived(_same, "protocol", doc="``IPPROTO_*``, or what the family calls protocol.")
    state = Derived(_same, "state", doc="``TCP_*``, which other families use as well.")
    uid = Derived(_same, "uid", doc="Owner, in the initial user namespace.")
    recv_q = Derived(
        _same, "rmem_alloc", doc="Bytes to be read; of a listener, connections to be accepted."
    )
    send_q = Derived(
        lambda wmem_alloc: wmem_alloc - 1,
        "wmem_alloc",
        doc="Bytes on their way out; of a listener, how many connections may wait.",
    )

    @property
    def timer(self) -> Timer | None:
        """The timer that fires next."""
        return None


def _address(family: int, v6: bytes | None, v4: bytes) -> str:
    return _ip_text(v6 if family == k.AF_INET6 and v6 is not None else v4)


class InetRecord(SocketRecord):
    """A socket of ``AF_INET`` or ``AF_INET6``."""

    local_address = Derived(
        _address,
        *("family", "v6_rcv_saddr", "rcv_saddr"),
        doc="Address it is bound to (``skc_rcv_saddr``, ``skc_v6_rcv_saddr``).",
    )
    remote_address = Derived(
        _address,
        *("family", "v6_daddr", "daddr"),
        doc="Address it is connected to (``skc_daddr``, ``skc_v6_daddr``).",
    )
    local_port = Derived(_same, "num", doc="Local port (``skc_num``).")
    remote_port = Derived(_same, "dport", doc="Remote port (``skc_dport``).")


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
    state = Derived(
        _same,
        "substate",
        doc="``TCP_*``; of an orphan in FIN-WAIT-2 that, and not the TIME-WAIT it is kept as.",
    )


class TcpRequestRecord(TcpRecord):
    """A connection that is being made to a listener."""

    struct = TcpRequestSock
    state: Any = k.TCP_SYN_RECV


class TcpSockRecord(TcpRecord):
    """A full TCP socket."""

    struct = TcpSock
    type = SocketRecord.type
    protocol = SocketRecord.protocol
    uid = SocketRecord.uid
    # inet_put_port() clears skc_num and leaves inet_sport, which getsockname() gives.
    local_port = Derived(
        lambda num, sport: num or sport,
        *("num", "sport"),
        doc="Local port; of a connection that was refused or reset, the one that it had.",
    )
    recv_q = Derived(
        recv_queue,
        *("state", "ack_backlog", "rcv_nxt", "copied_seq"),
        doc="Bytes to be read; of a listener, connections to be accepted.",
    )
    send_q = Derived(
        send_queue,
        *("state", "max_ack_backlog", "write_seq", "snd_una"),
        doc="Bytes not yet acknowledged; of a listener, how many connections may wait.",
    )


class UdpRecord(InetRecord):
    """A UDP or UDP-Lite socket."""

    group = "udp"
    struct = UdpSock
    recv_q = Derived(
        operator.sub,
        *("rmem_alloc", "forward_deficit"),
        doc="``udp_rqueue_get()``: bytes with their overhead.",
    )


class RawRecord(InetRecord):
    """A raw socket. What others have as local port is its protocol."""

    group = "raw"
    struct: ClassVar[type[SockCommon]] = RawSock


class UnixRecord(SocketRecord):
    """A unix socket."""

    group = "unix"
    struct = UnixSock

    #: Path, abstract name (it begins with a NUL), or ``None``. An accepted socket has that of
    #: its listener.
    name: bytes | None = None
    #: Inode of the other end; 0 if it has none, as long as nobody has accepted it.
    peer_ino: int = 0
    #: Name of the other end.
    peer_name: bytes | None = None

    addr = Derived(_same, "addr", doc="``struct unix_address *``, 0 if it has no name.")
    peer = Derived(_same, "peer", doc="``struct sock *`` of the other end, 0 for none.")
    send_q = Derived(
        lambda state, max_ack_backlog, wmem_alloc: (
            max_ack_backlog if state == k.TCP_LISTEN else wmem_alloc - 1
        ),
        *("state", "max_ack_backlog", "wmem_alloc"),
        doc="Memory of what was sent and not yet read; of a listener, its backlog.",
    )

    @property
    def recv_q(self) -> int | None:
        """Bytes to be read (``unix_inq_len()``); of a listener, connections waiting."""
        sock = self.sock
        if sock.state == k.TCP_LISTEN or not sock.receive_queue_len:
            return sock.receive_queue_len  # type: ignore[no-any-return]
        return unix_inq_len(self.prog, sock)

    def socket_file(self) -> tuple[int, int] | None:
        """
        Inode and device (as the kernel's ``dev_t``) of the socket *file*, which ``stat``
        shows for the path, and which is not the inode of the socket.

        :return: ``None`` if it is not bound to a path, or that cannot be read
        """
        dentry = Dentry.layout(self.prog).try_read(self.sock.path_dentry)
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
