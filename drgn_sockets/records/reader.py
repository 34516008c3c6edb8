# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads sockets of every family into records, in batches and in address order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, TypeVar

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost, all_there, lost_by, or_lost, present
from drgn_sockets.kernel.module import TYPES_OF_MODULES, find_module
from drgn_sockets.kernel.net import net_ino, net_namespaces, netdev_name_by_index
from drgn_sockets.kernel.sock import (
    AF_SMC,
    IPPROTO_MPTCP,
    SOCK_STREAM,
    TCP_NEW_SYN_RECV,
    TCP_TIME_WAIT,
    Sock,
    SockCommon,
    SocketAlloc,
    is_sock,
)
from drgn_sockets.kernel.structs import Int, Struct, StructBatch
from drgn_sockets.program import is_live
from drgn_sockets.records.families import (
    FAMILY_NAMES,
    family_name_like,
    family_named,
    family_names_like,
    family_of,
    plain_record,
)
from drgn_sockets.records.families.unix import UnixRecord, UnixSock, unix_name
from drgn_sockets.records.holder import AnyInode, SocketInode
from drgn_sockets.records.holders import FamilyNamesByOps, Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.parts import Batch, Part
from drgn_sockets.records.socket import AnySocket, Derived, Family, SocketRecord, UnreadableSocket

T = TypeVar("T")

_BATCH = 512
# Numbers of sockets in the parts of a walk.
_FIRST_PART = 256
_PART = 2048

# Not a family: sockets of file tables that could not be read, in the tables of those that could.
_SHOWN = ""

# Members that stay as they are while a struct sock is the same socket in the same place.
_IDENTITY = ("family", "net", "num", "dport", "daddr")


class _SocketPointer(Struct):
    C_TYPE = "struct sock"

    socket = Int("sk_socket")


_NO_INODES: Mapping[int, AnyInode] = {}


def _small_record(common: SockCommon) -> type[SocketRecord] | None:
    """The record of a request or timewait socket; ``None`` for a full socket."""
    if common.state not in (TCP_TIME_WAIT, TCP_NEW_SYN_RECV):
        return None
    # Only stream sockets have these.
    family = family_named(family_name_like(common.family, SOCK_STREAM))
    return family.small_record(common) if family is not None else None


