# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss -i`` against iproute2's: every word of every TCP socket, in its order."""

from __future__ import annotations

import csv
import re
from collections import Counter

from .info_words import AGES, CHRONO, GROWS, NEWER, member_names, words
from .machine import Core
from .ss_rows import pairs, still
from .ss_text import SsRow


def numbers(value: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", value)]


def compared(core: Core) -> list[tuple[SsRow, dict[str, str], dict[str, str]]]:
    """Words of ss and ours of each TCP socket that ss tells of."""
    done = core.run("ss", "-ta", "--csv", "--output=cookie,info")
    assert done.status == 0, done.err
    ours = {int(cookie): info for cookie, info in list(csv.reader(done.out.splitlines()))[1:]}
    found = []
    for row, mine in pairs(core)[0]:
        if mine["netid"] != "tcp":
            continue
        text = row.more.partition("skmem:(")[2].partition(")")[2]
        info = ours[mine["cookie"]]
        # Requests and TIME-WAIT have none.
        assert (info == "-") == (not text.strip()) == (mine["info"] is None), row
        if info != "-":
            found.append((row, words(text, 16), words(info)))
    return found


#: Algorithms that tell a round-trip time of their own, of which ss makes "send".
VEGAS = {"vegas", "illinois", "westwood", "yeah", "veno", "nv"}


def test_words_are_those_of_ss(core: Core) -> None:
    seen: Counter[str] = Counter()
    for row, theirs, mine in compared(core):
        for word in NEWER & mine.keys():
            assert core.series not in ("5.10", "6.1"), word
            del mine[word]
        if core.series == "5.10":
            # struct bbr is a module's, and modules have no BTF before 5.11; likewise others'.
            for key in {"bbr:", "dctcp:", *(["send "] if VEGAS & theirs.keys() else [])}:
                if key not in mine:
                    theirs.pop(key, None)
        # Secrets.
        theirs.pop("md5keys:", None)
        mine = {key: value for key, value in mine.items() if key in theirs or key not in AGES}
        if not still(core, row):
            assert [w for w in mine if w in theirs] == [w for w in theirs if w in mine], row
            assert mine.keys() ^ theirs.keys() <= GROWS, (row, mine)
        else:
            assert [*mine] == [*theirs], (row, mine)
        seen.update(theirs.keys())
        for key, value in theirs.items():
            if key in AGES or key in CHRONO or (key in GROWS and not still(core, row)):
                continue
            assert mine[key] == value, (key, mine[key], row)
    assert {w for w in WORDS if not seen[w]} == set()
    if core.kernel != "5.10":
        assert {"bbr:", "tcp-ulp-mptcp", "flags:", "token:"} <= seen.keys()


#: What the workloads have of them; test_info.py in tests/guest makes the others.
WORDS = {
    *(
        "ts",
        "sack",
        "fastopen",
        "cubic",
        "reno",
        "vegas",
        "bbr",
        "dctcp-reno",
        "dctcp:",
        "wscale:",
        "rto:",
    ),
    *("backoff:", "rtt:", "ato:", "mss:", "pmtu:", "rcvmss:", "advmss:", "cwnd:", "ssthresh:"),
    *("bytes_sent:", "bytes_retrans:", "bytes_acked:", "bytes_received:", "segs_out:"),
    *("segs_in:", "data_segs_out:", "data_segs_in:", "send ", *AGES, "pacing_rate "),
    *("delivery_rate ", "delivered:", "app_limited", "busy:", "rwnd_limited:", "unacked:"),
    *("retrans:", "lost:", "dsack_dups:", "rcv_rtt:", "rcv_space:", "rcv_ssthresh:"),
    *("notsent:", "minrtt:", "rcv_ooopack:", "snd_wnd:"),
}


def test_what_sending_again_changes(core: Core) -> None:
    grown: Counter[str] = Counter()
    for row, theirs, mine in compared(core):
        if still(core, row):
            continue
        for key in GROWS - {*AGES, *CHRONO}:
            before, after = numbers(theirs.get(key, "0")), numbers(mine.get(key, "0"))
            # Of "retrans:1/5" what is in flight comes and goes.
            assert before[-1] <= after[-1] <= before[-1] + 1_000_000, (key, row, mine)
            grown[key] += before[-1] < after[-1]
    assert grown["segs_out:"] and grown["retrans:"] and grown["backoff:"] and grown["rto:"]


def test_times_moved_on_with_the_clock(core: Core) -> None:
    """All by the same: what there was between ss and the machine's stop."""
    moved: dict[int, set[int]] = {}
    rows = compared(core)
    for row, theirs, mine in rows:
        if still(core, row):
            # Of what never was it is the clock itself, which is about to wrap.
            ages = {(int(mine[k]) - int(theirs[k])) % (1 << 32) for k in AGES if k in theirs}
            assert len(ages) <= 1, (row, mine)
            moved.setdefault(row.netns, set()).update(ages)
    assert moved[core.home_netns]
    for times in moved.values():
        # ss reads all in a moment.
        assert 0 <= min(times) <= max(times) < 1000 * core.tools_ran_s
        assert max(times) - min(times) < 1000
    running: Counter[str] = Counter()
    for row, theirs, mine in rows:
        for key in CHRONO:
            if key not in theirs:
                continue
            before, after = numbers(theirs[key])[0], numbers(mine[key])[0]
            times = moved[row.netns]
            # Of what holds it up just one goes on.
            went_on = min(times) - 4 <= after - before <= max(times) + 4
            assert went_on or after == before, (key, row, mine)
            running[key] += went_on
            if key != "busy:":
                share = re.fullmatch(r"\d+ms\(([\d.]+)%\)", mine[key])
                assert share, mine[key]
                expected = 100 * after / numbers(mine["busy:"])[0]
                assert abs(float(share[1]) - expected) < 0.06, mine
    assert running["busy:"] > 5 and running["rwnd_limited:"]


def test_json_has_every_field(core: Core) -> None:
    """Those of the kernel's own struct tcp_info, but for two that none of them fills."""
    members = {name[5:] for name in member_names(core.prog.type("struct tcp_info"))}
    assert {"rtt", "delivery_rate_app_limited", "snd_wnd"} <= members
    members -= {"fackets", "last_ack_sent", "options2"}
    full = 0
    for row in core.rows("ss", "-a"):
        info = row["info"]
        if row["netid"] != "tcp" or info is None:
            continue
        if row["state"] == "LISTEN":
            assert {"unacked", "sacked", "snd_cwnd", "reordering", "congestion"} <= info.keys()
            assert (info["unacked"], info["sacked"]) == (row["recv_q"], row["send_q"])
            assert "rtt_us" not in info
            continue
        assert {
            re.sub("_[um]s$", "", name) for name, value in info.items() if isinstance(value, int)
        } == members
        full += 1
        # As other columns have it, of the same memory.
        for name, column in (
            *(("rtt_us", "rtt_us"), ("snd_mss", "mss"), ("rto_us", "rto_us")),
            *(("unacked", "packets_out"), ("bytes_acked", "bytes_acked"), ("snd_wnd", "snd_wnd")),
            *(("congestion", "congestion"), ("total_retrans", "total_retrans")),
        ):
            assert info.get(name) == row[column], name
    assert full > 100


def test_who_has_it(core: Core) -> None:
    having = {row["netid"] for row in core.rows("ss", "-a") if row["info"] is not None}
    # Those of TIPC are what ss shows with --tipcinfo.
    tipc = {"ti_st", "ti_sq", "ti_dg", "ti_rd"}
    assert {"tcp"} <= having <= {"tcp", "mptcp", "sctp"} | tipc
    done = core.run("ss", "-tai", "-H")
    assert done.out == core.run("ss", "-ta", "--output=+info", "-H").out
