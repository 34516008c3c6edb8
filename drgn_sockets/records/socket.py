# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets of every family as plain values, read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Union

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.sock import (
    Sock,
    SockCommon,
    has_sock_i_uid,
    sk_drops_read,
    sk_forward_alloc_get,
)
from drgn_sockets.kernel.structs import Struct
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.holder import AnyInode, Holder, HoldersOfSockets


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
    """Name of an end of a socket, as bytes that the kernel or a user chose: not escaped."""

    #: ``127.0.0.1``, ``rtnl``, a path, …
    address: bytes
    #: Port, process, interface, …
    service: bytes
    #: What ss writes between them.
    separator: str = ":"
    #: Address and service in numbers (``ss -n``), where these are names.
    numbers: tuple[bytes, bytes] | None = None


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

    def __init__(self, prog: Program, sock: Any, netns: int) -> None:
        self.prog = prog
        #: The decoded structure, of class :attr:`struct`.
        self.sock = sock
        #: Inode of the network namespace.
        self.netns = netns

    #: Name of its family, one of :data:`~drgn_sockets.records.families.FAMILY_NAMES`. (Its address
    #: family, ``AF_*``, is :attr:`family`; several families of ours may have the same.)
    family_name: ClassVar[str] = "other"

    #: A record is of what could be read, see :class:`UnreadableSocket`.
    error: str | None = None
    #: Its inode, ``None`` if it has none.
    inode: AnyInode | None = None
    #: How its family calls its state, where these are not those of TCP.
    state_text: str | None = None
    #: Whether it is one of the :meth:`parts` of a socket.
    is_part: ClassVar[bool] = False
    #: Further structures that are read of it, by attribute.
    more: ClassVar[Mapping[str, type[Struct]]] = {}
    #: Name of the interface it is bound to, if it is.
    ifname: bytes | None = None
    #: Who holds what, ``None`` if nobody looked.
    all_holders: HoldersOfSockets | None = None

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

    def local_end(self) -> Endpoint:
        """Name of this end, as ss writes it."""
        return Endpoint(b"*", b"%d" % self.ino, " ")

    def remote_end(self) -> Endpoint | None:
        """Name of the other end, ``None`` if it has none."""
        return None

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

    def extended_words(self) -> str:
        """What ``ss -e`` says of it and not of sockets of all families; escaped."""
        return ""

    def info(self) -> Any:
        """What ``ss -i`` says of it, as a named tuple; ``None`` for nothing."""
        return None

    def info_words(self) -> str:
        """What ``ss -i`` says of it; escaped."""
        return ""


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
    #: Those of what a socket of it consists of.
    parts: ClassVar[tuple[type[SocketRecord], ...]] = ()
    #: The record if no more than ``struct sock`` was read.
    plain: ClassVar[type[SocketRecord]]
    #: Whether ``struct sock`` tells its ends.
    brief: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "plain" not in cls.__dict__:
            cls.plain = type(
                f"{cls.__name__}PlainRecord", (SocketRecord,), {"family_name": cls.name}
            )

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

    def listener(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """
        The listener that a socket of it was accepted from, or is still to be, where sockets of the
        family are known by the name of their listener.
        """
        return None

    def is_known(self, prog: Program) -> bool:
        """Whether the program has the type of its sockets: that may be a module's."""
        return _has_type(prog, self.record.struct.C_TYPE)


def _has_type(prog: Program, name: str) -> bool:
    known: dict[str, bool] = prog.cache.setdefault("drgn_sockets.has_type", {})
    if name not in known:
        try:
            known[name] = prog.type(name).is_complete()
        except LookupError:
            known[name] = False
    return known[name]
