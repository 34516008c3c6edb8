# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel tells of a TCP connection by ``TCP_INFO`` and sock_diag, for ``ss -i``."""

from __future__ import annotations

import contextlib
from operator import itemgetter
from typing import Any, Callable, ClassVar, NamedTuple, Optional

from drgn import Program

from drgn_sockets.kernel.sock import TCP_LISTEN, TCP_TIME_WAIT
from drgn_sockets.kernel.structs import Bytes, Int, OptInt, Struct
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.program import once_per_program
from drgn_sockets.records.families.tcp import TcpSock, congestion_algorithm, ulp_name
from drgn_sockets.records.socket import SocketRecord

# include/uapi/linux/tcp.h
TCPI_OPT_TIMESTAMPS = 1
TCPI_OPT_SACK = 2
TCPI_OPT_WSCALE = 4
TCPI_OPT_ECN = 8
TCPI_OPT_ECN_SEEN = 16
TCPI_OPT_SYN_DATA = 32
TCPI_OPT_USEC_TS = 64
TCPI_OPT_TFO_CHILD = 128

# include/net/tcp.h, include/net/tcp_ecn.h
_TCP_ECN_MODE_RFC3168 = 1
_TCP_ECN_SEEN = 8
_TCP_ECN_MODE_ACCECN = 16
_TCP_ECN_MODE_ANY = _TCP_ECN_MODE_RFC3168 | _TCP_ECN_MODE_ACCECN
# TCPI_ECN_MODE_* by these bits. Both bits are set until the mode is decided.
_ECN_MODES = {0: 0, _TCP_ECN_MODE_RFC3168: 1, _TCP_ECN_MODE_ACCECN: 2, _TCP_ECN_MODE_ANY: 3}

# enum tcp_chrono
_TCP_CHRONO_BUSY = 1
_TCP_CHRONO_RWND_LIMITED = 2

# net/ipv4/tcp_bbr.c
_BBR_BW_SCALE = 24

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_MSEC_PER_SEC = 1_000
_USEC_PER_SEC = 1_000_000
#: The rate that the kernel gives if there is no limit.
NO_RATE = _U64


class VegasInfo(NamedTuple):
    """``struct tcpvegas_info``; other algorithms that look at delays fill it, too."""

    enabled: int
    rttcnt: int
    rtt_us: int
    minrtt_us: int


#: Algorithms that fill ``struct tcpvegas_info``.
VEGAS_LIKE = frozenset({b"vegas", b"yeah", b"illinois", b"westwood", b"nv"})


class DctcpInfo(NamedTuple):
    """``struct tcp_dctcp_info``; *enabled* is 0 if the connection fell back to Reno."""

    enabled: int
    ce_state: int
    alpha: int
    ab_ecn: int
    ab_tot: int


class BbrInfo(NamedTuple):
    """``struct tcp_bbr_info``."""

    #: Bytes a second.
    bw: int
    min_rtt_us: int
    #: In 1/256.
    pacing_gain: int
    cwnd_gain: int


class TlsInfo(NamedTuple):
    """``INET_ULP_INFO_TLS``."""

    version: int
    cipher: int
    #: ``TLS_CONF_*``: 1 none, 2 software, 3 hardware, 4 hardware that frames records.
    rxconf: int
    txconf: int
    zc_ro_tx: int
    rx_no_pad: int
    #: ``None`` in kernels without such a limit.
    tx_max_payload_len: int | None = None


class MptcpSubflowInfo(NamedTuple):
    """``INET_ULP_INFO_MPTCP``."""

    #: ``MPTCP_SUBFLOW_FLAG_*``
    flags: int
    token_rem: int
    token_loc: int
    id_rem: int
    id_loc: int
    map_seq: int
    map_sfseq: int
    ssn_offset: int
    map_datalen: int
    relwrite_seq: int = 0


#: The value of a member of ``struct tcp_sock``, unchanged.
Member = int
#: The same for a member that some kernels lack, or that is not told of a listening socket.
MaybeMember = Optional[int]


