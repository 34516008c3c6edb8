# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unix sockets."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from drgn import Program, offsetof

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.dcache import Dentry
from drgn_sockets.kernel.file import Inode, SuperBlock, major, minor
from drgn_sockets.kernel.lost import Lost, as_fault, there, unbroken
from drgn_sockets.kernel.memory import distilled_by, read_bytes
from drgn_sockets.kernel.skb import MAX_SKBS, skb_queue_walk
from drgn_sockets.kernel.sock import (
    AF_UNIX,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    Sock,
    SockCommon,
    for_each_unix,
    sock_i_ino,
)
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct, c_string
from drgn_sockets.program import byte_order
from drgn_sockets.records.columns import Column
from drgn_sockets.records.names import device_text, lsof_type_name, short_type_name
from drgn_sockets.records.socket import (
    AnySocket,
    Columns,
    Derived,
    Described,
    Endpoint,
    Endpoints,
    Family,
    LsofSocket,
    SocketRecord,
    Sockets,
    directions,
    same,
)

# unix_autobind()
_AUTOBOUND = re.compile(rb"\0[0-9a-f]{5}")
_LSOF_STATES = {TCP_LISTEN: "LISTEN", TCP_ESTABLISHED: "CONNECTED"}
# sizeof(struct sockaddr_un), and the NUL that unix_mkname() adds to a path of 108 bytes.
_MAX_ADDRESS = 111
_SUN_PATH = 2


class UnixSock(Sock):
    """``struct unix_sock``."""

    C_TYPE = "struct unix_sock"

    addr = Int("addr", help="struct unix_address *; NULL if it has no name")
    path_mnt = Int("path.mnt", help="struct vfsmount * of the socket file")
    path_dentry = Int("path.dentry", help="struct dentry * of the socket file")
    peer = Int("peer", help="struct sock * at the other end")
    listener = OptInt("listener", help="struct sock * whose queue it is in, not accepted yet")
    # Linux kernel commit f4e1fb04c123 ("af_unix: Use cached value for SOCK_STREAM in
    # unix_inq_len().") (in v6.17)
    inq_len = OptInt("inq_len", help="bytes to be read of a stream")


class UnixAddress(Struct):
    """``struct unix_address``."""

    C_TYPE = "struct unix_address"

    len = Int("len", help="length of the sockaddr_un, bytes")
    # A flexible array, which lies behind the structure.
    name = Bytes("name", help="struct sockaddr_un[]")


def unix_name(prog: Program, addr: int) -> bytes | None:
    """
    The name that a unix socket is bound to.

    :param addr: ``struct unix_address *`` as an integer
    :return: A path without the NUL at its end, or an abstract name with the NUL at its beginning;
        ``None`` if the socket has no name
    :raises FaultError: if it cannot be read
    """
    path = sun_path(prog, addr)
    if path is None or path[:1] == b"\0":
        return path
    # unix_mkname() puts a NUL behind a path and counts it in the length.
    return c_string(path)


def sun_path(prog: Program, addr: int) -> bytes | None:
    """
    The name that a unix socket is bound to, as the kernel keeps it in ``sun_path``.

    :param addr: ``struct unix_address *`` as an integer
    :return: A path with a NUL behind it, or an abstract name; ``None`` if the socket has none
    :raises FaultError: if it cannot be read
    """
    if not addr:
        return None
    layout = UnixAddress.layout(prog)
    length = layout.read(addr).len
    if not _SUN_PATH <= length <= _MAX_ADDRESS:
        raise as_fault(Lost(UnixAddress.C_TYPE, addr, f"{length} is no length of an address"))
    name = addr + layout.cls.places["name"].offset
    data = read_bytes(prog, name, length, "name in struct unix_address") or b""
    family = int.from_bytes(data[:_SUN_PATH], "big" if byte_order(prog) == ">" else "little")
    # Cores that were distilled before this was asked do not have the family.
    if family != AF_UNIX and (family or not distilled_by(prog)):
        why = f"{family} is the family of its address, and not AF_UNIX"
        raise as_fault(Lost(UnixAddress.C_TYPE, addr, why))
    return data[_SUN_PATH:]


class _SkBuff(Struct):
    C_TYPE = "struct sk_buff"
    next = Int("next")
    len = Int("len")
    sk = Int("sk")


class _UnixSkbParms(Struct):
    C_TYPE = "struct unix_skb_parms"
    consumed = Int("consumed")


def _queued(prog: Program, sk: UnixSock) -> Iterator[_SkBuff | Lost]:
    """The packets in the receive queue, at most as many as its length says."""
    queue = sk.address + offsetof(prog.type("struct sock"), "sk_receive_queue")
    limit = min(sk.receive_queue_len, MAX_SKBS)
    return itertools.islice(skb_queue_walk(_SkBuff.layout(prog), queue), limit)


