# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP sockets: full sockets, sockets in TIME-WAIT, and requests."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NamedTuple

from drgn import Program

from drgn_sockets.kernel.chains import NOTHING
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.sock import (
    IPPROTO_TCP,
    SOCK_STREAM,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
    SockCommon,
    for_each_tcp,
)
from drgn_sockets.kernel.structs import BigEndian, CString, Int, Member, OptInt, Struct
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.program import once_per_program
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord, InetSock, other_ends
from drgn_sockets.records.socket import (
    AnySocket,
    Derived,
    Family,
    LsofSocket,
    SocketRecord,
    Sockets,
    Timer,
    same,
)

# include/net/inet_connection_sock.h: icsk_pending
_ICSK_TIME_RETRANS = 1
_ICSK_TIME_PROBE0 = 3
_ICSK_TIME_LOSS_PROBE = 5
_ICSK_TIME_REO_TIMEOUT = 6

_TCP_INFINITE_SSTHRESH = 0x7FFFFFFF


class Jiffies(Member[int]):
    """A duration in jiffies, as microseconds."""

    def converter(self, prog: Program) -> Callable[[int], int]:
        return clock(prog).to_us

    def column_converter(self, prog: Program) -> Callable[[Iterable[int]], Iterable[int]]:
        return clock(prog).all_to_us


class Age(Member[int]):
    """Milliseconds since a moment in ``tcp_jiffies32``."""

    def converter(self, prog: Program) -> Callable[[int], int]:
        return clock(prog).since_ms

    def column_converter(self, prog: Program) -> Callable[[Iterable[int]], Iterable[int]]:
        return clock(prog).all_since_ms


class Scaled(Member[int]):
    """A smoothed value that the kernel keeps as a multiple of 2**bits."""

    def __init__(self, *paths: str, bits: int, help: str) -> None:
        super().__init__(*paths, help=help, convert=lambda value: value >> bits)
        self._bits = bits

    def column_converter(self, prog: Program) -> Callable[[Iterable[int]], Iterable[int]]:
        bits = self._bits
        return lambda values: [value >> bits for value in values]


