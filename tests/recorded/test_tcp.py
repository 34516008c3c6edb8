# SPDX-License-Identifier: LGPL-2.1-or-later
"""``tcp`` against the words that ``ss -i`` of the same guest has for each field."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from .machine import Core, Row
from .ss_rows import pairs, still
from .ss_text import SsRow, parse_ss

#: Word of ss, our field, and how many of ours make one of theirs.
SAME = {
    "cwnd": "snd_cwnd",
    "mss": "mss",
    "pmtu": "pmtu",
    "rcvmss": "rcv_mss",
    "advmss": "advmss",
    "bytes_sent": "bytes_sent",
    "bytes_acked": "bytes_acked",
    "bytes_received": "bytes_received",
    "bytes_retrans": "bytes_retrans",
    "segs_out": "segs_out",
    "segs_in": "segs_in",
    "data_segs_out": "data_segs_out",
    "data_segs_in": "data_segs_in",
    "snd_wnd": "snd_wnd",
    "rcv_space": "rcv_space",
    "rcv_ssthresh": "rcv_ssthresh",
    "backoff": "backoff",
    "lost": "lost_out",
    "delivered": "delivered",
    "delivered_ce": "delivered_ce",
    "reord_seen": "reord_seen",
    "rcv_ooopack": "rcv_ooopack",
    "dsack_dups": "dsack_dups",
}
#: In milliseconds there, microseconds here.
MS = {"rto": "rto_us", "ato": "ato_us", "minrtt": "min_rtt_us", "rcv_rtt": "rcv_rtt_us"}


def fired(theirs: SsRow, mine: Row) -> bool:
    """Whether the timer of a socket on the TUN device went off since ss looked."""
    if "%ds-tun" not in theirs.local and not theirs.local.startswith(("198.18.7.", "[fd07::7:")):
        # The other end of others is here as well, and has a timer of its own.
        return True
    timer = mine["timer"]
    if theirs.timer is None or timer is None:
        return True
    return (theirs.timer[0], theirs.timer[2]) != (timer["name"], timer["retrans"])


def fields_of(core: Core) -> list[tuple[SsRow, Row]]:
    """Rows of ss, with our fields of the same full socket."""
    chosen = [
        (theirs, mine)
        for theirs, mine in pairs(core)[0]
        if mine["netid"] == "tcp"
        and theirs.word("cwnd")
        and (still(core, theirs) or not fired(theirs, mine))
    ]
    assert len(chosen) > 80
    sks = [mine["sk"] for _, mine in chosen]
    done = core.run("tcp", *sks, "--json", "--output=sk,field,value")
    assert done.status == 0, done.err
    fields: dict[str, Row] = {}
    for line in done.out.splitlines():
        row = json.loads(line)
        assert row["field"] not in fields.setdefault(row["sk"], {}), row
        fields[row["sk"]][row["field"]] = row["value"]
    return [(theirs, fields[mine["sk"]]) for theirs, mine in chosen]


def test_fields(core: Core) -> None:
    wrong = []
    seen: Counter[str] = Counter()

    def compare(theirs: SsRow, name: str, mine: object, expected: object) -> None:
        seen[name] += 1
        if mine != expected:
            wrong.append(f"{theirs.local} {theirs.peer} {name}: {mine}, not {expected}")

    for theirs, mine in fields_of(core):
        listening = theirs.state == "LISTEN"
        for word, field in SAME.items():
            value = theirs.number(word)
            if value is not None:
                compare(theirs, word, mine[field], value)
            elif not listening and word in ("bytes_sent", "bytes_received", "lost", "backoff"):
                # ss leaves out what is 0.
                compare(theirs, word, mine[field], 0)
        for word, field in MS.items():
            text = theirs.word(word)
            if text is not None:
                # ss rounds to three places, and to six digits in all.
                same = abs(mine[field] / 1000 - float(text)) <= 0.0005 + float(text) / 1e5
                compare(theirs, word, mine[field] / 1000 if not same else text, text)
        rtt = theirs.word("rtt")
        if rtt is not None:
            smoothed, _, deviation = rtt.partition("/")
            for word, field, text in (
                ("rtt", "rtt_us", smoothed),
                ("rttvar", "rttvar_us", deviation),
            ):
                same = abs(mine[field] / 1000 - float(text)) <= 0.0005 + float(text) / 1e5
                compare(theirs, word, text if same else mine[field], text)
        threshold = theirs.number("ssthresh")
        if threshold is not None:
            compare(theirs, "ssthresh", mine["snd_ssthresh"], threshold)
        scale = theirs.word("wscale")
        ours = f"{mine['snd_wscale']},{mine['rcv_wscale']}" if mine["wscale_ok"] else None
        if not listening and theirs.state != "SYN-SENT":
            compare(theirs, "wscale", ours, scale)
            compare(theirs, "ts", bool(mine["tstamp_ok"]), theirs.has("ts"))
            compare(theirs, "sack", bool(mine["sack_ok"]), theirs.has("sack"))
            compare(theirs, "ecn", bool(mine["ecn_flags"] & 1), theirs.has("ecn"))
        if not listening:
            # Of a listener tcp_get_info() tells no more than the accept queue.
            limited = bool(mine["rate_app_limited"])
            compare(theirs, "app_limited", limited, theirs.has("app_limited"))
        assert mine["congestion"] in theirs.more.split(), theirs
        unacked = theirs.number("unacked") or 0
        compare(theirs, "unacked", mine["recv_q" if listening else "packets_out"], unacked)
        retrans = theirs.word("retrans") or "0/0"
        compare(theirs, "retrans", f"{mine['retrans_out']}/{mine['total_retrans']}", retrans)
        compare(theirs, "state", mine["state_name"], theirs.state)
        compare(theirs, "recv_q", mine["recv_q"], theirs.recv_q)
        # ss takes an unsigned number for a signed one.
        compare(theirs, "send_q", mine["send_q"], theirs.send_q % (1 << 32))
        compare(theirs, "local", mine["local"], theirs.local)
        compare(theirs, "peer", mine["peer"], theirs.peer)
        for word, field in (
            ("lastsnd", "last_data_sent_ms"),
            ("lastrcv", "last_data_recv_ms"),
            ("lastack", "last_ack_recv_ms"),
        ):
            value = theirs.number(word)
            if value is not None and value < 1 << 31:
                gone = mine[field] - value
                compare(theirs, word, 0 <= gone <= core.tools_ran_s * 1000, True)
        notsent = theirs.number("notsent")
        if notsent is not None:
            compare(theirs, "notsent", mine["write_seq"] - mine["snd_nxt"] & 0xFFFFFFFF, notsent)
    assert not wrong, "\n".join(wrong[:40])
    # ssthresh is only where something was lost, which few recordings have at rest.
    words = {"cwnd", "rto", "ato", "rtt", "mss", "bytes_received", "wscale", "data_segs_out"}
    assert all(seen[word] for word in words), seen


def test_what_is_sent_again(core: Core) -> None:
    """Its timer may have gone off since ss looked: then more was sent again, not less."""
    chosen = [
        (theirs, mine)
        for theirs, mine in pairs(core)[0]
        if theirs.timer and theirs.timer[0] == "on" and mine["snd_cwnd"] is not None
        and theirs.state == mine["state"]
    ]  # fmt: skip
    assert len(chosen) > 10
    for theirs, mine in chosen:
        assert mine["packets_out"] == (theirs.number("unacked") or 0), theirs
        assert mine["lost_out"] == (theirs.number("lost") or 0), theirs
        assert mine["snd_cwnd"] == theirs.number("cwnd"), theirs
        threshold = theirs.number("ssthresh")
        if threshold is not None:
            assert mine["snd_ssthresh"] == threshold, theirs
        out, _, total = (theirs.word("retrans") or "0/0").partition("/")
        assert mine["retrans_out"] == int(out)
        assert mine["total_retrans"] >= int(total)
        assert mine["backoff"] >= (theirs.number("backoff") or 0)


def test_type_of_service(core: Core) -> None:
    text = core.tool("ss-tcp")
    rows = {
        row.cookie: row
        for row in parse_ss("\n".join(f"tcp {line}" for line in text.splitlines()))
        if row.cookie
    }
    assert len(rows) > 80
    found = [(rows[m["cookie"]], m) for _, m in pairs(core)[0] if m["cookie"] in rows]
    tos = set()
    for theirs, mine in found:
        value = theirs.word("tos")
        if value is not None and mine["tos"] is not None:
            assert mine["tos"] == int(value, 16), theirs
            tos.add(mine["tos"])
    assert len(tos) > 1


@pytest.mark.parametrize("kind", ["TIME-WAIT", "SYN-RECV"])
def test_small_sockets_have_fields_of_their_own(elf: Core, kind: str) -> None:
    row = next(r for r in elf.rows("ss", "-ta") if r["state"] == kind and not r["holders"])
    done = elf.run("tcp", row["sk"], "--json")
    assert done.status == 0
    rows = [json.loads(line) for line in done.out.splitlines()]
    fields = {r["field"]: r["value"] for r in rows}
    assert fields["state_name"] == kind
    assert fields["timer"] == ("timewait" if kind == "TIME-WAIT" else "synack")
    assert ("listener" in fields) == (kind == "SYN-RECV")
    # Where each comes from is told in the kernel's words.
    assert all(r["member"] for r in rows)
