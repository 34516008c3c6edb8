# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads sockets of every family into records, in batches and in address order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.net import net_ino, net_namespaces, netdev_name_by_index
from drgn_sockets.kernel.sock import Sock, SockCommon, SocketAlloc
from drgn_sockets.records.holders import AnyInode, Holders, SocketInode, socket_groups
from drgn_sockets.records.inet import RawSock, UdpSock
from drgn_sockets.records.parts import Part
from drgn_sockets.records.socket import (
    FAMILIES,
    RECORDS,
    AnySocket,
    InetRecord,
    RawRecord,
    SocketRecord,
    UnixRecord,
    UnreadableSocket,
)
from drgn_sockets.records.tcp import TcpRequestSock, TcpSock, TcpTimewaitSock
from drgn_sockets.records.unix import UnixSock, unix_name

_BATCH = 512
# Sockets in a part of a walk.
_PART = 2048

_NO_INODES: Mapping[int, AnyInode] = {}

# Walk of the hash tables of a group of families, and what its full sockets are.
_WALKS = {
    "tcp": (k.for_each_tcp, TcpSock),
    "udp": (k.for_each_udp, UdpSock),
    "raw": (k.for_each_raw, RawSock),
    "unix": (k.for_each_unix, UnixSock),
}

# The record that is made of each structure. Any other is a plain struct sock.
_RECORD_OF: dict[type[SockCommon], type[SocketRecord]] = {cls.struct: cls for cls in RECORDS}


def _plain_record(prog: Program, sock: Sock, netns: int) -> SocketRecord:
    if sock.family in (k.AF_INET, k.AF_INET6):
        return (RawRecord if sock.type == k.SOCK_RAW else InetRecord)(prog, sock, netns)
    return SocketRecord(prog, sock, netns)


@functools.lru_cache(1024)
def _full_struct(family: int, type_: int, protocol: int) -> type[Sock]:
    if family == k.AF_UNIX:
        return UnixSock
    if family in (k.AF_INET, k.AF_INET6):
        if type_ == k.SOCK_STREAM and protocol == k.IPPROTO_TCP:
            return TcpSock
        if type_ == k.SOCK_DGRAM and protocol in (k.IPPROTO_UDP, k.IPPROTO_UDPLITE):
            return UdpSock
        if type_ == k.SOCK_RAW:
            return RawSock
    return Sock


def _struct_of(sock: Sock) -> type[Sock]:
    """The structure that a ``struct sock`` begins, as far as there is a module for it."""
    return _full_struct(sock.family, sock.type, sock.protocol)