class InetConnectionSock(InetSock):
    """``struct inet_connection_sock``."""

    C_TYPE = "struct inet_connection_sock"

    ca_state = Int("icsk_ca_state", help="0 Open, 1 Disorder, 2 CWR, 3 Recovery, 4 Loss")
    ca_ops = Int("icsk_ca_ops", help="struct tcp_congestion_ops *")
    ulp_ops = Int("icsk_ulp_ops", help="struct tcp_ulp_ops *")
    ulp_data = Int("icsk_ulp_data", help="void *, what the upper layer protocol keeps")
    rto_us = Jiffies("icsk_rto", help="retransmission timeout, us")
    rto = Int("icsk_rto", help="retransmission timeout, jiffies")
    rto_min = OptInt("icsk_rto_min", help="lower bound of that, jiffies")
    # Linux kernel commit 54a378f43425 ("tcp: add the ability to control max RTO") (in v6.15)
    rto_max = OptInt("icsk_rto_max", help="upper bound of that, jiffies")
    retransmits = Int("icsk_retransmits", help="retransmissions of the same segment so far")
    probes_out = Int("icsk_probes_out", help="window or keepalive probes not answered")
    backoff = Int("icsk_backoff", help="how often the timeout was doubled")
    pending = Int(
        "icsk_pending", help="running timer: 1 retransmit, 3 probe, 5 loss probe, 6 reorder"
    )
    # Linux kernel commit a7c428ee8f59 ("tcp/dccp: remove icsk->icsk_timeout") (in v6.15)
    # left the time in the timer itself, and 9a5e5334adc0 ("tcp: remove
    # icsk->icsk_retransmit_timer") (in v6.19) moved the timer into struct sock.
    timeout = Int(
        "icsk_inet.sk.tcp_retransmit_timer.expires",
        "icsk_timeout",
        "icsk_retransmit_timer.expires",
        help="when it fires, jiffies",
    )
    # Linux kernel commit 08dfe370239e ("tcp: introduce icsk->icsk_keepalive_timer") (in v6.19,
    # and in stable kernels). Before, sk_timer was the keepalive timer; since then, it is the
    # retransmit timer.
    keepalive_pprev = Int(
        "icsk_keepalive_timer.entry.pprev",
        "icsk_inet.sk.sk_timer.entry.pprev",
        help="not NULL while it runs",
    )
    keepalive_expires = Int(
        "icsk_keepalive_timer.expires",
        "icsk_inet.sk.sk_timer.expires",
        help="when it fires, jiffies",
    )
    ato_us = Jiffies("icsk_ack.ato", help="delayed ACK timeout, us")
    ato = Int("icsk_ack.ato", help="delayed ACK timeout, jiffies")
    delack_max = OptInt("icsk_delack_max", help="upper bound of that, jiffies")
    ack_pending = Int("icsk_ack.pending", help="ICSK_ACK_*: 2 delayed ACK timer, as bits")
    delack_pprev = Int("icsk_delack_timer.entry.pprev", help="not NULL while that timer runs")
    delack_expires = Int("icsk_delack_timer.expires", help="when it fires, jiffies")
    quick = Int("icsk_ack.quick", help="ACKs still to be sent at once")
    pingpong = Int("icsk_ack.pingpong", help="how interactive the session is")
    rcv_mss = Int("icsk_ack.rcv_mss", help="segment size seen from the other end, bytes")
    last_data_recv_ms = Age("icsk_ack.lrcvtime", help="since data was received, ms")
    lrcvtime = Int("icsk_ack.lrcvtime", help="when data was received, 32 bits of jiffies")
    pmtu = Int("icsk_pmtu_cookie", help="path MTU, bytes")
    user_timeout_ms = Int("icsk_user_timeout", help="TCP_USER_TIMEOUT, ms")
    accept_qlen = Int("icsk_accept_queue.qlen.counter", help="requests of a listener (SYN queue)")
    accept_young = Int("icsk_accept_queue.young.counter", help="of those, not retransmitted yet")
    defer_accept = Int("icsk_accept_queue.rskq_defer_accept", help="TCP_DEFER_ACCEPT, retries")
    fastopen_max_qlen = Int(
        "icsk_accept_queue.fastopenq.max_qlen", help="TCP_FASTOPEN of a listener"
    )
    syn_retries = Int("icsk_syn_retries", help="TCP_SYNCNT, 0 for the default")
    # Members of struct sock that TCP uses.
    pacing_rate = Int(
        "icsk_inet.sk.sk_pacing_rate", help="rate of sending, bytes a second; all ones for none"
    )
    max_pacing_rate = Int("icsk_inet.sk.sk_max_pacing_rate", help="SO_MAX_PACING_RATE, likewise")
    pacing_status = Int("icsk_inet.sk.sk_pacing_status", help="pacing: 1 by TCP, 2 by sch_fq")
    # Linux kernel commit 26859240e4ee ("txhash: Add socket option to control TX hash rethink
    # behavior") (in v5.18)
    txrehash = OptInt("icsk_inet.sk.sk_txrehash", help="SO_TXREHASH, 255 for the default")

    def timer_active(self) -> int:
        """:func:`timer_active` of this socket."""
        return timer_active(self.pending, self.keepalive_pprev)


