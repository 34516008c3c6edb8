# SPDX-License-Identifier: LGPL-2.1-or-later
"""TIPC sockets: net/tipc/socket.c."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, lost_by, unbroken
from drgn_sockets.kernel.module import module_variable
from drgn_sockets.kernel.net import for_each_net
from drgn_sockets.kernel.rhashtable import Rhashtable, walk_rhashtable
from drgn_sockets.kernel.sock import AF_TIPC, SOCK_DGRAM, SOCK_STREAM, Sock, SockCommon
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct
from drgn_sockets.program import once_per_program
from drgn_sockets.records.columns import Column
from drgn_sockets.records.names import lsof_type_name
from drgn_sockets.records.socket import Derived, Endpoint, Family, SocketRecord, Sockets, same

# net/tipc/socket.c: TIPC_* states, which are numbers of TCP states.
_ESTABLISHED = 1
_CONNECTING = 2
_LISTEN = 10
# include/uapi/linux/tipc.h
_SERVICE_ADDR = 2
_SOCKET_ADDR = 3
_IMPORTANCE = ("low", "medium", "high", "critical")
# TIPC_MAX_PUBL is 65535; one socket may have thousands of names.
_MAX_PUBLICATIONS = 1 << 16
# As ss writes them in its column Netid.
_NETIDS = {SOCK_STREAM: "st", SOCK_DGRAM: "dg", 4: "rd", 5: "sq"}


class TipcSock(Sock):
    """``struct tipc_sock``."""

    C_TYPE = "struct tipc_sock"

    node = Int("node.next", help="next in its hash chain")
    write_queue_len = Int("sk.sk_write_queue.qlen", help="messages in the send queue")
    tipc_port = Int("portid", help="TIPC: port ID")
    publications = Int("publications.next", help="first struct publication, or the list itself")
    pub_count = Int("pub_count", help="number of names that it was given")
    # struct tipc_msg consists of words in network byte order.
    phdr = Bytes("phdr.hdr", help="header of what it sends: __be32 []")
    max_pkt = Int("max_pkt", help="largest packet to the other end, bytes")
    conn_timeout = Int("conn_timeout", help="TIPC_CONN_TIMEOUT, ms")
    snt_unacked = Int("snt_unacked", help="blocks sent that the other end has not acknowledged")
    snd_win = Int("snd_win", help="how many of these it may send")
    rcv_unacked = Int("rcv_unacked", help="blocks received that it has not acknowledged")
    rcv_win = Int("rcv_win", help="its window, blocks")
    cong_link_cnt = Int("cong_link_cnt", help="links that have no room for what it sends")
    tipc_group = Int("group", help="struct tipc_group * that it has joined")
    # Linux kernel commit 14623e005a1e ("tipc: eliminate redundant fields in struct tipc_sock") (in
    # v5.14). Kernels since then have conn_addrtype, and service type and instance in phdr.
    conn_addrtype = OptInt("conn_addrtype", help="TIPC_*ADDR that it is connected by, or 0")
    conn_type = OptInt("conn_type", help="service type that it is connected by, or 0")
    conn_instance = OptInt("conn_instance", help="service instance that it is connected by")
    dest_family = Int("peer.family", help="AF_TIPC if connect() gave it a destination")
    dest_addrtype = Int("peer.addrtype", help="TIPC_*ADDR of that")
    dest_type = Int("peer.addr.name.name.type", help="service type, or port ID")
    dest_instance = Int("peer.addr.name.name.instance", help="service instance, or node")


class _Hashed(SockCommon):
    C_TYPE = "struct tipc_sock"

    node = Int("node.next")


class TipcNet(Struct):
    """``struct tipc_net``."""

    C_TYPE = "struct tipc_net"

    node_addr = Int("node_addr", help="address of this node, 0 for none")
    # for_each_tipc() reads the table at the place of this member.
    sk_rht = Int("sk_rht.tbl", help="struct bucket_table * of its sockets")


class Publication(Struct):
    """``struct publication``: a range of service instances that a socket is bound to."""

    C_TYPE = "struct publication"

    # Linux kernel commit 998d3907f419 ("tipc: re-organize members of struct publication") (in
    # v5.13)
    type = Int("sr.type", "type", help="service type")
    lower = Int("sr.lower", "lower", help="first instance")
    upper = Int("sr.upper", "upper", help="last instance")
    scope = Int("scope", help="TIPC_*_SCOPE: 2 cluster, 3 node")
    binding_sock = Int("binding_sock.next", help="next of the same socket")


class Group(Struct):
    """``struct tipc_group``, which each member has for itself."""

    C_TYPE = "struct tipc_group"

    type = Int("type", help="service type")
    instance = Int("instance", help="instance that this member has")
    scope = Int("scope", help="TIPC_*_SCOPE")
    member_cnt = Int("member_cnt", help="members that it knows")


@once_per_program
def _net_id(prog: Program) -> int:
    """
    The index of TIPC's data in the array ``net->gen->ptr``.

    :raises LookupError: if TIPC is not loaded, or the variable cannot be read, as in a core that
        was distilled when this package did not know TIPC
    """
    try:
        variable = module_variable(prog, "tipc", "tipc_net_id", "unsigned int")
        return variable.value_()  # type: ignore[no-any-return]
    except FaultError as e:
        raise LookupError(f"tipc_net_id cannot be read: {e}") from None


def tipc_net(prog: Program, net: int) -> TipcNet:
    """
    TIPC's data for a network namespace, as ``tipc_net()``.

    :param net: ``struct net *`` as an integer
    :raises FaultError: if it cannot be read
    :raises LookupError: if TIPC is not loaded, or the program lacks its types
    """
    generic = Object(prog, "struct net *", net).gen
    return TipcNet.layout(prog).read(generic.ptr[_net_id(prog)].value_())


def for_each_tipc(prog: Program, known: Mapping[int, int] = NOTHING) -> Iterator[SockCommon | Lost]:
    """
    Iterate over the TIPC sockets of all network namespaces, as ``tipc_diag_dump()``.

    The topology server of each namespace has a socket that no process holds.

    :param known: Sockets that are passed over
    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    :raises LookupError: if TIPC is not loaded, or the program lacks its types
    """
    layout = _Hashed.layout(prog)
    for net in for_each_net(prog):
        if isinstance(net, Lost):
            yield net
            continue
        try:
            tn = tipc_net(prog, net.address)
            table = Rhashtable.layout(prog).read(
                tn.address + TipcNet.layout(prog).cls.places["sk_rht"].offset
            )
        except FaultError as e:
            # This becomes a row with an error: the sockets of the namespace are missing.
            yield lost_by(e, TipcNet.C_TYPE)
            continue
        yield from walk_rhashtable(prog, table, layout, lambda sock: sock.node, _is_one, known)


def _is_one(sock: SockCommon) -> bool:
    return sock.family == AF_TIPC and sock.net != 0


class Name(NamedTuple):
    """A range of service instances."""

    type: int
    lower: int
    upper: int
    #: ``TIPC_*_SCOPE``: 2 cluster, 3 node.
    scope: int


class TipcInfo(NamedTuple):
    """The values of ``ss --tipcinfo``."""

    #: ``STREAM``, ``DGRAM``, ``RDM``, ``SEQPACKET``
    type: str
    #: The congestion that keeps it from sending: ``link``, ``conn`` or ``none``.
    cong: str
    #: Messages that were dropped.
    drop: int
    #: Whether it is bound to a name.
    publ: bool
    #: The service type and instance that it was connected by, ``None`` if by no service.
    via: tuple[int, int] | None


class TipcRecord(SocketRecord):
    """A TIPC socket. Its queues are counted in messages."""

    family_name = "tipc"
    struct: ClassVar[type[SockCommon]] = TipcSock

    recv_q = Derived(
        same, "receive_queue_len", doc="Messages to be read; of a listener, connections waiting."
    )
    send_q = Derived(same, "write_queue_len", doc="Messages on their way out.")

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return f"ti_{_NETIDS.get(type, type)}"

    def _header(self, word: int) -> int:
        """A word of the header of its outgoing messages."""
        return int.from_bytes(self.sock.phdr[4 * word : 4 * word + 4], "big")

    @property
    def node_addr(self) -> int:
        """
        Address of its node, 0 for none.

        :raises FaultError: if it cannot be read
        """
        return tipc_net(self.prog, self.sock.net).node_addr

    @property
    def peer_port(self) -> int:
        """``tsk_peer_port()``: port ID at the other end."""
        return self._header(5)

    @property
    def peer_node(self) -> int:
        """``tsk_peer_node()``: node of the other end."""
        return self._header(7)

    @property
    def is_connected(self) -> bool:
        return bool(self.state == _ESTABLISHED)

    def local_end(self) -> Endpoint:
        """Node and port ID."""
        return Endpoint(b"%d" % self.node_addr, b"%d" % self.sock.tipc_port)

    def remote_end(self) -> Endpoint:
        """Node and port ID; ss writes ``-`` for none."""
        if not self.is_connected:
            return Endpoint(b"", b"", "-")
        return Endpoint(b"%d" % self.peer_node, b"%d" % self.peer_port)

    def note(self) -> str | None:
        if self.state == _LISTEN:
            return f"listening, {self.recv_q} not accepted" if self.recv_q else "listening"
        if self.state == _CONNECTING:
            return "connecting"
        return None if self.is_connected or self.destination is not None else "not connected"

    @property
    def names(self) -> list[Name]:
        """
        The service ranges that it is bound to, in the order of ``bind()``.

        :raises FaultError: if they cannot be read
        """
        head = self.sock.address + TipcSock.layout(self.prog).cls.places["publications"].offset
        layout = Publication.layout(self.prog)
        found = unbroken(list_for_each_entry(layout, head, "binding_sock", _MAX_PUBLICATIONS))
        # The kernel puts new ones at the head of the list.
        return [Name(p.type, p.lower, p.upper, p.scope) for p in found][::-1]

    @property
    def via(self) -> tuple[int, int] | None:
        """The service type and instance that it was connected by, ``None`` if by a port ID."""
        sock = self.sock
        if not self.is_connected:
            return None
        if sock.conn_addrtype is None:
            return (sock.conn_type, sock.conn_instance) if sock.conn_type else None
        return (self._header(8), self._header(9)) if sock.conn_addrtype else None

    @property
    def destination(self) -> dict[str, int] | None:
        """The default destination of an unconnected socket: a service, or a node and port ID."""
        sock = self.sock
        if self.is_connected or sock.dest_family != AF_TIPC:
            return None
        if sock.dest_addrtype == _SERVICE_ADDR:
            return {"type": sock.dest_type, "instance": sock.dest_instance}
        if sock.dest_addrtype == _SOCKET_ADDR:
            return {"node": sock.dest_instance, "port": sock.dest_type}
        return None

    @property
    def importance(self) -> str:
        """``TIPC_IMPORTANCE``: ``low``, ``medium``, ``high``, ``critical``."""
        user = self._header(0) >> 25 & 0xF
        return _IMPORTANCE[user] if user < len(_IMPORTANCE) else str(user)

    @property
    def communication_group(self) -> dict[str, int] | None:
        """
        The group that it has joined (``TIPC_GROUP_JOIN``), ``None`` if there is none.

        :raises FaultError: if it cannot be read
        """
        if not self.sock.tipc_group:
            return None
        group = Group.layout(self.prog).read(self.sock.tipc_group)
        members = {"members": group.member_cnt}
        return {"type": group.type, "instance": group.instance, "scope": group.scope, **members}

    def info(self) -> TipcInfo:
        sock = self.sock
        cong = "link" if sock.cong_link_cnt else "none"
        if not sock.cong_link_cnt and sock.snt_unacked > sock.snd_win:
            cong = "conn"
        publ = not self.is_connected and bool(self.names)
        return TipcInfo(lsof_type_name(self.type), cong, sock.drops, publ, self.via)

    def info_words(self) -> str:
        """The words of ``ss --tipcinfo``."""
        info = self.info()
        words = [f"type:{info.type}", f"cong:{info.cong}", f"drop:{info.drop}"]
        if info.publ:
            words.append("publ")
        if info.via is not None:
            words.append(f"via {{{info.via[0]},{info.via[1]}}}")
        return " ".join(words)


_column = functools.partial(Column, of=TipcRecord)


class Tipc(Family):
    """TIPC."""

    name = "tipc"
    module = "tipc"
    record = TipcRecord
    columns = (
        _column(
            "tipc_names",
            "service ranges that a TIPC socket is bound to: type, lower, upper, scope",
            lambda r: [name._asdict() for name in r.names],
        ),
        _column(
            "tipc_via",
            "service type and instance that a TIPC socket was connected by",
            lambda r: None if r.via is None else list(r.via),
        ),
        _column(
            "tipc_destination",
            "where a TIPC socket without connection sends to",
            lambda r: r.destination,
        ),
        _column("tipc_importance", "TIPC_IMPORTANCE", lambda r: r.importance),
        _column(
            "tipc_member",
            "communication group that a TIPC socket has joined",
            lambda r: r.communication_group,
        ),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_tipc(prog, known)

    def is_known(self, prog: Program) -> bool:
        # The local end needs the address of the node, which is in struct tipc_net.
        try:
            _net_id(prog)
        except LookupError:
            return False
        return super().is_known(prog)

    def peer(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """The other end of a connection, if it is on this machine."""
        if not isinstance(record, TipcRecord) or not record.is_connected:
            return None
        found = None
        for other in sockets.of_families(self.name):
            if isinstance(other, TipcRecord) and _are_ends(record, other):
                if other.netns == record.netns:
                    return other
                found = other
        return found


def _are_ends(one: TipcRecord, other: TipcRecord) -> bool:
    if not other.is_connected or other.sock.tipc_port != one.peer_port:
        return False
    if other.peer_port != one.sock.tipc_port:
        return False
    # A node without an address has no connections to other nodes.
    nodes = (one.node_addr, other.node_addr)
    return nodes == (other.peer_node, one.peer_node) and (one.netns == other.netns or all(nodes))