class SocketBatch(Batch):
    """Sockets of one class, kept as columns of their structures until records are asked for."""

    def __init__(
        self,
        reader: SocketReader,
        cls: type[SocketRecord],
        structs: StructBatch[Any],
        inodes: Mapping[int, AnyInode],
    ) -> None:
        self.reader = reader
        self.prog = reader.prog
        self._cls = cls
        self.structs = structs
        self._inodes = inodes
        self._made: list[SocketRecord] | None = None
        # Of a live kernel: addresses where there is another socket now.
        self._new: set[int] = set()

    @property
    def cls(self) -> type[SocketRecord]:
        return self._cls

    def __len__(self) -> int:
        return len(self.structs)

    @property
    def addresses(self) -> list[int]:
        """``struct sock *`` of each, as integers."""
        return self.structs.addresses

    def column(self, name: str) -> Sequence[Any]:
        """The column of a member of the structures, or of a :class:`Derived` of the class."""
        derived = getattr(self._cls, name, None)
        if isinstance(derived, Derived):
            columns = [self.structs.column(member) for member in derived.names]
            if derived.is_same:
                return columns[0]
            return list(map(derived.function, *columns))
        return self.structs.column(name)

    @functools.cached_property
    def inos(self) -> list[int]:
        """
        Inode number of each, 0 for none.

        :raises FaultError: if at least one cannot be read
        """
        return all_there(self._inos)  # type: ignore[return-value]

    @functools.cached_property
    def _inos(self) -> Sequence[int | Lost]:
        inodes = self.inodes
        try:
            return [inodes[sk].ino for sk in self.addresses]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            return [_ino(inodes.get(sk)) for sk in self.addresses]

    @functools.cached_property
    def inodes(self) -> Mapping[int, AnyInode | Lost]:
        """Inodes by ``struct sock *``."""
        known = self._inodes
        if known.keys() >= set(self.addresses):
            return known
        return self.reader.inodes_of(self.addresses, self.structs.column("socket"), known)

    def records(self) -> Sequence[SocketRecord]:
        if self._made is None:
            self._made = list(self._make())
        return self._made

    def _make(self) -> Iterator[SocketRecord]:
        has_inode = issubclass(self._cls.struct, Sock)
        for sock in self.structs:
            record = self.reader.record(self._cls, sock)
            if has_inode:
                record.inode_or_lost = self.inodes.get(sock.address)
            yield record

    def errors(self) -> int:
        return 0

    @property
    def is_live(self) -> bool:
        return is_live(self.prog)

    def moved(self) -> Collection[int]:
        if not self.is_live:
            return ()
        prog, structs = self.prog, self.structs
        now = SockCommon.layout(prog).read_batch(self.addresses)
        alive = map(bool, now.column("refcnt"))
        there = dict(zip(now.addresses, zip(alive, *map(now.column, _IDENTITY))))
        before = zip(itertools.repeat(True), *map(structs.column, _IDENTITY))
        moved = {
            i for i, (sk, one) in enumerate(zip(self.addresses, before)) if there.get(sk) != one
        }
        if issubclass(self._cls.struct, Sock):
            moved |= self._of_other_inode()
        return moved

    def _of_other_inode(self) -> set[int]:
        """
        Find sockets whose inode is another than was read.

        Each socket that a program makes has a number of its own (``get_next_ino()``). While it is
        the same, so is the socket.
        """
        read = self.inodes
        offset = self.reader.socket_offset
        pointers = _SocketPointer.layout(self.prog).read_batch(self.addresses)
        socket_of = dict(zip(pointers.addresses, pointers.column("socket")))
        allocs = SocketAlloc.layout(self.prog).read_batch(
            socket - offset for socket in socket_of.values() if socket
        )
        inos = dict(zip(allocs.addresses, allocs.column("ino")))
        found = set()
        for i, sk in enumerate(self.addresses):
            inode = read.get(sk)
            socket = socket_of.get(sk)
            ino = inos.get(socket - offset, 0) if socket else 0
            before = inode.ino if inode is not None and not isinstance(inode, Lost) else 0
            if ino != before and not isinstance(inode, Lost):
                found.add(i)
                self.reader.forget_holders(sk)
                if before and ino:
                    # What led to it leads to it no longer: it is a socket that was made since.
                    self._new.add(sk)
        return found

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        where = {self.addresses[i]: i for i in indices if self.addresses[i] not in self._new}
        self.reader.forget()
        return self.reader.read_again(where)

    def select(self, indices: Sequence[int]) -> SocketBatch:
        return type(self)(self.reader, self._cls, self.structs.select(indices), self._inodes)


