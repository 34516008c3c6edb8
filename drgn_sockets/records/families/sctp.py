# SPDX-License-Identifier: LGPL-2.1-or-later
"""SCTP sockets and their associations. One socket may have many associations."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.inet_ctl_sock import for_each_control_sock
from drgn_sockets.kernel.lists import list_for_each, list_for_each_entry
from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.kernel.memory import read_bytes
from drgn_sockets.kernel.sctp import for_each_sctp, sctp_bind_addrs
from drgn_sockets.kernel.sock import (
    AF_INET6,
    SOCK_SEQPACKET,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_SYN_SENT,
    SockCommon,
)
from drgn_sockets.kernel.structs import Bytes, CString, Int, Struct
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.program import byte_order
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord, InetSock, ip_text
from drgn_sockets.records.socket import (
    Derived,
    Family,
    LsofSocket,
    SocketRecord,
    Sockets,
    Timer,
    same,
)

#: States of an association (``SCTP_STATE_*``), by the names in ss.
STATES = (
    *("CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTAB", "SHUTDOWN_PENDING"),
    *("SHUTDOWN_SENT", "SHUTDOWN_RECEIVED", "ACK_SENT"),
)
# For each of these states, the state of TCP that is most like it.
_AS_TCP = (
    *(TCP_CLOSE, TCP_SYN_SENT, TCP_SYN_SENT, TCP_ESTABLISHED, TCP_FIN_WAIT1),
    *(TCP_FIN_WAIT2, TCP_CLOSE_WAIT, TCP_LAST_ACK),
)
# enum sctp_socket_type
_SCTP_SOCKET_TCP = 2
# The places of the address: after family and port in sockaddr_in, after family, port and flow
# information in sockaddr_in6.
_V4 = slice(4, 8)
_V6 = slice(8, 24)


class SctpSock(InetSock):
    """``struct sctp_sock``."""

    C_TYPE = "struct sctp_sock"

    sctp_type = Int("type", help="0 one to many associations (SOCK_SEQPACKET), 2 one (SOCK_STREAM)")
    ep = Int("ep", help="struct sctp_endpoint *")
    autoclose = Int("autoclose", help="SCTP_AUTOCLOSE, s, 0 for never")
    adaptation_ind = Int("adaptation_ind", help="SCTP_ADAPTATION_LAYER")
    pd_point = Int("pd_point", help="SCTP_PARTIAL_DELIVERY_POINT, bytes")
    sctp_nodelay = Int("nodelay", help="SCTP_NODELAY")
    disable_fragments = Int("disable_fragments", help="SCTP_DISABLE_FRAGMENTS")
    v4mapped = Int("v4mapped", help="SCTP_I_WANT_MAPPED_V4_ADDR")
    frag_interleave = Int("frag_interleave", help="SCTP_FRAGMENT_INTERLEAVE")
    ostreams = Int("initmsg.sinit_num_ostreams", help="SCTP_INITMSG, outgoing streams")
    max_instreams = Int("initmsg.sinit_max_instreams", help="SCTP_INITMSG, incoming streams")


class SctpEndpoint(Struct):
    """``struct sctp_endpoint``."""

    C_TYPE = "struct sctp_endpoint"

    port = Int("base.bind_addr.port")
    address_list = Int("base.bind_addr.address_list.next")
    asocs = Int("asocs.next")
    dead = Int("base.dead")
    rcvbuf_policy = Int("rcvbuf_policy")
    sndbuf_policy = Int("sndbuf_policy")


class SctpAssociation(Struct):
    """``struct sctp_association``."""

    C_TYPE = "struct sctp_association"

    next_asoc = Int("asocs.next", help="next association of the endpoint")
    assoc_id = Int("assoc_id", help="sctp_assoc_t")
    assoc_state = Int("state", help="SCTP_STATE_*")
    assoc_port = Int("base.bind_addr.port", help="local port")
    address_list = Int("base.bind_addr.address_list.next", help="local addresses")
    peer_port = Int("peer.port", help="remote port")
    primary_path = Int("peer.primary_path", help="struct sctp_transport *")
    transports = Int("peer.transport_addr_list.next", help="its paths")
    transport_count = Int("peer.transport_count", help="how many there are")
    my_vtag = Int("c.my_vtag", help="tag of what it receives")
    peer_vtag = Int("c.peer_vtag", help="tag of what it sends")
    a_rwnd = Int("a_rwnd", help="window last offered to the other end, bytes")
    peer_rwnd = Int("peer.rwnd", help="window the other end offers, bytes")
    unack_data = Int("unack_data", help="chunks of data not acknowledged")
    instrms = Int("stream.incnt", help="incoming streams")
    outstrms = Int("stream.outcnt", help="outgoing streams")
    in_chunk_list = Int("base.inqueue.in_chunk_list.next", help="chunks not yet looked at")
    out_chunk_list = Int("outqueue.out_chunk_list.next", help="chunks not yet sent")
    overall_error_count = Int("overall_error_count", help="errors in a row")
    assoc_max_burst = Int("max_burst", help="packets sent at once")
    max_retrans = Int("max_retrans", help="errors in a row until it is given up")
    frag_point = Int("frag_point", help="where messages are cut, bytes")
    assoc_pathmtu = Int("pathmtu", help="smallest path MTU, bytes")
    assoc_hbinterval = Int("hbinterval", help="between heartbeats, jiffies")
    init_retries = Int("init_retries", help="INITs sent again")
    shutdown_retries = Int("shutdown_retries", help="SHUTDOWNs sent again")
    rtx_data_chunks = Int("rtx_data_chunks", help="chunks of data sent again after a timeout")
    sndbuf_used = Int("sndbuf_used", help="bytes committed to sending")
    assoc_rmem_alloc = Int("rmem_alloc.counter", help="bytes in the receive queue")
    next_tsn = Int("next_tsn", help="sequence number (TSN) of the next chunk sent")
    ctsn_ack_point = Int("ctsn_ack_point", help="last TSN acknowledged")
    cum_tsn = Int("peer.tsn_map.cumulative_tsn_ack_point", help="last TSN received in sequence")
    max_tsn_seen = Int("peer.tsn_map.max_tsn_seen", help="highest TSN received")
    base_tsn = Int("peer.tsn_map.base_tsn", help="TSN of the first bit of the map")
    tsn_map_len = Int("peer.tsn_map.len", help="bits in the map of what was received")
    tsn_map = Int("peer.tsn_map.tsn_map", help="unsigned long *, that map")
    intl_capable = Int("peer.intl_capable", help="the other end can do I-DATA")
    ecn_capable = Int("peer.ecn_capable", help="the other end can do ECN")
    ipv4_address = Int("peer.ipv4_address", help="the other end understands IPv4 addresses")
    ipv6_address = Int("peer.ipv6_address", help="the other end understands IPv6 addresses")
    reconf_capable = Int("peer.reconf_capable", help="the other end can do RE-CONFIG")
    asconf_capable = Int("peer.asconf_capable", help="the other end can do ADD-IP")
    prsctp_capable = Int("peer.prsctp_capable", help="the other end can do PR-SCTP")
    auth_capable = Int("peer.auth_capable", help="the other end can do SCTP-AUTH")
    sack_needed = Int("peer.sack_needed", help="a SACK is due")
    sack_generation = Int("peer.sack_generation", help="which generation of SACKs it is")
    zero_window_announced = Int("peer.zero_window_announced", help="a window of 0 was offered")
    isacks = Int("stats.isacks", help="SACKs received")
    osacks = Int("stats.osacks", help="SACKs sent")
    opackets = Int("stats.opackets", help="packets sent")
    ipackets = Int("stats.ipackets", help="packets received")
    rtxchunks = Int("stats.rtxchunks", help="chunks sent again")
    outofseqtsns = Int("stats.outofseqtsns", help="TSNs received beyond the window")
    idupchunks = Int("stats.idupchunks", help="duplicates received")
    gapcnt = Int("stats.gapcnt", help="gap acknowledgements received")
    ouodchunks = Int("stats.ouodchunks", help="unordered chunks of data sent")
    iuodchunks = Int("stats.iuodchunks", help="unordered chunks of data received")
    oodchunks = Int("stats.oodchunks", help="ordered chunks of data sent")
    iodchunks = Int("stats.iodchunks", help="ordered chunks of data received")
    octrlchunks = Int("stats.octrlchunks", help="control chunks sent")
    ictrlchunks = Int("stats.ictrlchunks", help="control chunks received")


class SctpTransport(Struct):
    """``struct sctp_transport``: a path to an address of the other end."""

    C_TYPE = "struct sctp_transport"

    node = Int("transports.next")
    ipaddr = Bytes("ipaddr")
    dst = Int("dst")
    state = Int("state")
    cwnd = Int("cwnd")
    srtt = Int("srtt")
    rto = Int("rto")
    hbinterval = Int("hbinterval")
    pathmaxrxt = Int("pathmaxrxt")
    sackdelay = Int("sackdelay")
    ssthresh = Int("ssthresh")
    partial_bytes_acked = Int("partial_bytes_acked")
    flight_size = Int("flight_size")
    error_count = Int("error_count")
    rtx_pprev = Int("T3_rtx_timer.entry.pprev")
    rtx_expires = Int("T3_rtx_timer.expires")


class _Dst(Struct):
    C_TYPE = "struct dst_entry"
    dev = Int("dev")


class _Device(Struct):
    C_TYPE = "struct net_device"
    name = CString("name")
    ifindex = Int("ifindex")


def sctp_addr_text(prog: Program, addr: bytes) -> str:
    """The IP address in a ``union sctp_addr``."""
    (family,) = struct.unpack_from(byte_order(prog) + "H", addr)
    return ip_text(addr[_V6] if family == AF_INET6 else addr[_V4])


def sctp_tsnmap_pending(prog: Program, asoc: SctpAssociation) -> int | None:
    """
    Chunks of data received out of sequence; ``None`` if the map is missing.

    :raises FaultError: if the map cannot be read
    """
    pending: int = asoc.max_tsn_seen - asoc.cum_tsn & 0xFFFF
    gap = asoc.max_tsn_seen - asoc.base_tsn & 0xFFFFFFFF
    if gap == 0 or gap >= asoc.tsn_map_len:
        return pending
    size = (gap // 64 + 1) * 8
    data = read_bytes(prog, asoc.tsn_map, size)
    if data is None:
        return None
    received = 0
    for i, word in enumerate(struct.unpack(f"{byte_order(prog)}{size // 8}Q", data)):
        bits = min(gap + 1 - 64 * i, 64)
        received += bin(word & (1 << bits) - 1).count("1")
    return pending - received & 0xFFFF


class SctpInfo(NamedTuple):
    """
    ``struct sctp_info``, as sock_diag gives it, with names without ``sctpi_``.

    A socket has the values that begin with ``s_``, an association the others; the rest is ``None``.
    """

    tag: int | None = None
    state: int | None = None
    rwnd: int | None = None
    unackdata: int | None = None
    penddata: int | None = None
    instrms: int | None = None
    outstrms: int | None = None
    inqueue: int | None = None
    outqueue: int | None = None
    overall_error: int | None = None
    max_burst: int | None = None
    maxseg: int | None = None
    peer_rwnd: int | None = None
    peer_tag: int | None = None
    peer_capable: int | None = None
    peer_sack: int | None = None
    isacks: int | None = None
    osacks: int | None = None
    opackets: int | None = None
    ipackets: int | None = None
    rtxchunks: int | None = None
    outofseqtsns: int | None = None
    idupchunks: int | None = None
    gapcnt: int | None = None
    ouodchunks: int | None = None
    iuodchunks: int | None = None
    oodchunks: int | None = None
    iodchunks: int | None = None
    octrlchunks: int | None = None
    ictrlchunks: int | None = None
    p_address: str | None = None
    p_state: int | None = None
    p_cwnd: int | None = None
    p_srtt: int | None = None
    #: Milliseconds.
    p_rto: int | None = None
    #: Jiffies.
    p_hbinterval: int | None = None
    p_pathmaxrxt: int | None = None
    #: Milliseconds.
    p_sackdelay: int | None = None
    p_ssthresh: int | None = None
    p_partial_bytes_acked: int | None = None
    p_flight_size: int | None = None
    p_error: int | None = None
    s_autoclose: int | None = None
    s_adaptation_ind: int | None = None
    s_pd_point: int | None = None
    s_nodelay: int | None = None
    s_disable_fragments: int | None = None
    s_v4mapped: int | None = None
    s_frag_interleave: int | None = None
    s_type: int | None = None


# The words of ss for the values that it shows, in its order.
_WORDS = {
    "tag": "tag:{:x}",
    "state": "state:{}",
    "rwnd": "rwnd:{}",
    "unackdata": "unackdata:{}",
    "penddata": "penddata:{}",
    "instrms": "instrms:{}",
    "outstrms": "outstrms:{}",
    "inqueue": "inqueue:{}",
    "outqueue": "outqueue:{}",
    "overall_error": "overerr:{}",
    "max_burst": "maxburst:{}",
    "maxseg": "maxseg:{}",
    "peer_rwnd": "prwnd:{}",
    "peer_tag": "ptag:{:x}",
    "peer_capable": "pcapable:{}",
    "peer_sack": "psack:{}",
    "s_autoclose": "autoclose:{}",
    "s_adaptation_ind": "adapind:{}",
    "s_pd_point": "pdpoint:{}",
    "s_nodelay": "nodelay:{}",
    "s_disable_fragments": "nofrag:{}",
    "s_v4mapped": "v4mapped:{}",
    "s_frag_interleave": "fraginl:{}",
}


def sctp_info_text(info: SctpInfo) -> str:
    """The words of ``ss -i`` for *info*; values that are 0 are left out."""
    words = []
    for name, form in _WORDS.items():
        value = getattr(info, name)
        if value:
            words.append(form.format(sctp_state_name(value) if name == "state" else value))
    return " ".join(words)


def sctp_state_name(state: int) -> str:
    """Name of an association's state."""
    return STATES[state] if state < len(STATES) else str(state)


