# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Union

from drgn import Program

from drgn_sockets.kernel.cgroup import CgroupPath, sock_cgroup_path
from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost, there
from drgn_sockets.kernel.sock import (
    Sock,
    SockCommon,
    has_sock_i_uid,
    sk_drops_read,
    sk_forward_alloc_get,
)
from drgn_sockets.kernel.structs import Struct, has_type
from drgn_sockets.records.columns import Column
from drgn_sockets.records.holder import AnyInode, Holder, HoldersOfSockets
from drgn_sockets.records.names import netid, state_name
from drgn_sockets.text import escaped

#: The name of the family of sockets that are of none that is known.
OTHER = "other"
#: What stands for any address where an address is a number of 32 bits: ``VMADDR_CID_ANY``.
ANY = 0xFFFFFFFF
# include/net/sock.h: RCV_SHUTDOWN, SEND_SHUTDOWN
_RCV_SHUTDOWN, _SEND_SHUTDOWN = 1, 2


class Timer(NamedTuple):
    """A timer that is running."""

    #: ``on`` (retransmission), ``keepalive``, ``persist`` (window probes), ``timewait``,
    #: ``synack``: as ``ss -o`` calls them, and the last as nobody else does.
    name: str
    #: Seconds until it fires.
    expires_s: float
    #: In jiffies.
    expires: int
    #: How often it has fired for what it waits for.
    retrans: int


class Endpoint(NamedTuple):
    """
    An end of a socket, as bytes that the kernel or a user chose: not escaped.

    :func:`drgn_sockets.views.sockets.endpoint_text` makes of it what ss writes.
    """

    #: ``127.0.0.1``, ``rtnl``, a path, an abstract name (which begins with a NUL), …; ``None`` for
    #: any and for none.
    address: bytes | None
    #: Port, process, interface, inode, …; ``None`` for any and for none.
    service: bytes | None
    #: What ss writes between them.
    separator: str = ":"
    #: Address and service in numbers (``ss -n``), where these are names.
    numbers: tuple[bytes | None, bytes | None] | None = None
    #: Name of the interface that an IP address is bound to.
    interface: bytes | None = None


class Endpoints(NamedTuple):
    """The same end of each socket of a batch, in columns: what :class:`Endpoint` has of one."""

    #: What tells the address: many sockets have the same.
    keys: Sequence[Any]
    #: Makes :attr:`Endpoint.address` of a key.
    address: Callable[[Any], bytes | None]
    services: Sequence[object]
    separator: str = ":"
    #: The service that is none.
    no_service: object = 0


class Described(NamedTuple):
    """What is said of each socket of a batch in one line, in columns."""

    #: :meth:`SocketRecord.described_end`
    ends: Endpoints
    #: :attr:`SocketRecord.is_unbound`
    unbound: Sequence[bool]
    #: :attr:`SocketRecord.is_connected`, as far as bound.
    connected: Sequence[object]


class Columns(Protocol):
    """Sockets of one class, in columns: :class:`~drgn_sockets.records.reader.SocketBatch`."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Sequence[Any]:
        """A member of the structures, or what the records' class derives of members."""

    @property
    def inos(self) -> list[int]:
        """Inode number of each, 0 for none."""


class LsofSocket(NamedTuple):
    """What lsof shows of a socket, in its words."""

    #: The column TYPE.
    type: str
    device: str | None
    node: str
    name: bytes


