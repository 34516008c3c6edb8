# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss -aniemop`` against iproute2's, of every family, word by word and line by line."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from drgn_sockets.text import unescape

from .. import tables
from .conftest import KERNELS, opened
from .info_words import AGES, CHRONO, GROWS, HEX, NEWER
from .machine import Core
from .ss_rows import still
from .ss_text import SsRow, parse_ss

TABLE = "ss -aniemop"

#: Families that have only their generic part here; on 5.10, whose modules have no BTF, some more.
GENERIC = ("dccp", "ti_st", "ti_dg", "ti_rd", "ti_sq")
OF_MODULES = ("sctp", "v_str")

COLUMNS = (
    *("netns", "netid", "state", "recv_q", "send_q", "local", "peer", "holders", "timer", "ext"),
    *("skmem", "info", "cookie", "ino"),
)
_USER = re.compile(r'\("(.*?)",pid=(\d+),(?:tid=(\d+),)?fd=(\d+)\)(?=[,)])', re.DOTALL)
_WORD = re.compile(r"(?:send|pacing_rate|delivery_rate|\w+:) \S+|\S+")
_KEY = re.compile(r"\w+(?:[:=] ?| )")
#: What ours has besides.
_OURS = re.compile(r" ?addr:0x[0-9a-f]+ netns:\d+$")


class Difference(NamedTuple):
    """A word that is not the same in both, or in one of them only."""

    key: str
    theirs: str | None
    ours: str | None
    row: SsRow
    #: Whether no timer of the connection can have fired between ss and the machine's stop.
    still: bool
    kernel: str


class Excepted(NamedTuple):
    """Words that may differ, and why."""

    what: str
    why: str
    #: Whether it is this that makes the difference.
    holds: Callable[[Difference], bool]


def _modulo(value: str | None) -> str:
    """Numbers, as those of 32 bits."""
    return re.sub(r"-?\d+", lambda m: str(int(m[0]) & 0xFFFFFFFF), value or "")


def _of_vsock(d: Difference) -> bool:
    return d.row.cookie is None and d.key in ("ino:", "sk:", "uid:", "skmem:") and d.theirs is None


def _of_netlink(d: Difference) -> bool:
    return d.row.netid == "nl"


NEWER_MPTCP = {
    *("local_addr_used:", "local_addr_max:", "csum_enabled:", "retransmits:", "bytes_retrans:"),
    *("bytes_sent:", "bytes_received:", "bytes_acked:", "subflows_total:", "endp_laminar_max:"),
    *("last_data_sent:", "last_data_recv:", "last_ack_recv:"),
}

