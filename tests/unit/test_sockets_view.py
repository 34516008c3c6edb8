# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are sockets written as ss writes them? What is expected is out of iproute2's misc/ss.c."""

from __future__ import annotations

from typing import Any

import pytest

from drgn_sockets.kernel.sock import Sock
from drgn_sockets.records.families import netid
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.unix import UnixRecord, UnixSock
from drgn_sockets.records.holder import Holder, SocketInode
from drgn_sockets.records.names import (
    STATE_GROUPS,
    STATE_NUMBERS,
    address_family_name,
    state_name,
    type_name,
)
from drgn_sockets.records.socket import SocketRecord, UnreadableSocket
from drgn_sockets.text import unescape
from drgn_sockets.views.sockets import (
    address_text,
    describe,
    holders_text,
    local_text,
    record_netid,
    record_state,
    remote_text,
)

from .fake_kernel import decoded
from .fake_sockets import CLOSE, ESTABLISHED, KERNEL, LISTEN, RAW, TIME_WAIT, UDP, inet


@pytest.mark.parametrize(
    ("record", "local", "remote"),
    [
        (inet("127.0.0.1", 22, "10.1.2.3", 54321), "127.0.0.1:22", "10.1.2.3:54321"),
        (inet("0.0.0.0", 22), "0.0.0.0:22", "0.0.0.0:*"),
        (inet("::1", 22, "::1", 54321), "[::1]:22", "[::1]:54321"),
        # A dual-stack socket listens to IPv4 as well.
        (inet("::", 22), "*:22", "*:*"),
        (inet("::", 22, ipv6only=1), "[::]:22", "[::]:*"),
        (
            inet("::ffff:127.0.0.1", 80, "::ffff:10.0.0.9", 4711),
            "[::ffff:127.0.0.1]:80",
            "[::ffff:10.0.0.9]:4711",
        ),
        (
            inet("2001:db8::1:0:0:1", 80, "2001:db8::2", 65535),
            "[2001:db8::1:0:0:1]:80",
            "[2001:db8::2]:65535",
        ),
        # The interface stands behind the brackets, and at this end only.
        (inet("0.0.0.0", 68, kind=UDP, ifname=b"eth0"), "0.0.0.0%eth0:68", "0.0.0.0:*"),
        (
            inet("fe80::1", 546, "fe80::2", 547, kind=UDP, ifname=b"wlan0.1"),
            "[fe80::1]%wlan0.1:546",
            "[fe80::2]:547",
        ),
        (inet("::", 546, kind=UDP, ifname=b"eth0"), "*%eth0:546", "*:*"),
        (inet("0.0.0.0", 5, ifname=b"a\x1b%:"), "0.0.0.0%a\\x1b%::5", "0.0.0.0:*"),
        # Of a raw socket the protocol; what is kept in the place of the port is none.
        (inet("0.0.0.0", 1, kind=RAW, dport=7), "0.0.0.0:1", "0.0.0.0:*"),
        (inet("0.0.0.0", 0), "0.0.0.0:*", "0.0.0.0:*"),
    ],
)
def test_endpoints(record: InetRecord, local: str, remote: str) -> None:
    assert (local_text(record), remote_text(record)) == (local, remote)


def unix(
    name: bytes | None, peer: bytes | None = None, *, peer_ino: int = 0, **members: Any
) -> UnixRecord:
    values: dict[str, Any] = {
        "family": 1,
        "type": 1,
        "protocol": 0,
        "state": ESTABLISHED,
        "addr": 0,
        "peer": 0xFFFF888000000100 if peer_ino else 0,
        **members,
    }
    record = UnixRecord(KERNEL.prog, decoded(UnixSock, **values), 1)
    record.inode, record.names = SocketInode(100, 0), (name, peer)
    record.peer_ino_or_lost = peer_ino
    return record


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "*"),
        (b"/run/x.sock", "/run/x.sock"),
        (b"relative", "relative"),
        (b"\0abstract", "@abstract"),
        (b"\0", "@"),
        # autobind
        (b"\x0000a3f", "@00a3f"),
        (b"\0a\0b\0", "@a\\x00b\\x00"),
        # What begins with @, or is *, is told apart from what ss makes of others.
        (b"@path", "\\x40path"),
        (b"@", "\\x40"),
        (b"\0@x", "@@x"),
        (b"/a b\n", "/a b\\n"),
        (b"\0 x", "@\\x20x"),
        (b"-", "\\x2d"),
    ],
)
def test_unix_names(name: bytes | None, text: str) -> None:
    assert address_text(name) == text


def test_unix_names_differ() -> None:
    names = [b"*", None, b"\0", b"@", b"\0\0", b"@\0", b"\0-", b"-", b"\\x40", b"@@", b"\0@"]
    assert len({address_text(name) for name in names}) == len(names)
    for name in names:
        if name is not None:
            text = address_text(name)
            raw = b"\0" + unescape(text[1:]) if text[0] == "@" else unescape(text)
            assert raw == name


def test_ends_of_other_families() -> None:
    assert local_text(unix(b"\0x", b"/y", peer_ino=7)) == "@x 100"
    assert remote_text(unix(b"\0x", b"/y", peer_ino=7)) == "/y 7"
    assert remote_text(unix(None)) == "* 0"
    netlink = SocketRecord(KERNEL.prog, decoded(Sock, family=16, state=CLOSE), 1)
    netlink.inode = SocketInode(12, 0)
    assert (local_text(netlink), remote_text(netlink)) == ("* 12", "*")
    lost = UnreadableSocket(0x1234, "cannot be read")
    assert (local_text(lost), remote_text(lost), record_netid(lost)) == (None, None, None)
    assert record_state(lost) == "unreadable"


