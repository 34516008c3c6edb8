# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from socket import AF_INET, AF_INET6, inet_ntop
from typing import ClassVar, Union

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.file import Inode, SuperBlock
from drgn_sockets.kernel.net import net_ino, net_namespaces, netdev_name_by_index
from drgn_sockets.kernel.sock import Sock, SockCommon, SocketAlloc
from drgn_sockets.kernel.structs import Struct
from drgn_sockets.records.holders import Holder, Holders
from drgn_sockets.records.inet import RawSock, UdpSock
from drgn_sockets.records.tcp import (
    InetRequestSock,
    InetTimewaitSock,
    TcpRequestSock,
    TcpSock,
    TcpTimewaitSock,
    Timer,
    tcp_timer,
)
from drgn_sockets.records.unix import UnixSock, unix_inq_len, unix_name

_BATCH = 512


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


def _record(prog: Program, sock: SockCommon, netns: int) -> SocketRecord:
    if isinstance(sock, UnixSock):
        return UnixRecord(prog, sock, netns)
    if isinstance(sock, (TcpSock, InetTimewaitSock, InetRequestSock)):
        return TcpRecord(prog, sock, netns)
    if isinstance(sock, UdpSock):
        return UdpRecord(prog, sock, netns)
    if isinstance(sock, RawSock):
        return RawRecord(prog, sock, netns)
    if sock.family in (k.AF_INET, k.AF_INET6):
        return InetRecord(prog, sock, netns)
    return SocketRecord(prog, sock, netns)


def _struct_of(sock: Sock) -> type[Sock]:
    """The structure that a ``struct sock`` begins, as far as there is a module for it."""
    if sock.family == k.AF_UNIX:
        return UnixSock
    if sock.family in (k.AF_INET, k.AF_INET6):
        if sock.type == k.SOCK_STREAM and sock.protocol == k.IPPROTO_TCP:
            return TcpSock
        if sock.type == k.SOCK_DGRAM and sock.protocol in (k.IPPROTO_UDP, k.IPPROTO_UDPLITE):
            return UdpSock
        if sock.type == k.SOCK_RAW:
            return RawSock
    return Sock