class SctpRecord(InetRecord):
    """An SCTP socket."""

    family_name = "sctp"
    struct: ClassVar[type[SockCommon]] = SctpSock
    local_port = Derived(
        lambda num, sport: num or sport, *("num", "sport"), doc="Local port, also after it."
    )
    recv_q = Derived(same, "ack_backlog", doc="Associations to be accepted.")
    send_q = Derived(same, "max_ack_backlog", doc="How many of these there may be.")

    def _endpoint(self) -> SctpEndpoint | None:
        return SctpEndpoint.layout(self.prog).follow(self.sock.ep)

    def _list(self, base: int, cls: type[Struct], member: str) -> int:
        """Address of a list head: of the member *member* of *cls*, in the structure at *base*."""
        return base + cls.layout(self.prog).cls.places[member].offset

    @property
    def is_one_to_many(self) -> bool:
        """Whether it may have many associations."""
        return bool(self.sock.sctp_type != _SCTP_SOCKET_TCP)

    def local_addrs(self) -> list[bytes] | None:
        """
        Each ``union sctp_addr`` that it is bound to; ``None`` if the program lacks their type.
        """
        return self._addrs(self._list(self.sock.ep, SctpEndpoint, "address_list"))

    def _addrs(self, head: int) -> list[bytes] | None:
        try:
            return sctp_bind_addrs(self.prog, head)
        except LookupError:
            # A kernel without BTF of modules (before v5.11).
            return None

    def local_addresses(self) -> list[str] | None:
        """The addresses that it is bound to, as text."""
        found = self.local_addrs()
        return None if found is None else [sctp_addr_text(self.prog, addr) for addr in found]

    def peer_addresses(self) -> list[str]:
        """Addresses of the other end; only an association has some."""
        return []

    def parts(self) -> Sequence[SocketRecord]:
        """Its associations."""
        layout = SctpAssociation.layout(self.prog)
        if self._endpoint() is None:
            return []
        head = self._list(self.sock.ep, SctpEndpoint, "asocs")
        asocs = unbroken(list_for_each_entry(layout, head, "next_asoc"))
        return [SctpAssociationRecord(self, asoc) for asoc in asocs]

    def lsof(self, ino: int) -> LsofSocket | None:
        if self.is_unbound:
            return None
        return LsofSocket("sock", str(ino), "SCTP", self.lsof_addresses().encode())

    def info(self) -> SctpInfo:
        """``sctp_get_sctp_info()``"""
        sock = self.sock
        return SctpInfo(
            s_autoclose=sock.autoclose,
            s_adaptation_ind=sock.adaptation_ind,
            s_pd_point=sock.pd_point,
            s_nodelay=sock.sctp_nodelay,
            s_disable_fragments=sock.disable_fragments,
            s_v4mapped=sock.v4mapped,
            s_frag_interleave=sock.frag_interleave,
            s_type=sock.sctp_type,
        )

    def info_words(self) -> str:
        words = []
        for name, addresses in (
            ("locals", self.local_addresses()),
            ("peers", self.peer_addresses()),
        ):
            if addresses:
                words.append(f"{name}:{','.join(addresses)}")
        return " ".join([*words, sctp_info_text(self.info())]).strip()