class TcpSock(InetConnectionSock):
    """``struct tcp_sock``, in the terms of ``tcp_get_info()``."""

    C_TYPE = "struct tcp_sock"

    snd_cwnd = Int("snd_cwnd", help="congestion window, segments")
    snd_ssthresh = Int("snd_ssthresh", help="slow start threshold, segments; 2147483647 for none")
    snd_cwnd_clamp = Int("snd_cwnd_clamp", help="upper bound of the congestion window, segments")
    rtt_us = Scaled("srtt_us", bits=3, help="smoothed round-trip time, us")
    rttvar_us = Scaled("mdev_us", bits=2, help="its mean deviation, us")
    min_rtt_us = Int("rtt_min.s[0].v", help="smallest round-trip time of late, us")
    rcv_rtt_us = Scaled("rcv_rtt_est.rtt_us", bits=3, help="receiver's estimate of it, us")
    mss = Int("mss_cache", help="segment size for sending, bytes")
    advmss = Int("advmss", help="segment size advertised, bytes")
    write_seq = Int("write_seq", help="sequence number after the last byte written")
    snd_una = Int("snd_una", help="first byte not acknowledged, sequence number")
    snd_nxt = Int("snd_nxt", help="next byte to send, sequence number")
    snd_wnd = Int("snd_wnd", help="window the other end offers, bytes")
    max_window = Int("max_window", help="largest window it ever offered, bytes")
    rcv_nxt = Int("rcv_nxt", help="next byte expected, sequence number")
    copied_seq = Int("copied_seq", help="next byte to be read by the process, sequence number")
    rcv_wup = Int("rcv_wup", help="rcv_nxt at the last window update, sequence number")
    rcv_wnd = Int("rcv_wnd", help="window offered to the other end, bytes")
    window_clamp = Int("window_clamp", help="upper bound of that window, bytes")
    rcv_ssthresh = Int("rcv_ssthresh", help="current clamp of that window, bytes")
    rcv_space = Int("rcvq_space.space", help="bytes read per round trip (buffer tuning)")
    packets_out = Int("packets_out", help="segments in flight (unacked)")
    sacked_out = Int("sacked_out", help="segments acknowledged selectively")
    lost_out = Int("lost_out", help="segments thought lost")
    retrans_out = Int("retrans_out", help="retransmitted segments in flight")
    total_retrans = Int("total_retrans", help="retransmissions over the life of the connection")
    reordering = Int("reordering", help="reordering seen, segments")
    reord_seen = Int("reord_seen", help="reordering events")
    rcv_ooopack = Int("rcv_ooopack", help="segments received out of order")
    dsack_dups = Int("dsack_dups", help="duplicates the other end reported")
    delivered = Int("delivered", help="segments delivered")
    delivered_ce = Int("delivered_ce", help="of those, marked by congestion (ECN)")
    bytes_sent = Int("bytes_sent", help="bytes sent, retransmissions included")
    bytes_acked = Int("bytes_acked", help="bytes acknowledged")
    bytes_received = Int("bytes_received", help="bytes received")
    bytes_retrans = Int("bytes_retrans", help="bytes retransmitted")
    segs_out = Int("segs_out", help="segments sent")
    segs_in = Int("segs_in", help="segments received")
    data_segs_out = Int("data_segs_out", help="segments with data sent")
    data_segs_in = Int("data_segs_in", help="segments with data received")
    last_data_sent_ms = Age("lsndtime", help="since data was sent, ms")
    last_ack_recv_ms = Age("rcv_tstamp", help="since an ACK was received, ms")
    lsndtime = Int("lsndtime", help="when data was sent, 32 bits of jiffies")
    rcv_tstamp = Int("rcv_tstamp", help="when an ACK was received, 32 bits of jiffies")
    tstamp_ok = Int("rx_opt.tstamp_ok", help="timestamps negotiated")
    sack_ok = Int("rx_opt.sack_ok", help="selective ACKs negotiated")
    wscale_ok = Int("rx_opt.wscale_ok", help="window scaling negotiated")
    snd_wscale = Int("rx_opt.snd_wscale", help="scale of the window received")
    rcv_wscale = Int("rx_opt.rcv_wscale", help="scale of the window sent")
    user_mss = Int("rx_opt.user_mss", help="TCP_MAXSEG, bytes, 0 for none")
    ts_recent = Int("rx_opt.ts_recent", help="timestamp to echo next")
    # Linux kernel commit 041fb11d518f ("tcp: helpers for ECN mode handling") (in v6.15)
    ecn_flags = Int("ecn_flags", help="1 ECN negotiated, 8 seen, 16 accurate ECN")
    nonagle = Int("nonagle", help="1 TCP_NODELAY, 2 TCP_CORK, 4 push")
    syn_data_acked = Int("syn_data_acked", help="data in the SYN was acknowledged (Fast Open)")
    # Since v6.15 ("tcp: fastopen: note that a child socket was created")
    syn_fastopen_child = OptInt("syn_fastopen_child", help="accepted from a SYN with data")
    fastopen_client_fail = Int("fastopen_client_fail", help="why Fast Open failed, TFO_*")
    repair = Int("repair", help="TCP_REPAIR")
    rate_app_limited = Int("rate_app_limited", help="rate sample limited by the application")
    rate_delivered = Int("rate_delivered", help="segments in the last rate sample")
    rate_interval_us = Int("rate_interval_us", help="length of that sample, us")
    chrono_type = Int(
        "chrono_type", help="what it is at: 1 sending, held up by 2 the other's window, 3 memory"
    )
    chrono_start = Int("chrono_start", help="since when, 32 bits of jiffies")
    chrono_busy = Int("chrono_stat[0]", help="time sending before that, jiffies")
    chrono_rwnd = Int("chrono_stat[1]", help="time held up by the other's window, jiffies")
    chrono_sndbuf = Int("chrono_stat[2]", help="time held up by SO_SNDBUF, jiffies")
    timeout_rehash = Int("timeout_rehash", help="other paths tried after a timeout")
    # Linux kernel commit 29c1c44646ae ("tcp: add u32 counter in tcp_sock and an SNMP counter
    # for PLB") (in v6.2)
    plb_rehash = OptInt("plb_rehash", help="other paths tried for congestion (PLB)")
    keepalive_time = Int("keepalive_time", help="TCP_KEEPIDLE, jiffies, 0 for the default")
    keepalive_intvl = Int("keepalive_intvl", help="TCP_KEEPINTVL, jiffies, 0 for the default")
    keepalive_probes = Int("keepalive_probes", help="TCP_KEEPCNT, 0 for the default")
    notsent_lowat = Int("notsent_lowat", help="TCP_NOTSENT_LOWAT, bytes")
    md5sig_info = OptInt("md5sig_info", help="struct tcp_md5sig_info *, keys of TCP_MD5SIG")
    # Linux kernel commit 614e8316aa4c ("tcp: add support for usec resolution in TCP TS
    # values") (in v6.7)
    usec_ts = OptInt("tcp_usec_ts", help="timestamps in microseconds")
    # Linux kernel commit 3868ab0f1925 ("tcp: new TCP_INFO stats for RTO events") (in v6.7)
    total_rto = OptInt("total_rto", help="retransmission timeouts")
    total_rto_recoveries = OptInt("total_rto_recoveries", help="recoveries from these")
    total_rto_time_ms = OptInt("total_rto_time", help="time these took, ms")
    rto_stamp_ms = OptInt("rto_stamp", help="since when it is recovering, ms since boot; or 0")
    # Linux kernel commit 9a0112774455 ("tcp: accecn: add AccECN rx byte counters") and those
    # around it (in v6.18)
    received_ce = OptInt("received_ce", help="segments received with a congestion mark")
    received_e1_bytes = OptInt("received_ecn_bytes[0]", help="bytes received with ECT(1)")
    received_e0_bytes = OptInt("received_ecn_bytes[1]", help="bytes received with ECT(0)")
    received_ce_bytes = OptInt("received_ecn_bytes[2]", help="bytes received with CE")
    delivered_e1_bytes = OptInt("delivered_ecn_bytes[0]", help="bytes delivered with ECT(1)")
    delivered_e0_bytes = OptInt("delivered_ecn_bytes[1]", help="bytes delivered with ECT(0)")
    delivered_ce_bytes = OptInt("delivered_ecn_bytes[2]", help="bytes delivered with CE")
    accecn_fail_mode = OptInt("accecn_fail_mode", help="what of accurate ECN failed, as bits")
    saw_accecn_opt = OptInt("saw_accecn_opt", help="AccECN option: 1 empty, 2 with counters seen")

    def initial_slowstart(self) -> bool:
        """``tcp_in_initial_slowstart()``."""
        return self.snd_ssthresh >= _TCP_INFINITE_SSTHRESH