def _batches(items: Iterable[int], size: int = _BATCH) -> Iterator[list[int]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class SocketReader:
    """
    Reads sockets.

    :param holders: Who holds what, for the records; ``None`` leaves that out.
    """

    def __init__(self, prog: Program, holders: Holders | None = None) -> None:
        self._prog = prog
        self._holders = holders
        self._netns = {net: ns.ino for net, ns in net_namespaces(prog).items()}
        self._socket_offset = offsetof(prog.type("struct socket_alloc"), "socket")
        self._unix_names: dict[int, bytes | None] = {}
        self._ifnames: dict[tuple[int, int], bytes | None] = {}

    def _net_ino(self, net: int) -> int:
        ino = self._netns.get(net)
        if ino is None:
            ino = self._netns[net] = net_ino(self._prog, net)
        return ino

    def _ifname(self, net: int, ifindex: int) -> bytes | None:
        key = (net, ifindex)
        if key not in self._ifnames:
            self._ifnames[key] = netdev_name_by_index(self._prog, net, ifindex)
        return self._ifnames[key]

    def read(self, sk: int) -> AnySocket:
        """Read the socket at ``struct sock *`` *sk*."""
        for record in self.read_many([sk]):
            return record
        raise AssertionError("read_many() yields each address")

    def read_many(self, sks: Iterable[int]) -> Iterator[AnySocket]:
        """Read the sockets at *sks*, whatever they are, batch by batch in address order."""
        prog = self._prog
        for batch in _batches(sks):
            by_struct: dict[type[Struct], list[int]] = {}
            for sk, common in SockCommon.layout(prog).read_many(batch):
                if common is None:
                    yield self._unreadable(sk)
                elif common.state == k.TCP_TIME_WAIT and common.family != k.AF_UNIX:
                    by_struct.setdefault(TcpTimewaitSock, []).append(sk)
                elif common.state == k.TCP_NEW_SYN_RECV:
                    by_struct.setdefault(TcpRequestSock, []).append(sk)
                else:
                    by_struct.setdefault(Sock, []).append(sk)
            for sk, sock in Sock.layout(prog).read_many(by_struct.pop(Sock, ())):
                if sock is None:
                    yield self._unreadable(sk)
                else:
                    by_struct.setdefault(_struct_of(sock), []).append(sk)
            for cls, addresses in by_struct.items():
                yield from self._decode(cls, addresses)

    def read_entries(
        self, entries: Iterable[tuple[int, SockCommon | None]], cls: type[Sock]
    ) -> Iterator[AnySocket]:
        """
        Read the sockets of a hash table.

        :param entries: What the walk of the table yields.
        :param cls: What the table's full sockets are.
        """
        iterator = iter(entries)
        while batch := list(itertools.islice(iterator, _BATCH)):
            by_struct: dict[type[Struct], list[int]] = {}
            for sk, common in batch:
                if common is None:
                    yield self._unreadable(sk)
                elif cls is TcpSock and common.state == k.TCP_TIME_WAIT:
                    by_struct.setdefault(TcpTimewaitSock, []).append(sk)
                elif cls is TcpSock and common.state == k.TCP_NEW_SYN_RECV:
                    by_struct.setdefault(TcpRequestSock, []).append(sk)
                else:
                    by_struct.setdefault(cls, []).append(sk)
            for struct, addresses in by_struct.items():
                yield from self._decode(struct, addresses)

    def _unreadable(self, sk: int, error: str = "cannot be read") -> UnreadableSocket:
        return UnreadableSocket(sk, error, self._holders.of(sk) if self._holders else None)

    def _decode(self, cls: type[Struct], sks: Sequence[int]) -> Iterator[AnySocket]:
        records: list[SocketRecord] = []
        sockets: dict[int, list[SocketRecord]] = {}
        for sk, sock in cls.layout(self._prog).read_many(sks):
            if sock is None:
                yield self._unreadable(sk)
                continue
            assert isinstance(sock, SockCommon)
            record = _record(self._prog, sock, self._net_ino(sock.net))
            if self._holders is not None:
                record.holders = self._holders.of(sk)
            if sock.bound_dev_if:
                record.ifname = self._ifname(sock.net, sock.bound_dev_if)
            records.append(record)
            if isinstance(sock, Sock) and sock.socket:
                sockets.setdefault(sock.socket - self._socket_offset, []).append(record)
        for address, socket in SocketAlloc.layout(self._prog).read_many(sockets):
            for record in sockets[address]:
                # As sock_i_ino(): socket->sk need not point back. An SMC socket that fell back
                # to TCP has its inner socket point to its own struct socket.
                if socket is not None:
                    record.ino = socket.ino
                    record.i_uid = socket.uid
        if cls is UnixSock:
            self._name_unix([r for r in records if isinstance(r, UnixRecord)])
        yield from records

    def _unix_name(self, addr: int) -> bytes | None:
        # An accepted socket shares the unix_address of its listener.
        if addr not in self._unix_names:
            try:
                self._unix_names[addr] = unix_name(self._prog, addr)
            except FaultError:
                self._unix_names[addr] = None
        return self._unix_names[addr]

    def _name_unix(self, records: list[UnixRecord]) -> None:
        prog = self._prog
        peers: dict[int, UnixSock] = {}
        sockets: dict[int, int] = {}
        for address, peer in UnixSock.layout(prog).read_many(r.peer for r in records if r.peer):
            if peer is not None:
                peers[address] = peer
                if peer.socket:
                    sockets[peer.socket - self._socket_offset] = address
        inos = dict.fromkeys(peers, 0)
        for address, socket in SocketAlloc.layout(prog).read_many(sockets):
            if socket is not None:
                inos[sockets[address]] = socket.ino
        for record in records:
            record.name = self._unix_name(record._unix.addr)
            found = peers.get(record.peer)
            if found is not None:
                record.peer_name = self._unix_name(found.addr)
                record.peer_ino = inos[record.peer]


FAMILIES = ("other", "unix", "raw", "udp", "tcp")


def for_each_socket(
    prog: Program,
    families: Iterable[str] = FAMILIES,
    holders: Holders | None = None,
    *,
    unhashed: bool = True,
) -> Iterator[AnySocket]:
    """
    Every socket of the machine, in all network namespaces, family by family.

    :param families: Which of :data:`FAMILIES`, yielded in that order.
    :param holders: Who holds what. Sockets in no hash table (created and never bound, other
        families) are found through their holders, so these are looked up if not given.
    :param unhashed: Whether to yield those as well.
    """
    wanted = [family for family in FAMILIES if family in set(families)]
    if holders is None and unhashed:
        holders = Holders(prog)
    reader = SocketReader(prog, holders)
    walks = {
        "tcp": (k.for_each_tcp, TcpSock),
        "udp": (k.for_each_udp, UdpSock),
        "raw": (k.for_each_raw, RawSock),
        "unix": (k.for_each_unix, UnixSock),
    }
    # Sockets in file tables, sorted by the table they would be in; those that the walk of
    # the table then meets are taken out, and what is left was never bound.
    left: dict[str, set[int]] = {family: set() for family in FAMILIES}
    if unhashed and holders is not None:
        left = sort_sks(prog, holders.sks())
    for family in wanted:
        unseen = left[family]
        if family in walks:
            walk, cls = walks[family]

            def seen(
                entries: Iterable[tuple[int, SockCommon | None]], unseen: set[int] = unseen
            ) -> Iterator[tuple[int, SockCommon | None]]:
                for sk, common in entries:
                    unseen.discard(sk)
                    yield sk, common

            yield from reader.read_entries(seen(walk(prog)), cls)
        yield from reader.read_many(sorted(unseen))


def sort_sks(prog: Program, sks: Iterable[int]) -> dict[str, set[int]]:
    """Sort ``struct sock *`` by which of :data:`FAMILIES` each belongs to."""
    found: dict[str, set[int]] = {family: set() for family in FAMILIES}
    names: dict[type[Sock], str] = {
        TcpSock: "tcp",
        UdpSock: "udp",
        RawSock: "raw",
        UnixSock: "unix",
    }
    for sk, sock in Sock.layout(prog).read_many(sks):
        found[names.get(_struct_of(sock), "other") if sock else "other"].add(sk)
    return found