class _Unreadable(Batch):
    """Sockets that could not be read."""

    def __init__(self, reader: SocketReader, records: Sequence[UnreadableSocket]) -> None:
        super().__init__(records)
        self._reader = reader

    @property
    def is_live(self) -> bool:
        return True

    def again(self, indices: Sequence[int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        where = {self._records[i].sk: i for i in indices}
        self._reader.forget_moved(where)
        return self._reader.read_again(where)

    def select(self, indices: Sequence[int]) -> _Unreadable:
        return _Unreadable(self._reader, [self._records[i] for i in indices])


class UnixBatch(SocketBatch):
    """Unix sockets, with their names and the inodes and names of their other ends."""

    @functools.cached_property
    def names(self) -> list[bytes | None]:
        """
        Name of each.

        :raises FaultError: if at least one cannot be read
        """
        return all_there(self._names)  # type: ignore[return-value]

    @functools.cached_property
    def peers(self) -> list[tuple[int, bytes | None]]:
        """
        Inode and name of the other end of each.

        :raises FaultError: if at least one cannot be read
        """
        peers = self._peers
        for column in zip(*peers):
            all_there(column)
        return peers  # type: ignore[return-value]

    @functools.cached_property
    def _names(self) -> list[bytes | Lost | None]:
        return list(map(self.reader.unix_name, self.structs.column("addr")))

    @functools.cached_property
    def _peers(self) -> list[tuple[int | Lost, bytes | Lost | None]]:
        # The kernel creates both ends of a pair together, so they are mostly in the same batch.
        ends = dict(zip(self.addresses, zip(self._inos, self._names)))
        peers = self.structs.column("peer")
        far = UnixSock.layout(self.prog).read_batch({p for p in peers if p and p not in ends})
        if far.addresses or far.lost:
            found = self.reader.inodes_of(far.addresses, far.column("socket"), self._inodes)
            inos = (_ino(found.get(sk)) for sk in far.addresses)
            names = map(self.reader.unix_name, far.column("addr"))
            ends.update(zip(far.addresses, zip(inos, names)))
        for lost in far.lost:
            ends[lost.address] = lost, lost
        return [ends.get(peer, (0, None)) for peer in peers]

    def _make(self) -> Iterator[SocketRecord]:
        for record, name, (ino, peer_name) in zip(super()._make(), self._names, self._peers):
            assert isinstance(record, UnixRecord)
            record.peer_ino_or_lost = ino
            record.names = name, peer_name
            yield record


class SocketReader:
    """
    Reads sockets.

    :param holders: The holders, for the records; ``None`` leaves them out.
    :param losses: Collects what cannot be read and has no row.
    """

    def __init__(
        self, prog: Program, holders: Holders | None = None, losses: Losses | None = None
    ) -> None:
        self.prog = prog
        self.losses = Losses() if losses is None else losses
        self.holders = holders
        self._netns: dict[int, int | Lost] = {
            net: ns.ino for net, ns in net_namespaces(prog, self.losses.lose).items()
        }
        #: Where the ``struct socket`` is in a ``struct socket_alloc``, bytes.
        self.socket_offset = offsetof(prog.type("struct socket_alloc"), "socket")
        self._unix_names: dict[int, bytes | Lost | None] = {}
        self._ifnames: dict[tuple[int, int], bytes | Lost | None] = {}
        self._known = holders.inodes if holders is not None else _NO_INODES

    def forget(self) -> None:
        """Forget what a live kernel may have freed since: the names of unix sockets."""
        self._unix_names.clear()

    def forget_holders(self, sk: int) -> None:
        """Forget who held a ``struct sock`` of a live kernel that has become another socket."""
        if self.holders is not None:
            self.holders.forget(sk)

    def read_again(self, where: Mapping[int, int]) -> Iterator[tuple[Batch, Sequence[int]]]:
        """
        Read sockets of a live kernel again.

        :param where: A number for each ``struct sock *``.
        :return: Iterator of batches with the numbers of their sockets. Those that were freed are in
            none.
        """
        now = SockCommon.layout(self.prog).read_batch(where)
        alive = [sk for sk, refcnt in zip(now.addresses, now.column("refcnt")) if refcnt]
        alive += [one.address for one in now.lost if self._is_held(one.address)]
        for batch in self.read_many(alive):
            sks = [getattr(record, "sk", 0) for record in batch.records()]
            if all(sk in where for sk in sks):
                yield batch, [where[sk] for sk in sks]

    def forget_moved(self, sks: Iterable[int]) -> None:
        """Forget who held each ``struct sock *`` of a live kernel that nobody holds any more."""
        for sk in sks:
            if not self._is_held(sk):
                self.forget_holders(sk)

    def _is_held(self, sk: int) -> bool:
        return self.holders is not None and self.holders.leads_to(sk)

    def read(self, sk: int) -> AnySocket:
        """Read the socket at ``struct sock *`` *sk*."""
        batch = next(self.read_many([sk]))
        record: AnySocket = batch.records()[0]
        return record

    def at(self, sk: int) -> AnySocket:
        """
        Read the socket that another one points to.

        :param sk: ``struct sock *`` as an integer
        :return: An :class:`~drgn_sockets.records.socket.UnreadableSocket` if what is at *sk* is no
            socket
        """
        common = or_lost(SockCommon.layout(self.prog).read, sk)
        if not isinstance(common, Lost) and is_sock(self.prog, sk):
            return self.read(sk)
        why = str(common) if isinstance(common, Lost) else f"what is at {sk:#x} is no socket"
        return UnreadableSocket(sk, why, self.holders.of(sk) if self.holders else None)

    def of_families(self, *names: str) -> Iterator[AnySocket]:
        """
        Read every socket of some families, see :func:`for_each_socket`.

        :param names: Which of :data:`~drgn_sockets.records.families.FAMILY_NAMES`
        """
        return for_each_socket(self.prog, names, self.holders, self.losses)

    def peer(self, record: SocketRecord) -> AnySocket | None:
        """The other end of a socket, if its family can find it on this machine."""
        family = family_named(record.family_name)
        return None if family is None else family.peer(self, record)

    def peers(self, records: Iterable[SocketRecord]) -> dict[int, AnySocket]:
        """The other end of each of *records* that has one, by the record's ``struct sock *``."""
        by_family: dict[str, list[SocketRecord]] = {}
        for record in records:
            by_family.setdefault(record.family_name, []).append(record)
        found: dict[int, AnySocket] = {}
        for name, some in by_family.items():
            family = family_named(name)
            if family is not None:
                found.update(family.peers(self, some))
        return found

    def listener(self, record: SocketRecord) -> SocketRecord | None:
        """The listener that a socket was accepted from, see :meth:`Family.listener`."""
        family = family_named(record.family_name)
        return None if family is None else family.listener(self, record)

    def read_many(self, sks: Iterable[int]) -> Iterator[Batch]:
        """Read the sockets at *sks*, of whatever families, in address order."""
        for some in _pieces(sks, _BATCH):
            commons = SockCommon.layout(self.prog).read_batch(some)
            yield from self._unreadable(commons.lost)
            yield from _with_parts(self._by_state(commons.addresses, commons, None), self.losses)

    def read_held(self, name: str, sks: Sequence[int]) -> Iterator[Batch]:
        """
        Read sockets that are in file tables and look like those of a family, in address order.

        :param name: One of :data:`FAMILY_NAMES`.
        """
        family = family_named(name)
        if family is None or not family.is_known(self.prog):
            return _with_parts(self._read_full(sks, self._known), self.losses)
        # A socket in a file table is a full one, and nearly always of the family that its struct
        # socket looks like. Reading it as such takes one read; finding out first takes two.
        return _with_parts(self._read(family.record, sks, self._known, family), self.losses)

    def read_held_briefly(self, sockets: Mapping[int, SocketAlloc]) -> Iterator[Batch]:
        """
        Read as much of sockets in file tables as is needed to show their ends. For inet sockets
        that is ``struct sock``.

        :param sockets: The decoded ``struct socket`` of each, by ``struct sock *``.
        """
        names = FamilyNamesByOps(self.prog)
        unix: list[int] = []
        others: list[int] = []
        for sk, socket in sockets.items():
            is_unix = names[socket.ops, socket.type] == UnixRecord.family_name
            (unix if is_unix else others).append(sk)
        yield from self._read_full(others, sockets, brief=True)
        yield from self._read(UnixRecord, unix, sockets, family_named(UnixRecord.family_name))

    def read_entries(self, entries: Iterable[SockCommon | Lost], family: Family) -> Iterator[Batch]:
        """
        Read the sockets of a hash table.

        :param entries: The entries that the walk of the table yields.
        :param family: The family of the table's full sockets.
        """
        full = family.record if family.is_known(self.prog) else None
        for some in _pieces(entries, _BATCH):
            # The walk has looked at these again.
            yield from self._unreadable([one for one in some if isinstance(one, Lost)], stood=True)
            good = list(present(some))
            sks = [common.address for common in good]
            yield from _with_parts(self._by_state(sks, good, full), self.losses)

    def _by_state(
        self,
        sks: Sequence[int],
        commons: Iterable[SockCommon],
        full: type[SocketRecord] | None,
    ) -> Iterator[Batch]:
        """:param full: The record of full sockets, ``None`` if their family is to be found out."""
        by_record: dict[type[SocketRecord] | None, list[int]] = {}
        for sk, common in zip(sks, commons):
            by_record.setdefault(_small_record(common) or full, []).append(sk)
        for record_class, addresses in by_record.items():
            if record_class is None:
                yield from self._read_full(addresses, self._known)
            else:
                yield from self._read(record_class, addresses, self._known)

    def _read_full(
        self, sks: Iterable[int], inodes: Mapping[int, AnyInode], *, brief: bool = False
    ) -> Iterator[Batch]:
        socks = Sock.layout(self.prog).read_batch(sks)
        yield from self._unreadable(socks.lost)
        socks, mistaken = self._own(socks, inodes)
        yield from self._unreadable(mistaken)
        kinds = zip(socks.column("family"), socks.column("type"), socks.column("protocol"))
        by_kind: dict[tuple[int, int, int], list[int]] = {}
        for i, kind in enumerate(kinds):
            by_kind.setdefault(kind, []).append(i)
        by_record: dict[type[SocketRecord], list[int]] = {}
        for kind, indices in by_kind.items():
            family = family_of(*kind)
            if family is None or (brief and family.brief) or not family.is_known(self.prog):
                yield SocketBatch(self, plain_record(*kind), socks.select(indices), inodes)
            else:
                addresses = by_record.setdefault(family.record, [])
                addresses.extend(socks.addresses[i] for i in indices)
        for record_class, addresses in by_record.items():
            yield from self._read(record_class, addresses, inodes)

    def _read(
        self,
        record_class: type[SocketRecord],
        sks: Iterable[int],
        inodes: Mapping[int, AnyInode],
        family: Family | None = None,
    ) -> Iterator[Batch]:
        """:param family: The family that *sks* look like, if some may be of another family."""
        structs = record_class.struct.layout(self.prog).read_batch(sks)
        yield from self._unreadable(structs.lost)
        structs, mistaken = self._own(structs, inodes)
        yield from self._unreadable(mistaken)
        strays: list[int] = []
        if family is not None:
            columns = [structs.column(name) for name in ("family", "type", "protocol")]
            others = {kind for kind in set(zip(*columns)) if family_of(*kind) is not family}
            if others:
                stray = [kind in others for kind in zip(*columns)]
                strays = [sk for sk, it_is in zip(structs.addresses, stray) if it_is]
                structs = structs.select([i for i, it_is in enumerate(stray) if not it_is])
        if len(structs):
            batch = UnixBatch if record_class is UnixRecord else SocketBatch
            yield batch(self, record_class, structs, inodes)
        if strays:
            yield from self._read_full(strays, inodes)

    def _own(
        self, structs: StructBatch[Any], inodes: Mapping[int, AnyInode]
    ) -> tuple[StructBatch[Any], Sequence[Lost]]:
        """
        Take those out of *structs* that do not belong to the ``struct socket`` whose file led to
        them: ``sock_graft()`` makes the two point to each other.
        """
        if self.holders is None or inodes is not self.holders.inodes:
            return structs, ()
        known = self.holders.inodes
        sockets = structs.column("socket")
        try:
            if [known[sk].socket for sk in structs.addresses] == list(sockets):
                return structs, ()
        except KeyError:
            # Some are in no file table.
            pass
        lost: list[Lost] = []
        good: list[int] = []
        for i, (sk, socket) in enumerate(zip(structs.addresses, sockets)):
            own = known[sk].socket if sk in known else socket
            if own == socket or self._is_inside(socket):
                good.append(i)
            else:
                why = f"it belongs to the struct socket at {socket:#x}, not to that at {own:#x}"
                lost.append(Lost("struct sock", sk, why))
        return (structs.select(good), lost) if lost else (structs, ())

    def _is_inside(self, socket: int) -> bool:
        """Whether a ``struct socket`` is one that further socks belong to."""
        alloc = or_lost(SocketAlloc.layout(self.prog).read, socket - self.socket_offset)
        return not isinstance(alloc, Lost) and self._has_others_inside(alloc)

    def _has_others_inside(self, socket: SocketAlloc) -> bool:
        """
        Whether further socks belong to a ``struct socket``: the subflows of an MPTCP socket, and
        the TCP socket inside an SMC socket, which gets its file when SMC falls back to TCP.
        """
        sock = or_lost(Sock.layout(self.prog).read, socket.sk)
        return not isinstance(sock, Lost) and (
            sock.family == AF_SMC or sock.protocol == IPPROTO_MPTCP
        )

    def _unreadable(self, sks: Sequence[Lost], *, stood: bool = False) -> Iterator[Batch]:
        """:param stood: Whether it is certain that they are there."""
        if sks:
            of = self.holders.of if self.holders is not None else None
            records = [
                UnreadableSocket(lost.address, str(lost), of(lost.address) if of else None)
                for lost in sks
            ]
            doubtful = is_live(self.prog) and not stood
            yield _Unreadable(self, records) if doubtful else Batch(records)

    def record(self, cls: type[SocketRecord], sock: SockCommon) -> SocketRecord:
        """Make the record of a socket."""
        record = cls(self.prog, sock, self.netns(sock.net))
        if sock.bound_dev_if:
            record.ifname_or_lost = self.ifname(sock.net, sock.bound_dev_if)
        record.all_holders = self.holders
        return record

    def netns(self, net: int) -> int | Lost:
        """Inode number of a ``struct net *``."""
        if net not in self._netns:
            self._netns[net] = or_lost(functools.partial(net_ino, self.prog), net)
        return self._netns[net]

    def ifname(self, net: int, ifindex: int) -> bytes | Lost | None:
        """Name of an interface."""
        key = (net, ifindex)
        if key not in self._ifnames:
            read = functools.partial(netdev_name_by_index, self.prog, net)
            self._ifnames[key] = or_lost(read, ifindex)
        return self._ifnames[key]

    def inodes_of(
        self, sks: Iterable[int], sockets: Iterable[int], known: Mapping[int, AnyInode]
    ) -> dict[int, AnyInode | Lost]:
        """
        The inode of each socket that has one, or a ``Lost``, by ``struct sock *``.

        :param sks: ``struct sock *`` of each
        :param sockets: ``struct socket *`` of each, or 0
        """
        found: dict[int, AnyInode | Lost] = {}
        unknown: dict[int, list[int]] = {}
        for sk, socket in zip(sks, sockets):
            if sk in known:
                found[sk] = known[sk]
            elif socket:
                unknown.setdefault(socket - self.socket_offset, []).append(sk)
        allocs = SocketAlloc.layout(self.prog).read_batch(unknown)
        for lost in allocs.lost:
            found.update(dict.fromkeys(unknown[lost.address], lost))
        for alloc in allocs:
            for sk in unknown[alloc.address]:
                if alloc.sk == sk or self._has_others_inside(alloc):
                    found[sk] = SocketInode(alloc.ino, alloc.uid)
                else:
                    why = f"it belongs to the struct sock at {alloc.sk:#x}, not to that at {sk:#x}"
                    socket = alloc.address + self.socket_offset
                    found[sk] = Lost("struct socket", socket, why)
        return found

    def unix_name(self, addr: int) -> bytes | Lost | None:
        """The name in a ``struct unix_address *``, ``None`` for a null pointer."""
        # An accepted socket shares the unix_address of its listener.
        if addr not in self._unix_names:
            try:
                self._unix_names[addr] = unix_name(self.prog, addr)
            except FaultError as e:
                self._unix_names[addr] = lost_by(e)
        return self._unix_names[addr]


def _ino(inode: AnyInode | Lost | None) -> int | Lost:
    if inode is None:
        return 0
    return inode if isinstance(inode, Lost) else inode.ino


def _with_parts(batches: Iterable[Batch], losses: Losses) -> Iterator[Batch]:
    """Insert the parts of a socket behind it."""
    for batch in batches:
        if not isinstance(batch, SocketBatch) or batch.cls.parts is SocketRecord.parts:
            yield batch
            continue
        for i in range(len(batch)):
            one = batch.select([i])
            yield one
            for record in one.records():
                try:
                    parts = record.parts()
                except FaultError as e:
                    losses.lose(e, record.where)
                    continue
                if parts:
                    yield Batch(parts)


def _pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while piece := list(itertools.islice(iterator, size)):
        yield piece


class _HeldPart(Part):
    """Sockets in file tables."""

    def __init__(
        self,
        read: Callable[[], Iterator[Batch]],
        wanted: Container[str],
        nexts: dict[str, dict[int, int]],
    ) -> None:
        super().__init__(read)
        self._wanted = wanted
        # The next node of each socket in its hash chain, by family. The walk of the hash table
        # looks for sockets that are in no file table and passes these sockets over.
        self._nexts = nexts
        self._found: dict[str, dict[int, int]] = {}

    def batches(self) -> Iterator[Batch]:
        for batch in super().batches():
            cls = batch.cls
            if isinstance(batch, SocketBatch):
                found = self._found.setdefault(batch.cls.family_name, {})
                found.update(zip(batch.addresses, batch.structs.column("node")))
            elif isinstance(batch, _Unreadable):
                # Such a row of a live kernel is read again. The walk must not show it once more.
                shown = self._found.setdefault(_SHOWN, {})
                shown.update((record.sk, 0) for record in batch.records())
            if not issubclass(cls, SocketRecord) or cls.family_name in self._wanted:
                yield batch
        self.take(self._found)

    def found(self) -> dict[str, dict[int, int]]:
        return self._found

    def take(self, found: dict[str, dict[int, int]]) -> None:
        for name, nexts in found.items():
            self._nexts.setdefault(name, {}).update(nexts)


def socket_parts(
    prog: Program,
    families: Iterable[str] = FAMILY_NAMES,
    holders: Holders | None = None,
    losses: Losses | None = None,
) -> Iterator[Part]:
    """The sockets that :func:`for_each_socket` yields, in parts."""
    wanted = frozenset(families)
    # A socket that looks like TCP, say, may be of another family (SCTP).
    looked_at = frozenset[str]().union(*map(family_names_like, wanted))
    reader = SocketReader(prog, holders, losses)
    nexts: dict[str, dict[int, int]] = {}
    walks = [f for f in map(family_named, filter(wanted.__contains__, FAMILY_NAMES)) if f]
    passed: set[str] = set()
    for name in FAMILY_NAMES:
        if holders is not None and name in looked_at:
            held = sorted(holders.sks_like(name))
            # The first part is small, so that the first row comes soon.
            first, rest = held[:_FIRST_PART], held[_FIRST_PART:]
            for sks in (*_pieces(first, _FIRST_PART), *_pieces(rest, _PART)):
                read = functools.partial(reader.read_held, name, sks)
                yield _HeldPart(read, wanted, nexts)
        passed.add(name)
        # A family's table is walked after all sockets in file tables that may be of the family.
        for family in [f for f in walks if family_names_like(f.name) | {f.name} <= passed]:
            walks.remove(family)
            yield Part(functools.partial(_walk, reader, prog, family, nexts), alone=True)


def _walk(
    reader: SocketReader, prog: Program, family: Family, nexts: dict[str, dict[int, int]]
) -> Iterator[Batch]:
    known = nexts.get(family.name, NOTHING)
    shown = nexts.get(_SHOWN, NOTHING)
    entries = _unknown(family, prog, known, reader.losses)
    return reader.read_entries((one for one in entries if one.address not in shown), family)


def _unknown(
    family: Family, prog: Program, known: Mapping[int, int], losses: Losses
) -> Iterator[SockCommon | Lost]:
    try:
        for entry in family.walk(prog, known):
            if entry.address not in known:
                yield entry
    except FaultError as e:
        losses.lose(e, f"{family.name} sockets")
    except LookupError as e:
        # Mostly the family's module is not loaded. If it is, the program lacks its types.
        try:
            loaded = family.module is not None and find_module(prog, family.module) is not None
        except FaultError as fault:
            losses.lose(fault, f"{family.name} sockets")
            return
        if loaded:
            text = f"{family.name} sockets that are in no file table are not shown: {e}"
            if "struct " in str(e):
                text += f" {TYPES_OF_MODULES}"
            losses.remark(text)


def for_each_socket(
    prog: Program,
    families: Iterable[str] = FAMILY_NAMES,
    holders: Holders | None = None,
    losses: Losses | None = None,
) -> Iterator[AnySocket]:
    """
    Every socket of the machine, in all network namespaces, family by family.

    :param families: Which of :data:`~drgn_sockets.records.families.FAMILY_NAMES`; the sockets are
        yielded in the order of that list.
    :param holders: The holders of sockets. Sockets that are in no hash table (created and never
        bound, or of an unknown family) are found through it and are missing without it.
    :param losses: Collects what cannot be read and has no row.
    """
    for part in socket_parts(prog, families, holders, losses):
        yield from part.records()


def readable(records: Iterable[AnySocket], losses: Losses) -> Iterator[SocketRecord]:
    """
    Iterate over the sockets that could be read.

    :param losses: Collects the sockets that could not be read.
    """
    for record in records:
        if isinstance(record, UnreadableSocket):
            losses.lose(record.error, record.where)
        else:
            yield record