class InetTimewaitSock(SockCommon):
    """``struct inet_timewait_sock``."""

    C_TYPE = "struct inet_timewait_sock"

    substate = Int("tw_substate", help="TIME_WAIT, or FIN_WAIT2 when orphaned in that state")
    rcv_wscale = Int("tw_rcv_wscale", help="scale of the window sent")
    sport = BigEndian("tw_sport", help="local port")
    mark = Int("tw_mark", help="SO_MARK")
    tos = Int("tw_tos", help="IP_TOS")
    timer_expires = Int("tw_timer.expires", help="when it is removed, jiffies")


class TcpTimewaitSock(InetTimewaitSock):
    """``struct tcp_timewait_sock``."""

    C_TYPE = "struct tcp_timewait_sock"

    # tw_rcv_nxt and tw_snd_nxt are macros for members of sock_common.
    rcv_nxt = Int("tw_sk.__tw_common.skc_tw_rcv_nxt", help="next byte expected, sequence number")
    rcv_wnd = Int("tw_rcv_wnd", help="window offered to the other end, bytes")
    ts_recent = Int("tw_ts_recent", help="timestamp to echo next")


class InetRequestSock(SockCommon):
    """``struct inet_request_sock``."""

    C_TYPE = "struct inet_request_sock"

    listener = Int("req.__req_common.skc_listener", help="struct sock * of the listener")
    mss = Int("req.mss", help="segment size the other end advertised, bytes")
    num_retrans = Int("req.num_retrans", help="SYN-ACKs sent again")
    num_timeout = Int("req.num_timeout", help="timeouts of the SYN-ACK")
    timer_expires = Int("req.rsk_timer.expires", help="when it fires, jiffies")
    snd_wscale = Int("snd_wscale", help="scale of the window received")
    rcv_wscale = Int("rcv_wscale", help="scale of the window sent")
    tstamp_ok = Int("tstamp_ok", help="timestamps negotiated")
    sack_ok = Int("sack_ok", help="selective ACKs negotiated")
    wscale_ok = Int("wscale_ok", help="window scaling negotiated")
    ecn_ok = Int("ecn_ok", help="ECN negotiated")
    acked = Int("acked", help="the last ACK came (TCP_DEFER_ACCEPT)")
    mark = Int("ir_mark", help="SO_MARK")


