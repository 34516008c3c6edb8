# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Netlink and packet sockets of the running kernel with all that can be asked of them, against
getsockopt(), procfs and ss.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.kernel.net import net_namespaces
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PacketRecord
from drgn_sockets.records.reader import SocketReader, for_each_socket
from drgn_sockets.views.procfs import FILES, Looker
from drgn_sockets.views.sockets import endpoint_text

from . import truth

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_LIST_MEMBERSHIPS = 1, 9
# Options of which each sets a flag, by its name here.
NETLINK_FLAGS = {
    "recv_pktinfo": 3,
    "broadcast_send_error": 4,
    "recv_no_enobufs": 5,
    "listen_all_nsid": 8,
    "cap_ack": 10,
    "ext_ack": 11,
    "strict_chk": 12,
}
NETLINK_SOCK_DIAG = 4
MANY = 300

SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_COPY_THRESH, PACKET_AUXDATA = 1, 5, 7, 8
PACKET_ORIGDEV, PACKET_VERSION, PACKET_RESERVE, PACKET_TX_RING, PACKET_LOSS = 9, 10, 12, 13, 14
PACKET_VNET_HDR, PACKET_TIMESTAMP, PACKET_FANOUT = 15, 17, 18
PACKET_TX_HAS_OFF, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 19, 20, 23
FANOUTS = ("hash", "lb", "cpu", "roll", "random", "qm", "0x6")
SO_ATTACH_FILTER = 26
ETH_P_ALL, ETH_P_IPV6 = 3, 0x86DD
PAGE = 4096


def opened(stack: ExitStack, *args: int) -> socket.socket:
    return stack.enter_context(socket.socket(*args))


