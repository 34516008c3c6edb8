# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``ss -i`` prints of a TCP connection."""

from __future__ import annotations

import functools

from drgn_sockets.kernel.sock import TCP_LISTEN, TCP_TIME_WAIT
from drgn_sockets.records.tcp_info import (
    NO_RATE,
    TCPI_OPT_ECN,
    TCPI_OPT_ECN_SEEN,
    TCPI_OPT_SACK,
    TCPI_OPT_SYN_DATA,
    TCPI_OPT_TIMESTAMPS,
    TCPI_OPT_USEC_TS,
    TCPI_OPT_WSCALE,
    VEGAS_LIKE,
    BbrInfo,
    DctcpInfo,
    MptcpSubflowInfo,
    TcpInfo,
    TlsInfo,
    VegasInfo,
)
from drgn_sockets.text import escape

# In the order of ss, but for wscale, which ss prints after the algorithm.
_OPTIONS = {
    TCPI_OPT_TIMESTAMPS: "ts",
    TCPI_OPT_USEC_TS: "usec_ts",
    TCPI_OPT_SACK: "sack",
    TCPI_OPT_ECN: "ecn",
    TCPI_OPT_ECN_SEEN: "ecnseen",
    TCPI_OPT_SYN_DATA: "fastopen",
}
# ss does not print this RTO, the initial one of kernels before 3.1.
_NO_RTO_US = 3_000_000
# ss does not print these values: they stand for none.
_NO_SSTHRESH = 0xFFFF
_NO_MIN_RTT_US = 0xFFFFFFFF
_NO_VEGAS_RTT_US = 0x7FFFFFFF
_USUAL_REORDERING = 3

_TLS_VERSIONS = {0x0303: "1.2", 0x0304: "1.3"}
_TLS_CIPHERS = {51: "aes-gcm-128", 52: "aes-gcm-256"}
_TLS_CONFS = {1: "none", 2: "sw", 3: "hw", 4: "hw-record"}
# MPTCP_SUBFLOW_FLAG_*, from bit 0 on.
_MPTCP_FLAGS = "MmJjBbecv"