def same(value: Any) -> Any:
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
        self.is_same = function is same
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

    def __init__(self, prog: Program, sock: Any, netns: int | Lost) -> None:
        self.prog = prog
        #: The decoded structure, of class :attr:`struct`.
        self.sock = sock
        #: Inode of the network namespace, as it was read.
        self.netns_or_lost = netns

    #: Name of its family, one of :data:`~drgn_sockets.records.families.FAMILY_NAMES`. (Its address
    #: family, ``AF_*``, is :attr:`family`; several families of ours may have the same.)
    family_name: ClassVar[str] = OTHER

    #: A record is of what could be read, see :class:`UnreadableSocket`.
    error: str | None = None
    #: Its inode and the name of its interface, or what is lost of them.
    inode_or_lost: AnyInode | Lost | None = None
    ifname_or_lost: bytes | Lost | None = None
    #: ``struct sock *`` of the other end where the kernel has that, else 0.
    peer_sk: int = 0
    #: Whether it is one of the :meth:`parts` of a socket.
    is_part: ClassVar[bool] = False
    #: Further structures that are read of it, by attribute.
    more: ClassVar[Mapping[str, type[Struct]]] = {}
    #: Who holds what, ``None`` if nobody looked.
    all_holders: HoldersOfSockets | None = None

    @property
    def netns(self) -> int:
        """
        Inode of the network namespace.

        :raises FaultError: if it cannot be read
        """
        return there(self.netns_or_lost)

    @property
    def ifname(self) -> bytes | None:
        """
        Name of the interface it is bound to, if it is.

        :raises FaultError: if it cannot be read
        """
        return there(self.ifname_or_lost)

    @property
    def inode(self) -> AnyInode | None:
        """
        Its inode, ``None`` if it has none.

        :raises FaultError: if it cannot be read
        """
        return there(self.inode_or_lost)

    @inode.setter
    def inode(self, inode: AnyInode | None) -> None:
        self.inode_or_lost = inode

    @property
    def ino(self) -> int:
        """Inode number (the N of ``socket:[N]``), 0 if it has none."""
        return self.inode.ino if self.inode is not None else 0

    @property
    def i_uid(self) -> int | None:
        """Owner of the inode, ``None`` if it has none."""
        return self.inode.uid if self.inode is not None else None

    @property
    def told_uid(self) -> int:
        """Owner as procfs and sock_diag tell it, ``sock_i_uid()`` or ``sk_uid()``."""
        # That of the inode; a socket without one is root's.
        return (self.i_uid if has_sock_i_uid(self.prog) else self.uid) or 0

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
    def where(self) -> str:
        """Which row it is, for a message."""
        return f"{self.family_name} socket at {self.sk:#x}"

    @property
    def sk(self) -> int:
        """``struct sock *`` as an integer."""
        return self.sock.address  # type: ignore[no-any-return]

    family = Derived(same, "family", doc="``AF_*``.")
    type = Derived(same, "type", doc="``SOCK_*``.")
    protocol = Derived(same, "protocol", doc="``IPPROTO_*``, or what the family calls protocol.")
    state = Derived(same, "state", doc="``TCP_*``, which other families use as well.")
    uid = Derived(same, "uid", doc="Owner, in the initial user namespace.")
    recv_q = Derived(
        same, "rmem_alloc", doc="Bytes to be read; of a listener, connections to be accepted."
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

    # What ss has in its columns.

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        """
        What ss writes in its column Netid, as ``u_str``.

        :param family: ``AF_*``
        :param type: ``SOCK_*``
        """
        return netid(family, type)

    @property
    def netid(self) -> str:
        """:meth:`netid_of` this socket."""
        return self.netid_of(self.family, self.type, self.protocol)

    @property
    def state_name(self) -> str:
        """Its state, as ss writes it: ``ESTAB``."""
        return state_name(self.state)

    def local_end(self) -> Endpoint:
        """This end, as ss has it."""
        return Endpoint(None, b"%d" % self.ino, " ")

    def remote_end(self) -> Endpoint | None:
        """The other end, as ss has it; ``None`` if it has none."""
        return None

    # The same of many, column by column. Each is None where records have to be made.

    @classmethod
    def local_ends(cls, batch: Columns) -> Endpoints | None:
        """:meth:`local_end` of each socket of a batch."""
        if cls.local_end is not SocketRecord.local_end:
            return None
        return Endpoints([None] * len(batch), same, batch.inos, " ", None)

    @classmethod
    def remote_ends(cls, batch: Columns) -> Endpoints | None:
        """:meth:`remote_end` of each."""
        if cls.remote_end is not SocketRecord.remote_end:
            return None
        nothing = [""] * len(batch)
        return Endpoints([None] * len(batch), same, nothing, "", None)

    @classmethod
    def recv_qs(cls, batch: Columns) -> Sequence[int] | None:
        """:attr:`recv_q` of each."""
        return batch.column("recv_q") if isinstance(cls.recv_q, Derived) else None

    @classmethod
    def send_qs(cls, batch: Columns) -> Sequence[int] | None:
        """:attr:`send_q` of each."""
        return batch.column("send_q") if isinstance(cls.send_q, Derived) else None

    @classmethod
    def described(cls, batch: Columns) -> Described | None:
        """What is said of each in one line."""
        return None

    # What is said of it in one line, and beside it.

    def described_end(self) -> Endpoint | None:
        """This end, as one line has it; ``None`` if its family has no names for ends."""
        has_names = type(self).local_end is not SocketRecord.local_end
        return self.local_end() if has_names else None

    def unbound_words(self) -> str:
        """What that line has in the place of an end, if it :attr:`is_unbound`."""
        return "never bound"

    def note(self) -> str | None:
        """What is unusual about it, seen as one end of two."""
        if self.is_unbound:
            return "never bound"
        # Of families of which no more is known than that they have sockets, that is not known.
        return None if self.is_connected or self.family_name == OTHER else "not connected"

    def peer_note(self, peer: SocketRecord) -> str | None:
        """What is unusual about *peer*, seen as the other end of this socket."""
        if peer.netns != self.netns:
            return f"in network namespace {peer.netns}"
        return peer.note()

    def absent_peer_note(self) -> str | None:
        """Where its other end is, if that is no other socket."""
        return None

    def lsof(self, ino: int) -> LsofSocket | None:
        """
        What lsof shows of it, ``None`` if no more than its protocol.

        :param ino: Inode of the file that leads to it.
        """
        return None

    def lsof_ends(self) -> str:
        """What is shown behind the protocol, where lsof shows just that."""
        return ""

    # What the expressions of ss compare.

    def match_address(self, local: bool) -> int | bytes | None:
        """
        What ``src`` and ``dst`` compare with an address: the bytes of an IP address or of a name;
        of other families a number, :data:`ANY` for any; ``None`` for none.

        :param local: Of this end, not of the other.
        """
        end = self.local_end() if local else self.remote_end()
        if end is None:
            return None
        address = (end.numbers or end)[0]
        if address is None:
            return ANY
        return int(address) if address.isdigit() else None

    def match_services(self, local: bool) -> set[str]:
        """All that an end's port goes by, for ``src`` and ``dst``; ``*`` for any."""
        end = self.local_end() if local else self.remote_end()
        if end is None:
            return set()
        service = (end.numbers or end)[1]
        return {"*" if service is None else service.decode("utf-8", "surrogateescape")}

    def match_port(self, local: bool) -> int | None:
        """What ``sport`` and ``dport`` compare; ``None`` if the end has no port."""
        for text in self.match_services(local):
            if text.removeprefix("-").isdecimal():
                return int(text)
        return None

    @property
    def match_ifindex(self) -> int:
        """What ``dev`` compares: index of the interface that it is bound to, 0 for none."""
        return self.sock.bound_dev_if  # type: ignore[no-any-return]

    @property
    def is_autobound(self) -> bool:
        """Whether the kernel chose the port or name of this end."""
        return False

    def parts(self) -> Sequence[SocketRecord]:
        """What of it ss shows in lines of their own, below that of the socket."""
        return ()

    def skmem(self) -> tuple[int, ...] | None:
        """What ``ss -m`` shows, in its order; ``None`` of what is no full socket."""
        sock = self.sock
        if not isinstance(sock, Sock):
            return None
        return (
            sock.rmem_alloc,
            sock.rcvbuf,
            sock.wmem_alloc - 1,
            sock.sndbuf,
            sk_forward_alloc_get(sock),
            sock.wmem_queued,
            sock.omem_alloc,
            sock.backlog_len,
            sk_drops_read(self.prog, sock),
        )

    @property
    def is_connected(self) -> bool:
        """Whether it has another end, on this machine or another."""
        return self.remote_end() is not None

    @property
    def is_unbound(self) -> bool:
        """Whether it was created, and neither bound nor connected, where that can be told."""
        return False

    @property
    def is_unlisted(self) -> bool:
        """Whether it is in no table that the kernel lists: only a process that holds it knows."""
        return self.is_unbound

    @property
    def is_bound_inactive(self) -> bool:
        """Whether it is what ss calls BOUND-INACTIVE: closed, with a port."""
        return False

    @property
    def cgroup_path(self) -> CgroupPath | None:
        """Path of its cgroup, of version 2."""
        return sock_cgroup_path(self.prog, self.sock)

    def detail_words(self) -> list[str]:
        """
        What ``ss -e`` says first: of most families the owner, inode and cookie
        (``sock_details_print()``).
        """
        uid = self.told_uid
        return [*([f"uid:{uid}"] if uid else ()), f"ino:{self.ino}", f"sk:{self.sock.cookie:x}"]

    def extended_words(self) -> str:
        """What ``ss -e`` says of it after that; escaped."""
        return ""

    def info(self) -> Any:
        """What ``ss -i`` says of it, as a named tuple; ``None`` for nothing."""
        return None

    def info_words(self) -> str:
        """What ``ss -i`` says of it; escaped."""
        return ""


def directions(shutdown: int) -> str:
    """
    ``<->``, with a ``-`` in the place of what has been shut down.

    :param shutdown: ``sk_shutdown``
    """
    receives = "-" if shutdown & _RCV_SHUTDOWN else "<"
    sends = "-" if shutdown & _SEND_SHUTDOWN else ">"
    return f"{receives}-{sends}"


def cgroup_text(path: CgroupPath | None) -> str | None:
    """``cgroup:/system.slice``, or as ss writes it of one that has been removed."""
    if path is None:
        return None
    return f"cgroup:unreachable:{path.id:x}" if path.removed else f"cgroup:{escaped(path)}"


class UnreadableSocket:
    """A place where a socket should be and none could be read."""

    def __init__(self, sk: int, error: str, holders: list[Holder] | None = None) -> None:
        self.sk = sk
        #: What is wrong, a few words.
        self.error = error
        self.holders = holders

    @property
    def where(self) -> str:
        """Which row it is, for a message."""
        return f"socket at {self.sk:#x}"


AnySocket = Union[SocketRecord, UnreadableSocket]


class Sockets(Protocol):
    """
    The sockets of a machine, as a family looks among them for the other end of one:
    :class:`~drgn_sockets.records.reader.SocketReader`.
    """

    def at(self, sk: int) -> AnySocket:
        """
        Read the socket that another one points to.

        :param sk: ``struct sock *`` as an integer
        :return: An :class:`UnreadableSocket` if there is no socket at *sk*
        """

    def of_families(self, *names: str) -> Iterator[AnySocket]:
        """
        Read every socket of some families.

        :param names: Which of :data:`~drgn_sockets.records.families.FAMILY_NAMES`
        """


class Family:
    """
    A family of sockets: what adding one takes, in a module of :mod:`drgn_sockets.records.families`,
    which also has how its sockets are told from others.
    """

    #: Its name, ``tcp``: :attr:`SocketRecord.family_name` of its records.
    name: ClassVar[str]
    #: Name of the module that it may be.
    module: ClassVar[str | None] = None
    #: The record of its full sockets, and those of what the kernel has before and after these.
    record: ClassVar[type[SocketRecord]]
    small: ClassVar[tuple[type[SocketRecord], ...]] = ()
    #: Records of the parts that ss prints below a socket.
    parts: ClassVar[tuple[type[SocketRecord], ...]] = ()
    #: Columns that only its records have, each with their class (``of``).
    columns: ClassVar[tuple[Column, ...]] = ()
    #: The record if no more than ``struct sock`` was read.
    plain: ClassVar[type[SocketRecord]]
    #: Whether ``struct sock`` tells its ends.
    brief: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "plain" not in cls.__dict__:
            name = f"{cls.__name__}PlainRecord"
            # As told apart, but for what takes more than struct sock.
            also = {"family_name": cls.name, "netid_of": cls.record.__dict__.get("netid_of")}
            cls.plain = type(name, (SocketRecord,), {k: v for k, v in also.items() if v})

    def small_record(self, common: SockCommon) -> type[SocketRecord] | None:
        """The record of what is no full socket, told by its state, as ``sk_fullsock()``."""
        return None

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[tuple[int, SockCommon | None]]:
        """
        Every socket of it that the kernel has in a list or table, in all network namespaces.

        :param known: Sockets that may be left out, each with the next node of its hash chain.
        :return: Iterator of (address, entry), ``None`` for one that cannot be read
        :raises LookupError: if the program lacks the types or variables
        """
        return iter(())

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        """The other end of a socket of it, if that is on this machine."""
        return None

    def peers(self, sockets: Sockets, records: Iterable[Any]) -> Mapping[int, AnySocket]:
        """
        The other ends of many sockets of it, as :meth:`peer` has them: one walk may find all.

        :return: Other ends, by the ``struct sock *`` of the end that is known
        """
        ends = ((record.sk, self.peer(sockets, record)) for record in records)
        return {sk: peer for sk, peer in ends if peer is not None}

    def listener(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """
        The listener that a socket of it was accepted from, or is still to be, where sockets of the
        family are known by the name of their listener.
        """
        return None

    def is_known(self, prog: Program) -> bool:
        """Whether the program has the type of its sockets: that may be a module's."""
        return has_type(prog, self.record.struct.C_TYPE)
