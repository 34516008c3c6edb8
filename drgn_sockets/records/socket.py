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

#: The family name of sockets whose family is not known.
OTHER = "other"
#: Any address, for families whose addresses are numbers of 32 bits: ``VMADDR_CID_ANY``.
ANY = 0xFFFFFFFF
# include/net/sock.h: RCV_SHUTDOWN, SEND_SHUTDOWN
_RCV_SHUTDOWN, _SEND_SHUTDOWN = 1, 2


class Timer(NamedTuple):
    """A timer that is running."""

    #: ``on`` (retransmission), ``keepalive``, ``persist`` (window probes), ``timewait`` or
    #: ``T3_RTX`` (SCTP), as ``ss -o`` calls them; ``synack`` is our name for a request's timer.
    name: str
    #: Seconds until it fires.
    expires_s: float
    #: When it fires, jiffies.
    expires: int
    #: How many retransmissions, probes or timeouts there were so far.
    retrans: int


class Endpoint(NamedTuple):
    """
    An end of a socket, in bytes that the kernel or a user chose; they are not escaped.

    :func:`drgn_sockets.views.sockets.endpoint_text` makes the text that ss writes.
    """

    #: ``127.0.0.1``, ``rtnl``, a path, an abstract name (which begins with a NUL), …; ``None`` for
    #: any address and for no address.
    address: bytes | None
    #: Port, process, interface, inode, …; ``None`` for any service and for no service.
    service: bytes | None
    #: What ss writes between address and service.
    separator: str = ":"
    #: Address and service in numbers (``ss -n``), if they have names.
    numbers: tuple[bytes | None, bytes | None] | None = None
    #: Name of the interface that an IP address is bound to.
    interface: bytes | None = None


class Endpoints(NamedTuple):
    """The local ends or the remote ends of a batch of sockets: an :class:`Endpoint` in columns."""

    #: A key for the address of each socket; sockets with the same address have the same key.
    keys: Sequence[Any]
    #: Makes :attr:`Endpoint.address` from a key.
    address: Callable[[Any], bytes | None]
    services: Sequence[object]
    separator: str = ":"
    #: The value in *services* that means no service.
    no_service: object = 0


class Described(NamedTuple):
    """The one-line descriptions of a batch of sockets, in columns."""

    #: :meth:`SocketRecord.described_end`
    ends: Endpoints
    #: :attr:`SocketRecord.is_unbound`
    unbound: Sequence[bool]
    #: :attr:`SocketRecord.is_connected`, valid for sockets that are not unbound.
    connected: Sequence[object]