def ino(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture(scope="module")
def netlink() -> Iterator[dict[str, socket.socket]]:
    """Netlink sockets by what is special about them."""
    with ExitStack() as stack:
        made = {
            name: opened(stack, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            for name in ("plain", "groups", "flags", "unbound", "member", "disconnected")
        }
        for name, sock in made.items():
            if name not in ("unbound", "member"):
                sock.bind((0, 0))
        # That does not bind it.
        made["member"].setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, 2)
        # The highest that every kernel has: RTNLGRP_BRVLAN is beyond the first 32.
        for group in (1, 32, 33):
            made["groups"].setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        for option in NETLINK_FLAGS.values():
            made["flags"].setsockopt(SOL_NETLINK, option, 1)
        made["disconnected"].connect((os.getpid(), 0))
        libc = ctypes.CDLL(None, use_errno=True)
        nowhere = struct.pack("=HHII", socket.AF_UNSPEC, 0, 0, 0)
        assert libc.connect(made["disconnected"].fileno(), nowhere, len(nowhere)) == 0
        for name, portid, groups in (("to the kernel", 0, 0), ("to a group", 0, 0x80)):
            made[name] = opened(stack, socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
            made[name].connect((portid, groups))
        yield made


@pytest.fixture
def many() -> Iterator[socket.socket]:
    """So many that their table is resized; and one to which a dump of these is under way."""
    with ExitStack() as stack:
        for i in range(MANY):
            sock = opened(stack, socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_USERSOCK)
            sock.bind((1_000_000 + 977 * i, 0))
        # It is too long to be done before anybody reads it.
        dump = opened(stack, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        request = struct.pack("=BBH4I", socket.AF_NETLINK, 0xFF, 0, 0, 0xF, 0, 0)
        dump.send(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
        # The worker that resizes.
        time.sleep(1)
        yield dump


@pytest.fixture(scope="module")
def packet() -> Iterator[dict[str, socket.socket]]:
    """Packet sockets by what is special about them."""
    lo = socket.if_nametoindex("lo")
    with ExitStack() as stack:
        made: dict[str, socket.socket] = {}

        def make(name: str, kind: int = socket.SOCK_RAW, protocol: int = 0) -> socket.socket:
            made[name] = opened(stack, socket.AF_PACKET, kind, socket.htons(protocol))
            return made[name]

        make("all", protocol=ETH_P_ALL)
        make("ipv6", socket.SOCK_DGRAM, ETH_P_IPV6).bind(("lo", ETH_P_IPV6))
        make("nothing")
        flags = make("flags", protocol=0x88B7)
        for option in (PACKET_AUXDATA, PACKET_ORIGDEV, PACKET_VNET_HDR, PACKET_LOSS):
            flags.setsockopt(SOL_PACKET, option, 1)
        flags.setsockopt(SOL_PACKET, PACKET_COPY_THRESH, 4711)
        flags.setsockopt(SOL_PACKET, PACKET_TIMESTAMP, 1 << 6)
        make("bypass").setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        make("offsets").setsockopt(SOL_PACKET, PACKET_TX_HAS_OFF, 1)
        make("ignores").setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        for version in range(3):
            for ring, option in (("rx", PACKET_RX_RING), ("tx", PACKET_TX_RING)):
                sock = make(f"{ring} {version + 1}")
                sock.setsockopt(SOL_PACKET, PACKET_VERSION, version)
                if ring == "rx":
                    sock.setsockopt(SOL_PACKET, PACKET_RESERVE, 64)
                blocks, per_block = 3 + version, 4
                size = 2 * PAGE
                frame = size // per_block
                request = struct.pack("=4I", size, blocks, frame, blocks * per_block)
                if version == 2:
                    request += struct.pack("=3I", *((77, 16, 1) if ring == "rx" else (0, 0, 0)))
                sock.setsockopt(SOL_PACKET, option, request)
        for number, name in enumerate(FANOUTS):
            for i in range(2):
                sock = make(f"fanout {name} {i}", protocol=0x88B8)
                sock.setsockopt(SOL_PACKET, PACKET_FANOUT, 1000 + number | number << 16)
        members = make("memberships")
        for kind, address in ((0, b"\1\0\x5e\0\0\1"), (0, b"\1\0\x5e\0\0\2"), (1, b""), (2, b"")):
            request = struct.pack("=iHH8s", lo, kind, len(address), address)
            members.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        members.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("=iHH8s", lo, 1, 0, b""))
        # tcpdump -dd arp
        program = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (0x6, 0, 0, 262144), (0x6, 0, 0, 0)]
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in program))
        fprog = struct.pack("@HP", len(program), ctypes.addressof(code))
        make("filter", protocol=0x88B9).setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
        lossy = make("lossy", protocol=0x88BA)
        lossy.bind(("lo", 0x88BA))
        lossy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        make("sender").bind(("lo", 0))
        for _ in range(10):
            made["sender"].send(bytes(12) + b"\x88\xba" + bytes(1000))
        yield made


def records(prog: Program, *groups: str) -> dict[int, Any]:
    """Ours, of this network namespace and not the kernel's own, by inode."""
    mine = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    return {r.ino: r for r in for_each_socket(prog, groups) if r.netns == mine}  # type: ignore[union-attr]


def test_netlink_options(prog: Program, netlink: dict[str, socket.socket]) -> None:
    found = records(prog, "netlink")
    for name, sock in netlink.items():
        if name == "unbound":
            assert ino(sock) not in found
            continue
        record = found[ino(sock)]
        assert isinstance(record, NetlinkRecord)
        portid, groups = sock.getsockname()
        assert record.sock.portid == portid
        # What getsockopt() says the length is of, it needs not fit into.
        raw = sock.getsockopt(SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 64)
        bits = int.from_bytes(raw, "little")
        assert record.groups == [i + 1 for i in range(8 * len(raw)) if bits >> i & 1]
        assert sum(1 << (n - 1) for n in record.groups if n <= 32) == groups
        for flag, option in NETLINK_FLAGS.items():
            try:
                value = sock.getsockopt(SOL_NETLINK, option)
            except OSError:
                # 5.10 takes LISTEN_ALL_NSID and does not give it back.
                continue
            assert (flag in record.flag_names) == bool(value), flag
    assert found[ino(netlink["groups"])].groups == [1, 32, 33]
    assert found[ino(netlink["flags"])].flag_names == list(NETLINK_FLAGS)
    ends = {name: found[ino(netlink[name])].remote_end() for name in ("plain", "disconnected")}
    assert ends == {"plain": None, "disconnected": None}
    assert found[ino(netlink["to the kernel"])].remote_end()[:2] == (b"0", b"0")
    assert found[ino(netlink["to a group"])].remote_end()[:2] == (b"8", b"0")


