# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Do filter expressions select what iproute2's would?

What is expected is out of its misc/ssfilter.y and ss.c; tests/guest/test_filter.py asks ss itself.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.errors import UserError
from drgn_sockets.query import hosts
from drgn_sockets.query.ssfilter import parse
from drgn_sockets.query.ssfilter_tree import (
    Autobound,
    Cgroup,
    Chain,
    Device,
    Expression,
    Mark,
    Not,
    Port,
    families_of,
    quoted,
)
from drgn_sockets.records.families import inet as inet_family
from drgn_sockets.records.families.unix import UnixRecord, UnixSock
from drgn_sockets.records.socket import SocketRecord

from .fake_kernel import decoded
from .fake_sockets import KERNEL, RAW, UDP, inet


@pytest.fixture(autouse=True)
def local_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inet_family, "ip_local_port_range", lambda prog, net: (32768, 60999))


def unix(name: bytes | None, peer_name: bytes | None = None) -> UnixRecord:
    values: Any = {"family": 1, "type": 1, "protocol": 0, "state": 1, "mark": 0, "bound_dev_if": 0}
    values["cgroup"] = None
    record = UnixRecord(KERNEL.prog, decoded(UnixSock, **values), 1)
    record.names = name, peer_name
    return record


def tcp(local: str, lport: int, remote: str = "", rport: int = 0, **members: Any) -> SocketRecord:
    usual = {"mark": 0, "bound_dev_if": 0, "userlocks": 0, "net": 0, "cgroup": None}
    return inet(local, lport, remote, rport, **{**usual, **members})


SOCKETS: dict[str, SocketRecord] = {
    "ssh": tcp("0.0.0.0", 22, userlocks=8),
    "ssh6": tcp("::", 22, userlocks=8),
    "client": tcp("127.0.0.1", 40000, "127.0.0.1", 22, mark=0x13),
    "served": tcp("::ffff:127.0.0.1", 22, "::ffff:127.0.0.1", 40000),
    "web": tcp("10.1.2.3", 80, "193.233.7.99", 51000, ifname=b"eth0", bound_dev_if=2),
    "web6": tcp("2001:db8::1", 443, "2001:db8:1::2", 51001),
    "dns": tcp("10.1.2.3", 53, kind=UDP),
    "icmp": tcp("0.0.0.0", 1, kind=RAW),
    "log": unix(b"/run/systemd/journal/dev-log"),
    "x11": unix(b"\0/tmp/.X11-unix/X0"),
    "auto": unix(b"\x000a1b2"),
    "nameless": unix(None, b"/run/systemd/journal/dev-log"),
}
INET = {"ssh", "ssh6", "client", "served", "web", "web6", "dns", "icmp"}
UNIX = {"log", "x11", "auto", "nameless"}