def unix_inq_len(prog: Program, sk: UnixSock) -> int:
    """
    Bytes in the receive queue, as ``unix_inq_len()``. For a datagram socket, these are the bytes of
    the first datagram.

    :raises FaultError: if the queue cannot be read
    """
    if not sk.receive_queue_len:
        return 0
    if sk.type == SOCK_STREAM and sk.inq_len is not None:
        return sk.inq_len
    cb = offsetof(prog.type("struct sk_buff"), "cb")
    parms = _UnixSkbParms.layout(prog)
    total = 0
    for skb in unbroken(_queued(prog, sk)):
        if sk.type not in (SOCK_STREAM, SOCK_SEQPACKET):
            return skb.len
        total += skb.len - parms.read(skb.address + cb).consumed
    return total


def unix_pending(prog: Program, sk: UnixSock) -> list[int]:
    """
    The other ends of connections that wait for ``accept()``.

    :param sk: A listener
    :return: ``struct sock *`` of each socket that connected, 0 for one that is gone
    :raises FaultError: if the queue cannot be read
    """
    layout = UnixSock.layout(prog)
    return [layout.read(skb.sk).peer for skb in unbroken(_queued(prog, sk))]


class UnixRecord(SocketRecord):
    """A unix socket."""

    family_name = "unix"
    struct = UnixSock

    #: Inode number of the other end, or a ``Lost``.
    peer_ino_or_lost: int | Lost = 0

    @property
    def peer_ino(self) -> int:
        """
        Inode number of the other end; 0 if there is no other end, or nobody has accepted it yet.

        :raises FaultError: if it cannot be read
        """
        return there(self.peer_ino_or_lost)

    #: The values of :attr:`name` and :attr:`peer_name`, or a ``Lost`` for each.
    names: tuple[bytes | Lost | None, bytes | Lost | None] = (None, None)

    @property
    def name(self) -> bytes | None:
        """
        Path, abstract name (it begins with a NUL), or ``None``. An accepted socket has the name of
        its listener.

        :raises FaultError: if it cannot be read
        """
        return there(self.names[0])

    @property
    def peer_name(self) -> bytes | None:
        """
        Name of the other end.

        :raises FaultError: if it cannot be read
        """
        return there(self.names[1])

    addr = Derived(same, "addr", doc="``struct unix_address *``, 0 if it has no name.")
    peer = Derived(same, "peer", doc="``struct sock *`` of the other end, 0 for none.")
    send_q = Derived(
        lambda state, max_ack_backlog, wmem_alloc: (
            max_ack_backlog if state == TCP_LISTEN else wmem_alloc - 1
        ),
        *("state", "max_ack_backlog", "wmem_alloc"),
        doc="Memory of what was sent and not yet read; of a listener, its backlog.",
    )

    @property
    def recv_q(self) -> int:
        """Bytes to be read (``unix_inq_len()``); of a listener, connections waiting."""
        sock = self.sock
        if sock.state == TCP_LISTEN or not sock.receive_queue_len:
            return sock.receive_queue_len  # type: ignore[no-any-return]
        return unix_inq_len(self.prog, sock)

    @classmethod
    def recv_qs(cls, batch: Columns) -> Sequence[int] | None:
        waiting = batch.column("receive_queue_len")
        return None if any(waiting) else waiting

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return f"u_{short_type_name(type)}"

    def local_end(self) -> Endpoint:
        """Name and inode."""
        return Endpoint(self.name, b"%d" % self.ino, " ")

    def remote_end(self) -> Endpoint:
        """Name and inode of the other end; inode 0 for none."""
        return Endpoint(self.peer_name, b"%d" % self.peer_ino, " ")

    @classmethod
    def local_ends(cls, batch: Any) -> Endpoints | None:
        return Endpoints(batch.names, same, batch.inos, " ", None)

    @classmethod
    def remote_ends(cls, batch: Any) -> Endpoints | None:
        inos, names = ([peer[i] for peer in batch.peers] for i in (0, 1))
        return Endpoints(names, same, inos, " ", None)

    def described_end(self) -> Endpoint:
        """Its name."""
        return Endpoint(self.name, b"", "")

    @classmethod
    def described(cls, batch: Any) -> Described | None:
        closed = [state == TCP_CLOSE for state in batch.column("state")]
        peers = batch.column("peer")
        unbound = [
            close and name is None and not peer
            for close, name, peer in zip(closed, batch.names, peers)
        ]
        ends = Endpoints(batch.names, same, [""] * len(batch), "", None)
        return Described(ends, unbound, peers)

    @property
    def is_unbound(self) -> bool:
        return self.state == TCP_CLOSE and not self.peer and self.name is None

    @property
    def is_unlisted(self) -> bool:
        # The kernel has all unix sockets in its table.
        return False

    def note(self) -> str | None:
        if self.state == TCP_LISTEN:
            return f"listening, {self.recv_q} not accepted" if self.recv_q else "listening"
        if self._is_waiting:
            return "not accepted yet"
        return None if self.peer else "not connected"

    def peer_note(self, peer: SocketRecord) -> str | None:
        if not isinstance(peer, UnixRecord):
            return super().peer_note(peer)
        if peer.peer != self.sk:
            return "does not point back" if peer.peer else "not connected itself"
        return "not accepted yet" if peer._is_waiting else None

    @property
    def _is_waiting(self) -> bool:
        """Whether nobody has accepted it."""
        return not self.ino and not self.holders

    @property
    def peer_sk(self) -> int:  # type: ignore[override]
        return self.peer  # type: ignore[no-any-return]

    def detail_words(self) -> list[str]:
        """Directions shut down, the socket file, and inodes of connections to be accepted."""
        words = [directions(self.sock.shutdown)]
        file = self.socket_file()
        if file is not None:
            words.append(f"ino:{file[0]} dev:{major(file[1])}/{minor(file[1])}")
        if self.state == TCP_LISTEN:
            words.append("peers:")
            words += map(str, self.pending())
        return words

    def lsof(self, ino: int) -> LsofSocket:
        name = b"" if self.name is None else self.name.replace(b"\0", b"@") + b" "
        state = _LSOF_STATES.get(self.state, "UNCONNECTED")
        type_ = lsof_type_name(self.type)
        return LsofSocket(
            "unix", f"{self.sk:#018x}", str(ino), name + f"type={type_} ({state})".encode()
        )

    def match_address(self, local: bool) -> bytes | None:
        return self.name if local else self.peer_name

    @property
    def is_autobound(self) -> bool:
        return self.name is None or _AUTOBOUND.fullmatch(self.name) is not None

    def pending(self) -> list[int]:
        """
        Inode numbers of the other ends of connections that it has not accepted
        (``UNIX_DIAG_ICONS``).

        :raises FaultError: if they cannot be read
        """
        if self.sock.state != TCP_LISTEN:
            return []
        peers = unix_pending(self.prog, self.sock)
        return [sock_i_ino(self.prog, peer) for peer in peers]

    @property
    def is_connected(self) -> bool:
        return bool(self.peer)

    def socket_file(self) -> tuple[int, int] | None:
        """
        Inode number and device (as the kernel's ``dev_t``) of the socket *file*, as ``stat`` shows
        them for the path. The socket itself has another inode.

        :return: ``None`` if it is not bound to a path
        :raises FaultError: if they cannot be read
        """
        dentry = Dentry.layout(self.prog).follow(self.sock.path_dentry)
        if dentry is None:
            return None
        inode = Inode.layout(self.prog).read(dentry.inode)
        return inode.ino, SuperBlock.layout(self.prog).read(inode.sb).dev