def _small_struct(common: SockCommon) -> type[SockCommon] | None:
    """The structure of what is no full socket, told by its state, as ``sk_fullsock()``."""
    if common.family in (k.AF_INET, k.AF_INET6):
        if common.state == k.TCP_TIME_WAIT:
            return TcpTimewaitSock
        if common.state == k.TCP_NEW_SYN_RECV:
            return TcpRequestSock
    return None


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

    def read(self, sk: int) -> AnySocket:
        """Read the socket at ``struct sock *`` *sk*."""
        return next(self.read_many([sk]))

    def read_many(self, sks: Iterable[int]) -> Iterator[AnySocket]:
        """Read the sockets at *sks*, whatever they are, batch by batch in address order."""
        inodes = self._holders.inodes if self._holders else _NO_INODES
        for batch in _batches(sks):
            by_struct: dict[type[SockCommon], list[int]] = {}
            for sk, common in SockCommon.layout(self._prog).read_many(batch):
                if common is None:
                    yield self._unreadable(sk)
                else:
                    by_struct.setdefault(_small_struct(common) or Sock, []).append(sk)
            yield from self._read_full(by_struct.pop(Sock, ()), inodes)
            for cls, addresses in by_struct.items():
                yield from self._decode(cls, addresses, inodes)

    def read_held(self, group: str, sks: Sequence[int]) -> Iterator[AnySocket]:
        """
        Read sockets in file tables that look like those of a group of families, in address
        order.

        :param group: One of :data:`FAMILIES`.
        """
        inodes = self._holders.inodes if self._holders else _NO_INODES
        if group not in _WALKS:
            return self._read_full(sks, inodes)
        # A socket that is in a file table is a full one, and mostly what its struct socket
        # looks like: one read instead of two.
        return self._decode(_WALKS[group][1], sks, inodes, sure=False)

    def read_held_briefly(self, sockets: Mapping[int, SocketAlloc]) -> Iterator[AnySocket]:
        """
        Read sockets that are in file tables, and not more of them than their ends: of inet
        sockets ``struct sock`` tells these.

        :param sockets: By ``struct sock *``, what was read of their ``struct socket``.
        """
        group_of = socket_groups(self._prog)
        unix: list[int] = []
        others: list[int] = []
        for sk in sorted(sockets):
            (unix if group_of(sockets[sk]) == "unix" else others).append(sk)
        for batch in _batches(others):
            yield from self._read_full(batch, sockets, brief=True)
        for batch in _batches(unix):
            yield from self._decode(UnixSock, batch, sockets, sure=False)

    def read_entries(
        self, entries: Iterable[tuple[int, SockCommon | None]], cls: type[Sock]
    ) -> Iterator[AnySocket]:
        """
        Read the sockets of a hash table.

        :param entries: What the walk of the table yields.
        :param cls: What the table's full sockets are.
        """
        inodes = self._holders.inodes if self._holders else _NO_INODES
        iterator = iter(entries)
        while batch := list(itertools.islice(iterator, _BATCH)):
            by_struct: dict[type[SockCommon], list[int]] = {}
            for sk, common in batch:
                if common is None:
                    yield self._unreadable(sk)
                else:
                    by_struct.setdefault(_small_struct(common) or cls, []).append(sk)
            for struct, addresses in by_struct.items():
                yield from self._decode(struct, addresses, inodes)

    def _read_full(
        self, sks: Iterable[int], inodes: Mapping[int, AnyInode], *, brief: bool = False
    ) -> Iterator[AnySocket]:
        by_struct: dict[type[Sock], list[int]] = {}
        for sk, sock in Sock.layout(self._prog).read_many(sks):
            if sock is None:
                yield self._unreadable(sk)
                continue
            cls = _struct_of(sock)
            if brief and cls is not UnixSock:
                yield self._make(_plain_record, sock)
            else:
                by_struct.setdefault(cls, []).append(sk)
        for cls, addresses in by_struct.items():
            yield from self._decode(cls, addresses, inodes)

    def _unreadable(self, sk: int) -> UnreadableSocket:
        holders = self._holders.of(sk) if self._holders else None
        return UnreadableSocket(sk, "cannot be read", holders)

    def _make(
        self, make: Callable[[Program, Any, int], SocketRecord], sock: SockCommon
    ) -> SocketRecord:
        net = sock.net
        if net not in self._netns:
            self._netns[net] = net_ino(self._prog, net)
        record = make(self._prog, sock, self._netns[net])
        if sock.bound_dev_if:
            record.ifname = self._ifname(net, sock.bound_dev_if)
        record.all_holders = self._holders
        return record

    def _ifname(self, net: int, ifindex: int) -> bytes | None:
        key = (net, ifindex)
        if key not in self._ifnames:
            self._ifnames[key] = netdev_name_by_index(self._prog, net, ifindex)
        return self._ifnames[key]

    def _decode(
        self,
        cls: type[SockCommon],
        sks: Sequence[int],
        inodes: Mapping[int, AnyInode],
        *,
        sure: bool = True,
    ) -> Iterator[AnySocket]:
        """:param sure: Whether all of *sks* are known to be of structure *cls*."""
        records: list[SocketRecord] = []
        strays: list[int] = []
        make: Callable[[Program, Any, int], SocketRecord] = _RECORD_OF.get(cls, _plain_record)
        # A socket whose inode nobody has read yet.
        without: list[SocketRecord] = []
        for sk, sock in cls.layout(self._prog).read_many(sks):
            if sock is None:
                yield self._unreadable(sk)
                continue
            if not sure and isinstance(sock, Sock) and _struct_of(sock) is not cls:
                strays.append(sk)
                continue
            record = self._make(make, sock)
            records.append(record)
            if sk in inodes:
                record.inode = inodes[sk]
            elif isinstance(sock, Sock) and sock.socket:
                without.append(record)
        if without:
            found = self._inodes([r.sock for r in without if isinstance(r.sock, Sock)], inodes)
            for record in without:
                record.inode = found.get(record.sk)
        if cls is UnixSock:
            self._name_unix([r for r in records if isinstance(r, UnixRecord)], inodes)
        yield from records
        yield from self._read_full(strays, inodes)

    def _inodes(self, socks: Iterable[Sock], known: Mapping[int, AnyInode]) -> dict[int, AnyInode]:
        """Inodes of sockets, by the address of the ``struct sock``."""
        found: dict[int, AnyInode] = {}
        unknown: dict[int, list[int]] = {}
        for sock in socks:
            if sock.address in known:
                found[sock.address] = known[sock.address]
            elif sock.socket:
                unknown.setdefault(sock.socket - self._socket_offset, []).append(sock.address)
        for address, socket in SocketAlloc.layout(self._prog).read_many(unknown):
            if socket is not None:
                # As sock_i_ino(): socket->sk need not point back. An SMC socket that fell back
                # to TCP has its inner socket point to its own struct socket.
                for sk in unknown[address]:
                    found[sk] = SocketInode(socket.ino, socket.uid)
        return found

    def _unix_name(self, addr: int) -> bytes | None:
        # An accepted socket shares the unix_address of its listener.
        if addr not in self._unix_names:
            try:
                self._unix_names[addr] = unix_name(self._prog, addr)
            except FaultError:
                self._unix_names[addr] = None
        return self._unix_names[addr]

    def _name_unix(self, records: Sequence[UnixRecord], inodes: Mapping[int, AnyInode]) -> None:
        # The ends of a pair are made together, so they mostly lie in the same batch.
        ends = {record.sk: record.sock for record in records}
        far = {r.peer for r in records if r.peer and r.peer not in ends}
        for address, peer in UnixSock.layout(self._prog).read_many(far):
            if peer is not None:
                ends[address] = peer
        inos = self._inodes((sock for sock in ends.values() if isinstance(sock, Sock)), inodes)
        for record in records:
            record.name = self._unix_name(record.addr)
            end = ends.get(record.peer)
            if isinstance(end, UnixSock):
                record.peer_name = self._unix_name(end.addr)
                inode = inos.get(record.peer)
                record.peer_ino = inode.ino if inode else 0