def selected(source: str, **options: Any) -> set[str]:
    found = parse(source, **options).expression
    assert found is not None
    test = found.test()
    return {name for name, record in SOCKETS.items() if test(record)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sport = :22", {"ssh", "ssh6", "served"}),
        ("sport :22", {"ssh", "ssh6", "served"}),
        ("sport 22", {"ssh", "ssh6", "served"}),
        ("sport eq 0x16", {"ssh", "ssh6", "served"}),
        ("sport == 026", {"ssh", "ssh6", "served"}),
        ("sport=:22", {"ssh", "ssh6", "served"}),
        ("sport = :ssh", {"ssh", "ssh6", "served"}),
        ("sport = inet:ssh", {"ssh"}),
        ("sport = inet6::22", {"ssh6", "served"}),
        ("dport = :22", {"client"}),
        ("sport >= :443", {"client", "web6"}),
        ("sport > :443", {"client"}),
        ("sport gt 443", {"client"}),
        ("sport < :22", {"icmp"}),
        ("sport le :22", {"icmp", "ssh", "ssh6", "served"}),
        ("sport != :22", {"client", "web", "web6", "dns", "icmp"} | UNIX),
        ("sport = :*", INET),
        ("src 127.0.0.1", {"client", "served"}),
        ("src = 127.0.0.1:22", {"served"}),
        ("src != 127.0.0.1", (INET | UNIX) - {"client", "served"}),
        # The family is that of the socket, and not of its address.
        ("src inet:127.0.0.1", {"client"}),
        ("src [::ffff:127.0.0.1]", {"served"}),
        ("src [::ffff:0.0.0.0]/96", {"served"}),
        ("src 127/8", {"client", "served"}),
        ("src 10.1.2.3/255.255.0.0", {"web", "dns"}),
        ("dst 193.233.7/24", {"web"}),
        ("dst 193.233.7/24:51000", {"web"}),
        ("dst 193.233.7/24:51001", set()),
        # 0.0.0.0, and no network.
        ("src 0", {"ssh", "icmp"}),
        # As the kernel has it, which ss asks.
        ("src 0/0", INET - {"ssh6", "web6"}),
        ("src [::]/0", {"ssh6", "served", "web6"}),
        ("src *", INET),
        ("src any:22", {"ssh", "ssh6", "served"}),
        ("src :22", {"ssh", "ssh6", "served"}),
        ("src 2001:db8::/32", {"web6"}),
        ("src [2001:db8::/32]:443", {"web6"}),
        ("src [2001:db8::]/32:443", {"web6"}),
        ("src inet6:[::]", {"ssh6"}),
        ("src unix:*/JOURNAL/*", {"log"}),
        ("src unix:@*x11*", {"x11"}),
        ("src unix:*", UNIX),
        ("src unix:", {"nameless"}),
        ("src unix:/run/[^a-r]*", {"log"}),
        ("dst unix:*/journal/*", {"nameless"}),
        ("dev eth0", {"web"}),
        ("dev = 2", {"web"}),
        ("dev != eth0", (INET | UNIX) - {"web"}),
        ("fwmark = 0x13", {"client"}),
        ("fwmark = 3/0xf", {"client"}),
        ("fwmark = 0x3", set()),
        ("fwmark != 0/0x10", {"client"}),
        ("autobound", {"client", "auto", "nameless"}),
        ("not autobound", (INET | UNIX) - {"client", "auto", "nameless"}),
        # From left to right, the one like the other.
        ("sport = :22 or sport = :80 and dport = :51000", {"web"}),
        ("sport = :22 or ( sport = :80 and dport = :51000 )", {"ssh", "ssh6", "served", "web"}),
        ("sport = :22 or sport = :80 dport = :51000", {"web"}),
        ("dport = :51000 and sport = :22 or sport = :22", {"ssh", "ssh6", "served"}),
        ("not sport = :22 src inet:0/0", {"client", "web", "dns", "icmp"}),
        ("! sport = :22 & src inet:*", {"client", "web", "dns", "icmp"}),
        ("!(sport = :22 | sport = :80) && src inet:*", {"client", "dns", "icmp"}),
        ("not not sport = :53 || sport = :80", {"dns", "web"}),
        ("(sport=:22 or dst 10.0.0.0/8)", {"ssh", "ssh6", "served"}),
    ],
)
def test_selects(source: str, expected: set[str]) -> None:
    assert selected(source) == expected


def test_family_of_the_options() -> None:
    assert selected("src */journal/*", family="unix") == {"log"}
    assert selected("src /run/*\\ x", family="unix") == set()
    assert selected("src 127.0.0.1", family="inet") == {"client"}
    assert selected("sport = :22", family="unix") == {"ssh", "ssh6", "served"}
    with pytest.raises(UserError, match="IPv6"):
        parse("src 127.0.0.1", family="inet6")


@pytest.mark.parametrize(
    ("source", "families"),
    [
        ("sport = :22", None),
        ("dev lo or autobound", None),
        ("src unix:*", {1}),
        ("not src unix:*", {1}),
        ("src inet:127.0.0.1", {2}),
        ("dev lo and sport = inet6::22", {10}),
        ("src unix:/x or sport = :22", {1, 2, 10}),
        ("src netlink:rtnl or src link:ip or src vsock:1", {16, 17, 40}),
    ],
)
def test_families(source: str, families: set[int] | None) -> None:
    expression = parse(source).expression
    assert expression is not None
    assert families_of(expression) == families