def tcp_info_text(info: TcpInfo) -> str:
    """
    Get the words of ``ss -ino``, in its order.

    Rates are in bits a second and times in milliseconds; values that are 0 are left out.
    """
    rtt_us = info.rtt_us
    text = _beginning(
        info.options, info.congestion, info.snd_wscale, info.rcv_wscale, info.rto_us, info.backoff
    )
    if rtt_us:
        text += f" rtt:{_ms(rtt_us)}/{_ms(info.rttvar_us)}"
    text += _sizes(
        info.ato_us,
        info.snd_mss,
        info.pmtu,
        info.rcv_mss,
        info.advmss,
        info.snd_cwnd,
        info.snd_ssthresh,
    )
    if info.bytes_sent:
        text += f" bytes_sent:{info.bytes_sent}"
    if info.bytes_retrans:
        text += f" bytes_retrans:{info.bytes_retrans}"
    if info.bytes_acked:
        text += f" bytes_acked:{info.bytes_acked}"
    if info.bytes_received:
        text += f" bytes_received:{info.bytes_received}"
    if info.segs_out:
        text += f" segs_out:{info.segs_out}"
    if info.segs_in:
        text += f" segs_in:{info.segs_in}"
    if info.data_segs_out:
        text += f" data_segs_out:{info.data_segs_out}"
    if info.data_segs_in:
        text += f" data_segs_in:{info.data_segs_in}"
    if info.dctcp is not None:
        text += _dctcp(info.dctcp)
    if info.bbr is not None:
        text += _bbr(info.bbr)
    if info.vegas is not None:
        rtt_us = _vegas_rtt_us(info.vegas) or rtt_us
    elif info.congestion in VEGAS_LIKE and info.state < TCP_TIME_WAIT:
        # ss takes the algorithm's own round-trip time, which this kernel's types do not have.
        rtt_us = 0
    if rtt_us and info.snd_mss and info.snd_cwnd:
        # ss prints a double with "%.0f"; round() rounds alike and is faster.
        text += f" send {round(8000000.0 * info.snd_cwnd * info.snd_mss / rtt_us)}bps"
    if info.last_data_sent_ms:
        text += f" lastsnd:{info.last_data_sent_ms}"
    if info.last_data_recv_ms:
        text += f" lastrcv:{info.last_data_recv_ms}"
    if info.last_ack_recv_ms:
        text += f" lastack:{info.last_ack_recv_ms}"
    if info.pacing_rate and info.pacing_rate != NO_RATE:
        text += f" pacing_rate {_bits(info.pacing_rate)}bps"
        if info.max_pacing_rate and info.max_pacing_rate != NO_RATE:
            text += f"/{_bits(info.max_pacing_rate)}bps"
    if info.delivery_rate:
        text += f" delivery_rate {_bits(info.delivery_rate)}bps"
    if info.delivered:
        text += f" delivered:{info.delivered}"
    if info.delivered_ce:
        text += f" delivered_ce:{info.delivered_ce}"
    if info.delivery_rate_app_limited:
        text += " app_limited"
    if info.busy_time_us:
        text += f" busy:{info.busy_time_us // 1000}ms"
        if info.rwnd_limited_us:
            text += _share("rwnd_limited", info.rwnd_limited_us, info.busy_time_us)
        if info.sndbuf_limited_us:
            text += _share("sndbuf_limited", info.sndbuf_limited_us, info.busy_time_us)
    if info.unacked:
        text += f" unacked:{info.unacked}"
    if info.retrans or info.total_retrans:
        text += f" retrans:{info.retrans}/{info.total_retrans}"
    if info.lost:
        text += f" lost:{info.lost}"
    if info.sacked and info.state != TCP_LISTEN:
        text += f" sacked:{info.sacked}"
    if info.dsack_dups:
        text += f" dsack_dups:{info.dsack_dups}"
    if info.reordering != _USUAL_REORDERING:
        text += f" reordering:{info.reordering}"
    if info.reord_seen:
        text += f" reord_seen:{info.reord_seen}"
    if info.rcv_rtt_us:
        text += f" rcv_rtt:{_ms(info.rcv_rtt_us)}"
    if info.rcv_space:
        text += f" rcv_space:{info.rcv_space}"
    if info.rcv_ssthresh:
        text += f" rcv_ssthresh:{info.rcv_ssthresh}"
    if info.notsent_bytes:
        text += f" notsent:{info.notsent_bytes}"
    if info.min_rtt_us and info.min_rtt_us != _NO_MIN_RTT_US:
        text += f" minrtt:{_ms(info.min_rtt_us)}"
    if info.rcv_ooopack:
        text += f" rcv_ooopack:{info.rcv_ooopack}"
    if info.snd_wnd:
        text += f" snd_wnd:{info.snd_wnd}"
    if info.rcv_wnd:
        text += f" rcv_wnd:{info.rcv_wnd}"
    if info.rehash:
        text += f" rehash:{info.rehash}"
    if info.ulp is not None:
        text += _ulp(info.ulp, info.tls, info.mptcp)
    return text[1:]


@functools.lru_cache(16384)
def _ms(us: int | None) -> str:
    """Microseconds as milliseconds, as "%g" prints them."""
    return f"{(us or 0) / 1000:g}"


def _bits(rate: int) -> int:
    """Bytes a second as bits a second, with the precision of a double."""
    bits = rate * 8
    return bits if bits < 1 << 53 else int(rate * 8.0)


# Most connections of a machine have the same of these values.