def _batches(items: Iterable[int], size: int = _BATCH) -> Iterator[list[int]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class _HeldPart(Part):
    """Sockets in file tables."""

    def __init__(
        self, read: Callable[[], Iterator[AnySocket]], wanted: Container[str], nexts: dict[int, int]
    ) -> None:
        super().__init__(read)
        self._wanted = wanted
        # The next node of each in its hash chain: the walk of the hash table, which is for
        # those in no file table, passes these over.
        self._nexts = nexts
        self._found: dict[int, int] = {}

    def records(self) -> Iterator[AnySocket]:
        for record in super().records():
            if not isinstance(record, SocketRecord):
                yield record
                continue
            self._found[record.sk] = record.sock.node
            if record.group in self._wanted:
                yield record
        self.take(self._found)

    def found(self) -> dict[int, int]:
        return self._found

    def take(self, found: dict[int, int]) -> None:
        self._nexts.update(found)


def socket_parts(
    prog: Program, families: Iterable[str] = FAMILIES, holders: Holders | None = None
) -> Iterator[Part]:
    """The records of :func:`for_each_socket`, in parts."""
    wanted = frozenset(families)
    reader = SocketReader(prog, holders)
    for group in FAMILIES:
        # One that looks like TCP, say, may prove to be of another family (SCTP).
        strays = "other" in wanted and group not in wanted
        if group not in wanted and not strays:
            continue
        nexts: dict[int, int] = {}
        if holders is not None:
            for sks in _batches(sorted(holders.sks_of_group(group)), _PART):
                read = functools.partial(reader.read_held, group, sks)
                yield _HeldPart(read, wanted, nexts)
        if group in _WALKS and not strays:
            yield Part(functools.partial(_walk, reader, prog, group, nexts), alone=True)


def _walk(
    reader: SocketReader, prog: Program, group: str, nexts: dict[int, int]
) -> Iterator[AnySocket]:
    walk, cls = _WALKS[group]
    return reader.read_entries(walk(prog, nexts or NOTHING), cls)


def for_each_socket(
    prog: Program, families: Iterable[str] = FAMILIES, holders: Holders | None = None
) -> Iterator[AnySocket]:
    """
    Every socket of the machine, in all network namespaces, group by group of families.

    :param families: Which of :data:`FAMILIES`; yielded in the order of that.
    :param holders: Who holds what. Sockets that are in no hash table (created and never
        bound, other families) are found through it, and are missing without it.
    """
    for part in socket_parts(prog, families, holders):
        yield from part.records()