class Columns(Protocol):
    """Sockets of one class, in columns: :class:`~drgn_sockets.records.reader.SocketBatch`."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Sequence[Any]:
        """The column of a member of the structures, or of a :class:`Derived` of the class."""

    @property
    def inos(self) -> list[int]:
        """Inode number of each, 0 for none."""


class LsofSocket(NamedTuple):
    """What lsof shows of a socket, in the words of lsof."""

    #: The column TYPE.
    type: str
    device: str | None
    node: str
    name: bytes


def same(value: Any) -> Any:
    return value


class Derived:
    """
    A value of a record that is computed from members of its structure, for one record or for a
    column of records.

    :param function: Computes the value from those of the members *names*.
    """

    def __init__(self, function: Callable[..., Any], *names: str, doc: str) -> None:
        self.function = function
        self.names = names
        #: Whether the value is that of one member, unchanged.
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

    Families derive their own classes, with more attributes. All values that were read are in
    :attr:`sock`, the decoded ``struct sock`` (or ``tcp_sock``, ``unix_sock``,
    ``inet_timewait_sock``, …).
    """

    #: The structure that is read.
    struct: ClassVar[type[SockCommon]] = Sock

    def __init__(self, prog: Program, sock: Any, netns: int | Lost) -> None:
        self.prog = prog
        #: The decoded structure, of class :attr:`struct`.
        self.sock = sock
        #: Inode number of the network namespace, or a ``Lost``.
        self.netns_or_lost = netns

    #: Name of its family, one of :data:`~drgn_sockets.records.families.FAMILY_NAMES`. (The address
    #: family, ``AF_*``, is :attr:`family`; several families may share an address family.)
    family_name: ClassVar[str] = OTHER

    #: ``None``, since the socket was read; :class:`UnreadableSocket` has an error here.
    error: str | None = None
    #: Its inode and the name of its interface, or a ``Lost`` for each that cannot be read.
    inode_or_lost: AnyInode | Lost | None = None
    ifname_or_lost: bytes | Lost | None = None
    #: ``struct sock *`` of the other end if the kernel keeps it, else 0.
    peer_sk: int = 0
    #: Whether records of this class are :meth:`parts` of a socket.
    is_part: ClassVar[bool] = False
    #: Further structures that are read, by the attribute that has them.
    more: ClassVar[Mapping[str, type[Struct]]] = {}
    #: The holders of all sockets, ``None`` if they were not looked for.
    all_holders: HoldersOfSockets | None = None

    @property
    def netns(self) -> int:
        """
        Inode number of the network namespace.

        :raises FaultError: if it cannot be read
        """
        return there(self.netns_or_lost)

    @property
    def ifname(self) -> bytes | None:
        """
        Name of the interface that it is bound to, ``None`` if it is bound to none.

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
        """Owner of the inode, ``None`` if it has no inode."""
        return self.inode.uid if self.inode is not None else None

    @property
    def told_uid(self) -> int:
        """Owner as in procfs and sock_diag: ``sock_i_uid()`` or, in newer kernels, ``sk_uid()``."""
        # sock_i_uid() is the owner of the inode, or 0 if there is no inode.
        return (self.i_uid if has_sock_i_uid(self.prog) else self.uid) or 0

    @property
    def holders(self) -> list[Holder] | None:
        """Every fd that holds it; ``None`` if holders were not looked for."""
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

    # The columns of ss.

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        """
        What ss writes in its column Netid: ``u_str``.

        :param family: ``AF_*``
        :param type: ``SOCK_*``
        """
        return netid(family, type)

    @property
    def netid(self) -> str:
        """What ss writes in its column Netid for this socket."""
        return self.netid_of(self.family, self.type, self.protocol)

    @property
    def state_name(self) -> str:
        """Its state, as ss writes it: ``ESTAB``."""
        return state_name(self.state)

    def local_end(self) -> Endpoint:
        """The local end, as ss shows it."""
        return Endpoint(None, b"%d" % self.ino, " ")

    def remote_end(self) -> Endpoint | None:
        """The remote end, as ss shows it; ``None`` if there is none."""
        return None

    # The same for a batch, column by column. Each returns None if only the records can tell.

    @classmethod
    def local_ends(cls, batch: Columns) -> Endpoints | None:
        """:meth:`local_end` of each socket of a batch."""
        if cls.local_end is not SocketRecord.local_end:
            return None
        return Endpoints([None] * len(batch), same, batch.inos, " ", None)

    @classmethod
    def remote_ends(cls, batch: Columns) -> Endpoints | None:
        """:meth:`remote_end` of each socket of a batch."""
        if cls.remote_end is not SocketRecord.remote_end:
            return None
        nothing = [""] * len(batch)
        return Endpoints([None] * len(batch), same, nothing, "", None)

    @classmethod
    def recv_qs(cls, batch: Columns) -> Sequence[int] | None:
        """:attr:`recv_q` of each socket of a batch."""
        return batch.column("recv_q") if isinstance(cls.recv_q, Derived) else None

    @classmethod
    def send_qs(cls, batch: Columns) -> Sequence[int] | None:
        """:attr:`send_q` of each socket of a batch."""
        return batch.column("send_q") if isinstance(cls.send_q, Derived) else None

    @classmethod
    def described(cls, batch: Columns) -> Described | None:
        """The one-line description of each socket of a batch."""
        return None

    # The one-line description, and the notes beside it.

    def described_end(self) -> Endpoint | None:
        """The local end in a one-line description; ``None`` if the family has no names for ends."""
        has_names = type(self).local_end is not SocketRecord.local_end
        return self.local_end() if has_names else None

    def unbound_words(self) -> str:
        """What the description shows in the place of the end if the socket :attr:`is_unbound`."""
        return "never bound"

    def note(self) -> str | None:
        """What is unusual about it as one end of two."""
        if self.is_unbound:
            return "never bound"
        # For a family that is not known, nothing tells whether a socket is connected.
        return None if self.is_connected or self.family_name == OTHER else "not connected"

    def peer_note(self, peer: SocketRecord) -> str | None:
        """What is unusual about *peer* as the other end of this socket."""
        if peer.netns != self.netns:
            return f"in network namespace {peer.netns}"
        return peer.note()

    def absent_peer_note(self) -> str | None:
        """Where its other end is, if the other end is not one socket."""
        return None

    def lsof(self, ino: int) -> LsofSocket | None:
        """
        What lsof shows of it; ``None`` if lsof shows no more than its protocol.

        :param ino: Inode of the file that leads to it.
        """
        return None

    def lsof_ends(self) -> str:
        """What to show behind the protocol if lsof shows the protocol alone."""
        return ""

    # The values that the filter expressions of ss compare.

    def match_address(self, local: bool) -> int | bytes | None:
        """
        The address that ``src`` and ``dst`` compare: the bytes of an IP address or of a name, or,
        in other families, a number, with :data:`ANY` for any address; ``None`` for no address.

        :param local: Whether to return that of the local end; else that of the remote end.
        """
        end = self.local_end() if local else self.remote_end()
        if end is None:
            return None
        address = (end.numbers or end)[0]
        if address is None:
            return ANY
        return int(address) if address.isdigit() else None

    def match_services(self, local: bool) -> set[str]:
        """All texts that match an end's port in ``src`` and ``dst``; ``*`` for any port."""
        end = self.local_end() if local else self.remote_end()
        if end is None:
            return set()
        service = (end.numbers or end)[1]
        return {"*" if service is None else service.decode("utf-8", "surrogateescape")}

    def match_port(self, local: bool) -> int | None:
        """The port that ``sport`` and ``dport`` compare; ``None`` if the end has no port."""
        for text in self.match_services(local):
            if text.removeprefix("-").isdecimal():
                return int(text)
        return None

    @property
    def match_ifindex(self) -> int:
        """The interface that ``dev`` compares: index of the one it is bound to, 0 for none."""
        return self.sock.bound_dev_if  # type: ignore[no-any-return]

    @property
    def is_autobound(self) -> bool:
        """Whether the kernel chose the port or name of this end."""
        return False

    def parts(self) -> Sequence[SocketRecord]:
        """Records of the parts that ss shows in lines of their own, below the socket."""
        return ()

    def skmem(self) -> tuple[int, ...] | None:
        """What ``ss -m`` shows, in the order of ss; ``None`` if it is not a full socket."""
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
        """Whether it was neither bound nor connected; false in families that cannot tell."""
        return False

    @property
    def is_unlisted(self) -> bool:
        """Whether it is in no table that the kernel lists, so that only its fds lead to it."""
        return self.is_unbound

    @property
    def is_bound_inactive(self) -> bool:
        """Whether it is in the state that ss calls BOUND-INACTIVE: closed, with a port."""
        return False

    @property
    def cgroup_path(self) -> CgroupPath | None:
        """Path of its cgroup (version 2), ``None`` if it has none."""
        return sock_cgroup_path(self.prog, self.sock)

    def detail_words(self) -> list[str]:
        """
        The first words of ``ss -e``: in most families owner, inode and cookie
        (``sock_details_print()``).
        """
        uid = self.told_uid
        return [*([f"uid:{uid}"] if uid else ()), f"ino:{self.ino}", f"sk:{self.sock.cookie:x}"]

    def extended_words(self) -> str:
        """The words of ``ss -e`` after :meth:`detail_words`, escaped."""
        return ""

    def info(self) -> Any:
        """The values of ``ss -i`` as a named tuple, ``None`` if there are none."""
        return None

    def info_words(self) -> str:
        """The words of ``ss -i``, escaped."""
        return ""


