# SPDX-License-Identifier: LGPL-2.1-or-later
"""Netlink and packet sockets against procfs, ss and the workloads' accounts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from drgn_sockets.kernel.task import task_by_tid
from drgn_sockets.query.find import Finder
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PacketRecord
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.reader import for_each_socket
from drgn_sockets.records.socket import Endpoint, SocketRecord
from drgn_sockets.views.sockets import endpoint_text

from .machine import Core

Known = dict[int, list[SocketRecord]]
_read: dict[tuple[str, str], Known] = {}


@pytest.fixture
def known(core: Core) -> Known:
    """Ours, by network namespace."""
    key = (core.kernel, str(core.path))
    if key not in _read:
        found = _read[key] = {}
        for record in for_each_socket(core.prog, ["netlink", "packet"], Holders(core.prog)):
            assert isinstance(record, SocketRecord), record.error
            found.setdefault(record.netns, []).append(record)
    return _read[key]


def rows(core: Core, file: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Network namespace and columns of every row of a file of procfs."""
    for path in sorted((core.oracle / "netns").glob(f"*/net/{file}")):
        heading, *lines = path.read_text().splitlines()
        names = heading.split()
        for line in lines:
            yield int(path.parts[-3]), dict(zip(names, line.split()))


def is_hashed(record: SocketRecord) -> bool:
    return isinstance(record, NetlinkRecord) and bool(record.sock.bound or record.is_kernel)


def columns(record: SocketRecord) -> dict[str, int]:
    """What procfs says of a socket, as numbers."""
    sock = record.sock
    if isinstance(record, NetlinkRecord):
        groups = sum(1 << (n - 1) for n in record.groups or () if n <= 32)
        return {
            "sk": record.sk,
            "Eth": record.protocol,
            "Pid": sock.portid,
            "Groups": groups,
            "Rmem": record.recv_q,
            "Wmem": record.send_q,
            "Dump": sock.cb_running,
            "Locks": sock.refcnt,
            "Drops": sock.drops,
            "Inode": record.ino,
        }
    assert isinstance(record, PacketRecord)
    return {
        "sk": record.sk,
        "RefCnt": sock.refcnt,
        "Type": record.type,
        "Proto": sock.ethertype,
        "Iface": sock.ifindex,
        "R": "running" in record.flag_names,
        "Rmem": record.recv_q,
        "User": record.uid or 0,
        "Inode": record.ino,
    }


HEXADECIMAL = {"sk", "Groups", "Proto"}


@pytest.mark.parametrize("file", ["netlink", "packet"])
def test_what_procfs_has_and_nothing_else(core: Core, known: Known, file: str) -> None:
    theirs: dict[int, dict[int, dict[str, str]]] = {}
    for netns, row in rows(core, file):
        theirs.setdefault(netns, {})[int(row["sk"], 16)] = row
    assert sum(map(len, theirs.values())) >= {"netlink": 40, "packet": 5}[file]
    # What the kernel's tables lead to, without holders.
    walked: dict[int, set[int]] = {}
    for record in for_each_socket(core.prog, [file]):
        assert isinstance(record, SocketRecord)
        walked.setdefault(record.netns, set()).add(record.sk)
    for netns, expected in theirs.items():
        mine = {r.sk: r for r in known[netns] if r.family_name == file}
        unbound = {sk for sk, r in mine.items() if file == "netlink" and not is_hashed(r)}
        # One that has joined a group is in a list of these.
        members = {sk for sk in unbound if mine[sk].sock.subscriptions}
        assert mine.keys() - unbound == expected.keys()
        assert walked.get(netns, set()) == expected.keys() | members
        for sk, row in expected.items():
            said = {n: int(v, 16 if n in HEXADECIMAL else 10) for n, v in row.items()}
            assert columns(mine[sk]) == said


def test_the_kernels_own(core: Core, known: Known) -> None:
    """Procfs has port ID 0 for them; no process holds one, in whichever namespace."""
    kernels = {
        (netns, int(row["sk"], 16)) for netns, row in rows(core, "netlink") if row["Pid"] == "0"
    }
    assert len(kernels) >= 20
    for netns, records in known.items():
        for record in records:
            if isinstance(record, NetlinkRecord) and record.is_kernel:
                assert record.holders == []
                assert record.local_end().service == b"kernel"
                kernels.discard((netns, record.sk))
            else:
                assert record.holders
    assert kernels == set()
    # Of namespaces in which no process lives as well.
    assert len(known) > len({netns for netns, _ in rows(core, "netlink")})