class TcpRequestSock(InetRequestSock):
    """``struct tcp_request_sock``."""

    C_TYPE = "struct tcp_request_sock"

    rcv_isn = Int("rcv_isn", help="initial sequence number of the other end")
    snt_isn = Int("snt_isn", help="initial sequence number sent")
    rcv_nxt = Int("rcv_nxt", help="next byte expected, sequence number")
    tfo_listener = Int("tfo_listener", help="a child exists already (Fast Open)")


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def timer_active(pending: int, keepalive_pprev: int) -> int:
    """
    The timer in column ``tr`` of ``/proc/net/tcp``: 0 none, 1 retransmit, 2 keepalive, 4 probe.

    :param pending: ``icsk_pending``
    :param keepalive_pprev: ``pprev`` of the keepalive timer, 0 unless the timer runs
    """
    if pending in (_ICSK_TIME_RETRANS, _ICSK_TIME_REO_TIMEOUT, _ICSK_TIME_LOSS_PROBE):
        return 1
    if pending == _ICSK_TIME_PROBE0:
        return 4
    # timer_pending(): the timer is on a list.
    return 2 if keepalive_pprev else 0


def recv_queue(state: int, ack_backlog: int, rcv_nxt: int, copied_seq: int) -> int:
    """Bytes received and not yet read; of a listener, connections to be accepted."""
    if state == TCP_LISTEN:
        return ack_backlog
    return max(_int32(rcv_nxt - copied_seq), 0)