#: All that may differ. Beyond words: in ss users: are in no order, and skmem: of unix sockets comes
#: before the words of -e.
EXCEPTED = (
    Excepted(
        "lastsnd: lastrcv: lastack:",
        "milliseconds since, which went on; of 0 ss says nothing",
        lambda d: d.key in AGES,
    ),
    Excepted(
        "busy: rwnd_limited: sndbuf_limited:",
        "milliseconds so far, which went on",
        lambda d: d.key in CHRONO,
    ),
    Excepted(
        "timer:",
        "its time, which went on; all of it, if it fired",
        lambda d: d.key == "timer:" and (not d.still or _alike(d)),
    ),
    Excepted(
        "backoff: rto: retrans: …",
        "what grows when a timer fires and something is sent again",
        lambda d: d.key in GROWS and not d.still,
    ),
    Excepted(
        "recv_q skmem: of sockets that get what is sent again",
        "it may be dropped once more; a raw socket of TCP gets a copy",
        lambda d: not d.still and d.key in ("recv_q", "skmem:"),
    ),
    Excepted(
        "rcv_wnd: rehash: usec_ts, last_data_sent: …",
        "newer than the guests' ss (6.1)",
        lambda d: d.theirs is None and (d.key in NEWER or d.key in NEWER_MPTCP),
    ),
    Excepted(
        "seq: sfseq: ssnoff: maplen: of a subflow",
        "hexadecimal in the guests' ss, decimal since iproute2 6.8",
        lambda d: d.key in HEX and int(d.theirs or "x", 16) == int(d.ours or "x"),
    ),
    Excepted(
        "sk= cb= of netlink",
        "sock_diag does not tell them, and ss prints 0",
        lambda d: _of_netlink(d) and d.key in ("sk=", "cb=") and d.theirs == "0",
    ),
    Excepted(
        "users: of netlink",
        "ss does not look for them",
        lambda d: _of_netlink(d) and d.key == "users:" and d.theirs is None,
    ),
    Excepted(
        "users: of the TCP socket in an SMC socket",
        "ss looks for its inode, and fds have that of the SMC socket",
        lambda d: d.row.netid == "tcp" and d.key == "users:" and d.theirs is None,
    ),
    Excepted(
        "recv_q, skmem: of the kernel's netlink socket 4:0",
        "the question of ss itself is in its queue",
        lambda d: _of_netlink(d) and d.row.local == "4:0" and d.key in ("recv_q", "skmem:"),
    ),
    Excepted(
        "netid of raw sockets, v_seq",
        "ss prints the name of a raw socket's protocol; ??? if it knows none",
        lambda d: d.key == "netid" and (d.ours == "raw" or (d.ours, d.theirs) == ("v_seq", "???")),
    ),
    Excepted(
        "ino: sk: uid: skmem: of vsock",
        "sock_diag does not tell them",
        _of_vsock,
    ),
    Excepted(
        "local of an SCTP association with an IPv4 address",
        "of an IPv6 socket sock_diag tells another part of the sockaddr, and ss prints *",
        lambda d: d.key == "local" and d.row.state[0] == "`" and (d.theirs or "")[0] == "*",
    ),
    Excepted(
        "umem( of XDP",
        "called tumem( by ss -O",
        lambda d: d.row.netid == "xdp" and "umem(" in d.key,
    ),
    Excepted(
        "md5keys:",
        "its keys are secrets",
        lambda d: d.key == "md5keys:" and d.ours is None,
    ),
    Excepted(
        "send_q and f of skmem:",
        "ss prints what is above 2^31 as negative, and what is negative as above 2^31",
        lambda d: d.key in ("send_q", "skmem:") and _modulo(d.theirs) == _modulo(d.ours),
    ),
    Excepted(
        "peer of unix sockets",
        "ss prints * and the inode; sock_diag does not tell the name",
        lambda d: (
            d.key == "peer"
            and d.row.netid.startswith("u_")
            and d.theirs == f"* {(d.ours or '').rpartition(' ')[2]}"
        ),
    ),
    Excepted(
        "bbr: dctcp: and, with vegas, send",
        "of 5.10, whose modules have no BTF, and so no types",
        lambda d: d.kernel == "5.10" and d.ours is None and d.key in ("bbr:", "dctcp:", "send "),
    ),
)


def _alike(d: Difference) -> bool:
    """The same timer, as often retried."""
    theirs, ours = (re.sub(",.*,", ",", value or "") for value in (d.theirs, d.ours))
    return theirs == ours


class Line(NamedTuple):
    """A line: its words, each in what names it and its value."""

    words: list[tuple[str, str]]

    @property
    def by_key(self) -> dict[str, str]:
        found = dict(self.words)
        assert len(found) == len(self.words), self
        return found


def split(text: str) -> Iterator[tuple[str, str]]:
    """Words of a line after its ends."""
    seen: Counter[str] = Counter()
    for word in _WORD.findall(text):
        match = _KEY.match(word)
        key = match[0] if match else word
        if key != "send ":
            key = key.rstrip()
        seen[key] += 1
        # Some stand alone, and more than once.
        yield key if seen[key] == 1 else f"{key} #{seen[key]}", word[match.end() if match else 0 :]