def test_accounts(core: Core, known: Known) -> None:
    """Every netlink and packet socket of the workloads, at its fd, and what getsockname() said."""
    by_holder = {
        (h.pid, h.fd): record
        for records in known.values()
        for record in records
        for h in record.holders or ()
    }
    never_bound = 0
    seen = Counter[str]()
    for account in core.accounts.values():
        for process in account["processes"]:
            for entry in process["fds"]:
                if entry.get("family") not in ("AF_NETLINK", "AF_PACKET"):
                    continue
                record = by_holder[process["pid"], entry["fd"]]
                seen[entry["family"]] += 1
                assert (record.ino, record.netns) == (entry["inode"], entry["netns"])
                sock = record.sock
                if isinstance(record, NetlinkRecord):
                    portid, groups = entry["local"]
                    assert sock.portid == portid
                    joined = sum(1 << (n - 1) for n in record.groups or () if n <= 32)
                    assert joined == groups & 0xFFFFFFFF
                    # Its own name, if the port ID is that of its process.
                    if portid == process["pid"] and entry["netns"] == process["netns"]:
                        name = os.fsencode(process["comm"])
                        assert record.local_end().service == b"%b/%d" % (name, portid)
                        seen["named"] += 1
                    if portid:
                        assert (record.local_end().service or b"").endswith(
                            b"%d" % (portid - (1 << 32) if portid >> 31 else portid)
                        )
                        assert sock.bound
                    else:
                        never_bound += 1
                        assert not sock.bound
                        assert record.local_end().service is None
                    assert record.is_connected == any(entry["remote"])
                else:
                    device, protocol = entry["local"][:2]
                    assert (record.ifname or b"").decode() == device
                    assert sock.ethertype == protocol
    assert seen["AF_NETLINK"] >= 10
    assert seen["named"] >= 5
    assert seen["AF_PACKET"] >= 5
    assert never_bound


def test_tasks_by_id(core: Core) -> None:
    """Each process that procfs had, and no other."""
    there = {int(p.name): p for p in core.oracle.iterdir() if p.name.isdecimal()}
    assert len(there) > 50
    highest = max(there)
    for tid in (*range(highest + 1), highest + 64, 1 << 12, 1 << 22, (1 << 32) - 1):
        task = task_by_tid(core.prog, tid)
        if tid in there and tid not in core.ended:
            assert task is not None
            status = (there[tid] / "status").read_bytes()
            assert f"\nPid:\t{task.pid}\n".encode() in status
            assert task.pid == tid
        elif task is not None:
            # A thread, or who looked.
            assert task.pid == tid
            assert task.tgid != tid or tid in core.begun.union(core.manifest["excluded"])