@functools.lru_cache(4096)
def _beginning(
    options: int,
    congestion: bytes | None,
    snd_wscale: int,
    rcv_wscale: int,
    rto_us: int | None,
    backoff: int | None,
) -> str:
    words = [word for bit, word in _OPTIONS.items() if options & bit]
    if congestion:
        words.append(escape(congestion))
    if options & TCPI_OPT_WSCALE:
        words.append(f"wscale:{snd_wscale},{rcv_wscale}")
    if rto_us and rto_us != _NO_RTO_US:
        words.append(f"rto:{_ms(rto_us)}")
    if backoff:
        words.append(f"backoff:{backoff}")
    return "".join(f" {word}" for word in words)


@functools.lru_cache(4096)
def _sizes(
    ato_us: int | None,
    mss: int | None,
    pmtu: int | None,
    rcvmss: int | None,
    advmss: int | None,
    cwnd: int,
    ssthresh: int | None,
) -> str:
    words = []
    if ato_us:
        words.append(f"ato:{_ms(ato_us)}")
    for name, value in (
        *(("mss", mss), ("pmtu", pmtu), ("rcvmss", rcvmss), ("advmss", advmss)),
        ("cwnd", cwnd),
    ):
        if value:
            words.append(f"{name}:{value}")
    if ssthresh and ssthresh < _NO_SSTHRESH:
        words.append(f"ssthresh:{ssthresh}")
    return "".join(f" {word}" for word in words)


def _share(name: str, part_us: int, whole_us: int) -> str:
    return f" {name}:{part_us // 1000}ms({100.0 * part_us / whole_us:.1f}%)"


def _vegas_rtt_us(vegas: VegasInfo) -> int:
    """The round-trip time that ss computes ``send`` with, if the algorithm has one of its own."""
    if vegas.enabled and vegas.rtt_us != _NO_VEGAS_RTT_US:
        return vegas.rtt_us
    return 0


def _dctcp(dctcp: DctcpInfo) -> str:
    if not dctcp.enabled:
        return " dctcp:fallback_mode"
    return (
        f" dctcp:(ce_state:{dctcp.ce_state},alpha:{dctcp.alpha},"
        f"ab_ecn:{dctcp.ab_ecn},ab_tot:{dctcp.ab_tot})"
    )


def _bbr(bbr: BbrInfo) -> str:
    text = f" bbr:(bw:{_bits(bbr.bw)}bps,mrtt:{_ms(bbr.min_rtt_us)}"
    if bbr.pacing_gain:
        text += f",pacing_gain:{bbr.pacing_gain / 256:g}"
    if bbr.cwnd_gain:
        text += f",cwnd_gain:{bbr.cwnd_gain / 256:g}"
    return text + ")"


def _ulp(ulp: bytes, tls: TlsInfo | None, mptcp: MptcpSubflowInfo | None) -> str:
    text = f" tcp-ulp-{escape(ulp)}"
    if tls is not None:
        if tls.version:
            version = _TLS_VERSIONS.get(tls.version, f"unknown({tls.version})")
            text += f" version: {version}"
        if tls.cipher in _TLS_CIPHERS:
            text += f" cipher: {_TLS_CIPHERS[tls.cipher]}"
        for name, conf in (("rxconf", tls.rxconf), ("txconf", tls.txconf)):
            text += f" {name}: {_TLS_CONFS.get(conf, f'unknown({conf})')}"
        if tls.zc_ro_tx:
            text += " zc_ro_tx"
        if tls.rx_no_pad:
            text += " no_pad_rx"
    if mptcp is not None:
        flags = "".join(c for i, c in enumerate(_MPTCP_FLAGS) if mptcp.flags >> i & 1)
        if flags:
            text += f" flags:{flags}"
        text += (
            f" token:{mptcp.token_rem:04x}(id:{mptcp.id_rem})"
            f"/{mptcp.token_loc:04x}(id:{mptcp.id_loc})"
            f" seq:{mptcp.map_seq} sfseq:{mptcp.map_sfseq}"
            f" ssnoff:{mptcp.ssn_offset} maplen:{mptcp.map_datalen}"
        )
    return text
