# SPDX-License-Identifier: LGPL-2.1-or-later
"""``inet_diag``: TCP, UDP, UDP-Lite and raw sockets. MPTCP and SCTP build on it."""

from __future__ import annotations

from collections.abc import Mapping
from socket import inet_ntop
from typing import Any

from drgn import Program, TypeKind

from drgn_sockets.kernel.lists import hlist_for_each_entry
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.sock import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    SOCK_RAW,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_TIME_WAIT,
    sk_forward_alloc_get,
    sock_cgroup_classid,
)
from drgn_sockets.kernel.structs import Bytes, Int, Struct, find_place
from drgn_sockets.records.families.inet import InetRecord, InetSock, Ipv6Pinfo
from drgn_sockets.records.families.raw import RawRecord
from drgn_sockets.records.families.tcp import (
    InetConnectionSock,
    InetRequestSock,
    InetTimewaitSock,
    TcpRecord,
    TcpSock,
    congestion_algorithm,
    congestion_tells,
    ulp_name,
    ulp_tells,
)
from drgn_sockets.records.families.udp import UdpRecord
from drgn_sockets.records.socket import SocketRecord
from drgn_sockets.records.tcp_info import (
    VEGAS_LIKE,
    MptcpSubflowInfo,
    TcpInfo,
    TlsInfo,
    tcp_congestion_info,
    tcp_get_info,
    ulp_info,
)
from drgn_sockets.views.diag import base, bpf
from drgn_sockets.views.diag.base import Attribute, Build, Diag, DiagKind
from drgn_sockets.views.diag.forms import Value

IPPROTO_RAW = 255

# include/net/inet_connection_sock.h: inet_csk_ack_state_t
_ICSK_ACK_TIMER = 2
# include/uapi/linux/inet_diag.h: IDIAG_TIMER_*
_TIMER_ON, _TIMER_KEEPALIVE, _TIMER_TIMEWAIT, _TIMER_PROBE0, _TIMER_DELACK = range(1, 6)
# Values of timer_active().
_TIMERS = {1: _TIMER_ON, 2: _TIMER_KEEPALIVE, 4: _TIMER_PROBE0}
# No socket has more keys.
_MAX_MD5_KEYS = 1 << 16

#: include/uapi/linux/inet_diag.h, tcp.h; struct tcp_info is in every kernel's types.
TYPES = {
    "struct inet_diag_msg": """
u8 idiag_family
u8 idiag_state
u8 idiag_timer
u8 idiag_retrans
bytes[2] idiag_sport
bytes[2] idiag_dport
bytes[16] idiag_src
bytes[16] idiag_dst
u32 idiag_if
bytes[8] idiag_cookie
u32 idiag_expires
u32 idiag_rqueue
u32 idiag_wqueue
u32 idiag_uid
u32 idiag_inode
""",
    "struct inet_diag_meminfo": """
u32 idiag_rmem
u32 idiag_wmem
u32 idiag_fmem
u32 idiag_tmem
""",
    "struct inet_diag_sockopt": """
u8 recverr:1
u8 is_icsk:1
u8 freebind:1
u8 hdrincl:1
u8 mc_loop:1
u8 transparent:1
u8 mc_all:1
u8 nodefrag:1
u8 bind_address_no_port:1
u8 recverr_rfc4884:1
u8 defer_connect:1
u8 unused:5
""",
    "struct tcpvegas_info": """
u32 tcpv_enabled
u32 tcpv_rttcnt
u32 tcpv_rtt
u32 tcpv_minrtt
""",
    "struct tcp_dctcp_info": """
u16 dctcp_enabled
u16 dctcp_ce_state
u32 dctcp_alpha
u32 dctcp_ab_ecn
u32 dctcp_ab_tot
""",
    "struct tcp_bbr_info": """
u32 bbr_bw_lo
u32 bbr_bw_hi
u32 bbr_min_rtt
u32 bbr_pacing_gain
u32 bbr_cwnd_gain
""",
    "struct tcp_diag_md5sig": """
u8 tcpm_family
u8 tcpm_prefixlen
u16 tcpm_keylen
bytes[16] tcpm_addr
bytes[80] tcpm_key
""",
}


# The header.