def _file_ino(record: UnixRecord) -> int | None:
    file = record.socket_file()
    return None if file is None else file[0]


def _file_dev(record: UnixRecord) -> str | None:
    file = record.socket_file()
    return None if file is None else device_text(file[1])


_column = functools.partial(Column, of=UnixRecord)


class Unix(Family):
    """Unix sockets."""

    name = "unix"
    record = UnixRecord
    columns = (
        _column("path", "name of a unix socket, as bytes; ? if lost", attrgetter("name")),
        _column(
            "file_ino", "inode of a unix socket's file, which stat shows", _file_ino, right=True
        ),
        _column("file_dev", "device of that file, major:minor", _file_dev),
        _column(
            "peer_ino", "inode of a unix socket's other end", attrgetter("peer_ino"), right=True
        ),
        _column(
            "peer_sk",
            "address of a unix socket's other end",
            lambda r: f"{r.peer:#x}" if r.peer else None,
        ),
        _column(
            "peer_path", "name of a unix socket's other end, as bytes", attrgetter("peer_name")
        ),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_unix(prog, known)

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        if not isinstance(record, UnixRecord) or not record.peer:
            return None
        return sockets.at(record.peer)

    def listener(self, sockets: Sockets, record: Any) -> UnixRecord | None:
        """The listener that has the same ``struct unix_address``."""
        if not isinstance(record, UnixRecord) or record.state == TCP_LISTEN:
            return None
        if not isinstance(record.sock, UnixSock) or not record.sock.addr:
            return None
        for other in sockets.of_families(self.name):
            if (
                isinstance(other, UnixRecord)
                and isinstance(other.sock, UnixSock)
                and other.sock.addr == record.sock.addr
                and other.state == TCP_LISTEN
            ):
                return other
        return None