class SctpAssociationRecord(SctpRecord):
    """
    An association of an SCTP socket. ``ss`` shows it in a line of its own below the socket.

    :attr:`sock` is the structure of the socket.
    """

    is_part = True
    more: ClassVar[Mapping[str, type[Struct]]] = {"assoc": SctpAssociation}

    def __init__(self, socket: SctpRecord, assoc: SctpAssociation) -> None:
        super().__init__(socket.prog, socket.sock, socket.netns)
        self.inode = socket.inode
        self.all_holders = socket.all_holders
        #: The decoded ``struct sctp_association``.
        self.assoc = assoc
        self._socket_address: str = socket.local_address

    @functools.cached_property
    def _primary(self) -> SctpTransport | None:
        return SctpTransport.layout(self.prog).follow(self.assoc.primary_path)

    def _device(self) -> _Device | None:
        dst = _Dst.layout(self.prog).follow(self._primary.dst) if self._primary else None
        return _Device.layout(self.prog).follow(dst.dev) if dst else None

    @property
    def ifname(self) -> bytes | None:
        """Name of the interface of the route to the other end; ``None`` if there is none."""
        device = self._device()
        return device.name if device is not None and device.ifindex else None

    @property
    def ifindex(self) -> int:
        """Index of the interface of the route to the other end, 0 if there is none."""
        device = self._device()
        return device.ifindex if device is not None else 0

    @property
    def state_name(self) -> str:
        return sctp_state_name(self.assoc.assoc_state)

    @property
    def state(self) -> int:
        """The state of TCP that is most like its state."""
        state = self.assoc.assoc_state
        return _AS_TCP[state] if state < len(_AS_TCP) else TCP_CLOSE

    @property
    def local_address(self) -> str:
        found = self.local_addresses()
        return found[0] if found else self._socket_address

    @property
    def remote_address(self) -> str:
        if self._primary is None:
            return "::" if self.family == AF_INET6 else "0.0.0.0"
        return sctp_addr_text(self.prog, self._primary.ipaddr)

    @property
    def local_port(self) -> int:
        return self.assoc.assoc_port

    @property
    def remote_port(self) -> int:
        return self.assoc.peer_port

    @property
    def recv_q(self) -> int:
        """Bytes to be read."""
        return self.assoc.assoc_rmem_alloc

    @property
    def send_q(self) -> int:
        """Bytes on their way out."""
        return self.assoc.sndbuf_used

    @property
    def timer(self) -> Timer | None:
        path = self._primary
        # timer_pending()
        if path is None or not path.rtx_pprev:
            return None
        expires = path.rtx_expires
        left = clock(self.prog).until_s(expires)
        return Timer("T3_RTX", left, expires, self.assoc.rtx_data_chunks)

    def skmem(self) -> tuple[int, ...] | None:
        values = super().skmem()
        endpoint = self._endpoint()
        if values is None or endpoint is None:
            return values
        rmem, rcvbuf, wmem, *rest = values
        if endpoint.sndbuf_policy:
            wmem = self.assoc.sndbuf_used
        if endpoint.rcvbuf_policy:
            rmem = self.assoc.assoc_rmem_alloc
        return (rmem, rcvbuf, wmem, *rest)

    def local_addrs(self) -> list[bytes] | None:
        return self._addrs(self._list(self.assoc.address, SctpAssociation, "address_list"))

    def _transports(self) -> list[SctpTransport]:
        layout = SctpTransport.layout(self.prog)
        head = self._list(self.assoc.address, SctpAssociation, "transports")
        return list(unbroken(list_for_each_entry(layout, head, "node")))

    def primary_addr(self) -> bytes:
        """``union sctp_addr`` of the primary path, empty if there is no such path."""
        return self._primary.ipaddr if self._primary is not None else b""

    def peer_addrs(self) -> list[bytes]:
        """Each ``union sctp_addr`` of the other end."""
        return [path.ipaddr for path in self._transports()]

    def peer_addresses(self) -> list[str]:
        return [sctp_addr_text(self.prog, addr) for addr in self.peer_addrs()]

    def parts(self) -> Sequence[SocketRecord]:
        return []

    def _length(self, member: str) -> int:
        head = self._list(self.assoc.address, SctpAssociation, member)
        return sum(1 for _ in unbroken(list_for_each(self.prog, head)))

    def info(self) -> SctpInfo:
        asoc, prog = self.assoc, self.prog
        queues = {
            name: self._length(member)
            for name, member in (("inqueue", "in_chunk_list"), ("outqueue", "out_chunk_list"))
        }
        # The first one becomes the highest bit.
        capable = (
            *(asoc.intl_capable, asoc.ecn_capable, asoc.ipv4_address, asoc.ipv6_address),
            *(asoc.reconf_capable, asoc.asconf_capable, asoc.prsctp_capable, asoc.auth_capable),
        )
        sack = (asoc.sack_needed, asoc.sack_generation, asoc.zero_window_announced)
        info = SctpInfo(
            tag=asoc.my_vtag,
            state=asoc.assoc_state,
            rwnd=asoc.a_rwnd,
            unackdata=asoc.unack_data,
            penddata=sctp_tsnmap_pending(prog, asoc),
            instrms=asoc.instrms,
            outstrms=asoc.outstrms,
            inqueue=queues["inqueue"],
            outqueue=queues["outqueue"],
            overall_error=asoc.overall_error_count,
            max_burst=asoc.assoc_max_burst,
            maxseg=asoc.frag_point,
            peer_rwnd=asoc.peer_rwnd,
            peer_tag=asoc.peer_vtag,
            peer_capable=_mask(capable),
            peer_sack=_mask(sack),
            **{name: getattr(asoc, name) for name in _STATS},
        )
        path = self._primary
        if path is None:
            return info
        now = clock(prog)
        return info._replace(
            p_address=sctp_addr_text(prog, path.ipaddr),
            p_state=path.state,
            p_cwnd=path.cwnd,
            p_srtt=path.srtt,
            p_rto=now.to_ms(path.rto),
            p_hbinterval=path.hbinterval & 0xFFFFFFFF,
            p_pathmaxrxt=path.pathmaxrxt,
            p_sackdelay=now.to_ms(path.sackdelay),
            p_ssthresh=path.ssthresh,
            p_partial_bytes_acked=path.partial_bytes_acked,
            p_flight_size=path.flight_size,
            p_error=path.error_count,
        )


