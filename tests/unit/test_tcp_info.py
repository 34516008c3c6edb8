# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of ``ss -i`` that no connection of a test has, in iproute2's order."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from drgn_sockets.records.columns import Column
from drgn_sockets.records.parts import Batch
from drgn_sockets.records.tcp_info import (
    NO_RATE,
    BbrInfo,
    DctcpInfo,
    MptcpSubflowInfo,
    TcpInfo,
    TlsInfo,
    VegasInfo,
)
from drgn_sockets.views.rows import Json
from drgn_sockets.views.tcp_info import tcp_info_text

NUMBERS = [
    name
    for name, type_ in TcpInfo.__annotations__.items()
    if any(word in str(type_) for word in ("int", "Member"))
]
#: As of a connection that has just been made.
QUIET = TcpInfo(state=1, reordering=3, congestion=b"cubic", options=0)


def test_all_words_in_order() -> None:
    # tcp_stats_print() of iproute2 7.1, with every condition met.
    numbers: dict[str, Any] = dict.fromkeys(NUMBERS, 7)
    info = TcpInfo(**numbers, congestion=b"dctcp")
    info = info._replace(options=0xFF, state=1, dctcp=DctcpInfo(1, 2, 3, 4, 5))
    assert tcp_info_text(info) == (
        "ts usec_ts sack ecn ecnseen fastopen dctcp wscale:7,7 rto:0.007 backoff:7 "
        "rtt:0.007/0.007 ato:0.007 mss:7 pmtu:7 rcvmss:7 advmss:7 cwnd:7 ssthresh:7 "
        "bytes_sent:7 bytes_retrans:7 bytes_acked:7 bytes_received:7 segs_out:7 segs_in:7 "
        "data_segs_out:7 data_segs_in:7 dctcp:(ce_state:2,alpha:3,ab_ecn:4,ab_tot:5) "
        "send 56000000bps lastsnd:7 lastrcv:7 lastack:7 pacing_rate 56bps/56bps "
        "delivery_rate 56bps delivered:7 delivered_ce:7 app_limited busy:0ms "
        "rwnd_limited:0ms(100.0%) sndbuf_limited:0ms(100.0%) unacked:7 retrans:7/7 lost:7 "
        "sacked:7 dsack_dups:7 reordering:7 reord_seen:7 rcv_rtt:0.007 rcv_space:7 "
        "rcv_ssthresh:7 notsent:7 minrtt:0.007 rcv_ooopack:7 snd_wnd:7 rcv_wnd:7 rehash:7"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "cubic"),
        # What ss takes for nothing.
        ({"rto_us": 3_000_000, "snd_ssthresh": 0xFFFF, "min_rtt_us": 0xFFFFFFFF}, "cubic"),
        ({"pacing_rate": NO_RATE, "max_pacing_rate": 1}, "cubic"),
        ({"pacing_rate": 1000, "max_pacing_rate": NO_RATE}, "cubic pacing_rate 8000bps"),
        # A double has 53 bits.
        ({"pacing_rate": (1 << 60) + 1}, "cubic pacing_rate 9223372036854775808bps"),
        # Of a listener: how many wait, and how many may.
        ({"state": 10, "snd_cwnd": 10, "unacked": 2, "sacked": 5}, "cubic cwnd:10 unacked:2"),
        ({"rtt_us": 1234567, "rttvar_us": 50}, "cubic rtt:1234.57/0.05"),
        (
            {"busy_time_us": 3000, "rwnd_limited_us": 1000, "sndbuf_limited_us": 999},
            "cubic busy:3ms rwnd_limited:1ms(33.3%) sndbuf_limited:0ms(33.3%)",
        ),
        ({"total_retrans": 3, "retrans": 0}, "cubic retrans:0/3"),
        ({"congestion": None, "reordering": 300}, "reordering:300"),
        ({"congestion": b"a\n\xff"}, "a\\n\\xff"),
        ({"dctcp": DctcpInfo(0, 0, 0, 0, 0)}, "cubic dctcp:fallback_mode"),
        (
            {"bbr": BbrInfo(1000, 1500, 739, 512)},
            "cubic bbr:(bw:8000bps,mrtt:1.5,pacing_gain:2.88672,cwnd_gain:2)",
        ),
        ({"bbr": BbrInfo(0, 0, 0, 0)}, "cubic bbr:(bw:0bps,mrtt:0)"),
        (
            {"vegas": VegasInfo(1, 3, 500, 400), "rtt_us": 1000, "snd_mss": 1000, "snd_cwnd": 1},
            "cubic rtt:1/0 mss:1000 cwnd:1 send 16000000bps",
        ),
        # Vegas is asleep, or has seen nothing yet; or what it keeps has no type.
        (
            {"vegas": VegasInfo(0, 3, 500, 400), "rtt_us": 1000, "snd_mss": 1000, "snd_cwnd": 1},
            "cubic rtt:1/0 mss:1000 cwnd:1 send 8000000bps",
        ),
        (
            {"vegas": VegasInfo(1, 0, 0x7FFFFFFF, 0), "rtt_us": 8, "snd_mss": 1, "snd_cwnd": 1},
            "cubic rtt:0.008/0 mss:1 cwnd:1 send 1000000bps",
        ),
        (
            {"congestion": b"vegas", "rtt_us": 8, "snd_mss": 1, "snd_cwnd": 1},
            "vegas rtt:0.008/0 mss:1 cwnd:1",
        ),
        (
            {"ulp": b"tls", "tls": TlsInfo(0x0303, 52, 3, 4, 1, 1)},
            "cubic tcp-ulp-tls version: 1.2 cipher: aes-gcm-256 rxconf: hw txconf: hw-record "
            "zc_ro_tx no_pad_rx",
        ),
        (
            {"ulp": b"tls", "tls": TlsInfo(9, 60, 1, 17, 0, 0)},
            "cubic tcp-ulp-tls version: unknown(9) rxconf: none txconf: unknown(17)",
        ),
        (
            {"ulp": b"mptcp", "mptcp": MptcpSubflowInfo(0x1FF, 1, 0xABCDE, 2, 3, 4, 5, 6, 7)},
            "cubic tcp-ulp-mptcp flags:MmJjBbecv token:0001(id:2)/abcde(id:3) seq:4 sfseq:5 "
            "ssnoff:6 maplen:7",
        ),
        ({"ulp": b"espintcp"}, "cubic tcp-ulp-espintcp"),
    ],
)
def test_words(change: dict[str, Any], text: str) -> None:
    assert tcp_info_text(QUIET._replace(**change)) == text


@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 64) - 1])
def test_absurd_values(value: int) -> None:
    numbers: dict[str, Any] = dict.fromkeys(NUMBERS, value)
    info = TcpInfo(**numbers)._replace(
        bbr=BbrInfo(value, value, value, value),
        vegas=VegasInfo(value, value, value, value),
        dctcp=DctcpInfo(value, value, value, value, value),
        tls=TlsInfo(value, value, value, value, value, value),
        mptcp=MptcpSubflowInfo(*[value] * 9),
        ulp=b"\0" * 16,
        congestion=b"\x1b" * 16,
    )
    assert tcp_info_text(info).isprintable()


def test_json_leaves_out_what_there_is_not() -> None:
    out = io.StringIO()
    info = TcpInfo(state=10, bbr=BbrInfo(1, 2, 3, 4), congestion=b"bbr")
    Json([Column("info", "", lambda record: record)], out).write(Batch([info]))
    found = json.loads(out.getvalue())["info"]
    assert found["bbr"] == {"bw": 1, "min_rtt_us": 2, "pacing_gain": 3, "cwnd_gain": 4}
    assert (found["congestion"], found["state"]) == ("bbr", 10)
    assert "rtt_us" not in found and "mptcp" not in found