def test_states_come_first() -> None:
    found = parse("state established exclude Time-Wait excl listening sport = :22")
    assert [(keyword, token.text) for keyword, token in found.states] == [
        ("state", "established"),
        ("exclude", "Time-Wait"),
        ("exclude", "listening"),
    ]
    assert found.expression == Port("sport", "=", "", 22)
    assert parse("  ").expression is None
    assert parse("state all").expression is None


def test_names_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [b"\x0a\1\2\3", bytes.fromhex("20010db8000000000000000000000001")]
    monkeypatch.setattr(hosts, "_hosts", lambda: {"mine": mine})
    assert selected("src Mine") == {"web", "web6", "dns"}
    assert selected("src mine:443") == {"web6"}
    assert selected("src inet6:mine") == {"web6"}
    with pytest.raises(UserError, match="DNS"):
        parse("src yours")


# fmt: off
WRONG = [
    ("sport = :", 'expected a port after ":"',
     "        ^"),
    ("sport =", 'expected a port after "="',
     "      ^"),
    ("sport", 'expected a port after "sport"',
     "    ^"),
    ("dst = and", 'expected a host, not "and"',
     "      ^"),
    ("sport = :no-such", "a number or a name in /etc/services",
     "         ^"),
    ("sport = :70000", "no port 70000",
     "         ^"),
    ("src 10.0.0.256", "expected an address",
     "    ^"),
    ("src 10.0.0.0/33", "at most 32",
     "             ^"),
    ("src [::1", '"[" is never closed',
     "    ^"),
    ("src [::1]22", 'expected ":"',
     "         ^"),
    ("src ::1", "in [ ]",
     "    ^"),
    ("src /tmp/x", "unix:NAME",
     "    ^"),
    ("src inet6:10.0.0.1", "expected an IPv6 address",
     "          ^"),
    ("src 10.0.0.1:", 'expected a port after ":"',
     "            ^"),
    ("src inet:", "expected an address or a port",
     "        ^"),
    ("sport = unix:x", "have no ports",
     "        ^"),
    ("( sport = :22", "never closed",
     "^"),
    ("sport = :22 )", "nothing is open",
     "            ^"),
    ("()", "expected one of src, dst",
     " ^"),
    ("sport = :22 or", 'after "or"',
     "             ^"),
    ("sport = :22 and or dport = :1", "expected one of src",
     "                ^"),
    ("not", 'after "not"',
     "  ^"),
    ("sprt = :22", "did you mean 'sport'?",
     "^"),
    ("dst >= 10.0.0.1", 'just "=" and "!="',
     "    ^"),
    ("sport >= :*", "wants a number",
     "          ^"),
    ("fwmark = 1/x", "MARK/MASK",
     "           ^"),
    ("src netlink:rtn", "did you mean 'rtnl'?",
     "            ^"),
    ("src vsock:x:1", "number of a CID",
     "          ^"),
    ("sport = :22 state listening", "before all conditions",
     "            ^"),
    ("state", 'expected a state after "state"',
     "    ^"),
    ("(" * 200 + "sport = :1", "too many parentheses",
     " " * 100 + "^"),
]
# fmt: on