class TcpInfo(NamedTuple):
    """
    ``struct tcp_info``, with names without ``tcpi_``, and the attributes that a message of
    ``inet_diag`` has beside it.

    This is the one table of the fields. A field of type :data:`Member` or :data:`MaybeMember` has
    the value of a member of ``struct tcp_sock``; :meth:`_TcpInfoReader.compute` computes the
    others. ``None`` stands for what the kernel does not tell; most fields of a listening socket
    are ``None``.
    """

    state: Member
    ca_state: MaybeMember = None
    retransmits: MaybeMember = None
    probes: MaybeMember = None
    backoff: MaybeMember = None
    #: ``TCPI_OPT_*``
    options: int = 0
    snd_wscale: int = 0
    rcv_wscale: int = 0
    delivery_rate_app_limited: MaybeMember = None
    fastopen_client_fail: MaybeMember = None
    rto_us: int | None = None
    ato_us: int | None = None
    snd_mss: MaybeMember = None
    rcv_mss: MaybeMember = None
    unacked: Member = 0
    sacked: Member = 0
    lost: MaybeMember = None
    retrans: MaybeMember = None
    last_data_sent_ms: int | None = None
    last_data_recv_ms: int | None = None
    last_ack_recv_ms: int | None = None
    pmtu: MaybeMember = None
    rcv_ssthresh: MaybeMember = None
    rtt_us: MaybeMember = None
    rttvar_us: MaybeMember = None
    snd_ssthresh: MaybeMember = None
    snd_cwnd: Member = 0
    advmss: MaybeMember = None
    reordering: Member = 0
    rcv_rtt_us: MaybeMember = None
    rcv_space: MaybeMember = None
    total_retrans: MaybeMember = None
    #: Bytes a second, like all rates; :data:`NO_RATE` for no limit.
    pacing_rate: int = NO_RATE
    max_pacing_rate: int = NO_RATE
    bytes_acked: MaybeMember = None
    bytes_received: MaybeMember = None
    segs_out: MaybeMember = None
    segs_in: MaybeMember = None
    notsent_bytes: int | None = None
    #: 4294967295 if there was no sample yet.
    min_rtt_us: MaybeMember = None
    data_segs_in: MaybeMember = None
    data_segs_out: MaybeMember = None
    delivery_rate: int | None = None
    busy_time_us: int | None = None
    rwnd_limited_us: int | None = None
    sndbuf_limited_us: int | None = None
    delivered: MaybeMember = None
    delivered_ce: MaybeMember = None
    bytes_sent: MaybeMember = None
    bytes_retrans: MaybeMember = None
    dsack_dups: MaybeMember = None
    reord_seen: MaybeMember = None
    rcv_ooopack: MaybeMember = None
    snd_wnd: MaybeMember = None
    rcv_wnd: int | None = None
    rehash: int | None = None
    total_rto: MaybeMember = None
    total_rto_recoveries: MaybeMember = None
    #: During a recovery, exact to some tenths of a second.
    total_rto_time_ms: int | None = None
    received_ce: MaybeMember = None
    delivered_e1_bytes: MaybeMember = None
    delivered_e0_bytes: MaybeMember = None
    delivered_ce_bytes: MaybeMember = None
    received_e1_bytes: MaybeMember = None
    received_e0_bytes: MaybeMember = None
    received_ce_bytes: MaybeMember = None
    #: ``TCPI_ECN_MODE_*``: 0 none, 1 RFC 3168, 2 accurate, 3 not decided yet.
    ecn_mode: int | None = None
    accecn_opt_seen: int | None = None
    accecn_fail_mode: int | None = None
    #: Congestion control algorithm, and the information that the algorithm gives.
    congestion: bytes | None = None
    vegas: VegasInfo | None = None
    dctcp: DctcpInfo | None = None
    bbr: BbrInfo | None = None
    #: Upper layer protocol, and the information that the protocol gives.
    ulp: bytes | None = None
    tls: TlsInfo | None = None
    mptcp: MptcpSubflowInfo | None = None


#: Names of the members in :class:`TcpSock`, for fields of :class:`TcpInfo` with another name.
_MEMBERS = {
    "probes": "probes_out",
    "delivery_rate_app_limited": "rate_app_limited",
    "snd_mss": "mss",
    "unacked": "packets_out",
    "sacked": "sacked_out",
    "lost": "lost_out",
    "retrans": "retrans_out",
}