_STATS = (
    *("isacks", "osacks", "opackets", "ipackets", "rtxchunks", "outofseqtsns", "idupchunks"),
    *("gapcnt", "ouodchunks", "iuodchunks", "oodchunks", "iodchunks", "octrlchunks"),
    "ictrlchunks",
)


def _mask(bits: Sequence[int]) -> int:
    mask = 0
    for bit in bits:
        mask = mask << 1 | bit
    return mask


class SctpPlainRecord(InetRecord):
    """An SCTP socket of which only ``struct sock`` was read."""

    family_name = "sctp"
    lsof = SctpRecord.lsof


class Sctp(Family):
    """SCTP."""

    name = "sctp"
    module = "sctp"
    record = SctpRecord
    parts = (SctpAssociationRecord,)
    plain = SctpPlainRecord
    brief = True
    columns = (
        Column(
            "assoc",
            "address of the struct sctp_association",
            lambda r: f"{r.assoc.address:#x}" if r.assoc.address else None,
            of=SctpAssociationRecord,
        ),
        Column("locals", "IP addresses of this end", lambda r: r.local_addresses(), of=SctpRecord),
        Column(
            "peers", "IP addresses of the other end", lambda r: r.peer_addresses(), of=SctpRecord
        ),
    )

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        yield from for_each_control_sock(prog, SOCK_SEQPACKET)
        yield from for_each_sctp(prog, known)

    def peer(self, sockets: Sockets, record: Any) -> SocketRecord | None:
        """
        The other end of an association; for a socket, that of its first association.

        :return: The socket at the other end if it is one-to-one, else the association
        """
        if not isinstance(record, SctpRecord):
            return None
        mine = (
            record
            if isinstance(record, SctpAssociationRecord)
            else next(iter(record.parts()), None)
        )
        if not isinstance(mine, SctpAssociationRecord):
            return None
        found: SctpRecord | None = None
        socket: SctpRecord | None = None
        for other in sockets.of_families(self.name):
            if not isinstance(other, SctpAssociationRecord):
                socket = other if isinstance(other, SctpRecord) else None
            elif other.assoc.address != mine.assoc.address and _are_ends(mine, other):
                one_to_one = socket is not None and not socket.is_one_to_many
                found = socket if one_to_one else other
                if other.netns == mine.netns:
                    break
        return found


def _are_ends(one: SctpAssociationRecord, other: SctpAssociationRecord) -> bool:
    """Whether two associations have each other's ports and tag, and at least one address each."""
    if (one.local_port, one.remote_port) != (other.remote_port, other.local_port):
        return False
    for a, b in ((one, other), (other, one)):
        near = a.local_addresses()
        # If the addresses are not known, ports and tags must do.
        if near is not None and not set(near) & set(b.peer_addresses()):
            return False
    return one.assoc.my_vtag == other.assoc.peer_vtag