def fill(diag: Diag, record: InetRecord) -> dict[str, Value]:
    """``inet_diag_msg_common_fill()``, and the functions that follow it for each state"""
    sock = record.sock
    six = sock.family == AF_INET6 and sock.v6_rcv_saddr is not None
    values: dict[str, Value] = {
        "idiag_family": sock.family,
        "idiag_state": record.state,
        "idiag_sport": sock.num.to_bytes(2, "big"),
        "idiag_dport": sock.dport.to_bytes(2, "big"),
        "idiag_src": sock.v6_rcv_saddr if six else sock.rcv_saddr,
        "idiag_dst": sock.v6_daddr if six else sock.daddr,
        "idiag_if": sock.bound_dev_if,
        "idiag_cookie": diag.cookie(sock),
    }
    if isinstance(sock, InetTimewaitSock):
        # inet_twsk_diag_fill()
        values["idiag_timer"] = _TIMER_TIMEWAIT
        values["idiag_expires"] = diag.expires_ms(sock.timer_expires)
    elif isinstance(sock, InetRequestSock):
        # inet_req_diag_fill()
        values["idiag_timer"] = _TIMER_ON
        values["idiag_retrans"] = sock.num_retrans
        values["idiag_expires"] = diag.expires_ms(sock.timer_expires)
    else:
        values["idiag_uid"] = record.told_uid
        values["idiag_inode"] = record.ino
        values["idiag_rqueue"] = record.recv_q or 0
        values["idiag_wqueue"] = record.send_q or 0
        if isinstance(sock, InetConnectionSock) and sock.state != TCP_CLOSE:
            values.update(_timer(diag, sock))
    return values


def _timer(diag: Diag, sock: InetConnectionSock) -> dict[str, Value]:
    active = sock.timer_active()
    if active:
        fires = sock.keepalive_expires if active == 2 else sock.timeout
        return {
            "idiag_timer": _TIMERS[active],
            "idiag_retrans": sock.retransmits if active == 1 else sock.probes_out,
            "idiag_expires": diag.expires_ms(fires),
        }
    if (
        sock.ack_pending & _ICSK_ACK_TIMER
        and sock.delack_pprev
        and diag.fact("delack", lambda: _tells_delack(diag.prog))
    ):
        return {
            "idiag_timer": _TIMER_DELACK,
            "idiag_expires": diag.expires_ms(sock.delack_expires),
        }
    return {}


def _tells_delack(prog: Program) -> bool:
    # Linux kernel commit c698f5cc940d ("inet_diag: report delayed ack timer information") (in
    # v7.1) added no member; 5c2738588621 ("udp: Remove struct proto.h.udp_table.") is of that
    # version.
    try:
        return bool(prog.constant("IDIAG_TIMER_DELACK"))
    except LookupError:
        return find_place(prog, prog.type("struct proto"), "h.udp_table") is None


# Attributes, each with the function that makes it.


def full(record: SocketRecord) -> InetSock | None:
    """Get the socket if it is a full one: other sockets have few attributes."""
    return record.sock if isinstance(record.sock, InetSock) else None


def connection(record: SocketRecord) -> TcpSock | None:
    """
    Get the socket if it is a TCP socket with the attributes of a connection or a listener.
    """
    # Linux kernel commit 91051f003948 ("tcp: Dump bound-only sockets in inet_diag.") (in v6.8)
    # sends the attributes of a UDP socket.
    sock = record.sock
    return sock if isinstance(sock, TcpSock) and sock.state != TCP_CLOSE else None