def _is_member(type_: object) -> bool:
    # Annotations are strings, or refer to strings.
    return str(type_) in ("Member", "MaybeMember") or "Member')" in str(type_)


def _tells(prog: Program, member: str) -> bool:
    try:
        return bool(prog.type("struct tcp_info").has_member(member))
    except LookupError:
        return False


class _TcpInfoReader:
    """``tcp_get_info()`` of one program's kernel, with the rest of ``inet_sk_diag_fill()``."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._clock = clock(prog)
        self._hz = self._clock.hz
        # As tcp_get_info_chrono_stats() has it.
        self._us_per_jiffy = _USEC_PER_SEC // self._hz
        layout = TcpSock.layout(prog)
        cls = layout.cls
        copied = [name for name, type_ in TcpInfo.__annotations__.items() if _is_member(type_)]
        code = _TcpInfoReader.compute.__code__
        # The parameters of compute() after self and sock name the members that it takes.
        inputs = code.co_varnames[2 : code.co_argcount]
        self._inputs = len(inputs)
        self._copied = copied
        self._fetch = layout.fetcher(*inputs, *(_MEMBERS.get(name, name) for name in copied))
        self._congestion: dict[int, bytes | None] = {}
        # Brings the copied members and the computed fields into the order of TcpInfo.
        self._in_order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
        self._no_rate = (1 << 8 * cls.places["pacing_rate"].size) - 1
        self.congestion_info = _CongestionInfo(prog)
        # All kernels have the members for these two fields; newer kernels tell them.
        # Linux kernel commit 71fc704768f6 ("tcp: add rcv_wnd and plb_rehash to TCP_INFO") (in
        # v6.2)
        self._tells_rcv_wnd = _tells(prog, "tcpi_rcv_wnd")
        self._tells_accecn = _tells(prog, "tcpi_accecn_opt_seen")
        # Linux kernel commit 4fa4ac5e5848 ("tcp: accecn: add tcpi_ecn_mode and tcpi_option2 in
        # tcp_info") (in v7.0)
        self._tells_ecn_mode = _tells(prog, "tcpi_ecn_mode")
        # Linux kernel commit 3868ab0f1925 ("tcp: new TCP_INFO stats for RTO events") (in v6.7)
        self._has_newer = "total_rto" in cls.places
        # Linux kernel commit bbf80d713fe7 ("tcp: derive delack_max from rto_min") (in v6.7)
        # bounds the ATO that is told. It added no member, but total_rto is of the same version.
        self._bounds_ato = self._has_newer and "delack_max" in cls.places
        # Linux kernel commit 512bd0f9f926 ("tcp: derive delack_max with tcp_rto_min helper")
        # came with f086edef71be ("tcp: add sysctl_tcp_rto_min_us") (in v6.11). A route can have
        # an rto_min of its own; this is ignored here.
        self._ato_below_rto_min = "rto_min" in cls.places and prog.type(
            "struct netns_ipv4"
        ).has_member("sysctl_tcp_rto_min_us")

    def read(self, sock: TcpSock) -> TcpInfo:
        """Make the information that the kernel gives for *sock*."""
        if sock.state == TCP_LISTEN:
            # unacked is how many connections wait for accept(), and sacked how many may.
            return TcpInfo(
                sock.state,
                unacked=sock.ack_backlog,
                sacked=sock.max_ack_backlog,
                snd_cwnd=sock.snd_cwnd,
                reordering=sock.reordering,
                pacing_rate=self._rate(sock.pacing_rate),
                max_pacing_rate=self._rate(sock.max_pacing_rate),
                congestion=self._algorithm(sock),
                ulp=ulp_name(self._prog, sock) if sock.ulp_ops else None,
            )
        values = self._fetch(sock)
        computed = self.compute(sock, *values[: self._inputs])
        if self._in_order is None:
            names = [*self._copied, *computed]
            self._in_order = itemgetter(*map(names.index, TcpInfo._fields))
        return _make(TcpInfo, self._in_order((*values[self._inputs :], *computed.values())))

    def _rate(self, rate: int) -> int:
        return NO_RATE if rate == self._no_rate else rate

    def _algorithm(self, sock: TcpSock) -> bytes | None:
        """Name of the congestion control algorithm."""
        ops = sock.ca_ops
        if ops not in self._congestion:
            self._congestion[ops] = congestion_algorithm(self._prog, sock)
        return self._congestion[ops]

    # The parameters name the members of TcpSock that are read; one fetch gets all of them.
    # fmt: off
    def compute(
        self, sock: TcpSock, state: int, pacing_rate: int, max_pacing_rate: int, ulp_ops: int,
        tstamp_ok: int, sack_ok: int, wscale_ok: int, snd_wscale: int, rcv_wscale: int,
        ecn_flags: int, syn_data_acked: int, usec_ts: int | None, syn_fastopen_child: int,
        rto: int, ato: int, mss: int, lsndtime: int, lrcvtime: int, rcv_tstamp: int,
        write_seq: int, snd_nxt: int, rate_delivered: int, rate_interval_us: int,
        chrono_type: int, chrono_start: int,
        chrono_busy: int, chrono_rwnd: int, chrono_sndbuf: int,
        rcv_wnd: int, timeout_rehash: int, plb_rehash: int | None,
        total_rto_time_ms: int | None, rto_stamp_ms: int | None,
        saw_accecn_opt: int | None, accecn_fail_mode: int | None,
    ) -> dict[str, Any]:
        """Compute the fields that are not members of ``struct tcp_sock``."""
        # fmt: on
        congestion = self._algorithm(sock)
        ulp = ulp_name(self._prog, sock) if ulp_ops else None

        options = TCPI_OPT_TIMESTAMPS if tstamp_ok else 0
        if sack_ok:
            options |= TCPI_OPT_SACK
        if wscale_ok:
            options |= TCPI_OPT_WSCALE
        else:
            snd_wscale = rcv_wscale = 0
        if ecn_flags:
            if ecn_flags & _TCP_ECN_MODE_ANY:
                options |= TCPI_OPT_ECN
            if ecn_flags & _TCP_ECN_SEEN:
                options |= TCPI_OPT_ECN_SEEN
        if syn_data_acked:
            options |= TCPI_OPT_SYN_DATA
        if usec_ts:
            options |= TCPI_OPT_USEC_TS
        if syn_fastopen_child:
            options |= TCPI_OPT_TFO_CHILD

        if ato and self._bounds_ato:
            ato = min(ato, self._delack_max(sock))
        now = self._clock.jiffies
        # As jiffies_to_usecs(), and as jiffies_to_msecs(), which rounds up.
        hz, up, us = self._hz, self._hz - 1, self._us_per_jiffy
        busy, rwnd_limited, sndbuf_limited = chrono_busy, chrono_rwnd, chrono_sndbuf
        if chrono_type:
            # tcp_get_info_chrono_stats()
            elapsed = now - chrono_start & _U32
            if chrono_type == _TCP_CHRONO_BUSY:
                busy += elapsed
            elif chrono_type == _TCP_CHRONO_RWND_LIMITED:
                rwnd_limited += elapsed
            else:
                sndbuf_limited += elapsed
        notsent = write_seq - snd_nxt & _U32
        delivery_rate = 0
        if rate_delivered and rate_interval_us:
            delivery_rate = rate_delivered * mss * _USEC_PER_SEC // rate_interval_us

        if rto_stamp_ms:
            # tcp_clock_ms() counts from the start of the clock; jiffies start to count soon after.
            uptime_ms = int(self._clock.uptime_s() * _MSEC_PER_SEC)
            total_rto_time_ms = (total_rto_time_ms or 0) + max(0, uptime_ms - rto_stamp_ms)
        ecn_mode = None
        if self._tells_ecn_mode:
            ecn_mode = _ECN_MODES[ecn_flags & _TCP_ECN_MODE_ANY]
        if not self._tells_accecn:
            saw_accecn_opt = accecn_fail_mode = None
        vegas = dctcp = bbr = tls = mptcp = None
        # inet_sk_diag_fill() asks the algorithm in these states only.
        if congestion in _CongestionInfo.ALGORITHMS and state < TCP_TIME_WAIT:
            vegas, dctcp, bbr = self.congestion_info.read(sock, congestion)
        if ulp is not None:
            # The program may lack the types.
            with contextlib.suppress(LookupError):
                tls, mptcp = ulp_info(self._prog, sock, ulp)
        return {
            "options": options,
            "snd_wscale": snd_wscale,
            "rcv_wscale": rcv_wscale,
            "rto_us": rto * _USEC_PER_SEC // hz & _U32,
            "ato_us": ato * _USEC_PER_SEC // hz & _U32,
            "last_data_sent_ms": ((now - lsndtime & _U32) * _MSEC_PER_SEC + up) // hz & _U32,
            "last_data_recv_ms": ((now - lrcvtime & _U32) * _MSEC_PER_SEC + up) // hz & _U32,
            "last_ack_recv_ms": ((now - rcv_tstamp & _U32) * _MSEC_PER_SEC + up) // hz & _U32,
            "pacing_rate": self._rate(pacing_rate),
            "max_pacing_rate": self._rate(max_pacing_rate),
            "notsent_bytes": 0 if notsent >> 31 else notsent,
            "delivery_rate": delivery_rate & _U64,
            "busy_time_us": (busy + rwnd_limited + sndbuf_limited) * us,
            "rwnd_limited_us": rwnd_limited * us,
            "sndbuf_limited_us": sndbuf_limited * us,
            "rcv_wnd": rcv_wnd if self._tells_rcv_wnd else None,
            "rehash": None if plb_rehash is None else plb_rehash + timeout_rehash,
            "total_rto_time_ms": total_rto_time_ms,
            "ecn_mode": ecn_mode,
            "accecn_opt_seen": saw_accecn_opt,
            "accecn_fail_mode": accecn_fail_mode,
            "congestion": congestion,
            "vegas": vegas,
            "dctcp": dctcp,
            "bbr": bbr,
            "ulp": ulp,
            "tls": tls,
            "mptcp": mptcp,
        }

    def _delack_max(self, sock: TcpSock) -> int:
        """``tcp_delack_max()``."""
        bound = sock.delack_max or 0
        if self._ato_below_rto_min:
            bound = min(bound, max(sock.rto_min or 0, 2) - 1)
        return bound


_make: Callable[[type[TcpInfo], tuple[Any, ...]], TcpInfo] = tuple.__new__


def tcp_get_info(record: SocketRecord) -> TcpInfo | None:
    """
    ``tcp_get_info()``, and the other attributes that sock_diag gives to ``ss -i``.

    :return: ``None`` for anything but a full TCP socket
    :raises FaultError: if the data of its algorithm or upper layer protocol cannot be read
    """
    sock = record.sock
    return _reader(record.prog).read(sock) if isinstance(sock, TcpSock) else None


def tcp_congestion_info(record: SocketRecord) -> CongestionInfos:
    """
    ``icsk_ca_ops->get_info()`` of a full TCP socket.

    :raises LookupError: if the program lacks the types
    :raises FaultError: if it cannot be read
    """
    sock = record.sock
    algorithm = congestion_algorithm(record.prog, sock)
    return _reader(record.prog).congestion_info.get_info(sock, algorithm)


@once_per_program
def _reader(prog: Program) -> _TcpInfoReader:
    return _TcpInfoReader(prog)


# Congestion control algorithms keep their state in icsk_ca_priv. Each algorithm has a type of its
# own for it, mostly in a module.


class _CaPriv(Struct):
    C_TYPE = "struct inet_connection_sock"
    priv = Bytes("icsk_ca_priv")


class _Vegas(Struct):
    C_TYPE = "struct vegas"
    doing_vegas_now = Int("doing_vegas_now")
    cnt_rtt = Int("cntRTT")
    min_rtt = Int("minRTT")
    base_rtt = Int("baseRTT")


class _Illinois(Struct):
    C_TYPE = "struct illinois"
    sum_rtt = Int("sum_rtt")
    cnt_rtt = Int("cnt_rtt")
    base_rtt = Int("base_rtt")


class _Westwood(Struct):
    C_TYPE = "struct westwood"
    rtt = Int("rtt")
    rtt_min = Int("rtt_min")


class _Nv(Struct):
    C_TYPE = "struct tcpnv"
    rtt_cnt = Int("nv_rtt_cnt")
    last_rtt = Int("nv_last_rtt")
    min_rtt = Int("nv_min_rtt")


class _Dctcp(Struct):
    C_TYPE = "struct dctcp"
    old_delivered = Int("old_delivered")
    old_delivered_ce = Int("old_delivered_ce")
    alpha = Int("dctcp_alpha")
    ce_state = Int("ce_state")


class _Bbr(Struct):
    C_TYPE = "struct bbr"
    bw = Int("bw.s[0].v")
    lt_use_bw = Int("lt_use_bw")
    lt_bw = Int("lt_bw")
    min_rtt_us = Int("min_rtt_us")
    pacing_gain = Int("pacing_gain")
    cwnd_gain = Int("cwnd_gain")


class CongestionInfos(NamedTuple):
    """The information that an algorithm gives; at most one field is set."""

    vegas: VegasInfo | None = None
    dctcp: DctcpInfo | None = None
    bbr: BbrInfo | None = None


_NO_INFO = CongestionInfos()
_FALLBACK = CongestionInfos(dctcp=DctcpInfo(0, 0, 0, 0, 0))


class _CongestionInfo:
    """``icsk_ca_ops->get_info()``, which ``ss`` requests as ``INET_DIAG_VEGASINFO``."""

    #: The state that each algorithm keeps.
    ALGORITHMS: ClassVar[dict[bytes | None, type[Struct] | None]] = {
        b"vegas": _Vegas,
        # struct yeah begins with a struct vegas.
        b"yeah": _Vegas,
        b"illinois": _Illinois,
        b"westwood": _Westwood,
        b"nv": _Nv,
        b"dctcp": _Dctcp,
        # DCTCP falls back to this without ECN. It tells only that it is not enabled.
        b"dctcp-reno": None,
        b"bbr": _Bbr,
    }

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._offset = _CaPriv.layout(prog).cls.places["priv"].offset
        self._unknown: set[bytes | None] = set()

    def read(self, sock: TcpSock, algorithm: bytes | None) -> CongestionInfos:
        """
        Information that *algorithm* gives; none if the program lacks its types.

        :raises FaultError: if it cannot be read
        """
        if algorithm not in self._unknown:
            try:
                return self.get_info(sock, algorithm)
            except LookupError:
                self._unknown.add(algorithm)
        return _NO_INFO

    def get_info(self, sock: TcpSock, algorithm: bytes | None) -> CongestionInfos:
        """
        Information that *algorithm* gives.

        :raises LookupError: if the program lacks its types (kernels before v5.11 have no BTF of
            modules), or the algorithm is not known here
        :raises FaultError: if it cannot be read
        """
        if algorithm not in self.ALGORITHMS:
            name = (algorithm or b"").decode("ascii", "backslashreplace")
            raise LookupError(f"what the congestion control algorithm {name} tells is not known")
        cls = self.ALGORITHMS[algorithm]
        if cls is None:
            return _FALLBACK
        ca = cls.layout(self._prog).read(sock.address + self._offset)
        if isinstance(ca, _Dctcp):
            mss = sock.mss
            return CongestionInfos(
                dctcp=DctcpInfo(
                    1,
                    ca.ce_state & _U16,
                    ca.alpha,
                    mss * (sock.delivered_ce - ca.old_delivered_ce) & _U32,
                    mss * (sock.delivered - ca.old_delivered) & _U32,
                )
            )
        if isinstance(ca, _Bbr):
            bw = ca.lt_bw if ca.lt_use_bw else ca.bw
            bw = (bw * sock.mss * _USEC_PER_SEC & _U64) >> _BBR_BW_SCALE
            return CongestionInfos(bbr=BbrInfo(bw, ca.min_rtt_us, ca.pacing_gain, ca.cwnd_gain))
        return CongestionInfos(vegas=self._vegas(ca))

    def _vegas(self, ca: Struct | None) -> VegasInfo | None:
        if isinstance(ca, _Vegas):
            return VegasInfo(ca.doing_vegas_now, ca.cnt_rtt, ca.base_rtt, ca.min_rtt)
        if isinstance(ca, _Illinois):
            rtt = ca.sum_rtt // ca.cnt_rtt & _U32 if ca.cnt_rtt else 0
            return VegasInfo(1, ca.cnt_rtt, rtt, ca.base_rtt)
        if isinstance(ca, _Westwood):
            to_us = clock(self._prog).to_us
            return VegasInfo(1, 0, to_us(ca.rtt) & _U32, to_us(ca.rtt_min) & _U32)
        if isinstance(ca, _Nv):
            return VegasInfo(1, ca.rtt_cnt, ca.last_rtt, ca.min_rtt)
        return None


# Upper layer protocols.


class _TlsContext(Struct):
    C_TYPE = "struct tls_context"
    version = Int("prot_info.version")
    cipher_type = Int("prot_info.cipher_type")
    tx_conf = Int("tx_conf")
    rx_conf = Int("rx_conf")
    # Linux kernel commit c1318b39c7d3 ("tls: Add opt-in zerocopy mode of sendfile()") (in v6.0)
    zerocopy_sendfile = OptInt("zerocopy_sendfile")
    # Linux kernel commit 88527790c079 ("tls: rx: add sockopt for enabling optimistic decrypt
    # with TLS 1.3") (in v6.0)
    rx_no_pad = OptInt("rx_no_pad")
    # Linux kernel commit 82cb5be6ad64 ("net/tls: support setting the maximum payload size") (in
    # v6.19)
    tx_max_payload_len = OptInt("tx_max_payload_len")


# include/net/tls.h: TLS_BASE, TLS_SW, TLS_HW, TLS_HW_RECORD are 0 to 3; TLS_CONF_* are 1 to 4.
_TLS_HW = 2


class _MptcpSubflowContext(Struct):
    C_TYPE = "struct mptcp_subflow_context"
    mp_capable = Int("mp_capable")
    request_mptcp = Int("request_mptcp")
    mp_join = Int("mp_join")
    request_join = Int("request_join")
    backup = Int("backup")
    request_bkup = Int("request_bkup")
    fully_established = Int("fully_established")
    conn_finished = Int("conn_finished")
    map_valid = Int("map_valid")
    remote_token = Int("remote_token")
    token = Int("token")
    map_seq = Int("map_seq")
    map_subflow_seq = Int("map_subflow_seq")
    ssn_offset = Int("ssn_offset")
    map_data_len = Int("map_data_len")
    rel_write_seq = Int("rel_write_seq")
    remote_id = Int("remote_id")
    local_id = Int("local_id")

    def flags(self) -> int:
        """``MPTCP_SUBFLOW_FLAG_*``"""
        bits = (
            *(self.mp_capable, self.request_mptcp, self.mp_join, self.request_join),
            *(self.backup, self.request_bkup, self.fully_established, self.conn_finished),
            self.map_valid,
        )
        return sum(1 << i for i, bit in enumerate(bits) if bit)


def ulp_info(
    prog: Program, sock: TcpSock, ulp: bytes
) -> tuple[TlsInfo | None, MptcpSubflowInfo | None]:
    """
    ``icsk_ulp_ops->get_info()``

    :raises LookupError: if the program lacks the types
    :raises FaultError: if it cannot be read
    """
    if sock.ulp_data and ulp == b"tls":
        return _tls_info(_TlsContext.layout(prog).read(sock.ulp_data)), None
    if sock.ulp_data and ulp == b"mptcp":
        return None, _mptcp_info(_MptcpSubflowContext.layout(prog).read(sock.ulp_data))
    return None, None


def _tls_info(tls: _TlsContext) -> TlsInfo:
    """``tls_get_info()``"""
    return TlsInfo(
        tls.version,
        tls.cipher_type,
        tls.rx_conf + 1,
        tls.tx_conf + 1,
        int(tls.tx_conf == _TLS_HW and bool(tls.zerocopy_sendfile)),
        tls.rx_no_pad or 0,
        tls.tx_max_payload_len,
    )


def _mptcp_info(subflow: _MptcpSubflowContext) -> MptcpSubflowInfo:
    """``subflow_get_info()``"""
    return MptcpSubflowInfo(
        subflow.flags(),
        subflow.remote_token,
        subflow.token,
        # In newer kernels these are signed, and negative as long as there is no ID.
        max(subflow.remote_id, 0),
        max(subflow.local_id, 0),
        subflow.map_seq,
        subflow.map_subflow_seq,
        subflow.ssn_offset,
        subflow.map_data_len,
        subflow.rel_write_seq,
    )
