# SPDX-License-Identifier: LGPL-2.1-or-later
"""The common part of all sockets of ``AF_INET`` and ``AF_INET6``."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from operator import attrgetter
from socket import inet_ntop
from typing import Any, Callable, ClassVar, Optional

from drgn import Program

from drgn_sockets.kernel.net import ip_local_port_range
from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    SOCK_DGRAM,
    SOCK_RAW,
    TCP_CLOSE,
    TCP_LISTEN,
    Sock,
    sock_cgroup_classid,
)
from drgn_sockets.kernel.structs import (
    BigEndian,
    Bytes,
    Int,
    Member,
    OptInt,
    Struct,
    find_place,
)
from drgn_sockets.program import byte_order
from drgn_sockets.records.columns import Column
from drgn_sockets.records.socket import (
    Columns,
    Derived,
    Described,
    Endpoint,
    Endpoints,
    LsofSocket,
    SocketRecord,
    Sockets,
    cgroup_text,
    directions,
    same,
)

_INET_FLAGS = "inet_flags"
# include/net/sock.h
_SOCK_BINDPORT_LOCK = 8
# States in which sock_diag tells IPV6_V6ONLY.
_UNCONNECTED = frozenset({TCP_LISTEN, TCP_CLOSE})
# Names of protocols in ss.
_PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    58: "icmp6",
    132: "sctp",
    136: "udpl",
    262: "mptcp",
}


class InetFlag(Member[Optional[int]]):
    """An on/off option of an inet socket, kept as a bit-field or as a bit of ``inet_flags``."""

    # Linux kernel commit c274af224269 ("inet: introduce inet->inet_flags") and those after it
    # (in v6.6)
    def __init__(self, name: str, bit: int, help: str) -> None:
        super().__init__(name, _INET_FLAGS, help=help, optional=True)
        self._bit = bit

    def converter(self, prog: Program) -> Callable[[int], int] | None:
        if find_place(prog, prog.type(self.c_type), self.paths[0]) is not None:
            return None
        return lambda flags: flags >> self._bit & 1


class InetSock(Sock):
    """``struct inet_sock``."""

    C_TYPE = "struct inet_sock"

    sport = BigEndian("inet_sport", help="local port; the protocol for raw sockets")
    saddr = Bytes("inet_saddr", help="source address of what is sent, IPv4")
    tos = Int("tos", help="IP_TOS")
    ttl = Int("uc_ttl", help="IP_TTL, -1 for the default")
    pinet6 = OptInt("pinet6", help="struct ipv6_pinfo *, options of IPv6")
    recverr = InetFlag("recverr", 9, help="IP_RECVERR")
    recverr_rfc4884 = InetFlag("recverr_rfc4884", 10, help="IP_RECVERR_RFC4884")
    freebind = InetFlag("freebind", 11, help="IP_FREEBIND")
    hdrincl = InetFlag("hdrincl", 12, help="IP_HDRINCL")
    mc_loop = InetFlag("mc_loop", 13, help="IP_MULTICAST_LOOP")
    mc_all = InetFlag("mc_all", 14, help="IP_MULTICAST_ALL")
    transparent = InetFlag("transparent", 15, help="IP_TRANSPARENT")
    is_icsk = InetFlag("is_icsk", 16, help="it is a struct inet_connection_sock")
    nodefrag = InetFlag("nodefrag", 17, help="IP_NODEFRAG")
    bind_address_no_port = InetFlag("bind_address_no_port", 18, help="IP_BIND_ADDRESS_NO_PORT")
    defer_connect = InetFlag("defer_connect", 19, help="to be connected with the first data")


class Ipv6Pinfo(Struct):
    """``struct ipv6_pinfo``."""

    C_TYPE = "struct ipv6_pinfo"

    tclass = Int("tclass", help="IPV6_TCLASS")


# Caching pays: a machine talks to many ports of few addresses.
@functools.lru_cache(4096)
def ip_text(address: bytes) -> str:
    """Text of an IP address of 4 or 16 bytes."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _address(family: int, v6: bytes | None, v4: bytes) -> str:
    return ip_text(v6 if family == AF_INET6 and v6 is not None else v4)


