# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ss -s``: the same text as iproute2's, and the counts of every network namespace."""

from __future__ import annotations

import re
from pathlib import Path

from .conftest import opened
from .machine import Core


def due(core: Core, within_s: float) -> int:
    """TCP sockets that a timer may have ended before the machine's stop."""
    count = 0
    for path in core.oracle.glob("netns/*/net/tcp*"):
        for line in path.read_bytes().splitlines()[1:]:
            kind, _, left = line.split()[5].partition(b":")
            count += kind != b"00" and int(left, 16) / 100 <= within_s
    return count


def numbers(text: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", text.replace("IPv6", ""))))


def test_as_ss_prints_it(elf: Core) -> None:
    expected = elf.tool("ss-summary")
    for core in (elf, opened(elf.kernel, "distilled")):
        done = core.run("ss", "-s")
        assert (done.status, done.err) == (0, "")
        ours, theirs = numbers(done.out), numbers(expected)
        assert len(ours) == len(theirs) == 6 + 5 * 3
        # What ended since the tools ran: none, mostly.
        most = due(elf, elf.tools_ran_s)
        assert all(abs(a - b) <= most for a, b in zip(ours, theirs)), (done.out, expected)
        assert re.sub(r"\d+ *", "N", done.out) == re.sub(r"\d+ *", "N", expected)
        if not most:
            assert done.out == expected
        assert done == core.run("ss", "--summary", "--netns", str(elf.home_netns))


def saved_counts(net: Path) -> dict[str, dict[str, int]]:
    """What /proc/net/{sockstat,sockstat6,snmp} say."""
    found = {}
    for name in ("sockstat", "sockstat6"):
        for line in (net / name).read_text().splitlines():
            label, _, rest = line.partition(":")
            words = rest.split()
            found[label] = dict(zip(words[::2], map(int, words[1::2])))
    heads, values = (
        line.split()[1:] for line in (net / "snmp").read_text().splitlines() if line[:4] == "Tcp:"
    )
    found["snmp"] = dict(zip(heads, map(int, values)))
    return found


def test_of_every_namespace(elf: Core) -> None:
    """As ss reckons it, of what was saved of procfs there."""
    most = due(elf, 30)
    seen = 0
    for path in sorted(elf.oracle.glob("netns/*")):
        counts = saved_counts(path / "net")
        tcp, estab = counts["TCP"], counts["snmp"]["CurrEstab"]
        six = {name: counts[f"{name}6"]["inuse"] for name in ("RAW", "UDP", "TCP", "FRAG")}
        four = {name: counts[name]["inuse"] for name in six}
        for each in (four, six):
            each["INET"] = each["RAW"] + each["UDP"] + each["TCP"]
        closed = tcp["alloc"] - (four["TCP"] + six["TCP"] - tcp["tw"])
        expected = [counts["sockets"]["used"], tcp["alloc"] + tcp["tw"], estab, closed]
        expected += [tcp["orphan"], tcp["tw"]]
        for name in ("RAW", "UDP", "TCP", "INET", "FRAG"):
            expected += [four[name] + six[name], four[name], six[name]]
        ours = numbers(elf.run("ss", "-s", "--netns", path.name).out)
        assert len(ours) == len(expected) == 21
        assert all(abs(a - b) <= most for a, b in zip(ours, expected)), (path.name, ours, expected)
        seen += estab
    assert seen > 50


def test_with_a_table(one: Core) -> None:
    alone = one.run("ss", "-s").out
    table = one.run("ss", "-t").out
    assert table and one.run("ss", "-s", "-t").out == alone + table


def test_mistakes(one: Core) -> None:
    for argv in (["--json"], ["--csv"], ["--output", "ino"]):
        done = one.run("ss", "-s", *argv)
        assert (done.status, done.out) == (2, "") and "has no columns" in done.err
    done = one.run("ss", "-s", "--netns", "x")
    assert (done.status, done.out) == (2, "") and "no network namespace x" in done.err