def test_netlink_ends(prog: Program, netlink: dict[str, socket.socket]) -> None:
    def ends(name: str) -> list[dict[str, Any]]:
        return truth.ours_json(prog, f"peer {ino(netlink[name])} --output all")

    kernel = ends("to the kernel")
    assert [end["end"] for end in kernel] == ["self", "peer"]
    assert (kernel[1]["local"], kernel[1]["holders"]) == ("rtnl:kernel", [])
    (_, nobody) = ends("to a group")
    assert (nobody["sk"], nobody["note"]) == (None, "whoever has joined group 8")
    for name in ("disconnected", "unbound"):
        (end,) = ends(name)
        assert end["note"] == ("never bound" if name == "unbound" else "not connected")
        sk = end["sk"]
        (found,) = truth.ours_json(prog, f"ss -a --addr {sk} --output all")
        assert found["ino"] == ino(netlink[name])


def ours(prog: Program, file: str) -> bytes:
    here = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    net = next(n for n, ns in net_namespaces(prog).items() if ns.ino == here)
    return b"".join(FILES[file].lines(Looker(prog), net))


def test_procfs(
    prog: Program,
    netlink: dict[str, socket.socket],
    many: socket.socket,
    packet: dict[str, socket.socket],
) -> None:
    """To the byte, pointers as they are hashed, in the order of a table that was resized."""
    assert records(prog, "netlink")[ino(many)].sock.cb_running
    for file in ("netlink", "packet"):
        path = Path("/proc/net", file)
        for _ in range(20):
            before, mine, after = path.read_bytes(), ours(prog, file), path.read_bytes()
            if before == after:
                break
            time.sleep(0.2)
        assert mine == before == after
    assert before.count(b"\n") > len(packet)


LINE = re.compile(r"(?:nl +|p_\w+ +)?UNCONN +(-?\d+) +(-?\d+) +(\S+) +(\S+)(.*)")


@pytest.mark.parametrize("options", ["-f netlink -ae", "-f netlink -ane"])
def test_netlink_as_ss(prog: Program, netlink: dict[str, socket.socket], options: str) -> None:
    theirs = Counter[tuple[str, ...]]()
    for line in truth.tool("ss", *options.split(), "-H").stdout.splitlines():
        match = LINE.fullmatch(line.strip())
        assert match, line
        theirs[match[3], match[4], match[5].rpartition("=")[2]] += 1
    mine = Counter[tuple[str, ...]]()
    for record in records(prog, "netlink").values():
        near = endpoint_text(record.local_end(), numeric="n" in options.split()[-1])
        groups = record.extended_words().rpartition("=")[2]
        ends = (near, endpoint_text(record.remote_end()), groups)
        mine[ends] += bool(record.sock.bound or record.is_kernel) + bool(record.sock.subscriptions)
    # Its own, to sock_diag; and to ss, who has no port ID is the kernel.
    extra, missing = theirs - mine, mine - theirs
    if "n" not in options.split()[-1]:
        joined = {who: n for who, n in missing.items() if who[0] == "rtnl:*"}
        assert ("rtnl:*", "*", "0x00000002") in joined
        for who, n in joined.items():
            assert extra.pop(("rtnl:kernel", *who[1:])) == missing.pop(who) == n
    assert sum(extra.values()) == 1
    # __netlink_diag_dump() forgets one where its buffer is full.
    assert sum(missing.values()) <= 2


def test_packet_as_ss(prog: Program, packet: dict[str, socket.socket]) -> None:
    lines = {}
    for line in truth.tool("ss", "-0aeb", "-O", "-H").stdout.splitlines():
        match = LINE.fullmatch(line.strip())
        assert match, line
        found = re.search(r" ino:(\d+) sk:\S+ (ver:.*?)\s*$", match[5])
        assert found, line
        lines[int(found[1])] = (match[3], match[4], found[2])
    mine = {}
    for record in records(prog, "packet").values():
        assert isinstance(record, PacketRecord)
        words = f"{record.extended_words()} {record.filter_words()}".strip()
        mine[record.ino] = (endpoint_text(record.local_end()), "*", words)
    assert mine.keys() >= {ino(sock) for sock in packet.values()}
    assert mine == lines