def directions(shutdown: int) -> str:
    """
    ``<->``, with a ``-`` in the place of each direction that was shut down.

    :param shutdown: ``sk_shutdown``
    """
    receives = "-" if shutdown & _RCV_SHUTDOWN else "<"
    sends = "-" if shutdown & _SEND_SHUTDOWN else ">"
    return f"{receives}-{sends}"


def cgroup_text(path: CgroupPath | None) -> str | None:
    """The words of ss for a cgroup: ``cgroup:/system.slice``; ``unreachable`` if it was removed."""
    if path is None:
        return None
    return f"cgroup:unreachable:{path.id:x}" if path.removed else f"cgroup:{escaped(path)}"


class UnreadableSocket:
    """A socket that could not be read."""

    def __init__(self, sk: int, error: str, holders: list[Holder] | None = None) -> None:
        self.sk = sk
        #: What is wrong, in a few words.
        self.error = error
        self.holders = holders

    @property
    def where(self) -> str:
        """Which row it is, for a message."""
        return f"socket at {self.sk:#x}"


AnySocket = Union[SocketRecord, UnreadableSocket]


class Sockets(Protocol):
    """
    The part of :class:`~drgn_sockets.records.reader.SocketReader` with which a family looks for
    the other end of a socket.
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
    A family of sockets. Each has a class derived from this one, in a module of
    :mod:`drgn_sockets.records.families`. The registry in that package says how its sockets are
    told from others.
    """

    #: Its name, as in :attr:`SocketRecord.family_name` of its records: ``tcp``.
    name: ClassVar[str]
    #: Name of the kernel module that the family may be in.
    module: ClassVar[str | None] = None
    #: The record of its full sockets, and the records of the smaller structures that the kernel
    #: has before and after a full socket (requests, TIME-WAIT).
    record: ClassVar[type[SocketRecord]]
    small: ClassVar[tuple[type[SocketRecord], ...]] = ()
    #: Records of the parts that ss prints below a socket.
    parts: ClassVar[tuple[type[SocketRecord], ...]] = ()
    #: Columns that only its records have; ``of`` of each is the class of the records.
    columns: ClassVar[tuple[Column, ...]] = ()
    #: The record of a socket of which only ``struct sock`` was read.
    plain: ClassVar[type[SocketRecord]]
    #: Whether ``struct sock`` is enough to show the ends of its sockets.
    brief: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "plain" not in cls.__dict__:
            name = f"{cls.__name__}PlainRecord"
            # It has the family's name and Netid. Other attributes may need more than struct sock.
            also = {"family_name": cls.name, "netid_of": cls.record.__dict__.get("netid_of")}
            cls.plain = type(name, (SocketRecord,), {k: v for k, v in also.items() if v})

    def small_record(self, common: SockCommon) -> type[SocketRecord] | None:
        """The record of what is not a full socket by its state (``sk_fullsock()``), or ``None``."""
        return None

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        """
        Iterate over its sockets in the kernel's lists and tables, in all network namespaces.

        :param known: Sockets that may be left out, each with the next node of its hash chain.
        :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
        :raises LookupError: if the program lacks the types or variables
        """
        return iter(())

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        """The other end of one of its sockets, if the other end is on this machine."""
        return None

    def peers(self, sockets: Sockets, records: Iterable[Any]) -> Mapping[int, AnySocket]:
        """
        The other ends of many of its sockets, as by :meth:`peer`; one walk may find all of them.

        :return: Other ends, by the ``struct sock *`` of the given record
        """
        ends = ((record.sk, self.peer(sockets, record)) for record in records)
        return {sk: peer for sk, peer in ends if peer is not None}

    def listener(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """
        The listener that one of its sockets was, or is still to be, accepted from. Only families
        whose accepted sockets go by the name of their listener have one.
        """
        return None

    def is_known(self, prog: Program) -> bool:
        """Whether the program has the type of its sockets, which may be in a module."""
        return has_type(prog, self.record.struct.C_TYPE)