def shutdown(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    return diag.u8(sock.shutdown) if sock else None


def tos(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    return diag.u8(sock.tos) if sock else None


def tclass(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None or sock.family != AF_INET6:
        return None
    return diag.u8(Ipv6Pinfo.layout(diag.prog).read(sock.pinet6 or 0).tclass)


def skv6only(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None or sock.family != AF_INET6 or sock.state not in (TCP_LISTEN, TCP_CLOSE):
        return None
    return diag.u8(sock.ipv6only)


def mark(diag: Diag, record: InetRecord) -> bytes | None:
    if isinstance(record.sock, InetTimewaitSock) and not _tells_tw_mark(diag):
        return None
    return diag.u32(record.sock.mark)


def _tells_tw_mark(diag: Diag) -> bool:
    # Linux kernel commit 1b3fc771769c ("inet_diag: add support for tw_mark") (in v5.14) added no
    # member; d463126e23f1 ("net: sock: extend SO_TIMESTAMPING for PHC binding") is of that version.
    type_ = "struct sock"
    return diag.fact("tw_mark", lambda: bool(diag.prog.type(type_).has_member("sk_bind_phc")))


def class_id(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None:
        return None
    return diag.u32(sock_cgroup_classid(diag.prog, sock) or sock.priority)


def cgroup_id(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None or sock.cgroup is None:
        return None
    cgroup = sock.cgroup
    if (not cgroup or cgroup & 3) and _cgroup_is_a_word(diag):
        cgroup = diag.default_cgroup()
    return diag.u64(diag.cgroup_id(cgroup))


def _cgroup_is_a_word(diag: Diag) -> bool:
    # See Sock.cgroup.
    type_ = "struct sock_cgroup_data"
    return diag.fact(type_, lambda: bool(diag.prog.type(type_).has_member("val")))


def sockopt(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None:
        return None
    form = diag.structure("struct inet_diag_sockopt")
    return form.pack({name: getattr(sock, name, 0) or 0 for name in form.names})


def meminfo(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    if sock is None:
        return None
    return diag.structure("struct inet_diag_meminfo").pack(
        {
            "idiag_rmem": sock.rmem_alloc,
            "idiag_wmem": sock.wmem_queued,
            "idiag_fmem": sk_forward_alloc_get(sock),
            "idiag_tmem": sock.wmem_alloc - 1,
        }
    )


def protocol(diag: Diag, record: InetRecord) -> bytes | None:
    sock = full(record)
    return diag.u8(sock.protocol) if sock and sock.type == SOCK_RAW else None


def info(diag: Diag, record: InetRecord) -> bytes | None:
    """``tcp_get_info()``"""
    if connection(record) is None:
        return None
    told = _tcp_info(diag, record)
    form = diag.structure("struct tcp_info")
    # Fields that this kernel, or a listener, does not have are 0.
    fields = diag.fact("tcp_info", lambda: [_FIELDS.get(name) for name in form.names])
    values: list[Any] = [0 if i is None else told[i] or 0 for i in fields]
    return form.pack_all(values)


_NOT_IN_TCP_INFO = frozenset({"congestion", "vegas", "dctcp", "bbr", "ulp", "tls", "mptcp"})
#: Members of ``struct tcp_info`` for the fields of TcpInfo; their names have no units.
TCPI = {
    name: "tcpi_" + name.removesuffix("_us").removesuffix("_ms")
    for name in TcpInfo._fields
    if name not in _NOT_IN_TCP_INFO
}
_FIELDS = {TCPI[name]: i for i, name in enumerate(TcpInfo._fields) if name in TCPI}


def _tcp_info(diag: Diag, record: InetRecord) -> TcpInfo:
    told = tcp_get_info(record)
    assert told is not None
    return told


def cong(diag: Diag, record: InetRecord) -> bytes | None:
    sock = connection(record)
    name = congestion_algorithm(diag.prog, sock) if sock else None
    return None if name is None else name + b"\0"


def vegasinfo(diag: Diag, record: InetRecord) -> bytes | None:
    told = _congestion_info(diag, record, "vegas")
    return told and diag.structure("struct tcpvegas_info").pack(
        dict(zip(("tcpv_enabled", "tcpv_rttcnt", "tcpv_rtt", "tcpv_minrtt"), told))
    )


def dctcpinfo(diag: Diag, record: InetRecord) -> bytes | None:
    told = _congestion_info(diag, record, "dctcp")
    return told and diag.structure("struct tcp_dctcp_info").pack(
        {f"dctcp_{name}": value for name, value in told._asdict().items()}
    )


def bbrinfo(diag: Diag, record: InetRecord) -> bytes | None:
    told = _congestion_info(diag, record, "bbr")
    return told and diag.structure("struct tcp_bbr_info").pack(
        {
            "bbr_bw_lo": told.bw,
            "bbr_bw_hi": told.bw >> 32,
            "bbr_min_rtt": told.min_rtt_us,
            "bbr_pacing_gain": told.pacing_gain,
            "bbr_cwnd_gain": told.cwnd_gain,
        }
    )


# The structure that an algorithm sends.
_CONGESTION_FORMS: dict[bytes | None, str] = {
    **dict.fromkeys(VEGAS_LIKE, "vegas"),
    **dict.fromkeys((b"dctcp", b"dctcp-reno"), "dctcp"),
    b"bbr": "bbr",
}


def _congestion_info(diag: Diag, record: InetRecord, which: str) -> Any:
    sock = connection(record)
    if sock is None or sock.state >= TCP_TIME_WAIT or not congestion_tells(diag.prog, sock):
        return None
    algorithm = congestion_algorithm(diag.prog, sock)
    if _CONGESTION_FORMS.get(algorithm, which) != which:
        return None
    return getattr(tcp_congestion_info(record), which)


class _Md5Info(Struct):
    C_TYPE = "struct tcp_md5sig_info"
    first = Int("head.first")


class _Md5Key(Struct):
    C_TYPE = "struct tcp_md5sig_key"
    next = Int("node.next")
    family = Int("family")
    prefixlen = Int("prefixlen")
    keylen = Int("keylen")
    addr = Bytes("addr")
    key = Bytes("key")


def md5sig(diag: Diag, record: InetRecord) -> bytes | None:
    """``tcp_diag_put_md5sig()``"""
    sock = connection(record)
    if sock is None or not sock.md5sig_info:
        return None
    if not diag.secrets:
        raise LookupError("keys are not read here")
    keys = _Md5Key.layout(diag.prog)
    form = diag.structure("struct tcp_diag_md5sig")
    found: list[bytes] = []
    first = _Md5Info.layout(diag.prog).read(sock.md5sig_info).first
    for key in unbroken(hlist_for_each_entry(keys, first, "next", _MAX_MD5_KEYS)):
        size = 4 if key.family == AF_INET else 16
        values: dict[str, Value] = {
            "tcpm_family": key.family,
            "tcpm_prefixlen": key.prefixlen,
            "tcpm_keylen": key.keylen,
            "tcpm_addr": key.addr[:size],
            "tcpm_key": key.key[: key.keylen],
        }
        found.append(form.pack(values))
    return b"".join(found) or None


def ulp(diag: Diag, record: InetRecord) -> bytes | None:
    """``tcp_diag_put_ulp()``"""
    sock = connection(record)
    name = ulp_name(diag.prog, sock) if sock else None
    if sock is None or name is None:
        return None
    nested = {_INET_ULP_INFO_NAME: name + b"\0"}
    if ulp_tells(diag.prog, sock):
        tls, mptcp = ulp_info(diag.prog, sock, name)
        if tls is not None:
            nested[_INET_ULP_INFO_TLS] = _tls(diag, tls)
        elif mptcp is not None and sock.state != TCP_LISTEN:
            nested[_INET_ULP_INFO_MPTCP] = _subflow(diag, mptcp)
        elif name not in (b"tls", b"mptcp"):
            raise LookupError(
                f"attributes of {name.decode('ascii', 'backslashreplace')} are not known"
            )
    return diag.nest(nested)


def _tls(diag: Diag, told: TlsInfo) -> bytes:
    """``tls_get_info()``"""
    nested: dict[int, bytes] = {}
    if told.version:
        nested[1] = diag.u16(told.version)
    if told.cipher:
        nested[2] = diag.u16(told.cipher)
    nested[3] = diag.u16(told.txconf)
    nested[4] = diag.u16(told.rxconf)
    if told.zc_ro_tx:
        nested[5] = b""
    if told.rx_no_pad:
        nested[6] = b""
    if told.tx_max_payload_len is not None:
        nested[7] = diag.u16(told.tx_max_payload_len)
    return diag.nest(nested)


def _subflow(diag: Diag, told: MptcpSubflowInfo) -> bytes:
    """``subflow_get_info()``"""
    tokens = {1: diag.u32(told.token_rem), 2: diag.u32(told.token_loc)}
    sequences = {
        3: diag.u32(told.relwrite_seq),
        4: diag.u64(told.map_seq),
        5: diag.u32(told.map_sfseq),
        6: diag.u32(told.ssn_offset),
        7: diag.u16(told.map_datalen),
    }
    rest = {8: diag.u32(told.flags), 9: diag.u8(told.id_rem), 10: diag.u8(told.id_loc)}
    if diag.fact("ulp", lambda: _ulp_asks_for_capability(diag.prog)):
        return diag.nest({**tokens, **rest, **sequences})
    return diag.nest({**tokens, **sequences, **rest})


def _ulp_asks_for_capability(prog: Program) -> bool:
    # Linux kernel commit 0d7336f8f06d ("tcp: ulp: diag: more info without CAP_NET_ADMIN") (in
    # v6.15) gave get_info() another parameter, and put attributes that need the capability last.
    type_ = prog.type("struct tcp_ulp_ops").member("get_info").type
    assert type_.kind == TypeKind.POINTER
    return len(type_.type.parameters) > 2


_INET_ULP_INFO_NAME, _INET_ULP_INFO_TLS, _INET_ULP_INFO_MPTCP = 1, 2, 3


def bpf_storages(diag: Diag, record: InetRecord) -> bytes | None:
    sock = connection(record)
    return bpf.storages(diag, sock) if sock else None


def elsewhere(diag: Diag, record: SocketRecord) -> None:
    """Build no attribute: sockets of another kind have it, or another attribute contains it."""
    return


def _named(prefix: str, forms: Mapping[int, tuple[str, str]]) -> dict[int, Attribute]:
    return {n: Attribute(n, prefix + name, elsewhere, form) for n, (name, form) in forms.items()}


# include/uapi/linux/tls.h, mptcp.h
_TLS_INFO = _named(
    "TLS_INFO_",
    {
        1: ("VERSION", "u16"),
        2: ("CIPHER", "u16"),
        3: ("TXCONF", "u16"),
        4: ("RXCONF", "u16"),
        5: ("ZC_RO_TX", "flag"),
        6: ("RX_NO_PAD", "flag"),
        7: ("TX_MAX_PAYLOAD_LEN", "u16"),
    },
)
_MPTCP_SUBFLOW_ATTR = _named(
    "MPTCP_SUBFLOW_ATTR_",
    {
        1: ("TOKEN_REM", "u32"),
        2: ("TOKEN_LOC", "u32"),
        3: ("RELWRITE_SEQ", "u32"),
        4: ("MAP_SEQ", "u64"),
        5: ("MAP_SFSEQ", "u32"),
        6: ("SSN_OFFSET", "u32"),
        7: ("MAP_DATALEN", "u16"),
        8: ("FLAGS", "u32"),
        9: ("ID_REM", "u8"),
        10: ("ID_LOC", "u8"),
    },
)
_ULP_INFO = {
    _INET_ULP_INFO_NAME: Attribute(_INET_ULP_INFO_NAME, "INET_ULP_INFO_NAME", elsewhere, "bytes"),
    _INET_ULP_INFO_TLS: Attribute(_INET_ULP_INFO_TLS, "INET_ULP_INFO_TLS", elsewhere, _TLS_INFO),
    _INET_ULP_INFO_MPTCP: Attribute(
        _INET_ULP_INFO_MPTCP, "INET_ULP_INFO_MPTCP", elsewhere, _MPTCP_SUBFLOW_ATTR
    ),
}

#: include/uapi/linux/inet_diag.h, in the order of ``inet_sk_diag_fill()``.
ATTRIBUTES = (
    Attribute(8, "INET_DIAG_SHUTDOWN", shutdown, "u8"),
    Attribute(5, "INET_DIAG_TOS", tos, "u8"),
    Attribute(6, "INET_DIAG_TCLASS", tclass, "u8"),
    Attribute(11, "INET_DIAG_SKV6ONLY", skv6only, "u8"),
    Attribute(15, "INET_DIAG_MARK", mark, "u32"),
    Attribute(17, "INET_DIAG_CLASS_ID", class_id, "u32"),
    Attribute(21, "INET_DIAG_CGROUP_ID", cgroup_id, "u64"),
    Attribute(22, "INET_DIAG_SOCKOPT", sockopt, "struct inet_diag_sockopt"),
    Attribute(1, "INET_DIAG_MEMINFO", meminfo, "struct inet_diag_meminfo"),
    Attribute(7, "INET_DIAG_SKMEMINFO", base.meminfo, "SK_MEMINFO"),
    Attribute(10, "INET_DIAG_PROTOCOL", protocol, "u8"),
    Attribute(2, "INET_DIAG_INFO", info, "struct tcp_info"),
    Attribute(4, "INET_DIAG_CONG", cong, "bytes"),
    Attribute(18, "INET_DIAG_MD5SIG", md5sig, "struct tcp_diag_md5sig[]"),
    Attribute(19, "INET_DIAG_ULP_INFO", ulp, _ULP_INFO),
    Attribute(3, "INET_DIAG_VEGASINFO", vegasinfo, "struct tcpvegas_info"),
    Attribute(9, "INET_DIAG_DCTCPINFO", dctcpinfo, "struct tcp_dctcp_info"),
    Attribute(16, "INET_DIAG_BBRINFO", bbrinfo, "struct tcp_bbr_info"),
    # Attributes of SCTP.
    Attribute(12, "INET_DIAG_LOCALS", elsewhere, "bytes"),
    Attribute(13, "INET_DIAG_PEERS", elsewhere, "bytes"),
    Attribute(20, "INET_DIAG_SK_BPF_STORAGES", bpf_storages, bpf.FORM),
)


def attributes_with(own: Mapping[str, tuple[Build, str | None]]) -> tuple[Attribute, ...]:
    """
    Get the attributes of a protocol that builds on these.

    :param own: What makes an attribute that differs, by its name; and its form, if that differs
    """
    changed = []
    for attribute in ATTRIBUTES:
        build, form = own.get(attribute.name, (attribute.build, None))
        changed.append(attribute._replace(build=build, form=form or attribute.form))
    return tuple(changed)


PADDING = frozenset({14})  # INET_DIAG_PAD


def label(header: Mapping[str, Value]) -> str:
    """Both ends."""
    family = AF_INET6 if header["idiag_family"] == AF_INET6 else AF_INET
    size = 16 if family == AF_INET6 else 4
    ends = []
    for address, port in (("idiag_src", "idiag_sport"), ("idiag_dst", "idiag_dport")):
        address_, port_ = header[address], header[port]
        assert isinstance(address_, bytes) and isinstance(port_, bytes)
        host = inet_ntop(family, address_[:size])
        ends.append(f"{f'[{host}]' if size == 16 else host}:{int.from_bytes(port_, 'big')}")
    return f"{' '.join(ends)} inode {header['idiag_inode']!r}"


def _protocol_of(record: SocketRecord) -> int | None:
    if isinstance(record, TcpRecord):
        return IPPROTO_TCP
    if isinstance(record, UdpRecord):
        return record.protocol  # type: ignore[no-any-return]
    # A request for raw sockets has IPPROTO_RAW, whatever their own protocol is.
    return IPPROTO_RAW if isinstance(record, RawRecord) else None


def _dumped(diag: Diag, record: InetRecord) -> bool:
    """Whether the socket is in a hash table that the kernel dumps."""
    if isinstance(record, TcpRecord) and record.state == TCP_CLOSE:
        return bool(record.sock.num) and diag.fact("bound", lambda: _tells_bound(diag.prog))
    # Raw sockets of the kernel itself are in no hash table: no request can find them.
    return bool(record.sock.pprev if isinstance(record, RawRecord) else record.sock.num)


def _tells_bound(prog: Program) -> bool:
    # See connection().
    try:
        return bool(prog.constant("TCP_BOUND_INACTIVE"))
    except LookupError:
        return False


KIND = DiagKind(
    families=frozenset({AF_INET, AF_INET6}),
    protocols={
        IPPROTO_TCP: "tcp",
        IPPROTO_UDP: "udp",
        IPPROTO_UDPLITE: "udplite",
        IPPROTO_RAW: "raw",
    },
    header="struct inet_diag_msg",
    attributes=ATTRIBUTES,
    protocol_of=_protocol_of,
    fill=fill,
    label=label,
    dumped=_dumped,
    types=TYPES,
    padding=PADDING,
)