def test_holders() -> None:
    nc = Holder(105, 3, b"nc", None)
    assert holders_text([nc, nc._replace(pid=106)]) == '("nc",pid=105,fd=3),("nc",pid=106,fd=3)'
    assert holders_text([]) == "-"
    thread = Holder(105, 4, b'a"b\\\n),("x",pid=1', 107)
    text = holders_text([thread])
    assert text == '("a\\"b\\\\\\n),(\\"x\\",pid=1",pid=105,tid=107,fd=4)'
    # The name ends at the first quote that no backslash stands before, and comes back.
    quoted = text[2 : text.index('",pid=105')]
    assert unescape(quoted) == thread.comm


def test_descriptions() -> None:
    assert describe(inet("127.0.0.1", 9, "127.0.0.1", 4711)) == (
        "tcp ESTAB 127.0.0.1:9 -> 127.0.0.1:4711"
    )
    assert describe(inet("::", 80)) == "tcp LISTEN *:80"
    assert describe(inet("0.0.0.0", 0, state=CLOSE)) == "tcp UNCONN never bound"
    assert describe(inet("0.0.0.0", 1, kind=RAW)) == "raw UNCONN 0.0.0.0:1"
    assert describe(unix(b"\0x", None, peer_ino=3)) == "u_str ESTAB @x -> * 3"
    assert describe(unix(b"/x", state=LISTEN)) == "u_str LISTEN /x"
    assert describe(UnreadableSocket(1, "cannot be read")) == "socket cannot be read"


def test_unbound() -> None:
    assert inet("0.0.0.0", 0, state=CLOSE).is_unbound
    assert not inet("0.0.0.0", 5, kind=UDP).is_unbound
    # Refused: inet_put_port() cleared skc_num, and inet_sport is still known.
    refused = inet("127.0.0.1", 0, "127.0.0.1", 9, state=CLOSE, sport=40000)
    assert not refused.is_unbound
    assert local_text(refused) == "127.0.0.1:40000"
    assert unix(None, state=CLOSE).is_unbound
    assert not unix(b"/x", state=CLOSE).is_unbound
    # The kernel has it in a table all the same.
    assert not unix(None, state=CLOSE).is_unlisted


# sstate_name[] and SS_* of misc/ss.c, which are TCP_* of the kernel.
NAMES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
}


def test_states() -> None:
    assert {number: state_name(number) for number in NAMES} == NAMES
    # TCP_NEW_SYN_RECV is a SYN-RECV to everybody.
    assert state_name(12) == "SYN-RECV"
    assert state_name(99) == "99"


def test_states_by_name() -> None:
    # scan_state(): what ss prints lower-case, and these.
    expected = {name.lower(): number for number, name in NAMES.items()}
    expected |= {"established": 1, "syn-rcv": 3, "unconnected": 7, "close": 7, "closed": 7}
    expected |= {"listening": 10}
    assert {name: STATE_NUMBERS.get(name) for name in expected} == expected


def test_state_groups() -> None:
    # Bound and no more is a state in sock_diag only.
    inactive = STATE_NUMBERS["bound-inactive"]
    every = {*NAMES, inactive}
    # scan_state(): SS_ALL & ~((1<<SS_CLOSE)|(1<<SS_LISTEN)) and so on.
    assert {
        "all": every,
        "connected": every - {CLOSE, LISTEN, inactive},
        "synchronized": every - {CLOSE, LISTEN, inactive, 2},
        "bucket": {3, TIME_WAIT},
        "big": every - {3, TIME_WAIT},
    } == STATE_GROUPS


@pytest.mark.parametrize(
    ("family", "type_", "protocol", "text"),
    [
        (2, 1, 6, "tcp"),
        (10, 1, 6, "tcp"),
        (2, 2, 17, "udp"),
        (10, 2, 17, "udp"),
        (2, 3, 1, "raw"),
        (10, 3, 255, "raw"),
        (2, 1, 262, "mptcp"),
        (2, 1, 132, "sctp"),
        (2, 6, 33, "dccp"),
        (10, 2, 58, "icmp6"),
        (1, 1, 0, "u_str"),
        (1, 2, 0, "u_dgr"),
        (1, 5, 0, "u_seq"),
        (16, 3, 0, "nl"),
        (16, 2, 15, "nl"),
        (17, 3, 768, "p_raw"),
        (17, 2, 8, "p_dgr"),
        (40, 1, 0, "v_str"),
        (40, 2, 0, "v_dgr"),
        (44, 3, 0, "xdp"),
        (30, 1, 0, "ti_st"),
        (30, 2, 0, "ti_dg"),
        (30, 4, 0, "ti_rd"),
        (30, 5, 0, "ti_sq"),
    ],
)
def test_netid(family: int, type_: int, protocol: int, text: str) -> None:
    assert netid(family, type_, protocol) == text


def test_numbers_that_have_no_name() -> None:
    assert address_family_name(2) == "AF_INET"
    assert (address_family_name(10), address_family_name(16), address_family_name(45)) == (
        "AF_INET6",
        "AF_NETLINK",
        "AF_MCTP",
    )
    assert address_family_name(99) == "99"
    assert (type_name(1), type_name(5), type_name(77)) == ("SOCK_STREAM", "SOCK_SEQPACKET", "77")
    assert netid(99, 77, 0) == "af99_77"
    assert netid(2, 1, 99) == "ip99"