@pytest.mark.parametrize(("source", "message", "caret"), WRONG, ids=[w[0][:20] for w in WRONG])
def test_shows_the_place(source: str, message: str, caret: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(source)
    first, shown, place = str(caught.value).split("\n")
    assert first.startswith("filter: ") and message in first
    assert (shown, place) == (f"  {source}", f"  {caret}")


# fmt: off
WORDS = st.sampled_from((
    "src", "dst", "sport", "dport", "dev", "fwmark", "cgroup", "autobound", "state", "exclude",
    "and", "or", "not", "(", ")", "!", "&", "|", "&&", "||", "=", "==", "!=", ">=", "<=", ">",
    "<", ":22", ":", "*", "[::1]", "[::1", "::1", "10.0.0.0/8", "10/33", "unix:/a*", "unix:",
    "inet:1.2.3.4", "inet6:[::]", "link:ip:lo", "netlink:rtnl:kernel", "vsock:1:2", "vsock:",
    "\\", "\\(", "a\\", "b", "0x1/0x3", "1/", "//", "eth0", ",", "]:", "%",
))
# fmt: on


@given(st.one_of(st.text(), st.lists(st.one_of(WORDS, st.text(max_size=5))).map(" ".join)))
def test_any_text_is_an_expression_or_a_mistake_somewhere_in_it(source: str) -> None:
    try:
        found = parse(source)
    except UserError as e:
        message, shown, place = str(e).split("\n")
        assert message.isprintable() and shown.isprintable()
        assert len(shown) == len(source) + 2
        caret = len(place) - 1
        assert place == " " * caret + "^"
        # Under a character of it.
        assert 2 <= caret < len(shown)
    else:
        if found.expression is not None:
            test = found.expression.test()
            for record in SOCKETS.values():
                assert test(record) in (True, False)


ADDRESSES = ["*", "127.0.0.1", "127.0.0.0/8", "10/7", "[::1]", "[2001:db8::/32]", "0/0", ""]
NAMES = st.one_of(
    st.text(min_size=1, max_size=8),
    st.text(" ()!=<>&|\\:*/@a[]^", min_size=1, max_size=8),
    st.sampled_from(["or", "not", "src", "=", "eq", "state", "sport=:1"]),
)
HOSTS = st.one_of(
    st.builds(
        lambda family, address, port: f"{family}{address}{port}" if address or port else "*",
        st.just(""),
        st.sampled_from(ADDRESSES),
        st.sampled_from(["", ":22", ":40000", ":*"]),
    ),
    NAMES.map(lambda name: "unix:" + quoted(name)),
    st.sampled_from(["unix:*/journal/*", "inet:127.0.0.1", "netlink:rtnl:kernel", "link:*:eth0"]),
)


def conditions() -> st.SearchStrategy[Expression]:
    hosts = st.builds(lambda side, host: f"{side} {host}", st.sampled_from(["src", "dst"]), HOSTS)
    return st.one_of(
        hosts.map(lambda source: parse(source).expression),
        st.builds(
            Port,
            st.sampled_from(["sport", "dport"]),
            st.sampled_from(["=", "!=", ">", "<", ">=", "<="]),
            st.sampled_from(["", "inet", "inet6", "vsock"]),
            st.sampled_from([1, 22, 53, 443, 40000, 51000]),
        ),
        st.builds(Device, st.one_of(st.sampled_from(["eth0", "2"]), NAMES), st.booleans()),
        st.builds(Mark, st.integers(0, 31), st.integers(0, 31), st.booleans()),
        st.builds(Cgroup, NAMES, st.booleans()),
        st.builds(Autobound),
    )


TREES = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.builds(Chain, inner, st.lists(st.tuples(st.booleans(), inner), min_size=1, max_size=4)),
    ),
    max_leaves=12,
)


@given(TREES)
def test_what_is_printed_is_parsed_to_the_same(tree: Expression) -> None:
    again = parse(str(tree)).expression
    assert again is not None, str(tree)
    before, after = tree.test(), again.test()
    for name, record in SOCKETS.items():
        assert before(record) == after(record), (name, str(tree))
    assert str(again) == str(tree)


def test_long_expressions_take_no_stack() -> None:
    source = " or ".join(f"sport = :{port}" for port in range(20000))
    assert selected(source) >= {"ssh", "dns"}


def test_mistakes_do_not_take_long() -> None:
    for source in (")" * 100_000, "sport = :22" + ")" * 100_000, "\\" * 100_001, "src a" * 20_000):
        with contextlib.suppress(UserError):
            parse(source)