def special(core: Core, known: Known, workload: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Entries of a workload's account that say what is special about them, and ours."""
    if workload not in core.accounts:
        pytest.skip(f"NOTHING IS TESTED on {core.kernel}: recorded without {workload}")
    by_holder = {
        (h.pid, h.fd): record
        for records in known.values()
        for record in records
        for h in record.holders or ()
    }
    for process in core.accounts[workload]["processes"]:
        for entry in process["fds"]:
            record = by_holder.get((process["pid"], entry["fd"]))
            if record is not None:
                yield entry, record


NETLINK_FLAGS = {
    "NETLINK_PKTINFO": "recv_pktinfo",
    "NETLINK_BROADCAST_ERROR": "broadcast_send_error",
    "NETLINK_NO_ENOBUFS": "recv_no_enobufs",
    "NETLINK_LISTEN_ALL_NSID": "listen_all_nsid",
    "NETLINK_CAP_ACK": "cap_ack",
    "NETLINK_EXT_ACK": "ext_ack",
    "NETLINK_GET_STRICT_CHK": "strict_chk",
}


def test_what_netlink_sockets_were_told(core: Core, known: Known) -> None:
    """Groups beyond 32, flags, a dump under way, messages that were lost."""
    seen = Counter[str]()
    for entry, record in special(core, known, "netlink_zoo"):
        options, note = entry.get("options", {}), entry.get("note", "")
        if "groups" in options:
            assert record.groups == options["groups"]
            assert max(record.groups) > 32
            seen["groups"] += 1
        for name, flag in NETLINK_FLAGS.items():
            if name in options:
                assert record.flag_names == [flag]
                seen[name] += 1
        if note == "all flags":
            assert record.flag_names == list(NETLINK_FLAGS.values())
        if note.startswith("asked for a dump"):
            assert record.sock.cb_running
            seen["dump"] += 1
        if note.startswith("lost messages"):
            assert record.sock.drops
            assert record.sock.congested
            seen["lost"] += 1
        if "datagrams" in entry:
            assert record.sock.receive_queue_len == len(entry["datagrams"])
    assert {"groups", "dump", "lost", *NETLINK_FLAGS} <= seen.keys()


PACKET_FLAGS = {
    "PACKET_AUXDATA": "auxdata",
    "PACKET_ORIGDEV": "origdev",
    "PACKET_LOSS": "loss",
    "PACKET_VNET_HDR": "vnethdr",
    "PACKET_VNET_HDR_SZ": "vnethdr",
    "PACKET_TX_HAS_OFF": "tx_has_off",
    "PACKET_QDISC_BYPASS": "qdisc_bypass",
}
PACKET_MEMBERS = {
    "PACKET_COPY_THRESH": "copy_thresh",
    "PACKET_RESERVE": "tp_reserve",
    "PACKET_TIMESTAMP": "tp_tstamp",
    "PACKET_IGNORE_OUTGOING": "ignore_outgoing",
}
FANOUT_FLAGS = {"rollover": 0x1000, "ignore_outgoing": 0x4000, "defrag": 0x8000}
FANOUTS = ("hash", "lb", "cpu", "rollover", "rnd", "qm", "cbpf")


def test_what_packet_sockets_were_told(core: Core, known: Known) -> None:
    """Options, rings, fanout, memberships, filters."""
    seen = Counter[str]()
    for entry, record in special(core, known, "packet_zoo"):
        if not isinstance(record, PacketRecord):
            continue
        options, note = entry.get("options", {}), entry.get("note", "")
        for name, value in options.items():
            if name in PACKET_FLAGS:
                assert set(record.flag_names) - {"running", "pressure"} == {PACKET_FLAGS[name]}
            elif name in PACKET_MEMBERS:
                assert getattr(record.sock, PACKET_MEMBERS[name]) == value
            else:
                assert name == "filter"
                assert [list(i) for i in record.filter or ()] == value
            if name == "PACKET_VNET_HDR_SZ":
                assert record.sock.vnet_hdr_sz == value
            seen[name] += 1
        ring = re.fullmatch(r"TPACKET_V(\d), (\w+)", note)
        if ring:
            assert record.sock.tp_version == int(ring[1]) - 1
            both = {"rx": record.rx_ring, "tx": record.tx_ring}
            assert {name for name, r in both.items() if r} >= ({ring[2]} & set(both))
            for name, found in both.items():
                if ring[2] in (name, "both"):
                    number = int(ring[2] == "both" and name == "tx")
                    assert found is not None
                    assert found[:4] == (4096 << number, 4, 2048, 8 << number)
                    times = (1000, 32, 1) if (ring[1], name) == ("3", "rx") else (0, 0, 0)
                    assert found[4:] == times
                else:
                    assert found is None
            seen[note] += 1
        fanout = re.fullmatch(r"fanout (\w+)", note)
        if fanout:
            assert record.fanout is not None
            number = FANOUTS.index(fanout[1])
            assert (record.fanout.id, record.fanout.type) == (100 + number, number)
            assert len(record.fanout.members) == 2
            assert record.sk in record.fanout.members
            seen[note] += 1
        elif note.startswith("fanout"):
            # "uniqueid" is done with when there is a number.
            word = note.rpartition(" ")[2]
            assert record.fanout is not None
            assert record.fanout.flags == FANOUT_FLAGS.get(word, 0) >> 8
        else:
            assert record.fanout is None
        if note == "memberships":
            lo = {(m.type_name, m.address[: m.alen].hex(), m.times) for m in record.memberships}
            assert lo == {
                ("multicast", "333300d50001", 1),
                ("multicast", "01005e00d501", 1),
                ("promisc", "", 2),
                ("allmulti", "", 1),
                ("unicast", "02d500000001", 1),
            }
            seen[note] += 1
        if "datagrams" in entry:
            assert record.sock.receive_queue_len == len(entry["datagrams"])
    assert seen.keys() >= {"memberships", "filter", *PACKET_MEMBERS}
    assert sum(note.startswith("fanout ") for note in seen) >= 6
    assert sum(note.startswith("TPACKET") for note in seen) >= 8


def text(end: Endpoint | None) -> str:
    """An end in numbers, as ``ss -n`` has it."""
    return endpoint_text(end, numeric=True)


LINE = re.compile(r"(?:nl +|p_\w+ +)?UNCONN +(-?\d+) +(\d+) +(\S+) +(\S+)(.*)")


def test_netlink_as_ss_writes_it(core: Core, known: Known) -> None:
    theirs = Counter[tuple[str, ...]]()
    for line in core.tool("ss-netlink").splitlines()[1:]:
        match = LINE.fullmatch(line.strip())
        assert match, line
        groups = re.search(r"groups=(\S+)", match[5])
        assert groups
        theirs[match[3], match[4], groups[1]] += 1
    mine = Counter[tuple[str, ...]]()
    for record in known[core.home_netns]:
        # sock_diag has what is in the table, and once more what is in the list of groups.
        is_member = isinstance(record, NetlinkRecord) and bool(record.sock.subscriptions)
        if is_hashed(record) or is_member:
            words = record.extended_words()
            assert words.startswith(f"sk={record.sk:x} cb={record.sock.cb_running} groups=0x")
            ends = (text(record.local_end()), text(record.remote_end()))
            mine[(*ends, words.rpartition("=")[2])] += is_hashed(record) + is_member
    # ss itself had one, to sock_diag, with a port ID that nobody has any more.
    extra = theirs - mine
    assert sum(extra.values()) == 1
    assert next(iter(extra))[0].startswith("4:")
    # Each time that a buffer is full, sock_diag loses a socket; not one that is in two lists.
    lost = mine - theirs
    assert sum(lost.values()) <= sum(mine.values()) // 20
    assert {groups for *_, groups in lost} <= {"0x00000000"}


def test_packet_as_ss_writes_it(core: Core, known: Known) -> None:
    theirs = {}
    for line in core.tool("ss-packet").replace("\n\t", " ").splitlines()[1:]:
        match = LINE.fullmatch(line.strip())
        assert match, line
        ino = re.search(r" ino:(\d+)", match[5])
        words = re.search(r" (ver:.*?) *(?:skmem:.*)?$", match[5])
        assert ino, line
        assert words, line
        theirs[int(ino[1])] = (match[3], match[4], words[1])
    mine = {
        r.ino: (text(r.local_end()), text(r.remote_end()), r.extended_words())
        for r in known[core.home_netns]
        if isinstance(r, PacketRecord)
    }
    assert mine == theirs


def test_peers(elf: Core) -> None:
    """A netlink socket that is connected to another of its process."""
    ports = {
        entry["local"][0]: entry
        for entry in elf.accounts["other_families"]["processes"][0]["fds"]
        if entry.get("family") == "AF_NETLINK"
    }
    connected = [entry for entry in ports.values() if entry["remote"] and entry["remote"][0]]
    assert connected
    pid = elf.accounts["other_families"]["processes"][0]["pid"]
    for entry in connected:
        ends = elf.rows("peer", f"{pid}:{entry['fd']}")
        assert [end["end"] for end in ends] == ["self", "peer"]
        assert ends[1]["ino"] == ports[entry["remote"][0]]["inode"]
        assert [(h["pid"], h["fd"]) for h in ends[1]["holders"]] == [
            (pid, ports[entry["remote"][0]]["fd"])
        ]
    finder = Finder(elf.prog)
    lonely = ports[elf.accounts["other_families"]["processes"][0]["pid"]]
    (record,) = finder.find(f"socket:[{lonely['inode']}]")
    assert isinstance(record, NetlinkRecord)
    assert finder.reader.peer(record) is None


def test_selected(one: Core) -> None:
    """Found by address and inode, and of a process: those that procfs has, the kernel's too."""
    for file, netid in (("netlink", "nl"), ("packet", "p_")):
        inodes = {str(e["inode"]) for _, e in one.fds(f"{file}_zoo", family=f"AF_{file.upper()}")}
        chosen = [row for _, row in rows(one, file) if row["Inode"] in inodes]
        if file == "netlink":
            chosen += [row for _, row in rows(one, file) if row["Pid"] == "0"][:2]
        assert len(chosen) > 3
        for row in chosen[-6:]:
            (mine,) = one.rows("ss", "-a", "--addr", f"0x{row['sk']}")
            assert mine["ino"] == int(row["Inode"])
            assert mine["netid"].startswith(netid)
            assert mine in one.rows("ss", "-a", "--inode", row["Inode"])