class InetRecord(SocketRecord):
    """A socket of ``AF_INET`` or ``AF_INET6``."""

    #: Whether its port numbers are ports (and not the protocol of a raw socket).
    has_ports: ClassVar[bool] = True

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
    local_port = Derived(same, "num", doc="Local port (``skc_num``).")
    remote_port = Derived(same, "dport", doc="Remote port (``skc_dport``).")

    @property
    def is_connected(self) -> bool:
        return bool(self.remote_port) and not self.is_unbound

    @property
    def is_unbound(self) -> bool:
        # Such a socket is not in procfs.
        return self.sock.state == TCP_CLOSE and not self.local_port

    @classmethod
    def netid_of(cls, family: int, type: int, protocol: int) -> str:
        return _netid(type, protocol)

    def local_end(self) -> Endpoint:
        """IP address, interface and port."""
        host = _host(self.local_address, self.sock.ipv6only)
        return Endpoint(host, _port(self.local_port), interface=self.ifname)

    def remote_end(self) -> Endpoint:
        """IP address and port."""
        return Endpoint(_host(self.remote_address, self.sock.ipv6only), _port(self.remote_port))

    @classmethod
    def local_ends(cls, batch: Columns) -> Endpoints | None:
        # Only the records have the names of interfaces.
        if any(batch.column("bound_dev_if")):
            return None
        return Endpoints(*_addresses_of(batch, "rcv_saddr"), batch.column("local_port"))

    @classmethod
    def remote_ends(cls, batch: Columns) -> Endpoints | None:
        return Endpoints(*_addresses_of(batch, "daddr"), batch.column("remote_port"))

    @classmethod
    def described(cls, batch: Columns) -> Described | None:
        if cls.is_connected is not InetRecord.is_connected:
            return None
        ends = cls.local_ends(batch)
        if ends is None:
            return None
        closed = [state == TCP_CLOSE for state in batch.column("state")]
        unbound = [close and not port for close, port in zip(closed, ends.services)]
        return Described(ends, unbound, batch.column("remote_port"))

    def note(self) -> str | None:
        return "never bound or connected" if self.is_unbound else None

    def detail_words(self) -> list[str]:
        words = super().detail_words()
        sock = self.sock
        mark = getattr(sock, "mark", 0)
        if mark:
            words.append(f"fwmark:{mark:#x}")
        cgroup = cgroup_text(self.cgroup_path)
        if cgroup is not None:
            words.append(cgroup)
        if isinstance(sock, Sock):
            if self.family == AF_INET6 and sock.state in _UNCONNECTED:
                words.append(f"v6only:{sock.ipv6only}")
            words.append(directions(sock.shutdown))
        return words

    def lsof_ends(self) -> str:
        return "" if self.is_unbound else f" {self.lsof_addresses()}"

    def lsof_addresses(self) -> str:
        """Both ends as lsof writes them: ``127.0.0.1:22->10.0.0.1:4711``."""
        here = _lsof_address(self.local_address, self.local_port)
        if not self.remote_port:
            return here
        return f"{here}->{_lsof_address(self.remote_address, self.remote_port)}"

    def lsof_internet(self, ino: int, node: str, more: str = "") -> LsofSocket | None:
        """
        What lsof shows of a socket whose protocol it knows.

        :param node: The protocol.
        :param more: What follows the addresses.
        """
        if self.is_unbound:
            return None
        type_ = "IPv6" if self.family == AF_INET6 else "IPv4"
        return LsofSocket(type_, str(ino), node, (self.lsof_addresses() + more).encode())

    def hex_ends(self) -> str:
        """Both ends as in ``/proc/net/raw`` and ``/proc/net/icmp``; lsof prints them unchanged."""
        sock = self.sock
        six = self.family == AF_INET6
        near, far = (sock.v6_rcv_saddr, sock.v6_daddr) if six else (sock.rcv_saddr, sock.daddr)
        form = f"{byte_order(self.prog)}{len(near) // 4}I"
        texts = ("".join(f"{word:08X}" for word in struct.unpack(form, raw)) for raw in (near, far))
        ports = (self.local_port, self.remote_port)
        return "->".join(f"{text}:{port:04X}" for text, port in zip(texts, ports))

    def match_address(self, local: bool) -> bytes:
        sock = self.sock
        if sock.family == AF_INET6:
            v6: bytes | None = sock.v6_rcv_saddr if local else sock.v6_daddr
            if v6 is not None:
                return v6
        return sock.rcv_saddr if local else sock.daddr  # type: ignore[no-any-return]

    def match_port(self, local: bool) -> int:
        return self.local_port if local else self.remote_port  # type: ignore[no-any-return]

    @property
    def is_autobound(self) -> bool:
        # As in ss. bind() to a port sets the lock. An accepted socket has no lock, but it has the
        # port of its service, which is mostly outside the range.
        low, high = ip_local_port_range(self.prog, self.sock.net)
        locks = getattr(self.sock, "userlocks", 0)
        return low <= self.local_port <= high and not locks & _SOCK_BINDPORT_LOCK


@functools.lru_cache(256)
def _netid(type_: int, protocol: int) -> str:
    if type_ == SOCK_RAW:
        return "raw"
    if type_ == SOCK_DGRAM and protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        return "icmp" if protocol == IPPROTO_ICMP else "icmp6"
    return _PROTOCOLS.get(protocol, f"ip{protocol}")


def _host(address: str, ipv6only: int) -> bytes | None:
    # As in ss: a socket at "*" accepts IPv4 as well, one at "[::]" does not.
    return None if address == "::" and not ipv6only else address.encode("ascii")


def _port(port: int) -> bytes | None:
    return b"%d" % port if port else None