def send_queue(state: int, max_ack_backlog: int, write_seq: int, snd_una: int) -> int:
    """Bytes written and not yet acknowledged; of a listener, the accept queue's limit."""
    if state == TCP_LISTEN:
        return max_ack_backlog
    return write_seq - snd_una & 0xFFFFFFFF


def tcp_timer(prog: Program, sk: SockCommon) -> Timer | None:
    """The running timer of a TCP socket that procfs and ``ss -o`` show."""
    now = clock(prog)
    if isinstance(sk, InetTimewaitSock):
        return Timer("timewait", now.until_s(sk.timer_expires), sk.timer_expires, 0)
    if isinstance(sk, InetRequestSock):
        return Timer("synack", now.until_s(sk.timer_expires), sk.timer_expires, sk.num_timeout)
    if not isinstance(sk, InetConnectionSock):
        return None
    active = sk.timer_active()
    if active == 1:
        return Timer("on", now.until_s(sk.timeout), sk.timeout, sk.retransmits)
    if active == 4:
        return Timer("persist", now.until_s(sk.timeout), sk.timeout, sk.probes_out)
    if active == 2:
        expires = sk.keepalive_expires
        return Timer("keepalive", now.until_s(expires), expires, sk.probes_out)
    return None


class _CongestionOps(Struct):
    C_TYPE = "struct tcp_congestion_ops"
    name = CString("name")
    get_info = Int("get_info")


class _UlpOps(Struct):
    C_TYPE = "struct tcp_ulp_ops"
    name = CString("name")
    get_info = Int("get_info")


class _Ops(NamedTuple):
    name: bytes | None
    #: Whether they have a ``get_info()``.
    tells: bool


@once_per_program
def _ops(prog: Program, cls: type[_CongestionOps] | type[_UlpOps], address: int) -> _Ops:
    ops = cls.layout(prog).follow(address) if address else None
    return _Ops(ops.name, bool(ops.get_info)) if ops else _Ops(None, False)


def congestion_algorithm(prog: Program, sk: InetConnectionSock) -> bytes | None:
    """Name of the congestion control algorithm, as ``TCP_CONGESTION``."""
    return _ops(prog, _CongestionOps, sk.ca_ops).name


def congestion_tells(prog: Program, sk: InetConnectionSock) -> bool:
    """Whether the congestion control algorithm has a ``get_info()``."""
    return _ops(prog, _CongestionOps, sk.ca_ops).tells


def ulp_name(prog: Program, sk: InetConnectionSock) -> bytes | None:
    """Name of the upper layer protocol (``tls``, ``mptcp``), as ``TCP_ULP``; ``None`` for most."""
    return _ops(prog, _UlpOps, sk.ulp_ops).name


def ulp_tells(prog: Program, sk: InetConnectionSock) -> bool:
    """Whether the upper layer protocol has a ``get_info()``."""
    return _ops(prog, _UlpOps, sk.ulp_ops).tells


#: Names of states in netstat and lsof.
LSOF_STATES = {
    1: "ESTABLISHED",
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    6: "TIME_WAIT",
    7: "CLOSE",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    10: "LISTEN",
    11: "CLOSING",
    12: "SYN_RECV",
}