def users(found: list[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    # ss takes a comm out of /proc/PID/stat, where it ends with the first ")".
    each = sorted(f"({comm.partition(')')[0]},{pid},{fd})" for comm, pid, fd in found)
    if each:
        yield "users:", " ".join(each)


def theirs(row: SsRow) -> Line:
    is_unix = row.netid.startswith("u_")
    held = [(comm, str(pid), str(fd)) for comm, pid, fd in row.users]
    more = re.sub(r"users:\(,*\)", "", row.more)
    return Line(
        [
            ("netid", row.netid),
            ("state", row.state),
            ("recv_q", str(row.recv_q)),
            ("send_q", str(row.send_q)),
            ("local", f"{row.local} {row.ino}" if is_unix else row.local),
            ("peer", f"{row.peer} {row.peer_ino}" if is_unix else row.peer),
            *users(held),
            *split(more),
        ]
    )


def raw(cell: str) -> str:
    # ss prints names as they are, and "@" for each NUL.
    return os.fsdecode(unescape(cell).replace(b"\0", b"@"))


def ours(row: dict[str, str]) -> Line:
    ext = _OURS.sub("", row["ext"])
    assert ext != row["ext"], row
    order = [row["timer"], ext, row["skmem"], row["info"]]
    if row["netid"].startswith("u_"):
        order[1], order[2] = order[2], order[1]
    heads = ("netid", "state", "recv_q", "send_q", "local", "peer")
    return Line(
        [
            *((name, raw(row[name])) for name in heads),
            # Threads with tables of their own are not in what ss -p looks at.
            *users([(c, p, f) for c, p, tid, f in _USER.findall(raw(row["holders"])) if not tid]),
            *split(" ".join(cell for cell in order if cell != "-")),
        ]
    )


Key = tuple[object, ...]


# An association has a line below that of its socket, with no name of a protocol.
_ASSOCIATION = re.compile(r"^ *`- (\S+)", re.MULTILINE)


def lines_of(text: str) -> Iterator[SsRow]:
    """Lines of ss."""
    for row in parse_ss(_ASSOCIATION.sub(r"assoc?\1 ESTAB", text)):
        name, _, state = row.netid.partition("assoc?")
        yield row if name else row._replace(netid="sctp", state=f"`- {state}")


def key_of_ours(row: dict[str, str]) -> Key:
    netns = int(row["netns"])
    if row["netid"].startswith("u_"):
        return "unix", int(row["ino"])
    if row["netid"] == "nl":
        return "netlink", netns, row["local"]
    if row["netid"].startswith("v_"):
        return "vsock", netns, row["local"], row["peer"]
    if row["state"].startswith("`-"):
        return "association", int(row["cookie"]), row["peer"]
    return "cookie", int(row["cookie"])


def key_of_theirs(row: SsRow) -> Key:
    if row.netid.startswith("u_"):
        return "unix", row.ino
    if row.netid == "nl":
        return "netlink", row.netns, row.local
    if row.cookie is None:
        return "vsock", row.netns, row.local, row.peer
    if row.state.startswith("`-"):
        return "association", row.cookie, row.peer
    return "cookie", row.cookie


def pairs(core: Core) -> Iterator[tuple[SsRow, dict[str, str]]]:
    """Lines of the same socket, of all namespaces that ss was run in."""
    done = core.run("ss", "-aniemop", "--csv", f"--output={','.join(COLUMNS)}")
    assert done.status == 0, done.err
    by_key: dict[Key, list[dict[str, str]]] = {}
    for row in csv.DictReader(done.out.splitlines()):
        by_key.setdefault(key_of_ours(row), []).append(row)
    generic = GENERIC + (OF_MODULES if core.series == "5.10" else ())
    for netns in core.tool_netns:
        text = core.tool("ss-aniemopO", None if netns == core.home_netns else netns)
        own = 0
        seen = set()
        for line in lines_of(text):
            if line.netid in generic:
                continue
            line = line._replace(netns=netns)
            # The kernel has netlink sockets that have joined groups in two lists, and tells twice.
            words = tuple(theirs(line).words)
            if line.netid == "nl" and words in seen and ("groups=", "0x00000000") not in words:
                continue
            seen.add(words)
            candidates = by_key.get(key_of_theirs(line), [])
            if candidates:
                # Those that were never bound are all alike in ss.
                mine = min(candidates, key=lambda row: len(differences(core, line, row)[1]))
                candidates.remove(mine)
                yield line, mine
            elif line.netid == "sctp" and key_of_theirs(line) in by_key:
                # 6.18 tells twice of one that listens and has associations.
                assert line.state == "LISTEN", line
            elif line.netid == "nl":
                # The one that ss asked through.
                assert line.local.startswith("4:"), line.local
                own += 1
            else:
                # Only a timer can have ended one.
                assert line.state in ("TIME-WAIT", "FIN-WAIT-2", "SYN-RECV"), line
                assert not still(core, line), line
        assert own == 1, netns


def differences(core: Core, row: SsRow, mine: dict[str, str]) -> tuple[int, list[Difference]]:
    """How many words there are, and those that differ."""
    there, here = theirs(row), ours(mine)
    a, b = there.by_key, here.by_key
    # Those that both have are in the same order.
    common = [key for key in a if key in b]
    assert common == [key for key in b if key in a], (row, mine)
    is_still = still(core, row)
    keys = list(dict.fromkeys([*a, *b]))
    return len(keys), [
        Difference(key, a.get(key), b.get(key), row, is_still, core.kernel)
        for key in keys
        if a.get(key) != b.get(key)
    ]


class Compared(NamedTuple):
    """What came of the comparison of a machine's lines."""

    #: Of each line its family, how many words were compared, and how many were equal.
    lines: list[tuple[str, int, int]]
    wrong: list[Difference]
    #: Exceptions that were needed.
    used: set[str]


@functools.lru_cache(None)
def compared(kernel: str) -> Compared:
    core = opened(kernel, "elf")
    result = Compared([], [], set())
    for row, mine in pairs(core):
        words, found = differences(core, row, mine)
        excepted = 0
        for difference in found:
            reason = next((e for e in EXCEPTED if e.holds(difference)), None)
            if reason is None:
                result.wrong.append(difference)
            else:
                excepted += 1
                result.used.add(reason.what)
        count = words - excepted
        result.lines.append((mine["netid"], count, count - (len(found) - excepted)))
    return result


def test_words(kernel: str) -> None:
    result = compared(kernel)
    for line in result.lines:
        tables.note(TABLE, line[0], kernel, *line[1:])
    assert not result.wrong, "\n".join(map(str, result.wrong[:20]))
    lines = Counter(family for family, *_ in result.lines)
    assert lines.keys() >= {"tcp", "udp", "raw", "u_str", "u_dgr", "u_seq", "nl", "p_raw", "p_dgr"}
    assert kernel == "5.10" or "mptcp" in lines
    assert lines["tcp"] > 150 and sum(lines.values()) > 350


@pytest.mark.kernels(*KERNELS)
def test_every_exception_is_needed() -> None:
    used = set().union(*(compared(kernel).used for kernel in KERNELS))
    assert {e.what for e in EXCEPTED} == used


def test_tos_and_cgroup(elf: Core) -> None:
    done = elf.run("ss", "-a", "--tos", "--cgroup", "--csv", "--output=netid,cookie,qos,cgroup")
    ours = {
        (row["netid"], int(row["cookie"])): [row["qos"], row["cgroup"]]
        for row in csv.DictReader(done.out.splitlines())
    }
    seen: Counter[str] = Counter()
    for family in ("tcp", "udp", "raw", "mptcp", "sctp"):
        if family == "sctp" and elf.series == "5.10":
            continue
        for line in elf.tool(f"ss-full-{family}").splitlines():
            cookie = re.search(r" sk:([0-9a-f]+) ", line)
            key = (family, int(cookie[1], 16)) if cookie else None
            if key not in ours:
                continue
            words = re.search(r" tos:.*?(?= skmem:)", line)
            mine = [cell for cell in ours[key] if cell != "-"]
            assert " ".join(mine) == (words[0].strip() if words else ""), line
            tables.note("ss --tos --cgroup", family, elf.kernel, len(mine), len(mine))
            seen.update(re.findall(r"\w+:(?!0 )", words[0] if words else "-"))
    assert seen["tos:"] > 5 and seen["class_id:"] > 4 and seen["cgroup:"] > 200
    assert seen["tclass:"]


def test_there_is_no_word_of_our_own(one: Core) -> None:
    """But for addr: and netns:, which come last of what -e has."""
    done = one.run("ss", "-ae", "-H", "--output=ext")
    assert done.status == 0
    for line in done.out.splitlines():
        assert re.search(r"(?:^| )addr:0x[0-9a-f]{16} netns:\d+$", line), line


def test_options_show_these_words(one: Core) -> None:
    """What a script that knows ss looks for."""
    line = "-aniemop"
    for option, words in (
        ("p", ["users:(("]),
        ("o", ["timer:(keepalive,", "timer:(on,", "timer:(timewait,", "timer:(persist,"]),
        ("e", ["ino:", "sk:", "uid:", "cgroup:/", "v6only:0", "<->", "timer:(", "groups=0x"]),
        ("m", ["skmem:(r0,rb"]),
        ("i", ["cubic", "wscale:7,7", "rto:", "cwnd:10"]),
    ):
        with_it = one.run("ss", line, "-H").out
        alone = one.run("ss", f"-a{option}", "-H").out
        without = one.run("ss", line.replace(option, "").replace("e", ""), "-H").out
        for word in words:
            assert word in with_it and word in alone, (option, word)
            if word != "timer:(" and option != "o":
                assert word not in without, (option, word)


def test_json_has_columns(one: Core) -> None:
    done = one.run("ss", "-aepo", "--json")
    rows = list(map(json.loads, done.out.splitlines()))
    assert {"ino", "uid", "cookie", "sk", "netns", "cgroup", "holders", "timer"} <= rows[0].keys()
    assert "ext" not in rows[0]
    assert {"/"} <= {row["cgroup"] for row in rows if row["state"] == "LISTEN"}