def _addresses_of(
    batch: Columns, address: str
) -> tuple[Sequence[Any], Callable[[Any], bytes | None]]:
    """Keys of the addresses of a batch, and a function that makes an address from a key."""
    families, v4 = batch.column("family"), batch.column(address)
    if set(families) <= {AF_INET}:
        return v4, lambda raw: ip_text(raw).encode("ascii")
    v6, ipv6only = batch.column(f"v6_{address}"), batch.column("ipv6only")
    return list(zip(families, v6, v4, ipv6only)), lambda key: _host(_address(*key[:3]), key[3])


def _lsof_address(address: str, port: int) -> str:
    if address in ("0.0.0.0", "::"):
        return f"*:{port}"
    if address.startswith("::ffff:") and "." in address:
        address = address[len("::ffff:") :]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def other_ends(sockets: Sockets, records: Iterable[InetRecord]) -> dict[int, InetRecord]:
    """
    Find the other ends of connections on this machine, in one walk for all connections.

    An end in the same network namespace is preferred; a connection over a veth pair has its ends
    in two namespaces.

    :param records: Sockets of one family
    :return: Other ends, by the ``struct sock *`` of the given record
    """
    wanted: dict[_Ends, list[InetRecord]] = {}
    for record in records:
        if record.remote_port:
            wanted.setdefault(_ends(record)[::-1], []).append(record)
    if not wanted:
        return {}
    found: dict[int, InetRecord] = {}
    near: set[int] = set()
    ports = {local_port for (_, local_port), _ in wanted}
    names = {record.family_name for records_ in wanted.values() for record in records_}
    missing = sum(map(len, wanted.values()))
    for other in sockets.of_families(*names):
        if not isinstance(other, InetRecord) or other.local_port not in ports:
            continue
        for record in wanted.get(_ends(other), ()):
            if other.sk == record.sk or record.sk in near:
                continue
            found[record.sk] = other
            if other.netns == record.netns:
                near.add(record.sk)
                missing -= 1
        if not missing:
            break
    return found


_Ends = tuple[tuple[str, int], tuple[str, int]]


def _ends(record: InetRecord) -> _Ends:
    return (
        (_plain(record.local_address), record.local_port),
        (_plain(record.remote_address), record.remote_port),
    )


def _plain(address: str) -> str:
    # Between an IPv4 client and a dual-stack server, only the server has ::ffff:127.0.0.1.
    return address[7:] if address.startswith("::ffff:") and "." in address else address


# Options and columns of all inet sockets.


def tos_values(record: InetRecord) -> dict[str, int] | None:
    """The values of ``ss --tos``; ``None`` if it is not a full socket."""
    sock = record.sock
    if not isinstance(sock, InetSock):
        return None
    values = {"tos": sock.tos}
    if sock.family == AF_INET6:
        pinet6 = Ipv6Pinfo.layout(record.prog).follow(sock.pinet6 or 0)
        if pinet6 is not None:
            values["tclass"] = pinet6.tclass
    # As inet_diag_msg_attrs_fill().
    values["class_id"] = sock_cgroup_classid(record.prog, sock) or sock.priority
    return values


def tos_text(record: InetRecord) -> str | None:
    """The words of ``ss --tos``: ``tos:0x10 tclass:0 class_id:0``."""
    values = tos_values(record)
    if values is None:
        return None
    # As "%#x" in C, which writes 0 without 0x.
    return " ".join(
        f"{name}:{value:#x}" if value else f"{name}:0" for name, value in values.items()
    )


# In the order of ss, which has its own name for one of them.
_OPTIONS = {
    name: {"bind_address_no_port": "bind_addr_no_port"}.get(name, name)
    for name in (
        *("recverr", "is_icsk", "freebind", "hdrincl", "mc_loop", "transparent", "mc_all"),
        *("nodefrag", "bind_address_no_port", "recverr_rfc4884", "defer_connect"),
    )
}


def inet_options(record: InetRecord) -> list[str] | None:
    """The options of ``ss --inet-sockopt``; ``None`` if it is not a full socket."""
    sock = record.sock
    if not isinstance(sock, InetSock):
        return None
    return [name for member, name in _OPTIONS.items() if getattr(sock, member)]


def inet_options_text(record: InetRecord) -> str | None:
    """The words of ``ss --inet-sockopt``: ``inet-sockopt: ( is_icsk mc_loop)``."""
    options = inet_options(record)
    return None if options is None else f"inet-sockopt: ({''.join(f' {o}' for o in options)})"


_column = functools.partial(Column, of=InetRecord)

#: Columns that sockets of all inet families have.
COLUMNS = (
    _column("qos", "tos, tclass and class_id, as ss --tos has them", tos_values, text=tos_text),
    _column(
        "sockopt",
        "options that are set, as ss --inet-sockopt has them",
        inet_options,
        text=inet_options_text,
    ),
    _column("laddr", "local IP address", attrgetter("local_address")),
    _column(
        "lport",
        "local port; of a raw socket, the protocol",
        attrgetter("local_port"),
        right=True,
    ),
    _column("raddr", "remote IP address", attrgetter("remote_address")),
    _column("rport", "remote port", lambda r: r.remote_port if r.has_ports else None, right=True),
)