class TcpRecord(InetRecord):
    """A TCP socket: a full socket, or the request before it or the timewait socket after it."""

    family_name = "tcp"
    # Requests and timewait sockets do not keep these values.
    type: Any = SOCK_STREAM
    protocol: Any = IPPROTO_TCP
    uid: Any = None
    recv_q: Any = 0
    send_q: Any = 0

    @property
    def timer(self) -> Timer | None:
        return tcp_timer(self.prog, self.sock)

    @property
    def is_unlisted(self) -> bool:
        # It is new, bound, refused or reset.
        return bool(self.state == TCP_CLOSE)

    @property
    def is_bound_inactive(self) -> bool:
        return self.state == TCP_CLOSE and bool(self.sock.num)

    def note(self) -> str | None:
        if self.is_unbound or self.sock.num:
            return super().note()
        return "was connected: refused, reset or timed out"

    def lsof(self, ino: int) -> LsofSocket | None:
        return self.lsof_internet(ino, "TCP", f" ({LSOF_STATES.get(self.state, self.state)})")


class TcpTimewaitRecord(TcpRecord):
    """A connection in TIME-WAIT."""

    struct = TcpTimewaitSock
    state = Derived(
        same,
        "substate",
        doc="``TCP_*``; of an orphan in FIN-WAIT-2 that, and not the TIME-WAIT it is kept as.",
    )


class TcpRequestRecord(TcpRecord):
    """A connection to a listener that is not established yet."""

    struct = TcpRequestSock
    state: Any = TCP_SYN_RECV


class TcpSockRecord(TcpRecord):
    """A full TCP socket."""

    struct = TcpSock
    type = SocketRecord.type
    protocol = SocketRecord.protocol
    uid = SocketRecord.uid
    # inet_put_port() clears skc_num but not inet_sport, which getsockname() returns.
    local_port = Derived(
        lambda num, sport: num or sport,
        *("num", "sport"),
        doc="Local port; of a connection that was refused or reset, the one that it had.",
    )
    recv_q = Derived(
        recv_queue,
        *("state", "ack_backlog", "rcv_nxt", "copied_seq"),
        doc="Bytes to be read; of a listener, connections to be accepted.",
    )
    send_q = Derived(
        send_queue,
        *("state", "max_ack_backlog", "write_seq", "snd_una"),
        doc="Bytes not yet acknowledged; of a listener, how many connections may wait.",
    )


class TcpPlainRecord(InetRecord):
    """A TCP socket of which only ``struct sock`` was read."""

    family_name = "tcp"
    is_unlisted = TcpRecord.is_unlisted
    is_bound_inactive = TcpRecord.is_bound_inactive
    lsof = TcpRecord.lsof


_column = functools.partial(Column, of=TcpSockRecord)


class Tcp(Family):
    """TCP."""

    name = "tcp"
    record = TcpSockRecord
    small = (TcpTimewaitRecord, TcpRequestRecord)
    plain = TcpPlainRecord
    brief = True
    columns = (
        _column(
            "congestion",
            "congestion control algorithm",
            lambda r: congestion_algorithm(r.prog, r.sock),
        ),
        _column("ulp", "upper layer protocol (tls, mptcp)", lambda r: ulp_name(r.prog, r.sock)),
    )

    def small_record(self, common: SockCommon) -> type[SocketRecord] | None:
        if common.state == TCP_TIME_WAIT:
            return TcpTimewaitRecord
        return TcpRequestRecord if common.state == TCP_NEW_SYN_RECV else None

    def walk(
        self, prog: Program, known: Mapping[int, int] = NOTHING
    ) -> Iterator[SockCommon | Lost]:
        return for_each_tcp(prog, known)

    def peer(self, sockets: Sockets, record: Any) -> AnySocket | None:
        return self.peers(sockets, [record]).get(record.sk)

    def peers(self, sockets: Sockets, records: Iterable[Any]) -> Mapping[int, AnySocket]:
        return other_ends(sockets, [record for record in records if isinstance(record, TcpRecord)])