def test_packet_options(prog: Program, packet: dict[str, socket.socket]) -> None:
    found = records(prog, "packet")
    by_name = {name: found[ino(sock)] for name, sock in packet.items()}
    for number, name in enumerate(FANOUTS):
        pair = [by_name[f"fanout {name} {i}"] for i in range(2)]
        for record in pair:
            assert (record.fanout.id, record.fanout.type) == (1000 + number, number)
            assert set(record.fanout.members) == {r.sk for r in pair}
    members = {
        (m.type_name, m.address[: m.alen], m.times, m.ifindex)
        for m in by_name["memberships"].memberships
    }
    lo = socket.if_nametoindex("lo")
    assert members == {
        ("multicast", b"\1\0\x5e\0\0\1", 1, lo),
        ("multicast", b"\1\0\x5e\0\0\2", 1, lo),
        ("promisc", b"", 2, lo),
        ("allmulti", b"", 1, lo),
    }
    for version in range(3):
        for which in ("rx", "tx"):
            record = by_name[f"{which} {version + 1}"]
            ring, other = record.rx_ring, record.tx_ring
            if which == "tx":
                ring, other = other, ring
            assert other is None
            assert ring[:4] == (2 * PAGE, 3 + version, PAGE // 2, (3 + version) * 4)
            assert ring[4:] == ((77, 16, 1) if (which, version) == ("rx", 2) else (0, 0, 0))
            assert record.sock.tp_version == version
            assert record.sock.tp_reserve == (64 if which == "rx" else 0)
    assert by_name["flags"].sock.copy_thresh == 4711
    assert by_name["flags"].sock.tp_tstamp == 1 << 6
    assert by_name["ipv6"].ifname == b"lo"
    lossy = by_name["lossy"].sock
    packets, drops = struct.unpack(
        "=II", packet["lossy"].getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    )
    assert (lossy.tp_packets + lossy.tp_drops, lossy.tp_drops) == (packets, drops)
    assert drops > 0
    assert lossy.receive_queue_len == packets - drops
    known = {name: record.flag_names for name, record in by_name.items()}
    assert known["flags"] == ["running", "auxdata", "origdev", "vnethdr", "loss"]
    assert known["bypass"] == ["qdisc_bypass"]
    assert known["offsets"] == ["tx_has_off"]
    assert known["nothing"] == known["ignores"] == []
    assert [n for n, r in by_name.items() if r.sock.ignore_outgoing] == ["ignores"]


def test_fds_says_what_they_are(
    prog: Program, netlink: dict[str, socket.socket], packet: dict[str, socket.socket]
) -> None:
    rows = {row["fd"]: row["detail"] for row in truth.ours_json(prog, f"fds {os.getpid()}")}
    comm = Path("/proc/self/comm").read_text().strip()
    assert rows[netlink["plain"].fileno()] == f"nl UNCONN rtnl:{comm}/{os.getpid()}"
    assert rows[netlink["unbound"].fileno()] == "nl UNCONN rtnl never bound"
    assert rows[netlink["to a group"].fileno()].endswith(" -> 8:0")
    assert rows[packet["ipv6"].fileno()] == "p_dgr UNCONN ipv6:lo"
    assert rows[packet["nothing"].fileno()] == "p_raw UNCONN [0]:*"


def test_columns(prog: Program, packet: dict[str, socket.socket]) -> None:
    row = next(
        iter(SocketReader(prog).read_many([records(prog, "packet")[ino(packet["rx 3"])].sk]))
    )
    assert len(row) == 1
    (shown,) = truth.ours_json(prog, f"ss -a --inode {ino(packet['rx 3'])} --output all")
    assert shown["rx_ring"]["retire_ms"] == 77
    (shown,) = truth.ours_json(prog, f"ss -a --inode {ino(packet['filter'])} --output all")
    assert shown["filter"][1] == {"code": 0x15, "jt": 0, "jf": 1, "k": 0x806}
